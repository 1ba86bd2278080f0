"""Ends completions by choosing an action: the words of every legal one are scored in one pass behind the prompt."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from eyas.batch import Candidates, SampleStep, TrainingSample
from eyas.models.adapter import EncodedPrompt, VisionLanguageModel
from eyas.models.reading import batch_of, read
from eyas.models.scoring import action_logprobs
from eyas.samplers.rows import OnPrompts
from eyas.seeding import generator
from eyas.splits import parts
from eyas.types import ActionScores, Completion, FinishReason, ImageStore, SampleRequest


@dataclass(slots=True)
class OpenStep:
    """A prompt, what was sampled after it, and the words that may follow."""

    prompt: EncodedPrompt
    request: SampleRequest
    head: Completion
    texts: Sequence[str]


Scores = dict[Hashable, tuple[np.ndarray, list[np.ndarray]]]  # what was read: of the actions, and of their tokens


@torch.inference_mode()
def choose_actions(
    model: VisionLanguageModel,
    images: ImageStore,
    steps: Sequence[OpenStep],
    max_batch: int,
    known: Scores,
    version: Hashable = None,
    on_prompts: OnPrompts | None = None,
) -> list[Completion]:
    """One completion a step: its head and the words of the action drawn with the request's own random number.

    Equal prompts with equal heads and words are read once, and not at all where `known` holds them; `max_batch` of them
    at most together; `version` names the weights. Temperature 0 takes the most probable action, and records its log-prob
    at temperature 1, as for sampled text.
    """
    samples = [_sample(model, step) for step in steps]
    keys: list[Hashable] = [_key(s, step.request) for s, step in zip(samples, steps, strict=True)]
    first = {key: i for i, key in reversed(list(enumerate(keys))) if key not in known}
    todo = list(first.values())
    for indices in parts([samples[i] for i in todo], max_batch):
        part = [todo[k] for k in indices]
        temperatures = [steps[i].request.temperature or 1.0 for i in part]
        found, hidden = _read(model, images, [samples[i] for i in part], temperatures, version)
        if on_prompts is not None:
            prompts = [steps[i].prompt for i in part]
            on_prompts(prompts, hidden[range(len(part)), [len(p.ids) - 1 for p in prompts]])
        known.update((keys[i], scores) for i, scores in zip(part, found, strict=True))
    return [_chosen(step, sample, *known[key]) for step, sample, key in zip(steps, samples, keys, strict=True)]


def _sample(model: VisionLanguageModel, step: OpenStep) -> TrainingSample:
    assert step.request.choice is not None
    head = step.head.token_ids if step.head.token_ids is not None else np.zeros(0, dtype=np.int32)
    ids = np.concatenate([step.prompt.ids, head.astype(np.int64)])
    words = tuple(model.encode_text(text) for text in step.texts)
    candidates = Candidates(words, is_per_token=step.request.choice.is_per_token)
    return TrainingSample(ids, step.prompt.image_hashes, (SampleStep(len(ids), len(ids), len(ids), candidates),))


def _key(sample: TrainingSample, request: SampleRequest) -> Hashable:
    candidates = sample.steps[0].candidates
    assert candidates is not None
    words = tuple(ids.tobytes() for ids in candidates.ids)
    return sample.ids.tobytes(), sample.image_hashes, words, candidates.is_per_token, request.temperature or 1.0


def _read(
    model: VisionLanguageModel,
    images: ImageStore,
    samples: Sequence[TrainingSample],
    temperatures: Sequence[float],
    version: Hashable,
) -> tuple[list[tuple[np.ndarray, list[np.ndarray]]], torch.Tensor]:
    """Of each sample, the log-probs of its actions, and those of each action's tokens; then all hidden states."""
    batch = batch_of(model, images, samples)
    assert batch.scoring is not None
    hidden = read(model, images, batch, version)
    temperature = torch.tensor(temperatures, device=model.device)[:, None]
    logprobs, of_tokens = action_logprobs(model, hidden, batch.scoring, temperature)
    tokens = iter(of_tokens.cpu().numpy())
    results = []
    for sample, row in zip(samples, logprobs.cpu().numpy(), strict=True):
        candidates = sample.steps[0].candidates
        assert candidates is not None
        words = [np.array([next(tokens) for _ in ids], dtype=np.float32) for ids in candidates.ids]
        results.append((row[: len(candidates.ids)].astype(np.float32), words))
    return results, hidden


def _chosen(
    step: OpenStep, sample: TrainingSample, logprobs: np.ndarray, of_tokens: Sequence[np.ndarray]
) -> Completion:
    candidates = sample.steps[0].candidates
    assert candidates is not None
    if step.request.temperature == 0:
        chosen = int(logprobs.argmax())
    else:
        cumulative = np.cumsum(np.exp(logprobs.astype(np.float64)))
        u = generator("action choice", step.request.seed).random()
        chosen = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
    head, words = step.head, tuple(ids.astype(np.int32) for ids in candidates.ids)
    head_ids = head.token_ids if head.token_ids is not None else np.zeros(0, dtype=np.int32)
    head_logprobs = head.sampling_logprobs if head.sampling_logprobs is not None else np.zeros(0, dtype=np.float32)
    return replace(
        head,
        text=head.text + step.texts[chosen],
        token_ids=np.concatenate([head_ids, words[chosen]]),
        sampling_logprobs=np.concatenate([head_logprobs, of_tokens[chosen]]),
        finish_reason=FinishReason.STOP,
        scores=ActionScores(len(head_ids), words, logprobs, chosen, candidates.is_per_token),
    )
