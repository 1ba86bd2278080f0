"""Other models than nano: positions in three dimensions, several tiles a picture, text alone."""

from typing import Any

import pytest
import torch
from transformers import InternVLVideoProcessor, Qwen2VLVideoProcessor, Qwen3VLVideoProcessor

import families
from eyas.models.adapter import VisionLanguageModel
from eyas.models.policy import Policy
from eyas.rollouts.images import MemoryImageStore
from eyas.types import SampleRequest
from helpers import picture, prompt
from helpers_vllm import learner_logprobs, mismatch, with_vllm

NATS = 1e-4
PATCHES = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
VIDEOS: dict[str, Any] = {
    "qwen2_5_vl": lambda: Qwen2VLVideoProcessor(**PATCHES),
    "qwen3_vl": lambda: Qwen3VLVideoProcessor(**PATCHES),
    "internvl": InternVLVideoProcessor,
}


def policy_of(name: str, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """With heads of 32 numbers, which attention on a CPU takes, and with a video processor, which vLLM wants to see."""
    small_text = families._text

    def text(t: Any, **options: Any) -> dict[str, Any]:
        if "rope_parameters" in options:
            dimensions = {"mrope_section": [4, 6, 6], "mrope_interleaved": name == "qwen3_vl"}
            options["rope_parameters"] = options["rope_parameters"] | dimensions
        return small_text(t, **options | {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32})

    monkeypatch.setattr(families, "_text", text)
    model, processor = families.build(name)
    if name in VIDEOS:
        processor.video_processor = VIDEOS[name]()
    images = MemoryImageStore()
    adapter = VisionLanguageModel(model, processor)
    return with_vllm(Policy(adapter, None, images))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["smolvlm", "qwen2_5_vl", "qwen3_vl", "internvl", "llama"])
def test_logprobs_equal_the_learners_before_and_after_an_update(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(name, monkeypatch)
    pictures = [policy.images.put(picture(i, 40 + 20 * i, 60)) for i in range(3)]
    most = 0 if name in families.TEXT_ONLY else 2
    requests = [
        SampleRequest(prompt("Go. " * (1 + 5 * i), *[pictures[(i + k) % 3] for k in range(min(i % 3, most))]), i, 8 + i)
        for i in range(9)
    ]
    for _ in range(2):
        completions = policy.sample(requests)
        assert mismatch(completions, learner_logprobs(policy, requests, completions)) < NATS
        with torch.no_grad():
            for parameter in policy.model.model.parameters():
                parameter += 0.1 * torch.randn_like(parameter) * parameter.abs().mean()
        assert mismatch(completions, learner_logprobs(policy, requests, completions)) > 10 * NATS
        policy.version += 1
