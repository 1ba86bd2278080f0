"""Advantages: by hand, by closed form, against Stable-Baselines3, and at every kind of ending."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import RolloutBuffer

from eyas.algorithms.credit import explained_variance, gae, normalised
from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.batch import SampleStep, TrainingSample
from eyas.config import PPOConfig
from eyas.rollouts.samples import annotate, build_samples
from eyas.types import Completion, ParsedAction, StopReason
from helpers import nano_policy, prompt, step, trajectory, values

numbers = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=8)


def test_gae_by_hand():
    """γ 0.5, λ 0.5: δ = (1 + 0.5·2 - 1, 0 + 0.5·4 - 2, 2 + 0.5·8 - 4) = (1, 0, 2)."""
    advantages, targets = gae(np.array([1, 0, 2]), np.array([1, 2, 4]), 8.0, 0.5, 0.5)
    assert advantages.tolist() == [1.125, 0.5, 2.0]
    assert targets.tolist() == [2.125, 2.5, 6.0]


@settings(deadline=None)
@given(numbers, st.floats(-5, 5), st.floats(0, 1))
def test_gae_closed_forms(steps, last, gamma):
    rewards, values = np.array(steps).T
    with_lambda_1, targets = gae(rewards, values, last, gamma, 1.0)
    to_go = [
        sum(gamma**k * r for k, r in enumerate(rewards[i:])) + gamma ** (len(rewards) - i) * last
        for i in range(len(rewards))
    ]
    assert np.allclose(with_lambda_1, np.array(to_go) - values)
    assert np.allclose(targets, to_go)
    one_step, _ = gae(rewards, values, last, gamma, 0.0)
    assert np.allclose(one_step, rewards + gamma * np.append(values[1:], last) - values)


def test_gae_of_a_constant_reward_that_never_ends_is_a_geometric_series():
    """With the true value 1/(1-γ) everywhere and at the cut, nothing is left to be surprised by."""
    gamma = 0.9
    advantages, targets = gae(np.ones(7), np.full(7, 10.0), 10.0, gamma, 0.95)
    assert np.allclose(advantages, 0)
    assert np.allclose(targets, 1 / (1 - gamma))
    from_nothing, _ = gae(np.ones(300), np.zeros(300), 0.0, gamma, 1.0)
    assert from_nothing[0] == pytest.approx(1 / (1 - gamma))


@pytest.mark.parametrize(("gamma", "lam"), [(0.9, 0.95), (1.0, 1.0), (0.99, 0.0), (0.5, 0.5)])
def test_gae_equals_stable_baselines3(gamma, lam):
    """One environment over 40 steps with episodes that end here and there, and a bootstrapped last one."""
    rng = np.random.default_rng(0)
    n = 40
    rewards, values, ends = rng.normal(size=n), rng.normal(size=n), rng.random(n) < 0.2
    ends[-1], last_value = False, 0.7
    buffer = RolloutBuffer(n, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), gamma=gamma, gae_lambda=lam)
    starts = np.append(True, ends[:-1])
    for i in range(n):
        buffer.add(
            np.zeros(1),
            np.zeros(1),
            rewards[i : i + 1],
            starts[i : i + 1],
            torch.tensor(values[i : i + 1]),
            torch.zeros(1),
        )
    buffer.compute_returns_and_advantage(torch.tensor([last_value]), np.array([False]))
    cuts = [0, *(np.flatnonzero(ends) + 1), n]
    ours = [gae(rewards[a:b], values[a:b], last_value if b == n else 0.0, gamma, lam) for a, b in pairwise(cuts)]
    assert len(cuts) > 5
    assert np.allclose(np.concatenate([a for a, _ in ours]), buffer.advantages[:, 0], atol=1e-5)
    assert np.allclose(np.concatenate([t for _, t in ours]), buffer.returns[:, 0], atol=1e-5)


def test_normalised_by_hand():
    assert normalised(np.array([1.0, 2.0, 3.0])) == pytest.approx([-1, 0, 1])
    assert normalised(np.array([4.0, 4.0])).tolist() == [0, 0]
    assert normalised(np.array([4.0])).tolist() == [0]
    assert normalised(np.array([])).tolist() == []


def test_explained_variance_by_hand():
    def of(values, targets):
        return explained_variance(np.array(values), np.array(targets))

    assert of([1, 2, 3], [1, 2, 3]) == 1
    assert of([5, 5, 5], [1, 2, 3]) == 0
    assert of([3, 2, 1], [1, 2, 3]) == pytest.approx(-3)
    assert np.isnan(of([1, 2], [3, 3]))
    assert np.isnan(of([], []))


# ----------------------------------------------------------------------------------------------- how an episode ended

GAMMA, LAMBDA = 0.5, 0.5
REWARDS = (1.0, 2.0)


@pytest.fixture(scope="module")
def policy():
    policy = nano_policy()
    policy.value_head.layers[2].weight.data.normal_(std=0.5)
    return policy


def ended(reason):
    steps = [
        step(
            Completion("+", np.array([300 + i, 301], np.int32), np.array([-1, -2], np.float32)),
            ParsedAction(0, "+", "", {}, 0),
            reward,
            prompt(f"step {i}"),
        )
        for i, reward in enumerate(REWARDS)
    ]
    final = prompt("after the last step") if reason.is_bootstrapped else None
    return trajectory(steps, reason, final_messages=final)


def credited(policy, trajectories, **options):
    samples = build_samples(trajectories, policy.model, policy.images)
    annotate(policy, trajectories, samples)
    PolicyGradient(PPOConfig(gamma=GAMMA, gae_lambda=LAMBDA, normalise_advantages=False, **options)).credit(samples)
    return [s for sample in samples for s in sample.steps]


@pytest.mark.parametrize("reason", list(StopReason))
def test_truncation_what_follows_the_last_step_is_bootstrapped_or_0(policy, reason):
    v0, v1, after = values(policy, [prompt("step 0"), prompt("step 1"), prompt("after the last step")]).astype(float)
    is_bootstrapped = reason in (
        StopReason.TRUNCATED, StopReason.CUT, StopReason.CONTEXT_OVERFLOW, StopReason.INTERRUPTED
    )  # fmt: skip
    next_value = after if is_bootstrapped else 0.0
    last = REWARDS[1] + GAMMA * next_value - v1
    first = REWARDS[0] + GAMMA * v1 - v0 + GAMMA * LAMBDA * last
    steps = credited(policy, [ended(reason)])
    assert [s.advantage for s in steps] == pytest.approx([first, last], abs=1e-5)
    assert [s.value_target for s in steps] == pytest.approx([first + v0, last + v1], abs=1e-5)
    treated_as_the_other = REWARDS[1] + GAMMA * (0.0 if is_bootstrapped else after) - v1  # the wrong variant
    assert abs(after) > 0.01 and abs(steps[1].advantage - treated_as_the_other) > 0.004


def test_truncation_trajectories_do_not_leak_into_each_other(policy):
    reasons = [StopReason.TERMINATED, StopReason.CUT, StopReason.PARSE_FAILURE, StopReason.TRUNCATED]
    together = credited(policy, [ended(r) for r in reasons])
    alone = [s for r in reasons for s in credited(policy, [ended(r)])]
    assert [s.advantage for s in together] == pytest.approx([s.advantage for s in alone], abs=1e-5)


def test_truncation_a_cut_without_its_final_observation_is_refused(policy):
    broken = ended(StopReason.CUT)
    broken.final_messages = None
    with pytest.raises(ValueError, match="without a final observation"):
        annotate(policy, [broken], build_samples([broken], policy.model, policy.images))


def test_truncation_a_missing_next_value_is_refused():
    sample = TrainingSample(np.arange(3), (), (SampleStep(1, 1, 2),))
    with pytest.raises(ValueError, match="next value"):
        PolicyGradient(PPOConfig()).credit([sample])


def test_no_samples_no_credit():
    assert np.isnan(PolicyGradient(PPOConfig()).credit([])["train/explained_variance"])


def test_normalised_advantages_have_mean_0_and_the_same_order(policy):
    trajectories = [ended(StopReason.TERMINATED), ended(StopReason.CUT)]
    samples = build_samples(trajectories, policy.model, policy.images)
    annotate(policy, trajectories, samples)
    PolicyGradient(PPOConfig(gamma=GAMMA, gae_lambda=LAMBDA)).credit(samples)
    advantages = np.array([s.steps[0].advantage for s in samples])
    plain = np.array([s.advantage for s in credited(policy, trajectories)])
    assert advantages.mean() == pytest.approx(0, abs=1e-9)
    assert advantages.std(ddof=1) == pytest.approx(1)
    assert np.array_equal(advantages.argsort(), plain.argsort())
