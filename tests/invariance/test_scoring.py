"""Actions chosen by scoring: one pass over shared prompts equals brute force, and the learner finds what was sampled."""

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium import spaces

from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.collate import collate
from eyas.config import OptimConfig, PPOConfig
from eyas.interface.actions import codec_for
from eyas.interface.formats import FORMATS
from eyas.models.logprobs import token_logprobs
from eyas.rollouts.samples import annotate, build_samples
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer
from eyas.types import FailureReason, FinishReason, Message, ParseFailure, SampleRequest, StopRule, TextPart
from helpers import nano_policy, picture, prompt, step, trajectory

NAMES = ("1", "10", "go left", "stop")


def make_format(name="json", thoughts=False):
    return FORMATS[name](codec_for(spaces.Discrete(len(NAMES)), NAMES), (), thoughts)


@pytest.fixture(scope="module")
def policy():
    return nano_policy()


def requests_of(policy, form, num=12, temperature=1.0, legal=None, is_per_token=False, max_new_tokens=40):
    texts = ["Which way?", "Say where you want to go, and think of all that you can see in the picture first."]
    result = []
    for i in range(num):
        pictures = [policy.images.put(picture(k)) for k in range(i % 3)]
        choice = form.choice(legal, is_per_token)
        result.append(SampleRequest(prompt(texts[i % 2], *pictures), i, max_new_tokens, temperature, form.stop, choice))
    return result


def brute_force(policy, request, head_ids, texts, is_per_token=False, temperature=1.0):
    """Each action's text behind the prompt in a forward pass of its own."""
    model, scores = policy.model, []
    encoded = model.encode(request.messages, policy.images)
    for text in texts:
        words = model.encode_text(text)
        ids = torch.tensor(np.concatenate([encoded.ids, head_ids, words]))[None]
        positions = torch.arange(ids.shape[1])[None]
        vision = model.features([encoded.image_hashes], policy.images)
        with torch.no_grad():
            hidden, _ = model.hidden(ids, torch.ones_like(ids, dtype=torch.bool), positions, vision)
            logits = model.logits(hidden[0, ids.shape[1] - len(words) - 1 : -1])
        logprobs = token_logprobs(logits, 1.0, model.forbidden_ids)[range(len(words)), torch.tensor(words)]
        scores.append(float(logprobs.sum()) / (len(words) if is_per_token else 1))
    return torch.log_softmax(torch.tensor(scores) / temperature, -1).numpy()


@pytest.mark.parametrize("name", ["json", "plain", "think"])
@pytest.mark.parametrize(("is_per_token", "temperature"), [(False, 1.0), (True, 0.5)])
def test_the_distribution_over_actions_equals_brute_force(policy, name, is_per_token, temperature):
    form = make_format(name)
    requests = requests_of(policy, form, temperature=temperature, is_per_token=is_per_token)
    for request, completion in zip(requests, policy.sample(requests)):
        texts = request.choice.continuations("")
        expected = brute_force(policy, request, np.zeros(0, np.int64), texts, is_per_token, temperature)
        assert np.allclose(completion.scores.logprobs, expected, atol=1e-4)
        assert completion.text == texts[completion.scores.chosen]
        assert form.parse(completion).action == completion.scores.chosen
        assert np.isclose(np.exp(completion.scores.logprobs).sum(), 1, atol=1e-5)


def test_the_end_belongs_to_an_action_so_that_1_differs_from_10(policy):
    """Without it the score of "1" would hold that of "10" too: every text that begins with it."""
    form = make_format("plain")
    (request,) = requests_of(policy, form, num=1)
    (completion,) = policy.sample([request])
    ends = [ids[-1] for ids in completion.scores.candidates]
    assert ends == [policy.model.tokenizer.eos_token_id] * len(NAMES)
    texts = request.choice.continuations("")
    without_end = [
        dataclasses.replace(completion.scores, candidates=tuple(c[:-1] for c in completion.scores.candidates))
    ]
    assert len(without_end[0].candidates[0]) < len(completion.scores.candidates[0])
    assert np.allclose(
        completion.scores.logprobs, brute_force(policy, request, np.zeros(0, np.int64), texts), atol=1e-4
    )


def test_only_legal_actions_are_scored(policy):
    form = make_format()
    for completion in policy.sample(requests_of(policy, form, legal=(1, 3))):
        assert len(completion.scores.logprobs) == 2
        assert form.parse(completion, (1, 3)).action == (1, 3)[completion.scores.chosen]


