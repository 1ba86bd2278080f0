"""Which passes run in which precision, and by how much sampler and learner then differ."""

import numpy as np
import pytest
import torch

from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.algorithms.supervised import Supervised
from eyas.batch import Candidates, SampleStep, TrainingSample
from eyas.build import build_policy
from eyas.config import ModelConfig, OptimConfig, PPOConfig
from eyas.models import attention, reading
from eyas.models.reading import batch_of, read
from eyas.models.scoring import action_logprobs
from eyas.rollouts.images import MemoryImageStore
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer
from eyas.types import SampleRequest
from helpers import SMALL, picture, prompt

EXACT, ROUNDED = 1e-4, 0.3  # nats


def policy_of(**options):
    return build_policy(ModelConfig.model_validate({"options": SMALL} | options), MemoryImageStore())


def learner(policy, algorithm=None):
    optimizer = Optimizer(policy.model, policy.critic, OptimConfig(lr=3e-3), 100)
    return Learner(policy, algorithm or Supervised(), optimizer)


def sampled(policy):
    """Completions of prompts with and without a picture, as samples that remember their log-probs."""
    result = []
    for i in range(6):
        hashes = [policy.images.put(picture(i))] if i % 2 else []
        request = SampleRequest(prompt("Say something.", *hashes), i, 12, 1.0)
        completion = policy.sample([request])[0]
        encoded = policy.model.encode(request.messages, policy.images)
        ids = np.concatenate([encoded.ids, completion.token_ids])
        span = SampleStep(len(encoded.ids), len(encoded.ids) + 1, len(ids), num_images=len(hashes))
        result.append(TrainingSample(ids, encoded.image_hashes, (span,), completion.sampling_logprobs))
    return result


def mismatch(policy):
    """Largest difference of log-probs between learner and sampler."""
    samples = sampled(policy)
    with torch.no_grad():
        found = learner(policy).forward(batch_of(policy.model, policy.images, samples)).logprobs
    assert found.dtype == torch.float32
    return np.abs(found.numpy() - np.concatenate([s.sampling_logprobs for s in samples])).max()


@pytest.mark.parametrize("train", ["full", "lora"])
def test_mismatch_of_each_precision_is_what_its_rounding_allows(train):
    assert mismatch(policy_of(train=train)) < EXACT
    for options in ({"compute_dtype": "bfloat16"}, {"sampling_dtype": "bfloat16"}):
        assert 10 * EXACT < mismatch(policy_of(train=train, **options)) < ROUNDED
    both = policy_of(train=train, compute_dtype="bfloat16", sampling_dtype="bfloat16")
    assert mismatch(both) < ROUNDED


@pytest.mark.parametrize("train", ["full", "lora"])
def test_an_update_in_bfloat16_learns_in_weights_and_moments_of_float32(train):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        policy = policy_of(train=train, compute_dtype=dtype)
        samples, of_learner = sampled(policy_of()), learner(policy)
        for i in range(6):
            policy.images.put(picture(i))
        losses[dtype] = [of_learner.update(samples)["train/loss"] for _ in range(8)]
        assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
        state = of_learner.optimizer.adamw.state.values()
        assert {v.dtype for s in state for v in s.values()} == {torch.float32}
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bfloat16"][-1] < 0.99 * losses["bfloat16"][0]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_plain_attention_in_bfloat16_is_as_near_to_the_gradient_of_float32_as_fused(checkpointing, monkeypatch):
    samples, found = sampled(policy_of()), {}
    for name, dtype, least_keys in (
        ("exact", "float32", 10**9),
        ("exact in blocks", "float32", 0),
        ("fused", "bfloat16", 10**9),
        ("plain", "bfloat16", 0),
    ):
        monkeypatch.setattr(reading, "LEAST_BLOCKS_KEYS", {dtype: least_keys})
        policy = policy_of(compute_dtype=dtype, gradient_checkpointing=checkpointing)
        for i in range(6):
            policy.images.put(picture(i))
        attended = []
        monkeypatch.setattr(policy.model, "hidden", spy(policy.model, attended))
        learner(policy)._add_gradient(samples)
        assert attended == ["sdpa" if least_keys or checkpointing else attention.NAME]
        assert policy.model.model.config.get_text_config()._attn_implementation == "sdpa"
        found[name] = torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])
    fused, plain = (float((found[n] - found["exact"]).norm() / found["exact"].norm()) for n in ("fused", "plain"))
    assert 0 < plain < min(0.02, 1.5 * fused)
    assert torch.equal(found["fused"], found["plain"]) == checkpointing
    assert (found["exact in blocks"] - found["exact"]).abs().max() < 1e-5 * found["exact"].abs().max()


def spy(model, attended):
    hidden = model.hidden

    def watched(*args, **kwargs):
        attended.append(model.model.config.get_text_config()._attn_implementation)
        return hidden(*args, **kwargs)

    return watched


def test_values_are_read_in_the_update_s_precision_on_both_sides():
    """Else the value's clip would see a change where there is none."""
    algorithm = PolicyGradient(PPOConfig())
    found = {}
    for dtype in ("float32", "bfloat16"):
        policy = policy_of(compute_dtype=dtype)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            policy.value_head.layers[2].weight.data.normal_()
        encoded = policy.model.encode(
            prompt("Go to the right, and then go to the left, until you have gone to where you began."), policy.images
        )
        sample = TrainingSample(
            np.append(encoded.ids, 300), (), (SampleStep(len(encoded.ids), 9, len(encoded.ids) + 1),)
        )
        with torch.no_grad():
            of_update = learner(policy, algorithm).forward(batch_of(policy.model, policy.images, [sample])).values
        of_rollout = policy.values([encoded], [[len(encoded.ids) - 1]])[0]
        assert of_update is not None and of_update.dtype == torch.float32
        found[dtype] = of_rollout.item()
        assert of_update.item() == pytest.approx(found[dtype], abs=1e-5 if dtype == "float32" else 0.02)
    assert abs(found["float32"] - found["bfloat16"]) > 1e-5


def test_actions_are_scored_in_bfloat16_too():
    """The mask of candidates is added to scores: no row of it may become all infinite."""
    found = []
    for dtype in ("float32", "bfloat16"):
        policy = policy_of(compute_dtype=dtype)
        encoded = policy.model.encode(prompt("Left or right?"), policy.images)
        start, words = len(encoded.ids), (np.array([300, 301]), np.array([302]))
        span = SampleStep(start, start, start + 2, candidates=Candidates(words))
        batch = batch_of(policy.model, policy.images, [TrainingSample(np.append(encoded.ids, words[0]), (), (span,))])
        assert batch.scoring is not None
        with torch.no_grad(), policy.autocast():
            hidden = read(policy.model, policy.images, batch)
            found.append(action_logprobs(policy.model, hidden, batch.scoring, 1.0)[0])
    assert torch.isfinite(found[1]).all()
    assert 0 < (found[0] - found[1]).abs().max() < ROUNDED
