"""Extra reward terms by name; a recipe weighs them beside the environment's own reward."""

from eyas.rewards.recognition import RecognitionReward

REWARDS = {"recognition": RecognitionReward}
