"""Advantage estimators: pure functions on NumPy arrays, and the registry that recipes choose from."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from eyas.algorithms.options import AlgorithmOptions

# ----------------------------------------------------------------------------------------------- pure functions


def gae(
    rewards: np.ndarray, values: np.ndarray, next_value: float, gamma: float | np.ndarray, lam: float
) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantage estimation over the steps of one trajectory (Schulman et al. 2016, eq. 16).

    rewards, values float (S,); next_value is V of the observation after the last step: 0 where the episode
    terminated, the critic's value where it was truncated or cut. gamma in [0, 1], one or (S,): what follows each step
    is discounted by; lam in [0, 1]. Returns advantages and value targets (advantage + value), each float64 (S,).
    """
    rewards, values = np.asarray(rewards, dtype=np.float64), np.asarray(values, dtype=np.float64)
    gammas = np.broadcast_to(np.asarray(gamma, dtype=np.float64), rewards.shape)
    deltas = rewards + gammas * np.append(values[1:], next_value)[: len(values)] - values
    advantages = np.zeros_like(deltas)
    running = 0.0
    for i in reversed(range(len(deltas))):
        running = deltas[i] + gammas[i] * lam * running
        advantages[i] = running
    return advantages, advantages + values


def token_gammas(lengths: np.ndarray, gamma: float, gamma_token: float) -> np.ndarray:
    """float64 (N,): gamma behind the last element of each step, gamma_token between those inside one."""
    gammas = np.full(int(np.sum(lengths)), gamma_token, dtype=np.float64)
    gammas[_ends(lengths)] = gamma
    return gammas


def bilevel_gae(
    rewards: np.ndarray,
    values: np.ndarray,
    next_value: float,
    lengths: np.ndarray,
    gamma: float,
    gamma_token: float,
    lam: float,
) -> tuple[np.ndarray, np.ndarray]:
    """GAE over steps, then over the tokens of each step (Wang et al. 2025, VAGEN).

    rewards, values float (N,) of the elements; lengths int (S,) of the steps, whose value is that of their last element.
    A step's advantage plus value becomes the reward of its last element, and token GAE begins anew in each step.
    Returns advantages and value targets, each float64 (N,).
    """
    rewards, values, ends = np.array(rewards, dtype=np.float64), np.asarray(values), _ends(lengths)
    _, rewards[ends] = gae(rewards[ends], values[ends], next_value, gamma, lam)
    return gae(rewards, values, 0.0, token_gammas(lengths, 0.0, gamma_token), lam)


def returns_to_go(rewards: np.ndarray, gamma: float | np.ndarray) -> np.ndarray:
    """Discounted sum of the rewards from each step on: (S,) -> float64 (S,)."""
    return gae(rewards, np.zeros(len(rewards)), 0.0, gamma, 1.0)[0]


def group_relative(
    returns: np.ndarray, groups: Sequence[Hashable], is_std_scaled: bool, epsilon: float = 1e-4
) -> np.ndarray:
    """Return minus the mean of its group, over the standard deviation (n - 1) plus epsilon (Shao et al. 2024).

    Without the scaling, Dr. GRPO's (Liu et al. 2025). A group of one, and one whose returns are equal, gets 0.
    returns float (n,), groups (n,) -> float64 (n,).
    """
    centred, counts, owners = _centred(returns, groups)
    if not is_std_scaled:
        return centred
    variances = np.bincount(owners, centred**2) / np.maximum(counts - 1, 1)
    return centred / (np.sqrt(variances)[owners] + epsilon)


def leave_one_out(returns: np.ndarray, groups: Sequence[Hashable]) -> np.ndarray:
    """Return minus the mean of the others of its group (Ahmadian et al. 2024); 0 in a group of one."""
    centred, counts, owners = _centred(returns, groups)
    return centred * (counts / np.maximum(counts - 1, 1))[owners]


def normalised(advantages: np.ndarray, epsilon: float = 1e-8) -> np.ndarray:
    """Zero mean and unit standard deviation (n - 1); fewer than two, or all equal, become zeros."""
    advantages = np.asarray(advantages, dtype=np.float64)
    centred = advantages - advantages.mean() if len(advantages) else advantages
    if len(advantages) < 2:
        return centred
    return centred / (advantages.std(ddof=1) + epsilon)


def has_variance(returns: Sequence[float]) -> bool:
    """Whether the episodes of a group differ in what they earned: a group where none does teaches nothing."""
    return len(returns) > 1 and max(returns) - min(returns) > 1e-8


def explained_variance(values: np.ndarray, targets: np.ndarray) -> float:
    """1 - Var(target - value) / Var(target): 1 for a perfect critic, 0 for a constant one; NaN where targets are equal."""
    variance = np.var(targets) if len(targets) else 0.0
    return float(1 - np.var(targets - values) / variance) if variance > 0 else float("nan")


def _ends(lengths: np.ndarray) -> np.ndarray:
    return np.cumsum(lengths) - 1


