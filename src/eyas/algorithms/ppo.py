"""PPO in the style of RL4VLM: Zhai et al. 2024, "Fine-Tuning Large Vision-Language Models as Decision-Making Agents via RL".

The ratio is that of a whole step: its log-prob is lambda times the sum over the thought tokens plus the sum over the
action tokens. The value is read at the last prompt token; advantages are GAE over environment steps.

What differs from the authors' code, and why: log-probs are of the step's own prompt (theirs used the first step's);
dropout is off while sampling and learning; the action span is found by character offsets, not by token ids; a
truncated or cut episode is bootstrapped. With `ratio = "token"` each token has its own ratio and the step's
advantage, and lambda weighs the thought tokens' losses.
"""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from eyas.algorithms.base import LearnerOutput, Loss
from eyas.algorithms.credit import gae, normalised
from eyas.algorithms.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    is_clipped,
    kl_k3,
    weighted_step_logprobs,
)
from eyas.batch import Denominators, SampleStep, TrainingBatch, TrainingSample
from eyas.config import PPOConfig


class PPO:
    needs_values = True

    def __init__(self, options: PPOConfig):
        self.options = options
        self.needs_entropy = options.entropy_coef != 0

    def credit(self, samples: Sequence[TrainingSample]) -> dict[str, float]:
        every: list[SampleStep] = []
        for _, group in groupby(samples, key=lambda s: s.trajectory):
            steps = [step for sample in group for step in sample.steps]
            next_value = steps[-1].next_value
            if next_value is None:
                raise ValueError("a trajectory's last step must say what its next value is")
            advantages, targets = gae(
                np.array([s.reward for s in steps]),
                np.array([s.value for s in steps]),
                next_value,
                self.options.gamma,
                self.options.gae_lambda,
            )
            for step, advantage, target in zip(steps, advantages, targets, strict=True):
                step.advantage, step.value_target = float(advantage), float(target)
            every += steps
        metrics = {"train/explained_variance": explained_variance(every)}
        if self.options.normalise_advantages:
            for step, advantage in zip(every, normalised(np.array([s.advantage for s in every])), strict=True):
                step.advantage = float(advantage)
        return metrics

    def loss(self, batch: TrainingBatch, output: LearnerOutput, denominators: Denominators) -> Loss:
        assert output.values is not None and batch.sampling_logprobs is not None
        new, old, advantages, elements, weights, count = self._policy_terms(batch, output, denominators)
        policy = (weights * clipped_policy_loss(new, old, advantages, self.options.clip)).sum() / count
        value = clipped_value_loss(output.values, batch.values, batch.value_targets, self.options.value_clip or None)
        value = value.sum() / denominators.steps
        total = policy + self.options.value_coef * value
        metrics = {
            "train/policy_loss": policy.detach(),
            "train/value_loss": value.detach(),
            "train/clip_share": is_clipped(new, old, advantages, self.options.clip).float().sum() / elements,
            "train/kl_k3_sampling_policy": kl_k3(output.logprobs, batch.sampling_logprobs).sum().detach()
            / denominators.tokens,
        }
        if output.action_kl is not None:
            metrics["train/action_kl_sampling_policy"] = output.action_kl.sum().detach() / denominators.steps
        if output.entropy is not None:
            entropy = output.entropy.sum() / denominators.tokens
            total = total - self.options.entropy_coef * entropy
            metrics["train/entropy_nats"] = entropy.detach()
        return Loss(total, metrics)

    def _policy_terms(
        self, batch: TrainingBatch, output: LearnerOutput, denominators: Denominators
    ) -> tuple[Tensor, Tensor, Tensor, int, Tensor, int]:
        """Log-probs now and when sampled, advantages, number of ratios, weights and denominator: by step or by token."""
        assert batch.sampling_logprobs is not None
        weights = torch.where(batch.is_thought, self.options.thought_weight, 1.0)
        if self.options.ratio == "step":
            num_steps = len(batch.step_rows)
            new = weighted_step_logprobs(output.logprobs, weights, batch.token_steps, num_steps)
            old = weighted_step_logprobs(batch.sampling_logprobs, weights, batch.token_steps, num_steps)
            return new, old, batch.advantages, denominators.steps, torch.ones_like(new), denominators.steps
        advantages = batch.advantages[batch.token_steps]
        return output.logprobs, batch.sampling_logprobs, advantages, denominators.tokens, weights, denominators.tokens


def explained_variance(steps: Sequence[SampleStep]) -> float:
    """1 - Var(target - value) / Var(target): 1 for a perfect critic, 0 for a constant one; NaN where targets are equal."""
    if not steps:
        return float("nan")
    targets = np.array([s.value_target for s in steps])
    values = np.array([s.value for s in steps])
    variance = targets.var()
    return float(1 - (targets - values).var() / variance) if variance > 0 else float("nan")
