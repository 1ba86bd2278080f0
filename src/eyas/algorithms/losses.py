"""Policy and value losses: pure functions on tensors. Each returns per-element losses; the caller sums and divides."""

from collections.abc import Callable

import torch
from torch import Tensor

# ----------------------------------------------------------------------------------------------- of the policy


def clipped_policy_loss(
    logprobs: Tensor, sampling_logprobs: Tensor, advantages: Tensor, clip: float, clip_high: float | None = None
) -> Tensor:
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7), negated: one loss an element, shapes all equal.

    With `clip_high` the ratio may rise to 1 + clip_high and fall to 1 - clip (DAPO: Yu et al. 2025).
    """
    ratio = torch.exp(logprobs - sampling_logprobs)
    held = ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    return -torch.minimum(ratio * advantages, held * advantages)


def cispo_loss(
    logprobs: Tensor, sampling_logprobs: Tensor, advantages: Tensor, clip: float, clip_high: float | None = None
) -> Tensor:
    """REINFORCE, weighted by the clipped ratio, which itself gets no gradient (CISPO: MiniMax-M1 2025)."""
    ratio = torch.exp(logprobs - sampling_logprobs).detach()
    return -ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high)) * advantages * logprobs


PolicyLoss = Callable[[Tensor, Tensor, Tensor, float, float | None], Tensor]
LOSSES: dict[str, PolicyLoss] = {"clip": clipped_policy_loss, "gspo": clipped_policy_loss, "cispo": cispo_loss}
LENGTH_NORMALISED = {"gspo"}  # the log-ratio of a unit is the mean over its tokens (GSPO: Zheng et al. 2025)


def is_clipped(
    logprobs: Tensor, sampling_logprobs: Tensor, advantages: Tensor, clip: float, clip_high: float | None = None
) -> Tensor:
    """Where the clip stops the gradient: the ratio is beyond the clip on the side that the advantage pushes to."""
    ratio = torch.exp(logprobs - sampling_logprobs)
    highest = 1 + (clip if clip_high is None else clip_high)
    return ((ratio > highest) & (advantages > 0)) | ((ratio < 1 - clip) & (advantages < 0))


def importance_weights(logprobs: Tensor, sampling_logprobs: Tensor, cap: float, is_masked: bool) -> Tensor:
    """Ratio of the learner's policy to the sampler's, without gradient: truncated at the cap (Yao et al. 2025), or 0
    where it lies outside [1 / cap, cap]."""
    ratio = torch.exp(logprobs - sampling_logprobs).detach()
    if is_masked:
        return torch.where((ratio <= cap) & (ratio >= 1 / cap), ratio, 0.0)
    return ratio.clamp(max=cap)


def weighted_sums(values: Tensor, weights: Tensor, owners: Tensor, num_owners: int) -> Tensor:
    """Sum of weights * values by owner: (N,), (N,), (N,) -> (num_owners,). Of a step's log-probs: RL4VLM, eq. 4."""
    return torch.zeros(num_owners, device=values.device).index_add(0, owners, weights * values)


# ----------------------------------------------------------------------------------------------- of the critic


def clipped_value_loss(values: Tensor, old_values: Tensor, targets: Tensor, clip: float | None) -> Tensor:
    """Half the squared error; with a clip, the worse of it and that of a value held within clip of the old one."""
    loss = 0.5 * (values - targets) ** 2
    if clip is None:
        return loss
    held = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum(loss, 0.5 * (held - targets) ** 2)


# ----------------------------------------------------------------------------------------------- KL divergences


def kl_k1(logprobs: Tensor, sampling_logprobs: Tensor) -> Tensor:
    """Estimator of KL(sampling || other) on samples of the sampling policy: -log r. Unbiased, and may be negative.

    As a loss its gradient is 0 on average: use it in rewards, or weighted by the ratio (http://joschu.net/blog/kl-approx.html).
    """
    return sampling_logprobs - logprobs


def kl_k2(logprobs: Tensor, sampling_logprobs: Tensor) -> Tensor:
    """Half the squared log-ratio: biased, never negative, and on-policy its gradient is that of the KL."""
    return 0.5 * (logprobs - sampling_logprobs) ** 2


def kl_k3(logprobs: Tensor, sampling_logprobs: Tensor) -> Tensor:
    """Schulman's k3 estimator of KL(sampling || other) on samples of the sampling policy: r - 1 - log r >= 0."""
    log_ratio = logprobs - sampling_logprobs
    return torch.expm1(log_ratio) - log_ratio


KL_ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


def kl(logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """Exact KL(p || q) of two distributions over K: (..., K) log-probs of each -> (...). What p rules out counts nothing."""
    difference = (logprobs - other_logprobs).masked_fill(logprobs == -torch.inf, 0.0)
    return (logprobs.exp() * difference).sum(-1)
