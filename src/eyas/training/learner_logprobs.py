"""What the learner said of each token in an iteration, for whoever looks at the run later."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from eyas.batch import SampleStep, TrainingSample
from eyas.types import Trajectory


class LearnerLogprobs:
    """Remembers the log-probs of every sample's elements at the learner's first and last pass over it.

    They stay on the learner's device until `write`, so that a pass waits for nothing.
    """

    def __init__(self) -> None:
        self._first: dict[int, Tensor] = {}
        self._last: dict[int, Tensor] = {}

    def __call__(self, samples: Sequence[TrainingSample], logprobs: Tensor) -> None:
        """`logprobs` are those of the elements of all these samples, in their order: float (N,)."""
        sizes = [sum(step.num_elements for step in sample.steps) for sample in samples]
        for sample, part in zip(samples, logprobs.detach().split(sizes), strict=True):
            self._first.setdefault(id(sample), part)
            self._last[id(sample)] = part

    def write(self, samples: Sequence[TrainingSample], trajectories: Sequence[Trajectory]) -> None:
        """Fills what each step says of learning: None where the learner saw nothing of it. Forgets what it remembered."""
        steps = [iter(trajectory.steps) for trajectory in trajectories]
        known = [s for s in samples if id(s) in self._first]
        first, last = (_arrays([values[id(s)] for s in known]) for values in (self._first, self._last))
        for sample in samples:
            parts = (next(first), next(last)) if id(sample) in self._first else (None, None)
            arrays = [None if a is None else _split(a, sample.steps) for a in (*parts, sample.element_advantages)]
            for index in range(len(sample.steps)):
                step = next(steps[sample.trajectory])
                values = [None if a is None else a[index] for a in arrays]
                step.learner_logprobs, step.updated_logprobs, step.token_advantages = values
        self._first.clear()
        self._last.clear()


def _arrays(tensors: Sequence[Tensor]) -> Iterator[np.ndarray]:
    """The same on the CPU, with one copy for all of them."""
    if tensors:
        joined = torch.cat(list(tensors)).float().cpu().numpy()
        yield from np.split(joined, np.cumsum([len(t) for t in tensors])[:-1])


def _split(values: np.ndarray, steps: Sequence[SampleStep]) -> list[np.ndarray]:
    return np.split(values.astype(np.float32), np.cumsum([step.num_elements for step in steps])[:-1])
