"""From trajectories to tensors: training samples, their masks, and padded batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

LEAST_CANDIDATE_TOKENS = 512  # that a row has room for behind a short sample
MOST_MASK_CELLS = 2**26  # of one pass where actions are scored: its mask takes rows times columns twice


@dataclass(frozen=True, slots=True)
class Candidates:
    """The actions that a scored step chose from: the words of each, as token ids."""

    ids: tuple[np.ndarray, ...]  # int (T_k,) each, their end included
    chosen: int = 0
    is_per_token: bool = False  # whether each one's log-prob is divided by its number of tokens
    sampling_logprobs: np.ndarray | None = None  # float32 (K,): of all of them, when the action was chosen


@dataclass(slots=True)
class SampleStep:
    """Where one environment step lies in its sample (token indices), and what it earned.

    The elements that a loss weighs are its completion tokens; where the action was scored, its thought tokens and then the
    chosen action as a single element.
    """

    start: int  # first completion token
    action_start: int  # first token of the action span; thought tokens lie before it
    end: int  # one past the last completion token
    candidates: Candidates | None = (
        None  # where the action was chosen by scoring: their words follow ids[:action_start]
    )
    reward: float = 0.0  # scaled sum of all terms
    num_images: int | None = None  # pictures before its first completion token; None: all of the sample's
    value: float = 0.0  # V at the last prompt token, when sampled
    next_value: float | None = None  # only on a trajectory's last step: V after it, 0 where the episode truly ended
    advantage: float = 0.0  # filled by the algorithm's credit
    value_target: float = 0.0
    share: float = 1.0  # of its trajectory's elements
    anchor: str = ""  # equal where the observation is

    @property
    def num_elements(self) -> int:
        return self.end - self.start if self.candidates is None else self.action_start - self.start + 1


@dataclass(slots=True)
class TrainingSample:
    """One sequence for the learner; whole-conversation samples hold several steps, others one.

    Example with a prompt of 3 tokens and a completion of 2, the second of which is the action:
    ids [5, 6, 7, 8, 9], steps (SampleStep(start=3, action_start=4, end=5),), sampling_logprobs of length 2.
    """

    ids: np.ndarray  # int64 (T,)
    image_hashes: tuple[str, ...]
    steps: tuple[SampleStep, ...]
    sampling_logprobs: np.ndarray | None = None  # float32 (elements of all steps,); None: supervision only
    trajectory: int = 0  # index of its trajectory in the iteration
    group: int | None = None  # of its trajectory; None: it is compared with no other
    # float (elements of all steps,) each, where the algorithm needs it
    old_logprobs: np.ndarray | None = None  # the learner's own, before the iteration's first update
    reference_logprobs: np.ndarray | None = None
    element_values: np.ndarray | None = None
    element_advantages: np.ndarray | None = None
    element_targets: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Denominators:
    """What each stream of a whole minibatch is divided by, whatever the size of its micro-batches."""

    steps: int
    tokens: int  # elements: completion tokens, and scored actions
    trajectories: float = 1.0  # one that other minibatches see too counts by its share

    @classmethod
    def of(cls, samples: Sequence[TrainingSample]) -> "Denominators":
        steps = [s for sample in samples for s in sample.steps]
        tokens = max(sum(s.num_elements for s in steps), 1)
        return cls(max(len(steps), 1), tokens, sum(s.share for s in steps) or 1.0)


@dataclass(slots=True)
class ScoringBatch:
    """The scored steps of a batch: P of them with K candidates at most, M candidate tokens in all.

    Their words stand behind the samples, in columns of their own; each sees what came before its action, and itself.
    Where they are many, they share several rows, which begin with the same sample.
    """

    elements: Tensor  # int64 (P,): index into the batch's N elements
    chosen: Tensor  # int64 (P,)
    lengths: Tensor  # float32 (P, K): number of tokens, or 1 where the log-probs are not divided; 0: no such candidate
    sampling_logprobs: Tensor  # float32 (P, K): of all actions when one was chosen; -inf where there is none
    token_rows: Tensor  # int64 (M,)
    token_columns: Tensor  # int64 (M,): column whose hidden state predicts the token
    token_ids: Tensor  # int64 (M,)
    token_candidates: Tensor  # int64 (M,): index into the flat (P * K)


@dataclass(slots=True)
class SharedPrompts:
    """Prompts that several samples of a batch begin with, without their last token: Q sequences padded to P tokens."""

    input_ids: Tensor  # int64 (Q, P)
    attention_mask: Tensor  # bool (Q, P)
    position_ids: Tensor  # int64 (Q, P), or (3, Q, P)
    image_hashes: list[tuple[str, ...]]  # Q
    rows: Tensor  # int64 (B,): which of them each row of the batch continues


@dataclass(slots=True)
class TrainingBatch:
    """B sequences padded on the right to T tokens. N elements (completion tokens, scored actions) and S steps are flat.

    The first rows are the samples in their order; where actions are scored, rows of further candidates may follow. With
    `shared` the rows hold only what comes after the shared prompts, from their last token on, and so do the columns.
    """

    input_ids: Tensor  # int64 (B, T)
    attention_mask: Tensor  # bool (B, T), or (B, 1, T, T) where actions are scored; (B, P + T) after shared prompts
    position_ids: Tensor  # int64 (B, T), or (3, B, T)
    image_hashes: list[tuple[str, ...]]  # B
    token_rows: Tensor  # int64 (N,)
    token_columns: Tensor  # int64 (N,): column whose hidden state predicts the token
    token_ids: Tensor  # int64 (N,): the sampled (or supervised) tokens, and no others
    token_steps: Tensor  # int64 (N,): index into the steps
    is_thought: Tensor  # bool (N,)
    sampling_logprobs: Tensor | None  # float32 (N,)
    step_rows: Tensor  # int64 (S,)
    step_columns: Tensor  # int64 (S,): the last prompt token
    values: Tensor  # float32 (S,), when sampled
    advantages: Tensor  # float32 (S,)
    value_targets: Tensor  # float32 (S,)
    step_shares: Tensor  # float32 (S,): of their trajectories' elements
    step_trajectories: Tensor  # int64 (S,): index into the batch's trajectories
    old_logprobs: Tensor | None = None  # float32 (N,) each, where the algorithm needs it
    reference_logprobs: Tensor | None = None
    element_values: Tensor | None = None
    element_advantages: Tensor | None = None
    element_targets: Tensor | None = None
    scoring: ScoringBatch | None = None
    shared: SharedPrompts | None = None


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
    shared = _shared_prompts(samples) if shares_prompts else None
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
    return _Layout(ids, positions, mask, [r.image_hashes for r in rows])


def _flat(positions: np.ndarray) -> np.ndarray:
    return positions[0] if len(positions) == 1 else positions


# ------------------------------------------------------------------------------------------- shared prompts

LEAST_SAVED = 0.2  # share of a batch's tokens: below it, a second pass costs more than it saves


@dataclass(slots=True)
class _Shared:
    of_rows: list[int]  # of each sample, the prompt that it continues
    samples: list[int]  # of each prompt, a sample that begins with it
    lengths: list[int]  # of each prompt, its tokens but for the last
    num_images: list[int]


def _shared_prompts(samples: Sequence[TrainingSample]) -> _Shared | None:
    """The distinct first prompts, where several samples begin with the same: token ids and pictures."""
    if any(not s.steps or s.steps[0].start < 2 or any(t.candidates for t in s.steps) for s in samples):
        return None
    found: dict[tuple[bytes, tuple[str, ...]], int] = {}
    shared = _Shared([], [], [], [])
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
    samples: Sequence[TrainingSample], positions: Positions, shared: _Shared, pad_id: int
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
    shared: _Shared,
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
class _Places:
    """Where the words of candidates stand."""

    samples: list[int]  # of each row, the sample that it begins with: each in its order, then those that go on
    widths: list[int]  # tokens of each row
    begins: list[list[tuple[int, int]]]  # of each scored step and candidate, row and first column


def _places(samples: Sequence[TrainingSample]) -> _Places:
    """A row holds no more candidate tokens than sample tokens, so that memory does not grow with their square."""
    places = _Places(list(range(len(samples))), [len(s.ids) for s in samples], [])
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
    places = _places(samples)
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
    layout.mask = mask[:, None]
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


def first_token_beyond(ids: np.ndarray, character: int, decode: Callable[[np.ndarray], str]) -> int:
    """Index of the first token that reaches past a character offset of the decoded text: len(ids) where none does.

    A token that straddles the offset belongs to what follows it.
    """
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if len(decode(ids[: middle + 1])) > character:
            high = middle
        else:
            low = middle + 1
    return low


def micro_batches(
    samples: Sequence[TrainingSample], size: int, keeps_trajectories: bool = False
) -> Iterator[list[TrainingSample]]:
    """Splits a minibatch by similar length, so that little is padded. The gradient does not depend on the split."""
    if keeps_trajectories:
        yield from _whole_trajectories(samples, size)
        return
    for part in parts(samples, size):
        yield [samples[i] for i in part]


def blocks(samples: Sequence[TrainingSample], keeps_trajectories: bool) -> list[list[TrainingSample]]:
    """What no split may take apart: each sample, or all samples of a trajectory, in the order of their first ones."""
    found: dict[int, list[TrainingSample]] = {}
    for index, sample in enumerate(samples):
        found.setdefault(sample.trajectory if keeps_trajectories else index, []).append(sample)
    return list(found.values())


def _whole_trajectories(samples: Sequence[TrainingSample], size: int) -> Iterator[list[TrainingSample]]:
    """Up to `size` samples together; more only where a single trajectory has more."""
    part: list[TrainingSample] = []
    for block in sorted(blocks(samples, True), key=lambda b: max(len(s.ids) for s in b)):
        if part and len(part) + len(block) > size:
            yield part
            part = []
        part = part + block
    if part:
        yield part


def parts(samples: Sequence[TrainingSample], size: int) -> Iterator[list[int]]:
    """Indices of samples of similar length, up to `size` together; fewer where their candidates would fill the memory."""
    shapes = [_places([s]).widths for s in samples]
    is_scored = any(step.candidates for s in samples for step in s.steps)  # else the mask is small
    part: list[int] = []
    rows = width = 0
    for index in sorted(range(len(samples)), key=lambda i: len(samples[i].ids)):
        rows, width = rows + len(shapes[index]), max(width, *shapes[index])
        if part and (len(part) == size or (is_scored and rows * width**2 > MOST_MASK_CELLS)):
            yield part
            part, rows, width = [], len(shapes[index]), max(shapes[index])
        part.append(index)
    if part:
        yield part