def test_greedy_takes_the_most_probable_and_chance_follows_the_distribution(policy):
    form = make_format()
    (greedy,) = policy.sample(requests_of(policy, form, num=1, temperature=0.0))
    assert greedy.scores.chosen == greedy.scores.logprobs.argmax()
    (request,) = requests_of(policy, form, num=1)
    drawn = policy.sample([dataclasses.replace(request, seed=s) for s in range(3000)])
    shares = np.bincount([c.scores.chosen for c in drawn], minlength=len(NAMES)) / len(drawn)
    expected = np.exp(drawn[0].scores.logprobs)
    assert np.abs(shares - expected).max() < 4 * np.sqrt(0.25 / len(drawn))


def headed(policy, form, num=8):
    """Completions whose head a scripted model has written: random weights would never write the key."""
    requests = requests_of(policy, form, num)
    heads = ['{"thoughts": "a wall", "action":', '{"thoughts": "I see that it is free", "action":']
    chosen = []
    from eyas.samplers.scoring import OpenStep, choose_actions
    from eyas.types import Completion

    steps = []
    for i, request in enumerate(requests):
        ids = policy.model.encode_text(heads[i % 2])[:-1].astype(np.int32)
        head = Completion(heads[i % 2], ids, _logprobs_of(policy, request, ids))
        encoded = policy.model.encode(request.messages, policy.images)
        steps.append(OpenStep(encoded, request, head, request.choice.continuations(head.text)))
    chosen = choose_actions(policy.model, policy.images, steps, 4, {})
    return requests, steps, chosen


def _logprobs_of(policy, request, ids):
    model = policy.model
    encoded = model.encode(request.messages, policy.images)
    whole = torch.tensor(np.concatenate([encoded.ids, ids]))[None]
    vision = model.features([encoded.image_hashes], policy.images)
    with torch.no_grad():
        hidden, _ = model.hidden(
            whole, torch.ones_like(whole, dtype=torch.bool), torch.arange(whole.shape[1])[None], vision
        )
        logits = model.logits(hidden[0, len(encoded.ids) - 1 : -1])
    return token_logprobs(logits, 1.0, model.forbidden_ids)[range(len(ids)), torch.tensor(ids).long()].numpy()


def test_after_a_thought_the_distribution_equals_brute_force(policy):
    form = make_format(thoughts=True)
    requests, steps, chosen = headed(policy, form)
    for request, open_step, completion in zip(requests, steps, chosen):
        expected = brute_force(policy, request, open_step.head.token_ids.astype(np.int64), open_step.texts)
        assert np.allclose(completion.scores.logprobs, expected, atol=1e-4)
        assert completion.text == open_step.head.text + open_step.texts[completion.scores.chosen]
        parsed = form.parse(completion)
        assert parsed.action == completion.scores.chosen and parsed.thought


def test_a_head_that_never_comes_to_the_action_is_a_parse_failure(policy):
    form = make_format(thoughts=True)
    completions = policy.sample(requests_of(policy, form, max_new_tokens=8))
    assert all(c.scores is None for c in completions)
    assert {form.parse(c).reason for c in completions} <= {
        FailureReason.CUT_OFF,
        FailureReason.NO_ACTION_KEY,
        FailureReason.EMPTY,
    }
    assert all(isinstance(form.parse(c), ParseFailure) for c in completions)
    assert {c.finish_reason for c in completions} <= {FinishReason.LENGTH, FinishReason.END_TOKEN}


def training_samples(policy, form, temperature=1.0, is_per_token=False):
    if form.thoughts:
        requests, _, completions = headed(policy, form)
    else:
        requests = requests_of(policy, form, 24, temperature, is_per_token=is_per_token)
        completions = policy.sample(requests)
    played = [
        trajectory([step(c, form.parse(c), float(i % 3), r.messages)], episode=i)
        for i, (r, c) in enumerate(zip(requests, completions))
    ]
    samples = build_samples(played, policy.model, policy.images)
    annotate(policy, played, samples)
    return played, samples


def make_learner(policy, temperature=1.0, **options):
    optimizer = Optimizer(policy.model, policy.value_head, OptimConfig(lr=1e-3), 10)
    return Learner(policy, PolicyGradient(PPOConfig(entropy_coef=0.1, **options)), optimizer, temperature)


@pytest.mark.parametrize(("thoughts", "temperature"), [(False, 1.0), (False, 0.5), (True, 1.0)])
def test_mismatch_the_learner_finds_what_the_sampler_recorded(policy, thoughts, temperature):
    played, samples = training_samples(policy, make_format(thoughts=thoughts), temperature)
    with torch.no_grad():
        output = make_learner(policy, temperature).forward(collate(samples, policy.model.pad_id))
    recorded = np.concatenate([s.sampling_logprobs for s in samples])
    assert np.allclose(output.logprobs.numpy(), recorded, atol=1e-4)
    if not thoughts:
        scores = [t.steps[0].completion.scores.logprobs for t in played]
        exact = [float(-(np.exp(p) * p).sum()) for p in scores]
        assert np.allclose(output.entropy.numpy(), exact, atol=1e-4)
    assert output.action_kl.numpy() == pytest.approx(0, abs=1e-4)
    head = policy.model.model.get_output_embeddings().weight
    with torch.no_grad():
        moved = torch.randn(head.shape, generator=torch.Generator().manual_seed(0)) * 0.3
        head += moved
        after = make_learner(policy, temperature).forward(collate(samples, policy.model.pad_id))
        head -= moved
    assert (after.action_kl > -1e-5).all() and after.action_kl.max() > 1e-5


