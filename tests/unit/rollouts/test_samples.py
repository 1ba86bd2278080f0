"""Trajectories to samples: spans, rewards and what is refused."""

import numpy as np
import pytest

from eyas.errors import DatasetError
from eyas.rollouts.samples import anchor_of, build_samples, supervised_samples
from eyas.types import Completion, ImagePart, Message, RewardBreakdown, StopReason, TextPart
from helpers import json_format, nano_policy, prompt, step, trajectory

FORM = json_format("left", "right")


@pytest.fixture(scope="module")
def policy():
    return nano_policy()


def written(policy, text, **fields):
    """A step whose completion is this text, as if it had been sampled."""
    ids = np.array(policy.model.tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
    completion = Completion(text, ids, np.full(len(ids), -1, np.float32))
    return step(completion, FORM.parse(completion), messages=prompt("Go."), **fields)


TEXT = '{"thoughts": "é 😀 so I go", "action": "left"}'


def test_the_action_span_begins_with_the_action_key(policy):
    (sample,) = build_samples([trajectory([written(policy, TEXT)])], policy.model, policy.images)
    (span,) = sample.steps
    thought, action = sample.ids[span.start : span.action_start], sample.ids[span.action_start : span.end]
    assert policy.model.decode(np.concatenate([thought, action])) == TEXT
    assert '"action": "left"}' in policy.model.decode(action)
    assert '"action' not in policy.model.decode(thought)
    assert len(policy.model.decode(action)) - len('"action": "left"}') < 4  # at most the token that straddles


@pytest.mark.parametrize("text", ["no key at all", '{"thoughts": "'])
def test_without_an_action_everything_is_thought(policy, text):
    (sample,) = build_samples([trajectory([written(policy, text)])], policy.model, policy.images)
    assert sample.steps[0].action_start == sample.steps[0].end == len(sample.ids)


def test_rewards_are_the_scaled_totals(policy):
    steps = [written(policy, TEXT) for _ in range(3)]
    steps[1].reward = RewardBreakdown({"environment": 10.0, "recognition": 0.25}, environment_scale=0.1)
    episode = trajectory(steps, StopReason.CUT)
    other = trajectory([written(policy, TEXT)])
    samples = build_samples([episode, other], policy.model, policy.images)
    assert [s.steps[0].reward for s in samples] == [0.0, 1.25, 0.0, 0.0]
    assert [s.trajectory for s in samples] == [0, 0, 0, 1]


def test_steps_of_an_expert_are_refused_with_advice(policy):
    expert = step(Completion(TEXT), FORM.parse(Completion(TEXT)), messages=prompt("Go."))
    with pytest.raises(DatasetError, match=r"step 1 of episode 7 .* use an sft stage"):
        build_samples([trajectory([written(policy, TEXT), expert], episode=7)], policy.model, policy.images)


def test_a_target_of_supervision_ends_the_turn_and_has_no_sampling_logprobs(policy):
    demonstrated = written(policy, TEXT)
    (sample,) = supervised_samples(trajectory([demonstrated]), policy.model, policy.images)
    (span,) = sample.steps
    assert sample.sampling_logprobs is None
    assert sample.ids[-1] in policy.model.end_ids and span.end == len(sample.ids)
    assert policy.model.decode(sample.ids[span.start :]) == TEXT
    assert '"action": "left"}' in policy.model.decode(sample.ids[span.action_start :])


def test_demonstrations_end_where_the_context_does(policy, monkeypatch, caplog):
    """An expert never runs out of context: one conversation of 6 steps, of which as many are learned as the model reads."""
    messages, steps = prompt("Go."), []
    for i in range(6):
        steps.append(step(Completion(TEXT), FORM.parse(Completion(TEXT)), messages=messages))
        messages = (*messages, Message("assistant", (TextPart(TEXT),), Completion(TEXT)), *prompt(f"You are at {i}."))
    (whole,) = supervised_samples(trajectory(steps), policy.model, policy.images)
    assert len(whole.steps) == 6 and not caplog.text
    context = whole.steps[3].end
    monkeypatch.setattr(type(policy.model), "context", context)
    (cut,) = supervised_samples(trajectory(steps, episode=7), policy.model, policy.images)
    assert len(cut.ids) == context
    assert cut.steps == whole.steps[:4]
    assert "the last 2 of 6 steps of episode 7 do not fit" in caplog.text
    monkeypatch.setattr(type(policy.model), "context", context - 1)
    (cut,) = supervised_samples(trajectory(steps), policy.model, policy.images)
    assert cut.steps == whole.steps[:3]


# ----------------------------------------------------------------------------------------------- what algorithms compare


def test_each_step_knows_its_share_of_its_trajectory_and_its_group(policy):
    short = written(policy, '{"action": "left"}')
    episodes = [trajectory([written(policy, TEXT), short], group=3), trajectory([short])]
    first, second, alone = build_samples(episodes, policy.model, policy.images)
    counts = [s.steps[0].num_elements for s in (first, second)]
    assert [s.steps[0].share for s in (first, second)] == [c / sum(counts) for c in counts]
    assert alone.steps[0].share == 1
    assert [s.group for s in (first, second, alone)] == [3, 3, None]


A, B = ImagePart("a"), ImagePart("b")


@pytest.mark.parametrize(
    ("left", "right", "is_same"),
    [
        ((A, TextPart("so far: up")), (A, TextPart("so far: down")), True),  # the picture says where one is
        ((A, TextPart("go")), (B, TextPart("go")), False),
        ((TextPart("at 1"),), (TextPart("at 1"),), True),
        ((TextPart("at 1"),), (TextPart("at 2"),), False),
        ((A, TextPart("then up"), B, TextPart("go")), (B, TextPart("go")), True),  # older observations do not count
        ((A, B, TextPart("go")), (B, TextPart("go")), False),  # every picture of this one does
        ((TextPart("go"), A), (A,), True),
    ],
)
def test_gigpo_anchors_are_equal_where_the_current_observation_is(policy, left, right, is_same):
    earlier = Message("user", (TextPart("earlier"), B))
    found = [anchor_of((*before, Message("user", parts))) for before, parts in (((earlier,), left), ((), right))]
    assert (found[0] == found[1]) is is_same
