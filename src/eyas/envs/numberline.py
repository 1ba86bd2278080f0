"""`eyas/NumberLine-v0`: walk from a current number to a target number."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from eyas.envs import rendering
from eyas.envs.base import DrawnEnv, check_range
from eyas.types import TaskDescription


def _write_thought(facts: Mapping[str, str], action_name: str) -> str:
    return f"From {facts['current number']} to {facts['target number']} I choose {action_name}."


DESCRIPTION = TaskDescription(
    text="Move the current number to the target number: - lowers it by one, + raises it by one.",
    action_names=("-", "+"),
    fact_keys=("current number", "target number"),
    write_thought=_write_thought,
)


class NumberLineEnv(DrawnEnv):
    """
    ## Source
    The rules are those of NumberLine in RL4VLM (Zhai et al. 2024, "Fine-Tuning Large Vision-Language Models as
    Decision-Making Agents via Reinforcement Learning"). The pictures are our own.

    ## Description
    Two numbers are shown: the target and the current one. Each action moves the current number by one. The shortest way
    to the target is the goal. With `max_position=5` only 30 different decision pictures exist (without jitter): success
    here tests fit, not generalisation.

    ## Action Space
    `Discrete(2)`:

    - 0: "-", the current number falls by one, not below 0
    - 1: "+", the current number rises by one, not above `max_position`

    Both are always legal.

    ## Observation Space
    `mode="image"`: `Box(0, 255, (300, 300, 3), uint8)`, the words "Target:" and "Current:" each with its number, digits 80
    pixels high. `mode="text"`: `Text(1, 100)`, the same in words.

    ## Rewards
    - +1 at the target
    - -1 where the distance did not shrink (also against a wall)
    - 0 otherwise

    ## Starting State
    Target and current number are uniform in 0..`max_position`; where they are equal, the target becomes
    (target + 1) mod `max_position`.

    ## Episode End
    1. Termination: the current number is the target.
    2. Truncation: 2 * `max_position` steps (10 by default). The limit is not shown to the player, so it lies outside
       the task.

    ## Information
    `facts` ("current number", "target number") and `legal_actions` at every step. At the end also `success` (target reached
    without a single wrong move), `target_reached` (reached at all) and `progress` (the share of the first distance that is
    gone, never below 0).
    The random policy succeeds in 28.3 % of episodes.

    ## Arguments
    - `max_position` (5): largest number, 2..99
    - `mode`, `render_mode`, `jitter`, `background`: see `DrawnEnv`
    """

    description = DESCRIPTION

    def __init__(self, max_position: int = 5, **looks: Any) -> None:
        super().__init__(**looks)
        check_range("max_position", max_position, 2, 99)
        self.max_position = max_position
        self.action_space = gym.spaces.Discrete(2)

    @property
    def facts(self) -> dict[str, str]:
        return {"current number": str(self.current), "target number": str(self.target)}

    @property
    def distance(self) -> int:
        return abs(self.target - self.current)

    def _deal(self) -> None:
        self.target, self.current = (int(n) for n in self.np_random.integers(0, self.max_position + 1, size=2))
        if self.target == self.current:
            self.target = (self.target + 1) % self.max_position
        self.start_distance = self.distance
        self.num_steps, self.num_wrong_moves = 0, 0

    def _play(self, action: int) -> tuple[float, bool, bool]:
        before = self.distance
        self.current = min(max(self.current + (1 if action else -1), 0), self.max_position)
        self.num_steps += 1
        is_wrong = self.distance >= before
        self.num_wrong_moves += is_wrong
        if self.distance == 0:
            return 1.0, True, False
        return -1.0 if is_wrong else 0.0, False, self.num_steps >= 2 * self.max_position

    def _outcome(self) -> dict[str, Any]:
        target_reached = self.distance == 0
        return {
            "success": target_reached and self.num_wrong_moves == 0,
            "progress": max(0.0, 1 - self.distance / self.start_distance),
            "target_reached": target_reached,
        }

    def _words(self) -> str:
        return f"The target number is {self.target}. The current number is {self.current}."

    def _draw(self) -> np.ndarray:
        return rendering.draw_number_line(self.target, self.current, self.background)
