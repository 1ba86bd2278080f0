"""Playing in the page: the routes, and the process behind them that owns environment and model.

The process is told by a line of JSON what to do and answers with one (`eyas.cli.play_process`), so that nothing here loads
a model.
"""

import base64
import contextlib
import json
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import Body, FastAPI
from pydantic import BaseModel, Field
from starlette.responses import Response

from eyas.errors import EyasError
from eyas.viewer.problems import NotServed

CLOSE_TIMEOUT_S = 6.0  # to save what was played
LAST_LINES = 30


class PlayEnded(EyasError):
    """The process is gone, and the episode that it played."""


class PlayProcess:
    """Starts the process and talks to it; calls are answered one after the other. Safe to use from several threads.

    `setup` says what is played: env, env_args, checkpoint (None: a person alone), seed, output.
    """

    def __init__(self, command: Sequence[str], setup: Mapping[str, Any]) -> None:
        self._command, self._setup = list(command), dict(setup)
        self._talk, self._exchange, self._end = threading.Lock(), threading.Lock(), threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self.state: dict[str, Any] | None = None  # as it was told last
        self.pictures: dict[str, bytes] = {}  # PNG, of this episode

    def start(self) -> dict[str, Any]:
        """Ends a process that runs, however busy it is, and begins anew. Raises EyasError where nothing can be played."""
        with self._exchange:
            self.close()
            self._last_lines.clear()
            options: dict[str, Any] = {"text": True, "bufsize": 1, "start_new_session": True}  # Ctrl-C is not for it
            pipe = subprocess.PIPE
            self._process = process = subprocess.Popen(
                self._command, stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8", errors="replace", **options
            )
            self._forwarding = threading.Thread(target=self._forward, args=[process], daemon=True)
            self._forwarding.start()
        return self.ask(self._setup)

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The state after a command. Raises PlayEnded where the process died of it."""
        with self._talk:
            process = self._process
            if process is None:
                raise PlayEnded("nothing is played: press Start again")
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(json.dumps(dict(request)) + "\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline())
            except (OSError, ValueError) as error:
                self.state = None
                raise PlayEnded(self._told_end(process)) from error
            if "error" in answer:
                raise EyasError(answer["error"])
            if request.get("do") in (None, "begin"):
                self.pictures = {}
            new = answer.pop("pictures")
            self.pictures = self.pictures | {name: base64.b64decode(png) for name, png in new.items()}
            self.state = answer
            return answer

    def close(self) -> None:
        """Asks the process to save and end; one that does not is killed. A question that it was asked is answered then."""
        with self._end:
            process, self._process = self._process, None
            if process is None:
                return
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(OSError):  # it is gone already
                process.stdin.close()
            _exit_code(process)
            with self._talk:  # who still waited for an answer has been told by now
                process.stdout.close()

    def _forward(self, process: subprocess.Popen[str]) -> None:
        """What the process says on its error output goes to ours, and the last of it into the page when it dies."""
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                self._last_lines.append(line)
                sys.stderr.write(line)

    def _told_end(self, process: subprocess.Popen[str]) -> str:
        code = _exit_code(process)
        self._forwarding.join(1.0)
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        last = next((f" ({line.strip()[:300]})" for line in reversed(self._last_lines) if line.strip()), "")
        return f"the process that plays {how}{last}: press Start again; episodes that had ended are kept"


def _exit_code(process: subprocess.Popen[str]) -> int:
    """Waits for the end of a process, and kills one that goes on."""
    try:
        return process.wait(CLOSE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


# ----------------------------------------------------------------------------------------------- routes


class Begin(BaseModel):
    do: Literal["begin"]
    seed: int | None = Field(None, ge=0, lt=2**31)


class Ask(BaseModel):
    do: Literal["suggest", "follow"]
    step: int
    temperature: float = Field(ge=0, le=10)


class Act(BaseModel):
    do: Literal["act"]
    step: int
    action: int | None = Field(None, ge=0)
    words: str | None = Field(None, max_length=10_000)


Command = Annotated[Begin | Ask | Act, Field(discriminator="do")]


def add_play_routes(app: FastAPI, process: PlayProcess | None) -> None:
    """`GET /api/play` says whether there is a play and where it stands; the others act on it."""

    @app.get("/api/play")
    def play() -> dict[str, Any]:
        if process is None:
            return {"is_offered": False}
        return {"is_offered": True, "state": process.state}

    if process is None:
        return

    @app.get("/api/play/image")
    def image(hash: str) -> Response:
        if hash not in process.pictures:
            raise NotServed("this picture is of an episode that is over")
        return Response(process.pictures[hash], media_type="image/png")

    @app.post("/api/play/do")
    def do(command: Annotated[Command, Body()]) -> dict[str, Any]:
        return _answer(lambda: process.ask(command.model_dump()))

    @app.post("/api/play/start")
    def start() -> dict[str, Any]:
        return _answer(process.start)


def _answer(call: Any) -> dict[str, Any]:
    """What goes wrong in a play is a part of it: the page shows it, and the play goes on where it can."""
    try:
        return {"state": call()}
    except EyasError as error:
        return {"state": None, "problem": str(error)}
