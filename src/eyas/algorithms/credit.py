"""Advantage estimators: pure functions on NumPy arrays."""

import numpy as np


def gae(
    rewards: np.ndarray, values: np.ndarray, next_value: float, gamma: float, lam: float
) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantage estimation over the steps of one trajectory (Schulman et al. 2016, eq. 16).

    rewards, values float (S,); next_value is V of the observation after the last step: 0 where the episode
    terminated, the critic's value where it was truncated or cut. gamma and lam in [0, 1].
    Returns advantages and value targets (advantage + value), each float64 (S,).
    """
    rewards, values = np.asarray(rewards, dtype=np.float64), np.asarray(values, dtype=np.float64)
    deltas = rewards + gamma * np.append(values[1:], next_value) - values
    advantages = np.zeros_like(deltas)
    running = 0.0
    for i in reversed(range(len(deltas))):
        running = deltas[i] + gamma * lam * running
        advantages[i] = running
    return advantages, advantages + values


def normalised(advantages: np.ndarray, epsilon: float = 1e-8) -> np.ndarray:
    """Zero mean and unit standard deviation (n - 1); fewer than two, or all equal, become zeros."""
    advantages = np.asarray(advantages, dtype=np.float64)
    centred = advantages - advantages.mean() if len(advantages) else advantages
    if len(advantages) < 2:
        return centred
    return centred / (advantages.std(ddof=1) + epsilon)
