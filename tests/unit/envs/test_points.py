"""EZPoints and Points24: tokens, rewards, limits, deals and experts as their pages say."""

import numpy as np
import pytest

from eyas.envs.experts import expert_for
from eyas.envs.ezpoints import EZPointsEnv
from eyas.envs.formulas import is_solvable
from eyas.envs.points24 import Points24Env
from eyas.envs.pointsgame import PointsEnv

GAMES = [EZPointsEnv, Points24Env]


def start(env: PointsEnv, *ranks: int) -> PointsEnv:
    env.reset(seed=0)
    env.ranks, env.numbers = ranks, tuple(map(env.count, ranks))
    return env


def write(env: PointsEnv, text: str) -> tuple[float, bool, bool, dict]:
    """Writes tokens; returns the total reward, terminated, truncated and info of the last step."""
    total = 0.0
    for token in text.split():
        _, reward, terminated, truncated, info = env.step(env.rules.action_names.index(token))
        total += reward
    return total, terminated, truncated, info


def test_action_names():
    ten, thirteen = tuple(map(str, range(1, 11))), tuple(map(str, range(1, 14)))
    assert EZPointsEnv().description.action_names == (*ten, "+", "*", "=")
    assert EZPointsEnv(face_cards="rank").description.action_names == (*thirteen, "+", "*", "=")
    assert Points24Env().description.action_names == (*ten, "+", "-", "*", "/", "(", ")", "=")
    assert Points24Env(face_cards="rank").description.action_names == (*thirteen, "+", "-", "*", "/", "(", ")", "=")
    assert [EZPointsEnv().action_space.n, Points24Env().action_space.n] == [13, 17]


@pytest.mark.parametrize(
    ("ranks", "text", "total", "success"),
    [
        ((2, 6), "2 * 6 =", 10, True),
        ((2, 6), "6 * 2 =", 10, True),
        ((2, 13), "10 + 2 =", 10, True),
        ((2, 6), "2 + 6 =", -1, False),
        ((2, 6), "=", -1, False),
        ((2, 6), "2 6 =", -1, False),
        ((2, 6), "2 * =", -1, False),
        ((2, 6), "7 2 * 6 =", 9, True),
        ((2, 6), "2 * 2 6 =", 9, True),
        ((6, 6), "6 + 6 =", 10, True),
        ((2, 10), "+ 2 + 10 =", 10, True),
    ],
)
def test_ezpoints_formulas(ranks, text, total, success):
    got, terminated, truncated, info = write(start(EZPointsEnv(mode="text"), *ranks), text)
    assert (got, terminated, truncated) == (total, True, False)
    assert (info["success"], info["progress"]) == (success, float(success))


@pytest.mark.parametrize(
    ("ranks", "text", "total", "success"),
    [
        ((3, 3, 8, 8), "8 / ( 3 - 8 / 3 ) =", 10, True),
        ((1, 2, 3, 4), "1 * 2 * 3 * 4 =", 10, True),
        ((2, 4, 1, 1), "2 4 * 1 * 1 =", -1, False),
        ((12, 12, 4, 1), "10 + 10 + 4 * 1 =", 10, True),
        ((12, 12, 4, 1), "10 + 10 + 4 =", -1, False),
        ((1, 1, 6, 4), "6 * 4 / ( 1 - 1 ) =", -1, False),
        ((2, 8, 8, 1), "8 + 8 + 2 * * 1 =", -1, False),
    ],
)
def test_points24_formulas(ranks, text, total, success):
    got, terminated, truncated, info = write(start(Points24Env(mode="text"), *ranks), text)
    assert (got, terminated, truncated) == (total, True, False)
    assert info["success"] is success


def test_faces_count_their_rank_in_the_variant():
    env = start(Points24Env(mode="text", face_cards="rank"), 11, 12, 13, 1)
    assert env.numbers == (11, 12, 13, 1)
    assert write(env, "13 + 11 * ( 12 - 1 ) 11 =")[0] == -2
    env = start(Points24Env(mode="text", face_cards="rank"), 11, 13, 1, 1)
    assert write(env, "( 11 + 13 ) * 1 * 1 =")[0] == 10


@pytest.mark.parametrize("game", GAMES)
def test_an_unavailable_number_costs_one_and_leaves_a_blank(game):
    env = start(game(mode="text"), *((2, 6) if game is EZPointsEnv else (2, 6, 2, 1)))
    total, terminated, truncated, info = write(env, "9")
    assert (total, terminated, truncated) == (-1, False, False)
    assert env.formula == ("_",)
    assert info["facts"]["current formula"] == "_"
    assert write(env, "6")[0] == 0
    assert write(env, "6")[0] == -1
    assert env.formula == ("_", "6", "_")


