"""With the weights unchanged the learner finds the log-probs that the sampler recorded: the ratio is 1."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from eyas.algorithms.base import LearnerOutput
from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.algorithms.supervised import Supervised
from eyas.batch import Denominators
from eyas.collate import collate
from eyas.config import OptimConfig, PPOConfig
from eyas.models.logprobs import token_logprobs
from eyas.rollouts.samples import annotate, build_samples
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer
from eyas.types import SampleRequest
from helpers import json_format, nano_policy, picture, prompt, step, trajectory

NATS = 1e-4
FORM = json_format("left", "right")
TEXTS = ["Go.", "Which way now, and why is it that way and no other? Think of all that you see.", "Left or right?"]


def learner(policy, temperature=1.0, algorithm=None, **options):
    optimizer = Optimizer(policy.model, policy.value_head, OptimConfig(**options), 10)
    return Learner(policy, algorithm or PolicyGradient(PPOConfig(entropy_coef=0.1)), optimizer, temperature)


def played(policy, temperature=1.0, num=24, with_images="some"):
    """Trajectories of one step: prompts of mixed length, some of them equal, completions of mixed length."""
    pictures = [policy.images.put(picture(i)) for i in range(3)]
    requests = []
    for i in range(num):
        num_images = {"all": 1 + i // 3 % 2, "none": 0, "some": i // 3 % 3}[with_images]
        messages = prompt(TEXTS[i // 2 % 3], *[pictures[(i // 4 + k) % 3] for k in range(num_images)])
        requests.append(SampleRequest(messages, i, 1 + 5 * i % 17, temperature))  # rows leave the batch at any time
    completions = policy.sample(requests)
    return [
        trajectory([step(c, FORM.parse(c), float(i % 2), r.messages)], episode=i)
        for i, (r, c) in enumerate(zip(requests, completions))
    ]


def logprobs(policy, samples, temperature=1.0):
    with torch.no_grad():
        return learner(policy, temperature).forward(collate(samples, policy.model.pad_id)).logprobs.numpy()


def sampled(samples):
    return np.concatenate([s.sampling_logprobs for s in samples])


@pytest.mark.parametrize("with_images", ["all", "none", "some"])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("max_batch", [1, 8, 64])
def test_mismatch_learner_equals_sampler(temperature, with_images, max_batch):
    policy = nano_policy(max_batch=max_batch)
    samples = build_samples(played(policy, temperature, with_images=with_images), policy.model, policy.images)
    recorded = sampled(samples)
    assert len({len(s.ids) for s in samples}) > 5
    assert np.abs(logprobs(policy, samples, temperature) - recorded).max() < NATS
    alone = np.concatenate([logprobs(policy, [s], temperature) for s in samples])
    assert np.abs(alone - recorded).max() < NATS
    other = 1.1 * temperature  # the wrong variant: another temperature than at sampling
    assert np.abs(logprobs(policy, samples, other) - recorded).max() > 10 * NATS


def test_temperature_forbidden_ids_matter():
    policy = nano_policy()
    samples = build_samples(played(policy), policy.model, policy.images)
    policy.model.forbidden_ids = policy.model.forbidden_ids[:0]  # the wrong variant: a plain softmax in the learner
    difference = sampled(samples) - logprobs(policy, samples)
    assert (difference > NATS).all()


def test_mismatch_pictures_that_are_lost_are_noticed():
    policy = nano_policy()
    samples = build_samples(played(policy, with_images="all"), policy.model, policy.images)
    other = policy.images.put(picture(99))
    swapped = [dataclasses.replace(s, image_hashes=(other,) * len(s.image_hashes)) for s in samples]
    assert np.abs(logprobs(policy, swapped) - sampled(samples)).max() > 10 * NATS


def test_position_ids_count_each_sample_s_own_tokens():
    policy = nano_policy()
    samples = build_samples(played(policy), policy.model, policy.images)
    batch = collate(samples, policy.model.pad_id)
    batch.position_ids = batch.position_ids * 2  # the wrong variant (RoPE sees distances, so a mere shift would hide)
    with torch.no_grad():
        wrong = learner(policy).forward(batch).logprobs.numpy()
    assert np.abs(wrong - sampled(samples)).max() > 10 * NATS


@pytest.mark.parametrize("ratio", ["step", "token"])
def test_ratio_is_1_before_the_first_update(ratio):
    policy = nano_policy()
    trajectories = played(policy)
    samples = build_samples(trajectories, policy.model, policy.images)
    annotate(policy, trajectories, samples)
    algorithm = PolicyGradient(PPOConfig(ratio=ratio))
    algorithm.credit(samples)
    numbers = learner(policy, algorithm=algorithm, lr=1e-2).update(samples)
    assert numbers["train/kl_k3_sampling_policy"] == pytest.approx(0, abs=1e-7)
    assert numbers["train/clip_share"] == 0
    again = learner(policy, algorithm=algorithm).update(samples)
    assert again["train/kl_k3_sampling_policy"] > 1e-4  # the weights have moved


def test_dropout_of_the_model_does_not_reach_sampler_or_learner():
    policy = nano_policy()
    mlp = policy.model.model.model.text_model.layers[0].mlp
    mlp.act_fn = nn.Sequential(nn.SiLU(), nn.Dropout(0.3))
    policy.model.train()
    samples = build_samples(played(policy), policy.model, policy.images)
    assert np.abs(logprobs(policy, samples) - sampled(samples)).max() < NATS
    mlp.train()  # the wrong variant
    assert np.abs(logprobs(policy, samples) - sampled(samples)).max() > 10 * NATS


def test_retokenise_sampled_ids_reach_the_learner_unchanged():
    """Random ids rarely survive decode → encode: the loss must see the ones that were sampled."""
    policy = nano_policy()
    trajectories = played(policy)
    samples = build_samples(trajectories, policy.model, policy.images)
    changed = 0
    for t, sample in zip(trajectories, samples):
        completion = t.steps[0].completion
        span = sample.steps[0]
        assert sample.ids[span.start : span.end].tolist() == completion.token_ids.tolist()
        again = policy.model.tokenizer(completion.text, add_special_tokens=False)["input_ids"]  # the wrong variant
        changed += again != completion.token_ids.tolist()
    assert changed > 5
    batch = collate(samples, policy.model.pad_id)
    assert batch.token_ids.tolist() == np.concatenate([t.steps[0].completion.token_ids for t in trajectories]).tolist()


def test_wrongprompt_each_step_carries_its_own_prompt():
    policy = nano_policy()
    messages = [prompt(f"This is step {i}.", policy.images.put(picture(i))) for i in range(3)]
    completions = policy.sample([SampleRequest(m, i, 6) for i, m in enumerate(messages)])
    episode = trajectory([step(c, FORM.parse(c), messages=m) for c, m in zip(completions, messages)])
    samples = build_samples([episode], policy.model, policy.images)
    for sample, m in zip(samples, messages):
        encoded = policy.model.encode(m, policy.images)
        assert sample.ids[: sample.steps[0].start].tolist() == encoded.ids.tolist()
        assert sample.image_hashes == encoded.image_hashes
    assert np.abs(logprobs(policy, samples) - sampled(samples)).max() < NATS
    for s in episode.steps:  # the wrong variant: the first step's prompt for all
        s.messages = messages[0]
    wrong = build_samples([episode], policy.model, policy.images)
    assert np.abs(logprobs(policy, wrong) - sampled(wrong)).max() > 10 * NATS


# ----------------------------------------------------------------------------------------------- what is learned from


def logit_gradient(policy, samples, algorithm, shift=0):
    """|d loss / d logits| summed over the vocabulary, at every position: (B, T)."""
    batch = collate(samples, policy.model.pad_id)
    batch.token_columns = batch.token_columns + shift
    vision = policy.model.features(batch.image_hashes, policy.images)
    hidden, _ = policy.model.hidden(batch.input_ids, batch.attention_mask, batch.position_ids, vision)
    logits = policy.model.logits(hidden.detach()).requires_grad_()
    logits.retain_grad()
    all_logprobs = token_logprobs(logits[batch.token_rows, batch.token_columns], 1.0, policy.model.forbidden_ids)
    chosen = all_logprobs.gather(-1, batch.token_ids[:, None])[:, 0]
    output = LearnerOutput(chosen, None, torch.zeros(len(batch.step_rows)))
    algorithm.loss(batch, output, Denominators.of(samples)).total.backward()
    return logits.grad.abs().sum(-1)


@pytest.mark.parametrize(
    "algorithm",
    [PolicyGradient(PPOConfig(clip=100)), PolicyGradient(PPOConfig(ratio="token", clip=100)), Supervised()],
    ids=["step", "token", "sft"],
)
def test_mask_only_positions_before_sampled_tokens_get_a_gradient(algorithm):
    policy = nano_policy()
    samples = build_samples(played(policy, num=9), policy.model, policy.images)
    for sample in samples:
        sample.steps[0].advantage = 1.0
    gradient = logit_gradient(policy, samples, algorithm)
    for row, sample in enumerate(samples):
        (span,) = sample.steps
        assert (gradient[row, span.start - 1 : span.end - 1] > 0).all()
        assert (gradient[row, : span.start - 1] == 0).all()
        assert (gradient[row, span.end - 1 :] == 0).all()  # nothing follows the last sampled token, padding included
    wrong = logit_gradient(policy, samples, algorithm, shift=-1)  # the wrong variant: off by one, into the prompt
    assert all(wrong[row, s.steps[0].start - 2] > 0 for row, s in enumerate(samples))


def test_boundary_what_the_template_adds_after_a_turn_is_not_learned():
    """A completion that ended its turn trains the end token; the last column of the batch is never trained."""
    policy = nano_policy()
    (end,) = policy.model.end_ids
    completion = policy.sample([SampleRequest(prompt("Go."), 0, 4)])[0]
    ids = np.append(completion.token_ids, end).astype(np.int32)
    ended = dataclasses.replace(completion, token_ids=ids, sampling_logprobs=np.zeros(len(ids), np.float32))
    (sample,) = build_samples(
        [trajectory([step(ended, FORM.parse(ended), messages=prompt("Go."))])], policy.model, policy.images
    )
    batch = collate([sample], policy.model.pad_id)
    assert batch.token_ids[-1] == end
    assert sample.steps[0].end == len(sample.ids)
    assert batch.token_columns.max() == len(sample.ids) - 2
