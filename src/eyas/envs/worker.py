"""A process that hosts environments: the child's end (`main`), the parent's end (`Worker`), and what passes between them.

The child is a fresh interpreter, no fork: it needs no importable main module, shares no locks with the parent, and loads
no torch. Requests and answers go through a socket pair, in the same order; large arrays go through shared memory. That
memory has no name, so that nothing is left behind whichever process is killed.
"""

import contextlib
import faulthandler
import json
import logging
import mmap
import multiprocessing
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from eyas.envs.host import EnvError, EnvHosts, EnvOutcome, raised
from eyas.errors import EnvironmentFailure, EyasError

log = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0  # for the interpreter and the imports
CLOSE_TIMEOUT_S = 5.0  # for all environments of a worker to close
ORPHAN_TIMEOUT_S = 2.0  # the same, once the parent is gone
MIN_SHARED_BYTES = 16 * 1024  # smaller arrays travel inside the message
MAX_UNREAD_BYTES = 64 * 1024  # of requests that a busy worker has not read: fits into any socket's buffer
MESSAGE_COST_BYTES = 1024  # what a message takes in a socket's buffer beside its content
ALIGNMENT = 64  # of shared arrays; the first so many bytes hold the number of requests that the worker has begun

BOOT = """
import json, sys
sys.path[:], *rest = json.loads(sys.argv.pop())
from eyas.envs.worker import main
main(*rest)
"""


@dataclass(frozen=True)
class Request:
    """Where `start` is given, an episode is begun; where `moves` are given, they are played then."""

    slot: int
    start: tuple[int, int, Sequence[Sequence[Any]]] | None  # source, seed, moves to play again
    moves: Sequence[Any] | None
    time_limit_s: float

    @property
    def what(self) -> str:
        if self.start is None:
            return "step"
        return "playing the episode again" if self.start[2] else "reset"


# ------------------------------------------------------------------------------------------- the parent's end


