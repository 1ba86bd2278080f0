"""The sampler's sides: ours from environments, or messages, to completions; the bare ones from ready tensors to ids."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from eyas.bench.measure import Side
from eyas.bench.workload import bench_tasks, forget, requests
from eyas.models.adapter import VisionLanguageModel
from eyas.models.policy import Policy
from eyas.rollouts.actors import Decision, PolicyActor, Turn
from eyas.rollouts.collector import Collector
from eyas.samplers.in_process import InProcessSampler
from eyas.seeding import Split, generator
from eyas.types import Completion, Message

Prompts = Sequence[tuple[Message, ...]]
SLOTS_SHARE = 4  # prompts a slot where lengths vary


class _Recording(PolicyActor):
    """Notes which prompts it decided together."""

    batches: list[Prompts]

    def decide(self, turns: Sequence[Turn]) -> list[Decision]:
        self.batches.append([t.messages for t in turns])
        return super().decide(turns)


@contextmanager
def rollout_sides(policy: Policy, num_envs: int, rollout_steps: int, new_tokens: int) -> Iterator[list[Side]]:
    """Our rollouts, environments and pictures included, against `generate` and a loop on their prompts, as ready tensors."""
    actor = _Recording(policy)
    collector = Collector(actor, bench_tasks(new_tokens), policy.images, 0, Split.TRAIN, num_envs)
    ready: list[dict[str, Tensor]] = []

    def begin() -> None:
        forget(policy)
        actor.batches = []

    def ours() -> int:
        steps = [step for t in collector.steps(rollout_steps) for step in t.steps]
        return sum(len(s.completion.token_ids) for s in steps if s.completion.token_ids is not None)

    def make_ready() -> None:
        ready[:] = [bare_inputs(policy, messages) for messages in actor.batches]

    def bare(write: Callable[[VisionLanguageModel, dict[str, Tensor], int], Tensor]) -> Callable[[], int]:
        return lambda: sum(write(policy.model, inputs, new_tokens).numel() for inputs in ready)

    try:
        yield [
            Side("rollout", ours, begin),
            Side("generate", bare(bare_generate), make_ready),
            Side("bare_loop", bare(bare_loop), make_ready),
        ]
    finally:
        collector.close()


def lockstep_sides(policy: Policy, messages: Prompts, lengths: Sequence[int]) -> list[Side]:
    """Slots that are refilled, against batches in which every row waits for the longest; both of equal width."""
    width = max(1, len(messages) // SLOTS_SHARE)
    slots = InProcessSampler(policy.model, policy.images, width)
    lockstep = InProcessSampler(policy.model, policy.images, width, is_refilled=False, drops_finished=False)
    return [
        sampling_side("sampler", slots, messages, lengths),
        sampling_side("lockstep", lockstep, messages, lengths),
    ]


def uniform_lengths(number: int, new_tokens: int) -> list[int]:
    """From a quarter of the tokens to twice as many: 8..64 for 32."""
    low, high = max(1, new_tokens // 4), 2 * new_tokens
    return generator("bench lengths").integers(low, high, number, endpoint=True).tolist()


def geometric_lengths(number: int, new_tokens: int) -> list[int]:
    """With a mean of half the tokens before the cut at four times as many: 16, cut at 128, for 32."""
    lengths = generator("bench geometric lengths").geometric(2 / new_tokens, number)
    return lengths.clip(max=4 * new_tokens).tolist()


def sampling_side(name: str, sampler: InProcessSampler, messages: Prompts, lengths: Sequence[int]) -> Side:
    """From messages to completions; what earlier runs read is forgotten."""
    draws = count()

    def run() -> int:
        return num_tokens(sampler.sample(requests(messages, lengths, next(draws))))

    return Side(name, run, sampler.forget)


def bare_side(policy: Policy, messages: Prompts, new_tokens: int) -> Side:
    inputs = bare_inputs(policy, messages)
    return Side("bare_loop", lambda: bare_loop(policy.model, inputs, new_tokens).numel())


def num_tokens(completions: Sequence[Completion]) -> int:
    return sum(len(c.token_ids) for c in completions if c.token_ids is not None)


def bare_inputs(policy: Policy, messages: Prompts) -> dict[str, Tensor]:
    """What the model's `forward` wants for these prompts, padded on the left."""
    model = policy.model
    encoded = [model.encode(m, policy.images) for m in messages]
    width = max(len(e.ids) for e in encoded)
    ids = torch.stack([nn.functional.pad(torch.from_numpy(e.ids), (width - len(e.ids), 0), value=-1) for e in encoded])
    vision = model.vision.pixels([h for e in encoded for h in e.image_hashes], policy.images)
    # Idefics3 wants its pictures in rows, one a prompt
    vision = {k: v.reshape(len(encoded), -1, *v.shape[2:]) for k, v in vision.items()}
    mask = ids != -1
    inputs = {"input_ids": ids.masked_fill(~mask, model.pad_id), "attention_mask": mask.long()}
    return {k: v.to(model.device) for k, v in inputs.items()} | vision


@torch.inference_mode()
def bare_generate(model: VisionLanguageModel, inputs: dict[str, Tensor], new_tokens: int) -> Tensor:
    """Hugging Face `generate`, sampling at temperature 1 from what may be sampled: ids (B, new_tokens)."""
    options = GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=True,
        top_k=0,
        suppress_tokens=model.forbidden_ids.tolist(),
        pad_token_id=model.pad_id,
    )
    hf: Any = model.model
    hf.generation_config.eos_token_id = None  # it would fill the gap in our options
    return hf.generate(**inputs, generation_config=options)[:, inputs["input_ids"].shape[1] :]


@torch.inference_mode()
def bare_loop(
    model: VisionLanguageModel, inputs: dict[str, Tensor], new_tokens: int, is_greedy: bool = False
) -> Tensor:
    """The least that samples: forward, cache, softmax, cumulative sum, search. Ids (B, new_tokens)."""
    inputs, cache, written = dict(inputs), None, []
    for _ in range(new_tokens):
        mask = inputs["attention_mask"]
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -inputs["input_ids"].shape[1] :]
        output = model.model(**inputs, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        logits = output.logits[:, -1].index_fill(-1, model.forbidden_ids, float("-inf"))
        ids = logits.argmax(-1, keepdim=True) if is_greedy else _draw(logits)
        written.append(ids)
        inputs = {"input_ids": ids, "attention_mask": torch.cat([mask, mask.new_ones(len(mask), 1)], 1)}
    return torch.cat(written, 1)


def _draw(logits: Tensor) -> Tensor:
    """Ids (B, 1), drawn at temperature 1 from logits (B, V)."""
    cumulative = torch.softmax(logits, -1).cumsum(-1)
    u = torch.rand(len(logits), 1, device=logits.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, u, right=True).clamp(max=logits.shape[-1] - 1)
