"""GeneralPoints: the verifier's rewards, attempts, deals, words and expert as its page says."""

from collections import Counter
from itertools import product

import gymnasium as gym
import numpy as np
import pytest

from eyas.envs.experts import expert_for
from eyas.envs.formulas import is_solvable
from eyas.envs.generalpoints import GeneralPointsEnv, judge
from eyas.interface import Interface
from eyas.rollouts.images import MemoryImageStore
from eyas.types import Completion


def start(*ranks: int, mode: str = "text", **arguments) -> GeneralPointsEnv:
    env = GeneralPointsEnv(mode=mode, num_cards=len(ranks), **arguments)
    env.reset(seed=0)
    env.ranks, env.numbers = ranks, tuple(map(env.count, ranks))
    return env


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("8/(3-8/3)", 5),
        ("8 / (3 - 8/3) = 24", 5),
        ("8/(3-8/3)=25", 5),  # what is right of "=" is not judged
        ("3, 3, 8, 8: 8/(3-8/3)", 5),  # text mode does not judge the cards
        ("9: 8/(3-8/3)", 5),
        ("3+3+8+8", -1),
        ("-3+3+8+8", -1),
        ("3*8", -2),
        ("3*8+8-8+3-3", -2),
        ("24", -2),
        ("38-3+8", -2),
        ("3*8*", -3),
        ("3 8 3 8", -3),
        ("(3+3", -3),
        ("8*8/(3-3)", -3),  # divides by zero
        ("8/(3-8/3)=", -3),
        ("8/(3-8/3)=24=24", -3),
        ("K", -3),
        ("8/(3-8/3):", -3),
    ],
)
def test_the_verifier_pays_what_the_page_says(answer, reward):
    _, got, terminated, truncated, info = start(3, 3, 8, 8).step(answer)
    assert (got, terminated, truncated) == (reward, reward == 5, False)
    assert info.get("success") is (True if reward == 5 else None)


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("2, K: 2+10", 5),
        ("K,2:2+10", 5),  # in any order
        ("2, Q: 2+10", -1.5),  # a right formula earns nothing beside wrong cards
        ("2, 10: 2+10", -1.5),  # the cards, not what they count
        ("2, 2, K: 2+10", -1.5),
        ("2+10", -1.5),  # no cards at all
        ("2, Q: 2*10", -2.5),
        ("2, Q: 2+2", -3.5),
        ("2, Q: 2+", -4.5),
        ("2, K: 2*10", -1),
    ],
)
def test_in_image_mode_wrong_cards_cost_more_and_penalties_add_up(answer, reward):
    _, got, terminated, _, _ = start(2, 13, mode="image", target=12).step(answer)
    assert (got, terminated) == (reward, reward == 5)


def test_five_attempts_are_graded_and_the_sixth_costs_one_whatever_it_says():
    for last in ("2+10", "2*10", "("):
        env = start(2, 13, target=12)
        steps = [env.step(a) for a in ("2*10", "2*2", "2", "2+", "2-10")]
        assert [s[1] for s in steps] == [-1, -2, -2, -3, -1]
        assert not any(s[2] or s[3] or "success" in s[4] for s in steps)
        _, reward, terminated, truncated, info = env.step(last)
        assert (reward, terminated, truncated, info["success"], info["progress"]) == (-1, True, False, False, 0.0)
        with pytest.raises(gym.error.ResetNeeded):
            env.step("2+10")


def test_a_later_attempt_still_wins():
    env = start(2, 13, target=12, num_attempts=2)
    assert env.step("2*10")[1:3] == (-1, False)
    assert env.step("2+10")[1:3] == (5, True)
    env = start(2, 13, target=12, num_attempts=1)
    assert env.step("2*10")[1:3] == (-1, False)
    assert env.step("2+10")[1:3] == (-1, True)


def test_faces_count_their_rank_under_the_other_rule():
    assert start(11, 1, target=12, face_cards="rank").step("11+1")[1] == 5
    assert start(11, 1, target=12, face_cards="rank").step("10+1")[1] == -2
    assert start(11, 2, target=12).step("10+2")[1] == 5


def test_with_either_rule_each_episode_says_which_holds():
    env = GeneralPointsEnv(mode="text", num_cards=3, target=12, face_cards="either", require_face=True)
    rules = []
    for seed in range(60):
        words, info = env.reset(seed=seed)
        largest = 10 if "count 10." in words else 13
        assert info["facts"]["number"] == ", ".join(str(min(rank, largest)) for rank in env.ranks)
        assert env.step(env.solution())[1] == 5
        rules.append(largest)
    assert 15 < rules.count(10) < 45


def test_the_verifier_says_what_was_wrong_and_the_text_shows_it():
    env = start(2, 13, target=12)
    counts = "J, Q and K count 10."
    assert env._words() == f"The cards are 2, K. {counts}"
    assert env.step("2*10")[0] == f"The cards are 2, K. {counts} Attempt 1 failed. '2*10' equals 20, not 12."
    assert env.step("2/10")[0].endswith("Attempt 2 failed. '2/10' equals 1/5, not 12.")
    assert env.step("2+2")[0].endswith("'2+2' does not use the number of each card once.")
    assert env.step("2+")[0].endswith("'2+' is no formula.")
    image = start(2, 13, mode="image", target=12)
    assert image.reset(seed=0)[1]["observation_text"] == counts
    said = image.step("4: 1")[4]["observation_text"]
    said_of_it = "Attempt 1 failed. The cards were not read right. '1' does not use the number of each card once."
    assert said == f"{counts} {said_of_it}"
    assert image.reset(seed=0)[1]["observation_text"] == counts


