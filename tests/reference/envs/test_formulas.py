"""Formulas against Python's own arithmetic, brute force and the known shares of hands that can be solved."""

import re
from collections import Counter
from fractions import Fraction
from itertools import combinations_with_replacement, product
from math import factorial, prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.envs.formulas import FormulaRules, complete, evaluate, is_solvable, read, read_all, unused, value_of
from eyas.envs.points24 import Points24Env

RULES = Points24Env(mode="text").rules
TOKENS = ["1", "2", "3", "10", "+", "-", "*", "/", "(", ")", "_"]


def python_value(tokens: list[str]) -> Fraction | None:
    """Python's value of the formula, for those where our grammar and Python's agree."""
    text = "".join(" " if t == "_" else f"Fraction({t})" if t.isdigit() else t for t in tokens)
    try:
        value = eval(text, {"Fraction": Fraction})
    except (SyntaxError, TypeError, ZeroDivisionError):
        return None
    return value if isinstance(value, Fraction) else None


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=11))
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_evaluate_agrees_with_python(tokens):
    if re.search(r"\*\*|//", "".join(tokens)):
        assert evaluate(tokens) is None
    else:
        assert evaluate(tokens) == python_value(tokens)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3 * 8", 24),
        ("1 - 2 * 3", -5),
        ("8 / ( 3 - 8 / 3 )", 24),
        ("8 / 3 / 2", Fraction(4, 3)),
        ("- 2 * - 3", 6),
        ("2 - - 3", 5),
        ("_ 2 _ + 3 _", 5),
        ("( ( 7 ) )", 7),
        ("0 * 3 + 2", 2),
        ("1 / ( 2 - 2 )", None),
        ("1 2", None),
        ("2 * * 3", None),
        ("( 2", None),
        ("2 )", None),
        ("( )", None),
        ("2 ( 3 )", None),
        ("2 +", None),
        ("", None),
    ],
)
def test_hand_worked_formulas(text, value):
    assert evaluate(text.split()) == value


def solvable_share(max_number: int) -> float:
    count = 0
    for ranks in combinations_with_replacement(range(1, 14), 4):
        orders = factorial(4) // prod(map(factorial, Counter(ranks).values()))
        count += orders * is_solvable([min(rank, max_number) for rank in ranks], 24)
    return count / 13**4


@pytest.mark.parametrize(("max_number", "count"), [(10, 20876), (13, 22615)])
def test_share_of_solvable_hands(max_number, count):
    assert solvable_share(max_number) == count / 13**4
    assert count / 13**4 == pytest.approx({10: 0.731, 13: 0.792}[max_number], abs=5e-4)


def test_plans_win_exactly_where_a_hand_can_be_solved():
    hands = list(combinations_with_replacement(range(1, 11), 4))
    for hand in hands[::6]:
        rest = complete(RULES, hand, ())
        assert (rest is not None) == is_solvable(hand, 24)
        assert rest is None or RULES.is_won(hand, rest)


def exists(rules: FormulaRules, reading, cards: tuple[int, ...], brackets: int) -> bool:
    """Brute force over every continuation, signs apart."""
    if not cards and value_of(reading) == rules.target:
        return True
    for token in (*dict.fromkeys(map(str, cards)), *rules.operators):
        waits = reading[-1].operator is not None
        is_useless = (token == "(" and not brackets) or (not token.isdigit() and token not in "()" and waits)
        following = None if is_useless else read(reading, token)
        if following and exists(rules, following, unused(cards, (token,)), brackets - (token == "(")):
            return True
    return False


STARTS = ["", "-", "(", "2 *", "- ( 2", "2 / (", "3 - _ (", "3 - 3", "( 3 - 3", "2 /", "( - 2 ) *"]


@pytest.mark.parametrize("start", STARTS)
def test_completion_finds_one_wherever_brute_force_does(start):
    formula = tuple(start.split())
    for hand, target in product([(2, 3, 3), (2, 3, 4), (2, 3, 10)], (6, 9, 24, 1)):
        rules = FormulaRules(target, 20, 10, RULES.operators)
        if not all(formula.count(t) <= hand.count(int(t)) for t in formula if t.isdigit()):
            continue
        rest = complete(rules, hand, formula)
        assert (rest is not None) == exists(rules, read_all(formula), unused(hand, formula), 3)
        assert rest is None or rules.is_won(hand, formula + rest)


def test_completion_keeps_to_the_length_limit():
    rules = FormulaRules(12, 5, 10, ("+", "*"))
    assert complete(rules, (2, 6), ("_", "_")) == ("2", "*", "6")
    assert complete(rules, (2, 6), ("_", "_", "_")) is None
    assert complete(rules, (2, 6), ("+", "_")) == ("2", "*", "6")
    assert complete(rules, (2, 6), ("*",)) is None
    assert complete(rules, (2, 6), ("2", "*", "6")) == ()


@pytest.mark.parametrize("start", ["", "( 3 - 3", "( 3 - 3 )", "5 * ( 3 - 3 )", "6 + ( 3 - 3 ) /"])
def test_completion_uses_a_zero_to_swallow_a_number(start):
    rules, formula = FormulaRules(6, 20, 10, RULES.operators), tuple(start.split())
    rest = complete(rules, (3, 3, 5, 6), formula)
    assert rest is not None and rules.is_won((3, 3, 5, 6), formula + rest)
