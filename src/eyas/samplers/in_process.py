"""Samples from the very module that is trained: batched, with exact log-probs of every sampled token."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eyas.models.adapter import EncodedPrompt, VisionLanguageModel
from eyas.models.logprobs import token_logprobs
from eyas.samplers.scoring import OpenStep, Scores, choose_actions
from eyas.seeding import generator
from eyas.types import Completion, FinishReason, ImageStore, SampleRequest, StopRule

SMALL_MODEL_PARAMETERS = 20_000_000
CACHE_ENTRIES = 20_000
COMPACT_BELOW = 0.75  # finished rows leave the batch once fewer than this share of its rows still write


@dataclass(slots=True)
class _Row:
    """A completion in the making."""

    request: SampleRequest
    stop_ids: frozenset[int]  # tokens after which the stop rule is asked
    ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class _Draws:
    """What one batch draws with, row by row: uniform numbers, temperatures, and the log-probs of what was drawn."""

    def __init__(self, requests: Sequence[SampleRequest], forbidden_ids: Tensor):
        longest = max(r.max_new_tokens for r in requests)
        uniforms = np.zeros((len(requests), longest))
        for row, r in zip(uniforms, requests, strict=True):
            row[: r.max_new_tokens] = generator("sampling", r.seed).random(r.max_new_tokens)
        device = forbidden_ids.device
        self.forbidden_ids = forbidden_ids
        self.num_greedy = sum(r.temperature == 0 for r in requests)
        self.uniforms = torch.from_numpy(uniforms).to(device)
        self.is_greedy = torch.tensor([r.temperature == 0 for r in requests], device=device)
        self.temperatures = torch.tensor([[r.temperature or 1.0] for r in requests], device=device)
        self.chosen = torch.zeros(len(requests), longest, device=device)
        self.rows = torch.arange(len(requests), device=device)  # of these tensors, that are still in the batch

    def keep(self, kept: Tensor) -> None:
        self.rows = self.rows[kept]

    def choose(self, logits: Tensor, step: int) -> Tensor:
        """The next id of each row (B,), by inverting the cumulative distribution at the row's own uniform."""
        logprobs = token_logprobs(logits, self.temperatures[self.rows], self.forbidden_ids)
        if self.num_greedy == len(self.is_greedy):
            ids = logprobs.argmax(-1)
        else:
            cumulative = logprobs.exp().cumsum(-1, dtype=torch.float64)
            u = self.uniforms[self.rows, step, None]
            ids = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True)[:, 0]
            if self.num_greedy:
                ids = torch.where(self.is_greedy[self.rows], logprobs.argmax(-1), ids)
        self.chosen[self.rows, step] = logprobs.gather(1, ids[:, None])[:, 0]
        return ids


def _head_of(request: SampleRequest) -> SampleRequest:
    """What is to be sampled token by token: everything, or the head before an action that is chosen."""
    return request if request.choice is None else replace(request, stop=request.choice.head, choice=None)