def test_the_longest_words_stay_in_their_space():
    env = start(10, 10, 10, 10, mode="text", solvable_only=False, num_attempts=100, face_cards="rank")
    for answer in ("1" * 64, "K" * 64, "(" * 64, " " * 64, ":" * 64):
        assert all(env.observation_space.contains(env.step(answer)[0]) for _ in range(20))


@pytest.mark.parametrize(("num_cards", "target"), [(2, 12), (3, 12), (4, 24)])
@pytest.mark.parametrize("face_cards", ["ten", "rank"])
def test_deals_can_be_solved_and_hold_a_face_where_asked(num_cards, target, face_cards):
    for require_face in (False, True):
        arguments = {"num_cards": num_cards, "target": target, "face_cards": face_cards, "require_face": require_face}
        env = GeneralPointsEnv(mode="text", **arguments)
        env.reset(seed=1)
        hands = [(env.ranks, env.numbers) for _ in range(150) if env.reset()]
        assert all(is_solvable(numbers, target) for _, numbers in hands)
        has_face = [max(ranks) > 10 for ranks, _ in hands]
        assert all(has_face) if require_face else not all(has_face)
        assert max(n for _, numbers in hands for n in numbers) <= (10 if face_cards == "ten" else 13)


@pytest.mark.parametrize(("face_cards", "largest", "share"), [("ten", 10, 35.6), ("rank", 13, 37.2)])
def test_the_ceiling_of_three_cards_is_what_the_page_says(face_cards, largest, share):
    hands = list(product(range(1, 14), repeat=3))
    assert round(100 * np.mean([is_solvable([min(r, largest) for r in h], 12) for h in hands]), 1) == share
    assert f"{share} %" in " ".join(GeneralPointsEnv.__doc__.split())
    env = GeneralPointsEnv(mode="text", num_cards=3, target=12, face_cards=face_cards, solvable_only=False)
    env.reset(seed=0)
    dealt = np.mean([is_solvable(env.numbers, 12) for _ in range(3000) if env.reset()])
    assert abs(100 * dealt - share) < 400 * (0.36 * 0.64 / 3000) ** 0.5


def test_ranks_are_uniform_where_everything_is_dealt():
    env = GeneralPointsEnv(mode="text", solvable_only=False)
    env.reset(seed=0)
    counts = Counter(rank for _ in range(2000) if env.reset() for rank in env.ranks)
    assert set(counts) == set(range(1, 14))
    assert max(abs(n - 8000 / 13) for n in counts.values()) < 4.5 * (8000 / 13) ** 0.5


@pytest.mark.parametrize("mode", ["image", "text"])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"face_cards": "rank", "require_face": True}, {"num_cards": 2, "target": 12}, {"num_cards": 3, "target": 12}],
)
def test_the_expert_wins_at_its_first_attempt_and_after_a_failed_one(mode, arguments):
    env = GeneralPointsEnv(mode=mode, **arguments)
    for seed in range(25):
        env.reset(seed=seed)
        if seed % 2:
            env.step("1")
        move = expert_for(env)(env)
        assert move.facts == env.facts
        assert not move.is_lost
        assert env.step(move.action)[1:3] == (5, True)


def test_the_expert_adds_up_a_hand_that_cannot_be_solved():
    env = start(1, 1, 1, 13, solvable_only=False)
    move = expert_for(env)(env)
    assert (move.action, move.is_lost) == ("1+1+1+10", True)
    assert env.step(move.action)[1] == -1


def test_the_expert_knows_that_the_ungraded_attempt_is_lost():
    env = start(2, 13, target=12, num_attempts=1)
    env.step("2*10")
    assert expert_for(env)(env).is_lost


def test_facts_are_the_cards_and_what_they_count():
    assert start(1, 13, 10, 11).facts == {"cards": "A, K, 10, J", "number": "1, 10, 10, 10"}
    assert start(1, 13, 10, 11, face_cards="rank").facts["number"] == "1, 13, 10, 11"


@pytest.mark.parametrize("mode", ["image", "text"])
def test_a_demonstration_is_read_back_as_the_action_that_it_wrote(mode):
    env = GeneralPointsEnv(mode=mode, num_cards=3, target=12)
    interface = Interface.for_env(env, max_new_tokens=96)
    for seed in range(20):
        observation, info = env.reset(seed=seed)
        move = expert_for(env)(env)
        parsed = interface.parse(Completion(interface.write(move)), None)
        assert (parsed.action, dict(parsed.facts)) == (move.action, move.facts)
        assert str(env.target) in interface.render(observation, info, None, MemoryImageStore())[0].parts[-1].text


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"num_cards": 1}, "from 2 to 4"),
        ({"num_cards": 5}, "from 2 to 4"),
        ({"target": 0}, "from 1 to 1000"),
        ({"num_attempts": 0}, "from 1 to 100"),
        ({"solvable_only": "no"}, "type solvable_only=False"),
        ({"num_cards": 2, "target": 997}, "type a smaller target"),
    ],
)
def test_bad_arguments_say_what_to_type(arguments, advice):
    with pytest.raises(ValueError, match=advice):
        gym.make("eyas/GeneralPoints-v0", **arguments)


@pytest.mark.parametrize("action", [3, "", "x", "2" * 65, None])
def test_an_action_outside_the_space_says_what_to_type(action):
    env = start(2, 13, target=12)
    with pytest.raises(ValueError, match=r"such as '2\+10'"):
        env.step(action)
    assert env.step("2+10")[1] == 5


def test_judging_needs_every_number_as_often_as_its_card():
    assert judge("6+6", (6, 6), 12) == "right"
    assert judge("6+6", (6, 5), 12) == "wrong_numbers"
    assert judge("12", (6, 6), 12) == "wrong_numbers"
    assert judge("", (6, 6), 12) == "illegal"
