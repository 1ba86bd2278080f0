"""What learning reads: training samples, and the tensors that `eyas.collate` makes of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor


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
    lengths: np.ndarray  # int64 (B,): tokens of each row
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
