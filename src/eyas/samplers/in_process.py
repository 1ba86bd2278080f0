"""Samples from the very module that is trained: batched, with exact log-probs of every sampled token."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eyas.models.adapter import EncodedPrompt, VisionLanguageModel
from eyas.models.logprobs import token_logprobs
from eyas.seeding import generator
from eyas.types import Completion, FinishReason, ImageStore, SampleRequest

GREEDY_CACHE_ENTRIES = 20_000
COMPACT_BELOW = 0.75  # finished rows leave the batch once fewer than this share of its rows still write


@dataclass(slots=True)
class _Row:
    """A completion in the making."""

    request: SampleRequest
    index: int
    uniforms: np.ndarray
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class InProcessSampler:
    """Prompts are padded on the left; equal prompts are read once; finished rows leave the batch.

    Each completion draws from a generator of its own seed, so the batch that it runs in changes nothing but rounding.
    Greedy completions of equal prompts are written once per policy version.
    """

    def __init__(self, model: VisionLanguageModel, images: ImageStore, max_batch: int = 64):
        self.model = model
        self.images = images
        self.max_batch = max_batch
        self.policy_version = 0
        self._stop_tables: dict[str, np.ndarray] = {}
        self._greedy: dict[Hashable, Completion] = {}
        self._greedy_version = 0

    def sample(self, requests: Sequence[SampleRequest]) -> list[Completion]:
        """One completion a request, in order. Raises ContextOverflow never: callers check `prompt_fits` first."""
        if self._greedy_version != self.policy_version or len(self._greedy) > GREEDY_CACHE_ENTRIES:
            self._greedy, self._greedy_version = {}, self.policy_version
        prompts = [self.model.encode(r.messages, self.images) for r in requests]
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

    @staticmethod
    def _greedy_key(prompt: EncodedPrompt, request: SampleRequest) -> Hashable | None:
        if request.temperature > 0:
            return None
        return prompt.key, request.max_new_tokens, request.stop

    # ------------------------------------------------------------------------------------- one batch

    @torch.inference_mode()
    def _batch(self, prompts: list[EncodedPrompt], requests: list[SampleRequest]) -> list[Completion]:
        rows = [
            _Row(r, i, generator("sampling", r.seed).random(r.max_new_tokens)) for i, r in enumerate(requests)
        ]
        hidden, cache, lengths, width = self._prefill(prompts)
        device = hidden.device
        mask = torch.arange(width, device=device)[None] >= (width - lengths)[:, None]
        position = lengths.clone()
        active = rows
        while True:
            ids = self._choose(self.model.logits(hidden), active)
            active_next = [k for k, row in enumerate(active) if not self._is_finished(row)]
            if not active_next:
                break
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            if len(active_next) < COMPACT_BELOW * len(active) or len(active_next) == 1 < len(active):
                keep = torch.tensor(active_next, device=device)
                cache.batch_select_indices(keep)
                mask, position, ids = mask[keep], position[keep], ids[keep]
                active = [active[k] for k in active_next]
            hidden, cache = self.model.hidden(ids[:, None], mask, position[:, None], cache=cache, use_cache=True)
            hidden = hidden[:, -1]
            position = position + 1
        return [self._completion(row) for row in rows]

    def _prefill(self, prompts: list[EncodedPrompt]) -> tuple[Tensor, Any, Tensor, int]:
        """Reads each distinct prompt once: last hidden states (B, D), cache, prompt lengths (B,), padded width."""
        distinct: dict[Hashable, int] = {}
        order = [distinct.setdefault(p.key, len(distinct)) for p in prompts]
        first = [order.index(k) for k in range(len(distinct))]
        unique = [prompts[i] for i in first]
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
            hidden, lengths = hidden[expand], lengths[expand]
        return hidden, cache, lengths, width

    def _choose(self, logits: Tensor, rows: list[_Row]) -> Tensor:
        """The next id of each row (B,), by inverting the cumulative distribution at the row's own uniform."""
        temperatures = torch.tensor([[r.request.temperature or 1.0] for r in rows], device=logits.device)
        logprobs = token_logprobs(logits, temperatures, self.model.forbidden_ids)
        u = torch.tensor([[r.uniforms[min(len(r.ids), len(r.uniforms) - 1)]] for r in rows], device=logits.device)
        cumulative = logprobs.double().exp().cumsum(-1)
        ids = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True)[:, 0]
        is_greedy = torch.tensor([r.request.temperature == 0 for r in rows], device=logits.device)
        ids = torch.where(is_greedy, logprobs.argmax(-1), ids)
        chosen = logprobs.gather(1, ids[:, None])[:, 0].tolist()
        for row, token, logprob in zip(rows, ids.tolist(), chosen, strict=True):
            if row.finish_reason is None:
                row.ids.append(token)
                row.logprobs.append(logprob)
        return ids

    def _is_finished(self, row: _Row) -> bool:
        if row.finish_reason is None:
            row.finish_reason = self._finish_reason(row)
        return row.finish_reason is not None

    def _finish_reason(self, row: _Row) -> FinishReason | None:
        last = row.ids[-1]
        if last in self.model.end_ids:
            return FinishReason.END_TOKEN
        stop = row.request.stop
        if stop and self._may_stop(stop.characters)[last] and stop.is_complete(self.model.decode(row.ids)):
            return FinishReason.STOP
        if len(row.ids) >= row.request.max_new_tokens:
            return FinishReason.LENGTH
        return None

    def _may_stop(self, characters: str) -> np.ndarray:
        """bool (V,): which tokens contain one of the characters, so that few tokens need decoding."""
        if characters not in self._stop_tables:
            size = len(self.model.tokenizer)
            texts = self.model.tokenizer.batch_decode([[i] for i in range(size)])
            self._stop_tables[characters] = np.array([any(c in t for c in characters) for t in texts])
        return self._stop_tables[characters]

    def _completion(self, row: _Row) -> Completion:
        assert row.finish_reason is not None
        return Completion(
            text=self.model.decode(row.ids),
            token_ids=np.array(row.ids, dtype=np.int32),
            sampling_logprobs=np.array(row.logprobs, dtype=np.float32),
            finish_reason=row.finish_reason,
            policy_version=self.policy_version,
        )
