"""Algorithms turn samples into credit and pick a loss; the trainer does not know which one runs."""

from eyas.algorithms.base import Algorithm, LearnerOutput, Loss
from eyas.algorithms.ppo import PPO
from eyas.algorithms.supervised import Supervised

ALGORITHMS = {"ppo": PPO}

__all__ = ["ALGORITHMS", "PPO", "Algorithm", "LearnerOutput", "Loss", "Supervised"]
