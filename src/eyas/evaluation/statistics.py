"""Intervals: Wilson for a share within a run, bootstrap for a mean within a run, Student's t over seeds.

Where the data is too little to say anything, the interval is None: unknown, never a point.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from eyas.seeding import generator

Interval = tuple[float, float]

_CHUNK = 2**20  # resampled values held at once


def mean_or_none(values: Iterable[float | bool]) -> float | None:
    """The mean; None, that is unknown, of nothing."""
    values = list(values)
    return float(np.mean(values)) if values else None


def thinned(things: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, at even distances, the first and the last among them."""
    return [things[i] for i in np.unique(np.linspace(0, len(things) - 1, min(most, len(things))).round().astype(int))]


def entropy_or_none(logprobs: Sequence[np.ndarray]) -> float | None:
    """Entropy in nats an element, estimated as the mean negative log-prob of what was sampled; None of nothing."""
    sampled = np.concatenate(logprobs) if logprobs else np.zeros(0)
    return float(-sampled.mean()) if len(sampled) else None


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval | None:
    """The score interval of a share of `successes` in `n` (Wilson 1927; Brown, Cai and DasGupta 2001, eq. 4).

    None for n = 0. Raises `ValueError` for counts that cannot be.
    """
    _check_confidence(confidence)
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} cannot be")
    if n == 0:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # At the ends the bound is exact; rounding would put it a hair inside.
    return (0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half)


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, seed: int = 0, resamples: int = 10_000
) -> Interval | None:
    """The percentile bootstrap interval of the mean (Efron and Tibshirani 1993, ch. 13). None for fewer than 2 values."""
    _check_confidence(confidence)
    data = _finite(values)
    if len(data) < 2:
        return None
    rng = generator("bootstrap", seed)
    means = np.empty(resamples)
    rows = max(1, _CHUNK // len(data))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        means[start : start + count] = data[rng.integers(len(data), size=(count, len(data)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def student_t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """mean ± t · s / √n, with s the sample deviation (n - 1): for results over seeds. None for fewer than 2 values."""
    _check_confidence(confidence)
    data = _finite(values)
    if len(data) < 2:
        return None
    half = student_t_quantile(confidence, len(data) - 1) * float(data.std(ddof=1)) / math.sqrt(len(data))
    mean = float(data.mean())
    return mean - half, mean + half


def student_t_quantile(confidence: float, df: int) -> float:
    """The t with P(|T| < t) = `confidence` for `df` degrees of freedom."""
    _check_confidence(confidence)
    low, high = 0.0, math.pi / 2
    for _ in range(80):  # halves an angle of at most π/2 down to the last bit
        middle = (low + high) / 2
        low, high = (middle, high) if _t_probability(middle, df) < confidence else (low, middle)
    return math.tan((low + high) / 2) * math.sqrt(df)


def _t_probability(angle: float, df: int) -> float:
    """P(|T| < √df · tan angle), exact for whole df (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    if df < 1:
        raise ValueError(f"df is at least 1, not {df}")
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = bool(df % 2)
    term, total = (cosine if is_odd else 1.0), 0.0
    for k in range(df // 2):
        total += term
        term *= cosine**2 * ((2 * k + 2) / (2 * k + 3) if is_odd else (2 * k + 1) / (2 * k + 2))
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total


def _finite(values: Sequence[float]) -> np.ndarray:
    data = np.asarray(values, dtype=np.float64)
    if not np.isfinite(data).all():
        raise ValueError("values must be finite numbers")
    return data


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence lies between 0 and 1, not {confidence}")
