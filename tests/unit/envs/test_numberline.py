"""NumberLine: moves, rewards and ends as its page says."""

import numpy as np
import pytest

from eyas.envs.experts import expert_for
from eyas.envs.numberline import NumberLineEnv

MINUS, PLUS = 0, 1


def start(target: int, current: int, **arguments) -> NumberLineEnv:
    env = NumberLineEnv(mode="text", **arguments)
    env.reset(seed=0)
    env.target, env.current, env.start_distance = target, current, abs(target - current)
    return env


def test_the_shortest_way_succeeds():
    env = start(target=3, current=1)
    words, reward, terminated, truncated, info = env.step(PLUS)
    assert (words, reward, terminated, truncated) == (
        "The target number is 3. The current number is 2.",
        0.0,
        False,
        False,
    )
    assert info["facts"] == {"current number": "2", "target number": "3"}
    _, reward, terminated, truncated, info = env.step(PLUS)
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert (info["success"], info["target_reached"], info["progress"]) == (True, True, 1.0)


def test_one_wrong_move_spoils_success_but_the_target_is_reached():
    env = start(target=3, current=2)
    assert env.step(MINUS)[1] == -1.0
    env.step(PLUS)
    _, reward, terminated, _, info = env.step(PLUS)
    assert (reward, terminated) == (1.0, True)
    assert (info["success"], info["target_reached"], info["progress"]) == (False, True, 1.0)


@pytest.mark.parametrize(("wall", "action", "target"), [(0, MINUS, 2), (5, PLUS, 1)])
def test_a_wall_bump_is_a_wrong_move(wall, action, target):
    env = start(target, wall)
    assert env.step(action)[1:4] == (-1.0, False, False)
    assert env.current == wall
    assert env.num_wrong_moves == 1


@pytest.mark.parametrize("max_position", [2, 5, 7])
def test_the_hidden_limit_truncates(max_position):
    env = start(target=0, current=max_position, max_position=max_position)
    for i in range(2 * max_position):
        _, reward, terminated, truncated, info = env.step(PLUS)
        assert (reward, terminated, truncated) == (-1.0, False, i == 2 * max_position - 1)
    assert (info["success"], info["target_reached"], info["progress"]) == (False, False, 0.0)


def test_reaching_the_target_in_the_last_step_terminates():
    env = start(target=1, current=0)
    env.num_steps = 9
    assert env.step(PLUS)[1:4] == (1.0, True, False)


def test_progress_is_the_share_of_the_distance():
    env = start(target=4, current=0)
    env.num_steps = 9
    assert env.step(PLUS)[4]["progress"] == 0.25


@pytest.mark.parametrize("max_position", [2, 5, 9])
def test_starts_lie_in_range_and_differ(max_position):
    env = NumberLineEnv(mode="text", max_position=max_position)
    env.reset(seed=0)
    seen = set()
    for _ in range(2000):
        env.reset()
        seen.add((env.target, env.current))
    assert all(t != c and min(t, c) >= 0 and max(t, c) <= max_position for t, c in seen)
    assert len(seen) == (max_position + 1) * max_position


def test_digits_are_large():
    env = NumberLineEnv()
    env.reset(seed=0)
    env.target, env.current = 4, 1
    right = np.where(
        (env._observation()[:, 170:] < 128).all(axis=(1, 2)) | (env._observation()[:, 170:] < 128).any(axis=(1, 2))
    )[0]
    rows = np.split(right, np.where(np.diff(right) > 5)[0] + 1)
    assert len(rows) == 2
    assert all(len(block) >= 70 for block in rows)


def test_the_expert_always_succeeds():
    env = NumberLineEnv(mode="text")
    expert = expert_for(env)
    for seed in range(50):
        env.reset(seed=seed)
        is_over = False
        while not is_over:
            *_, terminated, truncated, info = env.step(expert(env).action)
            is_over = terminated or truncated
        assert info["success"]


def test_thought():
    description = NumberLineEnv(mode="text").description
    facts = {"current number": "1", "target number": "4"}
    assert description.write_thought(facts, "+") == "From 1 to 4 I choose +."
    assert description.action_names == ("-", "+")
