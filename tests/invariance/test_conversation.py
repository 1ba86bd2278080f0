"""Conversations: what the learner gets is what the sampler saw, merged where it may be and nowhere else."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch

from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.batch import Denominators, TrainingSample
from eyas.collate import collate
from eyas.config import OptimConfig, PPOConfig
from eyas.evaluation.evaluate import play as play_episodes
from eyas.interface.history import Conversation, LastObservations, Moment, NoHistory, PastStep, Shown, Summary
from eyas.rollouts.actors import PolicyActor
from eyas.rollouts.recorder import TrajectoryRecorder
from eyas.rollouts.samples import annotate, build_samples, supervised_samples
from eyas.splits import minibatches
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer
from eyas.types import Completion, ImagePart, ParsedAction, SampleRequest, StopReason, TextPart
from helpers import CountingEnv, nano_policy, picture, step, text_task, trajectory


@pytest.fixture(scope="module")
def policy():
    policy = nano_policy()
    policy.value_head.layers[2].weight.data.normal_(std=0.1)
    return policy


def play(policy, history, steps=4, pictures=True, new_tokens=6, stop_reason=StopReason.CUT, text=None):
    """An episode that the policy writes itself, or in which it wrote the same text at each step."""
    rng = np.random.default_rng(1)
    past, messages, played = [], (), []
    for index in range(steps + 1):
        hashes = (ImagePart(policy.images.put(picture(100 + index))),) if pictures else ()
        shown = Shown(hashes, (f"You are at {index}.",))
        messages = history.prompt(Moment("Walk on.", "Answer left or right.", past, messages, shown, policy.images))
        if index == steps:
            break
        if text is None:
            (completion,) = policy.sample([SampleRequest(messages, index, new_tokens)])
        else:
            ids = policy.model.encode_text(text).astype(np.int32)
            completion = Completion(text, ids, np.zeros(len(ids), np.float32))
        parse = ParsedAction(0, "left", "", {}, len(completion.text) // 2)
        played.append(step(completion, parse, reward=float(rng.normal()), messages=messages))
        past.append(PastStep(shown, completion, "left"))
    return trajectory(played, stop_reason, final_messages=messages)


def separate(samples):
    """The same steps, each with its own prompt."""
    parts = []
    for sample in samples:
        done = 0
        for span in sample.steps:
            count = span.num_elements
            logprobs = sample.sampling_logprobs[done : done + count]
            done += count
            parts.append(TrainingSample(sample.ids[: span.end], sample.image_hashes, (span,), logprobs))
    return parts


def with_credit(policy, trajectories):
    samples = build_samples(trajectories, policy.model, policy.images)
    annotate(policy, trajectories, samples)
    PolicyGradient(PPOConfig()).credit(samples)
    return samples


def gradient(policy, samples, images_of=None):
    optimizer = Optimizer(policy.model, policy.value_head, OptimConfig(), 1)
    learner = Learner(policy, PolicyGradient(PPOConfig(entropy_coef=0.1)), optimizer)
    optimizer.zero_grad()
    batch = collate(samples, policy.model.pad_id)
    learner.algorithm.loss(batch, learner.forward(batch), Denominators.of(samples)).total.backward()
    return torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in optimizer.parameters])


def test_a_prompt_of_a_conversation_begins_with_everything_before(policy):
    steps = play(policy, Conversation()).steps
    for before, after in pairwise(steps):
        first, second = (policy.model.encode(s.messages, policy.images) for s in (before, after))
        seen = np.concatenate([first.ids, before.completion.token_ids])
        assert np.array_equal(second.ids[: len(seen)], seen)
        assert len(second.ids) > len(seen)
        assert second.image_hashes[:-1] == first.image_hashes


def test_retokenise_earlier_completions_keep_their_ids(policy):
    """Ids that no tokenizer would give for this text: "l", "e", "ft" where it has one token for "left"."""
    model = policy.model
    odd = np.array([model.tokenizer.convert_tokens_to_ids(c) for c in "left"], dtype=np.int32)
    assert len(model.encode_text("left")) - 1 < len(odd)
    shown = Shown((), ("On.",))
    history = Conversation()
    first = history.prompt(Moment("Walk.", "Answer.", (), (), shown, policy.images))
    past = [PastStep(shown, Completion("left", odd, np.zeros(4, np.float32)), "left")]
    second = history.prompt(Moment("Walk.", "Answer.", past, first, shown, policy.images))
    start = len(model.encode(first, policy.images).ids)
    assert np.array_equal(model.encode(second, policy.images).ids[start : start + 4], odd)


def test_boundary_the_end_of_a_turn_stands_there_once(policy):
    """Whether the model wrote it itself or was stopped before."""
    model, shown, end = policy.model, Shown((), ("On.",)), policy.model.tokenizer.eos_token_id
    words = model.encode_text("left")
    texts = []
    for ids in (words, words[:-1]):
        first = Conversation().prompt(Moment("Walk.", "Answer.", (), (), shown, policy.images))
        past = [PastStep(shown, Completion("left", ids.astype(np.int32)), "left")]
        texts.append(
            model.encode(
                Conversation().prompt(Moment("Walk.", "Answer.", past, first, shown, policy.images)), policy.images
            ).ids
        )
    assert np.array_equal(*texts)
    assert (texts[0] == end).sum() == 1
    rendered = model.tokenizer.decode(texts[0])
    assert rendered == "<|user|>Walk. On. Answer.<|assistant|>left<end_of_utterance><|user|>On.<|assistant|>"


@pytest.mark.parametrize("pictures", [True, False])
def test_prefix_a_whole_conversation_is_one_sample_with_the_gradient_of_separate_steps(policy, pictures):
    samples = with_credit(policy, [play(policy, Conversation(), pictures=pictures)])
    assert len(samples) == 1 and len(samples[0].steps) == 4
    merged = gradient(policy, samples)
    parts = separate(samples)
    for number, part in enumerate(parts):  # a prompt's own pictures only
        part.image_hashes = part.image_hashes[: number + 1] if pictures else ()
    assert torch.allclose(merged, gradient(policy, parts), atol=1e-6, rtol=1e-4)
    assert merged.norm() > 1e-3
    parts[0].steps[0].action_start += 1  # the wrong variant: another span
    assert not torch.allclose(merged, gradient(policy, parts), atol=1e-6, rtol=1e-4)


def test_merged_values_equal_separate_ones(policy):
    played = play(policy, Conversation())
    samples = with_credit(policy, [played])
    prompts = [
        policy.model.encode(m, policy.images) for m in [*(s.messages for s in played.steps), played.final_messages]
    ]
    alone = [policy.values([p], [[len(p.ids) - 1]])[0][0] for p in prompts]
    assert np.allclose([s.value for s in samples[0].steps], alone[:-1], atol=1e-5)
    assert np.isclose(samples[0].steps[-1].next_value, alone[-1], atol=1e-5)
    assert [s.value for s in played.steps] == [s.value for s in samples[0].steps]
    assert len(set(np.round(alone, 5))) == len(alone)


@pytest.mark.parametrize("history", [NoHistory(), LastObservations(2), Summary(), Conversation(keep_images=1)])
def test_prefix_what_does_not_continue_is_not_merged(policy, history):
    samples = build_samples([play(policy, history)], policy.model, policy.images)
    assert [len(s.steps) for s in samples] == [1] * 4


def test_prefix_other_pictures_behind_equal_ids_are_not_merged(policy):
    played = play(policy, Conversation(), steps=2)
    other = ImagePart(policy.images.put(picture(999)))
    changed = [
        dataclasses.replace(m, parts=(other, *m.parts[1:])) if i == 0 else m
        for i, m in enumerate(played.steps[1].messages)
    ]
    played.steps[1] = dataclasses.replace(played.steps[1], messages=tuple(changed))
    first, second = (policy.model.encode(s.messages, policy.images) for s in played.steps)
    seen = np.concatenate([first.ids, played.steps[0].completion.token_ids])
    assert np.array_equal(second.ids[: len(seen)], seen)  # ids alone would merge
    assert len(build_samples([played], policy.model, policy.images)) == 2


def test_prefix_a_template_that_drops_earlier_thoughts_forks(policy):
    """As Qwen3's does: what comes before `</think>` is cut from earlier turns."""
    forgetful = nano_policy()
    template = forgetful.model.processor.chat_template
    forgetful.model.processor.chat_template = template.replace(
        "{{ part['text'] }}", "{{ part['text'].split('</think>')[-1] }}"
    )
    assert policy.model.is_prefix_stable
    assert not forgetful.model.is_prefix_stable
    played = [play(p, Conversation(), text="<think>free</think>left") for p in (policy, forgetful)]
    assert [len(s.steps) for s in build_samples([played[0]], policy.model, policy.images)] == [4]
    samples = build_samples([played[1]], forgetful.model, forgetful.images)
    assert [len(s.steps) for s in samples] == [1] * 4
    for sample, step_ in zip(samples, played[1].steps):
        prompt = forgetful.model.encode(step_.messages, forgetful.images)
        assert np.array_equal(sample.ids, np.concatenate([prompt.ids, step_.completion.token_ids]))
    assert "free" not in forgetful.model.tokenizer.decode(prompt.ids)


