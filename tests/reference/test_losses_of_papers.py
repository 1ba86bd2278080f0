"""Losses of the papers on numbers worked by hand: asymmetric clip, CISPO, GSPO, averages, importance, KL to a reference."""

import math

import numpy as np
import pytest
import torch

from eyas.algorithms.base import LearnerOutput
from eyas.algorithms.losses import (
    KL_ESTIMATORS,
    LOSSES,
    cispo_loss,
    clipped_policy_loss,
    importance_weights,
    is_clipped,
    kl_k1,
    kl_k2,
)
from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.algorithms.registry import PAPERS
from eyas.batch import Denominators, SampleStep, TrainingSample
from eyas.collate import collate

log = math.log


def one(function, ratio, advantage, clip, clip_high):
    """Loss and gradient with respect to the log-prob, which was -1 when sampled."""
    logprob = torch.tensor([-1.0 + log(ratio)], requires_grad=True)
    loss = function(logprob, torch.tensor([-1.0]), torch.tensor([advantage]), clip, clip_high)
    loss.sum().backward()
    return loss.item(), logprob.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.25, 2.0, -2.5, -2.5),  # above 1.2, below 1.28: a symmetric clip would have stopped here
        (1.5, 2.0, -2.56, 0.0),
        (0.75, -2.0, 1.6, 0.0),  # the lower side is the narrow one
        (0.85, -2.0, 1.7, 1.7),
    ],
)
def test_asymmetric_clip(ratio, advantage, loss, gradient):
    assert one(clipped_policy_loss, ratio, advantage, 0.2, 0.28) == pytest.approx((loss, gradient), abs=1e-6)
    terms = (torch.tensor([-1.0 + log(ratio)]), torch.tensor([-1.0]), torch.tensor([advantage]))
    assert is_clipped(*terms, 0.2, 0.28).item() is (gradient == 0)


def test_asymmetric_clip_equals_the_symmetric_one_where_both_are_alike():
    assert one(clipped_policy_loss, 1.5, 2.0, 0.2, None) == one(clipped_policy_loss, 1.5, 2.0, 0.2, 0.2)


@pytest.mark.parametrize(("ratio", "weight"), [(1.0, 1.0), (3.0, 3.0), (9.0, 5.0), (0.1, 0.1)])
def test_cispo_by_hand(ratio, weight):
    """Clip 1 and 4: weights in [0, 5]; the gradient is the weight times the advantage, and never vanishes."""
    loss, gradient = one(cispo_loss, ratio, 2.0, 1.0, 4.0)
    assert loss == pytest.approx(-weight * 2 * (-1 + log(ratio)), rel=1e-5)
    assert gradient == pytest.approx(-2 * weight, rel=1e-5)
    if ratio > 5:
        assert one(clipped_policy_loss, ratio, 2.0, 1.0, 4.0)[1] == 0  # the wrong variant drops the token


def test_cispo_and_clip_have_one_gradient_where_the_ratio_is_1():
    assert one(cispo_loss, 1.0, 3.0, 0.2, None)[1] == one(clipped_policy_loss, 1.0, 3.0, 0.2, None)[1] == -3


@pytest.mark.parametrize(
    ("ratio", "truncated", "masked"), [(1.0, 1, 1), (1.9, 1.9, 1.9), (3.0, 2, 0), (0.6, 0.6, 0.6), (0.4, 0.4, 0)]
)
def test_importance_weights_by_hand(ratio, truncated, masked):
    logprobs = torch.tensor([-1 + log(ratio)], requires_grad=True)
    for is_masked, expected in ((False, truncated), (True, masked)):
        weights = importance_weights(logprobs, torch.tensor([-1.0]), 2.0, is_masked)
        assert weights.item() == pytest.approx(expected, rel=1e-5) and not weights.requires_grad


# ----------------------------------------------------------------------------------------------- KL to a reference


def test_klestimator_by_hand():
    """log p = -1, log p_ref = -2: log r = -1."""
    ours, reference = torch.tensor([-1.0]), torch.tensor([-2.0])
    found = {name: f(reference, ours).item() for name, f in KL_ESTIMATORS.items()}
    assert found == {"k1": 1.0, "k2": 0.5, "k3": pytest.approx(math.exp(-1))}


