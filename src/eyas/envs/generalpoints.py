"""`eyas/GeneralPoints-v0`: make 24 from the cards with one whole formula, and mend it after what a verifier says."""

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Any, Literal

import gymnasium as gym

from eyas.envs import rendering
from eyas.envs.base import check_choice, check_range
from eyas.envs.formulas import FormulaRules, complete, evaluate, is_solvable
from eyas.envs.pointsgame import COUNTS, FACE_CARDS, CardsEnv
from eyas.types import TaskDescription

OPERATORS = ("+", "-", "*", "/", "(", ")")
ANSWER_CHARACTERS = "0123456789AJQK+-*/()=:, "
MAX_ANSWER_LENGTH = 64
UNLIMITED = 10**6  # tokens
EITHER = "either"
Verdict = Literal["right", "wrong_value", "wrong_numbers", "illegal"]
REWARDS: dict[Verdict, float] = {"right": 5.0, "wrong_value": -1.0, "wrong_numbers": -2.0, "illegal": -3.0}
WRONG_CARDS_REWARD, LIMIT_REWARD = -1.5, -1.0

_FORMULA = re.compile(r"([\d+\-*/() ]+)(= *\d+)?")


def _write_thought(facts: Mapping[str, str], action_name: str) -> str:
    return f"The numbers are {facts['number']}, I choose {action_name.rpartition(':')[2].strip()}."


def _tokens(formula: str) -> tuple[str, ...]:
    """The tokens left of "=", which may be left out; none where the text has another form."""
    match = _FORMULA.fullmatch(formula.strip())
    return tuple(re.findall(r"\d+|[^\d ]", match[1])) if match else ()


def judge(formula: str, numbers: tuple[int, ...], target: int) -> Verdict:
    """What the verifier finds: no formula (a division by zero too), each number not used once, another value, or right."""
    tokens = _tokens(formula)
    value = evaluate(tokens)
    if value is None:
        return "illegal"
    if Counter(int(t) for t in tokens if t.isdigit()) != Counter(numbers):
        return "wrong_numbers"
    return "right" if value == target else "wrong_value"


@lru_cache(maxsize=64)
def _has_a_deal(num_cards: int, target: int, rule: str, require_face: bool) -> bool:
    """Whether any hand can be solved, so that redrawing ends."""
    hands = combinations_with_replacement(range(1, 14), num_cards)
    largest = FACE_CARDS[rule]
    return any(
        is_solvable((min(rank, largest) for rank in hand), target)
        for hand in hands
        if not require_face or max(hand) > 10
    )


