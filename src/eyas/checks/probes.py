"""The part of a check that runs beside the environment, in a worker process. What it sees travels in `info`. No torch."""

import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env

from eyas.envs.host import EnvSource, reward_problem

SEEN, FINDINGS = "eyas.checks.seen", "eyas.checks.findings"  # keys in info

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_TUPLES = {
    "reset": ("observation", "info"),
    "step": ("observation", "reward", "terminated", "truncated", "info"),
}


@dataclass
class Seen:
    """What a reset or a step did."""

    digest: str  # of observation and picture
    problems: dict[str, str] = field(default_factory=dict)  # name of the check -> what is wrong
    warnings: tuple[str, ...] = ()  # what the environment, or Gymnasium about it, warned of
    frame: np.ndarray | None = None  # what render() gave after a reset
    step_s: float = 0.0
    render_s: float = 0.0


@dataclass(frozen=True)
class Around:
    """Makes the environment with a wrapper around it. It travels to worker processes."""

    make: Callable[[], gym.Env]
    wrapper: Callable[[gym.Env], gym.Env]

    def __call__(self) -> gym.Env:
        return self.wrapper(self.make())


def sources(make: Callable[[], gym.Env]) -> tuple[EnvSource, ...]:
    """The environment four times: only made, watched, as it is, and under Gymnasium's own checker."""
    opened, probed, checked = (EnvSource(Around(make, wrapper)) for wrapper in (Opened, Probe, GymnasiumChecker))
    return opened, probed, EnvSource(make), checked


OPENED, PROBED, BARE, CHECKED = range(4)  # places in `sources`


class Opened(gym.Wrapper):
    """Never resets the environment: a failure before this reset's answer is one of the constructor."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return None, {}


class GymnasiumChecker(gym.Wrapper):
    """Its reset runs `gymnasium.utils.env_checker.check_env` and gives the findings."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with _recorded() as found:
            try:
                check_env(self.env.unwrapped, skip_render_check=True)
            except Exception as error:  # assertions, and whatever the environment itself raises
                found.append(_tidy(f"{type(error).__name__}: {error}"))
        return None, {FINDINGS: tuple(dict.fromkeys(found))}


class Probe(gym.Wrapper):
    """Watches resets and steps. A step's observation stays here: its digest says whether it is the same."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        inner: Any = env.unwrapped
        for name, parts in _TUPLES.items():  # innermost: Gymnasium's wrappers unpack what they get
            setattr(inner, name, _Checked(name, parts, getattr(inner, name)))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        begun = time.perf_counter()
        with _recorded() as warned:
            observation, info = self.env.reset(seed=seed)
        seen = self._look(observation, warned, time.perf_counter() - begun, keeps_frame=True)
        return observation, {**info, SEEN: seen}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        begun = time.perf_counter()
        with _recorded() as warned:
            observation, reward, terminated, truncated, info = self.env.step(action)
        seen = self._look(observation, warned, time.perf_counter() - begun, keeps_frame=False)
        if problem := reward_problem(reward, action):
            seen.problems["reward"] = problem
            reward = 0.0
        for name, value in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(value, bool | np.bool_):
                seen.problems.setdefault("ends", f"step() returned {name} = {value!r}: it must be True or False")
        seen.digest = digest([seen.digest, str(reward), bool(terminated), bool(truncated)])
        return None, reward, bool(terminated), bool(truncated), {**info, SEEN: seen}

    def _look(self, observation: Any, warned: list[str], seconds: float, keeps_frame: bool) -> Seen:
        seen = Seen(digest(observation), step_s=seconds)
        if found := observation_problem(self.observation_space, observation):
            seen.problems[found[0]] = found[1]
        if self.render_mode == "rgb_array":
            begun = time.perf_counter()
            with _recorded() as more:
                frame: Any = self.env.render()
            seen.render_s = time.perf_counter() - begun
            warned += more
            if problem := frame_problem(frame):
                seen.problems["render"] = problem
            seen.digest = digest([seen.digest, frame])
            seen.frame = frame if keeps_frame and not problem else None
        seen.warnings = tuple(dict.fromkeys(warned))
        return seen


@dataclass(frozen=True)
class _Checked:
    """A method whose answer is one of Gymnasium's tuples, or an error that says so."""

    name: str
    parts: tuple[str, ...]
    call: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.call(*args, **kwargs)
        wanted = f"return ({', '.join(self.parts)})"
        if not isinstance(result, tuple) or len(result) != len(self.parts):
            given = f"a tuple of {len(result)}" if isinstance(result, tuple) else f"{type(result).__name__}"
            raise TypeError(f"{self.name}() returned {given}: {wanted}")
        if not isinstance(result[-1], Mapping):
            raise TypeError(f"{self.name}() returned {type(result[-1]).__name__} as info: {wanted}, info a dictionary")
        return result


