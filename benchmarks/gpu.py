"""A VLM of 2.2 billion random weights on a GPU: tokens/s, and how near they come to what its memory and its arithmetic allow.

    python benchmarks/gpu.py [--batches 1 8 32 128] [--output benchmarks/results]
    python benchmarks/gpu.py --tiny        the same on a tiny model, on any device: checks the benchmark

The limits are measured in the same run: a large copy for the memory, a large matrix product for the arithmetic. Sampling
reads every weight of the decoder and all keys and values once a token of the batch; an update computes forward and twice
that backward. Both are bounds from below of what has to be done, so the shares are too. Writes gpu.json.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor

from eyas.bench.learning import bench_learner, training_samples
from eyas.bench.workload import requests
from eyas.evaluation.records import provenance
from eyas.models.adapter import VisionLanguageModel
from eyas.models.nano import nano_tokenizer
from eyas.models.policy import Policy
from eyas.models.processors import without_videos
from eyas.rollouts.images import MemoryImageStore
from eyas.samplers.in_process import InProcessSampler
from eyas.types import ImagePart, Message, TextPart

SEEN = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% for p in m['content'] %}{% if p['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ p['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = "Look at the picture. Say what you see and what you want to do next, then choose an action." * 4
PICTURE = 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.tiny:
        raise SystemExit(
            "no GPU is at hand, and 2.2 billion weights say nothing on a CPU: add --tiny to check the benchmark"
        )
    policy = build_policy(options.tiny)
    device = policy.model.device
    limits = Limits.of(device, policy.model.model.dtype)
    result = {
        "parameters": sum(p.numel() for p in policy.model.parameters()),
        "limits": {"bytes_per_s": limits.bytes_per_s, "flops_per_s": limits.flops_per_s},
        "sampling": [sampling(policy, limits, batch, options.new_tokens) for batch in options.batches],
        "updates": [updating(policy, limits, batch, options.new_tokens) for batch in options.batches if batch <= 32],
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        **provenance(),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: result[k] for k in ("device", "limits", "sampling", "updates")}, indent=1))


# ----------------------------------------------------------------------------------------------- the model


def build_policy(is_tiny: bool) -> Policy:
    """The sizes of Qwen2-VL-2B, or tiny ones; bfloat16 weights on a GPU."""
    backend = nano_tokenizer().backend_tokenizer
    backend.add_special_tokens([AddedToken(t, normalized=False) for t in ("<|im_start|>", "<|im_end|>", *SEEN)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<|im_end|>")
    pixels = PICTURE**2
    images = Qwen2VLImageProcessorPil(
        patch_size=14, merge_size=2, size={"shortest_edge": pixels, "longest_edge": pixels}
    )
    processor = without_videos(Qwen2VLProcessor)(images, tokenizer, chat_template=TEMPLATE)
    has_gpu = torch.cuda.is_available()
    with torch.device("cuda" if has_gpu else "cpu"):
        torch.set_default_dtype(torch.bfloat16 if has_gpu else torch.float32)
        model = Qwen2VLForConditionalGeneration(_config(tokenizer, is_tiny))
        torch.set_default_dtype(torch.float32)
    wrapped, store = VisionLanguageModel(model, processor), MemoryImageStore()
    wrapped.end_ids = frozenset()  # every completion takes all its tokens
    return Policy(wrapped, InProcessSampler(wrapped, store, max_batch=512), store)


def _config(tokenizer: Any, is_tiny: bool) -> Qwen2VLConfig:
    ids = dict(
        zip(("vision_start", "vision_end", "image", "video"), tokenizer.convert_tokens_to_ids(SEEN), strict=True)
    )
    width, layers, heads = (64, 2, 4) if is_tiny else (1536, 28, 12)
    text = {
        "vocab_size": len(tokenizer) if is_tiny else 151_936,
        "hidden_size": width,
        "intermediate_size": 96 if is_tiny else 8960,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 3, 3] if is_tiny else [16, 24, 24],
        },
    }
    vision = {"depth": 2 if is_tiny else 32, "embed_dim": 32 if is_tiny else 1280, "num_heads": 2 if is_tiny else 16}
    vision |= {"hidden_size": width, "patch_size": 14}
    return Qwen2VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=True, **{f"{k}_token_id": v for k, v in ids.items()}
    )


# ----------------------------------------------------------------------------------------------- limits


@dataclass(frozen=True)
class Limits:
    """What a device does with nothing else to do."""

    bytes_per_s: float
    flops_per_s: float

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype) -> "Limits":
        is_gpu = device.type == "cuda"
        numbers = torch.zeros(2**30 if is_gpu else 2**28, dtype=torch.uint8, device=device)
        target = torch.empty_like(numbers)
        copy_s = fastest(lambda: target.copy_(numbers))
        side = 8192 if is_gpu else 512
        matrix = torch.randn(side, side, dtype=dtype, device=device)
        product_s = fastest(lambda: matrix @ matrix)
        return cls(2 * numbers.nbytes / copy_s, 2 * side**3 / product_s)  # a copy reads and writes


def fastest(work: Callable[[], object], repeats: int = 10) -> float:
    return min(seconds(work) for _ in range(repeats))


def seconds(work: Callable[[], object]) -> float:
    """Elapsed, once everything that was asked of the GPU is done."""
    _wait()
    begun = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - begun


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def decoder_weights(model: VisionLanguageModel) -> int:
    """Those that a token of text passes: of the decoder's matrices and of the output, which may be the embedding."""
    layers = sum(p.numel() for p in model.model.get_decoder().layers.parameters())
    return layers + model.model.get_output_embeddings().weight.numel()


