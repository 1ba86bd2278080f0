"""Every advantage estimator on numbers worked by hand, with the wrong variants beside them."""

import numpy as np
import pytest

from eyas.algorithms.credit import (
    ESTIMATORS,
    bilevel_gae,
    gae,
    group_relative,
    has_variance,
    leave_one_out,
    returns_to_go,
    token_gammas,
)
from eyas.algorithms.options import CRITIC, ELEMENT_LEVEL, GROUPED
from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.algorithms.registry import PAPERS
from eyas.batch import SampleStep, TrainingSample


def episode(
    rewards, lengths=None, trajectory=0, group=None, anchors=None, values=None, element_values=None, next_value=0.0
):
    """A trajectory in one sample: an observation of five tokens before each completion."""
    lengths = lengths or [1] * len(rewards)
    steps, place = [], 0
    for i, (reward, length) in enumerate(zip(rewards, lengths)):
        place += 5
        anchor = anchors[i] if anchors else f"{trajectory} {i}"
        value = values[i] if values else 0.0
        steps.append(SampleStep(place, place, place + length, reward=reward, anchor=anchor, value=value))
        place += length
    steps[-1].next_value = next_value
    count = sum(lengths)
    for step, length in zip(steps, lengths):
        step.share = length / count
    sample = TrainingSample(np.zeros(place, np.int64), (), tuple(steps), np.full(count, -1.0, np.float32), trajectory)
    sample.group = group
    sample.reference_logprobs = np.full(count, -1.0, np.float32)
    sample.element_values = None if element_values is None else np.array(element_values)
    return sample


def credited(samples, name="ppo", **options):
    """What `credit` wrote: advantages of all steps, and of all elements where it wrote those."""
    options = {"kl_coef": 0.0, "normalise_advantages": False} | options
    PolicyGradient(PAPERS[name](**options)).credit(samples)
    elements = [s.element_advantages for s in samples]
    of_steps = [step.advantage for s in samples for step in s.steps]
    return of_steps, None if elements[0] is None else np.concatenate(elements).tolist()


# ----------------------------------------------------------------------------------------------- with a critic


def test_gaemask_the_advantage_carries_over_observation_tokens():
    """γ 1, λ 0.95, two completions of 3 tokens, 300 observation tokens between them, V = 0.2, reward 1 at the end."""
    steps = SampleStep(5, 5, 8), SampleStep(308, 308, 311, reward=1.0, next_value=0.0)
    sample = TrainingSample(np.zeros(311, np.int64), (), steps, np.zeros(6, np.float32))
    sample.element_values = np.full(6, 0.2)
    _, advantages = credited([sample], estimator="token_gae", ratio="token", gamma=1.0, gae_lambda=0.95)
    assert advantages[0] == pytest.approx(0.619, abs=5e-4)
    assert advantages[-1] == pytest.approx(0.8)

    rewards, is_observation = np.zeros(306), np.zeros(306, dtype=bool)
    rewards[-1], is_observation[3:303] = 1.0, True
    zero_masked, running = np.where(is_observation, 0.0, 0.2), 0.0  # the wrong variants
    first = {}
    for i in reversed(range(306)):
        following = zero_masked[i + 1] if i < 305 else 0.0
        running = (rewards[i] + following - zero_masked[i] + 0.95 * running) * ~is_observation[i]
    first["zero-masked"] = running
    first["counted as steps"] = gae(rewards, np.full(306, 0.2), 0.0, 1.0, 0.95)[0][0]
    assert first == {"zero-masked": pytest.approx(-0.180, abs=1e-3), "counted as steps": pytest.approx(0, abs=5e-4)}


