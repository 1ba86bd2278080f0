"""Supervised fine-tuning: cross-entropy on the completion tokens only, averaged over all tokens of the minibatch."""

from collections.abc import Sequence

from eyas.algorithms.base import Algorithm, LearnerOutput, Loss
from eyas.batch import Denominators, TrainingBatch, TrainingSample


class Supervised(Algorithm):
    """With a weight and a name of its own it stands beside another algorithm: corrected thoughts are cloned so."""

    def __init__(self, weight: float = 1.0, metric: str = "train/loss"):
        self.weight, self.metric = weight, metric

    def credit(self, samples: Sequence[TrainingSample]) -> dict[str, float]:
        return {}

    def loss(self, batch: TrainingBatch, output: LearnerOutput, denominators: Denominators) -> Loss:
        loss = -output.logprobs.sum() / denominators.tokens
        return Loss(self.weight * loss, {self.metric: loss.detach()})
