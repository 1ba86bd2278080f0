"""What a writer asks of a model: read some prompts into rows, take one more token in every row, drop rows."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eyas.models.adapter import EncodedPrompt, VisionLanguageModel
from eyas.samplers.prefixes import PrefixStore, shared_texts
from eyas.samplers.slots import NOTHING, KeyValues, Read, Reading, SlotCache, read_together, slot_mask
from eyas.types import ImageStore

OnPrompts = Callable[[Sequence[EncodedPrompt], Tensor], None]  # gets the last hidden states (n, D) of prompts
MOST_READ = 2**14  # tokens of one pass over prompts, padding included
LEAST_READ = 2**11  # tokens up to which a pass takes prompts along whose turn comes later


class SlotRows:
    """Rows on a `SlotCache`: each may be given to another prompt at any time."""

    def __init__(
        self,
        model: VisionLanguageModel,
        images: ImageStore,
        version: Hashable,
        on_prompts: OnPrompts,
        prefixes: PrefixStore | None,
    ):
        self.model = model
        self.images = images
        self.version = version
        self.on_prompts = on_prompts
        self.prefixes = prefixes
        self.cache: SlotCache | None = None
        self.lengths = torch.zeros(0, dtype=torch.long, device=model.device)  # (S,) tokens in the cache
        self.positions = self.lengths  # (S,) of the next token
        self.hidden = torch.zeros(0, device=model.device)  # (S, D) after the last token
        self._mask: Tensor | None = None
        self._read_ahead: dict[Hashable, tuple[Read, int]] = {}  # prompts that no slot has taken yet, and their rows

    def read(self, prompts: Sequence[EncodedPrompt], slots: Sequence[int], waiting: Sequence[EncodedPrompt]) -> None:
        """Reads prompts into slots, equal ones once. The first call decides the number of slots, and fills them all.

        `waiting` come next. Where a pass has room some of them are read with it, and placed when it is their turn: a pass
        over a few prompts takes nearly as long as one over many.
        """
        unread = {p.key: p for p in prompts if p.key not in self._read_ahead}
        if unread:
            unread |= {p.key: p for p in self._with_room(list(unread.values()), waiting)}
            for part in _parts(list(unread.values())):
                self._read(part)
        if not len(self.positions):
            hidden = next(iter(self._read_ahead.values()))[0].hidden
            self.positions = torch.zeros(len(prompts), dtype=torch.long, device=self.model.device)
            self.hidden = hidden.new_zeros(len(prompts), hidden.shape[1])
        places = [self._read_ahead[p.key] for p in prompts]
        still = {waiting[0].key} if waiting else set()  # equal prompts come one after the other
        for key in {p.key for p in prompts} - still:
            del self._read_ahead[key]
        later = {id(read) for read, _ in self._read_ahead.values()}
        for read in {id(read): read for read, _ in places}.values():
            members = [i for i, (other, _) in enumerate(places) if other is read]
            rows = torch.tensor([places[i][1] for i in members], device=self.model.device)
            taken = torch.tensor([slots[i] for i in members], device=self.model.device)
            self.positions[taken], self.hidden[taken] = read.after[rows], read.hidden[rows]
            self._place(read, rows, taken, id(read) in later)

    def _with_room(self, unread: Sequence[EncodedPrompt], waiting: Sequence[EncodedPrompt]) -> Iterator[EncodedPrompt]:
        """Those of the waiting prompts that fit into the pass."""
        new = [len(p.ids) - (0 if self.prefixes is None else p.resumes_at) for p in (*unread, *waiting)]
        for count in range(len(unread), len(new)):
            if max(new[: count + 1]) * (count + 1) > LEAST_READ:
                return
            yield waiting[count - len(unread)]

    def _read(self, prompts: Sequence[EncodedPrompt]) -> None:
        """Reads different prompts in one pass; they are placed later."""
        if self.prefixes is not None:
            read_shared_texts(self.model, self.images, self.prefixes, prompts)
        found = [(NOTHING, 0)] * len(prompts) if self.prefixes is None else self.prefixes.hand_over(prompts)
        new = [p.image_hashes[num_images:] for p, (_, num_images) in zip(prompts, found, strict=True)]
        features = iter(self.model.features(new, self.images, self.version))  # all pictures in one pass
        readings = []
        for prompt, (past, _), hashes in zip(prompts, found, new, strict=True):
            ids = prompt.ids[past.length :]
            positions = self.model.positions(ids, hashes, self.images, past.after)
            readings.append(Reading(ids, positions, [next(features) for _ in hashes], past))
        read = read_together(self.model, readings)
        self.on_prompts(prompts, read.hidden)
        self._read_ahead.update((p.key, (read, row)) for row, p in enumerate(prompts))

    def _place(self, read: Read, rows: Tensor, slots: Tensor, is_needed_later: bool) -> None:
        """Puts sequences that were read into slots."""
        if self.cache is None:
            self.cache = SlotCache(len(read.layers))
            self.lengths = torch.zeros_like(self.positions)
        self.lengths = self.cache.place(self.lengths, read, rows, slots)
        self._mask = slot_mask(self.lengths, self.cache, self.hidden.dtype)

    def step(self, ids: Tensor) -> None:
        """Takes one more token (S,) in every slot."""
        cache = self.cache
        assert cache is not None and self._mask is not None
        if cache.make_room():
            self._mask = slot_mask(self.lengths, cache, self._mask.dtype)
        seen = self._mask[..., cache.begin : cache.end + 1]
        hidden, _ = self.model.hidden(ids[:, None], seen, self.positions[:, None], cache=cache, use_cache=True)
        self.hidden = hidden[:, -1]
        cache.end += 1
        self.lengths = self.lengths + 1
        self.positions = self.positions + 1

    def keep(self, slots: Tensor) -> None:
        """Drops the other slots."""
        assert self.cache is not None
        self.lengths, self.positions, self.hidden = self.lengths[slots], self.positions[slots], self.hidden[slots]
        self.cache.keep(slots, int(self.lengths.max()))
        self._mask = slot_mask(self.lengths, self.cache, self.hidden.dtype)

    def keep_prefix(self, slot: int, ids: np.ndarray, image_hashes: Sequence[str]) -> None:
        """Remembers what a slot has read of `ids`, its last token left out."""
        if self.prefixes is not None:
            self.prefixes.put(ids[:-1], image_hashes, self._held(slot, len(ids) - 1))

    def _held(self, slot: int, length: int) -> KeyValues:
        """A copy of the first tokens that a slot holds."""
        assert self.cache is not None
        begin = self.cache.end - int(self.lengths[slot])
        own = [(layer.keys[slot, :, begin:], layer.values[slot, :, begin:]) for layer in self.cache.layers]
        layers = tuple((k[:, :length].clone(), v[:, :length].clone()) for k, v in own)
        return KeyValues((layers,), int(self.positions[slot]))

    def release(self, slot: int) -> None:
        """What the slot holds is not needed any more."""
        self.lengths[slot] = 0


class BucketRows:
    """Rows of equal prompt length on the library's own cache, for models whose caches have no slots."""

    def __init__(self, model: VisionLanguageModel, images: ImageStore, version: Hashable, on_prompts: OnPrompts):
        self.model = model
        self.images = images
        self.version = version
        self.on_prompts = on_prompts
        self.cache: Any = None
        self.positions = self.hidden = torch.zeros(0)
        self.length = 0

    def read(self, prompts: Sequence[EncodedPrompt], slots: Sequence[int], waiting: Sequence[EncodedPrompt]) -> None:
        device = self.model.device
        ids = torch.from_numpy(np.stack([p.ids for p in prompts])).to(device)
        each = [self.model.positions(p.ids, p.image_hashes, self.images) for p in prompts]
        positions = torch.from_numpy(np.stack(each, axis=1)).to(device)
        features = self.model.features([p.image_hashes for p in prompts], self.images, self.version)
        hidden, self.cache = self.model.hidden(
            ids,
            torch.ones_like(ids).bool(),
            positions[0] if len(positions) == 1 else positions,
            features,
            use_cache=True,
        )
        self.hidden, self.length = hidden[:, -1], ids.shape[1]
        self.on_prompts(prompts, self.hidden)
        self.positions = positions[:, :, -1].amax(0) + 1

    def step(self, ids: Tensor) -> None:
        self.length += 1
        seen = torch.ones((len(ids), self.length), dtype=torch.bool, device=ids.device)
        hidden, self.cache = self.model.hidden(
            ids[:, None], seen, self.positions[:, None], cache=self.cache, use_cache=True
        )
        self.hidden, self.positions = hidden[:, -1], self.positions + 1

    def keep(self, slots: Tensor) -> None:
        self.cache.batch_select_indices(slots)
        self.positions, self.hidden = self.positions[slots], self.hidden[slots]

    def keep_prefix(self, slot: int, ids: np.ndarray, image_hashes: Sequence[str]) -> None:
        """Nothing is kept: what follows a prefix may change it here."""

    def release(self, slot: int) -> None:
        """The row runs on until rows are dropped."""


def read_shared_texts(
    model: VisionLanguageModel, images: ImageStore, prefixes: PrefixStore, prompts: Sequence[EncodedPrompt]
) -> None:
    """Words that several prompts begin with are read by themselves first."""
    fresh = [p for p in prompts if prefixes.find(p)[0] is NOTHING]
    for ids in shared_texts(fresh, model.image_token_id):
        read = read_together(model, [Reading(ids, model.positions(ids, (), images), ())])
        prefixes.put_text(ids, KeyValues((tuple((k[0], v[0]) for k, v in read.layers),), int(read.after)))


def _parts(prompts: Sequence[EncodedPrompt]) -> Iterator[Sequence[EncodedPrompt]]:
    """Neighbours that are read in one pass."""
    begin, longest = 0, 0
    for index, prompt in enumerate(prompts):
        longest = max(longest, len(prompt.ids))
        if index > begin and longest * (index + 1 - begin) > MOST_READ:
            yield prompts[begin:index]
            begin, longest = index, len(prompt.ids)
    yield prompts[begin:]
