"""The gradient of every algorithm is the same for any size of the micro-batches: denominators are the minibatch's."""

import numpy as np
import pytest
import torch

from eyas.algorithms.base import LearnerOutput
from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.algorithms.registry import PAPERS
from eyas.batch import Denominators, SampleStep, TrainingSample
from eyas.collate import collate
from eyas.splits import micro_batches, minibatches

AVERAGES = {
    average: PAPERS["ppo"](estimator="group_relative", ratio="token", average=average, entropy_coef=0.1)
    for average in ("token", "step", "trajectory")
}
CASES = {name: paper() for name, paper in PAPERS.items()} | AVERAGES
CASES["dr_grpo"] = PAPERS["dr_grpo"](constant_tokens=10)
CASES["importance"] = PAPERS["dapo"](importance="mask")
CASES["corrected KL"] = PAPERS["grpo"](is_kl_corrected=True)


LONGEST = 12  # tokens of a sample below


def iteration():
    """Six trajectories of one to three samples, with completions of one to six tokens."""
    rng = np.random.default_rng(0)
    samples = []
    for trajectory in range(6):
        lengths = rng.integers(1, 7, 1 + trajectory % 3)
        for place, length in enumerate(lengths):
            begin = 2 + int(rng.integers(5))
            step = SampleStep(
                begin, begin + length // 2, begin + int(length), value=rng.normal(), advantage=rng.normal()
            )
            step.share, step.value_target = length / lengths.sum(), rng.normal()
            sample = TrainingSample(np.zeros(begin + length, np.int64), (), (step,), trajectory=trajectory)
            sample.sampling_logprobs, sample.element_values, sample.element_targets = rng.normal(-1, 0.3, (3, length))
            sample.old_logprobs, sample.reference_logprobs = sample.sampling_logprobs + rng.normal(0, 0.3, (2, length))
            sample.group = place
            samples.append(sample)
    return samples


def gradient(options, size, is_per_micro_batch=False):
    """With respect to a log-prob and a value of each element, which stand for the model."""
    algorithm, samples = PolicyGradient(options), iteration()
    for sample in samples:
        sample.old_logprobs = sample.old_logprobs if algorithm.needs_old_logprobs else None
        if options.estimator in ("bilevel_gae", "token_gae", "reinforce_pp"):
            sample.element_advantages = np.cos(np.arange(sample.steps[0].num_elements))
    counts = [s.steps[0].num_elements for s in samples]
    offsets = {id(s): offset for s, offset in zip(samples, np.cumsum([0, *counts]))}
    rng = torch.Generator().manual_seed(1)
    logprobs = (torch.randn(sum(counts), generator=rng) * 0.3 - 1).requires_grad_()
    values = torch.randn(sum(counts), generator=rng).requires_grad_()
    for part in micro_batches(samples, size * LONGEST, algorithm.keeps_trajectories):
        places = torch.cat([torch.arange(s.steps[0].num_elements) + offsets[id(s)] for s in part])
        firsts = torch.tensor([offsets[id(s)] for s in part])
        entropy = logprobs[places] ** 2 if algorithm.needs_entropy else None
        output = LearnerOutput(logprobs[places], entropy, values[firsts], element_values=values[places])
        denominators = Denominators.of(part if is_per_micro_batch else samples)
        algorithm.loss(collate(part, 0), output, denominators).total.backward()
    return torch.cat([logprobs.grad, torch.zeros_like(values) if values.grad is None else values.grad])


@pytest.mark.parametrize("name", CASES)
def test_accumulation_gives_the_same_gradient_for_every_algorithm(name):
    whole = gradient(CASES[name], 100)
    assert whole.abs().max() > 1e-3
    for size in (1, 2, 5):
        assert torch.allclose(gradient(CASES[name], size), whole, atol=1e-7)
    assert not torch.allclose(gradient(CASES[name], 2, is_per_micro_batch=True), whole, atol=1e-4)  # the wrong variant


@pytest.mark.parametrize("name", ["gspo", "rloo"])
def test_a_ratio_of_trajectories_keeps_them_whole_in_every_split(name):
    samples = iteration()
    assert PolicyGradient(CASES[name]).keeps_trajectories and not PolicyGradient(CASES["dapo"]).keeps_trajectories
    for split in (micro_batches(samples, 2 * LONGEST, True), minibatches(samples, 3, True)):
        found = [{s.trajectory for s in part} for part in split]
        assert len(found) > 2 and sum(map(len, found)) == 6
    torn = [{s.trajectory for s in part} for part in micro_batches(samples, 2 * LONGEST)]  # the wrong variant
    assert sum(map(len, torn)) > 6