# ----------------------------------------------------------------------------------------------- what is wrong


def frame_problem(frame: Any) -> str | None:
    if frame is None:
        return 'render() returned None with render_mode="rgb_array": return a uint8 array (height, width, 3)'
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        return f"render() returned {_described(frame)}: return a uint8 array (height, width, 3)"
    return None if frame.size else f"render() returned an empty picture {frame.shape}"


def observation_problem(space: gym.Space, observation: Any, place: str = "") -> tuple[str, str] | None:
    """Where the observation is not what its space holds: the innermost place, with what is there and what was promised.

    The first part is "observation", or "characters" where a text only holds others than its space says.
    """
    match space:
        case gym.spaces.Dict() if isinstance(observation, Mapping) and set(observation) == set(space.spaces):
            parts = [(space.spaces[k], observation[k], f"{place}[{k!r}]") for k in space.spaces]
        case gym.spaces.Tuple() if isinstance(observation, tuple) and len(observation) == len(space.spaces):
            parts = [(s, o, f"{place}[{i}]") for i, (s, o) in enumerate(zip(space.spaces, observation))]
        case gym.spaces.Text() if isinstance(observation, str) and not space.contains(observation):
            return "characters", _text_problem(space, observation, place)
        case _:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a Box warns of what it casts, and answers
                is_inside = space.contains(observation)
            problem = f"the observation{place} is {_described(observation)}, its space {space}"
            return None if is_inside else ("observation", problem)
    found = [problem for part in parts if (problem := observation_problem(*part))]
    return min(found, key=lambda problem: problem[0] == "characters", default=None)


def _text_problem(space: gym.spaces.Text, text: str, place: str) -> str:
    strange = "".join(sorted(set(text) - space.character_set))
    what = f"holds {strange!r}, which its space does not" if strange else f"has {len(text)} characters"
    advice = f"write gymnasium.spaces.Text({max(len(text), space.max_length)}, charset=string.printable)"
    return f"the observation{place} {what}: {advice}, or the characters that it takes"


def _described(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        text = repr(value)
        return f"{type(value).__name__} {text if len(text) <= 80 else text[:80] + '…'}"
    if not value.size or value.dtype.kind not in "biuf":
        return f"{value.dtype} {value.shape}"
    return f"{value.dtype} {value.shape} with values from {value.min():g} to {value.max():g}"


def digest(value: Any) -> str:
    """Equal for equal observations: arrays by type, shape and bytes, containers by what they hold."""
    hashed = blake2b(digest_size=16)
    for piece in _pieces(value):
        hashed.update(len(piece).to_bytes(8, "big"))
        hashed.update(piece)
    return hashed.hexdigest()


def _pieces(value: Any) -> Iterator[Any]:
    match value:
        case np.ndarray() if value.dtype != object:
            yield f"{value.dtype}{value.shape}".encode()
            yield (
                np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
                if value.dtype.kind in "biuf"
                else value.tobytes()
            )
        case Mapping():
            for key in sorted(value, key=str):
                yield f"key {key!r}".encode()
                yield from _pieces(value[key])
            yield b"}"
        case list() | tuple() | np.ndarray():
            for part in value:
                yield from _pieces(part)
            yield b"]"
        case np.generic():
            yield repr(value.item()).encode()
        case _:
            yield repr(value).encode()


@contextmanager
def _recorded() -> Iterator[list[str]]:
    """Collects what is warned of inside; nothing of it is shown."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield texts
        finally:
            # what others deprecate is nothing that the environment's author can mend here
            texts += [_tidy(str(w.message)) for w in caught if issubclass(w.category, UserWarning)]


def _tidy(text: str) -> str:
    return " ".join(_COLOURS.sub("", text).removeprefix("WARN: ").split())
