"""From training samples to padded tensors: where every token, candidate and shared prompt stands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eyas.batch import ScoringBatch, SharedPrompts, TrainingBatch, TrainingSample

LEAST_CANDIDATE_TOKENS = 512  # that a row has room for behind a short sample
_OF_ELEMENTS = "old_logprobs", "reference_logprobs", "element_values", "element_advantages", "element_targets"

Positions = Callable[[np.ndarray, Sequence[str]], np.ndarray]  # ids (T,) and picture hashes -> int64 (A, T)


def counted(ids: np.ndarray, image_hashes: Sequence[str] = ()) -> np.ndarray:
    """Position ids (1, T) of models that count tokens."""
    return np.arange(len(ids), dtype=np.int64)[None]


@dataclass(slots=True)
class _Columns:
    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    thought: list[bool] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)  # elements

    def add(self, row: int, columns: Sequence[int], ids: np.ndarray, owner: int) -> None:
        self.rows += [row] * len(columns)
        self.columns += columns
        self.ids += ids.tolist()
        self.owners += [owner] * len(columns)


def collate(
    samples: Sequence[TrainingSample],
    pad_id: int,
    device: torch.device | str = "cpu",
    positions: Positions = counted,
    shares_prompts: bool = False,
) -> TrainingBatch:
    """Pads on the right and lists completion tokens. Position ids are those of each sample by itself.

    With `shares_prompts` a prompt that several samples begin with is put down once, where that saves enough.
    """
    shared = shared_prompts(samples) if shares_prompts else None
    steps = [(row, step) for row, sample in enumerate(samples) for step in sample.steps]
    tokens = _Columns()
    for index, (row, step) in enumerate(steps):
        ids = samples[row].ids
        end = step.end if step.candidates is None else step.action_start
        tokens.add(row, range(step.start - 1, end - 1), ids[step.start : end], index)  # type: ignore[arg-type]
        tokens.thought += [c < step.action_start for c in range(step.start, end)]
        if step.candidates is not None:  # one element for the action; what stands in its place is its first token
            tokens.scored.append(len(tokens.rows))
            tokens.add(row, [step.action_start - 1], step.candidates.ids[step.candidates.chosen][:1], index)
            tokens.thought.append(False)
    numbers: dict[int, int] = {}  # trajectory -> index in the batch
    trajectories = [numbers.setdefault(samples[row].trajectory, len(numbers)) for row, _ in steps]

    def tensor(values: Any, dtype: torch.dtype = torch.long) -> Tensor:
        return torch.as_tensor(values, dtype=dtype, device=device)

    def of_elements(name: str) -> Tensor | None:
        arrays = [getattr(s, name) for s in samples]
        return None if any(a is None for a in arrays) else tensor(np.concatenate(arrays), torch.float32)

    scoring = None
    if tokens.scored:
        layout, scoring = _scoring_layout(samples, pad_id, positions, tokens.scored, tensor)
    else:
        layout = _plain_layout(_rows(samples, positions), pad_id)
    before = np.zeros(len(samples), dtype=np.int64)  # tokens of each sample that stand in the shared prompts
    if shared is not None:
        layout, before = _behind(samples, positions, shared, pad_id)
    return TrainingBatch(
        input_ids=tensor(layout.ids),
        attention_mask=tensor(layout.mask, torch.bool),
        position_ids=tensor(_flat(layout.positions)),
        image_hashes=layout.image_hashes,
        lengths=layout.lengths,
        token_rows=tensor(tokens.rows),
        token_columns=tensor(np.array(tokens.columns, dtype=np.int64) - before[tokens.rows]),
        token_ids=tensor(tokens.ids),
        token_steps=tensor(tokens.owners),
        is_thought=tensor(tokens.thought, torch.bool),
        sampling_logprobs=of_elements("sampling_logprobs"),
        step_rows=tensor([row for row, _ in steps]),
        step_columns=tensor([step.start - 1 - before[row] for row, step in steps]),
        values=tensor([step.value for _, step in steps], torch.float32),
        advantages=tensor([step.advantage for _, step in steps], torch.float32),
        value_targets=tensor([step.value_target for _, step in steps], torch.float32),
        step_shares=tensor([step.share for _, step in steps], torch.float32),
        step_trajectories=tensor(trajectories),
        **{name: of_elements(name) for name in _OF_ELEMENTS},
        scoring=scoring,
        shared=None if shared is None else _as_tensors(samples, positions, shared, pad_id, tensor),
    )


# ------------------------------------------------------------------------------------------- layouts


@dataclass(slots=True)
class _Row:
    ids: np.ndarray  # int64 (T,)
    positions: np.ndarray  # int64 (A, T)
    image_hashes: tuple[str, ...]


@dataclass(slots=True)
class _Layout:
    ids: np.ndarray  # int64 (B, T)
    positions: np.ndarray  # int64 (A, B, T)
    mask: np.ndarray  # bool (B, T) or (B, 1, T, T)
    image_hashes: list[tuple[str, ...]]  # B
    lengths: np.ndarray  # int64 (B,)


def _rows(samples: Sequence[TrainingSample], positions: Positions) -> list[_Row]:
    return [_Row(s.ids, positions(s.ids, s.image_hashes), s.image_hashes) for s in samples]


def _plain_layout(rows: Sequence[_Row], pad_id: int, extra: int = 0) -> _Layout:
    width = max(len(r.ids) for r in rows) + extra
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=bool)
    positions = np.tile(np.arange(width), (len(rows[0].positions), len(rows), 1))
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = row.ids
        mask[i, : len(row.ids)] = True
        positions[:, i, : len(row.ids)] = row.positions
    return _Layout(ids, positions, mask, [r.image_hashes for r in rows], np.array([len(r.ids) for r in rows]))


def _flat(positions: np.ndarray) -> np.ndarray:
    return positions[0] if len(positions) == 1 else positions


# ------------------------------------------------------------------------------------------- shared prompts

LEAST_SAVED = 0.2  # share of a batch's tokens: below it, a second pass costs more than it saves


@dataclass(slots=True)
class Shared:
    of_rows: list[int]  # of each sample, the prompt that it continues
    samples: list[int]  # of each prompt, a sample that begins with it
    lengths: list[int]  # of each prompt, its tokens but for the last
    num_images: list[int]


def shared_prompts(samples: Sequence[TrainingSample]) -> Shared | None:
    """The distinct first prompts, where several samples begin with the same: token ids and pictures."""
    if any(not s.steps or s.steps[0].start < 2 or any(t.candidates for t in s.steps) for s in samples):
        return None
    found: dict[tuple[bytes, tuple[str, ...]], int] = {}
    shared = Shared([], [], [], [])
    for index, sample in enumerate(samples):
        length, num_images = sample.steps[0].start - 1, sample.steps[0].num_images
        num_images = len(sample.image_hashes) if num_images is None else num_images
        key = sample.ids[: length + 1].tobytes(), sample.image_hashes[:num_images]
        if key not in found:
            found[key] = len(found)
            shared.samples.append(index)
            shared.lengths.append(length)
            shared.num_images.append(num_images)
        shared.of_rows.append(found[key])
    saved = sum(shared.lengths[q] for q in shared.of_rows) - sum(shared.lengths)
    return shared if saved >= LEAST_SAVED * sum(len(s.ids) for s in samples) else None


def _behind(
    samples: Sequence[TrainingSample], positions: Positions, shared: Shared, pad_id: int
) -> tuple[_Layout, np.ndarray]:
    """What stands after the shared prompts, seeing them: their columns come first in the mask."""
    before = np.array([shared.lengths[q] for q in shared.of_rows], dtype=np.int64)
    rows = []
    for sample, q, cut in zip(samples, shared.of_rows, before, strict=True):
        row = _Row(sample.ids[cut:], positions(sample.ids, sample.image_hashes)[:, cut:], ())
        row.image_hashes = sample.image_hashes[shared.num_images[q] :]
        rows.append(row)
    layout = _plain_layout(rows, pad_id)
    seen = np.arange(max(shared.lengths))[None] < before[:, None]
    layout.mask = np.concatenate([seen, layout.mask], axis=1)
    return layout, before


def _as_tensors(
    samples: Sequence[TrainingSample],
    positions: Positions,
    shared: Shared,
    pad_id: int,
    tensor: Callable[..., Tensor],
) -> SharedPrompts:
    rows = []
    for index, length, count in zip(shared.samples, shared.lengths, shared.num_images, strict=True):
        sample = samples[index]
        of_sample = positions(sample.ids, sample.image_hashes)
        rows.append(_Row(sample.ids[:length], of_sample[:, :length], sample.image_hashes[:count]))
    layout = _plain_layout(rows, pad_id)
    return SharedPrompts(
        tensor(layout.ids),
        tensor(layout.mask, torch.bool),
        tensor(_flat(layout.positions)),
        layout.image_hashes,
        tensor(shared.of_rows),
    )


# ------------------------------------------------------------------------------------------- scored actions


@dataclass(slots=True)
class Places:
    """Where the words of candidates stand."""

    samples: list[int]  # of each row, the sample that it begins with: each in its order, then those that go on
    widths: list[int]  # tokens of each row
    begins: list[list[tuple[int, int]]]  # of each scored step and candidate, row and first column


def places_of(samples: Sequence[TrainingSample]) -> Places:
    """A row holds no more candidate tokens than sample tokens, so that memory does not grow with their square."""
    places = Places(list(range(len(samples))), [len(s.ids) for s in samples], [])
    for index, sample in enumerate(samples):
        row, begin = index, len(sample.ids)
        room = begin + max(begin, LEAST_CANDIDATE_TOKENS)
        for step in sample.steps:
            if step.candidates is None:
                continue
            places.begins.append([])
            for ids in step.candidates.ids:
                if begin < places.widths[row] and places.widths[row] + len(ids) > room:
                    row = len(places.samples)
                    places.samples.append(index)
                    places.widths.append(begin)
                places.begins[-1].append((row, places.widths[row]))
                places.widths[row] += len(ids)
    return places


def _scoring_layout(
    samples: Sequence[TrainingSample],
    pad_id: int,
    positions: Positions,
    elements: list[int],
    tensor: Callable[..., Tensor],
) -> tuple[_Layout, ScoringBatch]:
    """Each row holds its sample, then the words of every candidate of each scored step, all read in one pass."""
    choices = [s for sample in samples for s in sample.steps if s.candidates is not None]
    places = places_of(samples)
    extra = max(places.widths) - max(len(s.ids) for s in samples)
    rows = _rows(samples, positions)
    layout = _plain_layout([rows[i] for i in places.samples], pad_id, extra)
    width = layout.ids.shape[1]
    causal = np.tril(np.ones((width, width), dtype=bool))
    mask = causal & layout.mask[:, None, :]
    most = max(len(s.candidates.ids) for s in choices)  # type: ignore[union-attr]
    lengths = np.zeros((len(choices), most), dtype=np.float32)
    logprobs = np.full((len(choices), most), -np.inf, dtype=np.float32)
    tokens = _Columns()
    for place, step in enumerate(choices):
        assert step.candidates is not None
        if step.candidates.sampling_logprobs is not None:
            logprobs[place, : len(step.candidates.ids)] = step.candidates.sampling_logprobs
        for index, ids in enumerate(step.candidates.ids):
            row, begin = places.begins[place][index]
            end = begin + len(ids)
            layout.ids[row, begin:end] = ids
            before = layout.positions[:, row, step.action_start - 1, None]
            layout.positions[:, row, begin:end] = before + 1 + np.arange(len(ids))
            mask[row, begin:end, step.action_start :] = False
            mask[row, begin:end, begin:end] = causal[: len(ids), : len(ids)]
            tokens.add(row, [step.action_start - 1, *range(begin, end - 1)], ids, place * most + index)
            lengths[place, index] = len(ids) if step.candidates.is_per_token else 1.0
    layout.mask, layout.lengths = mask[:, None], np.array(places.widths)
    return layout, ScoringBatch(
        elements=tensor(elements),
        chosen=tensor([s.candidates.chosen for s in choices if s.candidates]),
        lengths=tensor(lengths, torch.float32),
        sampling_logprobs=tensor(logprobs, torch.float32),
        token_rows=tensor(tokens.rows),
        token_columns=tensor(tokens.columns),
        token_ids=tensor(tokens.ids),
        token_candidates=tensor(tokens.owners),
    )
