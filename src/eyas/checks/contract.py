"""What Gymnasium promises of an environment, and whether it repeats itself. All of it runs in worker processes."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from eyas.checks.probes import BARE, CHECKED, FINDINGS, OPENED, PROBED, SEEN, Seen, sources
from eyas.checks.report import Level, Report
from eyas.envs.host import EnvError, EnvOutcome
from eyas.envs.pool import WorkerPool
from eyas.errors import ConfigError, EyasError
from eyas.seeding import generator

WATCHED_STEPS = 50
BUDGET_S = 10.0  # for each of the longer looks
LONGEST_EPISODE = 10_000
MOVES_AT_ONCE = 5  # in a long look; one that hangs is given the time of all of them
MOST_CHECKED_BYTES = 10_000_000  # of an observation: Gymnasium's checker compares each one number by number
LARGE_SIDE = 1024  # pixels; larger pictures are reduced before a model sees them

MENDED = ("ends", "characters")  # names of problems that the host or the interface gets over
_UNFINISHED = "gymnasium.utils.env_checker did not finish:"
# Findings that are true and do no harm here: numbers are written in words, and nobody watches a window.
HARMLESS = ("symmetric and normalized space", "infinity. This is probably too", "No render fps", _UNFINISHED)

_FIRST, _OTHER, _CHECKER, _LONG = 0, 1, 2, 4  # slots: the odd one lives in another process


class Workbench:
    """Environments in two worker processes, asked one thing at a time."""

    def __init__(self, make: Callable[[], gym.Env], timeout_s: float):
        self.timeout_s = timeout_s
        self._pool = WorkerPool(sources(make), 2, timeout_s, timeout_s)

    def start(self, slot: int, source: int, seed: int) -> EnvOutcome | EnvError:
        """Raises the EyasError that making the environment raised."""
        self._pool.start(slot, source, seed)
        return self._pool.answers()[0][1]

    def step(self, slot: int, moves: Sequence[Any]) -> EnvOutcome | EnvError:
        self._pool.step(slot, moves)
        return self._pool.answers()[0][1]

    def close(self) -> None:
        self._pool.close()


@dataclass
class Record:
    """An episode that was watched, up to its end or `WATCHED_STEPS`."""

    seed: int
    space: gym.Space  # of the actions
    first: EnvOutcome | None = None  # what the reset gave
    moves: list[Any] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)  # of the reset and of each step
    infos: list[dict[str, Any]] = field(default_factory=list)  # of every observation that can be acted on
    error: EnvError | None = None
    round_trip_s: float = 0.0  # of a step, the way between the processes included

    @property
    def step_s(self) -> float:
        """Mean seconds of a step with its picture, in the environment itself."""
        steps = self.seen[1:] or self.seen
        return sum(s.step_s + s.render_s for s in steps) / max(1, len(steps))

    @property
    def start(self) -> EnvOutcome:
        assert self.first is not None
        return self.first

    @property
    def frame(self) -> np.ndarray | None:
        return self.seen[0].frame if self.seen else None


def check_made(report: Report, bench: Workbench, make: Callable[[], gym.Env]) -> gym.Env | None:
    """The environment, closed: what it says of itself can be read. None where it cannot be made at all, or only once."""
    try:
        answer = bench.start(_FIRST, OPENED, 0)
    except EyasError as error:
        report.add("made", str(error), Level.ERROR)
        return None
    if isinstance(answer, EnvError):
        report.add("made", _told(answer, "making it", bench.timeout_s), Level.ERROR, answer.traceback)
        return None
    try:
        env = make()
    except ConfigError as error:
        report.add("made", f"only once, a second one beside it fails: {error}", Level.ERROR)
        return None
    kind, space = type(env.unwrapped).__name__, env.action_space
    report.add("made", f"{kind}, render_mode {env.render_mode!r}, action space {space}")
    env.close()
    return env


def check_contract(report: Report, bench: Workbench, space: gym.Space) -> Record:
    """Watches one episode of random actions. What is wrong with it becomes errors of the report."""
    record = watch(bench, space, 0)
    if record.error is not None:
        where = f"step {len(record.seen)}" if record.seen else "reset"
        message = _told(record.error, where, bench.timeout_s)
        report.add("step" if record.seen else "reset", message, Level.ERROR, record.error.traceback)
    else:
        report.add("reset and step", f"{len(record.moves)} random steps answered as Gymnasium says")
    for name, problem in _first_problems(record.seen).items():
        report.add(name, problem, Level.WARNING if name in MENDED else Level.ERROR)
    warned = [text for seen in record.seen for text in seen.warnings]
    warned += _gymnasium_findings(bench, record) if record.error is None else ()
    is_known = report.named("observation") or report.named("characters")
    for text in dict.fromkeys(warned):
        if is_known and "not within the observation space" in text:
            continue
        is_harmless = any(part in text for part in HARMLESS)
        report.add("gymnasium", text, Level.INFO if is_harmless else Level.WARNING)
    return record


def watch(bench: Workbench, space: gym.Space, seed: int, slot: int = _FIRST) -> Record:
    """Plays random legal actions under the probe."""
    record, rng, begun = Record(seed, space), generator("env check", seed), time.monotonic()
    answer = bench.start(slot, PROBED, seed)
    record.first = answer if isinstance(answer, EnvOutcome) else None
    stepping = time.perf_counter()
    while isinstance(answer, EnvOutcome):
        record.seen.append(answer.info.pop(SEEN))
        if answer.has_ended:
            break
        record.infos.append(answer.info)
        if len(record.moves) >= WATCHED_STEPS or time.monotonic() - begun > BUDGET_S:
            break
        record.moves.append(draw_action(space, answer.info, rng))
        answer = bench.step(slot, [record.moves[-1]])
    record.error = answer if isinstance(answer, EnvError) else None
    record.round_trip_s = (time.perf_counter() - stepping) / max(1, len(record.moves))
    return record


def draw_action(space: gym.Space, info: Mapping[str, Any], rng: np.random.Generator) -> Any:
    """A random action, of those that info allows."""
    legal, mask = info.get("legal_actions"), info.get("action_mask")
    if legal is not None and len(legal):
        return legal[int(rng.integers(len(legal)))]
    space.seed(int(rng.integers(2**31)))
    if isinstance(space, gym.spaces.Discrete) and mask is not None and np.shape(mask) == (space.n,):
        return space.sample(mask=np.asarray(mask, np.int8))
    return space.sample()


def _first_problems(seen: Sequence[Seen]) -> dict[str, str]:
    """The first problem of each kind, with how often it was met."""
    problems: dict[str, str] = {}
    for name in dict.fromkeys(name for one in seen for name in one.problems):
        places = [place for place, one in enumerate(seen) if name in one.problems]
        when = "after the reset" if places[0] == 0 else f"in step {places[0]}"
        problems[name] = f"{when} {seen[places[0]].problems[name]} ({len(places)} of {len(seen)} times)"
    return problems


def _gymnasium_findings(bench: Workbench, record: Record) -> tuple[str, ...]:
    nbytes = getattr(record.start.observation, "nbytes", 0)
    if nbytes > MOST_CHECKED_BYTES:
        return (f"{_UNFINISHED} observations of {nbytes / 1e6:.0f} MB are too slow for it",)
    answer = bench.start(_CHECKER, CHECKED, 0)
    if isinstance(answer, EnvError):
        return (f"{_UNFINISHED} {_told(answer, 'it', bench.timeout_s)}",)
    return answer.info[FINDINGS]


def _told(error: EnvError, what: str, timeout_s: float) -> str:
    if error.kind == "hung":
        return (
            f"{what} took longer than {timeout_s:g} s, and was stopped: allow more with --timeout, or find what waits"
        )
    return f"{what} {error.kind}: {error.message}"


# ----------------------------------------------------------------------------------------------- whether it repeats itself


def check_determinism(report: Report, bench: Workbench, record: Record) -> None:
    """Plays the record again, in the same instance and in another process."""
    again, elsewhere = (_difference(bench, record, slot) for slot in (_FIRST, _OTHER))
    if again is None and elsewhere is None:
        report.add("deterministic", f"seed {record.seed} and the same {len(record.moves)} actions give the same again")
        return
    if again is None:
        cause = "another process gives another one: nothing may depend on the time, the process or the order of a set"
    elif elsewhere is None:
        cause = "the episode before it changed it: reset() has to put everything back"
    else:
        cause = "call super().reset(seed=seed) in reset() and draw all randomness from self.np_random"
    place = elsewhere if again is None else again
    what = "start" if place == 0 else f"observation, reward or end in step {place}"
    report.add("deterministic", f"the same seed and actions gave another {what}; {cause}", Level.ERROR)


def _difference(bench: Workbench, record: Record, slot: int) -> int | None:
    """The first step whose outcome is another one, 0 for the reset; None where all are the same."""
    answer = bench.start(slot, PROBED, record.seed)
    for place, seen in enumerate(record.seen):
        if not isinstance(answer, EnvOutcome) or answer.info[SEEN].digest != seen.digest:
            return place
        if place < len(record.seen) - 1:
            answer = bench.step(slot, [record.moves[place]])
    return None


def check_starts(report: Report, bench: Workbench, num_seeds: int) -> None:
    """How many different starts there are among so many seeds."""
    begun, digests = time.monotonic(), []
    for seed in range(num_seeds):
        answer = bench.start(_FIRST, PROBED, seed)
        if isinstance(answer, EnvError):
            report.add(
                "reset", f"seed {seed}: {_told(answer, 'reset', bench.timeout_s)}", Level.ERROR, answer.traceback
            )
            return
        digests.append(answer.info[SEEN].digest)
        if time.monotonic() - begun > BUDGET_S:
            break
    distinct, n = len(set(digests)), len(digests)
    if n == 1:
        report.add("starts", "one seed was tried: a reset takes too long for more")
    elif distinct == 1:
        report.add("starts", f"{n} seeds give one start only: an evaluation then tests fit, not generalisation")
    else:
        report.add("starts", f"{distinct} different starts from {n} seeds")


def check_ends(report: Report, bench: Workbench, space: gym.Space, limit: int | None) -> None:
    """Whether an episode of random actions ends by itself; `limit` is what the environment's registration says."""
    if limit is not None:
        report.add("ends", f"after {limit} steps at most (max_episode_steps)")
        return
    rng, begun, num_steps = generator("env check", "ends"), time.monotonic(), 0
    answer = bench.start(_LONG, BARE, 1)
    while isinstance(answer, EnvOutcome) and not answer.has_ended and num_steps < LONGEST_EPISODE:
        if time.monotonic() - begun > BUDGET_S:
            break
        answer = bench.step(_LONG, [draw_action(space, answer.info, rng) for _ in range(MOVES_AT_ONCE)])
        num_steps += answer.num_moves if isinstance(answer, EnvOutcome) else 0
    if isinstance(answer, EnvError):
        told = _told(answer, f"step {num_steps + 1} or soon after", bench.timeout_s)
        report.add("step", told, Level.ERROR, answer.traceback)
    elif answer.has_ended:
        report.add("ends", f"a random episode ended after {num_steps} steps")
    else:
        report.add(
            "ends",
            f"a random episode did not end within {num_steps} steps: register the environment with max_episode_steps, "
            "or give env_args = { max_episode_steps = 200 }",
            Level.WARNING,
        )


# ----------------------------------------------------------------------------------------------- pictures


def check_picture_size(report: Report, record: Record, space: gym.Space, shows: str | None) -> None:
    """Warns of pictures that cost more than a model sees. `shows`: "render", "observation", or None for no picture."""
    shapes: list[tuple[int, ...]] = []
    if shows == "render" and record.frame is not None:
        shapes = [record.frame.shape[:2]]
    if shows == "observation":
        shapes = [box.shape for box in _boxes(space) if len(box.shape) in (2, 3, 4)]
    sides = sorted(max(shapes, key=max, default=(0,)))[-2:]
    if max(sides) > LARGE_SIDE:
        size = "x".join(map(str, sides))
        report.add(
            "pictures",
            f"pictures of {size} pixels cost time and memory in every step, and are reduced to {LARGE_SIDE} a side: let "
            "the environment draw smaller ones, or choose what is shown with image_size = 224",
            Level.WARNING,
        )


def _boxes(space: gym.Space) -> list[gym.spaces.Box]:
    if isinstance(space, gym.spaces.Box):
        return [space]
    parts = getattr(space, "spaces", ())
    return [box for part in (parts.values() if isinstance(parts, Mapping) else parts) for box in _boxes(part)]
