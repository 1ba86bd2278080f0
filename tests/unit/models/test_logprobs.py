"""Log-probs of many tokens a few at a time: the same numbers and the same gradient, without all logits at once."""

import pytest
import torch
from torch import nn

from eyas.models.logprobs import chosen_logprobs, entropies, token_logprobs, tokens_at_once

FORBIDDEN = torch.tensor([3, 7])


def losses(chunk, needs_entropy=True, temperature=0.7, forbidden_ids=FORBIDDEN):
    """Log-probs, entropies, gradients of states and weights, and the largest number of tokens whose logits existed."""
    torch.manual_seed(0)
    hidden, head = torch.randn(13, 8, requires_grad=True), nn.Linear(8, 50)
    seen = []

    def counted(states):
        seen.append(len(states))
        return head(states)

    ids = torch.randint(10, 50, (13,))
    chosen, entropy = chosen_logprobs(hidden, ids, counted, temperature, forbidden_ids, needs_entropy, chunk)
    total = (chosen * torch.arange(13)).sum() + (entropy.square().sum() if needs_entropy else 0)
    total.backward()
    return chosen.detach(), entropy, hidden.grad, head.weight.grad, max(seen)


@pytest.mark.parametrize("chunk", [1, 4, 12, 13])
def test_a_few_at_a_time_give_the_same_numbers_and_the_same_gradient(chunk):
    whole, parts = losses(None), losses(chunk)
    for a, b in zip(whole[:4], parts[:4], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert (whole[4], parts[4]) == (13, chunk)


def test_they_are_token_logprobs_of_the_chosen_ids_and_entropies_of_the_whole():
    torch.manual_seed(0)
    hidden, head = torch.randn(5, 8), nn.Linear(8, 50)
    ids = torch.tensor([10, 11, 12, 13, 14])
    chosen, entropy = chosen_logprobs(hidden, ids, head, 0.7, FORBIDDEN, True, 2)
    of_all = token_logprobs(head(hidden), 0.7, FORBIDDEN)
    assert chosen.tolist() == pytest.approx(of_all[range(5), ids].tolist(), abs=1e-6)
    assert entropy is not None
    p = of_all.exp()
    assert entropy.tolist() == pytest.approx(torch.special.entr(p).sum(-1).tolist(), abs=1e-5)
    assert chosen_logprobs(hidden, ids, head, 0.7, FORBIDDEN, False, 2)[1] is None


def test_temperature_and_forbidden_ids_are_read():
    default = losses(4)[0]
    assert not torch.allclose(losses(4, temperature=1.0)[0], default)
    assert not torch.allclose(losses(4, forbidden_ids=None)[0], default)


def test_a_uniform_distribution_over_what_is_allowed_has_the_entropy_of_its_logarithm():
    logprobs = token_logprobs(torch.zeros(1, 10), 1.0, FORBIDDEN)
    assert entropies(logprobs).item() == pytest.approx(torch.tensor(8.0).log().item())


def test_a_large_vocabulary_leaves_room_for_hundreds_of_tokens():
    assert 100 <= tokens_at_once(150_000) <= 1000
    assert tokens_at_once(2**40) == 1
