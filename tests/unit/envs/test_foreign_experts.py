"""Experts of other packages' games: how well they play, and that they only look."""

import copy
import subprocess
import sys
from functools import cache

import gymnasium as gym
import minigrid
import numpy as np
import pytest

from eyas.envs.catalog import CATALOG
from eyas.envs.experts import EXPERTS, expert_for, register_expert
from eyas.envs.experts_gymnasium import way
from eyas.envs.experts_minigrid import DONE, where

gym.register_envs(minigrid)

TAXI = next(entry.id for entry in CATALOG if entry.id.startswith("Taxi"))
CLIFF = next(entry.id for entry in CATALOG if entry.id.startswith("CliffWalking"))
GYMNASIUM = ["FrozenLake-v1", CLIFF, TAXI, "Blackjack-v1", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0"]
GYMNASIUM += ["Pendulum-v1", "Acrobot-v1"]
GRIDS = ["Empty-Random-6x6", "FourRooms", "DoorKey-6x6", "LavaGapS6", "SimpleCrossingS9N2", "MultiRoom-N2-S4"]
BABYAI = ["GoToRedBall", "GoToLocal", "PutNextLocal", "Pickup", "OpenDoorsOrderN2", "KeyCorridorS3R2", "GoToSeqS5R2"]
MINIGRID = [*(f"MiniGrid-{name}-v0" for name in GRIDS), *(f"BabyAI-{name}-v0" for name in BABYAI)]


def play(env_id: str, seeds: range, random_share: float = 0.0, **arguments) -> list[tuple[float, int]]:
    """(return, steps) of an episode a seed; a share of the moves is random instead of the expert's."""
    env = gym.make(env_id, **arguments)
    expert, results = expert_for(env), []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        env.action_space.seed(seed)
        env.reset(seed=seed)
        total, steps, is_over = 0.0, 0, False
        while not is_over:
            action = env.action_space.sample() if rng.random() < random_share else expert(env.unwrapped).action
            assert env.action_space.contains(action)
            _, reward, terminated, truncated, _ = env.step(action)
            total, steps, is_over = total + float(reward), steps + 1, terminated or truncated
        results.append((total, steps))
    return results


@cache
def returns(env_id: str, num_episodes: int, is_random: bool = False) -> np.ndarray:
    return np.array([total for total, _ in play(env_id, range(num_episodes), float(is_random))])


# ----------------------------------------------------------------------------------------------- how well they play


def test_frozen_lake_without_slipping_is_always_won_in_six_steps():
    assert play("FrozenLake-v1", range(50), is_slippery=False) == [(1.0, 6)] * 50


def test_slippery_frozen_lake_is_won_as_often_as_it_can_be():
    # 0.740 within 100 steps: the exact value of the best policy stands in the reference tests
    assert returns("FrozenLake-v1", 600).mean() == pytest.approx(0.740, abs=0.055)


def test_cliff_walking_takes_thirteen_steps():
    assert play(CLIFF, range(50)) == [(-13.0, 13)] * 50


def test_taxi_has_the_known_optimum():
    # 7.93 over all starts; standard deviation 2.6 an episode
    assert returns(TAXI, 400).mean() == pytest.approx(7.93, abs=0.4)


def test_blackjack_plays_basic_strategy():
    env = gym.make("Blackjack-v1")
    env.reset(seed=0)
    for player, dealer, action in [([10, 6], 10, 1), ([10, 6], 6, 0), ([1, 7], 9, 1), ([1, 8], 10, 0), ([10, 2], 3, 1)]:
        env.unwrapped.player, env.unwrapped.dealer = player, [dealer, 5]
        assert expert_for(env)(env.unwrapped).action == action
    thought = expert_for(env)(env.unwrapped).thought
    assert thought == "I hold 12 without a usable ace, the dealer shows 3."


def test_cart_pole_never_falls():
    assert returns("CartPole-v1", 50).tolist() == [500.0] * 50


@pytest.mark.parametrize(
    ("env_id", "at_least"),
    [("MountainCar-v0", -135), ("MountainCarContinuous-v0", 91), ("Pendulum-v1", -170), ("Acrobot-v1", -92)],
)
def test_control_tasks_are_played_far_better_than_by_chance(env_id, at_least):
    assert returns(env_id, 50).mean() > at_least
    assert returns(env_id, 5, is_random=True).mean() < at_least - 60


def test_continuous_actions_are_float32_arrays_of_one_number():
    for env_id in ("MountainCarContinuous-v0", "Pendulum-v1"):
        env = gym.make(env_id)
        env.reset(seed=0)
        action = expert_for(env)(env.unwrapped).action
        assert (action.dtype, action.shape) == (np.float32, (1,))


@pytest.mark.parametrize("env_id", MINIGRID)
def test_grid_worlds_are_always_solved(env_id):
    assert all(total > 0 for total, _ in play(env_id, range(50 if "GoTo" in env_id or "Empty" in env_id else 12)))


@pytest.mark.parametrize("env_id", [i for i in MINIGRID if "Lava" not in i and "OpenDoorsOrder" not in i])
def test_grid_worlds_are_solved_among_random_moves_too(env_id):
    # opening a box can make what was asked for vanish, which no expert can mend: those seeds are few
    won = [total > 0 for total, _ in play(env_id, range(12), random_share=0.3)]
    assert np.mean(won) >= 0.8


def test_the_way_over_a_grid_is_the_shortest():
    env = gym.make("MiniGrid-Empty-8x8-v0")
    for _, steps in play("MiniGrid-Empty-8x8-v0", range(3)):
        assert steps == 11  # five ahead, a turn, five ahead
    env.reset(seed=0)
    env.unwrapped.agent_dir = 2  # facing the wall: it turns round the short way
    assert expert_for(env)(env.unwrapped).action == 0


def test_the_key_is_fetched_before_the_door():
    env = gym.make("MiniGrid-DoorKey-5x5-v0")
    env.reset(seed=0)
    expert, thoughts, is_over = expert_for(env), [], False
    while not is_over:
        move = expert(env.unwrapped)
        thoughts.append(move.thought.split(",")[0])
        _, _, terminated, truncated, _ = env.step(move.action)
        is_over = terminated or truncated
    assert list(dict.fromkeys(thoughts)) == [
        "I need the yellow key",
        "I have to open the yellow door",
        "The way is free",
    ]


def test_where_no_way_is_left_the_expert_is_done():
    env = gym.make("MiniGrid-Empty-5x5-v0")
    env.reset(seed=0)
    walls = {(2, 1), (1, 2)}
    for cell in walls:
        env.unwrapped.grid.set(*cell, env.unwrapped.grid.get(0, 0))
    assert expert_for(env)(env.unwrapped).action == DONE


def test_a_level_that_cannot_be_solved_does_not_hang_the_bot():
    env = gym.make("BabyAI-UnlockToUnlock-v0")
    env.reset(seed=0)
    for cell in range(env.unwrapped.width):  # walls all around the agent
        for row in (env.unwrapped.agent_pos[1] - 1, env.unwrapped.agent_pos[1] + 1):
            env.unwrapped.grid.set(cell, row, env.unwrapped.grid.get(0, 0))
    move = expert_for(env)(env.unwrapped)
    assert env.action_space.contains(move.action) and move.thought


# ----------------------------------------------------------------------------------------------- that they only look


def snapshot(env: gym.Env) -> bytes:
    """Everything that decides how the game goes on, the random numbers included."""
    unwrapped = env.unwrapped
    state = {k: v for k, v in vars(unwrapped).items() if k not in ("P", "spec", "_np_random", "instrs", "grid")}
    grid = unwrapped.grid.encode().tobytes() if hasattr(unwrapped, "grid") else b""
    return repr((sorted(state.items(), key=str), unwrapped.np_random.bit_generator.state)).encode() + grid


@pytest.mark.parametrize("env_id", GYMNASIUM + MINIGRID)
def test_asking_changes_nothing_and_the_answer_is_a_sentence_that_stays(env_id):
    env = gym.make(env_id)
    expert = expert_for(env)
    env.reset(seed=1)
    env.action_space.seed(1)
    for _ in range(12):
        before = snapshot(env)
        move, again = expert(env.unwrapped), expert(env.unwrapped)
        assert snapshot(env) == before
        assert np.array_equal(move.action, again.action) and move.thought == again.thought
        assert move.thought.endswith(".") and 3 <= len(move.thought.split()) <= 25
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            break


@pytest.mark.parametrize(
    "env_id", ["BabyAI-PutNextLocal-v0", "BabyAI-KeyCorridorS3R2-v0", "MiniGrid-DoorKey-6x6-v0", TAXI]
)
def test_a_copy_that_was_never_asked_before_gets_the_same_answers(env_id):
    env = gym.make(env_id).unwrapped
    expert = expert_for(env)
    env.reset(seed=2)
    for _ in range(15):
        move = expert(env)
        assert expert(copy.deepcopy(env)) == move
        *_, terminated, _, _ = env.step(move.action)
        if terminated:
            break


def test_registering_loads_none_of_the_packages():
    code = (
        "import sys, eyas.envs.experts;"
        "assert not {'pygame', 'minigrid', 'torch', 'ale_py', 'mujoco'} & set(sys.modules), sys.modules.keys()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_class_named_by_its_path_counts_for_subclasses_too():
    class OwnEnv(gym.Env):
        pass

    class Harder(OwnEnv):
        pass

    path = f"{OwnEnv.__module__}:{OwnEnv.__qualname__}"
    assert expert_for(Harder()) is None
    register_expert(path)(expert := EXPERTS[next(iter(EXPERTS))])
    assert expert_for(Harder()) is expert
    del EXPERTS[path]


# ----------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("offset", "words"), [((2, 3), "2 down, 3 right"), ((-1, 0), "1 up"), ((0, -4), "4 left"), ((0, 0), "here")]
)
def test_a_way_in_words(offset, words):
    assert way(*offset) == words


@pytest.mark.parametrize(
    ("direction", "words"),
    [(0, "2 ahead, 1 right"), (1, "1 ahead, 2 left"), (2, "2 behind, 1 left"), (3, "1 behind, 2 right")],
)
def test_a_place_is_described_from_where_the_agent_looks(direction, words):
    env = gym.make("MiniGrid-Empty-8x8-v0").unwrapped
    env.reset(seed=0)
    env.agent_pos, env.agent_dir = (3, 3), direction
    assert where(env, (5, 4)) == words
    assert where(env, (3, 3)) == "here"
