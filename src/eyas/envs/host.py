"""Runs environments: one, or one a slot. What happens in them comes back as data."""

import logging
import math
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from eyas.errors import EyasError
from eyas.types import Expert, ExpertMove

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EnvSource:
    """What a process needs to run one environment. It travels by cloudpickle."""

    make: Callable[[], gym.Env]
    renders: bool = False  # whether render() gives what is shown
    expert: Expert | None = None  # asked after every reset and step, where its moves are wanted
    # of several moves in one step: whether a later one is legal, by the info that those before it led to; None: always
    may_follow: Callable[[Mapping[str, Any], Any], bool] | None = None


@dataclass(slots=True)
class EnvOutcome:
    """What a reset, or a sequence of moves, led to."""

    observation: Any
    info: dict[str, Any]
    reward: float = 0.0  # the environment's own, summed over the moves played
    terminated: bool = False
    truncated: bool = False
    frame: np.ndarray | None = None  # render() after the moves, uint8 (H, W, 3); None where not wanted, or terminated
    expert_move: ExpertMove | None = None  # None where not wanted, and after the end
    num_moves: int = 0  # of a sequence, those that were played

    @property
    def has_ended(self) -> bool:
        return self.terminated or self.truncated


@dataclass(frozen=True)
class EnvError:
    """Why an environment gave no outcome. Its episode is lost, and the environment with it."""

    kind: Literal["raised", "crashed", "hung"]
    message: str  # one line
    traceback: str = ""  # of what the environment raised


class EnvHost:
    """One environment, made at the first reset.

    Every episode begins with a reset of its own seed, and none is stepped beyond its end: an Autoreset wrapper never acts.
    """

    def __init__(self, source: EnvSource):
        self._source = source
        self._env: gym.Env | None = None

    def reset(self, seed: int, replay: Sequence[Sequence[Any]] = ()) -> EnvOutcome:
        """Begins an episode, plays the recorded sequences of moves again, and returns the last outcome.

        Raises whatever the environment raises, and ValueError where the episode ends before the record does.
        """
        if self._env is None:
            self._env = self._source.make()
        observation, info = self._env.reset(seed=seed)
        outcome = EnvOutcome(observation, dict(info))
        recorded = [moves for moves in replay if len(moves)]
        for index, moves in enumerate(recorded):
            if outcome.has_ended:
                raise ValueError(
                    f"played again from seed {seed}, the episode ended after {index} of {len(recorded)} steps: the "
                    "environment does not repeat itself; draw all its randomness from self.np_random"
                )
            outcome = self._play(moves)
        return self._complete(outcome)

    def step(self, moves: Sequence[Any]) -> EnvOutcome:
        """Plays the moves in their order, until the episode ends or the next one is not legal. The first is always played.

        Raises whatever the environment raises, and ValueError for a reward that is not one finite number.
        """
        return self._complete(self._play(moves))

    def close(self) -> None:
        """An environment that raises here is logged: it is given up in any case."""
        env, self._env = self._env, None
        try:
            if env is not None:
                env.close()
        except (Exception, SystemExit) as error:
            log.warning("closing an environment raised %r", error)

    def _play(self, moves: Sequence[Any]) -> EnvOutcome:
        assert self._env is not None and len(moves)
        outcome, may_follow = EnvOutcome(None, {}), self._source.may_follow
        for move in moves:
            if outcome.has_ended:  # what is legal then may be anything
                break
            if may_follow is not None and outcome.num_moves and not may_follow(outcome.info, move):
                break
            outcome.observation, reward, terminated, truncated, info = self._env.step(move)
            outcome.info = dict(info)  # environments reuse theirs
            if problem := reward_problem(reward, move):
                raise ValueError(problem)
            outcome.reward += np.asarray(reward, float).item()
            outcome.terminated, outcome.truncated = bool(terminated), bool(truncated)
            outcome.num_moves += 1
        return outcome

    def _complete(self, outcome: EnvOutcome) -> EnvOutcome:
        """Adds what is shown and what the expert would do: nothing is decided, nor bootstrapped, after a true end."""
        assert self._env is not None
        if self._source.renders and not outcome.terminated:
            frame: Any = self._env.render()
            if frame is None:
                raise ValueError('render() returned None: make the environment with render_mode="rgb_array"')
            outcome.frame = np.ascontiguousarray(frame)
        if self._source.expert and not outcome.has_ended:
            outcome.expert_move = self._source.expert(self._env.unwrapped)
        return outcome


def reward_problem(reward: Any, action: Any) -> str | None:
    """Why a reward cannot be used; None where it is one finite number."""
    try:
        number = float(np.asarray(reward).item())
    except (TypeError, ValueError):
        return f"the environment's reward for action {action} is {reward!r}: it must be a number"
    return (
        None
        if math.isfinite(number)
        else f"the environment's reward for action {action} is {reward}: it must be finite"
    )


def raised(error: BaseException, what: str = "") -> EnvError:
    """What an exception of an environment is told as, behind a few words on what it ended."""
    message = textwrap.shorten(f"{what}{type(error).__name__}: {error}", 300)
    return EnvError("raised", message, "".join(traceback.format_exception(error)))


class EnvHosts:
    """A host for each slot. An environment that raises, or calls sys.exit(), is closed and dropped.

    EyasError passes through, as advice for the user, until its source has worked once: afterwards it is a failure like
    any other, such as a port that is still in use when a browser is started again.
    """

    def __init__(self, sources: Sequence[EnvSource]):
        self._sources = sources
        self._working: set[int] = set()  # sources
        self._hosts: dict[int, tuple[int, EnvHost]] = {}

    def start(self, slot: int, source: int, seed: int, replay: Sequence[Sequence[Any]] = ()) -> EnvOutcome | EnvError:
        """As `EnvHost.reset`, in an environment of this source: the slot's own where it has one."""
        if slot in self._hosts and self._hosts[slot][0] != source:
            self._drop(slot)
        if slot not in self._hosts:
            self._hosts[slot] = source, EnvHost(self._sources[source])
        return self._guard(slot, lambda host: host.reset(seed, replay))

    def step(self, slot: int, moves: Sequence[Any]) -> EnvOutcome | EnvError:
        """As `EnvHost.step`. Raises KeyError where the slot has no environment."""
        return self._guard(slot, lambda host: host.step(moves))

    def close(self) -> None:
        for slot in list(self._hosts):
            self._drop(slot)

    def _guard(self, slot: int, call: Callable[[EnvHost], EnvOutcome]) -> EnvOutcome | EnvError:
        source, host = self._hosts[slot]
        try:
            outcome = call(host)
        except (Exception, SystemExit) as error:
            self._drop(slot)
            if isinstance(error, EyasError) and source not in self._working:
                raise
            return raised(error)
        self._working.add(source)
        return outcome

    def _drop(self, slot: int) -> None:
        self._hosts.pop(slot)[1].close()
