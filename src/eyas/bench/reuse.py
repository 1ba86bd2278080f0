"""What is read once and used again, against reading it each time: conversations, groups, and a task's text."""

from collections.abc import Callable, Sequence
from itertools import count

from eyas.bench.measure import Side
from eyas.bench.sampling import Prompts, bare_inputs, bare_loop, bare_side, sampling_side
from eyas.bench.workload import picture_of, requests, text_first
from eyas.models.policy import Policy
from eyas.samplers.in_process import InProcessSampler
from eyas.types import Completion, Message, SampleRequest, TextPart

Sample = Callable[[Sequence[SampleRequest]], list[Completion]]


def conversation_sides(policy: Policy, messages: Prompts, number: int, new_tokens: int) -> list[Side]:
    """`number` conversations with a new picture at each step. `messages` are the first prompts of all their steps."""
    steps = [messages[i : i + number] for i in range(0, len(messages), number)]
    whole = InProcessSampler(policy.model, policy.images)
    forgetful = InProcessSampler(policy.model, policy.images, keeps_prefixes=False)
    draws = count()

    def read_again(asked: Sequence[SampleRequest]) -> list[Completion]:
        forgetful.forget()
        return forgetful.sample(asked)

    ready = [bare_inputs(policy, prompts) for prompts in converse(whole.sample, steps, new_tokens, next(draws))]

    def kept() -> int:
        return len(converse(whole.sample, steps, new_tokens, next(draws))) * number

    def reread() -> int:
        return len(converse(read_again, steps, new_tokens, next(draws))) * number

    def bare() -> int:
        return sum(len(bare_loop(policy.model, inputs, new_tokens)) for inputs in ready)

    return [
        Side("conversation", kept, whole.forget),
        Side("rereading", reread, forgetful.forget),
        Side("bare_loop", bare),
    ]


def converse(
    sample: Sample,
    steps: Sequence[Prompts],
    new_tokens: int,
    draw: int,
    on_step: Callable[[int], object] = lambda step: None,
) -> list[Prompts]:
    """Conversations whose completions are written in turn; returns the prompts of each step."""
    prompts: Prompts = steps[0]
    asked = []
    for step in range(len(steps)):
        asked.append(prompts)
        completions = sample(
            requests(prompts, [new_tokens] * len(prompts), draw * len(steps) + step, is_continued=True)
        )
        on_step(step)
        if step + 1 < len(steps):
            prompts = [_continued(p, c, n) for p, c, n in zip(prompts, completions, steps[step + 1], strict=True)]
    return asked


def _continued(before: tuple[Message, ...], written: Completion, now: Sequence[Message]) -> tuple[Message, ...]:
    answer = Message("assistant", (TextPart(written.text),), written)
    return (*before, answer, Message("user", (picture_of(now),)))


def group_sampling_sides(policy: Policy, messages: Prompts, group_size: int, new_tokens: int) -> list[Side]:
    """Groups with one prompt each, against as many different prompts of the same length."""
    sampler = InProcessSampler(policy.model, policy.images)
    grouped = [m for m in messages[: len(messages) // group_size] for _ in range(group_size)]
    lengths = [new_tokens] * len(messages)
    return [
        sampling_side("group", sampler, grouped, lengths),
        sampling_side("alone", sampler, messages, lengths),
        bare_side(policy, grouped, new_tokens),
    ]


def shared_text_sides(policy: Policy, messages: Prompts, new_tokens: int) -> list[Side]:
    """Prompts that begin with the same text, with it read once, and with it read in each."""
    alike = [text_first(m) for m in messages]
    lengths = [new_tokens] * len(messages)
    shared = InProcessSampler(policy.model, policy.images)
    alone = InProcessSampler(policy.model, policy.images, keeps_prefixes=False)
    return [
        sampling_side("shared", shared, alike, lengths),
        sampling_side("alone", alone, alike, lengths),
        bare_side(policy, alike, new_tokens),
    ]