def test_token_gae_by_hand():
    """Two steps of two tokens, γ 0.5 between steps and 1 inside them, λ 0.5, V = (1, 2, 3, 4), V after the end 8.

    δ = (2-1, 1+0.5·3-2, 4-3, 2+0.5·8-4) = (1, 0.5, 1, 2); A3 = 2, A2 = 1+0.5·2, A1 = 0.5+0.5·0.5·2, A0 = 1+0.5·1.
    """
    samples = [episode([1.0, 2.0], [2, 2], element_values=[1, 2, 3, 4], next_value=8.0)]
    steps, tokens = credited(samples, estimator="token_gae", ratio="token", gamma=0.5, gae_lambda=0.5)
    assert tokens == [1.5, 1.0, 2.0, 2.0]
    assert steps == [1.25, 2.0]  # the record's: their mean
    assert samples[0].element_targets.tolist() == [2.5, 3.0, 5.0, 6.0]
    everywhere = gae([0, 1, 0, 2], [1, 2, 3, 4], 8.0, 0.5, 0.5)[0].tolist()  # the wrong variant discounts every token
    assert everywhere != tokens
    assert token_gammas(np.array([2, 2]), 0.5, 1.0).tolist() == [1, 0.5, 1, 0.5]


def test_bilevel_gae_by_hand():
    """Steps first: V at their last tokens (1, 2), δ1 = 2-2 = 0, δ0 = 1+0.5·2-1 = 1, so both are worth 2.

    Then inside each: the last token gets 2-1 and 2-2, the first 0+1-0.5 = 0.5 more and 2-0.5 = 1.5 more.
    """
    arguments = np.array([0.0, 1, 0, 2]), np.array([0.5, 1, 0.5, 2])
    advantages, targets = bilevel_gae(*arguments, 0.0, np.array([2, 2]), 0.5, 1.0, 1.0)
    assert advantages.tolist() == [1.5, 1.0, 1.5, 0.0]
    assert targets.tolist() == [2, 2, 2, 2]
    cut, _ = bilevel_gae(*arguments, 4.0, np.array([2, 2]), 0.5, 1.0, 1.0)  # δ1 = 2+0.5·4-2 = 2, worth (3, 4)
    assert cut.tolist() == [2.5, 2.0, 3.5, 2.0]
    shorter, _ = bilevel_gae(*arguments, 0.0, np.array([2, 2]), 0.5, 1.0, 0.5)
    assert shorter.tolist() == [1.0, 1.0, 1.5, 0.0]
    flat, _ = gae(*arguments, 0.0, token_gammas(np.array([2, 2]), 0.5, 1.0), 0.5)  # the wrong variant: one level
    assert flat.tolist() == [0.8125, 0.625, 1.5, 0.0]


def test_bilevel_gae_through_an_algorithm():
    samples = [episode([1.0, 2.0], [2, 2], element_values=[0.5, 1, 0.5, 2])]
    _, tokens = credited(samples, "vagen", gamma=0.5)
    assert tokens == [1.5, 1.0, 1.5, 0.0]
    assert samples[0].element_targets.tolist() == [2, 2, 2, 2]


def test_bilevel_gae_inside_a_step_does_not_look_at_the_next_one():
    values = np.array([0.5, 1, 0.5, 2])
    alone, _ = bilevel_gae(np.array([0.0, 1]), values[:2], 2.0, np.array([2]), 0.5, 1.0, 1.0)
    both, _ = bilevel_gae(np.array([0.0, 1, 0, 2]), values, 0.0, np.array([2, 2]), 0.5, 1.0, 1.0)
    assert both[:2].tolist() == alone.tolist()  # the second step enters by its value alone: 2 at its last token


# ----------------------------------------------------------------------------------------------- without one


def test_monte_carlo_by_hand():
    assert returns_to_go(np.array([1.0, 0, 4]), 0.5).tolist() == [2, 2, 4]
    samples = [episode([1.0, 0.0, 4.0], values=[9, 9, 9], next_value=9.0)]
    steps, _ = credited(samples, estimator="monte_carlo", gamma=0.5)
    assert steps == [2, 2, 4]  # neither the critic's baseline nor its bootstrap


def test_group_relative_by_hand():
    """Returns (0, 2) and (5, 5, 8): means 1 and 6, standard deviations √2 and √3."""
    returns, groups = np.array([0.0, 2, 5, 5, 8]), [7, 7, 3, 3, 3]
    assert group_relative(returns, groups, False).tolist() == [-1, 1, -1, -1, 2]
    scaled = group_relative(returns, groups, True, epsilon=0.0)
    assert scaled == pytest.approx(np.array([-1, 1, -1, -1, 2]) / np.sqrt([2, 2, 3, 3, 3]))
    over_all = (returns - returns.mean()).tolist()  # the wrong variant: one group
    assert over_all != [-1, 1, -1, -1, 2]


