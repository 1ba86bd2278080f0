"""NumberLine under the random policy: 28.3 % success, from the environment's own transitions and by simulation."""

from fractions import Fraction
from functools import cache
from itertools import product

import numpy as np
import pytest

from eyas.envs.numberline import NumberLineEnv

ENV = NumberLineEnv(mode="text")


def play(target: int, current: int, num_steps: int, action: int) -> tuple[int, bool, bool]:
    """One transition of the environment itself: the new number, whether the episode has ended, whether it was right."""
    ENV.target, ENV.current, ENV.num_steps, ENV.num_wrong_moves = target, current, num_steps, 0
    _, terminated, truncated = ENV._play(action)
    return ENV.current, terminated or truncated, ENV.num_wrong_moves == 0


@cache
def random_success(target: int, current: int, num_steps: int = 0) -> Fraction:
    total = Fraction(0)
    for action in (0, 1):
        following, is_over, is_right = play(target, current, num_steps, action)
        if is_right:
            total += (following == target) if is_over else random_success(target, following, num_steps + 1)
    return total / 2


def dealt_pairs() -> list[tuple[int, int]]:
    return [
        (target if target != current else (target + 1) % 5, current) for target, current in product(range(6), repeat=2)
    ]


def test_exact_success_of_the_random_policy():
    pairs = dealt_pairs()
    assert float(sum(random_success(*p) for p in pairs) / len(pairs)) == pytest.approx(0.283, abs=5e-4)
    assert np.mean([abs(t - c) for t, c in pairs]) == pytest.approx(2.28, abs=0.005)


def test_other_deals_would_give_other_numbers():
    distinct = [p for p in product(range(6), repeat=2) if p[0] != p[1]]
    mod_six = [(t if t != c else (t + 1) % 6, c) for t, c in product(range(6), repeat=2)]
    assert float(sum(random_success(*p) for p in distinct) / 30) == pytest.approx(0.269, abs=5e-4)
    assert float(sum(random_success(*p) for p in mod_six) / 36) == pytest.approx(0.294, abs=5e-4)


def test_simulation_agrees():
    env, rng, n = NumberLineEnv(mode="text"), np.random.default_rng(0), 20_000
    wins = 0
    env.reset(seed=0)
    for _ in range(n):
        env.reset()
        is_over, total = False, 0.0
        while not is_over:
            _, reward, terminated, truncated, info = env.step(int(rng.integers(2)))
            is_over, total = terminated or truncated, total + reward
        wins += info["success"]
        assert info["success"] == (total > 0)
    assert abs(wins / n - 0.283) < 4 * (0.283 * 0.717 / n) ** 0.5


def test_thirty_decision_pictures():
    env, pictures = NumberLineEnv(), set()
    env.reset(seed=0)
    for env.target, env.current in product(range(6), repeat=2):
        if env.target != env.current:
            pictures.add(env._observation().tobytes())
    assert len(pictures) == 30
