"""Slots: rows of a batch that are refilled while the others go on writing, on one key-value cache.

Every slot's tokens end in the same column, whatever their number: keys carry their positions in them, so a column is only
a place. What a slot does not use on its left is masked. Columns that no slot uses any more are cut off when slots are filled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from eyas.models.adapter import VisionLanguageModel, additive_mask
from eyas.models.vision import Features

ROOM = 64  # columns that are added at a time


@dataclass(frozen=True, slots=True)
class KeyValues:
    """What a model remembers of a sequence: of each layer, keys and values (heads, T, D), in float32 or as the model has it."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def length(self) -> int:
        return self.layers[0][0].shape[1]

    @property
    def nbytes(self) -> int:
        return sum(k.nbytes + v.nbytes for k, v in self.layers)

    @classmethod
    def of(cls, cache: Cache, row: int, begin: int, end: int) -> "KeyValues":
        """A copy of some columns of a row."""
        layers: Any = cache.layers
        return cls(
            tuple((lay.keys[row, :, begin:end].clone(), lay.values[row, :, begin:end].clone()) for lay in layers)
        )


class _SlotLayer(DynamicLayer):
    """Keys and values of one layer (S, heads, columns, D), written in place; attention sees the columns in use."""

    keys: Any
    values: Any

    def __init__(self, columns: "SlotCache"):
        super().__init__()
        self.columns = columns

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        begin, end = self.columns.begin, self.columns.end
        self.keys[:, :, end : end + 1] = key_states
        self.values[:, :, end : end + 1] = value_states
        return self.keys[:, :, begin : end + 1], self.values[:, :, begin : end + 1]

    def get_seq_length(self) -> int:
        return self.columns.end - self.columns.begin


class SlotCache(Cache):
    """The cache of all slots. `begin` and `end`: columns in use; a slot with `lengths[s]` tokens lies in the last of them."""

    layers: Any  # of our own kind

    def __init__(self, num_layers: int):
        self.begin = self.end = self.capacity = 0
        super().__init__(layers=[_SlotLayer(self) for _ in range(num_layers)])

    def place(self, lengths: Tensor, added: DynamicCache, columns: Tensor, rows: Tensor, slots: Tensor) -> Tensor:
        """Puts sequences that were just read into slots; returns the new lengths of all slots. The first call makes the cache.

        lengths int64 (S,): tokens that each slot holds now. columns int64 (n, L): of each sequence, right-aligned, the
        columns of `added` that hold it, -1 where there is none. rows, slots int64 (m,): which sequence goes to which slot.
        """
        lengths = lengths.clone()
        lengths[slots] = (columns >= 0).sum(1)[rows]
        longest = int(lengths.max())
        if self.capacity == 0 or longest > self.end:
            self._move(longest + ROOM, len(lengths), added)
        first = self.end - columns.shape[1]
        index = columns.clamp(min=0)[:, None, :, None]
        sources: Any = added.layers
        for layer, source in zip(self.layers, sources, strict=True):
            for own, new in ((layer.keys, source.keys), (layer.values, source.values)):
                aligned = new.gather(2, index.expand(-1, new.shape[1], -1, new.shape[3]))
                own[slots, :, first : self.end] = aligned if len(rows) == len(aligned) else aligned[rows]
        self.begin = self.end - longest
        return lengths

    def make_room(self) -> bool:
        """Sees to it that there is a column for the next tokens; returns whether columns have moved."""
        if self.end < self.capacity:
            return False
        self._move(self.end - self.begin + ROOM, len(self.layers[0].keys), self)
        return True

    def _move(self, end: int, num_slots: int, like: Cache) -> None:
        """The columns in use end at `end` from now on, with room behind them: more the more there are."""
        used, capacity = self.end - self.begin, end + max(2 * ROOM, end // 2)
        for layer, other in zip(self.layers, like.layers, strict=True):
            for name in ("keys", "values"):
                shape, old = getattr(other, name).shape, getattr(layer, name)
                new = getattr(other, name).new_empty(num_slots, shape[1], capacity, shape[3])
                new[:, :, : end if self.capacity == 0 else end - used] = 0  # what is masked has to be finite too
                if self.capacity:
                    new[:, :, end - used : end] = old[:, :, self.begin : self.end]
                setattr(layer, name, new)
            layer.is_initialized = True
        self.begin, self.end, self.capacity = end - used, end, capacity

    def keep(self, slots: Tensor, longest: int) -> None:
        """Drops the other slots, and columns that none of these uses."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[slots], layer.values[slots]
        self.begin = self.end - longest


@dataclass(slots=True)
class Reading:
    """A sequence to read: what is new in it, and what was read before."""

    ids: Any  # int64 (T,): the new tokens
    positions: Any  # int64 (A, T): of these
    features: Sequence[Features]  # of the pictures among them
    past: KeyValues | None = None


def read_together(model: VisionLanguageModel, readings: Sequence[Reading]) -> tuple[Tensor, DynamicCache, Tensor]:
    """Reads sequences in one pass: last hidden states (n, D), their cache, and its columns of each, right-aligned (n, L).

    What was read before stands in the first columns, padded on the left; then what is new, padded on the left too.
    """
    device = model.device
    pasts = [r.past.length if r.past else 0 for r in readings]
    news = [len(r.ids) for r in readings]
    before, width = max(pasts), max(news)
    ids = torch.full((len(readings), width), model.pad_id)
    positions = torch.zeros((len(readings[0].positions), len(readings), width), dtype=torch.long)
    for row, reading in enumerate(readings):
        ids[row, width - news[row] :] = torch.from_numpy(reading.ids)
        positions[:, row, width - news[row] :] = torch.from_numpy(reading.positions)
    columns = torch.arange(before + width)
    is_past = (columns < before) & (columns >= before - torch.tensor(pasts)[:, None])
    is_new = columns >= before + width - torch.tensor(news)[:, None]
    mask = is_past | is_new
    hidden, cache = model.hidden(
        ids.to(device),
        mask.to(device),
        (positions[0] if len(positions) == 1 else positions).to(device),
        [f for r in readings for f in r.features],
        cache=_padded(model, readings, before) if before else None,
        use_cache=True,
    )
    order = torch.where(mask, columns, -1).sort(1).values  # right-aligned: the -1 come first
    longest = max(p + n for p, n in zip(pasts, news, strict=True))
    return hidden[:, -1], cache, order[:, -longest:].to(device)


def _padded(model: VisionLanguageModel, readings: Sequence[Reading], width: int) -> DynamicCache:
    """A cache that holds what was read before, right-aligned in `width` columns."""
    pasts = [r.past for r in readings]
    some = next(p for p in pasts if p)
    layers = []
    for index, (keys, values) in enumerate(some.layers):
        both = []
        for which, like in ((0, keys), (1, values)):
            shape = (len(readings), like.shape[0], width, like.shape[2])
            if all(p is some for p in pasts):
                both.append(like.expand(shape))
                continue
            filled = like.new_zeros(shape)
            for row, past in enumerate(pasts):
                if past:
                    filled[row, :, width - past.length :] = past.layers[index][which]
            both.append(filled)
        layers.append(tuple(both))
    return DynamicCache(layers, config=None)


def slot_mask(lengths: Tensor, cache: SlotCache, dtype: torch.dtype) -> Tensor:
    """What each slot's next token sees: (S, 1, 1, capacity), additive; cut it to the columns in use."""
    columns = torch.arange(cache.capacity, device=lengths.device)
    return additive_mask(columns >= (cache.end - lengths)[:, None], dtype)[:, None, None]
