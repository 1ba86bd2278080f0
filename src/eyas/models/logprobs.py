"""Token log-probs: what sampler and learner share, and its use on many tokens at once."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 2**26  # numbers: 256 MiB in float32


def sampled_logits(logits: Tensor, temperature: float | Tensor, forbidden_ids: Tensor | None) -> Tensor:
    """Logits as sampling sees them: of what may be sampled, at a temperature. They may be written over.

    logits (..., V); temperature a number above 0, or broadcastable to (..., 1); forbidden_ids int64 (F,): ids that
    are never sampled, whose probability is 0. Returns float32 (..., V).
    """
    logits = logits.float()
    if forbidden_ids is not None and len(forbidden_ids):
        logits.index_fill_(-1, forbidden_ids, float("-inf"))
    if isinstance(temperature, Tensor) or temperature != 1:
        logits.div_(temperature)
    return logits


def token_logprobs(logits: Tensor, temperature: float | Tensor, forbidden_ids: Tensor | None) -> Tensor:
    """Log-probabilities over the vocabulary of `sampled_logits`: float32 (..., V)."""
    copied = logits.to(torch.float32, copy=True)
    return torch.log_softmax(sampled_logits(copied, temperature, forbidden_ids), dim=-1)


def entropies(logprobs: Tensor) -> Tensor:
    """Of distributions given by log-probs (..., V), some of them -inf: nats (...)."""
    return -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(-1)


def chosen_logprobs(
    hidden: Tensor,
    ids: Tensor,
    head: Callable[[Tensor], Tensor],
    temperature: float,
    forbidden_ids: Tensor | None,
    needs_entropy: bool = False,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs of tokens, and the entropies of the distributions that they are from: float32 (N,) each.

    hidden (N, D) predicts ids int64 (N,); `head` gives its logits (N, V). The logits of `chunk` tokens exist at a time, in
    the backward pass too, where they are computed again; none: all at once.
    """

    def of_part(hidden: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        logprobs = token_logprobs(head(hidden), temperature, forbidden_ids)
        chosen = logprobs.gather(-1, ids[:, None])[:, 0]
        return (chosen, entropies(logprobs)) if needs_entropy else (chosen,)

    if chunk is None or len(ids) <= chunk:
        found = of_part(hidden, ids)
    else:
        parts: list[tuple[Tensor, ...]] = [
            checkpoint(of_part, h, i, use_reentrant=False) if torch.is_grad_enabled() else of_part(h, i)
            for h, i in zip(hidden.split(chunk), ids.split(chunk), strict=True)
        ]
        found = tuple(torch.cat(of_all) for of_all in zip(*parts, strict=True))
    return found[0], found[1] if needs_entropy else None


def tokens_at_once(vocabulary_size: int) -> int:
    """How many tokens' logits fit into what `LOGITS_AT_ONCE` allows."""
    return max(1, LOGITS_AT_ONCE // vocabulary_size)
