"""Writes completions token by token: draws, ends each where it is complete, and gives its row to the next."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from eyas.models.adapter import EncodedPrompt, VisionLanguageModel
from eyas.models.logprobs import sampled_logits
from eyas.samplers.rows import BucketRows, SlotRows
from eyas.seeding import generator
from eyas.types import Completion, FinishReason, SampleRequest

DROP_BELOW = 0.75  # finished rows leave once fewer than this share of the rows still write
REFILL_FROM = 0.04  # rows are given to waiting prompts once this share of them is free
MOST_AHEAD = 128  # waiting prompts that the rows are shown

Rows = SlotRows | BucketRows  # and what derives from them


@dataclass(eq=False, slots=True)
class Job:
    """A completion in the making."""

    prompt: EncodedPrompt
    request: SampleRequest
    stop_ids: frozenset[int]  # tokens after which the stop rule is asked
    ids: list[int] = field(default_factory=list)
    logprobs: np.ndarray | None = None
    finish_reason: FinishReason | None = None

    def add(self, model: VisionLanguageModel, token: int) -> None:
        """Adds a token, and finishes the completion where that completes it."""
        self.ids.append(token)
        stop = self.request.stop
        if token in model.end_ids:
            self.finish_reason = FinishReason.END_TOKEN
        elif token in self.stop_ids and stop and stop.is_complete(model.decode(self.ids)):
            self.finish_reason = FinishReason.STOP
        elif len(self.ids) >= self.request.max_new_tokens:
            self.finish_reason = FinishReason.LENGTH

    def completion(self, model: VisionLanguageModel, policy_version: int) -> Completion:
        assert self.finish_reason is not None and self.logprobs is not None
        return Completion(
            text=model.decode(self.ids),
            token_ids=np.array(self.ids, dtype=np.int32),
            sampling_logprobs=self.logprobs,
            finish_reason=self.finish_reason,
            policy_version=policy_version,
        )


class _Draws:
    """What each row draws with: its uniform numbers, its temperature, and the log-probs of what was drawn."""

    def __init__(self, num_rows: int, longest: int, forbidden_ids: Tensor):
        device = forbidden_ids.device
        self.forbidden_ids = forbidden_ids
        self.uniforms = torch.zeros(num_rows, longest, dtype=torch.float64, device=device)
        self.is_greedy = torch.zeros(num_rows, 1, dtype=torch.bool, device=device)
        self.temperatures = torch.ones(num_rows, 1, device=device)
        self.chosen = torch.zeros(num_rows, longest, device=device)
        self.count = torch.zeros(num_rows, 1, dtype=torch.long, device=device)
        self.are_any_greedy = self.are_all_greedy = False

    def take(self, rows: Sequence[int], requests: Sequence[SampleRequest]) -> None:
        """Rows begin with the numbers of other requests."""
        numbers = np.zeros((len(rows), self.uniforms.shape[1]))
        for of_row, request in zip(numbers, requests, strict=True):
            of_row[: request.max_new_tokens] = generator("sampling", request.seed).random(request.max_new_tokens)
        device = self.uniforms.device
        places = torch.tensor(rows, device=device)
        self.uniforms[places] = torch.from_numpy(numbers).to(device)
        self.is_greedy[places] = torch.tensor([[r.temperature == 0] for r in requests], device=device)
        self.temperatures[places] = torch.tensor([[r.temperature or 1.0] for r in requests], device=device)
        self.count[places] = 0
        self.are_any_greedy, self.are_all_greedy = bool(self.is_greedy.any()), bool(self.is_greedy.all())

    def keep(self, rows: Tensor) -> None:
        for name in ("uniforms", "is_greedy", "temperatures", "chosen", "count"):
            setattr(self, name, getattr(self, name)[rows])

    def choose(self, logits: Tensor) -> Tensor:
        """The next id of each row (S,), by inverting the cumulative distribution at the row's own uniform.

        logits (S, V) may be written over.
        """
        logits = sampled_logits(logits, self.temperatures, self.forbidden_ids)
        probabilities = torch.softmax(logits, -1)  # logarithms of one each, not of all as `token_logprobs` takes them
        if self.are_all_greedy:
            ids = logits.argmax(-1, keepdim=True)
        else:
            cumulative = probabilities.cumsum(-1, dtype=torch.float64)
            u = self.uniforms.gather(1, self.count)
            ids = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True)
            if self.are_any_greedy:
                ids = torch.where(self.is_greedy, logits.argmax(-1, keepdim=True), ids)
        self.chosen.scatter_(1, self.count, probabilities.gather(1, ids).log())
        self.count = (self.count + 1).clamp(max=self.uniforms.shape[1] - 1)  # rows that wait for others stay at the end
        return ids[:, 0]


class Writer:
    """Keeps up to `num_rows` completions in the making until all are complete."""

    def __init__(
        self,
        model: VisionLanguageModel,
        make_rows: Callable[[], Rows],
        num_rows: int,
        is_refilled: bool = True,
        drops_finished: bool = True,
    ):
        self.model = model
        self.make_rows = make_rows
        self.num_rows = num_rows
        self.is_refilled = is_refilled
        self.drops_finished = drops_finished

    def write(self, jobs: Sequence[Job]) -> None:
        """Completes the jobs in place; rows are given to them in their order."""
        waiting = deque(jobs)
        while waiting:
            self.rows = self.make_rows()
            of_rows: list[Job | None] = [None] * min(self.num_rows, len(waiting))
            longest = max(j.request.max_new_tokens for j in jobs)
            draws = _Draws(len(of_rows), longest, self.model.forbidden_ids)
            self._fill(of_rows, draws, waiting)
            self._write(of_rows, draws, waiting)

    def _write(self, of_rows: list[Job | None], draws: _Draws, waiting: deque[Job]) -> None:
        while True:
            ids = draws.choose(self.model.logits(self.rows.hidden))
            self._take(of_rows, ids.tolist(), draws)
            writing = [row for row, job in enumerate(of_rows) if job is not None]
            num_free = len(of_rows) - len(writing)
            can_refill = self.is_refilled and waiting
            if not writing and not can_refill:
                return
            if writing:
                if num_free and not can_refill and self.drops_finished and len(writing) < DROP_BELOW * len(of_rows):
                    kept = torch.tensor(writing, device=ids.device)
                    self.rows.keep(kept)
                    draws.keep(kept)
                    ids, of_rows = ids[kept], [of_rows[row] for row in writing]
                self.rows.step(ids)
            if can_refill and num_free >= min(len(waiting), max(1, REFILL_FROM * len(of_rows))):
                self._fill(of_rows, draws, waiting)

    def _fill(self, of_rows: list[Job | None], draws: _Draws, waiting: deque[Job]) -> None:
        """Gives every free row to the next job."""
        free = [row for row, job in enumerate(of_rows) if job is None][: len(waiting)]
        taken = [waiting.popleft() for _ in free]
        ahead = islice(waiting, MOST_AHEAD if self.is_refilled else 0)  # the next batch has other rows
        self.rows.read([j.prompt for j in taken], free, [j.prompt for j in ahead])
        draws.take(free, [j.request for j in taken])
        for row, job in zip(free, taken, strict=True):
            of_rows[row] = job

    def _take(self, of_rows: list[Job | None], tokens: Sequence[int], draws: _Draws) -> None:
        """Adds a token to each job; those that are complete leave their rows."""
        for row, token in enumerate(tokens):
            job = of_rows[row]
            if job is None:
                continue
            job.add(self.model, token)
            if job.finish_reason is None:
                continue
            job.logprobs = draws.chosen[row, : len(job.ids)].cpu().numpy().copy()
            of_rows[row] = None
            if job.request.is_continued:
                ids = np.concatenate([job.prompt.ids, np.array(job.ids, dtype=np.int64)])
                self.rows.keep_prefix(row, ids, job.prompt.image_hashes)
            self.rows.release(row)
