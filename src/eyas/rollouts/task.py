"""A task: an environment, its interface, its rewards and its weight in the run."""

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym

from eyas.envs.host import EnvSource
from eyas.interface import Interface
from eyas.interface.actions import SequenceCodec
from eyas.types import Expert, FactRule, Reward


@dataclass(frozen=True)
class Task:
    make_env: Callable[[], gym.Env]
    interface: Interface
    rewards: tuple[tuple[Reward, float], ...] = ()  # extra terms and their coefficients
    reward_scale: float = 1.0
    weight: float = 1.0
    expert: Expert | None = None
    fact_rule: FactRule | None = None  # whether actions follow from written facts
    env_id: str = ""
    index: int = 0  # in the run's tasks
    success_return: float | None = None  # from which on an episode succeeded, where the environment does not say

    def source(self, asks_expert: bool) -> EnvSource:
        """What a process needs to play it. A step's first action was checked when it was parsed."""
        codec = self.interface.codec
        may_follow = codec.may_follow if isinstance(codec, SequenceCodec) else None
        return EnvSource(self.make_env, self.interface.renders, self.expert if asks_expert else None, may_follow)
