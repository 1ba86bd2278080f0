"""What the card games share that ask for a formula, and those among them that write it one token at a time."""

from abc import abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np

from eyas.envs import rendering
from eyas.envs.base import DrawnEnv, check_choice
from eyas.envs.formulas import WIN_REWARD, Formula, FormulaRules
from eyas.types import TaskDescription

FACE_CARDS = {"ten": 10, "rank": 13}  # the largest number that a card can count
COUNTS = {"ten": "A counts 1; J, Q and K count 10.", "rank": "A counts 1; J, Q and K count 11, 12 and 13."}
EMPTY = "empty"  # how an empty formula is written down as a fact


def _write_thought(facts: Mapping[str, str], action_name: str) -> str:
    cards, formula = facts["cards"], facts["current formula"]
    if "plan" in facts:
        return f"The formula is {formula} and can become {facts['plan']}, I choose {action_name}."
    return f"The cards are {cards}, the formula is {formula}, I choose {action_name}."


@lru_cache(maxsize=16)
def describe(text: str, rules: FormulaRules) -> TaskDescription:
    """The description of a formula game with this prompt."""
    return TaskDescription(text, rules.action_names, ("cards", "current formula"), _write_thought)


class CardsEnv(DrawnEnv):
    """Cards on the table: `ranks` (1..13) and `numbers` (what they count), of looks that change nothing in the game."""

    num_cards: int
    rule_choices: tuple[str, ...] = tuple(FACE_CARDS)

    def __init__(
        self,
        mode: str,
        render_mode: str | None,
        jitter: int,
        face_cards: str,
        suits: str,
        require_face: bool,
        background: str,
    ) -> None:
        super().__init__(mode, render_mode, jitter, background)
        check_choice("face_cards", face_cards, self.rule_choices)
        check_choice("suits", suits, tuple(rendering.SUIT_SETS))
        check_choice("require_face", require_face, (False, True))
        self.face_cards, self.suits, self.require_face = face_cards, suits, require_face

    @abstractmethod
    def _deal_ranks(self) -> tuple[int, ...]:
        """Draws the ranks 1..13 of an episode's cards."""

    def count(self, rank: int) -> int:
        """What a card of this rank counts."""
        return min(rank, FACE_CARDS[self.face_cards])

    def _deal(self) -> None:
        self.ranks = self._deal_ranks()
        self.numbers = tuple(self.count(rank) for rank in self.ranks)
        self.is_won = False

    def _deal_looks(self) -> None:
        names = rendering.SUIT_SETS[self.suits]
        drawn = self.np_random.random(self.num_cards)
        self._cards = [(rank, names[int(u * len(names))]) for rank, u in zip(self.ranks, drawn, strict=True)]
        super()._deal_looks()

    def _outcome(self) -> dict[str, Any]:
        return {"success": self.is_won, "progress": float(self.is_won)}

    @property
    def card_names(self) -> str:
        """The ranks as printed, e.g. "2, K"."""
        return ", ".join(rendering.RANKS[rank] for rank in self.ranks)


class PointsEnv(CardsEnv):
    """A game in which a formula is written token by token: `rules`, and `formula` (the tokens so far)."""

    rules: FormulaRules

    def __init__(
        self,
        mode: str,
        render_mode: str | None,
        jitter: int,
        face_cards: str,
        suits: str,
        require_face: bool,
        background: str,
    ) -> None:
        super().__init__(mode, render_mode, jitter, face_cards, suits, require_face, background)
        self.rules = self._make_rules(FACE_CARDS[face_cards])
        self.action_space = gym.spaces.Discrete(len(self.rules.action_names))

    @staticmethod
    @abstractmethod
    def _make_rules(max_number: int) -> FormulaRules:
        """The rules when a card counts at most `max_number`."""

    def _deal(self) -> None:
        super()._deal()
        self.formula: Formula = ()

    def _play(self, action: int) -> tuple[float, bool, bool]:
        token = self.rules.action_names[action]
        self.formula, reward, terminated = self.rules.play(self.numbers, self.formula, token)
        self.is_won = reward == WIN_REWARD
        return reward, terminated, False

    @property
    def facts(self) -> dict[str, str]:
        return {"cards": self.card_names, "current formula": "".join(self.formula) or EMPTY}

    def _formula_sentence(self) -> str:
        return f"The current formula is '{''.join(self.formula)}'." if self.formula else "The current formula is empty."

    def _info(self) -> dict[str, Any]:
        sentence = {"observation_text": self._formula_sentence()} if self.mode == "image" else {}
        return super()._info() | sentence

    def _words(self) -> str:
        return f"The cards are {self.card_names}. {self._formula_sentence()}"

    def _draw(self) -> np.ndarray:
        return rendering.draw_formula_table(self._cards, "".join(self.formula), self.background)
