"""vLLM beside the learner: the same tokens, the same log-probs, and after an update the new weights at once."""

import dataclasses

import numpy as np
import pytest
import torch

from eyas.errors import ConfigError
from eyas.types import ActionChoice, FinishReason, SampleRequest, StopRule
from helpers import picture, prompt
from helpers_vllm import learner_logprobs, mismatch

NATS = 1e-4  # float32; 6e-6 where it was measured
LONG = "Which way now, and why is it that way and no other? Think of all that you see. " * 12  # several blocks of cache


def asked(policy, num=12, temperatures=(1.0, 0.7, 2.0, 0.0), text=LONG):
    """Prompts with no, one or two pictures, and completions of mixed length."""
    pictures = [policy.images.put(picture(i, 40 + 10 * i, 60)) for i in range(3)]
    return [
        SampleRequest(
            prompt(text if i % 2 else "Go.", *[pictures[(i + k) % 3] for k in range(i % 3)]),
            seed=i,
            max_new_tokens=3 + 5 * i % 17,
            temperature=temperatures[i // 3 % len(temperatures)],
        )
        for i in range(num)
    ]


def move_weights(module, by=0.05):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += by * parameter.std() * torch.randn_like(parameter) if parameter.numel() > 1 else 0


def test_logprobs_equal_the_learners_for_every_token(policy):
    requests = asked(policy, 24)
    completions = policy.sample(requests)
    expected = learner_logprobs(policy, requests, completions)
    assert mismatch(completions, expected) < NATS
    assert [len(c.token_ids) for c in completions] == [r.max_new_tokens for r in requests]
    colder = [dataclasses.replace(r, temperature=0.9 * (r.temperature or 1)) for r in requests]
    assert mismatch(completions, learner_logprobs(policy, colder, completions)) > 100 * NATS


def test_forbidden_ids_are_never_sampled_and_the_others_share_their_probability(policy):
    allowed = [min(policy.model.end_ids), 300, 301, 302]
    everything = torch.arange(len(policy.model.tokenizer))
    policy.model.forbidden_ids = everything[~torch.isin(everything, torch.tensor(allowed))]
    requests = asked(policy)
    completions = policy.sample(requests)
    written = np.concatenate([c.token_ids for c in completions])
    assert set(written.tolist()) == set(allowed)
    assert mismatch(completions, learner_logprobs(policy, requests, completions)) < NATS
    for completion, request in zip(completions, requests):
        ended = completion.token_ids[-1] == allowed[0]
        assert completion.finish_reason is (FinishReason.END_TOKEN if ended else FinishReason.LENGTH)
        assert allowed[0] not in completion.token_ids[:-1]
        assert ended or len(completion.token_ids) == request.max_new_tokens


@pytest.mark.parametrize("part", ["vision_model", "connector", "text_model"])
def test_an_update_shows_at_once_and_no_cache_survives_it(policy, part):
    requests = asked(policy)
    before = policy.sample(requests)
    move_weights(getattr(policy.model.model.model, part))
    stale = policy.sample(requests)  # the wrong variant: nothing says that the weights have changed
    assert mismatch(stale, [np.asarray(c.sampling_logprobs) for c in before]) < NATS
    assert mismatch(stale, learner_logprobs(policy, requests, stale)) > 10 * NATS
    policy.version += 1
    after = policy.sample(requests)
    assert {c.policy_version for c in after} == {policy.version}
    assert mismatch(after, learner_logprobs(policy, requests, after)) < NATS


def test_other_weights_of_the_same_version_are_taken_after_forget(policy):
    requests = asked(policy)
    policy.sample(requests)
    move_weights(policy.model.model)
    policy.sampler.forget()
    completions = policy.sample(requests)
    assert mismatch(completions, learner_logprobs(policy, requests, completions)) < NATS


def test_weights_are_pushed_once_a_version(policy, monkeypatch):
    pushed = []
    push = policy.sampler.push
    monkeypatch.setattr(policy.sampler, "push", lambda: (pushed.append(policy.version), push()))
    for _ in range(2):
        policy.sample(asked(policy, 2))
    policy.version += 1
    policy.sample(asked(policy, 2))
    assert pushed == [policy.version - 1, policy.version]


def test_pictures_and_their_order_matter(policy):
    first, second = (policy.images.put(picture(i)) for i in range(2))
    shown = [(first,), (second,), (first, second), (second, first), (first, first)]
    completions = policy.sample([SampleRequest(prompt("Go.", *h), 0, 1, 0.0) for h in shown])
    assert len({float(c.sampling_logprobs[0]) for c in completions}) == len(shown)


def test_the_seed_decides_and_the_batch_does_not(policy):
    requests = asked(policy)
    together = policy.sample(requests)
    alone = [policy.sample([r])[0] for r in requests]
    assert [c.text for c in together] == [c.text for c in alone]
    others = policy.sample([dataclasses.replace(r, seed=r.seed + 100) for r in requests])
    is_greedy = [r.temperature == 0 for r in requests]
    assert [a.text == b.text for a, b in zip(together, others)] == is_greedy


def test_a_complete_text_leaves_and_the_others_go_on(policy):
    stop = StopRule("e", lambda text: "e" in text)
    requests = [dataclasses.replace(r, stop=stop if i % 2 else None) for i, r in enumerate(asked(policy))]
    completions = policy.sample(requests)
    assert mismatch(completions, learner_logprobs(policy, requests, completions)) < NATS
    stopped = [c for c in completions if c.finish_reason is FinishReason.STOP]
    assert len(stopped) > 1
    for completion, request in zip(completions, requests):
        has_stopped = completion.finish_reason is FinishReason.STOP
        assert has_stopped == (request.stop is not None and "e" in completion.text)
        assert not has_stopped or "e" not in policy.model.decode(completion.token_ids[:-1])
        assert has_stopped or len(completion.token_ids) == request.max_new_tokens


def test_an_interruption_leaves_nothing_behind(policy):
    def interrupt(text):
        raise KeyboardInterrupt

    requests = asked(policy, 4)
    expected = policy.sample(requests)
    characters = "".join(chr(i) for i in range(32, 127))
    with pytest.raises(KeyboardInterrupt):
        policy.sample([dataclasses.replace(r, stop=StopRule(characters, interrupt)) for r in requests])
    assert [c.text for c in policy.sample(requests)] == [c.text for c in expected]


def test_actions_are_chosen_after_the_head_that_vllm_wrote(policy):
    head = StopRule("e", lambda text: "e" in text)
    words = ("left", "right")
    choice = ActionChoice(lambda text: words, head)
    requests = [dataclasses.replace(r, choice=choice) for r in asked(policy)]
    requests += [dataclasses.replace(r, choice=ActionChoice(lambda text: words)) for r in asked(policy, 3)]
    completions = policy.sample(requests)
    chosen = [c for c in completions if c.scores is not None]
    assert len(chosen) > 4
    for completion in chosen:
        written = policy.model.decode(completion.token_ids[: completion.scores.start])
        assert completion.text == written + words[completion.scores.chosen]
        assert np.exp(completion.scores.logprobs).sum() == pytest.approx(1, abs=1e-5)


def test_a_prompt_that_is_too_long_says_what_to_set(policy):
    with pytest.raises(ConfigError, match=r"sampler.max_model_len = 1024 is too short .* set \d+ or more"):
        policy.sample([SampleRequest(prompt("Go."), 0, 1024)])
    assert len(policy.sample(asked(policy, 2))) == 2
