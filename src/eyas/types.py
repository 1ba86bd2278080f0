"""The vocabulary of Eyas: what passes between environment, interface, policy, rewards and trainer. No torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np

# ----------------------------------------------------------------------------------------------- messages


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A picture by content hash; its pixels live in an `ImageStore`."""

    image_hash: str


class FinishReason(StrEnum):
    STOP = "stop"  # the format said that the text is complete
    END_TOKEN = "end_token"  # the model ended its turn
    LENGTH = "length"  # cut at max_new_tokens
    OVERFLOW = "overflow"  # nothing was written: the server says that the prompt is longer than its model can read
    REFUSED = "refused"  # nothing was written: the server does not answer this prompt


@dataclass(frozen=True, slots=True, eq=False)  # == of what holds arrays has no answer
class ActionScores:
    """The exact distribution over the actions that a scored step chose from, in place of a sampled action text."""

    start: int  # index in the completion's token ids where the chosen action's words begin; thought tokens lie before
    candidates: tuple[np.ndarray, ...]  # int32 (T_k,) each: the words of every action, their end included
    logprobs: np.ndarray  # float32 (K,): normalised over the K actions, at the sampling temperature
    chosen: int
    is_per_token: bool = False  # whether each one's log-prob was divided by its number of tokens


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """What the model generated for one step. Ids and log-probs are None for a person, an expert or a served model."""

    text: str
    token_ids: np.ndarray | None = None  # int32 (T,)
    sampling_logprobs: np.ndarray | None = None  # float32 (T,): at the sampling temperature, forbidden ids removed
    finish_reason: FinishReason = FinishReason.STOP
    policy_version: int = -1  # number of updates behind the weights that wrote it
    scores: ActionScores | None = None  # where the action was chosen by scoring every legal one


@dataclass(frozen=True, slots=True)
class Message:
    role: str  # "system", "user" or "assistant"
    parts: tuple[TextPart | ImagePart, ...]
    completion: Completion | None = None  # an assistant message carries its own; its token ids are spliced in


