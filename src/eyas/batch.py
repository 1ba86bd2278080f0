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
    value: float = 0.0  # V at the last prompt token, when sampled
    next_value: float | None = None  # only on a trajectory's last step: V after it, 0 where the episode truly ended
    advantage: float = 0.0  # filled by the algorithm's credit
    value_target: float = 0.0

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


@dataclass(frozen=True, slots=True)
class Denominators:
    """What each stream of a whole minibatch is divided by, whatever the size of its micro-batches."""

    steps: int
    tokens: int  # elements: completion tokens, and scored actions

    @classmethod
    def of(cls, samples: Sequence[TrainingSample]) -> "Denominators":
        steps = [s for sample in samples for s in sample.steps]
        return cls(max(len(steps), 1), max(sum(s.num_elements for s in steps), 1))


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
class TrainingBatch:
    """B sequences padded on the right to T tokens. N elements (completion tokens, scored actions) and S steps are flat.

    The first rows are the samples in their order; where actions are scored, rows of further candidates may follow.
    """

    input_ids: Tensor  # int64 (B, T)
    attention_mask: Tensor  # bool (B, T), or (B, 1, T, T) where actions are scored
    position_ids: Tensor  # int64 (B, T)
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
    scoring: ScoringBatch | None = None


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


def collate(samples: Sequence[TrainingSample], pad_id: int, device: torch.device | str = "cpu") -> TrainingBatch:
    """Pads on the right and lists completion tokens. Position ids count each sample's own tokens."""
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
    logprobs = [s.sampling_logprobs for s in samples if s.sampling_logprobs is not None]

    def tensor(values: Any, dtype: torch.dtype = torch.long) -> Tensor:
        return torch.as_tensor(values, dtype=dtype, device=device)

    if tokens.scored:
        layout, scoring = _scoring_layout(samples, pad_id, tokens.scored, tensor)
    else:
        layout, scoring = _plain_layout(samples, pad_id), None
    return TrainingBatch(
        input_ids=tensor(layout.ids),
        attention_mask=tensor(layout.mask, torch.bool),
        position_ids=tensor(layout.positions),
        image_hashes=layout.image_hashes,
        token_rows=tensor(tokens.rows),
        token_columns=tensor(tokens.columns),
        token_ids=tensor(tokens.ids),
        token_steps=tensor(tokens.owners),
        is_thought=tensor(tokens.thought, torch.bool),
        sampling_logprobs=(tensor(np.concatenate(logprobs), torch.float32) if len(logprobs) == len(samples) else None),
        step_rows=tensor([row for row, _ in steps]),
        step_columns=tensor([step.start - 1 for _, step in steps]),
        values=tensor([step.value for _, step in steps], torch.float32),
        advantages=tensor([step.advantage for _, step in steps], torch.float32),
        value_targets=tensor([step.value_target for _, step in steps], torch.float32),
        scoring=scoring,
    )


@dataclass(slots=True)
class _Layout:
    ids: np.ndarray  # int64 (B, T)
    positions: np.ndarray  # int64 (B, T)
    mask: np.ndarray  # bool (B, T) or (B, 1, T, T)
    image_hashes: list[tuple[str, ...]]  # B


def _plain_layout(samples: Sequence[TrainingSample], pad_id: int, extra: int = 0) -> _Layout:
    width = max(len(s.ids) for s in samples) + extra
    ids = np.full((len(samples), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(samples), width), dtype=bool)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = sample.ids
        mask[row, : len(sample.ids)] = True
    return _Layout(ids, np.tile(np.arange(width), (len(samples), 1)), mask, [s.image_hashes for s in samples])


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
    samples: Sequence[TrainingSample], pad_id: int, elements: list[int], tensor: Callable[..., Tensor]
) -> tuple[_Layout, ScoringBatch]:
    """Each row holds its sample, then the words of every candidate of each scored step, all read in one pass."""
    choices = [s for sample in samples for s in sample.steps if s.candidates is not None]
    places = _places(samples)
    extra = max(places.widths) - max(len(s.ids) for s in samples)
    layout = _plain_layout([samples[i] for i in places.samples], pad_id, extra)
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
            layout.positions[row, begin:end] = np.arange(step.action_start, step.action_start + len(ids))
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


def micro_batches(samples: Sequence[TrainingSample], size: int) -> Iterator[list[TrainingSample]]:
    """Splits a minibatch by similar length, so that little is padded. The gradient does not depend on the split."""
    for part in parts(samples, size):
        yield [samples[i] for i in part]


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
