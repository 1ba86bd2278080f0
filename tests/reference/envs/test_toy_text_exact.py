"""Gymnasium's toy games solved exactly: what the best policy earns, from their tables of transitions."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv as GymnasiumLake

from eyas.envs.catalog import CATALOG
from eyas.envs.searching import best_actions

TAXI = next(entry.id for entry in CATALOG if entry.id.startswith("Taxi"))
CLIFF = next(entry.id for entry in CATALOG if entry.id.startswith("CliffWalking"))


def policy_values(table: dict, actions: np.ndarray, num_steps: int) -> np.ndarray:
    """Undiscounted return of a policy from each state within `num_steps`, by backward induction."""
    values = np.zeros(len(table))
    for _ in range(num_steps):
        values = np.array(
            [sum(p * (r + (not over) * values[to]) for p, to, r, over in table[s][int(actions[s])]) for s in table]
        )
    return values


def test_slippery_frozen_lake_is_won_14_times_in_17():
    # the best policy on the 4x4 map: 14/17 without a limit (Gymnasium's map, slipping a third each way)
    table = gym.make("FrozenLake-v1").unwrapped.P
    actions = best_actions(table)
    assert policy_values(table, actions, 5000)[0] == pytest.approx(14 / 17, abs=1e-6)
    assert policy_values(table, actions, 100)[0] == pytest.approx(0.740, abs=0.001)


def test_taxi_earns_7_93_on_average_over_its_300_starts():
    env = gym.make(TAXI).unwrapped
    values = policy_values(env.P, best_actions(env.P), 200)
    assert (env.initial_state_distrib > 0).sum() == 300
    assert values @ env.initial_state_distrib == pytest.approx(7.93, abs=0.005)


def test_the_cliff_costs_thirteen_steps():
    env = gym.make(CLIFF).unwrapped
    assert policy_values(env.P, best_actions(env.P), 50)[int(env.start_state_index)] == -13


def test_of_two_ways_the_shorter_and_of_equal_ones_the_first_is_taken():
    rows = ["SFFF", "FFFF", "FFFF", "FFFG"]
    actions = best_actions(GymnasiumLake(desc=rows, is_slippery=False).P)
    assert actions.reshape(4, 4)[:3].tolist() == [[1] * 4] * 3  # down before right
    assert actions.reshape(4, 4)[3, :3].tolist() == [2] * 3


def test_states_that_chance_reaches_count_by_their_probability():
    # from state 0: action 0 earns 1 with 0.6 (else -1), action 1 earns 0.3 for sure
    table = {0: {0: [(0.6, 1, 1.0, True), (0.4, 1, -1.0, True)], 1: [(1.0, 1, 0.3, True)]}, 1: {0: [(1.0, 1, 0, True)]}}
    assert best_actions(table)[0] == 1
    table[0][0] = [(0.7, 1, 1.0, True), (0.3, 1, -1.0, True)]
    assert best_actions(table)[0] == 0
