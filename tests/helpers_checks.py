"""Environments for `eyas env check`, registered under `checks/`: those of `helpers_envs`, and others that break a promise."""

import os
import string
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

import helpers_envs
from eyas.seeding import Split
from eyas.types import TaskDescription
from helpers_envs import HOUR_S, CountingEnv


class BrokenConstructor(CountingEnv):
    def __init__(self) -> None:
        raise RuntimeError("no licence")


class SleepingConstructor(CountingEnv):
    def __init__(self) -> None:
        time.sleep(HOUR_S)


class ShortCounting(CountingEnv):
    """Ends after 4 steps."""

    def __init__(self) -> None:
        super().__init__(length=4)


class Printing(ShortCounting):
    """Prints when it is made and when it is stepped."""

    def __init__(self) -> None:
        print("a print of the constructor")
        super().__init__()

    def step(self, action: Any) -> Any:
        print("a print of the step")
        return super().step(action)


class Unbounded(CountingEnv):
    action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def step(self, action: Any) -> Any:
        return super().step(0)


class FourParts(CountingEnv):
    """Steps as in the days of gym."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


class NoInfo(CountingEnv):
    def reset(self, **kwargs: Any) -> Any:
        return super().reset(**kwargs)[0], None


class NumbersForEnds(CountingEnv):
    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, int(terminated), truncated, info


class OtherCharacters(CountingEnv):
    """Its text has spaces, and gymnasium.spaces.Text has none unless told."""

    observation_space = spaces.Text(100)


class WrongShape(CountingEnv):
    """The second of two parts has another shape than promised."""

    observation_space = spaces.Dict(
        words=spaces.Text(40, charset=string.printable), numbers=spaces.Box(0, 1, (2,), np.float32)
    )

    def observe(self) -> Any:
        return {"words": "go on", "numbers": np.zeros(3, np.float32)}


class Endless(CountingEnv):
    def __init__(self) -> None:
        super().__init__(length=10**9)


class Remembering(CountingEnv):
    """What an episode begins with depends on how many there were before."""

    num_resets = 0

    def reset(self, **kwargs: Any) -> Any:
        self.num_resets += 1
        return super().reset(**kwargs)

    def observe(self) -> Any:
        return f"step {self.count} of game {self.num_resets}"


class OfItsProcess(CountingEnv):
    def observe(self) -> Any:
        return f"step {self.count} in process {os.getpid()}"


class NothingLegal(CountingEnv):
    """From the second step on its mask allows nothing."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"action_mask": np.zeros(3, np.int8)}


class BigFrame(CountingEnv):
    """Ends after 3 steps. Numbers as observation, and a picture of 1500 x 1200 beside them."""

    observation_space = spaces.Box(0, 1000, (1,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(length=3, render_mode=render_mode)

    def observe(self) -> Any:
        return np.full(1, self.count, np.float32)

    def render(self) -> Any:
        return np.zeros((1200, 1500, 3), np.uint8)


class NoFrameBesideNumbers(BigFrame):
    def render(self) -> Any:
        return None


class RaisingForSomeSeeds(ShortCounting):
    """Its first step fails for a third of the seeds; 0 and 1 are good."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.is_bad = ((seed or 0) >> 2) % 3 == 2
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        if self.is_bad:
            raise RuntimeError("stuck")
        return super().step(action)


class LosingTraining(ShortCounting):
    """Fails for some of the episodes that training plays, and for no other: at the reset or in the first step."""

    place = "reset"
    residues = (3,)  # of four

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        number = seed or 0
        self.is_bad = number % 4 == int(Split.TRAIN) and (number >> 2) % 4 in self.residues
        if self.is_bad and self.place == "reset":
            raise RuntimeError("stuck")
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        if self.is_bad and self.place == "step":
            raise RuntimeError("stuck")
        return super().step(action)


class LosingTrainingSteps(LosingTraining):
    place = "step"


class LosingAllTraining(LosingTraining):
    place = "step"
    residues = (0, 1, 2, 3)


class Factual(ShortCounting):
    """Asks for a fact that no expert tells."""

    description = TaskDescription("Count.", ("a", "b", "c"), ("count",))


def is_bad_seed(seed: int) -> bool:
    """Of a third of the seeds, whatever their split."""
    return (seed >> 2) % 3 == 1


class BreakingForSomeSeeds(CountingEnv):
    """Draws a number at each step, and renders it. For bad seeds it goes wrong as `fault` says, at the reset or in step 2."""

    observation_space = spaces.Box(0, 1000, (2,), np.float32)
    faults = (
        "raises in step", "raises in reset", "dies in step", "dies in reset", "sleeps in step", "sleeps in reset",
        "pays nan", "renders nothing", "renders numbers", "shows another shape", "shows nothing", "forgets its info",
    )  # fmt: skip

    def __init__(self, fault: str | None = None) -> None:
        super().__init__(length=4, render_mode="rgb_array")
        self.fault = fault
        self.is_bad = False

    def is_now(self, *faults: str) -> bool:
        return self.is_bad and self.fault in faults

    def go_wrong_in(self, place: str) -> None:
        if self.is_now(f"raises in {place}"):
            raise RuntimeError("stuck")
        if self.is_now(f"dies in {place}"):
            os._exit(5)
        if self.is_now(f"sleeps in {place}"):
            time.sleep(HOUR_S)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.is_bad = is_bad_seed(seed or 0)
        self.go_wrong_in("reset")
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        if self.count == 2:
            self.go_wrong_in("step")
        if self.is_now("pays nan"):
            reward = float("nan")
        return observation, reward, terminated, truncated, None if self.is_now("forgets its info") else info

    def observe(self) -> Any:
        self.drawn = int(self.np_random.integers(1000))
        if self.count == 2 and self.is_now("shows nothing"):
            return None
        size = 3 if self.count == 2 and self.is_now("shows another shape") else 2
        return np.full(size, self.drawn, np.float32)

    def render(self) -> Any:
        if self.count == 2 and self.is_now("renders nothing"):
            return None
        if self.count == 2 and self.is_now("renders numbers"):
            return np.zeros((20, 20, 3))
        return np.full((20, 20, 3), self.drawn % 256, np.uint8)


def register(name: str, **options: Any) -> None:
    module = helpers_envs if hasattr(helpers_envs, name) else None
    entry_point = f"{'helpers_envs' if module else 'helpers_checks'}:{name}"
    gym.register(f"checks/{name}-v0", entry_point=entry_point, **options)


for environment in (
    "RaisingStep", "RaisingReset", "DyingStep", "DyingReset", "SleepingStep", "SleepingReset", "NaNReward", "OutsideSpace",
    "NoisyEnv", "BrokenConstructor", "SleepingConstructor", "Unbounded", "FourParts", "NoInfo", "NumbersForEnds",
    "WrongShape", "Endless", "Remembering", "OfItsProcess", "NothingLegal", "BigFrame", "NoFrameBesideNumbers",
    "RaisingForSomeSeeds", "Unseeded", "OtherCharacters", "ShortCounting", "Printing", "LosingTraining",
    "LosingTrainingSteps", "LosingAllTraining", "Factual",
):  # fmt: skip
    if f"checks/{environment}-v0" not in gym.registry:
        register(environment)
if "checks/BigPicture-v0" not in gym.registry:
    gym.register("checks/SleepingLate-v0", "helpers_envs:SleepingStep", kwargs={"at": 100})
    register("BigPicture", kwargs={"side": 4000, "length": 1})