def test_klestimator_gradients_in_the_loss():
    """Exact expectations on-policy: k2 pulls with the gradient of the KL, k1 not at all, k3 with another divergence's."""
    logits = torch.tensor([0.3, -0.5, 1.0], requires_grad=True)
    reference = torch.tensor([0.2, 0.5, 0.3]).log()

    def gradient(of):
        (found,) = torch.autograd.grad(of(logits.log_softmax(0)), logits)
        return found

    exact = gradient(lambda p: (p.exp() * (p - reference)).sum())
    of_samples = {
        n: gradient(lambda p, f=f: (p.exp().detach() * f(reference, p)).sum()) for n, f in KL_ESTIMATORS.items()
    }
    assert torch.allclose(of_samples["k2"], exact, atol=1e-6)
    assert of_samples["k1"].abs().max() < 1e-6 < exact.abs().max()
    assert not torch.allclose(of_samples["k3"], exact, atol=1e-3)  # on-policy it is KL(reference || policy)'s
    assert torch.allclose(of_samples["k3"], gradient(lambda p: (reference.exp() * (reference - p)).sum()), atol=1e-6)


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_klestimator_the_importance_corrected_one_has_the_exact_gradient_off_policy(name):
    """Samples come from another distribution: the ratio to it makes value and gradient those of KL(policy || reference)."""
    logits = torch.tensor([0.3, -0.5, 1.0], requires_grad=True)
    reference, sampling = torch.tensor([0.2, 0.5, 0.3]).log(), torch.tensor([0.6, 0.3, 0.1]).log()

    def corrected(ours):
        options = PAPERS["ppo"](kl_coef=1.0, kl_estimator=name, is_kl_corrected=True, ratio="token")
        samples = [sample([[0]], sampling=[float(s)]) for s in sampling]
        for s, r in zip(samples, reference):
            s.reference_logprobs = np.array([float(r)], np.float32)
        batch = collate(samples, 0)
        kl = PolicyGradient(options)._kl(batch, LearnerOutput(ours, None, None))
        return (sampling.exp() * kl).sum()

    def exact(ours):
        return (ours.exp() * (ours - reference)).sum()

    found, wanted = (of(logits.log_softmax(0)) for of in (corrected, exact))
    assert found.item() == pytest.approx(wanted.item(), abs=1e-5)
    assert torch.allclose(*(torch.autograd.grad(x, logits)[0] for x in (found, wanted)), atol=1e-5)


def test_k1_may_be_negative_and_k2_is_never():
    assert kl_k1(torch.tensor([-1.0]), torch.tensor([-2.0])).item() == -1
    assert kl_k2(torch.tensor([-1.0]), torch.tensor([-2.0])).item() == 0.5


# ----------------------------------------------------------------------------------------------- averages and units


def sample(steps, trajectory=0, advantages=None, sampling=None, num_thoughts=0):
    """Completions of as many tokens as each list holds; the first `num_thoughts` of each are thoughts."""
    spans, place = [], 0
    for i, tokens in enumerate(steps):
        place += 2
        advantage = advantages[i] if advantages else 0.0
        spans.append(SampleStep(place, place + num_thoughts, place + len(tokens), advantage=advantage))
        place += len(tokens)
    count = sum(len(s) for s in steps)
    for span, tokens in zip(spans, steps):
        span.share = len(tokens) / count
    sampled = np.array(sampling if sampling is not None else [-1.0] * count, np.float32)
    return TrainingSample(np.zeros(place, np.int64), (), tuple(spans), sampled, trajectory)


def gradients(name, samples, logprobs=None, **options):
    """Of the loss with respect to each token's log-prob; on-policy unless told otherwise."""
    batch = collate(samples, 0)
    logprobs = (batch.sampling_logprobs.clone() if logprobs is None else torch.tensor(logprobs)).requires_grad_()
    algorithm = PolicyGradient(PAPERS[name](**({"kl_coef": 0.0} | options)))
    output = LearnerOutput(logprobs, None, batch.values.clone().requires_grad_())
    algorithm.loss(batch, output, Denominators.of(samples)).total.backward()
    return logprobs.grad.tolist()


def test_lengthbias_each_average_weighs_tokens_as_it_says():
    """Trajectories of (1 + 3) and of 2 tokens, all advantages 1, ratios 1: the gradient is minus each token's weight."""
    samples = [sample([[0], [0, 0, 0]], 0, [1.0, 1.0]), sample([[0, 0]], 1, [1.0])]
    of = {average: gradients("grpo", samples, average=average) for average in ("token", "step", "trajectory")}
    assert of["token"] == pytest.approx([-1 / 6] * 6)
    assert of["step"] == pytest.approx([-1 / 3, -1 / 9, -1 / 9, -1 / 9, -1 / 6, -1 / 6])
    assert of["trajectory"] == pytest.approx([-1 / 8] * 4 + [-1 / 4] * 2)
    constant = gradients("dr_grpo", samples, constant_tokens=10)
    assert constant == pytest.approx([-1 / 20] * 6)  # 2 trajectories of 10


