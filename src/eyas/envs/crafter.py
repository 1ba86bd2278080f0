"""`eyas/Crafter-v0`: Crafter, which was written for the older Gym interface, as a Gymnasium environment."""

from collections import defaultdict
from functools import partial
from importlib import import_module
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from eyas.envs.base import check_choice, check_range, checked_action
from eyas.types import TaskDescription


class _InOrder(dict[Any, None]):
    """A set that is walked through in the order in which things came in."""

    def add(self, thing: Any) -> None:
        self[thing] = None

    def remove(self, thing: Any) -> None:
        del self[thing]


def _reset_in_order(world: Any, reset: Any, seed: int | None = None) -> None:
    reset(seed)
    # Crafter picks creatures out of sets, whose order depends on memory addresses: a seed would not give one game.
    world._chunks = defaultdict(_InOrder)


class CrafterEnv(gym.Env[np.ndarray, Any]):
    """
    ## Source
    Crafter (Hafner 2022, "Benchmarking the Spectrum of Agent Capabilities"), the game of the package `crafter`, unchanged. Only
    the interface is new: a seed decides the whole game, an end and a limit differ, and `info` says what was reached.

    ## Description
    The player survives in a generated world of grass, forests, lakes, caves and animals: eats, drinks, sleeps, fights, collects
    materials and makes tools. There are 22 achievements.

    ## Action Space
    `Discrete(17)`: "noop", four moves, "do", "sleep", four things to place, six tools to make. All are always legal; those that
    cannot be done now do nothing.

    ## Observation Space
    `Box(0, 255, (size, size, 3), uint8)`: the world around the player (9 x 7 fields), below it what the player has.

    ## Rewards
    - +1 in a step that unlocks at least one achievement for the first time in the episode
    - +0.1 and -0.1 for each point of health that is won or lost

    ## Starting State
    A world generated from the seed, the player in the middle of it.

    ## Episode End
    1. Termination: the player's health is 0.
    2. Truncation: 10,000 steps, by the limit of the registration, which lies outside the task.

    ## Information
    At every step `progress` (the share of the 22 achievements that are unlocked), `achievements` (how often each was reached) and
    `inventory`. There is no `success`.

    ## Arguments
    - `render_mode` (None): "rgb_array": `render()` returns the picture
    - `size` (64): edge of the picture in pixels, 63..1024
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, render_mode: str | None = None, size: int = 64) -> None:
        check_choice("render_mode", render_mode, (None, "rgb_array"))
        check_range("size", size, 63, 1024)
        self.render_mode = render_mode
        self._game: Any = import_module("crafter").Env(size=(size, size), length=None, seed=0)
        world = self._game._world
        world.reset = partial(_reset_in_order, world, world.reset)
        self.action_space = gym.spaces.Discrete(len(self._game.action_names))
        self.observation_space = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.description = TaskDescription(
            text=(
                "You play Crafter, a survival game seen from above. Eat, drink and sleep, collect materials, make tools and "
                "defend yourself. Every first achievement earns a reward."
            ),
            action_names=tuple(name.replace("_", " ") for name in self._game.action_names),
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode in a new world. `options` is not used."""
        super().reset(seed=seed, options=options)
        # The game derives a world from its seed and the number of the episode: only the seed is to count.
        self._game._seed, self._game._episode = int(self.np_random.integers(2**31 - 1)), 0
        picture = self._game.reset()
        player = self._game._player
        return picture, self._info({"achievements": player.achievements, "inventory": player.inventory})

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Plays one action. Raises ValueError for one outside the action space."""
        picture, reward, is_dead, info = self._game.step(checked_action(self.action_space, action))
        return picture, float(reward), bool(is_dead), False, self._info(info)

    @staticmethod
    def _info(info: dict[str, Any]) -> dict[str, Any]:
        achievements = info["achievements"]
        progress = sum(count > 0 for count in achievements.values()) / len(achievements)
        return {"progress": progress, "achievements": dict(achievements), "inventory": dict(info["inventory"])}

    def render(self) -> np.ndarray | None:
        """The picture, uint8 (size, size, 3); None without `render_mode="rgb_array"`."""
        return self._game.render() if self.render_mode == "rgb_array" else None
