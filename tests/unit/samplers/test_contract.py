"""What every sampler promises. Another one joins by a line in SAMPLERS."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from eyas.models.adapter import VisionLanguageModel
from eyas.rollouts.images import MemoryImageStore
from eyas.samplers.openai import ServedSampler
from eyas.types import Completion, FinishReason, ImageStore, Message, Sampler, SampleRequest, StopRule, TextPart
from helpers import nano_policy, picture, prompt
from helpers_served import FakeServer, random_letters
from helpers_vllm import vllm_policy


@dataclass
class Case:
    """A sampler, and what is known of it."""

    sampler: Sampler
    images: ImageStore
    count: Callable[[Completion], int]  # tokens that it wrote
    model: VisionLanguageModel | None  # None where no token ids come back
    is_seeded: bool = True  # whether the same seed gives the same text


@contextmanager
def in_process() -> Iterator[Case]:
    policy = nano_policy()
    yield Case(policy.sampler, policy.images, lambda c: len(c.token_ids), policy.model)  # type: ignore[arg-type]


@contextmanager
def served() -> Iterator[Case]:
    images = MemoryImageStore()
    with FakeServer(random_letters) as server:
        yield Case(ServedSampler("letters", server.url, images), images, lambda c: len(c.text), None)


@contextmanager
def vllm() -> Iterator[Case]:
    policy = one_engine()
    policy.sampler.forget()
    yield Case(policy.sampler, policy.images, lambda c: len(c.token_ids), policy.model)  # type: ignore[arg-type]


one_engine = cache(vllm_policy)  # it takes seconds to start
SAMPLERS: dict[str, Callable[[], AbstractContextManager[Case]]] = {"in_process": in_process, "served": served}
if os.environ.get("EYAS_VLLM") == "1":
    SAMPLERS["vllm"] = vllm
VOWEL = StopRule("aeiou", lambda text: any(c in text for c in "aeiou"))


@pytest.fixture(params=SAMPLERS)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    with SAMPLERS[request.param]() as made:
        yield made


def mixed(case: Case, num: int = 12, temperature: float = 1.0, stop: StopRule | None = None) -> list[SampleRequest]:
    """Prompts of several lengths, with and without a picture, and each with its own limit."""
    image = case.images.put(picture())
    texts = ["Go.", "a prompt that is quite a lot longer than the others", "What is next?"]
    return [
        SampleRequest(prompt(texts[i % 3], *([image] if i % 2 else [])), 1000 + i, i % 7 + 1, temperature, stop)
        for i in range(num)
    ]


def test_no_request_gives_no_completion(case: Case) -> None:
    assert case.sampler.sample([]) == []


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_each_request_gets_its_own_answer_in_order(case: Case, temperature: float) -> None:
    requests = mixed(case, temperature=temperature)
    together = case.sampler.sample(requests)
    assert len(together) == len(requests)
    if case.is_seeded:
        case.sampler.forget()
        alone = [case.sampler.sample([r])[0].text for r in requests]
        assert [c.text for c in together] == alone
        assert len(set(alone)) > 3


def test_the_same_seed_gives_the_same_text_and_another_seed_another(case: Case) -> None:
    if not case.is_seeded:
        return
    first, again, other = (
        [c.text for c in case.sampler.sample([SampleRequest(prompt("Go."), s, 12) for s in seeds])]
        for seeds in (range(8), range(8), range(8, 16))
    )
    assert first == again
    assert first != other


def test_greedy_text_does_not_depend_on_the_seed(case: Case) -> None:
    completions = case.sampler.sample([SampleRequest(prompt("Go."), s, 8, 0.0) for s in range(4)])
    assert len({c.text for c in completions}) == 1


def test_no_completion_is_longer_than_its_limit_and_the_finish_reason_says_which_reached_it(case: Case) -> None:
    requests = mixed(case, 42)
    completions = case.sampler.sample(requests)
    for request, completion in zip(requests, completions, strict=True):
        assert case.count(completion) <= request.max_new_tokens
        if completion.finish_reason is FinishReason.LENGTH:
            assert case.count(completion) == request.max_new_tokens
        else:
            assert completion.finish_reason is FinishReason.END_TOKEN  # there was no stop rule
    assert FinishReason.LENGTH in {c.finish_reason for c in completions}


def test_a_completion_ends_where_the_stop_rule_first_holds(case: Case) -> None:
    completions = case.sampler.sample([SampleRequest(prompt("Go."), s, 8, stop=VOWEL) for s in range(40)])
    stopped = [c for c in completions if c.finish_reason is FinishReason.STOP]
    assert len(stopped) > 10
    for c in completions:
        assert VOWEL.is_complete(c.text) == (c.finish_reason is FinishReason.STOP)
    for c in stopped:
        before = c.text[:-1] if case.model is None else case.model.decode(c.token_ids[:-1])  # type: ignore[index]
        assert not VOWEL.is_complete(before)


def test_a_completion_names_the_version_of_the_weights_behind_it(case: Case) -> None:
    for version in (0, 3):
        case.sampler.policy_version = version
        assert {c.policy_version for c in case.sampler.sample(mixed(case, 3, 0.0))} == {version}


def test_a_conversation_can_go_on(case: Case) -> None:
    image = case.images.put(picture())
    (first,) = case.sampler.sample([SampleRequest(prompt("Go.", image), 0, 6)])
    answer = Message("assistant", (TextPart(first.text),), first)
    messages = (*prompt("Go.", image), answer, *prompt("And now?", image))
    (second,) = case.sampler.sample([SampleRequest(messages, 1, 6)])
    assert case.count(second) <= 6


def test_token_ids_and_logprobs_are_those_of_the_text(case: Case) -> None:
    completions = case.sampler.sample(mixed(case, 20))
    for c in completions:
        if case.model is None:
            assert c.token_ids is c.sampling_logprobs is None
            continue
        assert c.token_ids is not None and c.sampling_logprobs is not None
        assert c.token_ids.dtype == np.int32 and c.sampling_logprobs.dtype == np.float32
        assert c.text == case.model.decode(c.token_ids)
        assert len(c.sampling_logprobs) == len(c.token_ids) > 0
        assert (c.sampling_logprobs <= 0).all()
        assert not np.isin(c.token_ids, case.model.forbidden_ids.cpu().numpy()).any()
