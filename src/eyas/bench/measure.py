"""Clocks, and two sides of the same work timed in turn: their ratio and its spread."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def now() -> float:
    """Process CPU time in seconds; with a GPU elapsed time, once everything that was asked of it is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def now_here() -> float:
    """The same for this thread alone: with one torch thread the model computes here, the recorder does not."""
    return now() if torch.cuda.is_available() else time.thread_time()


@dataclass
class Side:
    """One way of doing the same work. `run` returns how much it did: tokens, samples or steps.

    `prepare` is called before each run and is not timed: it drops what the last run left in caches.
    """

    name: str
    run: Callable[[], int]
    prepare: Callable[[], object] = lambda: None
    seconds: list[float] = field(default_factory=list)
    counts: set[int] = field(default_factory=set)

    @property
    def rate(self) -> float:
        return float(max(self.counts) / np.median(self.seconds))


@dataclass(frozen=True)
class Comparison:
    """Our side against the fastest of the others, as JSON."""

    spread: dict[str, Any]  # of the ratio, and the name of the side it was taken `against`
    rates_per_s: dict[str, float]  # of each side
    counts: dict[str, list[int]]  # of each side: the different amounts of work in its repeats


def compare(sides: Sequence[Side], repeats: int, clock: Callable[[], float] = now) -> Comparison:
    """The rate of the first side against the fastest of the others, repeat by repeat."""
    _measure(sides, repeats, clock)
    ours, *others = sides
    fastest = max(others, key=lambda s: s.rate)
    ratios = [bare / own for bare, own in zip(fastest.seconds, ours.seconds, strict=True)]
    return Comparison(
        spread(ratios) | {"against": fastest.name},
        {s.name: round(s.rate, 1) for s in sides},
        {s.name: sorted(s.counts) for s in sides},
    )


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Minimum, median and maximum, to four decimals, and how many values there are."""
    extent = {"min": min(values), "median": float(np.median(values)), "max": max(values)}
    return {k: round(v, 4) for k, v in extent.items()} | {"repeats": len(values)}


def _measure(sides: Sequence[Side], repeats: int, clock: Callable[[], float]) -> None:
    """Times the sides in turn, every other repeat in the opposite order, after one run of each to warm up."""
    for repeat in range(-1, repeats):
        for side in sides if repeat % 2 else reversed(sides):
            side.prepare()
            begun = clock()
            count = side.run()
            seconds = clock() - begun
            if repeat >= 0:
                side.seconds.append(seconds)
                side.counts.add(count)
