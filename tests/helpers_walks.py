"""Small environments for tests of what Gymnasium promises. They know no torch: worker processes import them."""

import os
import time
from pathlib import Path
from string import printable
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Walk(gym.Env):
    """Shows "at k" after k steps. The reward of step k is k, whatever the action; success is that the last action was 1.

    `rewards` replaces those of the first steps, by what may be no float.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 4}
    observation_space: spaces.Space[Any] = spaces.Text(40, charset=printable)
    action_space: spaces.Space[Any] = spaces.Discrete(3)

    def __init__(
        self,
        length: int | None = None,
        limit: int | None = None,
        rewards: tuple[Any, ...] = (),
        says_success: bool = True,
        render_mode: str | None = None,
        **info: Any,
    ):
        self.length, self.limit, self.rewards, self.says_success = length, limit, rewards, says_success
        self.render_mode, self.info = render_mode, info
        self.count, self.actions = 0, []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count, self.actions = 0, []
        return self.observe(), dict(self.info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.count += 1
        self.actions.append(action)
        terminated = self.length is not None and self.count >= self.length
        truncated = self.limit is not None and self.count >= self.limit
        reward = self.rewards[self.count - 1] if self.count <= len(self.rewards) else float(self.count)
        success = {"success": action == 1} if self.says_success and (terminated or truncated) else {}
        return self.observe(), reward, terminated, truncated, self.info | success

    def observe(self) -> Any:
        return f"at {self.count}"

    def render(self) -> Any:
        return np.full((16, 16, 3), self.count, np.uint8) if self.render_mode else None


class Slide(Walk):
    """Shows two numbers, the steps so far and what was pushed in all; the reward is the push."""

    observation_space = spaces.Box(-100, 100, (2,), np.float32)
    action_space = spaces.Box(-2, 2, (1,), np.float32)

    def observe(self) -> Any:
        return np.array([self.count, sum(float(a[0]) for a in self.actions)], np.float32)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, _, *rest = super().step(action)
        return observation, float(action[0]), *rest


class Uneven(gym.Env):
    """Pictures at random, in a buffer that is used again, and an info that is, too. Start, length and what is legal follow from the seed.

    Each step takes up to `delay_s`, whatever the seed. With `fails` an episode of every fifth start raises.
    """

    observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = spaces.Discrete(4)

    def __init__(self, delay_s: float = 0.0, fails: bool = False):
        self.delay_s, self.fails = delay_s, fails
        self.picture, self.told = np.zeros((16, 16, 3), np.uint8), {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.start, self.count = int(self.np_random.integers(1000)), 0
        self.length = 1 + self.start % 7
        self.told.clear()
        return self._observe(), self.told

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        time.sleep(self.delay_s * int.from_bytes(os.urandom(2), "big") / 2**16)
        self.count += 1
        if self.fails and self.start % 5 == 0:
            raise RuntimeError("the engine stalled")
        terminated, truncated = self.count >= self.length, self.count >= 5
        if terminated or truncated:
            self.told |= {"success": int(action) == 1, "progress": self.count / 7}
        return self._observe(), self.np_random.normal() + int(action), terminated, truncated, self.told

    def _observe(self) -> np.ndarray:
        self.picture[...] = self.np_random.integers(0, 256, self.picture.shape)
        mask = self.np_random.integers(0, 2, 4, dtype=np.int8)
        mask[self.count % 4] = 1
        self.told |= {
            "facts": {"count": str(self.count)},
            "action_mask": mask,
            "observation_text": f"Step {self.count}.",
        }
        return self.picture


class Slow(Walk):
    """Takes `reset_s` for a reset and `step_s` for a step."""

    def __init__(self, reset_s: float = 0.0, step_s: float = 0.0):
        super().__init__(length=1)
        self.reset_s, self.step_s = reset_s, step_s

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        time.sleep(self.reset_s)
        return super().reset(**options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        time.sleep(self.step_s)
        return super().step(action)


class Traced(gym.Wrapper):
    """Leaves an empty file in `folder`, named by the process that resets, and takes `step_s` for a step."""

    def __init__(self, env: gym.Env, folder: str, step_s: float = 0.0):
        super().__init__(env)
        self.folder, self.step_s = Path(folder), step_s

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        (self.folder / str(os.getpid())).touch()
        return self.env.reset(**options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        time.sleep(self.step_s)
        return self.env.step(action)
