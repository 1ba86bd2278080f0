"""The learner's sides: ours a whole update, the bare ones plain updates of the same model on ready tensors."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.batch import SampleStep, TrainingBatch, TrainingSample
from eyas.bench.measure import Side
from eyas.bench.workload import requests
from eyas.config import OptimConfig, PPOConfig
from eyas.models.adapter import VisionLanguageModel
from eyas.models.policy import Policy
from eyas.models.reading import batch_of
from eyas.seeding import generator
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer
from eyas.types import Message

TINY_LR = 1e-9  # the weights stay: every repeat does the same work


def learner_sides(policy: Policy, messages: Sequence[tuple[Message, ...]], new_tokens: int) -> list[Side]:
    """`Learner.update` against plain updates with two losses, all on one minibatch with a sample a prompt."""
    samples = training_samples(policy, messages, new_tokens)
    learner = bench_learner(policy)
    return [Side("learner", partial(_update, learner, samples)), *bare_sides(policy, samples)]


def group_update_sides(
    policy: Policy, messages: Sequence[tuple[Message, ...]], group_size: int, new_tokens: int
) -> list[Side]:
    """Updates on groups with one prompt each, against as many samples with prompts and pictures of their own."""
    grouped = [m for m in messages[: len(messages) // group_size] for _ in range(group_size)]
    samples, alone = (training_samples(policy, of_side, new_tokens) for of_side in (grouped, messages))
    learner = bench_learner(policy)
    sides = [Side("group", partial(_update, learner, samples)), Side("alone", partial(_update, learner, alone))]
    return [*sides, *bare_sides(policy, samples)]


def bench_learner(policy: Policy) -> Learner:
    optimizer = Optimizer(policy.model, policy.critic, OptimConfig(lr=TINY_LR), total_steps=1000)
    return Learner(policy, PolicyGradient(PPOConfig()), optimizer)


def _update(learner: Learner, samples: Sequence[TrainingSample]) -> int:
    learner.update(samples)
    return len(samples)


def bare_sides(policy: Policy, samples: Sequence[TrainingSample]) -> list[Side]:
    model = policy.model
    batch = batch_of(model, policy.images, samples)
    vision = model.vision.pixels([h for hashes in batch.image_hashes for h in hashes], policy.images)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long(), **vision}
    return [
        Side("model_loss", bare_update(model, partial(model_loss, model, inputs, batch), len(samples))),
        Side("completion_loss", bare_update(model, partial(completion_loss, model, inputs, batch), len(samples))),
    ]


def training_samples(policy: Policy, messages: Sequence[tuple[Message, ...]], new_tokens: int) -> list[TrainingSample]:
    """One-step samples that the policy wrote itself, of lengths around `new_tokens`, with made-up advantages."""
    rng = generator("bench samples")
    lengths = rng.integers(max(1, new_tokens // 2), 3 * new_tokens // 2, len(messages), endpoint=True).tolist()
    samples = []
    for m, completion in zip(messages, policy.sample(requests(messages, lengths, 0)), strict=True):
        prompt = policy.model.encode(m, policy.images)
        assert completion.token_ids is not None
        start, length = len(prompt.ids), len(completion.token_ids)
        step = SampleStep(start, start + length // 2, start + length, advantage=rng.normal(), value_target=rng.normal())
        ids = np.concatenate([prompt.ids, completion.token_ids.astype(np.int64)])
        samples.append(TrainingSample(ids, prompt.image_hashes, (step,), completion.sampling_logprobs))
    return samples


def bare_update(model: VisionLanguageModel, loss: Callable[[], Tensor], num_samples: int) -> Callable[[], int]:
    """Forward, backward, clipping and AdamW, and nothing else."""
    parameters = list(model.model.parameters())
    adamw = torch.optim.AdamW(parameters, lr=TINY_LR, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def update() -> int:
        adamw.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        adamw.step()
        return num_samples

    return update


def model_loss(model: VisionLanguageModel, inputs: Mapping[str, Tensor], batch: TrainingBatch) -> Tensor:
    """The loss that the Hugging Face model computes itself from labels: logits at every position."""
    labels = torch.full_like(batch.input_ids, -100)
    labels[batch.token_rows, batch.token_columns + 1] = batch.token_ids
    return model.model(**inputs, labels=labels).loss


def completion_loss(model: VisionLanguageModel, inputs: Mapping[str, Tensor], batch: TrainingBatch) -> Tensor:
    """The same loss with logits at the completion's tokens only."""
    base = getattr(model.model, model.model.base_model_prefix)
    hidden = base(**inputs).last_hidden_state[batch.token_rows, batch.token_columns]
    return nn.functional.cross_entropy(model.logits(hidden), batch.token_ids)
