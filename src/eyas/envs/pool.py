"""Pools of environments: slots that play at the same time, in this process or in worker processes."""

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Protocol

import cloudpickle

from eyas.envs.host import EnvError, EnvHosts, EnvOutcome, EnvSource, raised
from eyas.envs.worker import CLOSE_TIMEOUT_S, Request, Worker
from eyas.errors import ConfigError, EyasError

log = logging.getLogger(__name__)

Answer = tuple[int, EnvOutcome | EnvError]  # slot and what came of its call


class EnvPool(Protocol):
    """Slots with one environment each. A slot takes its next call once the last is answered; answers come in any order."""

    def start(self, slot: int, source: int, seed: int, replay: Sequence[Sequence[Any]] = ()) -> None:
        """Begins an episode in an environment of sources[source], then plays the recorded moves again."""
        ...

    def step(self, slot: int, moves: Sequence[Any]) -> None:
        """Plays moves in the slot's episode. Where the slot's last answer was an EnvError, it has none: start one first."""
        ...

    def answers(self) -> list[Answer]:
        """Waits for at least one answer where any is pending, then takes all that are there; [] where none is pending.

        Raises the EyasError that making an environment raised, where none of its source has worked before.
        """
        ...

    def close(self) -> None: ...


class LocalPool:
    """Environments of this process, served in the order of the calls when the answers are asked for."""

    def __init__(self, sources: Sequence[EnvSource]):
        self._hosts = EnvHosts(sources)
        self._calls: deque[tuple[int, Any]] = deque()
        self._answers: list[Answer] = []

    def start(self, slot: int, source: int, seed: int, replay: Sequence[Sequence[Any]] = ()) -> None:
        recorded = tuple(replay)
        self._calls.append((slot, lambda: self._hosts.start(slot, source, seed, recorded)))

    def step(self, slot: int, moves: Sequence[Any]) -> None:
        self._calls.append((slot, lambda: self._hosts.step(slot, moves)))

    def answers(self) -> list[Answer]:
        with redirect_stdout(sys.stderr):  # an environment that prints must not spoil what a command prints
            while self._calls:
                slot, call = self._calls.popleft()
                self._answers.append((slot, call()))
        answers, self._answers = self._answers, []
        return answers

    def close(self) -> None:
        self._calls.clear()
        self._hosts.close()


@dataclass(slots=True)
class _Episode:
    """What a slot plays, so that another process can go on with it."""

    source: int
    seed: int
    played: list[Sequence[Any]]  # the moves of each step
    is_hosted: bool = False  # whether the worker's environment has come this far


class WorkerPool:
    """Environments of `num_workers` processes, started at the first call; slot s lives in worker s % num_workers.

    A worker serves the calls of its slots in their order. One that dies, or takes too long, is replaced: the slot that it
    was serving gets an EnvError; the others lose nothing, their episodes are played again from their seeds and moves.
    Raises ConfigError for sources that cannot be sent to a process, EnvironmentFailure in `answers` where none can start.
    """

    def __init__(
        self,
        sources: Sequence[EnvSource],
        num_workers: int,
        reset_timeout_s: float = 120.0,
        step_timeout_s: float = 60.0,
    ):
        try:
            self._sources = cloudpickle.dumps(tuple(sources))
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            raise ConfigError(
                f"the environments cannot be sent to worker processes: {problem}; to play in this process, set workers.count = 0 (`--workers 0`)"
            ) from error
        self._folder = os.getcwd()
        self._num_workers = num_workers
        self._reset_timeout_s = reset_timeout_s
        self._step_timeout_s = step_timeout_s
        self._workers: dict[int, Worker] = {}
        self._episodes: dict[int, _Episode] = {}
        self._working: set[int] = set()  # sources; a worker that replaces another one does not know of them
        self._answers: list[Answer] = []

    def start(self, slot: int, source: int, seed: int, replay: Sequence[Sequence[Any]] = ()) -> None:
        self._episodes[slot] = _Episode(source, seed, [tuple(moves) for moves in replay])
        self._submit(slot, None)

    def step(self, slot: int, moves: Sequence[Any]) -> None:
        self._submit(slot, tuple(moves))

    def answers(self) -> list[Answer]:
        while not self._answers and (busy := self._busy()):
            self._take(max(min(worker.time_left_s for worker in busy.values()), 0))
        answers, self._answers = self._answers, []
        return answers

    def close(self) -> None:
        """Gives the environments 5 s to close, then ends their processes."""
        workers, self._workers = list(self._workers.values()), {}
        end = time.monotonic() + CLOSE_TIMEOUT_S
        try:
            for worker in workers:
                worker.ask_to_close()
            for worker in workers:
                worker.wait(end - time.monotonic())
        finally:
            for worker in workers:
                worker.kill()

    def _busy(self) -> dict[int, Worker]:
        return {index: worker for index, worker in self._workers.items() if worker.requests}

    def _submit(self, slot: int, moves: Sequence[Any] | None) -> None:
        episode = self._episodes[slot]
        start, limit = None, 0.0 if moves is None else self._step_timeout_s * len(moves)
        if not episode.is_hosted:
            start = episode.source, episode.seed, tuple(episode.played)
            limit += self._reset_timeout_s + self._step_timeout_s * sum(len(m) for m in episode.played)
        index = slot % self._num_workers
        if index not in self._workers:
            self._workers[index] = Worker(self._sources, self._folder)
        self._workers[index].submit(Request(slot, start, moves, limit))

    def _take(self, timeout_s: float) -> None:
        """Takes the answers that come within this time, and replaces the workers that died or are late."""
        busy = self._busy()
        wait([worker.connection for worker in busy.values()], timeout_s)
        for index, worker in busy.items():
            try:
                for request, answer in worker.receive():
                    self._accept(request, answer)
            except (EOFError, OSError):
                self._replace(index, has_died=True)
            else:
                if worker.is_late:
                    self._replace(index, has_died=False)

    def _accept(self, request: Request, answer: EnvOutcome | EnvError | EyasError) -> None:
        episode = self._episodes[request.slot]
        if isinstance(answer, EyasError):
            if episode.source not in self._working:
                raise answer
            answer = raised(answer)
        self._answers.append((request.slot, answer))
        if isinstance(answer, EnvError):
            del self._episodes[request.slot]
            return
        self._working.add(episode.source)
        episode.is_hosted = True
        if request.moves is not None:
            episode.played.append(request.moves[: answer.num_moves])

    def _replace(self, index: int, has_died: bool) -> None:
        worker = self._workers.pop(index)
        error = worker.failure(has_died)
        requests, slot = list(worker.requests), None
        if worker.is_serving:
            slot = requests[0].slot
            self._accept(requests.pop(0), error)
        log.warning("environment worker %d is replaced (slot %s): %s", index, slot, error.message)
        for slot, episode in self._episodes.items():
            if slot % self._num_workers == index:
                episode.is_hosted = False
        for request in requests:
            self._submit(request.slot, request.moves)


def make_pool(sources: Sequence[EnvSource], num_workers: int, *limits_s: float) -> EnvPool:
    """A pool of so many worker processes with its time limits; with 0, one that plays in this process and sets none."""
    return WorkerPool(sources, num_workers, *limits_s) if num_workers else LocalPool(sources)
