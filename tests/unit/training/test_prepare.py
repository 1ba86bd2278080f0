"""Samples hold what their algorithm asks for, under the weights that played them and under those the stage began with."""

import numpy as np
import pytest
import torch

from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.algorithms.registry import PAPERS
from eyas.config import CriticConfig, OptimConfig
from eyas.rollouts.actors import PolicyActor
from eyas.rollouts.collector import Collector
from eyas.seeding import Split
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer
from eyas.training.prepare import learner_logprobs, prepare
from helpers import CountingEnv, nano_policy, text_task


def played(policy, **options):
    task = text_task(lambda: CountingEnv(2), max_new_tokens=6, **options)
    collector = Collector(PolicyActor(policy), [task], policy.images, 0, Split.TRAIN, 4, group_size=2)
    return collector.episodes(range(4))


def learner_of(policy, name, lr=1e-2, **options):
    optimizer = Optimizer(policy.model, policy.critic, OptimConfig(lr=lr), 10)
    return Learner(policy, PolicyGradient(PAPERS[name](**options)), optimizer, micro_batch_tokens=300)


@pytest.mark.parametrize("action_mode", ["text", "score"])
def test_the_learners_own_logprobs_equal_the_samplers(action_mode):
    policy = nano_policy()
    learner = learner_of(policy, "dapo", importance="truncate")
    samples = prepare(learner, played(policy, action_mode=action_mode), None)
    for sample in samples:
        assert np.allclose(sample.old_logprobs, sample.sampling_logprobs, atol=1e-4)
        assert sample.reference_logprobs is None and sample.element_values is None
    assert learner.algorithm.credit(samples).keys() == {"train/zero_variance_groups_share"}


def test_the_reference_stays_what_the_stage_began_with():
    policy = nano_policy()
    learner = learner_of(policy, "grpo", kl_coef=1.0)
    reference = policy.trained_weights()
    trajectories = played(policy)
    samples = prepare(learner, trajectories, reference)
    for sample in samples:
        assert np.allclose(sample.reference_logprobs, sample.sampling_logprobs, atol=1e-4)
    for sample, advantage in zip(samples, np.linspace(-1, 1, len(samples))):
        sample.steps[0].advantage = float(advantage)
    before = {n: p.clone() for n, p in policy.model.named_parameters()}
    metrics = [learner.update(samples) for _ in range(3)]
    assert metrics[0]["train/kl_k3_policy_reference"] == pytest.approx(0, abs=1e-6)
    assert metrics[2]["train/kl_k3_policy_reference"] > 1e-5
    moved = {n: p.clone() for n, p in policy.model.named_parameters()}
    assert any(not torch.equal(before[n], moved[n]) for n in moved)
    again = prepare(learner, trajectories, reference)
    for old, new in zip(samples, again):
        assert np.allclose(new.reference_logprobs, old.reference_logprobs, atol=1e-6)
        assert not np.allclose(learner_logprobs(learner, [new])[0], old.reference_logprobs, atol=1e-4)
    assert all(torch.equal(p, moved[n]) for n, p in policy.model.named_parameters())  # the policy's own are back


def test_an_update_on_credit_that_is_all_0_moves_nothing():
    policy = nano_policy()
    learner = learner_of(policy, "dapo")
    samples = prepare(learner, played(policy), None)
    assert learner.algorithm.credit(samples) == {"train/zero_variance_groups_share": 1.0}
    before = {n: p.clone() for n, p in policy.model.named_parameters()}
    assert learner.update(samples)["train/policy_loss"] == 0
    assert all(torch.equal(p, before[n]) for n, p in policy.model.named_parameters())


def test_a_critic_of_tokens_gives_a_value_and_a_target_to_each_element():
    policy = nano_policy()
    policy.critic.config = CriticConfig(level="token")
    policy.value_head.layers[2].weight.data.normal_(std=0.5)
    learner = learner_of(policy, "vagen", lr=1e-3, kl_coef=0.0, value_clip=0.0)
    samples = prepare(learner, played(policy), None)
    learner.algorithm.credit(samples)
    for sample in samples:
        count = sum(s.num_elements for s in sample.steps)
        assert len(sample.element_values) == len(sample.element_advantages) == len(sample.element_targets) == count
        assert sample.element_values[0] == pytest.approx(sample.steps[0].value, abs=1e-5)  # the last prompt token
        assert sample.element_values.std() > 1e-3
    losses = [learner.update(samples)["train/value_loss"] for _ in range(6)]
    assert losses[-1] < 0.9 * losses[0]
