"""The codecs of arrays: one word or one number for each component, separated by commas."""

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from gymnasium import spaces

from eyas.errors import ConfigError, UnsupportedSpace
from eyas.interface.codecs import MAX_LISTED, ActionCodec, ReadFailure, Vocabulary, ones, unknown, unsupported
from eyas.types import FailureReason

MAX_UNMASKED = 4096  # most actions that a mask over several components may leave
LARGEST_NUMBER = 1e15  # a bound beyond it is no bound that could be written down
BIN_WORDS = {2: ("low", "high"), 3: ("low", "middle", "high"), 5: ("lowest", "low", "middle", "high", "highest")}


class _ArrayCodec(ActionCodec):
    """Arrays of a fixed shape: words for every component, separated by commas."""

    space: spaces.Box | spaces.MultiDiscrete[Any] | spaces.MultiBinary

    def own(self, action: Any) -> np.ndarray:
        array = np.asarray(action)
        if array.shape != self.space.shape or array.dtype.kind not in "biuf":
            raise self._outside(action)
        with np.errstate(invalid="ignore", over="ignore"):
            own = array.astype(self.space.dtype)
        is_same = self.space.dtype.kind == "f" or np.array_equal(own, array)
        if not is_same or not self.space.contains(own):
            raise self._outside(action)
        return own

    def _array(self, values: Iterable[Any]) -> np.ndarray:
        return np.array(list(values), dtype=self.space.dtype).reshape(self.space.shape)

    def _pieces(self, text: str) -> list[str]:
        pieces = text.split(",")
        if len(pieces) != math.prod(self.space.shape) or not all(p.strip() for p in pieces):
            raise unknown(text, self.describe())
        return pieces

    def _combined(self, options: Sequence[Sequence[Any]], most: int = MAX_LISTED) -> tuple[np.ndarray, ...] | None:
        """Every array of one option a component; None where they are too many."""
        if math.prod(map(len, options)) > most:
            return None
        return tuple(self._array(chosen) for chosen in itertools.product(*options))


class _WordsCodec(_ArrayCodec):
    """One of several values a component, each with its word."""

    values: Sequence[Any]  # for each component the values in order
    vocabularies: Sequence[Vocabulary]

    def _set_choices(self, values: Sequence[Any], words: Sequence[Sequence[str] | None]) -> None:
        self.values = values
        self.vocabularies = [Vocabulary(len(v), w) for v, w in zip(values, words)]
        if any(v.words and v.may_write(",") for v in self.vocabularies):
            raise ConfigError(f"commas separate the words of {self.space}: take names without them")

    @property
    def actions(self) -> tuple[np.ndarray, ...] | None:
        return self._combined(self.values)

    def describe(self) -> str:
        phrases = [v.describe() for v in self.vocabularies]
        if len(phrases) == 1:
            return phrases[0]
        each = f", each {phrases[0]}" if len(set(phrases)) == 1 else f": {'; '.join(phrases)}"
        return f"{len(phrases)} words, separated by commas{each}"

    def write(self, action: Any) -> str:
        chosen = zip(self.vocabularies, self.values, self.own(action).flat)
        return ", ".join(vocabulary.word(self._index(values, value)) for vocabulary, values, value in chosen)

    def read(self, text: str, legal: Sequence[Any] | None = None) -> np.ndarray:
        indices = [v.index(piece) for v, piece in zip(self.vocabularies, self._pieces(text))]
        return self._array(values[i] for values, i in zip(self.values, indices))

    def may_write(self, mark: str) -> bool:
        return any(c in ", " for c in mark) or any(v.may_write(mark) for v in self.vocabularies)

    @staticmethod
    def _index(values: Sequence[Any], value: Any) -> int:
        return int(value) - values[0]

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return self._array(values[int(rng.choice(len(values)))] for values in self.values)


class ChoicesCodec(_WordsCodec):
    """MultiDiscrete and MultiBinary: numbers from 0 for the one, off and on for the other, unless words are given."""

    def __init__(
        self, space: spaces.MultiDiscrete[Any] | spaces.MultiBinary, names: Sequence[Sequence[str]] | None = None
    ):
        self.space = space
        if isinstance(space, spaces.MultiDiscrete):
            values = [range(int(s), int(s) + int(n)) for s, n in zip(space.start.flat, space.nvec.flat)]
            words: list[Sequence[str] | None] = [None] * len(values)
        else:
            values = [range(2)] * math.prod(space.shape)
            words = [("off", "on")] * len(values)
        if names is not None:
            words = [*names]
            is_each_a_list = all(isinstance(w, Sequence) and not isinstance(w, str) for w in names)
            if not is_each_a_list or [len(w) for w in names] != [len(v) for v in values]:
                raise ConfigError(f"{space} needs a list of names for each component, not {words}")
        self._set_choices(values, words)

    def _unmasked(self, mask: Any) -> tuple[np.ndarray, ...]:
        if isinstance(self.space, spaces.MultiBinary):  # Gymnasium's mask: 0 and 1 are fixed, 2 is free
            mask = [[int(m != 1), int(m != 0)] for m in np.asarray(mask).flat]
        if len(mask) != len(self.values):
            raise ValueError(f'info["action_mask"] needs one mask for each component of {self.space}')
        options = [[v[i] for i in ones(m, len(v), self.space)] for v, m in zip(self.values, mask)]
        if (left := self._combined(options, MAX_UNMASKED)) is None:
            raise UnsupportedSpace(
                f'info["action_mask"] leaves more than {MAX_UNMASKED} actions of {self.space}: '
                'list the legal ones in info["legal_actions"], or leave the mask out'
            )
        return left