def _unnamed_file() -> Any:
    """A file in memory where the system has that (no folder's size limits it), else a deleted one on the disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("eyas"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


class Worker:
    """The parent's end of one worker process. Nothing here waits for the worker but `receive`, while a message comes in.

    `sources` is what cloudpickle made of the environments' sources.
    """

    def __init__(self, sources: bytes, folder: str):
        self._memory = _unnamed_file()
        self._memory.write(bytes(ALIGNMENT) + sources)
        self._map = mmap.mmap(self._memory.fileno(), 0)
        self.connection, theirs = multiprocessing.Pipe()
        handed_on = theirs.fileno(), self._memory.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", BOOT, json.dumps([[str(p) for p in sys.path], *handed_on, os.getpid()])],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what an environment prints must not get into the output of a command
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            pass_fds=handed_on,
            start_new_session=True,  # Ctrl-C reaches the parent alone; the environments' own processes are in its group
        )
        theirs.close()
        self.requests: deque[Request] = deque()  # unanswered, oldest first
        self._unsent: deque[bytes] = deque()
        self._unread: deque[int] = deque()  # what each request that was sent takes in the socket's buffer
        self._num_answered = 0
        self._is_up = False
        self._restart_clock()

    @property
    def time_left_s(self) -> float:
        return self._deadline - time.monotonic()

    @property
    def is_serving(self) -> bool:
        """Whether the oldest request was begun. A worker that died before it answered anything is taken to have begun."""
        return self._num_answered == 0 or struct.unpack_from("Q", self._map)[0] > self._num_answered

    def submit(self, request: Request) -> None:
        """Sends a request, at the latest when those before it are answered: a full socket would block both ends for ever."""
        self.requests.append(request)
        self._unsent.append(cloudpickle.dumps((request.slot, request.start, request.moves)))
        self._send()
        if self._is_up and len(self.requests) == 1:
            self._restart_clock()

    def receive(self) -> Iterator[tuple[Request, EnvOutcome | EnvError | EyasError]]:
        """The answers that are there. Raises EOFError or OSError where the worker died, and EnvironmentFailure where it could not start."""
        while self.connection.poll():
            message = self.connection.recv_bytes()
            if not self._is_up:
                if message:
                    raise EnvironmentFailure(
                        f"a worker process could not start; to play in this process, set workers.count = 0 (`--workers 0`)\n{message.decode()}"
                    )
                self._is_up = True
                self._restart_clock()
                self._send()
                continue
            request = self.requests.popleft()
            self._unread.popleft()
            self._num_answered += 1
            self._restart_clock()
            answer = self._unpack(message)
            self._send()
            yield request, answer

    @property
    def is_late(self) -> bool:
        return self._deadline <= time.monotonic() and not self.connection.poll()

    def failure(self, has_died: bool) -> EnvError:
        """Why the worker, which has died or is late, does not answer; kills it. Raises EnvironmentFailure where it never was up."""
        if has_died:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
        self.kill()
        code = self._process.returncode
        name = f" ({signal.Signals(-code).name})" if -code in signal.valid_signals() else ""
        if not self._is_up:
            why = f"ended with exit code {code}{name}" if has_died else f"took longer than {START_TIMEOUT_S:g} s"
            raise EnvironmentFailure(
                f"the start of a worker process {why}; to play in this process, set workers.count = 0 (`--workers 0`)"
            )
        if not has_died:
            request = self.requests[0]
            return EnvError("hung", f"{request.what} took longer than {request.time_limit_s:g} s")
        what = self.requests[0].what if self.is_serving else "a pause"
        return EnvError("crashed", f"the environment's process ended during {what} with exit code {code}{name}")

    def ask_to_close(self) -> None:
        with contextlib.suppress(OSError):  # a worker that does not read this sees that nobody listens
            self.connection.send_bytes(b"")
        self.connection.close()

    def wait(self, timeout_s: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(timeout_s, 0))

    def kill(self) -> None:
        """Ends the worker at once, with the processes that its environments started."""
        self.connection.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing of the group is left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._memory.close()

    def _restart_clock(self) -> None:
        limit = START_TIMEOUT_S if not self._is_up else self.requests[0].time_limit_s if self.requests else float("inf")
        self._deadline = time.monotonic() + limit

    def _send(self) -> None:
        while self._unsent:
            cost = len(self._unsent[0]) + MESSAGE_COST_BYTES
            is_reading = self._is_up and not self._unread
            if not is_reading and sum(self._unread) + cost > MAX_UNREAD_BYTES:
                return
            self._unread.append(cost)
            with contextlib.suppress(OSError):  # the worker died: `receive` will find out
                self.connection.send_bytes(self._unsent.popleft())

    def _unpack(self, message: bytes) -> Any:
        """An answer with its arrays copied out of the shared memory."""
        shared, content = pickle.loads(message)
        if shared and max(offset + length for offset, length in shared) > len(self._map):
            self._map.close()
            self._map = mmap.mmap(self._memory.fileno(), 0)
        with memoryview(self._map) as view:
            arrays = [bytearray(view[offset : offset + length]) for offset, length in shared]
        try:
            return pickle.loads(content, buffers=arrays)
        except Exception as error:  # what the environment returned may run any code when it is unpickled
            return raised(error, "the answer of the worker cannot be read: ")


# ------------------------------------------------------------------------------------------- the child's end


def main(connection_descriptor: int, memory_descriptor: int, parent: int) -> None:
    """Serves requests until the parent asks to close, or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    faulthandler.enable()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    connection = Connection(connection_descriptor)
    for descriptor in (connection_descriptor, memory_descriptor):
        os.set_inheritable(descriptor, False)
    outbox = Outbox(memory_descriptor)
    try:
        hosts = EnvHosts(outbox.take_sources())
    except Exception:
        connection.send_bytes(traceback.format_exc().encode())
        return
    try:
        connection.send_bytes(b"")
        _serve(connection, outbox, hosts)
        hosts.close()
    except (EOFError, ConnectionError):  # the parent died, and nobody else ends what the environments leave running
        hosts.close()
        os.killpg(0, signal.SIGKILL)


