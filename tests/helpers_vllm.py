"""A policy whose completions vLLM writes, and what the learner says of them."""

from collections.abc import Sequence

import numpy as np
import torch

from eyas.batch import SampleStep, TrainingSample
from eyas.config import SamplerConfig
from eyas.models.logprobs import token_logprobs
from eyas.models.policy import Policy
from eyas.models.reading import batch_of, read
from eyas.samplers.vllm import VLLMSampler
from eyas.types import Completion, SampleRequest
from helpers import nano_policy

OPTIONS = SamplerConfig(kind="vllm", enforce_eager=True, kv_cache_gib=0.1, max_model_len=1024)


def vllm_policy() -> Policy:
    """A small nano whose heads have 32 numbers each: fewer its attention on a CPU does not take."""
    return with_vllm(nano_policy(heads=2))


def with_vllm(policy: Policy) -> Policy:
    policy.sampler = VLLMSampler(policy.model, policy.images, OPTIONS)
    return policy


@torch.inference_mode()
def learner_logprobs(
    policy: Policy, requests: Sequence[SampleRequest], completions: Sequence[Completion]
) -> list[np.ndarray]:
    """What the module that is trained says of each completion's tokens, read alone: float32 (T,) each."""
    found = []
    for request, completion in zip(requests, completions):
        prompt = policy.model.encode(request.messages, policy.images)
        assert completion.token_ids is not None
        ids = np.concatenate([prompt.ids, completion.token_ids])
        sample = TrainingSample(ids, prompt.image_hashes, (SampleStep(len(prompt.ids), len(ids), len(ids)),))
        hidden = read(policy.model, policy.images, batch_of(policy.model, policy.images, [sample]))
        logits = policy.model.logits(hidden[0, len(prompt.ids) - 1 : -1])
        logprobs = token_logprobs(logits, request.temperature or 1.0, policy.model.forbidden_ids)
        chosen = torch.from_numpy(completion.token_ids.astype(np.int64))
        found.append(logprobs.gather(1, chosen[:, None])[:, 0].numpy())
    return found


def mismatch(completions: Sequence[Completion], expected: Sequence[np.ndarray]) -> float:
    """The largest difference of a token's log-prob, in nats."""
    pairs = [(c.sampling_logprobs, e) for c, e in zip(completions, expected, strict=True)]
    return max(float(np.abs(recorded - e).max()) for recorded, e in pairs if recorded is not None)