def test_group_relative_gives_each_step_what_its_episode_earned():
    samples = [episode([0.0, 1.0, 1.0], trajectory=0, group=4), episode([0.0], trajectory=1, group=4)]
    steps, _ = credited(samples, "dr_grpo")
    assert steps == [1, 1, 1, -1]


def test_leave_one_out_by_hand():
    """Returns (0, 2, 4): the others' means are 3, 2 and 1."""
    assert leave_one_out(np.array([0.0, 2, 4]), [0, 0, 0]) == pytest.approx([-3, 0, 3])
    with_itself = group_relative(np.array([0.0, 2, 4]), [0, 0, 0], False)  # the wrong variant keeps it in its baseline
    assert with_itself.tolist() == [-2, 0, 2]


def test_reinforce_pp_by_hand():
    """Rewards 1 and 2 at the ends of two steps of two tokens; each token costs 0.1·(log p - log p_ref) = 0.1·0.5."""
    samples = [episode([1.0, 2.0], [2, 2])]
    samples[0].reference_logprobs[:] = -1.5
    _, tokens = credited(samples, "reinforce_pp", kl_coef=0.1)
    assert tokens == pytest.approx([3 - 0.2, 3 - 0.15, 2 - 0.1, 2 - 0.05])


def test_reinforce_pp_is_normalised_over_all_tokens():
    samples = [episode([3.0], [3]), episode([0.0], [1], trajectory=1)]
    _, tokens = credited(samples, "reinforce_pp", normalise_advantages=True)
    assert tokens == pytest.approx([0.5, 0.5, 0.5, -1.5])  # mean 2.25, standard deviation 1.5
    by_step = [1 / np.sqrt(2)] * 3 + [-1 / np.sqrt(2)]  # the wrong variant: over steps
    assert tokens != pytest.approx(by_step)


def test_gigpo_by_hand():
    """Episodes a→b (rewards 0, 1) and a→c (0, 0), γ 0.5: A_episode ±0.5; at `a` returns 0.5 and 0, so A_step ±0.25."""
    samples = [
        episode([0.0, 1.0], anchors=["a", "b"], trajectory=0, group=0),
        episode([0.0, 0.0], anchors=["a", "c"], trajectory=1, group=0),
    ]
    steps, _ = credited(samples, "gigpo", gamma=0.5, omega=2.0, is_std_scaled=False)
    assert steps == [0.5 + 2 * 0.25, 0.5, -0.5 - 2 * 0.25, -0.5]  # `b` and `c` were met once: no A_step
    scaled, _ = credited(samples, "gigpo", gamma=0.5, omega=1.0)
    assert scaled == pytest.approx([2 / np.sqrt(2), 1 / np.sqrt(2), -2 / np.sqrt(2), -1 / np.sqrt(2)], abs=1e-3)
    assert credited(samples, "gigpo", omega=0.0, is_std_scaled=False)[0] == credited(samples, "dr_grpo")[0]


def test_gigpo_compares_equal_observations_inside_a_group_only():
    samples = [
        episode([r], anchors=["a"], trajectory=i, group=g)
        for i, (r, g) in enumerate([(0, 0), (2, 0), (10, 1), (10, 1)])
    ]
    steps, _ = credited(samples, "gigpo", omega=1.0, is_std_scaled=False)
    assert steps == [-2, 2, 0, 0]  # across groups the first two would both look bad


# ----------------------------------------------------------------------------------------------- KL in the reward


@pytest.mark.parametrize(("estimator", "kl"), [("k1", 1.0), ("k2", 0.5), ("k3", np.exp(-1))])
def test_kl_in_the_reward_is_taken_off_each_step(estimator, kl):
    """Two steps of two tokens, each with log-probs -1 and -2 under the policy and the reference; coefficient 0.5."""
    samples = [episode([1.0, 3.0], [2, 2])]
    samples[0].reference_logprobs[:] = -2.0
    options = {"kl_coef": 0.5, "kl_in": "reward", "kl_estimator": estimator}
    steps, _ = credited(samples, estimator="monte_carlo", gamma=1.0, **options)
    assert steps == pytest.approx([4 - 4 * 0.5 * kl, 3 - 2 * 0.5 * kl])


