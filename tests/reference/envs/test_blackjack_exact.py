"""Blackjack against exact recursion over the infinite deck, and against Gymnasium's own environment."""

from copy import deepcopy
from functools import cache

import gymnasium as gym
import numpy as np
import pytest

from eyas.envs.blackjack import HIT, STAND, BlackjackEnv, hand_sum
from eyas.envs.experts import expert_for, stands

DECK = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10]
HAND = tuple[int, bool]  # sum with aces as 1, whether there is an ace


def add(hand: HAND, card: int) -> HAND:
    return hand[0] + card, hand[1] or card == 1


def best_sum(hand: HAND) -> int:
    return hand[0] + 10 if hand[1] and hand[0] <= 11 else hand[0]


@cache
def dealer_sums(hand: HAND) -> dict[int, float]:
    """Probability of each final sum of the dealer; 0 stands for more than 21."""
    if best_sum(hand) >= 17:
        return {best_sum(hand) if best_sum(hand) <= 21 else 0: 1.0}
    total: dict[int, float] = {}
    for card in DECK:
        for final, p in dealer_sums(add(hand, card)).items():
            total[final] = total.get(final, 0.0) + p / 13
    return total


@cache
def stand_value(player_sum: int, dealer: int, only_wins: bool) -> float:
    value = 0.0
    for final, p in dealer_sums((dealer, dealer == 1)).items():
        value += p * (player_sum > final) - (0 if only_wins else p * (player_sum < final))
    return value


def values(hand: HAND, dealer: int, policy: str, only_wins: bool) -> dict[int, float]:
    stand = stand_value(best_sum(hand), dealer, only_wins)
    hit = sum(value(add(hand, card), dealer, policy, only_wins) for card in DECK) / 13
    return {STAND: stand, HIT: hit}


@cache
def value(hand: HAND, dealer: int, policy: str, only_wins: bool) -> float:
    """Mean return (or share of wins) of a policy from a hand, before its next action."""
    if hand[0] > 21:
        return 0.0 if only_wins else -1.0
    q = values(hand, dealer, policy, only_wins)
    usable = hand[1] and hand[0] <= 11
    weights = {
        "random": {STAND: 0.5, HIT: 0.5},
        "stand": {STAND: 1.0},
        "best": {max(q, key=q.__getitem__): 1.0},
        "expert": {STAND if stands(best_sum(hand), dealer, usable) else HIT: 1.0},
    }[policy]
    return sum(w * q[action] for action, w in weights.items())


def overall(policy: str, only_wins: bool) -> float:
    total = 0.0
    for dealer in DECK:
        for first in DECK:
            for second in DECK:
                total += value((first + second, 1 in (first, second)), dealer, policy, only_wins)
    return total / 13**3


@pytest.mark.parametrize(("policy", "wins"), [("random", 0.281), ("stand", 0.381), ("best", 0.432), ("expert", 0.429)])
def test_win_rates(policy, wins):
    assert overall(policy, only_wins=True) == pytest.approx(wins, abs=5e-4)


def test_basic_strategy_has_the_best_return():
    assert overall("expert", only_wins=False) == pytest.approx(-0.047, abs=5e-4)
    assert overall("expert", only_wins=False) == pytest.approx(overall("best", only_wins=False), abs=1e-12)


def value_of_hand(ranks: list[int]) -> list[int]:
    return [min(rank, 10) for rank in ranks]


def test_plays_exactly_like_gymnasium():
    ours, theirs, rng = (
        BlackjackEnv(mode="text"),
        gym.make("Blackjack-v1", natural=False, sab=False).unwrapped,
        np.random.default_rng(0),
    )
    for seed in range(2000):
        ours.reset(seed=seed)
        theirs.reset(seed=seed)
        assert (theirs.dealer, theirs.player) == (value_of_hand(ours.dealer), value_of_hand(ours.player))
        theirs.np_random = deepcopy(ours.np_random)  # Gymnasium has drawn the looks of its cards from the game's stream
        terminated = False
        while not terminated:
            action = int(rng.integers(2))
            _, reward, terminated, truncated, info = ours.step(action)
            expected = theirs.step(action)
            assert (reward, terminated, truncated) == expected[1:4]
            assert hand_sum(ours.player) == expected[0][0]
            assert info["facts"]["usable ace"] == ("yes" if expected[0][2] else "no")


@pytest.mark.parametrize(("policy", "wins"), [("random", 0.281), ("stand", 0.381), ("expert", 0.429)])
def test_simulation_agrees(policy, wins):
    env, rng, n, won = BlackjackEnv(mode="text"), np.random.default_rng(1), 8000, 0
    env.reset(seed=0)
    expert = expert_for(env)
    for _ in range(n):
        env.reset()
        terminated = False
        while not terminated:
            action = {"random": int(rng.integers(2)), "stand": STAND, "expert": expert(env).action}[policy]
            terminated, info = env.step(action)[2::2]
        won += info["success"]
    assert abs(won / n - wins) < 4 * (wins * (1 - wins) / n) ** 0.5
