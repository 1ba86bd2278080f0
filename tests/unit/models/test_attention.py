"""Attention in blocks against torch's own, forward and backward, wherever a block may end."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eyas.models import attention
from eyas.models.attention import attend_in_blocks

CAUSAL, BOTH_WAYS = SimpleNamespace(is_causal=True), SimpleNamespace(is_causal=False)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Of four queries, of one or two rows."""
    monkeypatch.setattr(attention, "QUERIES_BYTES", 16)
    monkeypatch.setattr(attention, "SCORES", 2 * 4 * 4 * 11)


def made(heads: int, num_kv: int, queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((queries, heads), (keys, num_kv), (keys, num_kv))
    drawn = (torch.randn(3, *shape, 8, generator=generator).transpose(1, 2) for shape in shapes)
    query, key, value = (x.requires_grad_() for x in drawn)
    return query, key, value


def assert_same(found: Tensor, expected: Tensor, inputs: tuple[Tensor, ...]) -> None:
    along = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    assert (found - expected).abs().max() < 1e-5
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, along), torch.autograd.grad(expected, inputs, along), strict=True
    ):
        assert (ours - theirs).abs().max() < 1e-5


def sees(queries: int, keys: int) -> Tensor:
    return torch.ones(keys, keys).tril().bool()[keys - queries :].expand(3, 1, queries, keys)


@pytest.mark.parametrize(("heads", "num_kv"), [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize(("queries", "keys"), [(11, 11), (4, 4), (5, 11), (1, 7)])
def test_outputs_and_gradients_are_those_of_torch(heads, num_kv, queries, keys):
    query, key, value = inputs = made(heads, num_kv, queries, keys)
    found, _ = attend_in_blocks(CAUSAL, query, key, value, None, 0.3)
    expected = F.scaled_dot_product_attention(
        query, key, value, attn_mask=sees(queries, keys), scale=0.3, enable_gqa=True
    )
    assert_same(found, expected.transpose(1, 2), inputs)


def test_keys_that_are_no_tokens_are_seen_by_nothing():
    """Row 1 has a gap of two before its queries, and row 2 padding behind it, which is cut off."""
    query, key, value = inputs = made(4, 2, 5, 11)
    tokens = torch.ones(3, 11).bool()
    tokens[1, 4:6], tokens[2, 9:] = False, False
    found, _ = attend_in_blocks(CAUSAL, query, key, value, tokens)
    mask = sees(5, 11) & tokens[:, None, None]
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True).transpose(1, 2)
    is_token = tokens[:, 6:, None, None]
    assert_same(found.where(is_token, 0), expected.where(is_token, 0), inputs)


def test_a_mask_of_each_query_takes_more_away():
    query, key, value = inputs = made(4, 4, 11, 11)
    mask = sees(11, 11).clone()
    mask[:, :, 7:, 3:6] = False
    added = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    found, _ = attend_in_blocks(CAUSAL, query, key, value, added)
    assert_same(found, F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2), inputs)


def test_a_vision_tower_sees_both_ways_and_no_padding():
    query, key, value = inputs = made(4, 4, 11, 11)
    found, _ = attend_in_blocks(BOTH_WAYS, query, key, value, None)
    assert_same(found, F.scaled_dot_product_attention(query, key, value).transpose(1, 2), inputs)
    tokens = torch.ones(3, 11).bool()
    tokens[1, 8:] = False
    found, _ = attend_in_blocks(BOTH_WAYS, query, key, value, tokens)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=tokens[:, None, None])
    assert_same(found, expected.transpose(1, 2), inputs)


def test_autocast_rounds_products_and_not_their_sums():
    query, key, value = made(4, 4, 11, 11)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attend_in_blocks(CAUSAL, query, key, value, None)
    assert found.dtype == torch.bfloat16
    exact, _ = attend_in_blocks(CAUSAL, query, key, value, None)
    assert 0 < (found.float() - exact).abs().max() < 0.05
    of_key, of_exact = (torch.autograd.grad(x.float().sum(), key)[0] for x in (found, exact))
    assert of_key.dtype == torch.float32
    assert (of_key - of_exact).norm() < 0.02 * max(of_exact.norm(), 1)


def test_what_all_keys_have_in_common_costs_no_digits_in_bfloat16():
    """Softmax takes it away again; rounded scores of about 180 would err by 0.5 each."""
    query, key, value = inputs = made(4, 2, 11, 11)
    common = torch.full((8,), 64.0)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attend_in_blocks(CAUSAL, query, key + common, value, None)
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True).transpose(1, 2)
    assert (found.float() - expected).norm() < 0.02 * expected.norm()
    along = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(
        torch.autograd.grad(found.float(), inputs, along), torch.autograd.grad(expected, inputs, along), strict=True
    ):
        assert (ours - theirs).norm() < 0.03 * theirs.norm()
