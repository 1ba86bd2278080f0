"""Attention for passes of the learner on a CPU, by products over blocks of queries.

Torch's fused attention multiplies what lies after each token too, and does so in float32 whatever the precision. Here a block
of causal queries sees only the keys up to its last one, products run in the precision of the pass, and what a block needs stays
in the caches. As there, scores are computed again in the backward pass: memory grows with the tokens, not with their square.
Scores are rounded to the precision of the pass, as those of transformers' own "eager" attention are.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "eyas_blocks"
QUERIES_BYTES = 256  # of a block, for each number of a query: 64 in float32, 128 in bfloat16
COMMON_KEYS = 16
SCORES = 2**18  # of a block, over all its rows and heads: what fits into a core's cache


class _Blocks(torch.autograd.Function):
    """query (B, H, g, T, D), already scaled; key and value (B, H, S, D): g query heads attend to each. bias (B, 1 or T, S).

    `after`: queries are the tokens behind so many keys, and see none later than themselves; none: they see all keys.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, after: int | None) -> Tensor:
        ctx.save_for_backward(query, key, value, bias)
        ctx.after = after
        out = torch.empty_like(query)
        for rows, queries, end, _, weights in _blocks(query, key, bias, after):
            _put(out, rows, queries, torch.bmm(weights, value[rows, :, :end].flatten(0, 1)))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias = ctx.saved_tensors
        of_query = torch.empty_like(query)
        # float32: every block adds to them
        of_key, of_value = (torch.zeros(x.shape, dtype=torch.float32) for x in (key, value))
        for rows, queries, end, asked, weights in _blocks(query, key, bias, ctx.after):
            seen, told = (x[rows, :, :end].flatten(0, 1) for x in (key, value))
            gradient = gradients[0][rows, :, :, queries].reshape(asked.shape)
            of_weights = torch.bmm(gradient, told.transpose(1, 2))
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            _put(of_query, rows, queries, torch.bmm(of_scores, seen))
            for total, parts, along in ((of_key, of_scores, asked), (of_value, weights, gradient)):
                added = torch.bmm(parts.transpose(1, 2), along)
                total[rows, :, :end] += added.view(-1, *total.shape[1:2], *added.shape[1:])
        return of_query, of_key.to(key.dtype), of_value.to(value.dtype), None, None


def _blocks(
    query: Tensor, key: Tensor, bias: Tensor | None, after: int | None
) -> Iterator[tuple[slice, slice, int, Tensor, Tensor]]:
    """Of each block its rows, its queries, the end of its keys, the queries (n * H, g * t, D) and their weights."""
    count, heads, groups, length, size = query.shape
    block = QUERIES_BYTES // query.element_size()
    most = max(1, SCORES // (heads * groups * block * key.shape[2]))
    later = torch.full((block, block), torch.finfo(query.dtype).min, dtype=query.dtype).triu(1)
    for first in range(0, count, most):
        rows = slice(first, first + most)
        for begin in range(0, length, block):
            queries = slice(begin, min(begin + block, length))
            width = queries.stop - begin
            end = key.shape[2] if after is None else after + queries.stop
            asked = query[rows, :, :, queries].reshape(-1, groups * width, size)
            scores = torch.bmm(asked, key[rows, :, :end].flatten(0, 1).transpose(1, 2))
            parted = scores.view(-1, heads * groups, width, end)
            if bias is not None:
                parted += (bias if bias.shape[1] == 1 else bias[:, queries])[rows, None, :, :end]
            if after is not None:
                parted[..., after + begin :] += later[:width, :width]
            yield rows, queries, end, asked, torch.softmax(scores, -1)


def _put(out: Tensor, rows: slice, queries: slice, found: Tensor) -> None:
    """found (n * H, g * t, D) into its places of out (B, H, g, T, D)."""
    place = out[rows, :, :, queries]
    place.copy_(found.view(place.shape))


def attend_in_blocks(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """query (B, H, T, D), key and value (B, H / g, S, D) -> (B, T, H, D): the queries are the last T of S tokens.

    `attention_mask` bool (B, S) says which of the first S - T keys there are: padding on the right is seen by nothing before
    it. Or it is added to the scores, (B, 1, T, S), and takes more from what a causal mask leaves.
    """
    if torch.is_autocast_enabled("cpu"):
        # Scores are rounded: a bias that all keys have in common, as those of Qwen2, would take most of their digits. Softmax and
        # gradients stay the same without it; the first keys tell it, so that later tokens change no rounding before them.
        key = key - key.detach()[:, :, :COMMON_KEYS].mean(2, keepdim=True)
        query, key, value = (x.to(torch.get_autocast_dtype("cpu")) for x in (query, key, value))
    parted = query.unflatten(1, (key.shape[1], -1)) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    after = key.shape[2] - query.shape[2] if getattr(module, "is_causal", True) else None
    bias = _bias(attention_mask, key.shape[2] if after is None else after, query.dtype)
    with torch.autocast("cpu", enabled=False):
        out: Any = _Blocks.apply(parted.contiguous(), key.contiguous(), value.contiguous(), bias, after)
    return out.view(query.shape).transpose(1, 2), None


def _bias(mask: Tensor | None, count: int, dtype: torch.dtype) -> Tensor | None:
    """What is added to scores beyond what is causal: (B, 1 or T, S), or none. `count`: keys that may be no tokens."""
    least = torch.finfo(dtype).min
    if mask is not None and mask.ndim == 4:
        return mask[:, 0].clamp(min=least).to(dtype)
    if mask is None or mask[:, :count].all():
        return None
    bias = torch.zeros(mask.shape, dtype=dtype)
    bias[:, :count].masked_fill_(~mask[:, :count], least)
    return bias[:, None]


def _keys_only(*args: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    return attention_mask


AttentionInterface.register(NAME, attend_in_blocks)
AttentionMaskInterface.register(NAME, _keys_only)