def test_demonstrations_of_a_conversation_are_one_sample_whose_targets_are_the_texts(policy):
    shown, past, messages, steps = Shown((), ("On.",)), [], (), []
    for text in ("left", "", "right"):
        messages = Conversation().prompt(Moment("Walk.", "Answer.", past, messages, shown, policy.images))
        completion = Completion(text, np.array([1777], np.int32))  # ids of another model's tokenizer: not to be used
        parse = ParsedAction(0, text, "", {}, 0)
        steps.append(step(completion, parse, messages=messages))
        past.append(PastStep(shown, completion, text))
    (sample,) = supervised_samples(trajectory(steps), policy.model, policy.images)
    texts = [policy.model.tokenizer.decode(sample.ids[s.start : s.end]) for s in sample.steps]
    assert texts == ["left<end_of_utterance>", "right<end_of_utterance>"]
    assert 1777 not in sample.ids


def test_imagememory_a_conversation_grows_linearly(policy, tmp_path):
    """Tokens of the samples and bytes on the disk, of 16, 32 and 64 steps."""
    tokens, sizes = [], []
    for steps in (16, 32, 64):
        played = play(policy, Conversation(), steps=steps, new_tokens=4)
        tokens.append(sum(len(s.ids) for s in build_samples([played], policy.model, policy.images)))
        folder = tmp_path / str(steps)
        with TrajectoryRecorder(folder, policy.images) as recorder:
            recorder.record("a", [played])
        sizes.append([sum(f.stat().st_size for f in (folder / part).glob("*")) for part in ("trajectories", "images")])
    assert tokens[2] / tokens[1] < 2.1 and tokens[1] / tokens[0] < 2.1
    for before, after in pairwise(sizes):
        assert after[0] / before[0] < 2.2 and after[1] / before[1] < 2.1
    unmerged = [len(policy.model.encode(s.messages, policy.images).ids) for s in played.steps]  # the wrong variant
    assert sum(unmerged) > 20 * tokens[2]


