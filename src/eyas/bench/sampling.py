"""The sampler's sides: ours from messages to completions, the bare ones from ready tensors to ids."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from eyas.bench.measure import Side
from eyas.bench.workload import requests
from eyas.models.adapter import VisionLanguageModel
from eyas.models.policy import Policy
from eyas.samplers.in_process import InProcessSampler
from eyas.seeding import generator
from eyas.types import Completion, Message, SampleRequest


def sampler_sides(policy: Policy, messages: Sequence[tuple[Message, ...]], new_tokens: int) -> list[Side]:
    """Our sampler against `generate` and a hand-written loop, all with `new_tokens` a prompt."""
    inputs = bare_inputs(policy, messages)
    return [
        _sampling_side("sampler", policy.sample, messages, [new_tokens] * len(messages)),
        Side("generate", lambda: bare_generate(policy.model, inputs, new_tokens).numel()),
        Side("bare_loop", lambda: bare_loop(policy.model, inputs, new_tokens).numel()),
    ]


def lockstep_sides(policy: Policy, messages: Sequence[tuple[Message, ...]], new_tokens: int) -> list[Side]:
    """Lengths uniform from a quarter of the tokens to twice as many; without dropping, rows wait for the longest."""
    low, high = max(1, new_tokens // 4), 2 * new_tokens
    lengths = generator("bench lengths").integers(low, high, len(messages), endpoint=True).tolist()
    dropping = InProcessSampler(policy.model, policy.images)
    waiting = InProcessSampler(policy.model, policy.images, compact_below=0.0)
    return [
        _sampling_side("sampler", dropping.sample, messages, lengths),
        _sampling_side("lockstep", waiting.sample, messages, lengths),
    ]


def _sampling_side(
    name: str,
    sample: Callable[[Sequence[SampleRequest]], Sequence[Completion]],
    messages: Sequence[tuple[Message, ...]],
    lengths: Sequence[int],
) -> Side:
    draws = count()

    def run() -> int:
        completions = sample(requests(messages, lengths, next(draws)))
        return sum(len(c.token_ids) for c in completions if c.token_ids is not None)

    return Side(name, run)


def bare_inputs(policy: Policy, messages: Sequence[tuple[Message, ...]]) -> dict[str, Tensor]:
    """What the model's `forward` wants for these prompts, padded on the left."""
    model = policy.model
    encoded = [model.encode(m, policy.images) for m in messages]
    width = max(len(e.ids) for e in encoded)
    ids = torch.stack([nn.functional.pad(torch.from_numpy(e.ids), (width - len(e.ids), 0), value=-1) for e in encoded])
    vision = model.vision_inputs([e.image_hashes for e in encoded], policy.images)
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
