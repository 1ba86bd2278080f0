"""Ends completions by choosing an action: the words of every legal one are scored in one pass behind the prompt."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from eyas.batch import Candidates, SampleStep, TrainingSample
from eyas.collate import collate, places_of
from eyas.models.adapter import EncodedPrompt, VisionLanguageModel
from eyas.models.scoring import action_logprobs
from eyas.samplers.prefixes import PrefixStore
from eyas.samplers.rows import OnPrompts, read_shared_texts
from eyas.samplers.slots import NOTHING, Reading, ReadLayer
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
    on_prompts: OnPrompts = lambda prompts, hidden: None,
    prefixes: PrefixStore | None = None,
) -> list[Completion]:
    """One completion a step: its head and the words of the action drawn with the request's own random number.

    Equal prompts with equal heads and words are read once, and not at all where `known` holds them; `max_batch` of them
    at most together; `version` names the weights. What `prefixes` holds of a prompt or a head is not read again, and it
    gets what a conversation goes on with. Temperature 0 takes the most probable action, and records its log-prob at
    temperature 1, as for sampled text.
    """
    samples = [_sample(model, step) for step in steps]
    keys: list[Hashable] = [_key(s, step.request) for s, step in zip(samples, steps, strict=True)]
    first = {key: i for i, key in reversed(list(enumerate(keys))) if key not in known}
    todo = list(first.values())
    done: dict[int, Completion] = {}
    for indices in parts([samples[i] for i in todo], max_batch):
        part = [todo[k] for k in indices]
        words = _Words(model, images, [samples[i] for i in part], [steps[i] for i in part], prefixes)
        temperatures = [steps[i].request.temperature or 1.0 for i in part]
        found = words.read(temperatures, version, on_prompts)
        known.update((keys[i], scores) for i, scores in zip(part, found, strict=True))
        rows = {keys[i]: row for row, i in enumerate(part)}
        for i in (i for i, key in enumerate(keys) if key in rows):
            done[i] = _chosen(steps[i], samples[i], *known[keys[i]])
            if steps[i].request.is_continued:
                words.keep(rows[keys[i]], done[i])
    return [
        done.get(i) or _chosen(step, sample, *known[key])
        for i, (step, sample, key) in enumerate(zip(steps, samples, keys, strict=True))
    ]


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


class _Words:
    """One pass over what is new in some samples, and over the words of all their candidates behind it."""

    def __init__(
        self,
        model: VisionLanguageModel,
        images: ImageStore,
        samples: Sequence[TrainingSample],
        steps: Sequence[OpenStep],
        prefixes: PrefixStore | None,
    ):
        self.model, self.images, self.prefixes = model, images, prefixes
        self.samples, self.steps = samples, steps
        prompts = [_with_head(sample, step) for sample, step in zip(samples, steps, strict=True)]
        if prefixes is not None:
            read_shared_texts(model, images, prefixes, prompts)
        found = [(NOTHING, 0)] * len(prompts) if prefixes is None else prefixes.hand_over(prompts)
        self.pasts = [past for past, _ in found]
        positions, self.new = {}, []
        for sample, (past, num_images) in zip(samples, found, strict=True):
            ids, hashes = sample.ids[past.length :], sample.image_hashes[num_images:]
            positions[id(ids)] = model.positions(ids, hashes, images, past.after)
            end = len(ids)
            self.new.append(
                TrainingSample(ids, hashes, (replace(sample.steps[0], start=end, action_start=end, end=end),))
            )
        self.places = places_of(self.new)
        self.batch = collate(self.new, model.pad_id, model.device, lambda ids, hashes: positions[id(ids)])

    def read(
        self, temperatures: Sequence[float], version: Hashable, on_prompts: OnPrompts
    ) -> list[tuple[np.ndarray, list[np.ndarray]]]:
        """Of each sample, the log-probs of its actions, and those of each action's tokens."""
        hidden = self._hidden(version)
        ends = [len(step.prompt.ids) - 1 - past.length for step, past in zip(self.steps, self.pasts, strict=True)]
        fresh = [row for row, end in enumerate(ends) if end >= 0]  # the others' prompts were read before their heads
        on_prompts([self.steps[row].prompt for row in fresh], hidden[fresh, [ends[row] for row in fresh]])
        temperature = torch.tensor(temperatures, device=self.model.device)[:, None]
        assert self.batch.scoring is not None
        logprobs, of_tokens = action_logprobs(self.model, hidden, self.batch.scoring, temperature)
        tokens = iter(of_tokens.cpu().numpy())
        results = []
        for sample, row in zip(self.samples, logprobs.cpu().numpy(), strict=True):
            candidates = sample.steps[0].candidates
            assert candidates is not None
            words = [np.array([next(tokens) for _ in ids], dtype=np.float32) for ids in candidates.ids]
            results.append((row[: len(candidates.ids)].astype(np.float32), words))
        return results

    def _hidden(self, version: Hashable) -> Tensor:
        batch, pasts = self.batch, [self.pasts[i] for i in self.places.samples]
        before = max(past.length for past in pasts)
        readings = [Reading(row, None, (), past) for row, past in zip(batch.input_ids, pasts, strict=True)]
        num_layers = self.model.model.config.get_text_config().num_hidden_layers
        self.cache = Cache(layers=[ReadLayer(layer, readings, before) for layer in range(num_layers)])
        lengths = torch.tensor([past.length for past in pasts], device=self.model.device)
        seen = torch.arange(before, device=self.model.device) >= before - lengths[:, None]
        seen = seen[:, None, None].expand(-1, 1, batch.input_ids.shape[1], -1)
        hidden, _ = self.model.hidden(
            batch.input_ids,
            torch.cat([seen, batch.attention_mask], -1),
            batch.position_ids,
            self.model.features(batch.image_hashes, self.images, version),
            cache=self.cache,
            use_cache=True,
        )
        return hidden

    def keep(self, index: int, completion: Completion) -> None:
        """Remembers a sample and the action chosen behind it, the last token left out, for the next step to go on with."""
        if self.prefixes is None:
            return
        assert completion.scores is not None
        words = completion.scores.candidates[completion.scores.chosen]
        row, begin = self.places.begins[index][completion.scores.chosen]
        columns = [*range(len(self.new[index].ids)), *range(begin, begin + len(words) - 1)]
        layers: Any = self.cache.layers
        places = torch.tensor(columns, device=self.model.device) + layers[0].before
        new = tuple((layer.keys[row][:, places], layer.values[row][:, places]) for layer in layers)
        sample = self.samples[index]
        ids = np.concatenate([sample.ids, words.astype(np.int64)])[:-1]
        after = int(self.batch.position_ids[..., row, columns[-1]].max()) + 1
        self.prefixes.put(ids, sample.image_hashes, self.pasts[index].with_more(new, after))


def _with_head(sample: TrainingSample, step: OpenStep) -> EncodedPrompt:
    """As a prompt of which sampling the head has read all but the last token."""
    if len(sample.ids) == len(step.prompt.ids):
        return step.prompt
    return EncodedPrompt(sample.ids, sample.image_hashes, len(sample.ids), len(sample.image_hashes))


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
