"""What the trainer asks of an algorithm, and what it gives it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from eyas.batch import Denominators, TrainingBatch, TrainingSample


@dataclass(slots=True)
class LearnerOutput:
    """What the current weights say of a batch."""

    logprobs: Tensor  # float32 (N,) of the completion tokens
    entropy: Tensor | None  # float32 (N,) of the whole distribution, where the algorithm needs it
    values: Tensor | None  # float32 (S,), where the algorithm needs them
    action_kl: Tensor | None = None  # float32 (P,): exact KL(sampling || current) over the actions of each scored step


@dataclass(slots=True)
class Loss:
    """A sum already divided by the minibatch's denominators, and sums to log, divided alike."""

    total: Tensor
    metrics: dict[str, Tensor]


class Algorithm(Protocol):
    needs_values: bool
    needs_entropy: bool

    def credit(self, samples: Sequence[TrainingSample]) -> dict[str, float]:
        """Fills advantages and value targets in place; returns what to log."""
        ...

    def loss(self, batch: TrainingBatch, output: LearnerOutput, denominators: Denominators) -> Loss: ...
