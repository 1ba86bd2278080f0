"""Samples from the very module that is trained, with exact log-probs of every sampled token."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial

import torch
from torch import Tensor

from eyas.models.adapter import EncodedPrompt, VisionLanguageModel
from eyas.samplers.fused import FusedRows, FusedWeights, computes_the_same
from eyas.samplers.prefixes import PrefixStore
from eyas.samplers.rows import BucketRows, SlotRows
from eyas.samplers.scoring import OpenStep, Scores, choose_actions
from eyas.samplers.writing import Job, Writer
from eyas.types import Completion, FinishReason, ImageStore, SampleRequest, StopRule

SMALL_MODEL_PARAMETERS = 20_000_000
CACHE_ENTRIES = 20_000
PREFIX_BYTES = 2**30


def _head_of(request: SampleRequest) -> SampleRequest:
    """What is to be sampled token by token: everything, or the head before an action that is chosen."""
    if request.choice is None:
        return request
    return replace(request, stop=request.choice.head, choice=None, is_continued=True)  # the words go on with it


class InProcessSampler:
    """Completions are written in slots: one that is complete makes room for the next prompt.

    What prompts share is read once: equal prompts, a task's text, the conversation so far, and equal pictures; all of it
    is kept for one version of the weights only. Each completion draws from a generator of its own seed, so the batch that
    it runs in changes nothing but rounding. Greedy completions of equal prompts are written once, and scored actions read
    once. Models whose caches have no slots (`Family`) run in batches of equal prompt length.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        images: ImageStore,
        max_batch: int = 64,
        is_refilled: bool = True,
        drops_finished: bool = True,
        keeps_prefixes: bool = True,
        is_fused: bool = True,
    ):
        self.model = model
        self.images = images
        self.max_batch = max_batch
        self.is_refilled = is_refilled
        self.drops_finished = drops_finished
        self.keeps_prefixes = keeps_prefixes
        self.policy_version = 0
        self.critic: Callable[[Tensor], Tensor] | None = None  # hidden states (n, D) -> V (n,), of the same weights
        self.prompt_values: dict[Hashable, float] = {}  # V of each prompt that was read: no second pass for them
        self.prefixes = PrefixStore(PREFIX_BYTES)
        self._weights: FusedWeights | None = None
        self.is_fused = is_fused
        self._can_fuse: bool | None = None if is_fused else False  # None: not tried yet
        self._ids_with: dict[str, frozenset[int]] = {}
        self._greedy: dict[Hashable, Completion] = {}
        self._scores: Scores = {}
        self._cached_version = 0

    def sample(self, requests: Sequence[SampleRequest]) -> list[Completion]:
        """One completion a request, in order. Callers check first that it fits into the context."""
        if self._cached_version != self.policy_version:
            self.forget()
        if len(self._greedy) + len(self._scores) + len(self.prompt_values) > CACHE_ENTRIES:
            self._greedy, self._scores, self.prompt_values = {}, {}, {}
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
        steps = list(open_steps.values())
        about = self.max_batch, self._scores, self.policy_version, self._value, self._kept
        chosen = choose_actions(self.model, self.images, steps, *about)
        done.update(zip(open_steps, chosen, strict=True))
        return [done[i] for i in range(len(requests))]

    def forget(self) -> None:
        """Drops all that was made with earlier weights, whatever their version."""
        self._greedy, self._scores, self._cached_version = {}, {}, self.policy_version
        self.prompt_values = {}
        self.prefixes.clear()
        self._weights = None
        self.model.vision.forget()

    def _value(self, prompts: Sequence[EncodedPrompt], hidden: Tensor) -> None:
        """Keeps V of prompts whose last hidden states (n, D) are at hand."""
        if self.critic is not None:
            values = self.critic(hidden).tolist()
            self.prompt_values.update((p.key, v) for p, v in zip(prompts, values, strict=True))

    # ------------------------------------------------------------------------------------- sampled text

    def _texts(self, prompts: Sequence[EncodedPrompt], requests: Sequence[SampleRequest]) -> list[Completion]:
        keys = [self._greedy_key(p, r) for p, r in zip(prompts, requests, strict=True)]
        seen: set[Hashable] = set()
        todo = []
        for i, key in enumerate(keys):
            if key is None or (key not in self._greedy and key not in seen):
                todo.append(i)
                seen.add(key)
        jobs = [Job(prompts[i], requests[i], self._stop_ids(requests[i].stop)) for i in todo]
        done = dict(zip(todo, self._write(jobs), strict=True))
        for i, completion in done.items():
            if keys[i] is not None:
                self._greedy[keys[i]] = completion
        return [done[i] if i in done else self._greedy[keys[i]] for i in range(len(requests))]

    @staticmethod
    def _greedy_key(prompt: EncodedPrompt, request: SampleRequest) -> Hashable | None:
        if request.temperature > 0:
            return None
        return prompt.key, request.max_new_tokens, request.stop

    @torch.inference_mode()
    def _write(self, jobs: list[Job]) -> list[Completion]:
        family = self.model.family
        # similar lengths, and equal prompts, are read together
        waiting = sorted(jobs, key=lambda j: (len(j.prompt.ids), j.prompt.ids.tobytes(), j.prompt.image_hashes))
        with self._decode_threads():
            if family.has_slots:
                weights = self._fused_weights()
                about = self.model, self.images, self.policy_version, self._value, self._kept
                make_rows = partial(SlotRows, *about) if weights is None else partial(FusedRows, *about, weights)
                Writer(self.model, make_rows, self.max_batch, self.is_refilled, self.drops_finished).write(waiting)
            else:
                make_rows = partial(BucketRows, self.model, self.images, self.policy_version, self._value)
                for batch in _of_equal_length(waiting, self.max_batch):
                    Writer(self.model, make_rows, len(batch), False, self.drops_finished).write(batch)
        return [job.completion(self.model, self.policy_version) for job in jobs]

    @property
    def _kept(self) -> PrefixStore | None:
        return self.prefixes if self.keeps_prefixes and self.model.family.reuses_prefixes else None

    def _fused_weights(self) -> FusedWeights | None:
        """Made once for each version of the weights, where the model is one whose steps it computes."""
        if self._can_fuse is not False and self._weights is None:
            self._weights = FusedWeights.of(self.model)
            if self._can_fuse is None:
                self._can_fuse = self._weights is not None and computes_the_same(self.model, self.images, self._weights)
        return self._weights if self._can_fuse else None

    @contextmanager
    def _decode_threads(self) -> Iterator[None]:
        """One thread for the steps of a small model on a CPU: they are too short to be worth sharing."""
        before = torch.get_num_threads()
        torch.set_num_threads(1 if self._is_small and self.model.device.type == "cpu" else before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    @cached_property
    def _is_small(self) -> bool:
        return sum(p.numel() for p in self.model.parameters()) < SMALL_MODEL_PARAMETERS

    def _stop_ids(self, stop: StopRule | None) -> frozenset[int]:
        """Ids whose text contains a character of the stop rule: only after these is a completion decoded."""
        if stop is None:
            return frozenset()
        if stop.characters not in self._ids_with:
            texts = self.model.tokenizer.batch_decode([[i] for i in range(len(self.model.tokenizer))])
            found = (i for i, text in enumerate(texts) if any(c in text for c in stop.characters))
            self._ids_with[stop.characters] = frozenset(found)
        return self._ids_with[stop.characters]


def _of_equal_length(jobs: Sequence[Job], most: int) -> Iterator[list[Job]]:
    batch: list[Job] = []
    for job in jobs:
        if batch and (len(batch) == most or len(job.prompt.ids) != len(batch[0].prompt.ids)):
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch
