"""Thoughts scored under one another's prompts: against scores taken one by one, and against models with a known answer."""

import math
from itertools import product
from types import SimpleNamespace
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch

from eyas.algorithms.supervised import Supervised
from eyas.batch import first_token_beyond
from eyas.config import OptimConfig, RLStage
from eyas.evaluation.thoughts import mutual_information, own_prompt_share
from eyas.models.adapter import VisionLanguageModel
from eyas.models.logprobs import token_logprobs
from eyas.rollouts.samples import build_samples
from eyas.training import loop
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer
from eyas.training.prepare import learner_logprobs
from eyas.training.thought_probe import PROBED, probe_thoughts
from eyas.types import Completion, FailureReason, ImagePart, Message, ParseFailure, TextPart
from helpers import json_format, nano_policy, picture, step, trajectory

FORMAT = json_format("left", "right")
WORDS = ("one", "two", "six", "ten", "red", "cat", "sun", "sea", "map", "box")


def said(policy, words, thought, *image_hashes):
    """A step whose prompt says `words` and whose answer thinks `thought`."""
    text = FORMAT.write(0, {}, thought)
    ids = policy.model.encode_text(text).astype(np.int32)
    completion = Completion(text, ids, np.zeros(len(ids), np.float32))
    messages = (Message("user", (*(ImagePart(h) for h in image_hashes), TextPart(words))),)
    return step(completion, FORMAT.parse(completion), messages=messages)


def learner_of(policy, lr=3e-3):
    return Learner(policy, Supervised(), Optimizer(policy.model, policy.critic, OptimConfig(lr=lr), 100))


def probed(learner, steps, seed=0):
    trajectories = [trajectory([s]) for s in steps]
    samples = build_samples(trajectories, learner.policy.model, learner.policy.images)
    return probe_thoughts(learner, trajectories, samples, seed)


def score(learner, prompt, thought):
    """Log-prob of the thought's tokens after the prompt, from one plain pass."""
    policy, completion = learner.policy, thought.completion
    end = first_token_beyond(completion.token_ids, thought.parse.action_start, policy.model.decode)
    encoded = policy.model.encode(prompt.messages, policy.images)
    ids = np.concatenate([encoded.ids, completion.token_ids[:end]])
    positions = torch.from_numpy(policy.model.positions(ids, encoded.image_hashes, policy.images))
    tensor = torch.from_numpy(ids)[None]
    features = policy.model.features([encoded.image_hashes], policy.images)
    with torch.no_grad():
        hidden, _ = policy.model.hidden(tensor, torch.ones_like(tensor, dtype=torch.bool), positions, features)
        logprobs = token_logprobs(policy.model.logits(hidden[0]), learner.temperature, policy.model.forbidden_ids)
    return sum(float(logprobs[i - 1, ids[i]]) for i in range(len(encoded.ids), len(ids)))


def test_the_scores_are_those_of_each_thought_under_each_prompt():
    policy = nano_policy()
    shown = [policy.images.put(picture(seed)) for seed in range(2)]
    learner = learner_of(policy)
    learner.temperature = 0.7
    steps = [
        said(policy, "look", "a cat", shown[0]),
        said(policy, "look", "the sun", shown[1]),
        said(policy, "no", "six"),
    ]
    numbers = probed(learner, steps)
    scores = np.array([[score(learner, prompt, thought) for prompt in steps] for thought in steps])
    assert numbers["rollout/thought_mutual_information_nats"] == pytest.approx(mutual_information(scores), abs=1e-4)
    assert numbers["rollout/thought_own_prompt_share"] == own_prompt_share(scores)
    assert numbers["rollout/thought_probed_count"] == 3
    assert abs(mutual_information(scores) - mutual_information(scores.T)) > 1e-3  # which is which matters here


def taught(pairs):
    """A model that answers each prompt with its thoughts, all alike likely, and the steps that it was taught with."""
    policy = nano_policy()
    learner = learner_of(policy)
    steps = [said(policy, words, thought) for words, thought in pairs]
    samples = build_samples([trajectory([s]) for s in steps], policy.model, policy.images)
    for _ in range(60):
        learner.update(samples)
    return learner, steps


def test_a_model_whose_thought_names_its_prompt_has_the_information_of_the_choice():
    learner, steps = taught([("one", "I see a cat"), ("two", "I see the sun")])
    numbers = probed(learner, steps)
    assert numbers["rollout/thought_mutual_information_nats"] == pytest.approx(math.log(2), abs=0.05)
    assert numbers["rollout/thought_own_prompt_share"] == 1.0


def test_a_model_with_the_same_two_thoughts_for_all_has_none_though_they_are_different():
    learner, steps = taught([(p, t) for p, t in product(("one", "two"), ("I see a cat", "I see the sun"))])
    numbers = probed(learner, [steps[0], steps[3]])  # a cat after one, the sun after two
    assert numbers["rollout/thought_mutual_information_nats"] == pytest.approx(0, abs=0.05)


def test_prompts_are_different_and_no_more_than_eight():
    learner = learner_of(nano_policy())
    steps = [said(learner.policy, words, "a cat") for words in WORDS * 3]
    assert probed(learner, steps)["rollout/thought_probed_count"] == PROBED
    assert probed(learner, steps[:3] * 4)["rollout/thought_probed_count"] == 3
    assert probed(learner, steps, seed=0) != probed(learner, steps, seed=1)
    assert probed(learner, steps, seed=1) == probed(learner, steps, seed=1)


def test_nothing_is_said_where_nothing_can_be_compared():
    learner = learner_of(nano_policy())
    one = said(learner.policy, "one", "a cat")
    failed, thoughtless = said(learner.policy, "two", "a cat"), said(learner.policy, "six", "")
    failed.parse = ParseFailure(FailureReason.EMPTY, "", 0)
    assert probed(learner, [one, failed, thoughtless, one]) == {}
    assert probed(learner, []) == {}


def test_a_prompt_without_room_for_the_longest_thought_is_left_out():
    learner = learner_of(nano_policy())
    policy = learner.policy
    steps = [said(policy, "one", "a cat"), said(policy, "two", "the sun " * 20), said(policy, "sun " * 20, "a cat")]
    samples = build_samples([trajectory([s]) for s in steps], policy.model, policy.images)
    context = max(len(s.ids) for s in samples)  # each fits with its own thought
    with patch.object(VisionLanguageModel, "context", context):
        assert probed(learner, steps)["rollout/thought_probed_count"] == 2
    assert probed(learner, steps)["rollout/thought_probed_count"] == 3


def test_the_later_prompts_of_a_conversation_are_probed_with_what_came_before():
    learner = learner_of(nano_policy())
    first = said(learner.policy, "one", "a cat")
    answer = Message("assistant", (TextPart(first.completion.text),), first.completion)
    second = said(learner.policy, "two", "the sun")
    second.messages = (*first.messages, answer, *second.messages)
    whole = [trajectory([first, second])]
    samples = build_samples(whole, learner.policy.model, learner.policy.images)
    assert len(samples) == 1
    numbers = probe_thoughts(learner, whole, samples, 0)
    scores = np.array([[score(learner, prompt, thought) for prompt in (first, second)] for thought in (first, second)])
    assert numbers["rollout/thought_mutual_information_nats"] == pytest.approx(mutual_information(scores), abs=1e-4)


# ----------------------------------------------------------------------------------------------- what it costs


def read_by(policy, function):
    """Tokens that the model reads in a call, padding included."""
    counts: list[int] = []
    hidden = policy.model.hidden

    def counting(input_ids, *arguments, **options):
        counts.append(input_ids.numel())
        return hidden(input_ids, *arguments, **options)

    with patch.object(policy.model, "hidden", counting):
        function()
    return sum(counts)


def test_the_probe_costs_less_than_a_fiftieth_of_what_training_reads():
    """An iteration of 64 steps, a quarter of the default; a backward pass counts as two; sampling is not even counted."""
    stage, num_steps = RLStage(iterations=1), 64
    learner = learner_of(nano_policy())
    steps = [said(learner.policy, f"{a} {b}", "I see a cat") for a, b in list(product(WORDS, WORDS))[:num_steps]]
    trajectories = [trajectory([s]) for s in steps]
    samples = build_samples(trajectories, learner.policy.model, learner.policy.images)
    probe = read_by(learner.policy, lambda: probe_thoughts(learner, trajectories, samples, 0))
    epoch = 3 * read_by(learner.policy, lambda: learner.update(samples))
    assert 0 < probe <= 0.02 * stage.thought_probe_every * stage.epochs * epoch
    assert probe < read_by(learner.policy, lambda: learner_logprobs(learner, samples))  # prompts are read once


@pytest.mark.parametrize(("every", "expected"), [(10, [0, 10, 20]), (4, [0, 4, 8, 12, 16, 20]), (0, [])])
def test_the_probe_runs_in_its_iterations_alone(every, expected):
    run, played = SimpleNamespace(tasks=[]), SimpleNamespace(every=[], kept=[])
    stage = RLStage(iterations=1, thought_probe_every=every)
    with patch.object(loop, "probe_thoughts", return_value={"rollout/x": 1.0}) as probe:
        measured = [loop.measure(run, stage, i, Mock(), played, []) for i in range(21)]  # type: ignore[arg-type]
    assert [call.args[3] for call in probe.call_args_list] == expected
    assert [i for i, numbers in enumerate(measured) if "rollout/x" in numbers] == expected
