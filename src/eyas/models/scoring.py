"""The exact distribution over a step's actions, from the words of each. Sampler and learner share this function."""

import torch
from torch import Tensor

from eyas.batch import ScoringBatch
from eyas.models.adapter import VisionLanguageModel
from eyas.models.logprobs import token_logprobs


def action_logprobs(
    model: VisionLanguageModel, hidden: Tensor, scoring: ScoringBatch, temperature: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Log-probs of the candidates (P, K), normalised over each step's own, and those of their tokens (M,).

    A candidate's score is the sum of its tokens' log-probs at temperature 1, its end token included, divided by its length
    where that was asked for; the distribution is softmax(scores / temperature). Places without a candidate are -inf.
    """
    logits = model.logits(hidden[scoring.token_rows, scoring.token_columns])
    logprobs = token_logprobs(logits, 1.0, model.forbidden_ids)
    of_tokens = logprobs.gather(-1, scoring.token_ids[:, None])[:, 0]
    flat = torch.zeros(scoring.lengths.numel(), dtype=of_tokens.dtype, device=of_tokens.device)
    scores = flat.index_add(0, scoring.token_candidates, of_tokens).view_as(scoring.lengths)
    scores = scores / scoring.lengths.clamp(min=1.0) / temperature
    return torch.log_softmax(scores.masked_fill(scoring.lengths == 0, -torch.inf), dim=-1), of_tokens
