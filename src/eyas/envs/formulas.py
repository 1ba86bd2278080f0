"""Formulas that are written one token at a time: reading, judging and completing them with exact fractions.

Grammar: numbers, + - * / with the usual precedence, brackets, signs before an operand. Blanks are skipped. Two numbers in a
row, `**`, `//` and a number before a bracket are no formula (the original game hands its text to Python's `eval`, which
joins neighbouring digits and knows more operators).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

BLANK = "_"
END = "="
WIN_REWARD, LOSS_REWARD = 10.0, -1.0
Formula = tuple[str, ...]


class Level(NamedTuple):
    """One level of brackets, read so far. Its value is `total + term` once no operator waits."""

    total: Fraction = Fraction(0)  # finished terms of the sum
    term: Fraction = Fraction(0)  # the product that may go on
    operator: str | None = "+"  # "+", "*" or "/" waits for its right side; None where an operand has just ended
    sign: int = 1  # of the operand to come; "-" waits as "+" with the sign turned


Reading = tuple[Level, ...]  # outermost level first


def _close_operand(reading: Reading, value: Fraction) -> Reading | None:
    total, term, operator, sign = reading[-1]
    if operator is None or (operator == "/" and value == 0):
        return None
    if operator == "+":
        term = value
    else:
        term = term * value if operator == "*" else term / value
    return (*reading[:-1], Level(total, sign * term, None))


def _read_operator(reading: Reading, token: str) -> Reading | None:
    level, turn = reading[-1], -1 if token == "-" else 1
    if level.operator is not None:
        return (*reading[:-1], level._replace(sign=level.sign * turn)) if token in "+-" else None
    if token in "+-":
        return (*reading[:-1], Level(level.total + level.term, Fraction(0), "+", turn))
    return (*reading[:-1], level._replace(operator=token, sign=1))


def read(reading: Reading, token: str) -> Reading | None:
    """Reads one more token; None where no formula can go on like this."""
    if token == BLANK:
        return reading
    if token.isdigit():
        return _close_operand(reading, Fraction(int(token)))
    if token == "(":
        return None if reading[-1].operator is None else (*reading, Level())
    if token == ")":
        is_closed = len(reading) == 1 or reading[-1].operator is not None
        return None if is_closed else _close_operand(reading[:-1], reading[-1].total + reading[-1].term)
    return _read_operator(reading, token)


def read_all(formula: Iterable[str]) -> Reading | None:
    """Reads a formula, complete or not; None where it can never become one."""
    reading: Reading | None = (Level(),)
    for token in formula:
        reading = None if reading is None else read(reading, token)
    return reading


def value_of(reading: Reading | None) -> Fraction | None:
    """The value of a complete formula; None where it is not complete or none at all."""
    if reading is None or len(reading) != 1 or reading[0].operator is not None:
        return None
    return reading[0].total + reading[0].term


def evaluate(formula: Iterable[str]) -> Fraction | None:
    """The exact value of a formula without its "="; None for an illegal one, also for a division by zero.

    >>> evaluate(("(", "1", "+", "2", ")", "/", "4"))
    Fraction(3, 4)
    """
    return value_of(read_all(formula))


def unused(numbers: tuple[int, ...], formula: Formula) -> tuple[int, ...]:
    """The card numbers that the formula has not used, in dealt order."""
    left = list(numbers)
    for token in formula:
        if token.isdigit():
            left.remove(int(token))
    return tuple(left)


# ----------------------------------------------------------------------------------------------- the game


@dataclass(frozen=True, slots=True)
class FormulaRules:
    """The rules that EZPoints and Points24 share."""

    target: int
    limit: int  # a formula longer than this, in tokens, has lost before the next step
    max_number: int
    operators: tuple[str, ...]

    @property
    def action_names(self) -> tuple[str, ...]:
        return (*map(str, range(1, self.max_number + 1)), *self.operators, END)

    def play(self, numbers: tuple[int, ...], formula: Formula, token: str) -> tuple[Formula, float, bool]:
        """Writes a token: the formula after it, the reward, whether the episode has ended."""
        if len(formula) > self.limit:
            return formula, LOSS_REWARD, True
        if token == END:
            return formula, WIN_REWARD if self.is_won(numbers, formula) else LOSS_REWARD, True
        if token.isdigit() and int(token) not in unused(numbers, formula):
            return (*formula, BLANK), LOSS_REWARD, False
        return (*formula, token), 0.0, False

    def is_won(self, numbers: tuple[int, ...], formula: Formula) -> bool:
        """Whether the formula is right with every card used."""
        return not unused(numbers, formula) and evaluate(formula) == self.target


# ----------------------------------------------------------------------------------------------- solving


Numbers = tuple[int | Fraction, ...]  # sorted


@lru_cache(maxsize=2**15)
def _reachable(numbers: Numbers) -> frozenset[Fraction]:
    """All values of formulas with each of the sorted numbers once."""
    if len(numbers) == 1:
        return frozenset([Fraction(numbers[0])])
    values: set[Fraction] = set()
    for part, rest in _splits(numbers):
        for a in _reachable(part):
            for b in _reachable(rest):
                values |= {a + b, a - b, b - a, a * b}
                values |= {a / b} if b else set()
                values |= {b / a} if a else set()
    return frozenset(values)


@lru_cache(maxsize=2**15)
def _splits(numbers: Numbers) -> frozenset[tuple[Numbers, Numbers]]:
    """The ways to part sorted numbers into two groups, the smaller one first."""
    splits = set()
    for mask in range(1, 2 ** len(numbers) - 1):
        part = tuple(n for i, n in enumerate(numbers) if mask >> i & 1)
        rest = tuple(n for i, n in enumerate(numbers) if not mask >> i & 1)
        if len(part) <= len(rest):
            splits.add((part, rest))
    return frozenset(splits)


def _partners(a: Fraction, target: Fraction) -> set[Fraction]:
    """Every b for which a and b give the target with one operation."""
    partners = {target - a, a - target, a + target}
    if a:
        partners |= {target / a, target * a}
    return partners | ({a / target} if a and target else set())


@lru_cache(maxsize=2**15)
def _is_solvable(numbers: Numbers, target: Fraction) -> bool:
    if len(numbers) == 1:
        return numbers[0] == target
    return any(
        not _partners(a, target).isdisjoint(_reachable(rest))
        for part, rest in _splits(numbers)
        for a in _reachable(part)
    )


def is_solvable(numbers: Iterable[int], target: int) -> bool:
    """Whether + - * / and brackets make the target from the numbers, each used once."""
    return _is_solvable(tuple(sorted(numbers)), Fraction(target))


class _Search:
    """Depth-first search for the rest of a formula, with a memory of what failed. Tries few new brackets first."""

    def __init__(self, rules: FormulaRules) -> None:
        self.target = Fraction(rules.target)
        self.binary = tuple(o for o in rules.operators if o not in "()")
        self.failed: set[tuple[Reading, tuple[int, ...], int, int]] = set()

    def find(self, reading: Reading, cards: tuple[int, ...], brackets: int, room: int) -> Formula | None:
        """Tokens that complete the formula with all `cards`, at most `brackets` new "(" and `room` tokens."""
        if value_of(reading) == self.target and not cards:
            return ()
        waits, depth = reading[-1].operator is not None, len(reading) - 1
        needed = 2 * len(cards) - waits + depth
        if needed > room or (waits and not cards):
            return None
        key = (reading, cards, brackets, min(room, needed + 2 * brackets))
        if key in self.failed or self._is_hopeless(reading, cards):
            return None
        for token in self._candidates(cards, brackets, waits):
            following = read(reading, token)
            if following is None:
                continue
            rest = self.find(following, unused(cards, (token,)), brackets - (token == "("), room - 1)
            if rest is not None:
                return (token, *rest)
        self.failed.add(key)
        return None

    def _is_hopeless(self, reading: Reading, cards: tuple[int, ...]) -> bool:
        """Whether the values on the way and the cards left miss the target in any order, with any brackets."""
        # A term that is 0 can swallow another number; everywhere else a 0 changes nothing and is left out.
        if any(level.term == 0 and level.operator != "+" for level in reading):
            return False
        values = [abs(v) for level in reading for v in (level.total, level.term) if v]
        return not _is_solvable(tuple(sorted((*values, *cards))), self.target)

    def _candidates(self, cards: tuple[int, ...], brackets: int, waits: bool) -> tuple[str, ...]:
        if waits:
            numbers = tuple(dict.fromkeys(map(str, cards)))
            return (*numbers, "(") if brackets and len(cards) > 1 else numbers
        return (*self.binary, ")") if cards else (")",)


# Two pairs are enough for four numbers in any order: three operators bind in two inner groups at most, and a sign or an
# operator that waits before all of them can be carried into the terms.
MAX_NEW_BRACKETS = 2


@lru_cache(maxsize=16384)
def complete(rules: FormulaRules, numbers: tuple[int, ...], formula: Formula) -> Formula | None:
    """Tokens that turn the formula into one that wins, without the "="; None where nothing can.

    Works from any state, also after wrong moves: every number already written, every blank and the length limit count. It
    returns the first in dealt order among those with fewest new brackets, so that following it never changes the plan.
    """
    reading, search = read_all(formula), _Search(rules)
    # Signs make no hand solvable (a negative value can be had positive by turning a subtraction), so this check is exact.
    if reading is None or not is_solvable(numbers, rules.target):
        return None
    for brackets in range(MAX_NEW_BRACKETS + 1 if "(" in rules.operators else 1):
        rest = search.find(reading, unused(numbers, formula), brackets, rules.limit - len(formula))
        if rest is not None:
            return rest
    return None
