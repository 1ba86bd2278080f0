"""Slots: rows of a batch that are refilled while the others go on writing, on one key-value cache.

Every slot's tokens end in the same column, whatever their number: keys carry their positions in them, so a column is only
a place. What a slot does not use on its left is masked. Columns that no slot uses any more are cut off when slots are filled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from eyas.models.adapter import VisionLanguageModel, additive_mask
from eyas.models.vision import Features

ROOM = 64  # columns that are added at a time
MOST_PIECES = 16


Layers = tuple[tuple[Tensor, Tensor], ...]  # of each layer, keys and values (heads, T, D) of a sequence


@dataclass(frozen=True)
class KeyValues:
    """What a model remembers of a sequence, in the pieces in which it was read: what goes on with it adds one more."""

    pieces: tuple[Layers, ...] = ()
    after: int | None = None  # the position of the token that comes next

    @cached_property
    def length(self) -> int:
        return sum(piece[0][0].shape[1] for piece in self.pieces)

    @property
    def nbytes(self) -> int:
        return sum(k.nbytes + v.nbytes for piece in self.pieces for k, v in piece)

    def of_layer(self, layer: int, which: int) -> list[Tensor]:
        """Keys (`which` 0) or values (1) of a layer, piece by piece."""
        return [piece[layer][which] for piece in self.pieces]

    def with_more(self, new: Layers, after: int) -> "KeyValues":
        if len(self.pieces) < MOST_PIECES:
            return KeyValues((*self.pieces, new), after)
        joined = [
            [torch.cat([*self.of_layer(layer, which)[1:], of_new], 1) for which, of_new in enumerate(both)]
            for layer, both in enumerate(new)
        ]  # the first piece stays what others may begin with too
        return KeyValues((self.pieces[0], tuple((keys, values) for keys, values in joined)), after)


NOTHING = KeyValues()


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

    def place(self, lengths: Tensor, read: "Read", rows: Tensor, slots: Tensor) -> Tensor:
        """Puts sequences that were just read into slots; returns the new lengths of all slots. The first call makes the cache.

        lengths int64 (S,): tokens that each slot holds now. rows, slots int64 (m,): which sequence goes to which slot.
        """
        lengths = lengths.clone()
        lengths[slots] = read.lengths[rows]
        longest, width = int(lengths.max()), int(read.lengths[rows].max())
        if self.capacity == 0 or longest > self.end:
            self._move(longest + ROOM, len(lengths), read.layers)
        for layer, (keys, values) in zip(self.layers, read.layers, strict=True):
            layer.keys[slots, :, self.end - width : self.end] = keys[rows, :, -width:]
            layer.values[slots, :, self.end - width : self.end] = values[rows, :, -width:]
        self.begin = self.end - longest
        return lengths

    def make_room(self) -> bool:
        """Sees to it that there is a column for the next tokens; returns whether columns have moved."""
        if self.end < self.capacity:
            return False
        like = [(layer.keys, layer.values) for layer in self.layers]
        self._move(self.end - self.begin + ROOM, len(self.layers[0].keys), like)
        return True

    def _move(self, end: int, num_slots: int, like: Sequence[tuple[Tensor, Tensor]]) -> None:
        """The columns in use end at `end` from now on, with room behind them: more the more there are."""
        used, capacity = self.end - self.begin, end + max(2 * ROOM, end // 2)
        for layer, pair in zip(self.layers, like, strict=True):
            for name, other in zip(("keys", "values"), pair, strict=True):
                shape, old = other.shape, getattr(layer, name)
                new = other.new_empty(num_slots, shape[1], capacity, shape[3])
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
    past: KeyValues = NOTHING


@dataclass(slots=True)
class Read:
    """What one pass over n sequences leaves: each one's tokens stand in the last columns of its row."""

    hidden: Tensor  # (n, D) of the last tokens
    after: Tensor  # int64 (n,): positions of the tokens that come next
    lengths: Tensor  # int64 (n,)
    layers: list[tuple[Tensor, Tensor]]  # of each layer keys and values (n, heads, L, D)
    pasts: list[KeyValues]  # n: what was read before


class ReadLayer(DynamicLayer):
    """One layer of such a pass: what was read before is put right before what is new, over the padding on its left."""

    def __init__(self, layer: int, readings: Sequence[Reading], before: int):
        super().__init__()
        self.layer, self.readings, self.before = layer, readings, before

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        both = [self._behind(which, new) for which, new in enumerate((key_states, value_states))]
        self.keys, self.values = both
        self.is_initialized = True
        return both[0], both[1]

    def _behind(self, which: int, new: Tensor) -> Tensor:
        count, heads, width, size = new.shape
        joined = new.new_empty(count, heads, self.before + width, size)
        joined[:, :, self.before :] = new
        for row, reading in enumerate(self.readings if self.before else ()):
            end = self.before + width - len(reading.ids)
            begin = end - reading.past.length
            if begin:
                joined[row, :, :begin] = 0  # what is masked has to be finite
            if begin < end:  # at once: most of the time goes into calls where pieces are many
                torch.cat(reading.past.of_layer(self.layer, which), 1, out=joined[row, :, begin:end])
        return joined

    def get_seq_length(self) -> int:
        return self.before


def read_together(model: VisionLanguageModel, readings: Sequence[Reading]) -> Read:
    """Reads sequences in one pass, padded on the left."""
    device = model.device
    pasts, news = [r.past.length for r in readings], [len(r.ids) for r in readings]
    before, width = max(pasts), max(news)
    ids = torch.full((len(readings), width), model.pad_id)
    positions = torch.zeros((len(readings[0].positions), len(readings), width), dtype=torch.long)
    for row, reading in enumerate(readings):
        ids[row, width - news[row] :] = torch.from_numpy(reading.ids)
        positions[:, row, width - news[row] :] = torch.from_numpy(reading.positions)
    lengths = torch.tensor([p + n for p, n in zip(pasts, news, strict=True)])
    num_layers = model.model.config.get_text_config().num_hidden_layers
    cache = Cache(layers=[ReadLayer(layer, readings, before) for layer in range(num_layers)])
    hidden, _ = model.hidden(
        ids.to(device),
        (torch.arange(before + width) >= before + width - lengths[:, None]).to(device),
        (positions[0] if len(positions) == 1 else positions).to(device),
        [f for r in readings for f in r.features],
        cache=cache,
        use_cache=True,
    )
    layers: Any = cache.layers
    after = positions[:, :, -1].amax(0) + 1
    return Read(
        hidden=hidden[:, -1],
        after=after.to(device),
        lengths=lengths.to(device),
        layers=[(layer.keys, layer.values) for layer in layers],
        pasts=[r.past for r in readings],
    )


def slot_mask(lengths: Tensor, cache: SlotCache, dtype: torch.dtype) -> Tensor:
    """What each slot's next token sees: (S, 1, 1, capacity), additive; cut it to the columns in use."""
    columns = torch.arange(cache.capacity, device=lengths.device)
    return additive_mask(columns >= (cache.end - lengths)[:, None], dtype)[:, None, None]
