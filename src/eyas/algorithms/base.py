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
    element_values: Tensor | None = None  # float32 (N,), where the critic looks at every token


@dataclass(slots=True)
class Loss:
    """A sum already divided by the minibatch's denominators, and sums to log, divided alike."""

    total: Tensor
    metrics: dict[str, Tensor]


class Algorithm(Protocol):
    """What it needs is filled in before `credit`. A subclass says what differs from needing nothing."""

    needs_values: bool = False
    needs_entropy: bool = False
    needs_reference: bool = False  # log-probs of the weights that the stage began with
    needs_old_logprobs: bool = False  # the learner's own, before the first update: where the sampler is another engine
    keeps_trajectories: bool = False  # the samples of a trajectory stay in one minibatch and one pass
    more_groups: int = 0  # times that groups without variance are replaced

    def credit(self, samples: Sequence[TrainingSample]) -> dict[str, float]:
        """Fills advantages and value targets in place; returns what to log."""
        ...

    def loss(self, batch: TrainingBatch, output: LearnerOutput, denominators: Denominators) -> Loss: ...