def _serve(connection: Connection, outbox: "Outbox", hosts: EnvHosts) -> None:
    """Answers requests until an empty one comes. Raises EOFError or ConnectionError where the parent is gone."""
    while request := connection.recv_bytes():
        outbox.count_request()
        slot, start, moves = pickle.loads(request)
        answer: EnvOutcome | EnvError | EyasError | None = None
        try:
            if start is not None:
                answer = hosts.start(slot, *start)
            if moves is not None and not isinstance(answer, EnvError):
                answer = hosts.step(slot, moves)
        except EyasError as error:
            answer = error
        connection.send_bytes(outbox.pack(slot, answer))


def _end_with(parent: int) -> None:
    """Ends this process, and those of its environments, some time after the parent is gone, even where a step hangs."""
    while os.getppid() == parent:
        time.sleep(0.5)
    time.sleep(ORPHAN_TIMEOUT_S)
    os.killpg(0, signal.SIGKILL)


class Outbox:
    """Packs answers. The large arrays of a slot lie in its own part of the shared memory, free again at its next call."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, 0)
        self._parts: dict[int, tuple[int, int]] = {}  # slot -> offset and size
        self._num_begun = 0
        self._left_out: set[str] = set()

    def take_sources(self) -> Any:
        return cloudpickle.loads(memoryview(self._map)[ALIGNMENT:])

    def count_request(self) -> None:
        self._num_begun += 1
        struct.pack_into("Q", self._map, 0, self._num_begun)

    def pack(self, slot: int, answer: Any) -> bytes:
        content, arrays = self._dump(answer)
        shared = []  # offset and length of each array
        offset = self._room(slot, sum(_aligned(a.nbytes) for a in arrays)) if arrays else 0
        for array in arrays:
            self._map[offset : offset + array.nbytes] = array
            shared.append((offset, array.nbytes))
            offset += _aligned(array.nbytes)
        return pickle.dumps((shared, content))

    def _dump(self, answer: Any) -> tuple[bytes, list[memoryview]]:
        """Without what of the answer's info cannot be pickled."""
        try:
            return _dumps(answer)
        except Exception as error:
            if isinstance(answer, EnvOutcome):
                with contextlib.suppress(Exception):
                    kept = {key: value for key, value in answer.info.items() if _is_picklable(value)}
                    left_out = answer.info.keys() - kept.keys()
                    if left_out - self._left_out:
                        named = ", ".join(map(repr, left_out))
                        log.warning("info[%s] cannot leave the worker process and is left out", named)
                        self._left_out |= left_out
                    return _dumps(replace(answer, info=kept))
            return _dumps(raised(error, "the answer cannot leave the worker process: "))

    def _room(self, slot: int, size: int) -> int:
        offset, capacity = self._parts.get(slot, (0, 0))
        if size > capacity:  # a new part twice as large: what is left behind stays below what is in use
            offset, capacity = _aligned(len(self._map)), 2 * size
            os.ftruncate(self._descriptor, offset + capacity)
            self._map.close()
            self._map = mmap.mmap(self._descriptor, 0)
            self._parts[slot] = offset, capacity
        return offset


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _dumps(value: Any) -> tuple[bytes, list[memoryview]]:
    """A pickle, and the large arrays that are left out of it. cloudpickle is slower: only what needs it gets it."""
    arrays: list[memoryview] = []

    def is_inside(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes >= MIN_SHARED_BYTES:
            arrays.append(view)
        return view.nbytes < MIN_SHARED_BYTES

    try:
        return pickle.dumps(value, protocol=5, buffer_callback=is_inside), arrays
    except Exception:
        arrays.clear()
        return cloudpickle.dumps(value, protocol=5, buffer_callback=is_inside), arrays


def _is_picklable(value: Any) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:
        return False
    return True
