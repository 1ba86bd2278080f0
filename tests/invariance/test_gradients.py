"""The gradient depends on the samples, not on how they are batched or padded."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.algorithms.supervised import Supervised
from eyas.batch import Denominators, SampleStep, TrainingSample
from eyas.collate import collate
from eyas.config import OptimConfig, PPOConfig
from eyas.models import reading
from eyas.splits import micro_batches
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer
from helpers import nano_policy, picture, prompt

ALGORITHMS = {
    "supervised": Supervised(),
    "step": PolicyGradient(PPOConfig(ratio="step", entropy_coef=0.1)),
    "token": PolicyGradient(PPOConfig(ratio="token", entropy_coef=0.1)),
}


@pytest.fixture(scope="module")
def policy():
    policy = nano_policy()
    policy.value_head.layers[2].weight.data.normal_(std=0.1)
    return policy


@pytest.fixture(scope="module")
def samples(policy):
    """Eight of very different lengths, with and without pictures, some with advantages against them."""
    rng = np.random.default_rng(0)
    result = []
    for i in range(8):
        message = prompt("word " * (1 + 5 * i % 13), *([policy.images.put(picture(i))] if i % 3 else []))
        encoded = policy.model.encode(message, policy.images)
        length = 1 + 3 * i % 7
        ids = np.concatenate([encoded.ids, rng.integers(300, 2000, length)])
        start = len(encoded.ids)
        span = SampleStep(
            start,
            start + length // 2,
            start + length,
            value=rng.normal(),
            advantage=rng.normal(),
            value_target=rng.normal(),
        )
        result.append(
            TrainingSample(ids, encoded.image_hashes, (span,), rng.normal(-7.6, 0.1, length).astype(np.float32))
        )
    return result


def make_learner(policy, algorithm, size):
    return Learner(
        policy,
        algorithm,
        Optimizer(policy.model, policy.value_head, OptimConfig(max_grad_norm=1e9), 1),
        1.0,
        100 * size,
    )


def gradients(policy, algorithm, samples, size, denominators=None):
    """Summed over micro-batches, as Learner.update does."""
    learner = make_learner(policy, algorithm, size)
    learner.optimizer.zero_grad()
    for part in micro_batches(samples, size * max(len(s.ids) for s in samples)):
        batch = collate(part, policy.model.pad_id)
        chosen = denominators or Denominators.of(samples)
        if denominators == "per micro-batch":
            chosen = Denominators.of(part)
        algorithm.loss(batch, learner.forward(batch), chosen).total.backward()
    parameters = [p for g in learner.optimizer.adamw.param_groups for p in g["params"]]
    return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten().clone() for p in parameters])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_accumulation_gives_the_same_gradient(policy, samples, name):
    whole = gradients(policy, ALGORITHMS[name], samples, 8)
    assert whole.norm() > 1e-3
    for size in (1, 3, 5):
        assert torch.allclose(gradients(policy, ALGORITHMS[name], samples, size), whole, atol=1e-6, rtol=1e-4)
    wrong = gradients(policy, ALGORITHMS[name], samples, 3, "per micro-batch")  # the wrong variant
    assert not torch.allclose(wrong, whole, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_accumulation_gives_the_same_update_and_the_same_numbers(samples, name):
    results = []
    for size in (8, 1, 3):
        policy = nano_policy()
        for i in range(8):
            policy.images.put(picture(i))
        results.append(make_learner(policy, ALGORITHMS[name], size).update(samples))
    for key in results[0]:
        assert [r[key] for r in results] == pytest.approx([results[0][key]] * 3, abs=1e-5, rel=1e-4)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_accumulation_the_learner_divides_by_the_whole_minibatch(samples, name):
    policy = nano_policy()
    for i in range(8):
        policy.images.put(picture(i))
    learner = make_learner(policy, ALGORITHMS[name], 3)
    with torch.no_grad():
        batch = collate(samples, policy.model.pad_id)
        wanted = ALGORITHMS[name].loss(batch, learner.forward(batch), Denominators.of(samples)).metrics
    numbers = learner.update(samples)
    assert {k: numbers[k] for k in wanted} == pytest.approx({k: float(v) for k, v in wanted.items()}, abs=1e-5)


def test_the_order_of_samples_changes_nothing(policy, samples):
    algorithm = ALGORITHMS["step"]
    assert torch.allclose(
        gradients(policy, algorithm, samples[::-1], 4), gradients(policy, algorithm, samples, 4), atol=1e-6, rtol=1e-4
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_paddingside_padded_equals_alone(policy, samples, name):
    """Log-probs, values and gradient of a sample do not depend on the longer ones beside it."""
    learner = make_learner(policy, ALGORITHMS[name], 8)
    short = min(samples, key=lambda s: len(s.ids))
    longest = max(samples, key=lambda s: len(s.ids))
    with torch.no_grad():
        padded = learner.forward(collate([short, longest], policy.model.pad_id))
        alone = learner.forward(collate([short], policy.model.pad_id))
    length = len(alone.logprobs)
    assert len(longest.ids) > 2 * len(short.ids)
    assert torch.allclose(padded.logprobs[:length], alone.logprobs, atol=1e-5)
    if alone.values is not None:
        assert torch.allclose(padded.values[:1], alone.values, atol=1e-5)
        assert torch.allclose(padded.entropy[:length], alone.entropy, atol=1e-5)
    other_pad = collate([short, longest], pad_id=777)  # what the padding is changes nothing
    with torch.no_grad():
        assert torch.equal(learner.forward(other_pad).logprobs, padded.logprobs)
    unmasked = collate([longest, short], policy.model.pad_id)  # the wrong variant: padded on the left without a mask
    unmasked.input_ids = unmasked.input_ids.roll(len(longest.ids) - len(short.ids), dims=1)[1:]
    unmasked.attention_mask = torch.ones_like(unmasked.input_ids)
    with torch.no_grad():
        hidden, _ = policy.model.hidden(unmasked.input_ids, unmasked.attention_mask, unmasked.position_ids[1:])
        reference, _ = policy.model.hidden(
            torch.tensor(short.ids)[None], torch.ones(1, len(short.ids)), torch.arange(len(short.ids))[None]
        )
    assert (hidden[0, -1] - reference[0, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("has_one_prompt", [False, True])
def test_rows_that_are_read_by_length_have_the_gradient_of_one_padded_pass(
    policy, samples, has_one_prompt, monkeypatch
):
    if has_one_prompt:
        encoded = policy.model.encode(prompt("one for all", policy.images.put(picture(1))), policy.images)
        samples = [with_prompt(s, encoded) for s in samples]
    learner, read = make_learner(policy, ALGORITHMS["step"], 8), []
    hidden = policy.model.hidden
    monkeypatch.setattr(
        policy.model, "hidden", lambda ids, *rest, **kw: (read.append(ids.shape), hidden(ids, *rest, **kw))[1]
    )
    found = {}
    for least_padding in (10**9, 1):
        monkeypatch.setattr(reading, "LEAST_PADDING", {"cpu": least_padding})
        batch = reading.batch_of(policy.model, policy.images, samples, shares_prompts=has_one_prompt)
        assert (batch.shared is not None) == has_one_prompt
        policy.model.zero_grad()
        ALGORITHMS["step"].loss(batch, learner.forward(batch), Denominators.of(samples)).total.backward()
        found[least_padding] = torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])
    policy.model.zero_grad()
    assert read[has_one_prompt] == batch.input_ids.shape
    by_length = read[1 + 2 * has_one_prompt :]
    assert len(by_length) == len({rows[1] for rows in by_length}) > 3 and sum(rows[0] for rows in by_length) == 8
    assert sum(rows[0] * rows[1] for rows in by_length) == batch.lengths.sum() < batch.input_ids.numel()
    assert found[1].norm() > 1e-3
    assert torch.allclose(found[1], found[10**9], atol=1e-6, rtol=1e-4)


def with_prompt(sample, encoded):
    """The same completion behind another prompt."""
    (span,) = sample.steps
    shift = len(encoded.ids) - span.start
    moved = replace(span, start=len(encoded.ids), action_start=span.action_start + shift, end=span.end + shift)
    ids = np.concatenate([encoded.ids, sample.ids[span.start :]])
    return replace(sample, ids=ids, image_hashes=encoded.image_hashes, steps=(moved,))


def test_entropy_is_finite_and_of_the_whole_distribution(policy, samples):
    learner = make_learner(policy, ALGORITHMS["step"], 8)
    output = learner.forward(collate(samples, policy.model.pad_id))
    assert torch.isfinite(output.entropy).all()
    assert (output.entropy > 0).all() and (output.entropy < np.log(2048)).all()
    output.entropy.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.model.parameters() if p.grad is not None)
    policy.model.zero_grad()
