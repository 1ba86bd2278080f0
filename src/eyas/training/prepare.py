"""From trajectories to samples that hold all that their algorithm asks for, under the weights that played them."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from eyas.batch import TrainingSample
from eyas.models.reading import batch_of
from eyas.rollouts.samples import annotate, build_samples
from eyas.splits import parts
from eyas.training.learner import Learner
from eyas.types import Trajectory

MOST_TOKENS = 2**14  # of one pass, where the stage names no micro_batch_tokens


def prepare(
    learner: Learner, trajectories: Sequence[Trajectory], reference: Mapping[str, Tensor] | None
) -> list[TrainingSample]:
    """`reference` holds the weights that the stage began with, where the algorithm needs them."""
    policy, algorithm = learner.policy, learner.algorithm
    samples = build_samples(trajectories, policy.model, policy.images)
    if algorithm.needs_values:
        annotate(policy, trajectories, samples)
    if algorithm.needs_old_logprobs:
        for sample, logprobs in zip(samples, learner_logprobs(learner, samples), strict=True):
            sample.old_logprobs = logprobs
    if reference is not None:
        with policy.using(reference):
            of_reference = learner_logprobs(learner, samples)
        for sample, logprobs in zip(samples, of_reference, strict=True):
            sample.reference_logprobs = logprobs
    return samples


@torch.no_grad()
def learner_logprobs(learner: Learner, samples: Sequence[TrainingSample]) -> list[np.ndarray]:
    """Of each sample's elements, as an update sees them: float32 arrays."""
    policy = learner.policy
    result: dict[int, np.ndarray] = {}
    for part in parts(samples, most_tokens=learner.micro_batch_tokens or MOST_TOKENS):
        batch = batch_of(policy.model, policy.images, [samples[i] for i in part], shares_prompts=True)
        logprobs = learner.forward(batch).logprobs.float().cpu().numpy()
        counts = [sum(step.num_elements for step in samples[i].steps) for i in part]
        result.update(zip(part, np.split(logprobs, np.cumsum(counts)[:-1]), strict=True))
    return [result[i] for i in range(len(samples))]
