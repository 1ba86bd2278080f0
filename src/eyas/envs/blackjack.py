"""`eyas/Blackjack-v0`: Gymnasium's Blackjack with pictures of the cards."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from eyas.envs import rendering
from eyas.envs.base import DrawnEnv, check_choice
from eyas.types import TaskDescription

STAND, HIT = 0, 1
DEALER_STANDS_ON = 17
MAX_HAND = 24  # 22 cards are the most that a hand can have: 21 aces and one more


def _write_thought(facts: Mapping[str, str], action_name: str) -> str:
    ace = "with" if facts["usable ace"] == "yes" else "without"
    return f"I hold {facts['player sum']} {ace} a usable ace, the dealer shows {facts['dealer card']}, I choose {action_name}."


DESCRIPTION = TaskDescription(
    text=(
        "You play blackjack. You see the dealer's open card first, then your cards. J, Q and K count 10, an ace 1 or 11. "
        "Beat the dealer without going over 21: hit draws a card, stand ends your turn."
    ),
    action_names=("stand", "hit"),
    write_thought=_write_thought,
)


def has_usable_ace(ranks: Sequence[int]) -> bool:
    """Whether an ace can count 11 without going over 21."""
    return 1 in ranks and sum(min(rank, 10) for rank in ranks) + 10 <= 21


def hand_sum(ranks: Sequence[int]) -> int:
    """The sum of a hand, with an ace as 11 where that does not go over 21."""
    return sum(min(rank, 10) for rank in ranks) + 10 * has_usable_ace(ranks)


class BlackjackEnv(DrawnEnv):
    """
    ## Source
    The rules are those of Gymnasium's `Blackjack-v1` (Sutton and Barto, "Reinforcement Learning: An Introduction", example
    5.1) with `natural=False, sab=False`, as RL4VLM plays it; `gym.make("Blackjack-v1")` itself sets `sab=True`. The pictures
    are our own.

    ## Description
    The player draws cards to come closer to 21 than the dealer without going over it. Cards come from an infinite deck. J, Q
    and K count 10; an ace counts 11 unless that goes over 21. After "stand" the dealer draws until the sum is 17 or more
    (also with a usable ace), and the higher sum wins. A blackjack has no special value.

    ## Action Space
    `Discrete(2)`: 0 "stand", 1 "hit". Both are always legal.

    ## Observation Space
    `mode="image"`: `Box(0, 255, (300, 300, 3), uint8)`, the dealer's open card and a back above, the player's cards below;
    at the end the dealer's hand is open. `mode="text"`: `Text(1, 200)`, the same cards in words.

    ## Rewards
    - +1: won
    - 0: a draw, and every hit that does not go over 21
    - -1: lost

    ## Starting State
    Two cards each, ranks uniform in A..K. Suits are uniform and mean nothing.

    ## Episode End
    1. Termination: "stand".
    2. Termination: the player's sum goes over 21.

    The environment never truncates.

    ## Information
    `facts` ("player sum", "dealer card" as printed, "usable ace": "yes" or "no") and `legal_actions` at every step. At the end
    `success` (won) and `progress` (1 won, 0.5 a draw, 0 lost).
    Win rates: random policy 28.1 %, always stand 38.1 %, best return (the expert's) 42.9 % with a mean return of -0.047, most
    wins possible 43.2 %.

    ## Arguments
    - `suits` ("all"): "all", "black" or "red"; a look too
    - `mode`, `render_mode`, `jitter`, `background`: see `DrawnEnv`
    """

    max_text_length = 200
    description = DESCRIPTION

    def __init__(self, suits: str = "all", **looks: Any) -> None:
        super().__init__(**looks)
        check_choice("suits", suits, tuple(rendering.SUIT_SETS))
        self.suits = suits
        self.action_space = gym.spaces.Discrete(2)

    @property
    def facts(self) -> dict[str, str]:
        return {
            "player sum": str(hand_sum(self.player)),
            "dealer card": rendering.RANKS[self.dealer[0]],
            "usable ace": "yes" if has_usable_ace(self.player) else "no",
        }

    def _draw_rank(self) -> int:
        return int(self.np_random.integers(1, 14))

    def _deal(self) -> None:
        self.dealer = [self._draw_rank(), self._draw_rank()]
        self.player = [self._draw_rank(), self._draw_rank()]
        self._result = 0.0

    def _deal_looks(self) -> None:
        # Suits of cards yet to come are drawn now, so that later draws of ranks do not depend on them.
        names = rendering.SUIT_SETS[self.suits]
        drawn = [names[int(u * len(names))] for u in self.np_random.random(2 * MAX_HAND)]
        self._player_suits, self._dealer_suits = drawn[:MAX_HAND], drawn[MAX_HAND:]
        super()._deal_looks()

    def _play(self, action: int) -> tuple[float, bool, bool]:
        if action == HIT:
            self.player.append(self._draw_rank())
            self._result = -1.0 if hand_sum(self.player) > 21 else 0.0
            return self._result, self._result < 0, False
        while hand_sum(self.dealer) < DEALER_STANDS_ON:
            self.dealer.append(self._draw_rank())
        self._result = self._compare()
        return self._result, True, False

    def _compare(self) -> float:
        player, dealer = hand_sum(self.player), hand_sum(self.dealer)
        return 1.0 if dealer > 21 else float(np.sign(player - dealer))

    def _outcome(self) -> dict[str, Any]:
        return {"success": self._result > 0, "progress": (self._result + 1) / 2}

    def _words(self) -> str:
        dealer, player = (", ".join(rendering.RANKS[r] for r in hand) for hand in (self.dealer, self.player))
        if self.is_over:
            return f"The dealer has {dealer}. Your cards are {player}."
        return f"The dealer shows {rendering.RANKS[self.dealer[0]]}. Your cards are {player}."

    def _draw(self) -> np.ndarray:
        dealer = list(zip(self.dealer, self._dealer_suits, strict=False))
        player = list(zip(self.player, self._player_suits, strict=False))
        return rendering.draw_blackjack(dealer, player, self.is_over, self.background)
