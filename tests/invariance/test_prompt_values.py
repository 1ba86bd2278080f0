"""The values of prompts that were read to sample are those of a pass of their own."""

import numpy as np
import torch

from eyas.types import SampleRequest
from helpers import nano_policy, picture, prompt, values


def messages(policy):
    return [prompt("Look around. " * (i % 3 + 1), policy.images.put(picture(i))) for i in range(9)]


def policy_with_values():
    policy = nano_policy()
    with torch.no_grad():
        for parameter in policy.value_head.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return policy


def passes(policy, monkeypatch):
    count = []
    plain = type(policy.model).hidden

    def hidden(self, *args, **kwargs):
        count.append(1)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(type(policy.model), "hidden", hidden)
    return count


def test_values_come_from_the_pass_that_read_the_prompts(monkeypatch):
    policy = policy_with_values()
    expected = values(policy, messages(policy))
    assert len(set(expected.round(4))) == 9
    policy.sample([SampleRequest(m, i, 4) for i, m in enumerate(messages(policy))])
    count = passes(policy, monkeypatch)
    assert np.abs(values(policy, messages(policy)) - expected).max() < 1e-5
    assert not count
    values(policy, [*messages(policy), prompt("Something else.")])
    assert len(count) == 1


def test_stalecache_values_do_not_outlive_the_weights(monkeypatch):
    policy = policy_with_values()
    policy.sample([SampleRequest(m, i, 4) for i, m in enumerate(messages(policy))])
    with torch.no_grad():
        policy.value_head.layers[-1].bias.add_(1.0)
    stale = values(policy, messages(policy))  # the wrong variant: the version did not change
    policy.version += 1
    assert np.allclose(values(policy, messages(policy)), stale + 1, atol=1e-5)