def cache_bytes_a_token(model: VisionLanguageModel) -> int:
    text = model.model.config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * text.num_key_value_heads * head_dim * model.model.dtype.itemsize


def sampling_bytes(model: VisionLanguageModel, batch: int, prompt_tokens: int, new_tokens: int) -> int:
    """Read while a batch writes: the weights once a step, and of each row the keys and values so far."""
    weights = decoder_weights(model) * model.model.dtype.itemsize
    seen = sum(prompt_tokens + i for i in range(new_tokens))
    return new_tokens * weights + batch * seen * cache_bytes_a_token(model)


def sampling_flops(model: VisionLanguageModel, tokens: int) -> int:
    """Two a weight and token; attention and pictures are left out."""
    return 2 * decoder_weights(model) * tokens


# ----------------------------------------------------------------------------------------------- what is measured


def prompts(policy: Policy, number: int, seed: int) -> list[tuple[Message, ...]]:
    """Each with a new picture."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 256, (number, PICTURE, PICTURE, 3), dtype=np.uint8)
    return [(Message("user", (ImagePart(policy.images.put(p)), TextPart(TEXT))),) for p in pictures]


def sampling(policy: Policy, limits: Limits, batch: int, new_tokens: int, repeats: int = 3) -> dict[str, Any]:
    """Steps alone, as the time of `new_tokens` less that of one, and the whole with prompts and pictures."""
    messages = prompts(policy, batch, batch)
    prompt_tokens = len(policy.model.encode(messages[0], policy.images).ids)

    def write(count: int, draw: int) -> None:
        policy.sampler.forget()
        policy.sample(requests(messages, [count] * batch, draw))

    write(new_tokens, 0)
    whole_s = median(seconds(lambda: write(new_tokens, 1)) for _ in range(repeats))
    prompt_s = median(seconds(lambda: write(1, 2)) for _ in range(repeats))
    steps_s = whole_s - prompt_s
    steps_s = steps_s if steps_s > 0 else float("nan")  # other work came between
    read = sampling_bytes(policy.model, batch, prompt_tokens, new_tokens - 1)
    computed = sampling_flops(policy.model, batch * (new_tokens - 1))
    numbers = {
        "batch": batch,
        "prompt_tokens": prompt_tokens,
        "tokens_per_s": round(batch * new_tokens / whole_s, 1),
        "tokens_per_s_of_steps": round(batch * (new_tokens - 1) / steps_s, 1),
        "prompt_s": round(prompt_s, 4),
        "bandwidth_share": round(read / steps_s / limits.bytes_per_s, 4),
        "arithmetic_share": round(computed / steps_s / limits.flops_per_s, 4),
    }
    return {k: None if v != v else v for k, v in numbers.items()}


def updating(policy: Policy, limits: Limits, batch: int, new_tokens: int, repeats: int = 3) -> dict[str, Any]:
    """Whole updates of all weights: reading pictures, forward, backward, clipping, AdamW."""
    samples = training_samples(policy, prompts(policy, batch, batch), new_tokens)
    learner = bench_learner(policy)
    learner.update(samples)
    update_s = median(seconds(lambda: learner.update(samples)) for _ in range(repeats))
    tokens = sum(len(s.ids) for s in samples)
    computed = 3 * sampling_flops(policy.model, tokens)
    computed -= 3 * 2 * policy.model.model.get_output_embeddings().weight.numel() * (tokens - num_written(samples))
    return {
        "batch": batch,
        "tokens": tokens,
        "samples_per_s": round(batch / update_s, 2),
        "tokens_per_s": round(tokens / update_s, 1),
        "arithmetic_share": round(computed / update_s / limits.flops_per_s, 4),
    }


def num_written(samples: Sequence[Any]) -> int:
    """The tokens whose logits an update needs."""
    return sum(step.num_elements for sample in samples for step in sample.steps)


if __name__ == "__main__":
    main()