def test_the_gradient_is_that_of_brute_force(policy):
    """-log p(chosen action) of one step, by the packed pass and by a forward pass for each action."""
    form = make_format()
    _, samples = training_samples(policy, form)
    learner = make_learner(policy)
    for sample in samples[:3]:
        learner.optimizer.zero_grad()
        (-learner.forward(collate([sample], policy.model.pad_id)).logprobs.sum()).backward()
        packed = [p.grad.clone() for p in learner.optimizer.parameters if p.grad is not None]
        learner.optimizer.zero_grad()
        scores, span = [], sample.steps[0]
        for words in span.candidates.ids:
            ids = torch.tensor(np.concatenate([sample.ids[: span.action_start], words]))[None]
            vision = policy.model.features([sample.image_hashes], policy.images)
            hidden, _ = policy.model.hidden(
                ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(ids.shape[1])[None], vision
            )
            logits = policy.model.logits(hidden[0, span.action_start - 1 : -1])
            logprobs = token_logprobs(logits, 1.0, policy.model.forbidden_ids)
            scores.append(logprobs[range(len(words)), torch.tensor(words).long()].sum())
        (-torch.log_softmax(torch.stack(scores), -1)[span.candidates.chosen]).backward()
        alone = [p.grad.clone() for p in learner.optimizer.parameters if p.grad is not None]
        assert len(packed) == len(alone) > 10
        for one, other in zip(packed, alone):
            assert torch.allclose(one, other, atol=1e-5, rtol=1e-3)


def test_ppo_raises_the_probability_of_the_rewarded_action(policy):
    policy = nano_policy(seed=3)
    form = make_format()
    learner = make_learner(policy, value_coef=0.0)
    probability = []
    for _ in range(10):
        played, samples = training_samples(policy, form, is_per_token=True)
        probability.append(np.mean([np.exp(t.steps[0].completion.scores.logprobs[2]) for t in played]))
        for sample, one in zip(samples, played):
            sample.steps[0].advantage = 1.0 if one.steps[0].completion.scores.chosen == 2 else -0.3
            sample.steps[0].value_target = 0.0
        learner.update(samples)
    assert probability[-1] > probability[0] + 0.1


def test_stalecache_scores_of_other_weights_are_not_used():
    policy = nano_policy(seed=5)
    form = make_format()
    request = requests_of(policy, form, 1, is_per_token=True)[0]
    before = policy.sample([request])[0].scores.logprobs
    assert np.array_equal(policy.sample([request])[0].scores.logprobs, before)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    assert np.array_equal(policy.sample([request])[0].scores.logprobs, before)  # the weights moved, the version did not
    policy.version += 1
    assert not np.allclose(policy.sample([request])[0].scores.logprobs, before, atol=1e-3)


# ----------------------------------------------------------------------------------------------- many actions

MANY = FORMATS["json"](codec_for(spaces.Discrete(40), [f"go to the field {i}" for i in range(40)]), (), False)


@pytest.fixture
def narrow(monkeypatch):
    """Rows hold no more candidates than their prompt has tokens, and few of them are read together."""
    monkeypatch.setattr("eyas.collate.LEAST_CANDIDATE_TOKENS", 1)
    monkeypatch.setattr("eyas.splits.MOST_MASK_CELLS", 2**16)


def test_many_actions_are_read_in_several_rows_and_are_worth_what_they_are_alone(narrow):
    policy = nano_policy()
    requests = requests_of(policy, MANY, 3, temperature=0.7)
    completions = policy.sample(requests)
    samples = build_samples(
        [trajectory([step(c, MANY.parse(c), 0.0, r.messages)]) for r, c in zip(requests, completions)],
        policy.model,
        policy.images,
    )
    assert all(len(collate([s], policy.model.pad_id).input_ids) > 2 for s in samples)
    for request, completion in zip(requests, completions):
        texts = request.choice.continuations("")
        expected = brute_force(policy, request, np.zeros(0, np.int64), texts, temperature=0.7)
        assert np.allclose(completion.scores.logprobs, expected, atol=1e-4)
    with torch.no_grad():
        output = make_learner(policy, 0.7).forward(collate(samples, policy.model.pad_id))
    assert np.allclose(output.logprobs.numpy(), np.concatenate([s.sampling_logprobs for s in samples]), atol=1e-4)


