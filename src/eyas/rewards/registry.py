"""Extra reward terms by name; a recipe weighs them beside the environment's own reward."""

from collections.abc import Callable, Iterable

from eyas.errors import ConfigError
from eyas.interface import Interface
from eyas.rewards.format import FormatReward
from eyas.rewards.judge import Asked, JudgeReward
from eyas.rewards.options import JudgeConfig, RewardsConfig
from eyas.rewards.recognition import RecognitionReward
from eyas.rewards.repetition import RepetitionReward
from eyas.types import Reward

REWARDS = {r.name: r for r in (FormatReward, RecognitionReward, RepetitionReward)}


def build_rewards(
    config: RewardsConfig, interface: Interface, judging: Callable[[JudgeConfig], Asked]
) -> tuple[tuple[Reward, float], ...]:
    """Each term with its coefficient; `judging` makes the model that a judge asks. Raises ConfigError for an unknown name."""
    terms: list[tuple[Reward, float]] = []
    for name, coefficient in (config.model_extra or {}).items():
        if name not in REWARDS:
            raise ConfigError(f"unknown reward '{name}': choose from {', '.join(REWARDS)}, judge")
        if name == RecognitionReward.name and not interface.format.fact_keys:
            raise ConfigError("rewards.recognition does nothing where a task asks for no facts: leave it out")
        terms.append((REWARDS[name](interface), coefficient))
    if config.judge is not None:
        terms.append((JudgeReward(config.judge, interface, judging(config.judge)), config.judge.weight))
    return tuple(terms)


def reward_metrics(rewards: Iterable[tuple[int, Reward]]) -> dict[str, float]:
    """What the rewards of a run's tasks have to log since the last call; each comes with its task's index."""
    numbers: dict[str, float] = {}
    for index, reward in rewards:
        area = f"{reward.name}_{index}" if index else reward.name
        measured = reward.metrics() if isinstance(reward, JudgeReward) else {}
        numbers |= {f"{area}/{name}": value for name, value in measured.items()}
    return numbers
