"""What an observation space is made of: pictures, language and numbers, each with the keys that lead to it."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import iterate

from eyas.errors import ConfigError
from eyas.interface.pictures import MIN_PICTURE_SIDE, PictureReader, described, picture_reader

MAX_NUMBERS = 64  # an array of more numbers is not put into words

_LARGE = 1e9  # numbers from here on are written with an exponent: an unbounded float would have 39 digits


class Kind(StrEnum):
    PICTURE = "picture"
    LANGUAGE = "language"
    NUMBERS = "numbers"
    UNSAYABLE = "unsayable"


@dataclass(frozen=True, slots=True)
class Piece:
    """Something that an observation holds, and its label: the keys that lead to it, joined by dots."""

    kind: Kind
    label: str
    value: Any  # str, or uint8 (H, W, 3)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A place in the space, known before any observation."""

    kind: Kind
    label: str
    is_always_there: bool = True  # False inside a Sequence or a OneOf
    reason: str = ""  # why it is unsayable


@dataclass(frozen=True)
class Part:
    """How one space, or a space within a space, is read."""

    space: spaces.Space
    kind: Kind | None  # None: it is a space of spaces
    parts: tuple[tuple[Any, "Part"], ...] = ()  # those within it, by key or index; of a Sequence the only one
    reader: PictureReader | None = None
    precision: int = 2  # decimals of a number that is not whole
    names: tuple[str, ...] | None = None  # one for each of its numbers
    reason: str = ""  # why it is unsayable

    @property
    def is_numeric(self) -> bool:
        """Whether it is always read as one piece of numbers: a Tuple or Sequence of numbers alone is one list."""
        if isinstance(self.space, spaces.Tuple | spaces.Sequence):
            return all(part.is_numeric for _, part in self.parts)
        return self.kind is Kind.NUMBERS

    def leaves(self, label: str = "") -> Iterator[Leaf]:
        is_always_there = not isinstance(self.space, spaces.Sequence | spaces.OneOf)
        if self.is_numeric or self.kind is not None:
            yield Leaf(self.kind or Kind.NUMBERS, label, is_always_there, self.reason)
            return
        for key, part in self.parts:
            for leaf in part.leaves(_joined(label, key)):
                yield leaf if is_always_there else replace(leaf, is_always_there=False)

    def read(self, observation: Any, label: str, kinds: frozenset[Kind]) -> Iterator[Piece]:
        """What of these kinds an observation holds. Raises ValueError for one that the space does not hold."""
        if self.kind is not None:
            if self.kind in kinds:
                yield from (Piece(self.kind, label, value) for value in self._values(observation, label))
            return
        items = self._items(observation, label)
        pieces = [piece for key, part, item in items for piece in part.read(item, _joined(label, key), kinds)]
        if not self.is_numeric:
            yield from pieces
        elif Kind.NUMBERS in kinds:
            yield Piece(Kind.NUMBERS, label, _listed([piece.value for piece in pieces], self.names))
        if not items and isinstance(self.space, spaces.Sequence) and not self.is_numeric:
            said = {leaf.kind for leaf in self.leaves()} & kinds - {Kind.PICTURE}
            yield from (Piece(kind, label, "[]") for kind in sorted(said)[:1])

    def _values(self, observation: Any, label: str) -> Sequence[Any]:
        """What a space that holds no other says."""
        if self.reader is not None:
            return self.reader.read(observation, f" {label!r}" if label else "")
        if self.kind is Kind.NUMBERS:
            return (self._numbers(observation, label),)
        if not isinstance(observation, str):
            raise _broken(observation, label, "a text (str)")
        return (str(observation),)

    def _numbers(self, observation: Any, label: str) -> str:
        shape, is_whole = tuple(self.space.shape or ()), np.dtype(self.space.dtype).kind in "biu"
        kind = "whole numbers" if is_whole else "numbers"
        needed = f"{kind} of shape {shape}" if shape else kind.removesuffix("s")
        try:
            array = np.asarray(observation)
        except Exception as error:  # whatever the object's own conversion raises
            raise _broken(observation, label, needed) from error
        if array.shape != shape or array.dtype.kind not in ("biu" if is_whole else "biuf"):
            given = observation if isinstance(observation, str) or not array.shape else array
            raise _broken(given, label, needed)
        numbers = [str(int(n)) if is_whole else _rounded(float(n), self.precision) for n in array.flat]
        return _listed(numbers, self.names) if self.names else _rows(numbers, shape)

    def _items(self, observation: Any, label: str) -> list[tuple[Any, "Part", Any]]:
        """What an observation of a space of spaces consists of: each item with its key, and how it is read."""
        is_sequence = isinstance(observation, tuple | list)
        match self.space:
            case spaces.Dict():
                keys = [key for key, _ in self.parts]
                if not isinstance(observation, Mapping):
                    raise _broken(observation, label, f"a dict of {keys}")
                missing = [key for key in keys if key not in observation]
                if missing:
                    raise ValueError(f"the environment's {place_of(label)} lacks {missing}: needed is a dict of {keys}")
                return [(key, part, observation[key]) for key, part in self.parts]
            case spaces.Tuple():
                if not is_sequence or len(observation) != len(self.parts):
                    raise _broken(observation, label, f"a tuple of {len(self.parts)}")
                return [(index, part, item) for (index, part), item in zip(self.parts, observation)]
            case spaces.OneOf():
                index, value = observation if is_sequence and len(observation) == 2 else (None, None)
                if not isinstance(index, int | np.integer) or not 0 <= index < len(self.parts):
                    raise _broken(observation, label, f"(index below {len(self.parts)}, value)")
                return [(*self.parts[index], value)]
            case spaces.Sequence(stack=True):
                observation = _unstacked(self.space, observation, label)
            case _ if not is_sequence:
                raise _broken(observation, label, "a tuple")
        return [(index, self.parts[0][1], item) for index, item in enumerate(observation)]