def test_lengthbias_a_trajectory_in_several_samples_weighs_as_one():
    whole = [sample([[0], [0, 0, 0]], 0, [1.0, 1.0]), sample([[0, 0]], 1, [1.0])]
    split = [sample([[0]], 0, [1.0]), sample([[0, 0, 0]], 0, [1.0]), whole[1]]
    split[0].steps[0].share, split[1].steps[0].share = 0.25, 0.75
    for name in ("grpo", "dr_grpo", "rloo", "gspo"):
        assert gradients(name, split) == pytest.approx(gradients(name, whole))
    assert Denominators.of(split).trajectories == Denominators.of(whole).trajectories == 2


def test_gspo_by_hand():
    """Log-ratios (0.2, 0, 0.1) and advantage 1: the ratio is exp(0.1) with clip 0.2, and each token gets a third of it."""
    samples = [sample([[0], [0, 0]], 0, [1.0, 1.0])]
    found = gradients("gspo", samples, [-0.8, -1.0, -0.9], clip=0.2, clip_high=None)
    assert found == pytest.approx([-math.exp(0.1) / 3] * 3, rel=1e-5)
    assert gradients("gspo", samples, [-0.8, -1.0, -0.9]) == [0, 0, 0]  # beyond the paper's own narrow clip
    by_token = gradients("grpo", samples, [-0.8, -1.0, -0.9], clip=0.3)  # the wrong variant: a ratio a token
    assert by_token == pytest.approx([-math.exp(0.2) / 3, -1 / 3, -math.exp(0.1) / 3], rel=1e-5)
    by_sum = gradients("rloo", samples, [-0.8, -1.0, -0.9], clip=0.5)  # the wrong variant: the sum
    assert by_sum == pytest.approx([-math.exp(0.3)] * 3, rel=1e-5)


def test_a_ratio_a_step_by_hand():
    """Steps with log-ratios 0.1 and (0.1, 0.05), clip 0.2: both ratios within it, the mean over steps."""
    samples = [sample([[0], [0, 0]], 0, [1.0, 2.0])]
    found = gradients("ppo", samples, [-0.9, -0.9, -0.95], thought_weight=1.0)
    second = -2 * math.exp(0.15) / 2
    assert found == pytest.approx([-math.exp(0.1) / 2, second, second], rel=1e-5)
    assert gradients("ppo", samples, [-0.9, -0.8, -0.9], thought_weight=1.0)[1:] == [0, 0]  # exp(0.3) is beyond


@pytest.mark.parametrize(("ratio", "expected"), [("step", [-0.3, -1.0]), ("token", [-0.15, -0.5])])
def test_lambda_weighs_thought_tokens(ratio, expected):
    samples = [sample([[0, 0]], 0, [1.0], num_thoughts=1)]
    assert gradients("ppo", samples, ratio=ratio, thought_weight=0.3) == pytest.approx(expected)


def test_lambda_weighs_in_the_mean_log_ratio_too():
    samples = [sample([[0, 0]], 0, [1.0], num_thoughts=1)]
    found = gradients("gspo", samples, thought_weight=0.5)
    assert found == pytest.approx([-1 / 3, -2 / 3])


def test_importance_weighs_each_tokens_loss():
    """The sampler's engine said -1 for both tokens; the learner finds ratios 1.5 and 4 before the first update."""
    samples = [sample([[0, 0]], 0, [1.0])]
    samples[0].old_logprobs = np.array([-1 + log(1.5), -1 + log(4)], np.float32)
    at_old = samples[0].old_logprobs
    assert gradients("dapo", samples, at_old, importance="truncate") == pytest.approx([-0.75, -1.0])
    assert gradients("dapo", samples, at_old, importance="mask") == pytest.approx([-0.75, 0.0])
    assert gradients("dapo", samples, at_old, importance="mask", importance_cap=5.0) == pytest.approx([-0.75, -2.0])
    samples[0].old_logprobs = None  # the wrong variant: a ratio to the sampler, clipped as if the policy had moved
    assert gradients("dapo", samples, at_old) == [0, 0]


def test_kl_to_the_reference_in_the_loss_by_hand():
    """Advantages 0: what is left is 0.5 times the mean of k3 over tokens, whose gradient is 1 - r."""
    samples = [sample([[0, 0]], 0, [0.0])]
    samples[0].reference_logprobs = np.array([-1 + log(0.5), -1.0], np.float32)
    assert gradients("vl_dac", samples, kl_coef=0.5, value_coef=0.0) == pytest.approx([0.5 * 0.5 / 2, 0.0])


def test_every_loss_of_the_recipes_is_registered():
    assert set(PAPERS["ppo"].model_fields["loss"].annotation.__args__) == set(LOSSES)
    assert set(PAPERS["ppo"].model_fields["kl_estimator"].annotation.__args__) == set(KL_ESTIMATORS)