def test_older_pictures_are_dropped_or_reduced(policy):
    dropped = play(policy, Conversation(keep_images=2)).steps[-1].messages
    assert [sum(isinstance(p, ImagePart) for p in m.parts) for m in dropped if m.role == "user"] == [0, 0, 1, 1]
    reduced = play(policy, Conversation(keep_images=2, are_older_downscaled=True)).steps[-1].messages
    users = [m for m in reduced if m.role == "user"]
    shapes = [policy.images.get(m.parts[0].image_hash).shape[:2] for m in users]
    assert shapes == [(30, 30), (30, 30), (60, 60), (60, 60)]


def test_the_last_observations_and_a_summary_say_what_was_done(policy):
    (message,) = play(policy, LastObservations(3), steps=5).steps[-1].messages
    assert sum(isinstance(p, ImagePart) for p in message.parts) == 3
    text = " ".join(p.text for p in message.parts if isinstance(p, TextPart))
    assert text == (
        "You are at 2. Then you chose left. You are at 3. Then you chose left. Walk on. You are at 4. Answer left or right."
    )
    past = [PastStep(Shown((), ()), Completion(""), name) for name in ("left", "left", None, "right")]
    (message,) = Summary().prompt(Moment("Walk.", "Answer.", past, (), Shown((), ("On.",)), policy.images))
    assert message.parts[0].text == "Walk. So far you chose: left x2, nothing, right. On. Answer."


def test_minibatches_count_steps_and_keep_conversations_whole():
    def sample(steps):
        return TrainingSample(np.zeros(1), (), tuple(range(steps)))

    assert [len(p) for p in minibatches([sample(1)] * 10, 3)] == [len(p) for p in np.array_split(np.arange(10), 3)]
    parts = minibatches([sample(4), sample(4), sample(8)], 8)
    assert [[len(s.steps) for s in part] for part in parts] == [[4, 4], [8]]
    assert [len(p) for p in minibatches([sample(20), sample(1)], 7)] == [1, 1]


def test_imagecut_a_conversation_that_no_longer_fits_ends_with_its_own_reason():
    """Played by a real model with a small context; the critic bootstraps from the last prompt that fitted."""
    small = nano_policy(context=260)
    task = text_task(lambda: CountingEnv(length=None), history=Conversation(), max_new_tokens=8)
    (played,) = play_episodes(task, PolicyActor(small), small.images, 0, range(1)).trajectories
    lengths = [len(small.model.encode(s.messages, small.images).ids) for s in played.steps]
    assert played.stop_reason is StopReason.CONTEXT_OVERFLOW and played.success is False
    assert len(lengths) > 2 and lengths == sorted(lengths) and lengths[-1] + 8 <= 260
    assert played.final_messages == played.steps[-1].messages
    samples = build_samples([played], small.model, small.images)
    annotate(small, [played], samples)
    assert len(samples) == 1 and len(samples[0].steps) == len(played.steps)
    assert samples[0].steps[-1].next_value == pytest.approx(samples[0].steps[-1].value)