def test_kl_in_the_reward_changes_returns_of_groups():
    samples = [episode([1.0], trajectory=0, group=0), episode([1.0], trajectory=1, group=0)]
    samples[0].reference_logprobs[:] = -3.0  # two nats from the reference
    steps, _ = credited(samples, "rloo", kl_coef=0.5)
    assert steps == [-1, 1]


def test_kl_in_the_reward_without_reference_logprobs_is_refused():
    sample = episode([1.0])
    sample.reference_logprobs = None
    with pytest.raises(ValueError, match="reference log-probs"):
        credited([sample], "reinforce_pp", kl_coef=0.1)


# ----------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", sorted(GROUPED))
def test_a_group_of_one_and_a_group_of_equals_get_0(name):
    samples = [episode([5.0], trajectory=0, group=0), episode([2.0], [1], 1, 1), episode([2.0], [1], 2, 1)]
    assert credited(samples, "grpo", estimator=name)[0] == [0, 0, 0]
    assert not has_variance([5.0]) and not has_variance([2.0, 2.0]) and not has_variance([])
    assert has_variance([2.0, 2.1])


@pytest.mark.parametrize("name", sorted(GROUPED))
def test_zerovariance_the_share_of_groups_that_teach_nothing_is_logged(name):
    samples = [episode([r], trajectory=i, group=i // 2) for i, r in enumerate([1.0, 1.0, 0.0, 3.0, 2.0, 2.0])]
    metrics = PolicyGradient(PAPERS["dapo"](estimator=name)).credit(samples)
    assert metrics["train/zero_variance_groups_share"] == pytest.approx(2 / 3)


def test_a_lost_member_leaves_a_group_to_the_others():
    samples = [episode([r], trajectory=i, group=0) for i, r in enumerate([0.0, 3.0])]
    assert credited(samples, "rloo")[0] == [-3, 3]


def test_trajectories_without_a_group_are_compared_with_none():
    samples = [episode([r], trajectory=i) for i, r in enumerate([0.0, 3.0])]
    assert credited(samples, "grpo")[0] == [0, 0]


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_reward_that_is_not_finite_is_a_clear_error(estimator, bad):
    sample = episode([1.0, bad], values=[0, 0], element_values=[0, 0], group=0)
    with pytest.raises(Exception, match=r"step 1 .* reward of .* \[tasks.rewards\]"):
        credited([sample], "ppo", estimator=estimator, ratio="token")


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
def test_an_iteration_without_a_step_gets_no_credit(estimator):
    metrics = PolicyGradient(PAPERS["ppo"](estimator=estimator, ratio="token")).credit([])
    assert all(np.isnan(v) for v in metrics.values())
    assert gae(np.zeros(0), np.zeros(0), 3.0, 0.9, 0.9)[0].tolist() == []


def test_advantages_that_are_all_0_stay_0_when_normalised():
    samples = [episode([0.0, 0.0], trajectory=i, group=0) for i in range(2)]
    assert credited(samples, "grpo", normalise_advantages=True)[0] == [0, 0, 0, 0]


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
def test_every_estimator_gives_finite_credit_of_its_level(estimator):
    samples = [
        episode([0.5, -1.0], [3, 2], i, i // 2, None, [0.1, 0.2], [0.1, 0.2, 0.3, 0.4, 0.5], 0.3) for i in range(4)
    ]
    steps, elements = credited(samples, estimator=estimator, ratio="token")
    assert np.isfinite(steps).all() and len(steps) == 8
    assert (elements is not None and len(elements) == 20) == (estimator in ELEMENT_LEVEL)


def test_token_values_that_are_missing_are_refused():
    with pytest.raises(ValueError, match="values of every token"):
        credited([episode([1.0])], estimator="token_gae", ratio="token")


def test_every_estimator_of_the_recipes_is_registered():
    names = PAPERS["ppo"].model_fields["estimator"].annotation.__args__
    assert set(names) == set(ESTIMATORS) >= CRITIC | ELEMENT_LEVEL | GROUPED
