"""Small environments for tests: one that counts, and others that go wrong, each in its own way.

They live outside the test files so that a worker process can import them.
"""

import os
import subprocess
import threading
import time
from pathlib import Path
from string import printable
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from eyas.errors import ConfigError
from eyas.types import ExpertMove

HOUR_S = 3600.0


def some_action(space: spaces.Space[Any], rng: np.random.Generator) -> Any:
    """A random action of a discrete space, or one of a few answers to a card game."""
    if isinstance(space, spaces.Text):
        return str(rng.choice(["2+2", "K, 3: 10*3", "(1+3", "=", "9-3*2/1"]))
    return int(rng.integers(space.n))  # type: ignore[attr-defined]


class CountingEnv(gym.Env):
    """Observation: the steps so far, and a number drawn at each. Reward: the action. Terminates after `length` steps."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}
    observation_space: spaces.Space[Any] = spaces.Text(100, charset=printable)
    action_space = spaces.Discrete(3)

    def __init__(self, length: int = 100, at: int = 1, render_mode: str | None = None):
        self.length, self.render_mode, self.count = length, render_mode, 0
        self.at = at  # the step at which a subclass goes wrong

    def observe(self) -> Any:
        return f"step {self.count}, drew {self.np_random.integers(1000)}"

    def go_wrong(self) -> None:
        """Called in the step number `at`."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self.observe(), {"pid": os.getpid()}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.count += 1
        if self.count == self.at:
            self.go_wrong()
        return self.observe(), float(action), self.count >= self.length, False, {"pid": os.getpid()}

    def render(self) -> Any:
        return np.full((40, 50, 3), self.count, np.uint8) if self.render_mode else None


def counting_expert(env: CountingEnv) -> ExpertMove:
    return ExpertMove(env.count % 3, {"count": str(env.count)})


class RaisingStep(CountingEnv):
    def go_wrong(self) -> None:
        raise RuntimeError("the engine\nstalled")


class RaisingReset(CountingEnv):
    def reset(self, **_: Any) -> Any:
        raise RuntimeError("no board")


class DyingStep(CountingEnv):
    def go_wrong(self) -> None:
        os._exit(3)


class DyingReset(CountingEnv):
    def reset(self, **_: Any) -> Any:
        os._exit(4)


class SleepingStep(CountingEnv):
    def go_wrong(self) -> None:
        time.sleep(HOUR_S)


class SleepingReset(CountingEnv):
    def reset(self, **_: Any) -> Any:
        time.sleep(HOUR_S)


class SlowStep(CountingEnv):
    """Takes `seconds` for each step."""

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        time.sleep(self.seconds)
        return super().step(action)


class NaNReward(CountingEnv):
    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, float("nan") if self.count == self.at else reward, terminated, truncated, info


class NoFrame(CountingEnv):
    """Offers a picture, and gives none."""

    def render(self) -> Any:
        return None


class Unseeded(CountingEnv):
    """Draws from the system, whatever the seed."""

    def observe(self) -> Any:
        return f"step {self.count}, drew {int.from_bytes(os.urandom(8), 'big')}"


class BigPicture(CountingEnv):
    """A picture of `side` times `side` pixels that the step number colours."""

    def __init__(self, side: int = 1000, length: int = 100):
        super().__init__(length)
        self.side = side
        self.observation_space = spaces.Box(0, 255, (side, side, 3), np.uint8)

    def observe(self) -> Any:
        return np.full((self.side, self.side, 3), self.count, np.uint8)


class OutsideSpace(CountingEnv):
    """Promises numbers in [0, 1], and gives 7."""

    observation_space = spaces.Box(0, 1, (2,), np.float32)

    def observe(self) -> Any:
        return np.full(2, 7, np.float32)


class DictEnv(CountingEnv):
    """A picture in an unusual order, a direction and words."""

    observation_space = spaces.Dict(
        picture=spaces.Box(0, 255, (200, 100, 3), np.uint8),
        direction=spaces.Discrete(4),
        mission=spaces.Text(40, charset=printable),
    )

    def observe(self) -> Any:
        picture = self.np_random.integers(0, 256, (100, 200, 3)).astype(np.uint8).transpose(1, 0, 2)
        return {"picture": picture, "direction": np.int64(self.count % 4), "mission": "go to the green ball"}


class NoisyEnv(CountingEnv):
    """Prints, from Python and past it."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        print("a print of the environment")
        os.write(1, b"a write of the environment\n")
        return super().step(action)


class LockedInfo(CountingEnv):
    """Its info holds what cannot be pickled."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        *rest, info = super().step(action)
        return *rest, info | {"lock": threading.Lock()}  # type: ignore[return-value]


class LongInfo(CountingEnv):
    """Its info holds 15 kB of words."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        *rest, info = super().step(action)
        return *rest, info | {"words": "w" * 15_000}  # type: ignore[return-value]


class WithProcess(CountingEnv):
    """Keeps a process of its own, which it does not end."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(**kwargs)
        return observation, info | {"child": subprocess.Popen(["sleep", str(HOUR_S)]).pid}


class OneReset(CountingEnv):
    """Its second reset fails, whatever process it happens in."""

    def __init__(self, marker: str):
        super().__init__()
        self.marker = Path(marker)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.marker.touch(exist_ok=False)
        return super().reset(**kwargs)


def made_once(marker: str) -> gym.Env:
    """Dies in its first step; the second of them cannot be made, and says so as advice."""
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        raise ConfigError("the port is in use") from None
    return DyingStep()


class Unloadable:
    """A source that can be pickled, and not unpickled."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise RuntimeError("this never loads")


def is_running(pid: int) -> bool:
    if Path("/proc/self/stat").exists():
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return status.strip()[:1] not in ("", "Z")


def ends_within(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_running(pid)
