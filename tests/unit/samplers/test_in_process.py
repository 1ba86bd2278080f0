"""The sampler: what may be drawn, when a completion ends, what is cached."""

import numpy as np
import pytest
import torch

from eyas.interface.formats import JSON_STOP
from eyas.types import FinishReason, SampleRequest, StopRule
from helpers import nano_policy, picture, prompt


@pytest.fixture
def policy():
    return nano_policy()


def boost(policy, ids, by):
    """Adds to the logits of some ids, whatever the prompt."""
    plain = type(policy.model).logits

    def logits(hidden):
        result = plain(policy.model, hidden).clone()
        result[..., ids] += by
        return result

    policy.model.logits = logits


def sample(policy, num, temperature=1.0, tokens=8, stop=None, text="Go."):
    return policy.sample([SampleRequest(prompt(text), s, tokens, temperature, stop) for s in range(num)])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_imagepad_special_ids_are_never_sampled_however_likely(policy, temperature):
    forbidden = policy.model.forbidden_ids
    boost(policy, forbidden, 1e4)
    completions = sample(policy, 20, temperature)
    drawn = set(np.concatenate([c.token_ids for c in completions]).tolist())
    assert not drawn & set(forbidden.tolist())
    assert all(np.isfinite(c.sampling_logprobs).all() for c in completions)
    policy.model.forbidden_ids = forbidden[:0]  # the wrong variant: nothing is forbidden
    policy.sampler.forget()
    assert set(sample(policy, 1, temperature)[0].token_ids.tolist()) <= set(forbidden.tolist())


def test_the_end_of_turn_can_be_sampled_and_ends_the_completion(policy):
    (end,) = policy.model.end_ids
    boost(policy, [end], 7.0)
    completions = sample(policy, 40)
    ended = [c for c in completions if c.finish_reason is FinishReason.END_TOKEN]
    assert len(ended) > 10
    assert all(c.token_ids[-1] == end and end not in c.token_ids[:-1] for c in ended)
    assert all("<" not in c.text or "utterance" not in c.text for c in ended)
    assert all(len(c.token_ids) == len(c.sampling_logprobs) for c in completions)


def test_length_stop_and_own_limits(policy):
    requests = [SampleRequest(prompt("Go."), s, s % 7 + 1) for s in range(21)]
    completions = policy.sample(requests)
    for request, completion in zip(requests, completions):
        if completion.finish_reason is FinishReason.LENGTH:
            assert len(completion.token_ids) == request.max_new_tokens
        else:
            assert len(completion.token_ids) <= request.max_new_tokens


def test_the_stop_rule_ends_a_completion_at_the_token_that_completes_it(policy):
    ids = [
        i for i in range(2048) if "}" in policy.model.tokenizer.decode([i]) or "{" in policy.model.tokenizer.decode([i])
    ]
    boost(policy, ids, 6.0)
    completions = sample(policy, 40, tokens=12, stop=JSON_STOP)
    stopped = [c for c in completions if c.finish_reason is FinishReason.STOP]
    assert len(stopped) > 10
    for c in stopped:
        assert JSON_STOP.is_complete(c.text)
        assert not JSON_STOP.is_complete(policy.model.decode(c.token_ids[:-1]))


def test_text_is_the_decoded_ids(policy):
    for c in sample(policy, 10):
        assert c.text == policy.model.decode(c.token_ids)
        assert c.token_ids.dtype == np.int32 and c.sampling_logprobs.dtype == np.float32


def test_frequencies_are_the_probabilities(policy):
    """First tokens of 4000 seeds against the model's own distribution over three boosted ids."""
    ids = [300, 400, 500]
    boost(policy, ids, 40.0)
    completions = policy.sample([SampleRequest(prompt("Go."), s, 1, 2.0) for s in range(4000)])
    drawn = np.array([c.token_ids[0] for c in completions])
    logprobs = {int(c.token_ids[0]): float(c.sampling_logprobs[0]) for c in completions}
    assert set(logprobs) == set(ids)
    for token, logprob in logprobs.items():
        p = np.exp(logprob)
        assert (drawn == token).mean() == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 4000))


def test_a_completion_depends_on_its_own_seed_alone(policy):
    h = policy.images.put(picture())
    texts = ["short", "a prompt of quite another length than the others have", "mid length"]
    requests = [SampleRequest(prompt(texts[i % 3], *([h] if i % 2 else [])), 100 + i, 10) for i in range(12)]
    together = policy.sample(requests)
    reordered = policy.sample(requests[::-1])[::-1]
    alone = [policy.sample([r])[0] for r in requests]
    for a, b, c in zip(together, reordered, alone):
        assert a.token_ids.tolist() == b.token_ids.tolist() == c.token_ids.tolist()
    other = policy.sample([SampleRequest(r.messages, r.seed + 1, 10) for r in requests])
    assert all(a.token_ids.tolist() != b.token_ids.tolist() for a, b in zip(together, other))


def test_torch_s_global_generator_is_left_alone(policy):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = sample(policy, 2)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert [c.text for c in sample(policy, 2)] == [c.text for c in first]


def test_greedy_takes_the_likeliest_and_records_logprobs_at_temperature_1(policy):
    greedy, again = (policy.sample([SampleRequest(prompt("Go."), s, 8, 0.0)])[0] for s in (0, 1))
    assert greedy.token_ids.tolist() == again.token_ids.tolist()
    ids = torch.from_numpy(np.concatenate([policy.model.encode(prompt("Go."), policy.images).ids, greedy.token_ids]))[
        None
    ]
    with torch.no_grad():
        hidden, _ = policy.model.hidden(ids, torch.ones_like(ids), torch.arange(ids.shape[1])[None])
        logits = policy.model.logits(hidden)[0, -len(greedy.token_ids) - 1 : -1]
    logits[:, policy.model.forbidden_ids] = -torch.inf
    assert logits.argmax(-1).tolist() == greedy.token_ids.tolist()
    assert greedy.sampling_logprobs == pytest.approx(logits.log_softmax(-1).max(-1).values.numpy(), abs=1e-4)


def test_stalecache_greedy_completions_do_not_outlive_an_update(policy):
    (before,) = sample(policy, 1, 0.0)
    calls = []
    plain = policy.model.hidden
    policy.model.hidden = lambda *a, **k: calls.append(1) or plain(*a, **k)
    assert sample(policy, 1, 0.0)[0] is before
    assert not calls  # it came from the cache
    boost(policy, [300], 1e3)
    assert sample(policy, 1, 0.0)[0] is before  # the wrong variant: the weights changed, the version did not
    policy.version += 1
    (after,) = sample(policy, 1, 0.0)
    assert after.token_ids.tolist() == [300] * 8
    assert (before.policy_version, after.policy_version) == (0, 1)


def test_greedy_completions_of_other_limits_are_not_shared(policy):
    boost(policy, [300], 1e3)
    stop = StopRule(policy.model.decode([300]), lambda text: True)
    limits = [(2, None), (5, None), (5, stop), (5, stop)]
    completions = [policy.sample([SampleRequest(prompt("Go."), 0, n, 0.0, s)])[0] for n, s in limits]
    assert [len(c.token_ids) for c in completions] == [2, 5, 1, 1]


def test_no_request_no_completion(policy):
    assert policy.sample([]) == []
