"""What every answer format is: the instruction, the parser of what comes back and the writer of demonstrations, in one object."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

from gymnasium import spaces

from eyas.errors import ConfigError
from eyas.interface.actions import MAX_NAMED, ActionCodec, ReadFailure
from eyas.interface.codecs import in_words
from eyas.types import (
    ActionChoice,
    Completion,
    FailureReason,
    FinishReason,
    ParseFailure,
    ParseResult,
    StopRule,
)


class Format(Protocol):
    """How an answer is asked for, written and read."""

    @property
    def codec(self) -> ActionCodec: ...

    @property
    def fact_keys(self) -> tuple[str, ...]:
        """The facts that the model is asked to write down before its thought."""
        ...

    @property
    def thoughts(self) -> bool:
        """Whether the model thinks before it acts."""
        ...

    @property
    def stop(self) -> StopRule | None:
        """When the text is complete; None: the end token alone says so."""
        ...

    def instruction(self) -> str: ...

    def write(self, action: Any, facts: Mapping[str, str], thought: str) -> str:
        """The completion that a demonstrator would have written. Raises KeyError where `facts` lack a fact key."""
        ...

    def parse(self, completion: Completion, legal: Sequence[Any] | None = None) -> ParseResult:
        """The action in the environment's space, or why there is none."""
        ...

    def choice(self, legal: Sequence[Any] | None, is_per_token: bool = False) -> ActionChoice:
        """How to end a completion by scoring every legal action. Raises ConfigError where none can be listed."""
        ...


# ----------------------------------------------------------------------------------------------- what formats share


@dataclass(frozen=True)
class TextFormat(ABC):
    """What the formats share: reading the words, naming failures, and the choice among actions."""

    codec: ActionCodec
    fact_keys: tuple[str, ...] = ()
    thoughts: bool = True

    head: ClassVar[StopRule | None] = None  # what is sampled before the words of the action can be scored

    @abstractmethod
    def instruction(self) -> str: ...

    @abstractmethod
    def write(self, action: Any, facts: Mapping[str, str], thought: str) -> str: ...

    @abstractmethod
    def actions_after(self, head: str, legal: Sequence[Any] | None = None) -> list[tuple[Any, str]]:
        """The actions that can follow the head, each with the text that completes it; in the order of `legal`."""

    def choice(self, legal: Sequence[Any] | None, is_per_token: bool = False) -> ActionChoice:
        """How to end a completion by scoring every legal action. Raises ConfigError where none can be listed."""
        if legal is None and self.codec.actions is None:
            if getattr(self.codec, "max_actions", 1) > 1:
                raise ConfigError("scoring chooses one action a step: set max_actions = 1")
            is_box = isinstance(self.codec.space, spaces.Box)
            other = "bins for the numbers of a Box" if is_box else 'list the legal ones in info["legal_actions"]'
            raise ConfigError(
                f"the actions of {self.codec.space} cannot be listed, so none can be scored: take action_mode "
                f'"text", or {other}'
            )
        continuations = partial(_texts_after, self, legal)
        return ActionChoice(continuations, self.head if self.thoughts else None, is_per_token)

    def _candidates(self, legal: Sequence[Any] | None) -> Sequence[Any]:
        return legal if legal is not None else self.codec.actions or ()

    def _is_listed(self) -> bool:
        return 0 < len(self.codec.names) <= MAX_NAMED

    def _in_words(self) -> str:
        """What an action may be, for a sentence; names that hold commas themselves would blur a list of them."""
        is_clear = self._is_listed() and not any("," in n for n in self.codec.names)
        return in_words(self.codec.names) if is_clear else self.codec.describe()

    def _read(self, readings: Sequence[str], legal: Sequence[Any] | None, start: int) -> Any:
        """The action that the first text with a meaning means, or the ParseFailure."""
        failure = ParseFailure(FailureReason.UNKNOWN_ACTION, "", start)
        for text in readings:
            try:
                action = self.codec.read(text, legal)
            except ReadFailure as error:
                failure = ParseFailure(error.reason, shortened(error.detail), start)
                if error.reason is not FailureReason.UNKNOWN_ACTION:
                    return failure
            else:
                if self.codec.is_legal(action, legal):
                    return action
                return ParseFailure(FailureReason.ILLEGAL_ACTION, shortened(self.codec.write(action)), start)
        return failure


def _texts_after(form: TextFormat, legal: Sequence[Any] | None, head: str) -> list[str]:
    return [text for _, text in form.actions_after(head, legal)]


def failure_without_action(completion: Completion, start: int = -1) -> ParseFailure:
    """Why a completion names no action at all; `start` is where its action span begins, negative where it has none."""
    text = completion.text
    reason = FailureReason.NO_ACTION_KEY
    if not text.strip():
        reason = FailureReason.EMPTY
    elif is_cut(completion):
        reason = FailureReason.CUT_OFF
    return ParseFailure(reason, shortened(text), len(text) if start < 0 else start)


def is_cut(completion: Completion) -> bool:
    return completion.finish_reason is FinishReason.LENGTH


def rest_of(full: str, begun: str) -> str | None:
    """What completes `begun` to `full`, where spaces before them do not count; None where it begins otherwise."""
    for whole, part in ((full, begun), (full.lstrip(), begun.lstrip())):
        if whole.startswith(part):
            return whole[len(part) :]
    return None


def shortened(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else text[:limit] + "…"
