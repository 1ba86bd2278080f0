"""Token log-probs: the one function that sampler and learner share."""

import torch
from torch import Tensor


def token_logprobs(logits: Tensor, temperature: float | Tensor, forbidden_ids: Tensor | None) -> Tensor:
    """Log-probabilities over the vocabulary as sampling sees them.

    logits (..., V); temperature a number above 0, or broadcastable to (..., 1); forbidden_ids int64 (F,): ids that
    are never sampled, whose probability is 0. Returns float32 (..., V).
    """
    logits = logits.float()
    if forbidden_ids is not None and len(forbidden_ids):
        logits = logits.index_fill(-1, forbidden_ids, float("-inf"))
    return torch.log_softmax(logits / temperature, dim=-1)