def _bounds(space: spaces.Box) -> list[tuple[Any, Any]]:
    """Lower and upper bound of every number, as Python's ints and floats. Raises UnsupportedSpace without bounds."""
    low, high = space.low.ravel(), space.high.ravel()
    largest = max(np.abs(low.astype(float)).max(), np.abs(high.astype(float)).max())
    if not space.is_bounded("both") or largest > LARGEST_NUMBER:
        raise unsupported(space, "has numbers without bounds")
    kind = float if space.dtype.kind == "f" else int
    return [(kind(a), kind(b)) for a, b in zip(low, high)]


def _bin_words(bins: Any) -> Sequence[str]:
    words = bins
    if isinstance(words, int):
        words = BIN_WORDS.get(words, tuple(str(i + 1) for i in range(words)))
    if isinstance(words, str) or len(words) < 2:
        raise ConfigError(f"bins need to be a number from 2 on, or a list of two words or more, not {bins!r}")
    return words


class BinsCodec(_WordsCodec):
    """A bounded Box of which each number is one of k evenly spaced ones, from low to high. Writing takes the nearest."""

    def __init__(self, space: spaces.Box, bins: int | Sequence[str]):
        self.space = space
        words = _bin_words(bins)
        spaced = [np.linspace(low, high, len(words)) for low, high in _bounds(space)]
        values = [(v if space.dtype.kind == "f" else np.rint(v)).astype(space.dtype) for v in spaced]
        if any(len(np.unique(v)) < len(words) for v in values):
            raise ConfigError(f"{space} has a component with fewer than {len(words)} numbers: take fewer bins")
        self._set_choices(values, [words] * len(values))

    @staticmethod
    def _index(values: np.ndarray, value: Any) -> int:
        return int(np.argmin(np.abs(values.astype(np.float64) - float(value))))


class NumbersCodec(_ArrayCodec):
    """A bounded Box: its numbers as text with `precision` decimals, never outside the bounds; whole ones without."""

    space: spaces.Box

    def __init__(self, space: spaces.Box, precision: int = 2):
        if not 0 <= precision <= 9:
            raise ConfigError(f"the precision of numbers is 0 to 9 decimals, not {precision}")
        self.space, self.is_whole = space, space.dtype.kind != "f"
        self.unit = Decimal(1).scaleb(0 if self.is_whole else -precision)
        self.bounds = _bounds(space)
        self.limits = [self._limits(low, high) for low, high in self.bounds]

    def _limits(self, low: Any, high: Any) -> tuple[Decimal, Decimal]:
        """The least and the greatest number within the bounds that can be written with the precision."""
        least, greatest = Decimal(low).quantize(self.unit), Decimal(high).quantize(self.unit)
        # compared in the space's own type: 0.10 is float32's 0.1, which is not quite the decimal number
        least += self.unit * (self._number(least) < low)
        greatest -= self.unit * (self._number(greatest) > high)
        if least > greatest:
            raise ConfigError(f"no number of this precision is between {low} and {high}: take more decimals, or bins")
        return least, greatest

    def _number(self, number: Any) -> Any:
        with np.errstate(over="ignore"):
            return int(number) if self.is_whole else float(self.space.dtype.type(float(number)))

    @property
    def actions(self) -> tuple[np.ndarray, ...] | None:
        ranges = [range(int(least), int(greatest) + 1) for least, greatest in self.limits]
        return self._combined(ranges) if self.is_whole else None

    def describe(self) -> str:
        kind = "whole number" if self.is_whole else "number"
        ranges = [f"between {least:f} and {greatest:f}" for least, greatest in self.limits]
        if len(ranges) == 1:
            return f"a {kind} {ranges[0]}"
        if len(set(ranges)) == 1:
            return f"{len(ranges)} {kind}s {ranges[0]}, separated by commas"
        return f"{len(ranges)} {kind}s, separated by commas: {'; '.join(ranges)}"

    def write(self, action: Any) -> str:
        numbers = []
        for number, (least, greatest) in zip(self.own(action).flat, self.limits):
            rounded = Decimal(int(number) if self.is_whole else float(number)).quantize(self.unit)
            numbers.append(f"{min(max(rounded, least), greatest) + 0:f}")  # + 0: no "-0.00"
        return ", ".join(numbers)

    def read(self, text: str, legal: Sequence[Any] | None = None) -> np.ndarray:
        numbers = []
        for piece, (low, high), limits in zip(self._pieces(text.strip().strip("[]()")), self.bounds, self.limits):
            piece, form = piece.strip(), _WHOLE if self.is_whole else _NUMBER
            if len(piece) > 64 or not form.fullmatch(piece):
                raise unknown(text, self.describe())
            number = self._number(piece)
            if not low <= number <= high:
                detail = f"{piece} is not between {limits[0]:f} and {limits[1]:f}"
                raise ReadFailure(FailureReason.ILLEGAL_ACTION, detail)
            numbers.append(number)
        return self._array(numbers)

    def may_write(self, mark: str) -> bool:
        return any(c in "0123456789.-, " for c in mark)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        low, high, dtype = self.space.low, self.space.high, self.space.dtype
        if self.is_whole:
            return rng.integers(low.astype(np.int64), high.astype(np.int64), endpoint=True).astype(dtype)
        drawn = low + (high.astype(np.float64) - low) * rng.random(self.space.shape)
        return np.clip(drawn.astype(dtype), low, high)


_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_WHOLE = re.compile(r"[-+]?[0-9]+")