class InProcessSampler:
    """Prompts are padded on the left; equal prompts are read once; finished rows leave the batch.

    Each completion draws from a generator of its own seed, so the batch that it runs in changes nothing but rounding.
    Greedy completions of equal prompts are written once per policy version, and scored actions read once.
    """

    def __init__(
        self, model: VisionLanguageModel, images: ImageStore, max_batch: int = 64, compact_below: float = COMPACT_BELOW
    ):
        self.model = model
        self.images = images
        self.max_batch = max_batch
        self.compact_below = compact_below  # 0: rows never leave, and the batch runs until its last row has finished
        self.policy_version = 0
        self._ids_with: dict[str, frozenset[int]] = {}
        self._greedy: dict[Hashable, Completion] = {}
        self._scores: Scores = {}
        self._cached_version = 0

    def sample(self, requests: Sequence[SampleRequest]) -> list[Completion]:
        """One completion a request, in order. Callers check first that it fits into the context."""
        if self._cached_version != self.policy_version or len(self._greedy) + len(self._scores) > CACHE_ENTRIES:
            self.forget()
        prompts = [self.model.encode(r.messages, self.images) for r in requests]
        written = [i for i, r in enumerate(requests) if r.choice is None or r.choice.head is not None]
        texts = self._texts([prompts[i] for i in written], [_head_of(requests[i]) for i in written])
        done = dict(zip(written, texts, strict=True))
        nothing = Completion("", policy_version=self.policy_version)
        open_steps: dict[int, OpenStep] = {}
        for i, request in enumerate(requests):
            head, choice = done.setdefault(i, nothing), request.choice
            # a head that was not completed stays as it is: there is nothing to choose after it
            is_open = choice is not None and (choice.head is None or head.finish_reason is FinishReason.STOP)
            if choice is not None and is_open and (words := choice.continuations(head.text)):
                open_steps[i] = OpenStep(prompts[i], request, head, words)
        chosen = choose_actions(self.model, self.images, list(open_steps.values()), self.max_batch, self._scores)
        done.update(zip(open_steps, chosen, strict=True))
        return [done[i] for i in range(len(requests))]

    def _texts(self, prompts: Sequence[EncodedPrompt], requests: Sequence[SampleRequest]) -> list[Completion]:
        keys = [self._greedy_key(p, r) for p, r in zip(prompts, requests, strict=True)]
        seen: set[Hashable] = set()
        todo = []
        for i, key in enumerate(keys):
            if key is None or (key not in self._greedy and key not in seen):
                todo.append(i)
                seen.add(key)
        # similar lengths share a batch
        todo.sort(key=lambda i: len(prompts[i].ids))
        done: dict[int, Completion] = {}
        for start in range(0, len(todo), self.max_batch):
            chunk = todo[start : start + self.max_batch]
            completions = self._batch([prompts[i] for i in chunk], [requests[i] for i in chunk])
            done.update(zip(chunk, completions, strict=True))
        for i, completion in done.items():
            if keys[i] is not None:
                self._greedy[keys[i]] = completion
        return [done[i] if i in done else self._greedy[keys[i]] for i in range(len(requests))]

    def forget(self) -> None:
        """Drops greedy completions and scores: other weights were loaded, whatever their version."""
        self._greedy, self._scores, self._cached_version = {}, {}, self.policy_version

    @staticmethod
    def _greedy_key(prompt: EncodedPrompt, request: SampleRequest) -> Hashable | None:
        if request.temperature > 0:
            return None
        return prompt.key, request.max_new_tokens, request.stop

    # ------------------------------------------------------------------------------------- one batch

    @torch.inference_mode()
    def _batch(self, prompts: list[EncodedPrompt], requests: list[SampleRequest]) -> list[Completion]:
        rows = [_Row(r, self._stop_ids(r.stop)) for r in requests]
        draws = _Draws(requests, self.model.forbidden_ids)
        hidden, cache, position, mask = self._prefill(prompts)
        mask = torch.cat([mask, mask.new_ones(draws.uniforms.shape)], dim=1)  # also of the tokens to come
        with self._decode_threads():
            self._write(rows, draws, hidden, cache, position, mask)
        logprobs = draws.chosen.cpu().numpy()
        return [self._completion(row, of_row) for row, of_row in zip(rows, logprobs, strict=True)]

    def _write(
        self, rows: list[_Row], draws: _Draws, hidden: Tensor, cache: Any, position: Tensor, mask: Tensor
    ) -> None:
        """Token after token until every row is finished. `mask` (B, T) already covers the tokens to come."""
        width = mask.shape[1] - draws.uniforms.shape[1]
        active = rows
        for step in count():
            ids = draws.choose(self.model.logits(hidden), step)
            for row, token in zip(active, ids.tolist(), strict=True):
                self._append(row, token)
            writing = [k for k, row in enumerate(active) if row.finish_reason is None]
            if not writing:
                break
            if len(writing) < self.compact_below * len(active):
                kept = torch.tensor(writing, device=ids.device)
                cache.batch_select_indices(kept)
                draws.keep(kept)
                mask, position, ids = mask[kept], position[kept], ids[kept]
                active = [active[k] for k in writing]
            seen = mask[:, : width + step + 1]
            hidden, cache = self.model.hidden(ids[:, None], seen, position[:, None], cache=cache, use_cache=True)
            hidden = hidden[:, -1]
            position = position + 1

    @contextmanager
    def _decode_threads(self) -> Iterator[None]:
        """One thread for the steps of a small model on a CPU: they are too short to be worth sharing."""
        before = torch.get_num_threads()
        is_small = sum(p.numel() for p in self.model.parameters()) < SMALL_MODEL_PARAMETERS
        torch.set_num_threads(1 if is_small and self.model.device.type == "cpu" else before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _prefill(self, prompts: list[EncodedPrompt]) -> tuple[Tensor, Any, Tensor, Tensor]:
        """Reads each distinct prompt once: last hidden states (B, D), cache, prompt lengths (B,), mask (B, T)."""
        distinct: dict[Hashable, int] = {}
        order = [distinct.setdefault(p.key, len(distinct)) for p in prompts]
        unique = list({p.key: p for p in prompts}.values())
        width = max(len(p.ids) for p in unique)
        ids = np.full((len(unique), width), self.model.pad_id, dtype=np.int64)
        for row, prompt in zip(ids, unique, strict=True):
            row[width - len(prompt.ids) :] = prompt.ids
        device = self.model.device
        lengths = torch.tensor([len(p.ids) for p in unique], device=device)
        columns = torch.arange(width, device=device)[None]
        mask = columns >= (width - lengths)[:, None]
        positions = (columns - (width - lengths)[:, None]).clamp(min=0)
        vision = self.model.vision_inputs([p.image_hashes for p in unique], self.images)
        hidden, cache = self.model.hidden(torch.from_numpy(ids).to(device), mask, positions, vision, use_cache=True)
        hidden = hidden[:, -1]
        if len(unique) < len(prompts):
            expand = torch.tensor(order, device=device)
            cache.batch_select_indices(expand)
            hidden, lengths, mask = hidden[expand], lengths[expand], mask[expand]
        return hidden, cache, lengths, mask

    def _append(self, row: _Row, token: int) -> None:
        """Adds a token to a row that still writes, and finishes the row where that completes it."""
        if row.finish_reason is not None:
            return
        row.ids.append(token)
        stop = row.request.stop
        if token in self.model.end_ids:
            row.finish_reason = FinishReason.END_TOKEN
        elif token in row.stop_ids and stop and stop.is_complete(self.model.decode(row.ids)):
            row.finish_reason = FinishReason.STOP
        elif len(row.ids) >= row.request.max_new_tokens:
            row.finish_reason = FinishReason.LENGTH

    def _stop_ids(self, stop: StopRule | None) -> frozenset[int]:
        """Ids whose text contains a character of the stop rule: only after these is a completion decoded."""
        if stop is None:
            return frozenset()
        if stop.characters not in self._ids_with:
            texts = self.model.tokenizer.batch_decode([[i] for i in range(len(self.model.tokenizer))])
            found = (i for i, text in enumerate(texts) if any(c in text for c in stop.characters))
            self._ids_with[stop.characters] = frozenset(found)
        return self._ids_with[stop.characters]

    def _completion(self, row: _Row, logprobs: np.ndarray) -> Completion:
        assert row.finish_reason is not None
        return Completion(
            text=self.model.decode(row.ids),
            token_ids=np.array(row.ids, dtype=np.int32),
            sampling_logprobs=logprobs[: len(row.ids)].copy(),
            finish_reason=row.finish_reason,
            policy_version=self.policy_version,
        )
