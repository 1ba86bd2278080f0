"""How what was read before is put before what is new."""

import numpy as np
import torch

from eyas.samplers.slots import NOTHING, KeyValues, Reading, ReadLayer


def past_of(*values: float) -> KeyValues:
    """A piece of one layer and one head for each value: as many tokens of it as its number says."""
    pieces = [torch.full((1, int(v), 1), v) for v in values]
    return KeyValues(tuple(((piece, -piece),) for piece in pieces), 0)


def test_pieces_lie_right_before_what_is_new_and_nothing_else_is_left_of_them():
    pasts, news = (past_of(2, 3), NOTHING, past_of(1)), (1, 3, 2)
    readings = [Reading(np.zeros(n), None, (), past) for n, past in zip(news, pasts, strict=True)]
    new = torch.full((3, 1, 3, 1), 9.0)  # padded on the left, as a model's keys of such rows
    keys, values = ReadLayer(0, readings, before=5).update(new, -new)
    expected = [[0, 0, 2, 2, 3, 3, 3, 9], [0, 0, 0, 0, 0, 9, 9, 9], [0, 0, 0, 0, 0, 1, 9, 9]]
    assert keys[:, 0, :, 0].tolist() == expected
    assert torch.equal(values, -keys)
