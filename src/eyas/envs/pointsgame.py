"""What the card games share that ask for a formula, and those among them that write it one token at a time."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from eyas.envs import rendering
from eyas.envs.base import DrawnEnv, check_choice
from eyas.envs.formulas import WIN_REWARD, Formula, FormulaRules, is_solvable
from eyas.types import TaskDescription

FACE_CARDS = {"ten": 10, "rank": 13}  # the largest number that a card can count
COUNTS = {"ten": "J, Q and K count 10.", "rank": "J, Q and K count 11, 12 and 13."}
EMPTY = "empty"  # how an empty formula is written down as a fact


def _write_thought(facts: Mapping[str, str], action_name: str) -> str:
    cards, formula = facts["cards"], facts["current formula"]
    if "plan" in facts:
        return f"The formula is {formula} and can become {facts['plan']}, I choose {action_name}."
    return f"The cards are {cards}, the formula is {formula}, I choose {action_name}."


class CardsEnv(DrawnEnv):
    """Cards on the table: `ranks` (1..13) and `numbers` (what they count), of looks that change nothing in the game."""

    num_cards: int
    target: int
    solvable_only = False
    rule_choices: tuple[str, ...] = tuple(FACE_CARDS)
    formula: Formula = ()  # as far as it is shown

    def __init__(self, face_cards: str = "ten", suits: str = "all", require_face: bool = False, **looks: Any) -> None:
        super().__init__(**looks)
        check_choice("face_cards", face_cards, self.rule_choices)
        check_choice("suits", suits, tuple(rendering.SUIT_SETS))
        check_choice("require_face", require_face, (False, True))
        self.rule, self.suits, self.require_face = face_cards, suits, require_face

    def count(self, rank: int) -> int:
        """What a card of this rank counts."""
        return min(rank, FACE_CARDS[self.rule])

    def _deal_ranks(self) -> tuple[int, ...]:
        """Draws the ranks 1..13 of an episode's cards: uniform, all of them again until they are wanted."""
        while True:
            ranks = tuple(int(rank) for rank in self.np_random.integers(1, 14, size=self.num_cards))
            has_face = not self.require_face or max(ranks) > 10
            if has_face and (not self.solvable_only or is_solvable(map(self.count, ranks), self.target)):
                return ranks

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

    @abstractmethod
    def _sentence(self) -> str:
        """What is to be known beside the cards."""

    def _info(self) -> dict[str, Any]:
        return super()._info() | ({"observation_text": self._sentence()} if self.mode == "image" else {})

    def _words(self) -> str:
        return f"The cards are {self.card_names}. {self._sentence()}"

    def _draw(self) -> np.ndarray:
        return rendering.draw_formula_table(self._cards, "".join(self.formula), self.background)


class PointsEnv(CardsEnv):
    """
    A game in which a formula is written token by token: `rules`, and `formula` (the tokens so far).

    ## Action Space
    `Discrete`: the numbers from 1 on, then the operators, and "=" at last. With `face_cards="rank"` the numbers go on to 13.

    `info["legal_actions"]` is always all of them: a number that no unused card has is a bad move of the game (-1), not an
    impossible one, and operators are never checked. A random legal action is therefore the original's random policy.

    ## Observation Space
    `mode="image"`: `Box(0, 255, (300, 300, 3), uint8)`, the cards above and the formula below. `mode="text"`:
    `Text(1, 100)`, the same in words.

    ## Rewards
    - +10: "=" after a formula that equals the target (exactly, with fractions) and uses all cards
    - -1: "=" after any other formula; no formula at all, or a division by zero, is a wrong one. Two numbers in a row are not
      joined, and ** and // are not known (the original evaluates the text as Python)
    - -1: a number that no unused card has; one blank, shown as "_", is appended to the formula and means nothing
    - -1: any step when the formula is longer than `limit` tokens
    - 0 otherwise

    ## Episode End
    1. Termination: "=".
    2. Termination: a step when the formula is longer than `limit` tokens. The limit is punished and visible, so it belongs to
       the task.

    The environment never truncates.

    ## Information
    `facts` ("cards": the ranks as printed, e.g. "2, K"; "current formula": the text so far, or "empty"), `legal_actions`, and
    in image mode `observation_text` (the formula as a sentence, for the prompt) at every step. At the end `success` (+10
    was earned) and `progress` (1 or 0).

    ## Arguments
    - `face_cards` ("ten"): "ten": J, Q, K count 10; "rank": 11, 12, 13
    - `suits` ("all"): "all", "black" or "red"; a look too
    - `require_face` (False): deal at least one face card
    - `mode`, `render_mode`, `jitter`, `background`: see `DrawnEnv`
    """

    task: str  # the prompt without what cards count
    limit: int  # of tokens
    operators: tuple[str, ...]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.rules = FormulaRules(self.target, self.limit, FACE_CARDS[self.rule], self.operators)
        names = self.rules.action_names
        text = f"{self.task} A counts 1; {COUNTS[self.rule]}"
        self.description = TaskDescription(text, names, ("cards", "current formula"), _write_thought)
        self.action_space = gym.spaces.Discrete(len(names))

    def _deal(self) -> None:
        super()._deal()
        self.formula = ()

    def _play(self, action: int) -> tuple[float, bool, bool]:
        token = self.rules.action_names[action]
        self.formula, reward, terminated = self.rules.play(self.numbers, self.formula, token)
        self.is_won = reward == WIN_REWARD
        return reward, terminated, False

    @property
    def facts(self) -> dict[str, str]:
        return {"cards": self.card_names, "current formula": "".join(self.formula) or EMPTY}

    def _sentence(self) -> str:
        return f"The current formula is '{''.join(self.formula)}'." if self.formula else "The current formula is empty."
