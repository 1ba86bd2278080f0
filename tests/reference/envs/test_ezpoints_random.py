"""EZPoints under the random policy, exactly: success 0.0636 %, mean return -4.1845, 5.577 steps."""

from collections import Counter
from fractions import Fraction
from functools import cache

import numpy as np
import pytest

from eyas.envs.ezpoints import EZPointsEnv
from eyas.envs.formulas import WIN_REWARD

RULES = EZPointsEnv(mode="text").rules


def hand_distribution() -> dict[tuple[int, int], Fraction]:
    """The deal as the page states it, worked out by hand; the order of two cards changes nothing here."""
    hands: dict[tuple[int, int], Fraction] = {}
    for rank in range(2, 14):
        number = min(rank, 10)
        seconds = [12 - number, 12 // number] if number in (2, 3, 4, 6) else [12 - number]
        for second in seconds:
            hand = (min(number, second), max(number, second))
            hands[hand] = hands.get(hand, Fraction(0)) + Fraction(1, 12 * len(seconds))
    return hands


@cache
def random_policy(numbers: tuple[int, int], formula: tuple[str, ...]) -> tuple[Fraction, Fraction, Fraction]:
    """(success, return, steps) from here on, through the environment's own transition."""
    names = RULES.action_names
    success = total = steps = Fraction(0)
    for token in names:
        following, reward, terminated = RULES.play(numbers, formula, token)
        rest = (Fraction(0),) * 3 if terminated else random_policy(numbers, following)
        success += rest[0] + (reward == WIN_REWARD)
        total += rest[1] + Fraction(reward)
        steps += rest[2] + 1
    return success / len(names), total / len(names), steps / len(names)


@cache
def expected() -> tuple[float, float, float]:
    hands = hand_distribution()
    assert sum(hands.values()) == 1
    sums = [sum(p * random_policy(hand, ())[i] for hand, p in hands.items()) for i in range(3)]
    return float(sums[0]), float(sums[1]), float(sums[2])


def test_exact_values():
    success, total, steps = expected()
    assert success == pytest.approx(0.000636, abs=5e-7)
    assert total == pytest.approx(-4.1845, abs=5e-5)
    assert steps == pytest.approx(13 * (1 - (12 / 13) ** 7), abs=1e-12)


def test_simulation_agrees():
    env, rng, n = EZPointsEnv(mode="text"), np.random.default_rng(0), 20_000
    returns, lengths, wins = np.zeros(n), np.zeros(n), 0
    env.reset(seed=0)
    for i in range(n):
        env.reset()
        terminated = False
        while not terminated:
            _, reward, terminated, _, info = env.step(int(rng.integers(13)))
            returns[i] += reward
            lengths[i] += 1
        wins += info["success"]
    success, total, steps = expected()
    assert abs(returns.mean() - total) < 4 * returns.std() / n**0.5
    assert abs(lengths.mean() - steps) < 4 * lengths.std() / n**0.5
    assert abs(wins / n - success) < 4 * (success / n) ** 0.5


def share_of_hands(env: EZPointsEnv, n: int) -> dict[tuple[int, ...], float]:
    env.reset(seed=1)
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(n):
        env.reset()
        counts[tuple(sorted(env.numbers))] += 1
    return {hand: count / n for hand, count in counts.items()}


def test_dealt_hands_follow_the_page():
    shares, hands, n = share_of_hands(EZPointsEnv(mode="text"), 12_000), hand_distribution(), 12_000
    assert shares.keys() == hands.keys()
    for hand, p in hands.items():
        assert abs(shares[hand] - p) < 4 * (float(p) / n) ** 0.5


def test_dealt_hands_of_the_rank_variant():
    shares = share_of_hands(EZPointsEnv(mode="text", face_cards="rank"), 4000)
    assert shares[1, 12] == pytest.approx(1 / 11, abs=0.02)
    assert shares[1, 11] == pytest.approx(1 / 11, abs=0.02)
    assert all(sum(hand) == 12 or hand[0] * hand[1] == 12 for hand in shares)
