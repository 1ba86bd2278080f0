"""A task: an environment, its interface, its rewards and its weight in the run."""

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym

from eyas.interface import Interface
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
    success_return: float | None = (
        None  # the return from which on an episode succeeded, where the environment does not say
    )
