"""What a writer asks of a model: read some prompts into rows, take one more token in every row, drop rows."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from eyas.models.adapter import EncodedPrompt, VisionLanguageModel
from eyas.samplers.prefixes import PrefixStore, shared_texts
from eyas.samplers.slots import KeyValues, Reading, SlotCache, read_together, slot_mask
from eyas.types import ImageStore

OnPrompts = Callable[[Sequence[EncodedPrompt], Tensor], None]  # gets the last hidden states (n, D) of prompts
MOST_READ = 2**14  # tokens of one pass over prompts, padding included


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

    def read(self, prompts: Sequence[EncodedPrompt], slots: Sequence[int], waiting: Sequence[EncodedPrompt]) -> None:
        """Reads prompts into slots, equal ones once. The first call decides the number of slots, and fills them all.

        `waiting` are those that will be read later: what they share with these is kept for them.
        """
        if self.prefixes is not None:
            self._read_shared_texts([*prompts, *waiting])
        distinct: dict[Hashable, int] = {}
        order = [distinct.setdefault(p.key, len(distinct)) for p in prompts]
        unique = list({p.key: p for p in prompts}.values())
        for part in _parts(unique):
            members = [i for i, q in enumerate(order) if q in part]
            rows = torch.tensor([order[i] - part.start for i in members], device=self.model.device)
            self._read(unique[part.start : part.stop], rows, [slots[i] for i in members], len(prompts))
        if self.prefixes is not None and waiting:
            again = {p.key for p in waiting}
            for prompt, slot in {p.key: (p, s) for p, s in zip(prompts, slots, strict=True)}.values():
                if prompt.key in again:
                    self.keep_prefix(slot, prompt.ids, prompt.image_hashes)

    def _read(self, unique: Sequence[EncodedPrompt], rows: Tensor, slots: Sequence[int], num_slots: int) -> None:
        """Reads different prompts; `rows` says which of them each slot takes."""
        found = [self.prefixes.find(p, goes_on=True) if self.prefixes is not None else None for p in unique]
        new = [p.image_hashes[known[1] if known else 0 :] for p, known in zip(unique, found, strict=True)]
        features = iter(self.model.features(new, self.images, self.version))  # all pictures in one pass
        readings = []
        for prompt, known, hashes in zip(unique, found, new, strict=True):
            past = known[0] if known else None
            start = past.length if past else 0
            positions = self.model.positions(prompt.ids, prompt.image_hashes, self.images)
            readings.append(Reading(prompt.ids[start:], positions[:, start:], [next(features) for _ in hashes], past))
        hidden, added, columns = read_together(self.model, readings)
        self.on_prompts(unique, hidden)
        device = self.model.device
        after = torch.tensor([int(r.positions[:, -1].max()) + 1 for r in readings], device=device)
        if not len(self.hidden):
            self.positions = torch.zeros(num_slots, dtype=torch.long, device=device)
            self.hidden = hidden.new_zeros(num_slots, hidden.shape[1])
        places = torch.tensor(slots, device=device)
        self._place(added, columns, rows, places)
        self.positions[places] = after[rows]
        self.hidden[places] = hidden[rows]

    def _place(self, added: DynamicCache, columns: Tensor, rows: Tensor, slots: Tensor) -> None:
        """Puts what was read into slots; the arguments are those of `SlotCache.place`."""
        if self.cache is None:
            self.cache = SlotCache(len(added.layers))
            self.lengths = torch.zeros_like(self.positions)
        self.lengths = self.cache.place(self.lengths, added, columns, rows, slots)
        self._mask = slot_mask(self.lengths, self.cache, self.hidden.dtype)

    def _read_shared_texts(self, prompts: Sequence[EncodedPrompt]) -> None:
        """Words that several prompts begin with are read by themselves first."""
        assert self.prefixes is not None
        fresh = [p for p in prompts if self.prefixes.find(p) is None]
        for ids in shared_texts(fresh, self.model.image_token_id):
            positions = self.model.positions(ids, (), self.images)
            _, cache, _ = read_together(self.model, [Reading(ids, positions, ())])
            self.prefixes.put_text(ids, KeyValues.of(cache, 0, 0, len(ids)))

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
        return KeyValues.of(self.cache, slot, begin, begin + length)

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


def _parts(prompts: Sequence[EncodedPrompt]) -> list[range]:
    """Neighbours that are read in one pass."""
    parts, begin, longest = [], 0, 0
    for index, prompt in enumerate(prompts):
        longest = max(longest, len(prompt.ids))
        if index > begin and longest * (index + 1 - begin) > MOST_READ:
            parts.append(range(begin, index))
            begin, longest = index, len(prompt.ids)
    return [*parts, range(begin, len(prompts))]
