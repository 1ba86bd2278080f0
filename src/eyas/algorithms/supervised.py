"""Supervised fine-tuning: cross-entropy on the completion tokens only, averaged over all tokens of the minibatch."""

from collections.abc import Sequence

from eyas.algorithms.base import Algorithm, LearnerOutput, Loss
from eyas.batch import Denominators, TrainingBatch, TrainingSample


class Supervised(Algorithm):
    def credit(self, samples: Sequence[TrainingSample]) -> dict[str, float]:
        return {}

    def loss(self, batch: TrainingBatch, output: LearnerOutput, denominators: Denominators) -> Loss:
        loss = -output.logprobs.sum() / denominators.tokens
        return Loss(loss, {"train/loss": loss.detach()})
