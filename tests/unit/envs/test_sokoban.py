"""Sokoban: pushes, VAGEN's rewards, solvable rooms, shortest solutions."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.envs.experts import expert_for
from eyas.envs.sokoban import SokobanEnv

UP, DOWN, LEFT, RIGHT = range(4)


def room(*rows: str, **arguments) -> SokobanEnv:
    """A room as text mode writes it, without the spaces."""
    signs = {(r, c): sign for r, row in enumerate(rows) for c, sign in enumerate(row)}
    boxes = frozenset(cell for cell, sign in signs.items() if sign in "X*")
    env = SokobanEnv(**({"mode": "text", "size": len(rows), "num_boxes": len(boxes)} | arguments))
    env.reset(seed=0)
    env.is_wall = np.array([[sign == "#" for sign in row] for row in rows])
    env.player = next(cell for cell, sign in signs.items() if sign in "PS")
    env.boxes, env.targets = boxes, frozenset(cell for cell, sign in signs.items() if sign in "O*S")
    return env


def rewards(env: SokobanEnv, *actions: int) -> list[float]:
    return [env.step(action)[1] for action in actions]


@pytest.mark.parametrize("mode", ["image", "text"])
def test_gymnasium_accepts_it(mode):
    check_env(gym.make("eyas/Sokoban-v0", mode=mode, render_mode="rgb_array").unwrapped)


def test_a_push_onto_the_last_target_pays_eleven_less_a_tenth_and_ends_the_episode():
    env = room("#####", "#PXO#", "#___#", "#___#", "#####")
    text, reward, terminated, truncated, info = env.step(RIGHT)
    assert reward == pytest.approx(10.9)
    assert (terminated, truncated, info["success"], info["progress"]) == (True, False, True, 1)
    assert text == "# # # # #\n# _ P * #\n# _ _ _ #\n# _ _ _ #\n# # # # #"


def test_pushing_a_box_off_its_target_costs_one():
    env = room("######", "#P*__#", "#_X_O#", "#____#", "#____#", "######")
    assert rewards(env, RIGHT, LEFT, LEFT) == pytest.approx([-1.1, -0.1, -0.1])
    assert env._info()["progress"] == 0


def test_a_first_box_on_a_target_pays_one_and_does_not_end_the_episode():
    env = room("######", "#PXO_#", "#__X_#", "#____#", "#___O#", "######")
    _, reward, terminated, _, info = env.step(RIGHT)
    assert (reward, terminated, info["progress"], info["success"]) == (pytest.approx(0.9), False, 0.5, False)


@pytest.mark.parametrize(
    "rows",
    [
        ("#####", "#PX##", "#___#", "#_O_#", "#####"),  # a wall behind the box
        ("######", "#PXX_#", "#____#", "#O_O_#", "#____#", "######"),  # another box behind it
        ("#####", "#P###", "#_X_#", "#_O_#", "#####"),  # a wall ahead
    ],
)
def test_what_is_stuck_stops_the_player(rows):
    env = room(*rows)
    before = env.player, env.boxes
    assert rewards(env, RIGHT) == pytest.approx([-0.1])
    assert (env.player, env.boxes) == before


def test_boxes_are_never_pulled():
    env = room("######", "#____#", "#_PX_#", "#___O#", "#____#", "######")
    env.step(LEFT)
    assert env.boxes == {(2, 3)}


def test_the_player_may_stand_on_a_target():
    env = room("#####", "#PO_#", "#_X_#", "#___#", "#####")
    assert env.step(RIGHT)[0].split("\n")[1] == "# _ S _ #"


@settings(max_examples=20, deadline=None)
@given(st.integers(5, 8), st.integers(1, 2), st.integers(0, 10_000))
def test_every_room_can_be_solved_and_starts_with_all_on_fields_of_their_own(size, num_boxes, seed):
    env = SokobanEnv(mode="text", size=min(size, 6) if num_boxes == 2 else size, num_boxes=num_boxes)
    env.reset(seed=seed)
    assert env.is_wall[[0, -1]].all() and env.is_wall[:, [0, -1]].all()
    places = [env.player, *env.boxes, *env.targets]
    assert len(set(places)) == 2 * num_boxes + 1
    assert not any(env.is_wall[cell] for cell in places)
    solution = env.solve()
    assert solution
    *_, last = [env.step(action) for action in solution]
    assert last[2] and last[4]["success"]


def test_a_seed_gives_one_room_and_seeds_give_many():
    env = SokobanEnv(mode="text")
    assert env.reset(seed=3)[0] == SokobanEnv(mode="text").reset(seed=3)[0]
    assert len({env.reset(seed=seed)[0] for seed in range(40)}) > 35


def test_looks_do_not_change_the_room():
    plain, moved = SokobanEnv(), SokobanEnv(jitter=6, background="green")
    for seed in range(5):
        a, info_a = plain.reset(seed=seed)
        b, info_b = moved.reset(seed=seed)
        assert info_a == info_b and not np.array_equal(a, b)


def test_every_sign_has_a_picture_of_its_own():
    env = room("######", "#PX__#", "#*__O#", "#____#", "#____#", "######", mode="image")
    pictures = [env._draw()]
    env.player = (2, 4)  # on a target
    pictures.append(env._draw())
    tiles = {p[16 + r * 44 :, 16 + c * 44 :][:44, :44].tobytes() for p in pictures for r in range(6) for c in range(6)}
    assert len(tiles) == 7


def test_the_limit_of_the_registration_truncates():
    env = gym.make("eyas/Sokoban-v0", mode="text")
    env.reset(seed=0)
    ends = [env.step(UP)[2:4] for _ in range(50)]
    assert set(ends[:-1]) == {(False, False)}
    assert ends[-1] == (False, True)


def test_the_expert_solves_every_room_in_the_fewest_steps():
    env = gym.make("eyas/Sokoban-v0", mode="text")
    expert = expert_for(env)
    for seed in range(50):
        env.reset(seed=seed)
        fewest, total, steps, is_over, info = len(env.unwrapped.solve()), 0.0, 0, False, {}
        while not is_over:
            _, reward, terminated, truncated, info = env.step(expert(env.unwrapped).action)
            total, steps, is_over = total + reward, steps + 1, terminated or truncated
        assert info["success"] and steps == fewest
        assert total == pytest.approx(11 - 0.1 * steps)


def test_the_shortest_solution_of_a_known_room():
    env = room("######", "#____#", "#_X__#", "#P_O_#", "#____#", "######")
    # round the box to its left, push it right, go above it, push it down
    assert env.solve() == [UP, RIGHT, UP, RIGHT, DOWN]


def test_where_nothing_helps_the_expert_still_answers():
    env = room("#####", "#X__#", "#___#", "#P_O#", "#####")
    assert env.solve() is None
    assert expert_for(env)(env).action == 0


@pytest.mark.parametrize("arguments", [{"size": 4}, {"size": 9}, {"num_boxes": 0}, {"num_boxes": 3}, {"jitter": 17}])
def test_bad_arguments_say_what_to_type(arguments):
    with pytest.raises(ValueError, match="type an integer from"):
        SokobanEnv(**arguments)