def part_of(space: spaces.Space, precision: int) -> Part:
    """How a space is read, whatever is nested in it. `precision`: decimals of a number that is not whole."""
    inner: Iterable[tuple[Any, spaces.Space]]
    match space:
        case spaces.Dict():
            inner = space.spaces.items()
        case spaces.Tuple() | spaces.OneOf():
            inner = enumerate(space.spaces)
        case spaces.Sequence():
            inner = [("*", space.feature_space)]
        case spaces.Box() | spaces.Discrete() | spaces.MultiDiscrete() | spaces.MultiBinary():
            return _array_part(space, precision)
        case _:
            if isinstance(space, spaces.Text) or _samples_text(space):
                return Part(space, Kind.LANGUAGE)
            return Part(space, Kind.UNSAYABLE, reason=f"{described_space(space)} is of a kind that is not read")
    return Part(space, None, tuple((key, part_of(value, precision)) for key, value in inner))


def _array_part(space: spaces.Space, precision: int) -> Part:
    reader = picture_reader(space) if isinstance(space, spaces.Box) else None
    if reader is not None:
        return Part(space, Kind.PICTURE, reader=reader)
    count = math.prod(space.shape or ())
    if count <= MAX_NUMBERS:
        return Part(space, Kind.NUMBERS, precision=precision)
    reason = (
        f"{described_space(space)} has {count} numbers, of which at most {MAX_NUMBERS} are said (a picture is "
        f"uint8 or has finite bounds, 1, 3 or 4 channels and sides of at least {MIN_PICTURE_SIDE})"
    )
    return Part(space, Kind.UNSAYABLE, reason=reason)


def _samples_text(space: spaces.Space) -> bool:
    """Whether a space of an unknown class holds language. Sampled from a copy: its own random numbers stay untouched."""
    try:
        return isinstance(copy.deepcopy(space).sample(), str)
    except Exception:  # a class of anyone's may raise anything here, and then it is not known to hold language
        return False


def named_part(root: Part, names: Sequence[str] | None) -> Part:
    """The same with a name for every number. Raises ConfigError where they do not fit; what is not said needs none."""
    if not names or root.kind in (Kind.UNSAYABLE, Kind.PICTURE):
        return root
    if not root.is_numeric or isinstance(root.space, spaces.Sequence):
        raise ConfigError(
            f"names are for a flat list of numbers, not for {described_space(root.space)}: leave them out"
        )
    count = len(root.parts) if root.kind is None else math.prod(root.space.shape or ())
    if len(names) != count:
        raise ConfigError(f"{len(names)} names for {count} numbers of the observation: {list(names)}")
    return replace(root, names=tuple(names))


def place_of(label: str) -> str:
    """Where in an observation something is, for an error."""
    return f"observation {label!r}" if label else "observation"


def described_space(space: spaces.Space) -> str:
    """A space on one line of bounded length, for an error."""
    text = " ".join(str(space).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def _unstacked(space: spaces.Sequence, observation: Any, label: str) -> list[Any]:
    try:
        return list(iterate(space.stacked_feature_space, observation))
    except Exception as error:  # each space's own unstacking raises what it likes
        needed = f"a stacked sequence in {described_space(space.stacked_feature_space)}"
        raise _broken(observation, label, needed) from error


# ----------------------------------------------------------------------------------------------- words


def _rounded(number: float, precision: int) -> str:
    if math.isfinite(number) and abs(number) >= _LARGE:
        return f"{number:.{precision}e}"
    text = f"{number:.{precision}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _rows(numbers: Sequence[str], shape: tuple[int, ...]) -> str:
    """Numbers in row-major order as nested lists: `[[1, 2], [3, 4]]` for shape (2, 2), `1` for shape ()."""
    if not shape:
        return numbers[0]
    size = len(numbers) // shape[0] if shape[0] else 0
    return _listed([_rows(numbers[i * size : (i + 1) * size], shape[1:]) for i in range(shape[0])], None)


def _listed(texts: Sequence[str], names: Sequence[str] | None) -> str:
    if names:
        return ", ".join(f"{name}: {text}" for name, text in zip(names, texts))
    return f"[{', '.join(texts)}]"


def _joined(label: str, key: Any) -> str:
    return f"{label}.{key}" if label else str(key)


def _broken(given: Any, label: str, needed: str) -> ValueError:
    return ValueError(f"the environment gave {described(given)} as its {place_of(label)}; needed is {needed}")