@dataclass(frozen=True, slots=True)
class StopRule:
    """When a completion is complete. Asked only after a token that contains one of `characters`."""

    characters: str
    is_complete: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class ActionChoice:
    """Ends a completion by choosing among actions: each one's words are scored, none is sampled token by token.

    `continuations` maps the head, that is what has been sampled so far, to the words of every action that may follow it:
    empty where nothing can. Without a head the words follow the prompt at once.
    """

    continuations: Callable[[str], Sequence[str]]
    head: StopRule | None = None  # when the sampled head is complete; None: there is no head
    is_per_token: bool = False  # divides each action's log-prob by its number of tokens


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One prompt to complete. `seed` alone decides the random numbers: the batch it runs in does not."""

    messages: tuple[Message, ...]
    seed: int
    max_new_tokens: int = 64
    temperature: float = 1.0  # 0 is greedy: for evaluation only, its log-probs are recorded at temperature 1
    stop: StopRule | None = None
    choice: ActionChoice | None = None
    is_continued: bool = False  # the episode's next prompt will begin with this one and its completion


# ----------------------------------------------------------------------------------------------- what an environment says of itself


@dataclass(frozen=True, slots=True)
class TaskDescription:
    """An environment in words. `env.unwrapped.description` holds one where the environment was written for Eyas."""

    text: str  # role, rules and goal, as the prompt says them
    action_names: tuple[str, ...] = ()  # one a discrete action, in order; empty: the interface finds names
    fact_keys: tuple[str, ...] = ()  # facts that the model is asked to write down and that can be graded
    write_thought: Callable[[Mapping[str, str], str], str] | None = None  # (facts, action name) -> one sentence


@dataclass(frozen=True, slots=True)
class ExpertMove:
    action: Any  # in the environment's action space
    facts: Mapping[str, str] = field(default_factory=dict)  # everything `write_thought` needs; the fact keys at least
    thought: str | None = None  # in the expert's own words; None: `write_thought` says it
    is_lost: bool = False  # whether the expert sees that no action can win any more


Expert = Callable[[Any], ExpertMove]  # takes the unwrapped environment, changes nothing in it

# Whether an action of the environment is one that the expert could play by facts as a player wrote them down, right or
# wrong. Raises KeyError or ValueError where they do not say what to play.
FactRule = Callable[[Mapping[str, str], Any], bool]


# ----------------------------------------------------------------------------------------------- parsing


class FailureReason(StrEnum):
    EMPTY = "empty"
    NO_ACTION_KEY = "no_action_key"
    UNKNOWN_ACTION = "unknown_action"
    AMBIGUOUS_ACTION = "ambiguous_action"
    ILLEGAL_ACTION = "illegal_action"  # an action of this task that is not legal now
    TOO_MANY_ACTIONS = "too_many_actions"  # more than one step may hold
    CUT_OFF = "cut_off"  # the completion reached max_new_tokens before the action was complete


@dataclass(frozen=True, slots=True)
class ParsedAction:
    action: Any  # in the environment's action space; a tuple of them where a step may hold several
    name: str  # the action in words
    thought: str  # what stands before the action
    facts: Mapping[str, str]  # the facts that the model wrote down
    action_start: int  # character offset in the completion's text where the action span begins


@dataclass(frozen=True, slots=True)
class ParseFailure:
    reason: FailureReason
    detail: str
    action_start: int  # where the action span would begin: the text's length where there is none


ParseResult = ParsedAction | ParseFailure


class FailureEffect(StrEnum):
    """What a parse failure does in the environment."""

    RANDOM_LEGAL = "random_legal"  # a uniformly random legal action is executed (RL4VLM)
    PENALTY = "penalty"  # the same, and the penalty is added to the reward
    NOOP = "noop"  # the environment is not stepped; the model sees the same observation again
    END = "end"  # the episode ends with the penalty


class ExecutedBy(StrEnum):
    POLICY = "policy"
    FALLBACK = "fallback"  # a random legal action, nothing, or an end after a parse failure
    EXPERT = "expert"
    RANDOM = "random"
    HUMAN = "human"


# ----------------------------------------------------------------------------------------------- trajectories


class StopReason(StrEnum):
    TERMINATED = "terminated"
    TRUNCATED = "truncated"  # a limit outside the task (TimeLimit)
    CUT = "cut"  # the rollout ended here; the episode goes on in the next one
    CONTEXT_OVERFLOW = "context_overflow"
    INTERRUPTED = "interrupted"
    PARSE_FAILURE = "parse_failure"
    GUIDANCE = "guidance"

    @property
    def is_bootstrapped(self) -> bool:
        """Whether the value of the final observation stands for the rewards not seen (design: invariant 4)."""
        return self in _BOOTSTRAPPED


_BOOTSTRAPPED = {StopReason.TRUNCATED, StopReason.CUT, StopReason.CONTEXT_OVERFLOW, StopReason.INTERRUPTED}


@dataclass(frozen=True, slots=True)
class RewardBreakdown:
    """The reward of one step by name: `environment`, raw, and each extra term. Their total is what is learned from."""

    terms: Mapping[str, float]
    environment_scale: float = 1.0  # what the environment's own reward is multiplied by

    @property
    def total(self) -> float:
        return float(sum(v * (self.environment_scale if k == "environment" else 1.0) for k, v in self.terms.items()))


@dataclass(slots=True)
class Step:
    """One environment interaction."""

    messages: tuple[Message, ...]  # the whole prompt, exactly as the model saw it
    completion: Completion
    parse: ParseResult
    action: Any  # what was executed; None where the environment was not stepped
    executed_by: ExecutedBy
    reward: RewardBreakdown
    facts: Mapping[str, str] = field(default_factory=dict)  # the truth, where the environment tells it
    legal_actions: tuple[Any, ...] | None = None  # None: every action
    action_name: str | None = None  # of what was executed
    expert_move: ExpertMove | None = None  # what the expert would have done, where it was asked
    value: float | None = None  # V of the prompt, where the algorithm asked for it
    advantage: float | None = None
    # float32 (T,) each, in training only; an action that was scored is one element, not its tokens
    learner_logprobs: np.ndarray | None = None  # at the learner's first pass of the iteration
    updated_logprobs: np.ndarray | None = None  # at its last one
    token_advantages: np.ndarray | None = None  # where credit goes to tokens, and not to whole steps


@dataclass(slots=True)
class Trajectory:
    """The record of one episode, or of the part of it that one rollout saw (`first_step` > 0, or stop reason `cut`)."""

    task: int  # index in the run's tasks
    episode: int  # index within (run, split); with the run seed it decides all randomness
    seed: int  # what env.reset got
    steps: list[Step]
    stop_reason: StopReason
    final_messages: tuple[Message, ...] | None = None  # the prompt after the last step, for bootstrapping
    final_value: float | None = None  # V of it, where the algorithm asked for it
    group: int | None = None
    success: bool | None = None  # None where the task defines none, or the episode has not ended
    progress: float | None = None
    first_step: int = 0  # index of steps[0] in the episode
    return_before: float = 0.0  # what the environment paid before steps[0]
    fallbacks_before: int = 0

    @property
    def has_ended(self) -> bool:
        return self.stop_reason not in (StopReason.CUT, StopReason.INTERRUPTED)

    @property
    def num_steps(self) -> int:
        """Steps of the episode so far."""
        return self.first_step + len(self.steps)

    @property
    def total_return(self) -> float:
        """Undiscounted sum of the environment's own rewards over the episode so far."""
        return self.return_before + float(sum(s.reward.terms.get("environment", 0.0) for s in self.steps))

    @property
    def num_fallbacks(self) -> int:
        """Steps of the episode so far that a fallback executed."""
        return self.fallbacks_before + sum(s.executed_by is ExecutedBy.FALLBACK for s in self.steps)

    @property
    def is_strict_success(self) -> bool:
        """Success without a single fallback action."""
        return bool(self.success) and self.num_fallbacks == 0


# ----------------------------------------------------------------------------------------------- protocols


class ImageSource(Protocol):
    """Pictures by content hash, to be read."""

    def get(self, image_hash: str) -> np.ndarray: ...

    def __contains__(self, image_hash: object) -> bool: ...


class ImageStore(ImageSource, Protocol):
    """Content-addressed pictures: each is kept once."""

    def put(self, image: np.ndarray) -> str: ...  # uint8 (H, W, 3) -> hash


class Sampler(Protocol):
    policy_version: int  # set before sampling; caches of another version are dropped

    def sample(self, requests: Sequence[SampleRequest]) -> list[Completion]: ...

    def forget(self) -> None: ...  # drops every cache, after other weights were loaded


class Reward(Protocol):
    """An extra reward term: one number for each step of each trajectory."""

    name: str

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[list[float]]: ...
