"""Thoughts that the model samples itself, and actions that are scored after them: learner and sampler agree."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.algorithms.supervised import Supervised
from eyas.collate import collate
from eyas.config import OptimConfig, PPOConfig
from eyas.interface.actions import codec_for
from eyas.interface.formats import FORMATS
from eyas.rollouts.samples import build_samples, supervised_samples
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer
from eyas.types import Completion, FinishReason, ParsedAction, SampleRequest
from helpers import nano_policy, picture, prompt, step, trajectory

NAMES = ("left", "right", "wait")
FORM = FORMATS["json"](codec_for(spaces.Discrete(len(NAMES)), NAMES), (), True)
THOUGHTS = ("go", "a wall is near", "it is free")


def learner(policy, algorithm, temperature=1.0):
    optimizer = Optimizer(policy.model, policy.value_head, OptimConfig(lr=3e-3, warmup_steps=5), 60)
    return Learner(policy, algorithm, optimizer, temperature)


@pytest.fixture(scope="module")
def policy():
    """A policy that has learned the form of an answer, with any thought and any action."""
    policy = nano_policy(seed=1)
    shown = [prompt("Which way?", policy.images.put(picture(i))) for i in range(3)]
    texts = [FORM.write(a, {}, thought) for a in range(len(NAMES)) for thought in THOUGHTS]
    steps = [step(Completion(t), FORM.parse(Completion(t)), messages=shown[i % 3]) for i, t in enumerate(texts)]
    samples = [s for one in steps for s in supervised_samples(trajectory([one]), policy.model, policy.images)]
    teacher = learner(policy, Supervised())
    for _ in range(60):
        teacher.update(samples)
    return policy


def played(policy, temperature, num=24):
    messages = [prompt("Which way?", policy.images.put(picture(i % 3))) for i in range(num)]
    requests = [
        SampleRequest(m, i, 48, temperature, FORM.stop, FORM.choice(None if i % 2 else (0, 2)))
        for i, m in enumerate(messages)
    ]
    return requests, policy.sample(requests)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_mismatch_thought_and_action_have_the_sampler_s_log_probs(policy, temperature):
    requests, completions = played(policy, temperature)
    reached = [c for c in completions if c.scores is not None]
    assert len(reached) > 15
    assert len({c.text for c in reached}) > 3 and len({c.scores.start for c in reached}) > 1
    episodes = [trajectory([step(c, FORM.parse(c), messages=r.messages)]) for r, c in zip(requests, completions)]
    samples = build_samples(episodes, policy.model, policy.images)
    with torch.no_grad():
        batch = collate(samples, policy.model.pad_id)
        output = learner(policy, PolicyGradient(PPOConfig(entropy_coef=0.1)), temperature).forward(batch)
    recorded = np.concatenate([s.sampling_logprobs for s in samples])
    assert np.abs(output.logprobs.numpy() - recorded).max() < 1e-4
    other = learner(policy, PolicyGradient(PPOConfig()), 1.2 * temperature)  # the wrong variant
    with torch.no_grad():
        assert np.abs(other.forward(batch).logprobs.numpy() - recorded).max() > 1e-3


def test_what_was_scored_is_parsed_with_its_thought(policy):
    requests, completions = played(policy, 1.0)
    for request, completion in zip(requests, completions):
        if completion.scores is None:
            assert completion.finish_reason is not FinishReason.STOP or not request.choice.continuations(
                completion.text
            )
            continue
        parsed = FORM.parse(completion)
        assert isinstance(parsed, ParsedAction)
        legal = range(len(NAMES)) if request.seed % 2 else (0, 2)
        assert parsed.action == legal[completion.scores.chosen]
        (sample,) = build_samples(
            [trajectory([step(completion, parsed, messages=request.messages)])], policy.model, policy.images
        )
        (span,) = sample.steps
        thought = policy.model.decode(sample.ids[span.start : span.action_start])
        assert span.action_start - span.start == completion.scores.start
        assert thought.rstrip(' "').endswith('"action":') and parsed.thought in thought  # a token may hold the quote