class GeneralPointsEnv(CardsEnv):
    """
    ## Source
    The rules are those of GeneralPoints in SFTvsRL (Chu et al. 2025, "SFT Memorizes, RL Generalizes: A Comparative Study of
    Foundation Model Post-training"), its language mode (GP-L) and its vision mode (GP-VL). The pictures are our own.

    ## Description
    Cards lie on the table. One action is a whole formula, which wins when it equals 24 and uses each card once. After any
    other the verifier says what was wrong, and the next attempt may mend it.

    ## Action Space
    `Text(1, 64)` over `0123456789AJQK+-*/()=:, `. In text mode a formula, such as "(2+10)*2"; what it equals may follow,
    "(2+10)*2=24", and is not judged. In image mode the cards as they were read stand before it, in any order: "2, K, 2:
    (2+10)*2". Text mode takes that form too, and does not judge those cards.

    Operators are + - * / with the usual precedence, signs and brackets; values are exact fractions.

    ## Observation Space
    `mode="image"`: `Box(0, 255, (300, 300, 3), uint8)`, the cards. `mode="text"`: `Text(1, 200)`, the cards in words, what J, Q
    and K count, and what the verifier said of the attempt before.

    ## Rewards
    Of each of the `num_attempts` attempts:
    - +5: the formula equals the target and uses the number of each card once
    - -1: it uses them, and has another value
    - -2: it does not use the number of each card once
    - -3: it is no formula, or divides by zero
    - -1.5: in image mode, other cards than those on the table stand before it (or none). This is checked first; the
      penalty of the formula is added, and a right formula earns nothing beside wrong cards

    The attempt after the last of them is not graded: -1. (The original's +1 for a formula that begins right is left out.)

    ## Starting State
    Ranks, uniform in A..K with replacement, all drawn again until they can be solved (`solvable_only=True`) and hold a face
    card (`require_face=True`). Suits are uniform and mean nothing.

    A perfect player wins every episode with `solvable_only=True`. Otherwise the share of deals that can be solved is the
    ceiling: four cards and target 24, 73.1 % with `face_cards="ten"`, 79.2 % with `"rank"`; three cards and target 12, 35.6 %
    and 37.2 %.

    ## Episode End
    1. Termination: a right formula with the cards read right.
    2. Termination: the attempt after `num_attempts` failed ones. The limit is punished, so it belongs to the task.

    The environment never truncates.

    ## Information
    `facts` ("cards": the ranks as printed, e.g. "2, K"; "number": what they count, e.g. "2, 10") and in image mode
    `observation_text` (what J, Q and K count, and what the verifier said, for the prompt) at every step. At the end `success`
    (+5 was earned) and `progress` (1 or 0).

    The verifier's word fits a conversation (`history.kind = "conversation"`); it repeats the attempt, so that a prompt
    without the past holds what is needed to mend it.

    ## Arguments
    - `num_cards` (4): 2..4; fewer for a small model
    - `target` (24): 1..1000; what the formula has to equal
    - `num_attempts` (5): 1..100; graded attempts
    - `face_cards` ("ten"): "ten": J, Q, K count 10; "rank": 11, 12, 13; "either": drawn at reset
    - `suits` ("all"): "all", "black" or "red"; a look too
    - `require_face` (False): deal at least one face card
    - `solvable_only` (True): deal only what can be solved
    - `mode`, `render_mode`, `jitter`, `background`: see `DrawnEnv`

    The splits of the paper: in distribution `suits="black"`; another rule `suits="black", face_cards="rank",
    require_face=True`; other looks `suits="red"`.
    """

    max_text_length = 200
    rule_choices = (*FACE_CARDS, EITHER)

    def __init__(
        self,
        num_cards: int = 4,
        target: int = 24,
        num_attempts: int = 5,
        solvable_only: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_range("num_cards", num_cards, 2, 4)
        check_range("target", target, 1, 1000)
        check_range("num_attempts", num_attempts, 1, 100)
        check_choice("solvable_only", solvable_only, (False, True))
        self._rules = tuple(FACE_CARDS) if self.rule == EITHER else (self.rule,)
        if solvable_only and not all(_has_a_deal(num_cards, target, rule, self.require_face) for rule in self._rules):
            raise ValueError(
                f"no {num_cards} cards make target={target}: type a smaller target, or solvable_only=False"
            )
        self.num_cards, self.target, self.num_attempts = num_cards, target, num_attempts
        self.solvable_only = solvable_only
        self.action_space = gym.spaces.Text(MAX_ANSWER_LENGTH, charset=ANSWER_CHARACTERS)

        cards = "" if self.mode == "text" else " Write the cards that you see, a colon, then the formula."
        self.description = TaskDescription(
            f"You play GeneralPoints: write one formula of + - * / and brackets that uses each of the {num_cards} "
            f"cards once and equals {target}. A counts 1.{cards}",
            fact_keys=("cards", "number"),
            write_thought=_write_thought,
        )

    def solution(self) -> str | None:
        """A right formula, always the same for the same cards; None where there is none."""
        rules = FormulaRules(self.target, UNLIMITED, FACE_CARDS[self.rule], OPERATORS)
        tokens = complete(rules, self.numbers, ())
        return None if tokens is None else "".join(tokens)

    def answer(self, formula: str) -> str:
        """The action that submits a formula with the cards read right."""
        return formula if self.mode == "text" else f"{self.card_names}: {formula}"

    @property
    def facts(self) -> dict[str, str]:
        return {"cards": self.card_names, "number": ", ".join(map(str, self.numbers))}

    def _deal(self) -> None:
        is_drawn = len(self._rules) > 1
        self.rule = self._rules[int(self.np_random.integers(2))] if is_drawn else self._rules[0]
        super()._deal()
        self.num_failed = 0
        self._said = ""

    def _checked(self, action: Any) -> str:
        if not self.action_space.contains(action):
            raise ValueError(
                f"action {action!r} is unknown: type 1 to {MAX_ANSWER_LENGTH} characters of {ANSWER_CHARACTERS!r}, "
                f"such as '{self.answer('2+10')}'"
            )
        return str(action)

    def _play(self, action: str) -> tuple[float, bool, bool]:
        if self.num_failed == self.num_attempts:
            return LIMIT_REWARD, True, False
        claim, _, formula = action.rpartition(":")
        is_read = self.mode == "text" or self._are_the_cards(claim)
        verdict = judge(formula, self.numbers, self.target)
        self.is_won = is_read and verdict == "right"
        if self.is_won:
            self._said = ""
            return REWARDS["right"], True, False
        self.num_failed += 1
        self._said = self._word(formula.strip(), verdict, is_read)
        return min(REWARDS[verdict], 0.0) + (0.0 if is_read else WRONG_CARDS_REWARD), False, False

    def _are_the_cards(self, claim: str) -> bool:
        names = sorted(rendering.RANKS[rank] for rank in self.ranks)
        return sorted(name.strip() for name in claim.split(",")) == names

    def _word(self, formula: str, verdict: Verdict, is_read: bool) -> str:
        """What the verifier says of a failed attempt."""
        findings = {
            "right": "has the right value",
            "wrong_value": f"equals {evaluate(_tokens(formula))}, not {self.target}",
            "wrong_numbers": "does not use the number of each card once",
            "illegal": "is no formula",
        }
        cards = "" if is_read else "The cards were not read right. "
        return f"Attempt {self.num_failed} failed. {cards}'{formula}' {findings[verdict]}."

    def _sentence(self) -> str:
        return f"{COUNTS[self.rule]} {self._said}".strip()