@pytest.mark.parametrize(("game", "limit"), [(EZPointsEnv, 5), (Points24Env, 20)])
@pytest.mark.parametrize("last", ["+", "=", "9"])
def test_the_length_limit_terminates_with_minus_one(game, limit, last):
    env = start(game(mode="text"), *((2, 6) if game is EZPointsEnv else (2, 6, 2, 1)))
    total, terminated, *_ = write(env, "+ " * (limit + 1))
    assert (total, terminated) == (0, False)
    total, terminated, truncated, info = write(env, last)
    assert (total, terminated, truncated, info["success"]) == (-1, True, False, False)
    assert len(env.formula) == limit + 1


def test_a_right_formula_is_too_late_after_the_limit():
    env = start(EZPointsEnv(mode="text"), 2, 6)
    assert write(env, "2 * 6 5 5")[0] == -2
    assert write(env, "=")[0] == 10
    env = start(EZPointsEnv(mode="text"), 2, 6)
    assert write(env, "2 * 6 5 5 5 =")[0] == -4


def test_words_facts_and_sentence():
    env = start(EZPointsEnv(mode="text"), 2, 13)
    assert env._words() == "The cards are 2, K. The current formula is empty."
    assert env.facts == {"cards": "2, K", "current formula": "empty"}
    write(env, "10 +")
    assert env._words() == "The cards are 2, K. The current formula is '10+'."
    image = EZPointsEnv()
    assert image.reset(seed=0)[1]["observation_text"] == "The current formula is empty."
    assert image.step(10)[4]["observation_text"] == "The current formula is '+'."


def deals(env: PointsEnv, n: int = 400) -> list[PointsEnv]:
    env.reset(seed=3)
    hands = []
    for _ in range(n):
        env.reset()
        hands.append((env.ranks, env.numbers))
    return hands


@pytest.mark.parametrize("face_cards", ["ten", "rank"])
@pytest.mark.parametrize("game", GAMES)
def test_deals_can_be_solved_and_hold_a_face_where_asked(game, face_cards):
    for require_face in (False, True):
        hands = deals(game(mode="text", face_cards=face_cards, require_face=require_face))
        assert all(is_solvable(numbers, 12 if game is EZPointsEnv else 24) for _, numbers in hands)
        has_face = [max(ranks) > 10 for ranks, _ in hands]
        assert all(has_face) if require_face else not all(has_face)
        assert max(n for _, numbers in hands for n in numbers) <= (10 if face_cards == "ten" else 13)


def test_faithful_points24_deals_everything():
    solvable = [is_solvable(numbers, 24) for _, numbers in deals(Points24Env(mode="text", solvable_only=False), 3000)]
    assert abs(np.mean(solvable) - 0.731) < 4 * (0.731 * 0.269 / 3000) ** 0.5


@pytest.mark.parametrize("arguments", [{}, {"face_cards": "rank", "require_face": True}])
@pytest.mark.parametrize("game", GAMES)
def test_the_expert_always_wins_and_never_changes_its_plan(game, arguments):
    env = game(mode="text", **arguments)
    expert = expert_for(env)
    for seed in range(40):
        env.reset(seed=seed)
        plans, terminated = set(), False
        while not terminated:
            move = expert(env)
            plans.add(move.facts["plan"])
            _, reward, terminated, _, info = env.step(move.action)
        assert (reward, info["success"], len(plans)) == (10, True, 1)


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("", "2*6="),
        ("6", "6*2="),
        ("9", "_2*6="),
        ("+", "+2*6="),
        ("2 2", "2_*6="),
        ("9 9", "__2*6="),
        ("2 * 6", "2*6="),
    ],
)
def test_the_expert_recovers_in_the_middle(text, plan):
    env = start(EZPointsEnv(mode="text"), 2, 6)
    if text:
        write(env, text)
    assert expert_for(env)(env).facts["plan"] == plan


@pytest.mark.parametrize("text", ["*", "2 6", "9 9 9", "2 + +", "+ + + + + +"])
def test_a_lost_formula_is_ended(text):
    env = start(EZPointsEnv(mode="text"), 2, 6)
    write(env, text)
    move = expert_for(env)(env)
    assert env.rules.action_names[move.action] == "="
    assert "plan" not in move.facts
    assert env.step(move.action)[1:3] == (-1.0, True)


def test_the_expert_gives_up_a_hand_that_cannot_be_solved():
    env = start(Points24Env(mode="text", solvable_only=False), 1, 1, 1, 1)
    assert env.rules.action_names[expert_for(env)(env).action] == "="


def test_thoughts():
    write_thought = EZPointsEnv(mode="text").description.write_thought
    facts = {"cards": "2, 6", "current formula": "2*"}
    assert write_thought(facts, "6") == "The cards are 2, 6, the formula is 2*, I choose 6."
    facts["plan"] = "2*6="
    assert write_thought(facts, "9") == "The formula is 2* and can become 2*6=, I choose 9."
