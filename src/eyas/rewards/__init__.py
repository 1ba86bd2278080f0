"""Extra reward terms by name; a recipe weighs them beside the environment's own reward."""

from eyas.rewards.format import FormatReward
from eyas.rewards.recognition import RecognitionReward
from eyas.rewards.repetition import RepetitionReward

REWARDS = {r.name: r for r in (FormatReward, RecognitionReward, RepetitionReward)}
