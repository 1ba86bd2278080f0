"""What an observation space is made of: pictures, language and numbers, each with the keys that lead to it."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

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


class Part(Protocol):
    """How one space, or a space within a space, is read."""

    def leaves(self, label: str) -> Iterator[Leaf]: ...

    def read(self, observation: Any, label: str, kinds: frozenset[Kind]) -> Iterator[Piece]: ...


def part_of(space: spaces.Space, precision: int) -> Part:
    """How a space is read, whatever is nested in it. `precision`: decimals of a number that is not whole."""
    match space:
        case spaces.Dict():
            return _Fields(tuple((key, part_of(value, precision)) for key, value in space.spaces.items()))
        case spaces.Tuple():
            return _Items(tuple(part_of(item, precision) for item in space.spaces))
        case spaces.Sequence():
            stacked = space.stacked_feature_space if space.stack else None
            return _Elements(part_of(space.feature_space, precision), stacked)
        case spaces.OneOf():
            return _Alternatives(tuple(part_of(alternative, precision) for alternative in space.spaces))
        case spaces.Box() | spaces.Discrete() | spaces.MultiDiscrete() | spaces.MultiBinary():
            return _array_part(space, precision)
    if isinstance(space, spaces.Text) or _samples_text(space):
        return _Language()
    return _Unsayable(f"{described_space(space)} is of a kind that is not read")


def _array_part(space: spaces.Space, precision: int) -> Part:
    reader = picture_reader(space) if isinstance(space, spaces.Box) else None
    if reader is not None:
        return _Pictures(reader)
    shape = tuple(space.shape or ())
    count = int(np.prod(shape))
    if count > MAX_NUMBERS:
        return _Unsayable(
            f"{described_space(space)} has {count} numbers, of which at most {MAX_NUMBERS} are said (a picture is "
            f"uint8 or has finite bounds, 1, 3 or 4 channels and sides of at least {MIN_PICTURE_SIDE})"
        )
    return _Numbers(shape, np.dtype(space.dtype).kind in "biu", precision)


def _samples_text(space: spaces.Space) -> bool:
    """Whether a space of an unknown class holds language. Sampled from a copy: its own random numbers stay untouched."""
    try:
        return isinstance(copy.deepcopy(space).sample(), str)
    except Exception:  # a class of anyone's may raise anything here, and then it is not known to hold language
        return False


def named_part(root: Part, names: Sequence[str] | None, space: spaces.Space) -> Part:
    """The same with a name for every number. Raises ConfigError where they do not fit; what is not said needs none."""
    if not names:
        return root
    if isinstance(root, _Numbers):
        count = int(np.prod(root.shape))
    elif isinstance(root, _Items) and _is_numeric(root):
        count = len(root.parts)
    elif isinstance(root, _Unsayable | _Pictures):
        return root
    else:
        raise ConfigError(f"names are for a flat list of numbers, not for {described_space(space)}: leave them out")
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


def _is_numeric(part: Part) -> bool:
    """Whether a part is always read as one piece of numbers."""
    if isinstance(part, _Items):
        return all(_is_numeric(item) for item in part.parts)
    return isinstance(part, _Numbers) or (isinstance(part, _Elements) and _is_numeric(part.part))


@dataclass(frozen=True)
class _Pictures:
    reader: PictureReader

    def leaves(self, label: str) -> Iterator[Leaf]:
        yield Leaf(Kind.PICTURE, label)

    def read(self, observation: Any, label: str, kinds: frozenset[Kind]) -> Iterator[Piece]:
        if Kind.PICTURE in kinds:
            for picture in self.reader.read(observation, f" {label!r}" if label else ""):
                yield Piece(Kind.PICTURE, label, picture)


@dataclass(frozen=True)
class _Language:
    def leaves(self, label: str) -> Iterator[Leaf]:
        yield Leaf(Kind.LANGUAGE, label)

    def read(self, observation: Any, label: str, kinds: frozenset[Kind]) -> Iterator[Piece]:
        if Kind.LANGUAGE in kinds:
            if not isinstance(observation, str):
                raise _broken(observation, label, "a text (str)")
            yield Piece(Kind.LANGUAGE, label, str(observation))


@dataclass(frozen=True)
class _Unsayable:
    reason: str

    def leaves(self, label: str) -> Iterator[Leaf]:
        yield Leaf(Kind.UNSAYABLE, label, reason=self.reason)

    def read(self, observation: Any, label: str, kinds: frozenset[Kind]) -> Iterator[Piece]:
        yield from ()


@dataclass(frozen=True)
class _Numbers:
    """An array of at most `MAX_NUMBERS` numbers; shape () is a single one."""

    shape: tuple[int, ...]
    is_whole: bool
    precision: int
    names: tuple[str, ...] | None = None

    def leaves(self, label: str) -> Iterator[Leaf]:
        yield Leaf(Kind.NUMBERS, label)

    def read(self, observation: Any, label: str, kinds: frozenset[Kind]) -> Iterator[Piece]:
        if Kind.NUMBERS in kinds:
            array = self._array(observation, label)
            numbers = [self._number(number) for number in array.flat]
            yield Piece(Kind.NUMBERS, label, _listed(numbers, self.names) if self.names else _rows(numbers, self.shape))

    def _array(self, observation: Any, label: str) -> np.ndarray:
        kind = "whole numbers" if self.is_whole else "numbers"
        needed = f"{kind} of shape {self.shape}" if self.shape else kind.removesuffix("s")
        try:
            array = np.asarray(observation)
        except Exception as error:  # whatever the object's own conversion raises
            raise _broken(observation, label, needed) from error
        if array.shape != self.shape or array.dtype.kind not in ("biu" if self.is_whole else "biuf"):
            given = observation if isinstance(observation, str) or not array.shape else array
            raise _broken(given, label, needed)
        return array

    def _number(self, number: Any) -> str:
        return str(int(number)) if self.is_whole else _rounded(float(number), self.precision)


@dataclass(frozen=True)
class _Items:
    """A Tuple. Of numbers alone it is one list; anything else is labelled by its index."""

    parts: tuple[Part, ...]
    names: tuple[str, ...] | None = None

    def leaves(self, label: str) -> Iterator[Leaf]:
        if _is_numeric(self):
            yield Leaf(Kind.NUMBERS, label)
        else:
            for index, part in enumerate(self.parts):
                yield from part.leaves(_joined(label, index))

    def read(self, observation: Any, label: str, kinds: frozenset[Kind]) -> Iterator[Piece]:
        if not isinstance(observation, tuple | list) or len(observation) != len(self.parts):
            raise _broken(observation, label, f"a tuple of {len(self.parts)}")
        yield from _read_items(list(zip(self.parts, observation)), _is_numeric(self), self.names, label, kinds)


@dataclass(frozen=True)
class _Elements:
    """A Sequence: any number of elements of one kind, read as a Tuple of them is."""

    part: Part
    stacked: spaces.Space | None  # the space of all elements together, where they come stacked

    def leaves(self, label: str) -> Iterator[Leaf]:
        inner = self.part.leaves(label if _is_numeric(self) else _joined(label, "*"))
        yield from (replace(leaf, is_always_there=False) for leaf in inner)

    def read(self, observation: Any, label: str, kinds: frozenset[Kind]) -> Iterator[Piece]:
        elements = [(self.part, element) for element in self._unstacked(observation, label)]
        yield from _read_items(elements, _is_numeric(self), None, label, kinds)
        inner = {leaf.kind for leaf in self.part.leaves("")} & kinds - {Kind.PICTURE}
        if inner and not elements and not _is_numeric(self.part):
            yield Piece(min(inner), label, "[]")

    def _unstacked(self, observation: Any, label: str) -> list[Any]:
        if self.stacked is None:
            if not isinstance(observation, tuple | list):
                raise _broken(observation, label, "a tuple")
            return list(observation)
        try:
            return list(iterate(self.stacked, observation))
        except Exception as error:  # each space's own unstacking raises what it likes
            raise _broken(observation, label, f"a stacked sequence in {described_space(self.stacked)}") from error


@dataclass(frozen=True)
class _Alternatives:
    """A OneOf: the index of the alternative is the last part of the label."""

    parts: tuple[Part, ...]

    def leaves(self, label: str) -> Iterator[Leaf]:
        for index, part in enumerate(self.parts):
            yield from (replace(leaf, is_always_there=False) for leaf in part.leaves(_joined(label, index)))

    def read(self, observation: Any, label: str, kinds: frozenset[Kind]) -> Iterator[Piece]:
        needed = f"(index below {len(self.parts)}, value)"
        if not isinstance(observation, tuple | list) or len(observation) != 2:
            raise _broken(observation, label, needed)
        index, value = observation
        if not isinstance(index, int | np.integer) or not 0 <= index < len(self.parts):
            raise _broken(observation, label, needed)
        yield from self.parts[index].read(value, _joined(label, int(index)), kinds)


@dataclass(frozen=True)
class _Fields:
    """A Dict: its keys are the labels."""

    parts: tuple[tuple[str, Part], ...]

    def leaves(self, label: str) -> Iterator[Leaf]:
        for key, part in self.parts:
            yield from part.leaves(_joined(label, key))

    def read(self, observation: Any, label: str, kinds: frozenset[Kind]) -> Iterator[Piece]:
        keys = [key for key, _ in self.parts]
        if not isinstance(observation, Mapping):
            raise _broken(observation, label, f"a dict of {keys}")
        missing = [key for key in keys if key not in observation]
        if missing:
            raise ValueError(f"the environment's {place_of(label)} lacks {missing}: needed is a dict of {keys}")
        for key, part in self.parts:
            yield from part.read(observation[key], _joined(label, key), kinds)


def _read_items(
    items: Sequence[tuple[Part, Any]],
    is_numeric: bool,
    names: Sequence[str] | None,
    label: str,
    kinds: frozenset[Kind],
) -> Iterator[Piece]:
    pieces = [list(part.read(item, _joined(label, index), kinds)) for index, (part, item) in enumerate(items)]
    if not is_numeric:
        for of_one in pieces:
            yield from of_one
    elif Kind.NUMBERS in kinds:
        yield Piece(Kind.NUMBERS, label, _listed([piece.value for of_one in pieces for piece in of_one], names))


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