def _centred(returns: np.ndarray, groups: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns less their group's mean, the size of each group, and the index of each one's group."""
    numbers: dict[Hashable, int] = {}
    owners = np.array([numbers.setdefault(g, len(numbers)) for g in groups], dtype=np.int64)
    returns, counts = np.asarray(returns, dtype=np.float64), np.bincount(owners)
    return returns - (np.bincount(owners, returns) / np.maximum(counts, 1))[owners], counts, owners


# ----------------------------------------------------------------------------------------------- the registry


@dataclass(slots=True)
class Episode:
    """What estimators know of a trajectory of S steps, which have N elements (tokens, scored actions) in all."""

    lengths: np.ndarray  # int (S,): elements of each step
    rewards: np.ndarray  # float64 (S,)
    penalties: np.ndarray  # float64 (N,): what each element costs beside them
    values: np.ndarray  # float64 (S,), zeros without a critic
    element_values: np.ndarray  # float64 (N,), zeros without a critic of tokens
    next_value: float  # after the last step: 0 where the episode truly ended
    group: Hashable
    anchors: tuple[Hashable, ...]  # S: what identifies each step's observation

    @property
    def step_rewards(self) -> np.ndarray:
        """float64 (S,): each step's reward less what its elements cost."""
        owners = np.repeat(np.arange(len(self.lengths)), self.lengths)
        return self.rewards - np.bincount(owners, self.penalties, minlength=len(self.lengths))

    @property
    def element_rewards(self) -> np.ndarray:
        """float64 (N,): a step's reward is its last element's."""
        rewards = -self.penalties
        np.add.at(rewards, _ends(self.lengths), self.rewards)
        return rewards


Estimates = list[tuple[np.ndarray, np.ndarray]]  # of each episode: advantages and value targets, (S,) or (N,)


def _gae(episodes: Sequence[Episode], options: AlgorithmOptions) -> Estimates:
    return [gae(e.step_rewards, e.values, e.next_value, options.gamma, options.gae_lambda) for e in episodes]


def _token_gae(episodes: Sequence[Episode], options: AlgorithmOptions) -> Estimates:
    """Observation tokens are no elements, so the advantage carries over them."""
    return [
        gae(
            e.element_rewards,
            e.element_values,
            e.next_value,
            token_gammas(e.lengths, options.gamma, options.gamma_token),
            options.gae_lambda,
        )
        for e in episodes
    ]


def _bilevel_gae(episodes: Sequence[Episode], options: AlgorithmOptions) -> Estimates:
    gammas = options.gamma, options.gamma_token
    return [
        bilevel_gae(e.element_rewards, e.element_values, e.next_value, e.lengths, *gammas, options.gae_lambda)
        for e in episodes
    ]


def _monte_carlo(episodes: Sequence[Episode], options: AlgorithmOptions) -> Estimates:
    return _twice([returns_to_go(e.step_rewards, options.gamma) for e in episodes])


def _reinforce_pp(episodes: Sequence[Episode], options: AlgorithmOptions) -> Estimates:
    gammas = [token_gammas(e.lengths, options.gamma, options.gamma_token) for e in episodes]
    return _twice([returns_to_go(e.element_rewards, g) for e, g in zip(episodes, gammas, strict=True)])


def _group_relative(episodes: Sequence[Episode], options: AlgorithmOptions) -> Estimates:
    advantages = group_relative(_returns(episodes), [e.group for e in episodes], options.is_std_scaled)
    return _twice([np.full(len(e.lengths), a) for e, a in zip(episodes, advantages, strict=True)])


def _leave_one_out(episodes: Sequence[Episode], options: AlgorithmOptions) -> Estimates:
    advantages = leave_one_out(_returns(episodes), [e.group for e in episodes])
    return _twice([np.full(len(e.lengths), a) for e, a in zip(episodes, advantages, strict=True)])


def _gigpo(episodes: Sequence[Episode], options: AlgorithmOptions) -> Estimates:
    """A = A_episode + omega * A_step, the latter among equal observations of a group (Feng et al. 2025)."""
    to_go = [returns_to_go(e.step_rewards, options.gamma) for e in episodes]
    anchors = [(e.group, anchor) for e in episodes for anchor in e.anchors]
    of_steps = group_relative(np.concatenate(to_go), anchors, options.is_std_scaled) if to_go else np.zeros(0)
    parts = np.split(of_steps, np.cumsum([len(t) for t in to_go])[:-1])
    of_episodes = _group_relative(episodes, options)
    return _twice([a + options.omega * part for (a, _), part in zip(of_episodes, parts, strict=False)])


def _returns(episodes: Sequence[Episode]) -> np.ndarray:
    return np.array([e.step_rewards.sum() for e in episodes])


def _twice(advantages: list[np.ndarray]) -> Estimates:
    """Without a critic there are no targets: the advantages stand in their place, and nobody reads them."""
    return [(a, a) for a in advantages]


ESTIMATORS: dict[str, Callable[[Sequence[Episode], AlgorithmOptions], Estimates]] = {
    "gae": _gae,
    "token_gae": _token_gae,
    "bilevel_gae": _bilevel_gae,
    "monte_carlo": _monte_carlo,
    "group_relative": _group_relative,
    "leave_one_out": _leave_one_out,
    "reinforce_pp": _reinforce_pp,
    "gigpo": _gigpo,
}
