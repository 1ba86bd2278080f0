"""Policy and value losses: pure functions on tensors. Each returns per-element losses; the caller sums and divides."""

import torch
from torch import Tensor


def clipped_policy_loss(logprobs: Tensor, sampling_logprobs: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7), negated: one loss an element, shapes all equal."""
    ratio = torch.exp(logprobs - sampling_logprobs)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def clipped_value_loss(values: Tensor, old_values: Tensor, targets: Tensor, clip: float | None) -> Tensor:
    """Half the squared error; with a clip, the worse of it and that of a value held within clip of the old one."""
    loss = 0.5 * (values - targets) ** 2
    if clip is None:
        return loss
    held = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum(loss, 0.5 * (held - targets) ** 2)


def is_clipped(logprobs: Tensor, sampling_logprobs: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Where the clip stops the gradient: the ratio is beyond the clip on the side that the advantage pushes to."""
    ratio = torch.exp(logprobs - sampling_logprobs)
    return ((ratio > 1 + clip) & (advantages > 0)) | ((ratio < 1 - clip) & (advantages < 0))


def kl_k3(logprobs: Tensor, sampling_logprobs: Tensor) -> Tensor:
    """Schulman's k3 estimator of KL(sampling || current) on samples of the sampling policy: r - 1 - log r >= 0."""
    log_ratio = logprobs - sampling_logprobs
    return torch.expm1(log_ratio) - log_ratio


def kl(logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """Exact KL(p || q) of two distributions over K: (..., K) log-probs of each -> (...). What p rules out counts nothing."""
    difference = (logprobs - other_logprobs).masked_fill(logprobs == -torch.inf, 0.0)
    return (logprobs.exp() * difference).sum(-1)


def weighted_step_logprobs(token_logprobs: Tensor, weights: Tensor, steps: Tensor, num_steps: int) -> Tensor:
    """Sum of weights * token log-probs over the tokens of each step: (N,), (N,), (N,) -> (S,) (RL4VLM, eq. 4)."""
    return torch.zeros(num_steps, device=token_logprobs.device).index_add(0, steps, weights * token_logprobs)
