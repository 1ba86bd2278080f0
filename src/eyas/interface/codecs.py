"""The codecs of single spaces: words for one choice and for text."""

import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from eyas.errors import ConfigError, UnsupportedSpace
from eyas.types import FailureReason

MAX_LISTED = 256  # most actions that are listed one by one
MOST_WRITTEN = 4096  # actions whose words are remembered


class ReadFailure(Exception):
    """A text is no action. `reason` and `detail` say why."""

    def __init__(self, reason: FailureReason, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def unknown(text: str, needed: str) -> ReadFailure:
    """The failure of a text that does not have the form that is needed."""
    return ReadFailure(FailureReason.UNKNOWN_ACTION, f"needed is {needed}, not {text[:80]!r}")


def unsupported(space: gym.Space, why: str) -> UnsupportedSpace:
    """The refusal of an action space, with what to write instead."""
    return UnsupportedSpace(
        f"the action space {space} {why}: wrap the environment (gymnasium.wrappers.RescaleAction for bounds, "
        "gymnasium.wrappers.TransformAction for another space), give `action_names` where its actions can be counted, "
        "or give the format a codec of your own, a subclass of eyas.interface.ActionCodec"
    )


def in_words(words: Sequence[str]) -> str:
    """The words as a sentence lists them: "a, b or c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


# ----------------------------------------------------------------------------------------------- one choice


class Vocabulary:
    """The words for one choice among `size`: the given ones, or the numbers from 0."""

    def __init__(self, size: int, words: Sequence[str] | None = None):
        self.size, self.words = size, None if words is None else tuple(words)
        if self.words is None:
            self._mention = re.compile(_alone(rf"(?:0|[1-9][0-9]{{0,{len(str(size))}}})"))
            return
        stripped = [w.strip() for w in self.words]
        if not all(stripped) or len(set(stripped)) < len(stripped):
            raise ConfigError(f"the action names {list(self.words)} need to be different words, none empty")
        self._mention = _mentions(self.words)

    def word(self, index: int) -> str:
        return str(index) if self.words is None else self.words[index]

    def index(self, text: str) -> int:
        """What the text is, or else the only one that it mentions: "10" is never read as "1". Raises ReadFailure."""
        words, text = self.words, text.strip()
        for same in (str, str.casefold):  # words may differ in case alone: the exact one comes first
            sought = same(text)
            matching = [i for i, w in enumerate(words or ()) if sought == same(w.strip())]
            if len(matching) == 1:
                return matching[0]
        found = set(self._mention.findall(text))
        indices = {int(f) for f in found if int(f) < self.size} if words is None else {words.index(f) for f in found}
        if len(indices) == 1:
            return indices.pop()
        raise ReadFailure(FailureReason.AMBIGUOUS_ACTION if indices else FailureReason.UNKNOWN_ACTION, text)

    def describe(self) -> str:
        return f"a number from 0 to {self.size - 1}" if self.words is None else in_words(self.words)

    def may_write(self, mark: str) -> bool:
        return mark.isdecimal() if self.words is None else any(mark in w for w in self.words)


def _alone(number: str) -> str:
    """A pattern for a whole number that is no part of a word, a signed or decimal number, or a range."""
    return rf"(?<![\w.\-−]){number}(?!\w|[.\-−]\d)"


def _mentions(words: Sequence[str]) -> re.Pattern[str]:
    """Finds the words, the longest first, and words of letters only as whole words."""
    patterns = []
    for word in sorted(words, key=len, reverse=True):
        pattern = re.escape(word)
        if word.isdecimal():
            pattern = _alone(pattern)
        elif re.fullmatch(r"\w.*\w|\w", word):
            pattern = rf"(?<!\w){pattern}(?!\w)"
        patterns.append(pattern)
    return re.compile("|".join(patterns))


# ----------------------------------------------------------------------------------------------- codecs


class ActionCodec(ABC):
    """The words for the actions of a space. Write one of your own for a space that `codec_for` refuses."""

    space: gym.Space

    @abstractmethod
    def describe(self) -> str:
        """One phrase for the instruction, where the names are not listed."""

    @abstractmethod
    def write(self, action: Any) -> str:
        """The words for an action. Raises ValueError for one outside the space."""

    @abstractmethod
    def read(self, text: str, legal: Sequence[Any] | None = None) -> Any:
        """The action that the text means; `legal` only decides between spellings. Raises ReadFailure."""

    @abstractmethod
    def own(self, action: Any) -> Any:
        """The action in the space's own type. Raises ValueError for one outside the space."""

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Any:
        """A uniformly random action of all."""

    @property
    def actions(self) -> tuple[Any, ...] | None:
        """Every action in order, where they are finite and at most MAX_LISTED."""
        return None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Their words, in the same order; () where `actions` is None."""
        return tuple(self.write(a) for a in self.actions or ())

    def may_write(self, mark: str) -> bool:
        """Whether the words of some action can hold the mark."""
        return not self.names or any(mark in n for n in self.names)

    def legal(self, info: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """What info["legal_actions"] or else info["action_mask"] leaves, in that order; None: every action.

        Raises ValueError where they do not fit the space.
        """
        given, mask = info.get("legal_actions"), info.get("action_mask")
        if given is not None:
            return tuple(self.own(a) for a in given)
        return None if mask is None else self._unmasked(mask)

    def _unmasked(self, mask: Any) -> tuple[Any, ...] | None:
        return None

    def is_legal(self, action: Any, legal: Sequence[Any] | None) -> bool:
        if legal is None:
            return True
        words = self.write(action)
        return any(self._words(a) == words for a in legal)

    def _words(self, action: Any) -> str:
        """As `write`, but remembered: the same actions are legal at step after step."""
        key = _key(action)
        if key not in self._written:
            if len(self._written) >= MOST_WRITTEN:
                self._written.clear()
            self._written[key] = self.write(action)
        return self._written[key]

    @cached_property
    def _written(self) -> dict[Hashable, str]:
        return {}

    def sample(self, rng: np.random.Generator, legal: Sequence[Any] | None) -> Any:
        """A uniformly random legal action. Raises ValueError where none is legal."""
        if legal is None:
            return self.draw(rng)
        if not len(legal):
            raise ValueError(f"the environment left no legal action of {self.space}")
        return self.own(legal[int(rng.choice(len(legal)))])

    def _outside(self, action: Any) -> ValueError:
        return ValueError(f"{action!r} is no action of {self.space}")


def _key(action: Any) -> Hashable:
    """Equal only for actions of the same type and value."""
    if isinstance(action, np.ndarray | np.generic):
        return action.dtype.str, action.shape, action.tobytes()
    if isinstance(action, Mapping):
        return tuple((k, _key(v)) for k, v in action.items())
    if isinstance(action, list | tuple):
        return tuple(_key(v) for v in action)
    return type(action), action


class DiscreteCodec(ActionCodec):
    """One word an action. Numbers count from 0 wherever the space starts; actions are ints."""

    def __init__(self, space: spaces.Discrete[Any], names: Sequence[str] | None = None):
        self.space, self.start, self.size = space, int(space.start), int(space.n)
        if names is not None and len(names) != self.size:
            raise ConfigError(f"{space} has not as many actions as names: {list(names)}")
        self.vocabulary = Vocabulary(self.size, names)

    @property
    def actions(self) -> tuple[int, ...] | None:
        return tuple(range(self.start, self.start + self.size)) if self.size <= MAX_LISTED else None

    def describe(self) -> str:
        return self.vocabulary.describe()

    def may_write(self, mark: str) -> bool:
        return self.vocabulary.may_write(mark)

    def write(self, action: Any) -> str:
        return self.vocabulary.word(self.own(action) - self.start)

    def read(self, text: str, legal: Sequence[Any] | None = None) -> int:
        return self.start + self.vocabulary.index(text)

    def is_legal(self, action: Any, legal: Sequence[Any] | None) -> bool:
        return legal is None or action in legal

    def own(self, action: Any) -> int:
        if not self.space.contains(action):
            raise self._outside(action)
        return int(action)

    def _unmasked(self, mask: Any) -> tuple[int, ...]:
        return tuple(self.start + i for i in ones(mask, self.size, self.space))

    def draw(self, rng: np.random.Generator) -> int:
        return self.start + int(rng.choice(self.size))


def ones(mask: Any, size: int, space: gym.Space) -> list[int]:
    array = np.asarray(mask)
    if array.shape != (size,):
        raise ValueError(f'info["action_mask"] has the shape {array.shape}, not ({size},), for {space}')
    return [int(i) for i in np.flatnonzero(array == 1)]


class TextCodec(ActionCodec):
    """The text itself, without the spaces around it."""

    space: spaces.Text

    def __init__(self, space: spaces.Text):
        self.space = space

    def describe(self) -> str:
        few = f" out of {''.join(sorted(self.space.character_set))}" if len(self.space.character_set) <= 32 else ""
        return f"a text of {self.space.min_length} to {self.space.max_length} characters{few}"

    def write(self, action: Any) -> str:
        return self.own(action)

    def read(self, text: str, legal: Sequence[Any] | None = None) -> str:
        text = text.strip()
        for same in (str, str.casefold):
            matching = {a for a in legal or () if same(a.strip()) == same(text)}
            if len(matching) == 1:
                return matching.pop()
        if not self.space.contains(text):
            strange = sorted(set(text) - self.space.character_set)
            fault = f"the characters {''.join(strange)!r}" if strange else f"{len(text)} characters"
            raise ReadFailure(FailureReason.ILLEGAL_ACTION, f"{fault} are not of {self.describe()}")
        return text

    def may_write(self, mark: str) -> bool:
        return True

    def own(self, action: Any) -> str:
        if not isinstance(action, str) or not self.space.contains(action):
            raise self._outside(action)
        return str(action)

    def draw(self, rng: np.random.Generator) -> str:
        characters = sorted(self.space.character_set)  # a set's own order changes from one process to the next
        printable = [c for c in characters if c.isprintable() and not c.isspace()] or characters
        least = max(self.space.min_length, min(1, self.space.max_length))
        length = int(rng.integers(least, min(self.space.max_length, max(least, 32)), endpoint=True))
        return "".join(printable[int(i)] for i in rng.integers(len(printable), size=length)) if printable else ""
