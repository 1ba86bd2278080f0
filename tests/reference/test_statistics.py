"""Intervals against published numbers and closed forms."""

import math

import numpy as np
import pytest

from eyas.evaluation.statistics import (
    bootstrap_interval,
    student_t_interval,
    student_t_quantile,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "n", "expected"),
    [
        (8, 10, (0.4902, 0.9433)),
        (81, 263, (0.2553, 0.3662)),  # Newcombe 1998, table I, method 3
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_published(successes: int, n: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(successes, n) == pytest.approx(expected, abs=6e-5)


def test_wilson_ends_and_symmetry() -> None:
    assert wilson_interval(0, 7)[0] == 0.0
    assert wilson_interval(7, 7)[1] == 1.0
    low, high = wilson_interval(3, 11)
    assert wilson_interval(8, 11) == pytest.approx((1 - high, 1 - low))
    assert wilson_interval(0, 0) is None


def test_wilson_solves_its_equation() -> None:
    """The bounds are where |p̂ - p| = z √(p(1-p)/n)."""
    for bound in wilson_interval(13, 40, confidence=0.9):
        assert abs(13 / 40 - bound) == pytest.approx(1.6448536269514722 * math.sqrt(bound * (1 - bound) / 40))


@pytest.mark.parametrize(("successes", "n"), [(-1, 4), (5, 4)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        wilson_interval(successes, n)


@pytest.mark.parametrize(
    ("df", "confidence", "expected"),
    [  # tables of Student's t, two-sided
        (1, 0.95, 12.706),
        (2, 0.95, 4.303),
        (3, 0.95, 3.182),
        (4, 0.95, 2.776),
        (5, 0.95, 2.571),
        (9, 0.95, 2.262),
        (30, 0.95, 2.042),
        (120, 0.95, 1.980),
        (1, 0.99, 63.657),
        (2, 0.99, 9.925),
        (7, 0.90, 1.895),
        (100_000, 0.95, 1.960),
    ],
)
def test_t_quantiles(df: int, confidence: float, expected: float) -> None:
    assert student_t_quantile(confidence, df) == pytest.approx(expected, abs=6e-4)


def test_t_quantile_closed_forms() -> None:
    for confidence in (0.5, 0.95, 0.999):
        assert student_t_quantile(confidence, 1) == pytest.approx(math.tan(math.pi * confidence / 2))
        assert student_t_quantile(confidence, 2) == pytest.approx(confidence * math.sqrt(2 / (1 - confidence**2)))


def test_t_interval_by_hand() -> None:
    # mean 2, s = 1, t(2) = 4.302653, so the half width is 4.302653 / √3
    assert student_t_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)


def test_too_little_data_is_unknown() -> None:
    for interval in (student_t_interval, bootstrap_interval):
        assert interval([]) is None
        assert interval([0.7]) is None


def test_bootstrap_of_a_known_distribution() -> None:
    """For 0 and 1 in equal number the resampled mean is Binomial(n, 1/2) / n."""
    values = [0.0, 1.0] * 50
    assert bootstrap_interval(values) == pytest.approx((0.40, 0.60), abs=0.011)
    assert bootstrap_interval(values, confidence=0.5) == pytest.approx((0.47, 0.53), abs=0.011)
    assert bootstrap_interval([3.0, 3.0, 3.0]) == (3.0, 3.0)


def test_bootstrap_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.exponential(size=60), confidence=0.8, resamples=400)
        hits += low <= 1.0 <= high
    assert 0.72 < hits / 300 < 0.86


def test_bootstrap_depends_on_its_seed_alone() -> None:
    values = np.random.default_rng(1).normal(size=30)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_bootstrap_of_much_data_in_pieces() -> None:
    values = np.random.default_rng(1).normal(size=70_000)
    low, high = bootstrap_interval(values, resamples=50)
    assert low < values.mean() < high < low + 6 / math.sqrt(70_000)


def test_what_is_no_number_is_refused() -> None:
    for interval in (student_t_interval, bootstrap_interval):
        with pytest.raises(ValueError, match="finite"):
            interval([1.0, float("nan"), 2.0])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_is_a_probability(confidence: float) -> None:
    for make in (
        lambda c: wilson_interval(1, 2, c),
        lambda c: student_t_interval([1, 2], c),
        lambda c: bootstrap_interval([1, 2], c),
    ):
        with pytest.raises(ValueError, match="confidence"):
            make(confidence)
