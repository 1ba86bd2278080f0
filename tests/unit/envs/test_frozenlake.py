"""FrozenLake: Gymnasium's maps, rules and pictures, a new map in every episode."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv as GymnasiumLake
from gymnasium.envs.toy_text.frozen_lake import generate_random_map
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.envs.experts import expert_for
from eyas.envs.frozenlake import DOWN, LEFT, RIGHT, UP, FrozenLakeEnv

MAP = ["SFFF", "FHFH", "FFFH", "HFFG"]  # Gymnasium's 4x4 map


def lake(rows: list[str] = MAP, **arguments) -> FrozenLakeEnv:
    """An episode on a map of our choice."""
    env = FrozenLakeEnv(**({"mode": "text", "size": len(rows)} | arguments))
    holes = np.array([[letter == "H" for letter in row] for row in rows])
    env.reset(seed=0)

    class Drawer:
        def choice(self, *_, **__):
            return holes.astype(int)

        def random(self, n):
            return np.zeros(n)

    env._np_random = Drawer()
    env.reset()
    env._np_random = np.random.default_rng(0)
    return env


def play(env: FrozenLakeEnv, actions) -> tuple:
    result = ()
    for action in actions:
        result = env.step(action)
    return result


@pytest.mark.parametrize("mode", ["image", "text"])
@pytest.mark.parametrize("env_id", ["eyas/FrozenLake-v0", "eyas/FrozenLake4x4-v0"])
def test_gymnasium_accepts_it(env_id, mode):
    check_env(gym.make(env_id, mode=mode, render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize("size", [4, 8])
def test_the_first_map_is_the_one_that_gymnasium_generates(size):
    env = FrozenLakeEnv(mode="text", size=size)
    for seed in range(20):
        env.reset(seed=seed)
        assert env.rows == generate_random_map(size, 0.8, seed)


def test_every_episode_has_its_own_map():
    env = FrozenLakeEnv(mode="text")
    maps = [env.reset(seed=5)[0]] + [env.reset()[0] for _ in range(30)]
    assert len(set(maps)) == 31


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 9), st.integers(0, 10_000), st.data())
def test_it_moves_pays_and_ends_as_gymnasium_does(size, seed, data):
    env = FrozenLakeEnv(mode="text", size=size)
    env.reset(seed=seed)
    reference = GymnasiumLake(desc=env.rows, is_slippery=False)
    reference.reset(seed=seed)
    for action in data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=20)):
        _, reward, terminated, truncated, info = env.step(action)
        state, *expected, _ = reference.step(action)
        assert (reward, terminated, truncated) == tuple(expected)
        assert env.player == divmod(int(state), size)
        assert info["success"] == (reward == 1)
        if terminated:
            break


def test_slipping_goes_the_chosen_way_or_sideways_a_third_each():
    env, reached = lake(is_slippery=True), []
    for _ in range(1500):
        env.player, env.is_over = (2, 1), False
        env.step(RIGHT)
        reached.append(env.player)
    shares = {cell: reached.count(cell) / 1500 for cell in set(reached)}
    assert shares.keys() == {(2, 2), (3, 1), (1, 1)}  # right, and down and up; never back
    assert all(abs(share - 1 / 3) < 0.05 for share in shares.values())


def test_a_hole_ends_the_episode_with_nothing():
    env = lake()
    _, reward, terminated, truncated, info = play(env, [RIGHT, DOWN])
    assert (reward, terminated, truncated, info["success"], info["progress"]) == (0, True, False, False, 0)


def test_the_goal_pays_one_and_progress_grows_with_each_step_of_a_shortest_way():
    env, progress = lake(), []
    for action in (DOWN, DOWN, RIGHT, DOWN, RIGHT, RIGHT):
        _, reward, terminated, _, info = env.step(action)
        progress.append(info["progress"])
    assert progress == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert (reward, terminated, info["success"]) == (1, True, True)


def test_the_limit_of_the_registration_truncates_without_success():
    env = gym.make("eyas/FrozenLake-v0", mode="text")
    env.reset(seed=0)
    for step in range(100):
        _, reward, terminated, truncated, info = env.step(LEFT)
        assert (reward, terminated, truncated) == (0, False, step == 99)
    assert info["success"] is False


def test_text_shows_the_player_over_the_map():
    env = lake()
    assert env._words() == "P F F F\nF H F H\nF F F H\nH F F G"
    play(env, [DOWN, DOWN])
    assert env._words() == "S F F F\nF H F H\nP F F H\nH F F G"


def test_facts_name_places_from_one_and_holes_beside_the_player():
    env = lake()
    play(env, [DOWN, DOWN])
    beside = {f"hole {d}": "no" for d in ("left", "down", "right", "up")}
    places = {"player row": "3", "player column": "1", "goal row": "4", "goal column": "4"}
    assert env.facts == places | beside | {"hole down": "yes"}
    assert env.description.write_thought(env.facts, "right") == "Row 3 column 1, holes down, I choose right."


def test_pictures_are_gymnasiums_own_at_its_tile_size():
    env = FrozenLakeEnv(tile_size=64, size=4)
    picture, _ = env.reset(seed=2)
    reference = GymnasiumLake(desc=env.rows, is_slippery=False, render_mode="rgb_array")
    reference.reset(seed=0)
    for action in (UP, RIGHT, DOWN, LEFT):
        reference.lastaction = None
        assert np.array_equal(picture, reference.render())
        picture, _, terminated, *_ = env.step(action)
        reference.step(action)
        if terminated:
            break


@pytest.mark.parametrize(("size", "tile_size"), [(8, 16), (4, 16), (12, 5)])
def test_the_picture_has_tile_size_pixels_a_tile_and_is_fresh(size, tile_size):
    env = FrozenLakeEnv(size=size, tile_size=tile_size)
    picture, _ = env.reset(seed=0)
    assert picture.shape == (size * tile_size, size * tile_size, 3)
    assert env.observation_space.contains(picture)
    copy = picture.copy()
    picture[:] = 0
    assert np.array_equal(env.reset(seed=0)[0], copy)


def test_only_the_tiles_of_the_player_change_with_a_step():
    env = FrozenLakeEnv()
    before, _ = env.reset(seed=3)
    after, *_ = env.step(RIGHT)
    changed = (before != after).any(axis=-1).reshape(8, 16, 8, 16).any(axis=(1, 3))
    assert {tuple(cell) for cell in np.argwhere(changed)} == {(0, 0), (0, 1)}


def test_text_mode_imports_no_pygame():
    code = (
        "import sys, gymnasium, eyas.envs;"
        "env = gymnasium.make('eyas/FrozenLake-v0', mode='text'); env.reset(seed=0); env.step(1);"
        "assert 'pygame' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"size": 1}, "from 2 to 16"),
        ({"tile_size": 3}, "from 4 to 64"),
        ({"p": 0.5}, "from 0.6 to 1"),
        ({"is_slippery": "no"}, "is_slippery=False or is_slippery=True"),
        ({"mode": "video"}, "mode='image' or mode='text'"),
    ],
)
def test_bad_arguments_say_what_to_type(arguments, advice):
    with pytest.raises(ValueError, match=advice):
        FrozenLakeEnv(**arguments)


@pytest.mark.parametrize("env_id", ["eyas/FrozenLake-v0", "eyas/FrozenLake4x4-v0"])
def test_the_expert_always_arrives_by_a_shortest_way(env_id):
    env = gym.make(env_id, mode="text")
    expert = expert_for(env)
    for seed in range(50):
        env.reset(seed=seed)
        steps, is_over, info = 0, False, {}
        shortest = env.unwrapped.steps_to_goal[0, 0]
        while not is_over:
            *_, terminated, truncated, info = env.step(expert(env.unwrapped).action)
            steps, is_over = steps + 1, terminated or truncated
        assert info["success"] and steps == shortest


def test_the_expert_breaks_ties_in_the_order_left_down_right_up():
    env = lake(["SFF", "FFF", "FFG"])
    expert, taken = expert_for(env), []
    while not env.is_over:
        taken.append(expert(env).action)
        env.step(taken[-1])
    assert taken == [DOWN, DOWN, RIGHT, RIGHT]


def test_on_slippery_ice_the_expert_keeps_from_holes():
    env = lake(is_slippery=True)
    expert = expert_for(env)
    assert expert(env).action == LEFT  # along the wall: it can slip down, never into a hole
    env.player = (2, 1)
    assert expert(env).action == DOWN  # the hole is above: away from it
