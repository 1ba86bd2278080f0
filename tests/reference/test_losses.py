"""Losses against numbers worked by hand."""

import math

import pytest
import torch

from eyas.algorithms.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    is_clipped,
    kl,
    kl_k3,
    weighted_sums,
)

log = math.log


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        # clip 0.2; the gradient is with respect to the log-prob
        (1.5, 2.0, -2.4, 0.0, True),  # already more likely than the clip rewards
        (1.5, -2.0, 3.0, 3.0, False),  # more likely and bad: still pushed down
        (0.5, 2.0, -1.0, -1.0, False),  # less likely and good: still pushed up
        (0.5, -2.0, 1.6, 0.0, True),
        (1.1, 2.0, -2.2, -2.2, False),  # within the clip
        (1.0, -2.0, 2.0, 2.0, False),
    ],
)
def test_clipped_policy_loss(ratio, advantage, loss, gradient, clipped):
    logprob = torch.tensor([-1.0 + log(ratio)], requires_grad=True)
    old, advantages = torch.tensor([-1.0]), torch.tensor([advantage])
    result = clipped_policy_loss(logprob, old, advantages, 0.2)
    result.sum().backward()
    assert result.item() == pytest.approx(loss, abs=1e-6)
    assert logprob.grad.item() == pytest.approx(gradient, abs=1e-6)
    assert is_clipped(logprob, old, advantages, 0.2).item() is clipped
    always_clamped = -min(max(ratio, 0.8), 1.2) * advantage  # the wrong variant stops the pessimistic gradients too
    assert (abs(always_clamped - loss) < 1e-6) == (clipped or 0.8 <= ratio <= 1.2)


@pytest.mark.parametrize(
    ("value", "old", "target", "clip", "loss"),
    [
        (1.0, 0.0, 3.0, None, 2.0),
        (1.0, 0.0, 3.0, 0.2, 0.5 * 2.8**2),  # held at 0.2, which is further from the target
        (1.0, 0.0, 0.5, 0.2, 0.5 * 0.5**2),  # the plain error is the worse one
        (0.1, 0.0, 3.0, 0.2, 0.5 * 2.9**2),  # within the clip
        (-1.0, 0.0, -3.0, 0.2, 0.5 * 2.8**2),
    ],
)
def test_clipped_value_loss(value, old, target, clip, loss):
    tensors = (torch.tensor([x]) for x in (value, old, target))
    assert clipped_value_loss(*tensors, clip).item() == pytest.approx(loss)


def test_a_clipped_value_gets_no_gradient():
    value = torch.tensor([1.0], requires_grad=True)
    clipped_value_loss(value, torch.zeros(1), torch.full((1,), 3.0), 0.2).sum().backward()
    assert value.grad.item() == 0


def test_k3_is_0_where_equal_and_never_negative():
    assert kl_k3(torch.tensor([-2.0]), torch.tensor([-2.0])).item() == 0
    new, old = -torch.rand(1000) * 5, -torch.rand(1000) * 5
    assert (kl_k3(new, old) >= 0).all()
    assert kl_k3(torch.tensor([log(0.2)]), torch.tensor([log(0.4)])).item() == pytest.approx(0.5 - 1 + log(2))


def test_k3_is_unbiased_for_kl_of_sampling_from_current():
    """Exact expectation over a categorical distribution; the other direction's KL is another number."""
    sampling, current = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    expected = (sampling * kl_k3(current.log(), sampling.log())).sum()
    assert expected.item() == pytest.approx((sampling * (sampling / current).log()).sum().item())
    reverse = (current * (current / sampling).log()).sum().item()
    assert abs(expected.item() - reverse) > 0.01
    swapped = (sampling * kl_k3(sampling.log(), current.log())).sum().item()  # the wrong variant: arguments swapped
    assert abs(swapped - expected.item()) > 0.01


@pytest.mark.parametrize(("thought_weight", "sums"), [(0.0, [-4.0, -1.0]), (0.5, [-5.5, -2.0]), (1.0, [-7.0, -3.0])])
def test_weighted_sums(thought_weight, sums):
    """Step 0: thoughts -1, -2, action -4. Step 1: thought -2, action -1."""
    logprobs = torch.tensor([-1.0, -2.0, -4.0, -2.0, -1.0])
    weights = torch.where(torch.tensor([True, True, False, True, False]), thought_weight, 1.0)
    assert weighted_sums(logprobs, weights, torch.tensor([0, 0, 0, 1, 1]), 2).tolist() == sums


def test_kl_over_actions_by_hand():
    p, q = (
        torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]).log(),
        torch.tensor([[0.25, 0.75, 0.0], [0.2, 0.3, 0.5]]).log(),
    )
    expected = 0.5 * log(0.5 / 0.25) + 0.5 * log(0.5 / 0.75)
    assert kl(p, q).tolist() == pytest.approx([expected, 0.0], abs=1e-6)
    assert kl(q, p)[0] != pytest.approx(expected, abs=1e-3)  # the wrong direction
