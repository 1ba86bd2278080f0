"""Every policy-gradient algorithm: an estimator turns samples into credit, a loss weighs their log-probs by it.

Which estimator and which loss, and with what numbers, a paper's file declares and a recipe may change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from eyas.algorithms.base import Algorithm, LearnerOutput, Loss
from eyas.algorithms.credit import ESTIMATORS, Episode, explained_variance, has_variance, normalised
from eyas.algorithms.losses import (
    KL_ESTIMATORS,
    LENGTH_NORMALISED,
    LOSSES,
    clipped_value_loss,
    importance_weights,
    is_clipped,
    kl_k3,
    weighted_sums,
)
from eyas.algorithms.options import CRITIC, ELEMENT_LEVEL, ELEMENT_VALUES, GROUPED, AlgorithmOptions
from eyas.batch import Denominators, TrainingBatch, TrainingSample
from eyas.errors import EyasError


@dataclass(slots=True)
class _Units:
    """What has a ratio: U tokens, steps or trajectories of a batch."""

    logprobs: Tensor  # float32 (U,)
    old_logprobs: Tensor  # float32 (U,)
    sampling_logprobs: Tensor  # float32 (U,)
    advantages: Tensor  # float32 (U,)
    weights: Tensor  # float32 (U,) in the mean
    count: float  # units of the whole minibatch


class PolicyGradient(Algorithm):
    def __init__(self, options: AlgorithmOptions):
        self.options = options
        self.needs_values = options.estimator in CRITIC
        self.needs_entropy = options.entropy_coef != 0
        self.needs_reference = options.kl_coef != 0
        self.needs_old_logprobs = options.importance != "none"
        self.keeps_trajectories = options.ratio == "trajectory"
        self.more_groups = options.more_groups

    # ------------------------------------------------------------------------------------- credit

    def credit(self, samples: Sequence[TrainingSample]) -> dict[str, float]:
        """Fills advantages and value targets, of steps or of elements.

        Raises EyasError for a reward that is not finite, and ValueError where `annotate` was not asked first.
        """
        parts = [list(part) for _, part in groupby(samples, key=lambda s: s.trajectory)]
        episodes = [self._episode(part) for part in parts]
        estimates = ESTIMATORS[self.options.estimator](episodes, self.options)
        is_of_elements = self.options.estimator in ELEMENT_LEVEL
        metrics: dict[str, float] = {}
        if self.needs_values:
            by_element = self.options.estimator in ELEMENT_VALUES
            values = [e.element_values if by_element else e.values for e in episodes]
            metrics["train/explained_variance"] = explained_variance(
                _joined(values), _joined([t for _, t in estimates])
            )
        if self.options.estimator in GROUPED:
            metrics["train/zero_variance_groups_share"] = _zero_variance_share(episodes)
        advantages = [a for a, _ in estimates]
        if self.options.normalise_advantages:
            ends = np.cumsum([len(a) for a in advantages])[:-1]
            advantages = np.split(normalised(_joined(advantages)), ends)
        for part, of_part, (_, targets) in zip(parts, advantages, estimates, strict=False):
            (_write_elements if is_of_elements else _write_steps)(part, of_part, targets)
        return metrics

    def _episode(self, samples: Sequence[TrainingSample]) -> Episode:
        steps = [step for sample in samples for step in sample.steps]
        rewards = np.array([s.reward for s in steps], dtype=np.float64)
        if not np.isfinite(rewards).all():
            place = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise EyasError(
                f"step {place} of a trajectory has a reward of {rewards[place]}: a reward term has to return finite "
                "numbers; look at the functions under [tasks.rewards]"
            )
        lengths = np.array([s.num_elements for s in steps], dtype=np.int64)
        next_value = steps[-1].next_value
        if next_value is None and self.needs_values:
            raise ValueError("a trajectory's last step must say what its next value is")
        return Episode(
            lengths,
            rewards,
            self._penalties(samples, int(lengths.sum())),
            np.array([s.value for s in steps], dtype=np.float64),
            _elements([s.element_values for s in samples], self.options.estimator in ELEMENT_VALUES, lengths),
            next_value or 0.0,
            samples[0].group if samples[0].group is not None else ("alone", samples[0].trajectory),
            tuple(s.anchor for s in steps),
        )

    def _penalties(self, samples: Sequence[TrainingSample], count: int) -> np.ndarray:
        """What the KL to the reference takes off the reward of each element."""
        if not self.options.kl_coef or self.options.kl_in != "reward":
            return np.zeros(count)
        sampled = torch.from_numpy(_required([_old_logprobs(s) for s in samples], "sampling log-probs"))
        reference = torch.from_numpy(_required([s.reference_logprobs for s in samples], "reference log-probs"))
        return self.options.kl_coef * KL_ESTIMATORS[self.options.kl_estimator](reference, sampled).double().numpy()

    # ------------------------------------------------------------------------------------- loss

    def loss(self, batch: TrainingBatch, output: LearnerOutput, denominators: Denominators) -> Loss:
        """Raises ValueError for samples without sampling log-probs: those of a person or an expert."""
        options = self.options
        if batch.sampling_logprobs is None:
            raise ValueError(
                "a ratio needs the log-probs of when the tokens were sampled: use an sft stage for such data"
            )
        weights, denominator = self._weights(batch, denominators)
        units = self._units(batch, output.logprobs, weights, denominators)
        terms = units.logprobs, units.old_logprobs, units.advantages, options.clip, options.clip_high
        losses = units.weights * LOSSES[options.loss](*terms)
        metrics = {
            "train/clip_share": is_clipped(*terms).float().sum() / units.count,
            "train/kl_k3_sampling_policy": kl_k3(output.logprobs, batch.sampling_logprobs).sum().detach()
            / denominators.tokens,
        }
        if options.importance != "none":
            cap, is_masked = options.importance_cap, options.importance == "mask"
            corrections = importance_weights(units.old_logprobs, units.sampling_logprobs, cap, is_masked)
            losses = losses * corrections
            metrics["train/importance_weight_mean"] = corrections.sum() / units.count
        total = losses.sum() / denominator
        metrics["train/policy_loss"] = total.detach()
        if self.needs_values:
            value = self._value_loss(batch, output, denominators)
            metrics["train/value_loss"] = value.detach()
            total = total + options.value_coef * value
        if output.action_kl is not None:
            metrics["train/action_kl_sampling_policy"] = output.action_kl.sum().detach() / denominators.steps
        if output.entropy is not None:
            entropy = output.entropy.sum() / denominators.tokens
            total = total - options.entropy_coef * entropy
            metrics["train/entropy_nats"] = entropy.detach()
        if self.needs_reference:
            kl = (weights * self._kl(batch, output)).sum() / denominator
            metrics[f"train/kl_{options.kl_estimator}_policy_reference"] = kl.detach()
            if options.kl_in == "loss":
                total = total + options.kl_coef * kl
        return Loss(total, metrics)

    def _weights(self, batch: TrainingBatch, denominators: Denominators) -> tuple[Tensor, float]:
        """Of each element in the mean over tokens, steps or trajectories, and what their sum is divided by."""
        average = self.options.average or self.options.ratio
        if average == "token":
            return torch.ones_like(batch.token_steps, dtype=torch.float32), denominators.tokens
        if average == "constant":
            weight = 1 / self.options.constant_tokens
            return torch.full_like(batch.token_steps, weight, dtype=torch.float32), denominators.trajectories
        lengths = torch.bincount(batch.token_steps, minlength=len(batch.step_rows)).clamp(min=1)
        if average == "step":
            return (1 / lengths)[batch.token_steps], denominators.steps
        return (batch.step_shares / lengths)[batch.token_steps], denominators.trajectories

    def _units(self, batch: TrainingBatch, logprobs: Tensor, weights: Tensor, denominators: Denominators) -> _Units:
        """Log-probs, advantages and weights of tokens, or summed to those of steps or trajectories."""
        assert batch.sampling_logprobs is not None
        sampling = batch.sampling_logprobs
        old = sampling if batch.old_logprobs is None else batch.old_logprobs
        lambdas = torch.where(batch.is_thought, self.options.thought_weight, 1.0)
        if self.options.ratio == "token":
            of_steps = batch.advantages[batch.token_steps]
            advantages = of_steps if batch.element_advantages is None else batch.element_advantages
            return _Units(logprobs, old, sampling, advantages, weights * lambdas, denominators.tokens)
        owners, count, advantages = batch.token_steps, denominators.steps, batch.advantages
        num_units = len(batch.step_rows)
        if self.options.ratio == "trajectory":
            num_units = int(batch.step_trajectories.max()) + 1
            advantages = weighted_sums(batch.advantages, batch.step_shares, batch.step_trajectories, num_units)
            owners, count = batch.step_trajectories[owners], denominators.trajectories
        if self.options.loss in LENGTH_NORMALISED:
            sums = weighted_sums(torch.ones_like(lambdas), lambdas, owners, num_units)
            lambdas = lambdas / sums.clamp(min=1e-8)[owners]
        new, old, sampling = (weighted_sums(of, lambdas, owners, num_units) for of in (logprobs, old, sampling))
        of_units = weighted_sums(weights, torch.ones_like(weights), owners, num_units)
        return _Units(new, old, sampling, advantages, of_units, count)

    def _value_loss(self, batch: TrainingBatch, output: LearnerOutput, denominators: Denominators) -> Tensor:
        clip = self.options.value_clip or None
        if self.options.estimator in ELEMENT_VALUES:
            assert output.element_values is not None and batch.element_values is not None
            assert batch.element_targets is not None
            losses = clipped_value_loss(output.element_values, batch.element_values, batch.element_targets, clip)
            return losses.sum() / denominators.tokens
        assert output.values is not None
        return clipped_value_loss(output.values, batch.values, batch.value_targets, clip).sum() / denominators.steps

    def _kl(self, batch: TrainingBatch, output: LearnerOutput) -> Tensor:
        """KL(policy || reference) of each element, on samples of the policy."""
        assert batch.sampling_logprobs is not None and batch.reference_logprobs is not None
        kl = KL_ESTIMATORS[self.options.kl_estimator](batch.reference_logprobs, output.logprobs)
        return kl * torch.exp(output.logprobs - batch.sampling_logprobs) if self.options.is_kl_corrected else kl


# ----------------------------------------------------------------------------------------------- reading and writing samples


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _required(arrays: Sequence[np.ndarray | None], what: str) -> np.ndarray:
    present = [a for a in arrays if a is not None]
    if len(present) < len(arrays):
        raise ValueError(f"the algorithm needs {what}, and some samples have none")
    return _joined(present)


def _old_logprobs(sample: TrainingSample) -> np.ndarray | None:
    return sample.sampling_logprobs if sample.old_logprobs is None else sample.old_logprobs


def _elements(arrays: Sequence[np.ndarray | None], is_needed: bool, lengths: np.ndarray) -> np.ndarray:
    return _required(arrays, "values of every token").astype(np.float64) if is_needed else np.zeros(int(lengths.sum()))


def _zero_variance_share(episodes: Sequence[Episode]) -> float:
    groups: dict[object, list[float]] = {}
    for episode in episodes:
        groups.setdefault(episode.group, []).append(float(episode.step_rewards.sum()))
    return float(np.mean([not has_variance(returns) for returns in groups.values()])) if groups else float("nan")


def _write_steps(samples: Sequence[TrainingSample], advantages: np.ndarray, targets: np.ndarray) -> None:
    steps = (step for sample in samples for step in sample.steps)
    for step, advantage, target in zip(steps, advantages, targets, strict=True):
        step.advantage, step.value_target = float(advantage), float(target)


def _write_elements(samples: Sequence[TrainingSample], advantages: np.ndarray, targets: np.ndarray) -> None:
    """A step's own advantage, for the record, is the mean over its elements."""
    begin = 0
    for sample in samples:
        first = begin
        for step in sample.steps:
            end = begin + step.num_elements
            step.advantage = float(np.mean(advantages[begin:end])) if end > begin else 0.0
            begin = end
        sample.element_advantages, sample.element_targets = advantages[first:begin], targets[first:begin]