def test_the_gradient_is_the_same_however_many_rows_the_actions_take(policy, monkeypatch):
    _, samples = training_samples(policy, MANY)
    learner = make_learner(policy)
    gradients, rows = [], []
    for least in (10_000, 1):
        monkeypatch.setattr("eyas.collate.LEAST_CANDIDATE_TOKENS", least)
        learner.optimizer.zero_grad()
        batch = collate(samples[:3], policy.model.pad_id)
        rows.append(len(batch.input_ids))
        (-learner.forward(batch).logprobs.sum()).backward()
        gradients.append([p.grad.clone() for p in learner.optimizer.parameters if p.grad is not None])
    assert rows[0] == 3 and rows[1] > 9
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-3)


# ----------------------------------------------------------------------------------------------- what was read before


def brief(form):
    """A choice whose head ends at its first word: random weights never write the form's own."""
    letters = "".join(map(chr, range(33, 127)))
    return dataclasses.replace(
        form.choice(None, False), head=StopRule(letters, lambda text: True), continuations=lambda head: list(NAMES)
    )


def passes(policy, monkeypatch):
    """The width of each pass of more than one token a row."""
    widths, plain_hidden = [], type(policy.model).hidden

    def hidden(self, input_ids, *args, **kwargs):
        if input_ids.shape[1] > 1:
            widths.append(input_ids.shape[1])
        return plain_hidden(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(type(policy.model), "hidden", hidden)
    return widths


@pytest.mark.parametrize("has_head", [False, True])
def test_a_scored_conversation_reads_only_what_is_new_and_equals_brute_force(policy, monkeypatch, has_head):
    policy.sampler.forget()
    widths, choice = passes(policy, monkeypatch), brief(make_format())
    if not has_head:
        choice = dataclasses.replace(choice, head=None)
    long = "Say where you want to go, and think of all that you can see in the picture first. " * 3
    chats = [prompt(long + "Go on. " * i, policy.images.put(picture(i))) for i in range(3)]
    for turn in range(4):
        requests = [SampleRequest(m, 10 * turn + i, 9, 1.0, None, choice, True) for i, m in enumerate(chats)]
        widths.clear()
        completions = policy.sample(requests)
        whole = max(len(policy.model.encode(m, policy.images).ids) for m in chats)
        assert turn == 0 or sum(widths) < whole / 2
        for request, completion in zip(requests, completions, strict=True):
            assert (completion.scores.start > 0) == has_head
            head = completion.token_ids[: completion.scores.start].astype(np.int64)
            expected = brute_force(policy, request, head, NAMES)
            assert np.allclose(completion.scores.logprobs, expected, atol=1e-4)
        chats = [
            (*m, Message("assistant", (TextPart(c.text),), c), *prompt("Next.", policy.images.put(picture(20 + turn))))
            for m, c in zip(chats, completions, strict=True)
        ]
    assert len(policy.sampler.prefixes._entries) == 3  # one a conversation, not one a step


def test_the_words_behind_a_head_are_scored_without_reading_its_prompt_again(policy, monkeypatch):
    policy.sampler.forget()
    widths = passes(policy, monkeypatch)
    message = prompt("Say where you want to go, and think of all that you can see. " * 4)
    requests = [SampleRequest(message, seed, 9, 1.0, None, brief(make_format())) for seed in range(6)]
    completions = policy.sample(requests)
    most = sum(len(policy.model.encode_text(name)) for name in NAMES)
    assert widths[0] > 50 and sum(widths[1:]) <= most + 1
    for request, completion in zip(requests, completions, strict=True):
        head = completion.token_ids[: completion.scores.start].astype(np.int64)
        assert np.allclose(completion.scores.logprobs, brute_force(policy, request, head, NAMES), atol=1e-4)
    assert not policy.sampler.prefixes._entries  # nothing goes on with them


def test_scored_prompts_that_begin_alike_read_their_text_once(policy, monkeypatch):
    policy.sampler.forget()
    widths, choice = passes(policy, monkeypatch), make_format().choice(None, False)
    rules = "Reach the goal. Do not fall into a hole. Say which way you go: left, right, up or down. " * 3
    requests = [SampleRequest(prompt(f"{rules} Tile {i}."), i, 9, 1.0, None, choice) for i in range(12)]
    completions = policy.sample(requests)
    length = len(policy.model.encode(requests[0].messages, policy.images).ids)
    assert widths[0] > 0.7 * length and widths[1] < length
    for request, completion in zip(requests, completions, strict=True):
        expected = brute_force(policy, request, np.zeros(0, np.int64), request.choice.continuations(""))
        assert np.allclose(completion.scores.logprobs, expected, atol=1e-4)
