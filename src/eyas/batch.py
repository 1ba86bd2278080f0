"""From trajectories to tensors: training samples, their masks, and padded batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(slots=True)
class SampleStep:
    """Where one environment step lies in its sample (token indices), and what it earned."""

    start: int  # first completion token
    action_start: int  # first token of the action span; thought tokens lie before it
    end: int  # one past the last completion token
    reward: float = 0.0  # scaled sum of all terms
    value: float = 0.0  # V at the last prompt token, when sampled
    next_value: float | None = None  # only on a trajectory's last step: V after it, 0 where the episode truly ended
    advantage: float = 0.0  # filled by the algorithm's credit
    value_target: float = 0.0


@dataclass(slots=True)
class TrainingSample:
    """One sequence for the learner; whole-conversation samples hold several steps, others one.

    Example with a prompt of 3 tokens and a completion of 2, the second of which is the action:
    ids [5, 6, 7, 8, 9], steps (SampleStep(start=3, action_start=4, end=5),), sampling_logprobs of length 2.
    """

    ids: np.ndarray  # int64 (T,)
    image_hashes: tuple[str, ...]
    steps: tuple[SampleStep, ...]
    sampling_logprobs: np.ndarray | None = None  # float32 (completion tokens of all steps,); None: supervision only
    trajectory: int = 0  # index of its trajectory in the iteration


@dataclass(frozen=True, slots=True)
class Denominators:
    """What each stream of a whole minibatch is divided by, whatever the size of its micro-batches."""

    steps: int
    tokens: int  # completion tokens

    @classmethod
    def of(cls, samples: Sequence[TrainingSample]) -> "Denominators":
        steps = [s for sample in samples for s in sample.steps]
        return cls(max(len(steps), 1), max(sum(s.end - s.start for s in steps), 1))


@dataclass(slots=True)
class TrainingBatch:
    """B sequences padded on the right to T tokens. N completion tokens and S steps are flat, in order."""

    input_ids: Tensor  # int64 (B, T)
    attention_mask: Tensor  # bool (B, T)
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


@dataclass(slots=True)
class _Columns:
    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    thought: list[bool] = field(default_factory=list)


def collate(samples: Sequence[TrainingSample], pad_id: int, device: torch.device | str = "cpu") -> TrainingBatch:
    """Pads on the right and lists completion tokens. Position ids count each sample's own tokens."""
    width = max(len(s.ids) for s in samples)
    ids = np.full((len(samples), width), pad_id, dtype=np.int64)
    tokens = _Columns()
    steps = [(row, step) for row, sample in enumerate(samples) for step in sample.steps]
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = sample.ids
    for index, (row, step) in enumerate(steps):
        span = range(step.start, step.end)
        tokens.rows += [row] * len(span)
        tokens.columns += [c - 1 for c in span]
        tokens.ids += samples[row].ids[step.start : step.end].tolist()
        tokens.steps += [index] * len(span)
        tokens.thought += [c < step.action_start for c in span]
    lengths = torch.tensor([len(s.ids) for s in samples], device=device)
    columns = torch.arange(width, device=device)
    logprobs = [s.sampling_logprobs for s in samples if s.sampling_logprobs is not None]

    def tensor(values: list, dtype: torch.dtype = torch.long) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    return TrainingBatch(
        input_ids=torch.from_numpy(ids).to(device),
        attention_mask=columns[None] < lengths[:, None],
        position_ids=columns[None].expand(len(samples), -1).contiguous(),
        image_hashes=[s.image_hashes for s in samples],
        token_rows=tensor(tokens.rows),
        token_columns=tensor(tokens.columns),
        token_ids=tensor(tokens.ids),
        token_steps=tensor(tokens.steps),
        is_thought=tensor(tokens.thought, torch.bool),
        sampling_logprobs=(
            torch.from_numpy(np.concatenate(logprobs)).to(device) if len(logprobs) == len(samples) else None
        ),
        step_rows=tensor([row for row, _ in steps]),
        step_columns=tensor([step.start - 1 for _, step in steps]),
        values=tensor([step.value for _, step in steps], torch.float32),
        advantages=tensor([step.advantage for _, step in steps], torch.float32),
        value_targets=tensor([step.value_target for _, step in steps], torch.float32),
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
    ordered = sorted(samples, key=lambda s: len(s.ids))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
