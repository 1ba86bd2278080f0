"""Action codecs: between the actions of a Gymnasium space and the words for them."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from eyas.errors import ConfigError
from eyas.interface.codecs import (
    MAX_LISTED,
    ActionCodec,
    DiscreteCodec,
    ReadFailure,
    TextCodec,
    unknown,
    unsupported,
)
from eyas.interface.vectors import BinsCodec, ChoicesCodec, NumbersCodec
from eyas.types import FailureReason

MAX_NAMED = 32  # most actions that an instruction lists by name


def codec_for(
    space: gym.Space,
    names: Sequence[Any] | None = None,
    *,
    bins: int | Sequence[str] | None = None,
    precision: int = 2,
) -> ActionCodec:
    """The words for a space's actions.

    `names` are one a Discrete action, or for MultiDiscrete and MultiBinary one list a component. `bins` makes each number
    of a Box one of so many, or of the given words, from low to high; without it numbers have `precision` decimals.
    Raises UnsupportedSpace for what is unbounded or of another kind, ConfigError for options that do not fit the space.
    """
    if names is not None and not isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise ConfigError(f"action names are for actions that can be counted, not for {space}: leave them out")
    if bins is not None and not _holds_numbers(space):
        raise ConfigError(f"bins are for the numbers of a Box, and {space} has none: leave them out")
    match space:
        case spaces.Discrete():
            return DiscreteCodec(space, names)
        case spaces.MultiDiscrete() | spaces.MultiBinary():
            return ChoicesCodec(space, names)
        case spaces.Box() if math.prod(space.shape):
            return NumbersCodec(space, precision) if bins is None else BinsCodec(space, bins)
        case spaces.Text():
            return TextCodec(space)
        case spaces.Dict() | spaces.Tuple() if len(space.spaces):
            return PartsCodec(space, bins, precision)
    raise unsupported(space, "has no words")


def _holds_numbers(space: gym.Space) -> bool:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return any(_holds_numbers(s) for s in _parts(space).values())
    return isinstance(space, spaces.Box)


def _parts(space: spaces.Dict | spaces.Tuple) -> dict[Any, gym.Space]:
    return dict(space.spaces) if isinstance(space, spaces.Dict) else dict(enumerate(space.spaces))


# ----------------------------------------------------------------------------------------------- several parts


class PartsCodec(ActionCodec):
    """Dict as "key: words; key: words", Tuple as "words; words"; inside them another one stands in braces, text in quotes."""

    space: spaces.Dict | spaces.Tuple

    def __init__(self, space: spaces.Dict | spaces.Tuple, bins: int | Sequence[str] | None = None, precision: int = 2):
        self.space = space
        parts = _parts(space)
        self.codecs: dict[Any, Any] = {
            k: codec_for(s, bins=bins if _holds_numbers(s) else None, precision=precision) for k, s in parts.items()
        }
        self.labels = {k: f"{k}: " if isinstance(space, spaces.Dict) else "" for k in parts}
        if any(set(str(k)) & set(';:{}"') or str(k) != str(k).strip() or not str(k) for k in parts):
            raise unsupported(space, 'has keys that hold one of ;:{}"')
        if any(c.may_write(mark) for c in self.codecs.values() if not _is_wrapped(c) for mark in ';{}"'):
            raise ConfigError(f'the words of the bins may not hold one of ;{{}}", not {bins}')

    @property
    def actions(self) -> tuple[Any, ...] | None:
        listed = [c.actions for c in self.codecs.values()]
        finite = [a for a in listed if a is not None]
        if len(finite) < len(listed) or math.prod(map(len, finite)) > MAX_LISTED:
            return None
        return tuple(self._joined(chosen) for chosen in itertools.product(*finite))

    def describe(self) -> str:
        return "; ".join(
            self.labels[k] + (f"{{{c.describe()}}}" if isinstance(c, PartsCodec) else f"<{c.describe()}>")
            for k, c in self.codecs.items()
        )

    def write(self, action: Any) -> str:
        own = self.own(action)
        return "; ".join(self.labels[k] + _wrapped(c, c.write(own[k])) for k, c in self.codecs.items())

    def read(self, text: str, legal: Sequence[Any] | None = None) -> Any:
        pieces = [p.strip() for p in _split(text.strip())]
        pieces = pieces[:-1] if pieces[-1] == "" else pieces
        if isinstance(self.space, spaces.Dict):
            named = {k.strip(): words.strip() for k, mark, words in (p.partition(":") for p in pieces) if mark}
            is_each_once = len(named) == len(pieces) == len(self.codecs)
            pieces = [named.get(str(k), "") for k in self.codecs] if is_each_once else []
        if len(pieces) != len(self.codecs) or not all(pieces):
            raise unknown(text, self.describe())
        return self._joined(c.read(_unwrapped(c, piece)) for c, piece in zip(self.codecs.values(), pieces))

    def _unmasked(self, mask: Any) -> tuple[Any, ...]:
        raise ValueError(
            f'info["action_mask"] cannot be read for {self.space}: list what is legal in info["legal_actions"], '
            "or leave the mask out"
        )

    def may_write(self, mark: str) -> bool:
        is_own = any(c in ';:{}" ' for c in mark) or any(mark in label for label in self.labels.values())
        return is_own or any(c.may_write(mark) for c in self.codecs.values())

    def _joined(self, values: Any) -> Any:
        return dict(zip(self.codecs, values)) if isinstance(self.space, spaces.Dict) else tuple(values)

    def own(self, action: Any) -> Any:
        is_dict = isinstance(self.space, spaces.Dict)
        if not isinstance(action, Mapping if is_dict else Sequence) or len(action) != len(self.codecs):
            raise self._outside(action)
        if is_dict and set(action) != set(self.codecs):
            raise self._outside(action)
        return self._joined([c.own(action[k]) for k, c in self.codecs.items()])

    def draw(self, rng: np.random.Generator) -> Any:
        return self._joined([c.draw(rng) for c in self.codecs.values()])


def _is_wrapped(codec: Any) -> bool:
    return isinstance(codec, PartsCodec | TextCodec)


def _wrapped(codec: Any, words: str) -> str:
    """The words of a part so that no separator in them counts."""
    if isinstance(codec, TextCodec):
        return json.dumps(words, ensure_ascii=False)
    return f"{{{words}}}" if isinstance(codec, PartsCodec) else words


def _unwrapped(codec: Any, piece: str) -> str:
    if isinstance(codec, PartsCodec):
        return piece[1:-1] if piece.startswith("{") and piece.endswith("}") else piece
    if isinstance(codec, TextCodec) and piece.startswith('"'):
        try:
            return json.loads(piece, strict=False)
        except json.JSONDecodeError:
            raise unknown(piece, "a text in quotes") from None
    return piece


def _split(text: str) -> list[str]:
    """The pieces between those semicolons that stand in no quotes and no braces."""
    pieces, begin, depth, is_string, is_escaped = [], 0, 0, False, False
    for place, character in enumerate(text):
        if is_escaped:
            is_escaped = False
        elif is_string:
            is_escaped, is_string = character == "\\", character != '"'
        elif character == '"':
            is_string = True
        elif character in "{}":
            depth += 1 if character == "{" else -1
        elif character == ";" and depth == 0:
            pieces.append(text[begin:place])
            begin = place + 1
    return [*pieces, text[begin:]]


# ----------------------------------------------------------------------------------------------- several actions a step

_MARKS = {",": "commas", ";": "semicolons"}


class SequenceCodec(ActionCodec):
    """Up to `max_actions` actions of `codec` in one step: its actions are tuples of them, at least one.

    `legal` gives tuples of one action each: a later action meets another state, so the first alone is judged.
    Raises ConfigError for a codec whose words can hold the separator.
    """

    def __init__(self, codec: ActionCodec, max_actions: int, separator: str = ","):
        if max_actions < 1 or not separator:
            raise ConfigError(f"a step needs 1 action or more and a separator, not {max_actions} and {separator!r}")
        self.codec, self.space, self.max_actions = codec, codec.space, max_actions
        self.mark = separator.strip() or separator
        self.joint = f"{separator} " if separator == self.mark else separator
        if codec.may_write(self.mark):
            others = [s for s in (",", ";", " | ", " then ") if not codec.may_write(s.strip())]
            advice = f"choose another, such as {others[0]!r}" if others else "leave it at one action a step"
            raise ConfigError(f"the actions of {self.space} can hold the separator {separator!r}: {advice}")

    @property
    def actions(self) -> tuple[Any, ...] | None:
        listed = self.codec.actions
        return None if self.max_actions > 1 or listed is None else tuple((a,) for a in listed)

    def describe(self) -> str:
        names = self.codec.names
        is_listed = 0 < len(names) <= MAX_NAMED and not any("," in n for n in names)
        each = f": {', '.join(names)}" if is_listed else f", each {self.codec.describe()}"
        if self.max_actions == 1:
            return f"1 action{each}"
        return f"1 to {self.max_actions} actions, separated by {_MARKS.get(self.mark, repr(self.joint))}{each}"

    def write(self, action: Any) -> str:
        return self.joint.join(self.codec.write(a) for a in self.own(action))

    def read(self, text: str, legal: Sequence[Any] | None = None) -> tuple[Any, ...]:
        pieces = text.split(self.mark)
        if len(pieces) > self.max_actions:
            raise ReadFailure(FailureReason.TOO_MANY_ACTIONS, f"{len(pieces)} actions, not {self.describe()}")
        if not all(p.strip() for p in pieces):
            raise unknown(text, self.describe())
        return tuple(self.codec.read(p) for p in pieces)

    def legal(self, info: Mapping[str, Any]) -> tuple[Any, ...] | None:
        legal = self.codec.legal(info)
        return None if legal is None else tuple((a,) for a in legal)

    def is_legal(self, action: Any, legal: Sequence[Any] | None) -> bool:
        return legal is None or self.codec.is_legal(action[0], [first for first, *_ in legal])

    def may_follow(self, info: Mapping[str, Any], move: Any) -> bool:
        """Whether a later action may be played, by the info that the actions before it led to."""
        return self.codec.is_legal(move, self.codec.legal(info))

    def own(self, action: Any) -> tuple[Any, ...]:
        if not isinstance(action, tuple) or not 0 < len(action) <= self.max_actions:
            raise ValueError(f"{action!r} is no tuple of 1 to {self.max_actions} actions of {self.space}")
        return tuple(self.codec.own(a) for a in action)

    def draw(self, rng: np.random.Generator) -> tuple[Any, ...]:
        return (self.codec.draw(rng),)
