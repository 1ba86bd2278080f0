"""PPO's loss on a tiny batch, by hand, and that each of its options does something."""

import math

import numpy as np
import pytest
import torch

from eyas.algorithms.base import LearnerOutput
from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.algorithms.supervised import Supervised
from eyas.batch import Denominators, SampleStep, TrainingSample
from eyas.collate import collate
from eyas.config import PPOConfig

LOG2 = math.log(2)


def two_steps():
    """Step 0: a thought and an action token, advantage 1. Step 1: one action token, advantage -2."""
    first = SampleStep(1, 2, 3, reward=1.0, value=0.0, next_value=0.5, advantage=1.0, value_target=2.0)
    second = SampleStep(2, 2, 3, reward=-1.0, value=1.0, next_value=0.0, advantage=-2.0, value_target=0.5)
    return [
        TrainingSample(np.array([5, 6, 7]), (), (first,), np.array([-1.0, -1.0], np.float32), trajectory=0),
        TrainingSample(np.array([5, 6, 8]), (), (second,), np.array([-2.0], np.float32), trajectory=1),
    ]


def output():
    """Log-probs now: the thought twice as likely, its action as before; the second action half as likely."""
    logprobs = torch.tensor([-1 + LOG2, -1.0, -2 - LOG2], requires_grad=True)
    return LearnerOutput(logprobs, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 1.0], requires_grad=True))


def loss(samples=None, **options):
    samples = samples or two_steps()
    return PolicyGradient(PPOConfig(**options)).loss(collate(samples, 0), output(), Denominators.of(samples))


def test_loss_with_a_ratio_a_step():
    """λ 0.5: ratios √2 (clipped to 1.2) and 1/2 (clipped to 0.8). Values 1 and 1, targets 2 and 0.5, old 0 and 1."""
    result = loss(thought_weight=0.5, clip=0.2, value_clip=0.0, value_coef=0.5, entropy_coef=0.1)
    policy = (-1.2 * 1 + 0.8 * 2) / 2
    value = (0.5 * 1**2 + 0.5 * 0.5**2) / 2
    entropy = (1 + 2 + 3) / 3
    assert result.total.item() == pytest.approx(policy + 0.5 * value - 0.1 * entropy)
    assert result.metrics["train/policy_loss"].item() == pytest.approx(policy)
    assert result.metrics["train/value_loss"].item() == pytest.approx(value)
    assert result.metrics["train/entropy_nats"].item() == pytest.approx(entropy)
    assert result.metrics["train/clip_share"].item() == 1
    k3 = ((2 - 1 - LOG2) + 0 + (0.5 - 1 + LOG2)) / 3
    assert result.metrics["train/kl_k3_sampling_policy"].item() == pytest.approx(k3)


def test_loss_with_a_ratio_a_token():
    """Ratios 2 (clipped to 1.2, weight 0.5), 1 and 1/2 (clipped to 0.8); divided by three tokens."""
    result = loss(ratio="token", thought_weight=0.5, clip=0.2, value_clip=0.0, value_coef=0.5)
    policy = (0.5 * -1.2 - 1.0 + 0.8 * 2) / 3
    assert result.total.item() == pytest.approx(policy + 0.5 * 0.3125)
    assert result.metrics["train/clip_share"].item() == pytest.approx(2 / 3)


def test_value_clip_0_is_no_limit():
    assert loss(value_clip=0).total.item() == pytest.approx(loss(value_clip=1e9).total.item())


def test_value_clip_in_the_total():
    result = loss(value_clip=0.2, value_coef=1.0, clip=0.2, thought_weight=0.0)
    held = (0.5 * (0.2 - 2) ** 2 + 0.5 * 0.5**2) / 2
    assert result.metrics["train/value_loss"].item() == pytest.approx(held)


@pytest.mark.parametrize("ratio", ["step", "token"])
def test_thought_weight_0_trains_the_action_tokens_only(ratio):
    samples = two_steps()
    algorithm, out = PolicyGradient(PPOConfig(ratio=ratio, thought_weight=0.0, clip=10.0)), output()
    algorithm.loss(collate(samples, 0), out, Denominators.of(samples)).total.backward()
    assert out.logprobs.grad[0] == 0
    assert (out.logprobs.grad[1:] != 0).all()


def test_thought_weight_1_treats_all_tokens_alike():
    samples = two_steps()
    algorithm, out = PolicyGradient(PPOConfig(thought_weight=1.0, clip=10.0)), output()
    algorithm.loss(collate(samples, 0), out, Denominators.of(samples)).total.backward()
    assert out.logprobs.grad[0] == out.logprobs.grad[1] == pytest.approx(-2 / 2)  # ratio 2, advantage 1, two steps


def test_a_ratio_without_sampling_logprobs_is_refused():
    samples = two_steps()
    samples[0].sampling_logprobs = None
    with pytest.raises(ValueError, match="use an sft stage"):
        PolicyGradient(PPOConfig()).loss(collate(samples, 0), output(), Denominators.of(samples))


def test_supervised_loss_by_hand():
    samples = two_steps()
    result = Supervised().loss(collate(samples, 0), output(), Denominators.of(samples))
    assert result.total.item() == pytest.approx((1 - LOG2 + 1 + 2 + LOG2) / 3)
    assert not Supervised().credit(samples)
