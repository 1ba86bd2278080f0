"""Extra reward terms by name; a recipe weighs them beside the environment's own reward."""

from collections.abc import Callable, Iterable, Mapping

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


def judges(rewards: Iterable[tuple[int, Reward]]) -> dict[str, JudgeReward]:
    """Those of a run's tasks, by the name under which they log; each reward comes with its task's index."""
    return {f"{r.name}_{i}" if i else r.name: r for i, r in rewards if isinstance(r, JudgeReward)}


def judge_metrics(judging: Mapping[str, JudgeReward]) -> dict[str, float]:
    """What they have to log since the last call."""
    return {f"{area}/{name}": value for area, judge in judging.items() for name, value in judge.metrics().items()}
