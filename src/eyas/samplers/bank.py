"""Keys and values that slots go on with, once for all slots with the same."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

COLUMNS = 16  # that are added at a time: products over columns that lie side by side are twice as fast


class Bank:
    """Rows of tokens, right-aligned. Each slot owns one, or shares one with others, or has none."""

    def __init__(self, num_slots: int):
        # of each layer keys (P, heads, L, D) and values (P, heads, D, L): these turned, because attention to one token
        # then reads both along their rows, up to a third faster where they exceed the caches
        self.layers: list[list[Tensor]] = []
        self.lengths = np.zeros(0, dtype=np.int64)  # (P,) tokens
        self.contents = np.zeros(0, dtype=object)  # (P,): what a row was made from
        self.owners = np.full(num_slots, -1)  # (S,): the row of each slot; -1: it has none

    @property
    def width(self) -> int:
        return self.layers[0][0].shape[2] if self.layers else 0

    def num_rows_beside(self, slots: np.ndarray) -> int:
        """How many rows other slots own."""
        owners = np.delete(self.owners, slots)
        return len(np.unique(owners[owners >= 0]))

    def adopt(self, layers: Sequence[Any], lengths: np.ndarray, contents: Sequence[Any]) -> None:
        """Takes whole tensors, keys and values (P, heads, L, D), as its rows."""
        self.layers = [[k, v.transpose(2, 3).contiguous()] for k, v in layers]
        self.lengths, self.contents = lengths, _objects(contents)

    def put(
        self,
        layers: Sequence[Any],
        lengths: np.ndarray,
        contents: Sequence[Any],
        wanted: np.ndarray,
        used: Sequence[int] = (),
    ) -> np.ndarray:
        """The places (m,) of new rows: the last tokens of (m, heads, L, D). `wanted` places are taken where they are free.

        `used` rows are not free, though no slot owns them yet.
        """
        if not self.layers:
            self.layers = [[k[:0, :, :0], v[:0, :, :0].transpose(2, 3)] for k, v in layers]
        width = int(lengths.max())
        places = self._free_rows(wanted, width, used)
        self.lengths[places], self.contents[places] = lengths, _objects(contents)
        for (keys, values), (new_keys, new_values) in zip(self.layers, layers, strict=True):
            keys[places, :, self.width - width :] = new_keys[:, :, new_keys.shape[2] - width :]
            values[places, :, :, self.width - width :] = new_values[:, :, new_values.shape[2] - width :].transpose(2, 3)
        return places

    def _free_rows(self, wanted: np.ndarray, length: int, used: Sequence[int]) -> np.ndarray:
        """Rows that no slot owns, the wanted ones first, with room for this many tokens; there are more where it has none.

        A slot's own number is wanted: slots that stand in the order of their rows need no gathering.
        """
        count, rows, width = len(wanted), len(self.lengths), self.width
        free = np.setdiff1d(np.arange(rows), [*self.owners, *used])
        free = free[np.argsort(~np.isin(free, wanted), kind="stable")]
        most = max(rows, rows + count - len(free))
        if most > rows or length > width:
            wider = max(-(-length // COLUMNS) * COLUMNS, width)  # the next prompts may be a little longer
            on_top, below = (wider - width, 0), (0, 0, 0, most - rows)
            self.layers = [
                [F.pad(k, (0, 0, *on_top, *below)), F.pad(v, (*on_top, 0, 0, *below))] for k, v in self.layers
            ]
            self.lengths = np.append(self.lengths, np.zeros(most - rows, dtype=np.int64))
            self.contents = np.append(self.contents, np.full(most - rows, None))
            free = np.append(free, np.arange(rows, most))
        return free[:count]

    def keep(self, slots: np.ndarray) -> None:
        """Drops the other slots, and rows that none of these owns."""
        kept = self.owners[slots]
        used = np.unique(kept[kept >= 0])
        self.owners = np.where(kept >= 0, np.searchsorted(used, kept), -1)
        self.lengths, self.contents = self.lengths[used], self.contents[used]
        self.layers = [[b[used] for b in own] for own in self.layers] if len(used) else []

    def look(self, device: torch.device) -> np.ndarray:
        """Finds out which slots share a row, after every change; returns which columns each slot sees: bool (S, L)."""
        num_rows, active = len(self.lengths), np.flatnonzero(self.owners >= 0)
        self._groups = None  # every slot has a row of its own, in order
        if num_rows != len(self.owners) or (self.owners[active] != active).any():
            active = active[np.argsort(self.owners[active], kind="stable")]
            owners, counts = self.owners[active], np.bincount(self.owners[active], minlength=num_rows)
            nth = np.arange(len(active)) - np.repeat(np.cumsum(counts) - counts, counts)  # of those with the same row
            most = int(counts.max(initial=1))
            slots = np.zeros((num_rows, most), dtype=np.int64)
            places = np.zeros(len(self.owners), dtype=np.int64)
            slots[owners, nth], places[active] = active, owners * most + nth
            self._groups = torch.from_numpy(slots).to(device), torch.from_numpy(places).to(device)
        has_row = self.owners >= 0
        self._has_row = None if has_row.all() else torch.from_numpy(has_row).to(device)[:, None, None, None]
        lengths = np.where(has_row, np.append(self.lengths, 0)[self.owners], 0)
        return np.arange(self.width) >= self.width - lengths[:, None]

    # ------------------------------------------------------------------------------------- attention to one token a slot

    def scores(self, layer: int, query: Tensor) -> Tensor:
        """query (S, heads, g, D) -> its products with the keys (S, heads, g, L)."""
        keys = self.layers[layer][0].flatten(0, 1)
        return self._regrouped(torch.bmm(keys, self._grouped(query).transpose(1, 2)).transpose(1, 2), query)

    def weighed(self, layer: int, weights: Tensor) -> Tensor:
        """weights (S, heads, g, L) -> the sum of the values that they weigh (S, heads, g, D)."""
        values, grouped = self.layers[layer][1].flatten(0, 1), self._grouped(weights)
        if values.dtype == torch.float32:
            of_rows = torch.bmm(values, grouped.transpose(1, 2)).transpose(1, 2)
        else:  # on a CPU the other order is faster here, by half
            of_rows = torch.bmm(grouped.to(values.dtype), values.transpose(1, 2))
        found = self._regrouped(of_rows, weights)
        return found if self._has_row is None else found * self._has_row  # another slot's stands where there is no row

    def _grouped(self, of_slots: Tensor) -> Tensor:
        """(S, heads, g, X) -> (P * heads, members * g, X): the slots that share a row, side by side."""
        if self._groups is None:
            return of_slots.flatten(0, 1)
        gathered = of_slots[self._groups[0]].transpose(1, 2)  # (P, heads, members, g, X)
        return gathered.reshape(gathered.shape[0] * gathered.shape[1], -1, gathered.shape[4])

    def _regrouped(self, of_rows: Tensor, like: Tensor) -> Tensor:
        """(P * heads, members * g, X) -> (S, heads, g, X)."""
        _, heads, groups, _ = like.shape
        if self._groups is None:
            return of_rows.reshape(-1, heads, groups, of_rows.shape[2])
        slots, places = self._groups
        parted = of_rows.reshape(slots.shape[0], heads, slots.shape[1], groups, -1).transpose(1, 2)
        return parted.reshape(-1, heads, groups, of_rows.shape[2])[places]


def _objects(contents: Sequence[Any]) -> np.ndarray:
    """As an array of them, whatever lengths they have."""
    found = np.empty(len(contents), dtype=object)
    found[:] = contents
    return found
