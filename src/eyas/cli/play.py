"""`eyas play`"""

import contextlib
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from eyas.cli.arguments import EnvArg, Host, NoBrowser, Port, Token, environment_arguments
from eyas.cli.view import serve
from eyas.envs.making import env_factory
from eyas.errors import ConfigError, DatasetError

COMMAND = (sys.executable, "-m", "eyas.cli.play_process")


def play(
    env: Annotated[str, typer.Argument(help="Gymnasium id, or module:Id.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Who plays with you: a checkpoint, a Hugging Face id, or nano-random."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the episodes, as in `eyas collect`.")] = 0,
    port: Port = 7860,
    host: Host = "127.0.0.1",
    token: Token = False,
    no_browser: NoBrowser = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder that gets the episodes you act in. [default: play/ENV-DATE]")
    ] = None,
    env_arg: EnvArg = None,
) -> None:
    """Play in the browser, alone or in turn with a model; what you play is recorded as demonstrations.

    The page shows what a model is shown, and with --checkpoint what it says. An sft stage reads the episodes with
    `data = "FOLDER/"`.
    """
    try:
        from eyas.viewer.answers import Answers
        from eyas.viewer.folders import Library
        from eyas.viewer.play import PlayProcess
    except ImportError as error:
        raise ConfigError(f"playing needs {error.name}: type `pip install eyas[viewer]`") from error
    arguments = environment_arguments(env_arg)
    env_factory(env, arguments)  # raises for an unknown one; the process takes its time to say so
    folder = _new_folder(output, env)
    setup: dict[str, Any] = {"env": env, "env_args": arguments, "checkpoint": checkpoint}
    process = PlayProcess(COMMAND, setup | {"seed": seed, "output": str(folder)})
    print(f"starting {env}" + (f" and {checkpoint}" if checkpoint else ""), file=sys.stderr)
    try:
        process.start()
        answers = Answers(Library([folder]))
        try:
            serve(answers, host, port, token, not no_browser, process)
        finally:
            answers.close()
    finally:
        process.close()
        with contextlib.suppress(OSError):  # it holds what was played
            folder.rmdir()


def _new_folder(output: Path | None, env: str) -> Path:
    folder = output or Path("play") / f"{re.sub(r'[^A-Za-z0-9]+', '-', env)}-{datetime.now():%Y%m%d-%H%M%S}"
    if folder.exists() and any(folder.iterdir()):
        raise DatasetError(f"{folder} is not empty: choose another --output, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
