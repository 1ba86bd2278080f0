"""How samples are parted into minibatches, one update each, and these into passes of the model."""

from collections.abc import Iterator, Sequence

import numpy as np

from eyas.batch import TrainingSample
from eyas.collate import places_of, shared_prompts

MOST_MASK_CELLS = 2**26  # of one pass where actions are scored: its mask takes rows times columns twice


def minibatches(
    samples: Sequence[TrainingSample], size: int, keeps_trajectories: bool = False
) -> list[list[TrainingSample]]:
    """Splits samples, in order, so that each part has about `size` environment steps: a conversation stays whole."""
    whole = blocks(samples, keeps_trajectories)
    lengths = np.array([sum(len(s.steps) for s in block) for block in whole])
    count = max(1, round(int(lengths.sum()) / size))
    part_of_step = np.concatenate(
        [np.full(len(p), i) for i, p in enumerate(np.array_split(np.arange(lengths.sum()), count))]
    )
    middles = np.cumsum(lengths) - (lengths + 1) // 2
    parts: dict[int, list[TrainingSample]] = {}
    for block, middle in zip(whole, middles, strict=True):
        parts.setdefault(int(part_of_step[middle]), []).extend(block)
    return list(parts.values())


def shuffled(
    samples: Sequence[TrainingSample], rng: np.random.Generator, keeps_groups: bool = False
) -> list[TrainingSample]:
    """In random order. With `keeps_groups` groups stay together, so that what their members share is read once."""
    if not keeps_groups:
        return [samples[i] for i in rng.permutation(len(samples))]
    groups: dict[int | None, list[TrainingSample]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample)
    found = list(groups.values())
    return [sample for i in rng.permutation(len(found)) for sample in found[i]]


def micro_batches(
    samples: Sequence[TrainingSample],
    most_tokens: int | None = None,
    keeps_trajectories: bool = False,
) -> Iterator[list[TrainingSample]]:
    """Splits a minibatch into passes of up to `most_tokens` tokens, padding included; None: one pass.

    Samples of similar length, or with the same prompt, go together. The gradient does not depend on the split.
    """
    if keeps_trajectories:
        yield from _whole_trajectories(samples, most_tokens)
        return
    for part in parts(samples, most_tokens=most_tokens):
        yield [samples[i] for i in part]


def blocks(samples: Sequence[TrainingSample], keeps_trajectories: bool) -> list[list[TrainingSample]]:
    """What no split may take apart: each sample, or all samples of a trajectory, in the order of their first ones."""
    found: dict[int, list[TrainingSample]] = {}
    for index, sample in enumerate(samples):
        found.setdefault(sample.trajectory if keeps_trajectories else index, []).append(sample)
    return list(found.values())


def _whole_trajectories(samples: Sequence[TrainingSample], most_tokens: int | None) -> Iterator[list[TrainingSample]]:
    """More tokens together only where a single trajectory has more."""
    part: list[TrainingSample] = []
    for block in sorted(blocks(samples, True), key=_longest):
        if part and most_tokens is not None and (len(part) + len(block)) * _longest([*part, *block]) > most_tokens:
            yield part
            part = []
        part = part + block
    if part:
        yield part


def _longest(samples: Sequence[TrainingSample]) -> int:
    return max(len(s.ids) for s in samples)


def parts(
    samples: Sequence[TrainingSample], most_samples: int | None = None, most_tokens: int | None = None
) -> Iterator[list[int]]:
    """Indices of samples that are read in one pass; fewer where their candidates would fill the memory."""
    shapes = [places_of([s]).widths for s in samples]
    is_scored = any(step.candidates for s in samples for step in s.steps)  # else the mask is small
    part: list[int] = []
    rows = width = 0
    for index in _order(samples):
        rows, width = rows + len(shapes[index]), max(width, *shapes[index])
        is_full = (
            len(part) == most_samples
            or (most_tokens is not None and rows * width > most_tokens)
            or (is_scored and rows * width**2 > MOST_MASK_CELLS)
        )
        if part and is_full:
            yield part
            part, rows, width = [], len(shapes[index]), max(shapes[index])
        part.append(index)
    if part:
        yield part


def of_similar_length(lengths: np.ndarray, least_saved: int) -> list[np.ndarray]:
    """Indices of rows in groups that are padded to one length each: every cut saves so many tokens, or more.

    lengths int (B,), in tokens.
    """

    def cut(rows: np.ndarray) -> list[np.ndarray]:
        saved = np.arange(1, len(rows)) * (lengths[rows[-1]] - lengths[rows[:-1]])
        if saved.max(initial=0) < least_saved:
            return [np.sort(rows)]
        place = int(saved.argmax()) + 1
        return [*cut(rows[:place]), *cut(rows[place:])]

    return cut(np.argsort(lengths, kind="stable"))


def _order(samples: Sequence[TrainingSample]) -> list[int]:
    """By length; where many begin with the same prompt, these side by side."""
    shared = shared_prompts(samples)
    if shared is None:
        return sorted(range(len(samples)), key=lambda i: len(samples[i].ids))
    return sorted(range(len(samples)), key=lambda i: (shared.lengths[shared.of_rows[i]], shared.of_rows[i]))
