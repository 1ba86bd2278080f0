"""What every answer format is: the instruction, the parser of what comes back and the writer of demonstrations, in one object."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from gymnasium import spaces

from eyas.errors import ConfigError
from eyas.interface.actions import MAX_NAMED, ActionCodec, ReadFailure
from eyas.interface.codecs import in_words
from eyas.types import (
    ActionChoice,
    Completion,
    FailureReason,
    FinishReason,
    ParsedAction,
    ParseFailure,
    ParseResult,
    StopRule,
)


@dataclass(frozen=True)
class Format(ABC):
    """How an answer is asked for, written and read."""

    codec: ActionCodec
    fact_keys: tuple[str, ...] = ()  # the facts that the model is asked to write down before its thought
    thoughts: bool = True  # whether the model thinks before it acts
    stop: StopRule | None = field(default=None, repr=False)  # when the text is complete; None: at the end token alone

    head: ClassVar[StopRule | None] = None  # what is sampled before the words of the action can be scored

    @abstractmethod
    def instruction(self) -> str: ...

    @abstractmethod
    def write(self, action: Any, facts: Mapping[str, str], thought: str) -> str:
        """The completion that a demonstrator would have written. Raises KeyError where `facts` lack a fact key."""

    @abstractmethod
    def parse(self, completion: Completion, legal: Sequence[Any] | None = None) -> ParseResult:
        """The action in the environment's space, or why there is none."""

    def _begun(self, head: str) -> str | None:
        """What of the ending below a head with thoughts already holds; None where no action can follow it."""
        return head

    def _ending(self, action: Any) -> str:
        """What completes a head with thoughts by the action."""
        return self.write(action, {}, "")

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
        return ActionChoice(partial(_texts_after, self, legal), self.head if self.thoughts else None, is_per_token)

    def actions_after(self, head: str, legal: Sequence[Any] | None = None) -> list[tuple[Any, str]]:
        """The actions whose words can follow the head, each with the text that completes it; in the order of `legal`."""
        begun = self._begun(head) if self.thoughts else head
        if begun is None:
            return []
        candidates = legal if legal is not None else self.codec.actions or ()
        endings = [(a, self._ending(a) if self.thoughts else self.write(a, {}, "")) for a in candidates]
        return [(a, rest) for a, text in endings if (rest := _rest_of(text, begun)) is not None]

    def _is_listed(self) -> bool:
        return 0 < len(self.codec.names) <= MAX_NAMED

    def _in_words(self) -> str:
        """What an action may be, for a sentence; names that hold commas themselves would blur a list of them."""
        is_clear = self._is_listed() and not any("," in n for n in self.codec.names)
        return in_words(self.codec.names) if is_clear else self.codec.describe()

    def _read(
        self,
        readings: Sequence[str],
        legal: Sequence[Any] | None,
        start: int,
        thought: str = "",
        facts: Mapping[str, str] = {},
    ) -> ParseResult:
        """The action that the first text with a meaning means, or why there is none."""
        failure = ParseFailure(FailureReason.UNKNOWN_ACTION, "", start)
        for text in readings:
            try:
                action = self.codec.read(text, legal)
            except ReadFailure as error:
                failure = ParseFailure(error.reason, shortened(error.detail), start)
                if error.reason is not FailureReason.UNKNOWN_ACTION:
                    return failure
            else:
                name = self.codec.write(action)
                if self.codec.is_legal(action, legal):
                    return ParsedAction(action, name, thought, facts, start)
                return ParseFailure(FailureReason.ILLEGAL_ACTION, shortened(name), start)
        return failure


def _texts_after(form: Format, legal: Sequence[Any] | None, head: str) -> list[str]:
    return [text for _, text in form.actions_after(head, legal)]


def failure_without_action(text: str, was_cut: bool, start: int = -1) -> ParseFailure:
    """Why a text names no action at all; `start` is where its action span begins, negative where it has none."""
    reason = FailureReason.CUT_OFF if was_cut else FailureReason.NO_ACTION_KEY
    if not text.strip():
        reason = FailureReason.EMPTY
    return ParseFailure(reason, shortened(text), len(text) if start < 0 else start)


def is_cut(completion: Completion) -> bool:
    return completion.finish_reason is FinishReason.LENGTH


def _rest_of(full: str, begun: str) -> str | None:
    """What completes `begun` to `full`, where spaces before them do not count; None where it begins otherwise."""
    for whole, part in ((full, begun), (full.lstrip(), begun.lstrip())):
        if whole.startswith(part):
            return whole[len(part) :]
    return None


def shortened(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else text[:limit] + "…"
