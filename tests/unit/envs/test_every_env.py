"""What holds for every environment: Gymnasium's interface, the pages, looks, bad arguments, descriptions."""

import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import eyas.envs
from eyas.envs.experts import expert_for
from eyas.types import TaskDescription
from helpers_envs import some_action

LAKE_IDS = ["eyas/FrozenLake-v0", "eyas/FrozenLake4x4-v0"]  # Gymnasium's pictures, no looks of our own
IDS = [i for i in eyas.envs.REGISTRATIONS if i not in LAKE_IDS]
CARD_IDS = ["eyas/EZPoints-v0", "eyas/Points24-v0", "eyas/GeneralPoints-v0", "eyas/Blackjack-v0"]
FORMULA_IDS = CARD_IDS[:3]
TEXT_LENGTHS = {"eyas/Sokoban-v0": (71, 71), "eyas/Blackjack-v0": (1, 200), "eyas/GeneralPoints-v0": (1, 200)}
VARIANTS = [
    *((env_id, {}) for env_id in IDS),
    *((env_id, {"face_cards": "rank", "require_face": True}) for env_id in FORMULA_IDS),
    ("eyas/Points24-v0", {"solvable_only": False}),
    ("eyas/NumberLine-v0", {"max_position": 99}),
]


def play(env: gym.Env, seed: int, policy_seed: int = 0):
    """Yields (observation, reward, info) of one random episode."""
    rng = np.random.default_rng(policy_seed)
    observation, info = env.reset(seed=seed)
    yield observation, 0.0, info
    is_over = False
    while not is_over:
        observation, reward, terminated, truncated, info = env.step(some_action(env.action_space, rng))
        is_over = terminated or truncated
        yield observation, reward, info


@pytest.mark.parametrize("mode", ["image", "text"])
@pytest.mark.parametrize(("env_id", "arguments"), VARIANTS)
def test_gymnasium_accepts_it_without_a_warning(env_id, arguments, mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(env_id, mode=mode, render_mode="rgb_array", **arguments).unwrapped)


def test_importing_registers_without_loading_the_games():
    code = (
        "import sys, warnings; warnings.simplefilter('error'); import gymnasium, eyas.envs;"
        "assert all(i in gymnasium.registry for i in eyas.envs.REGISTRATIONS);"
        "assert not any(m in sys.modules for m in ('torch', 'PIL', 'eyas.envs.numberline'))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("env_id", "arguments"), VARIANTS)
def test_observations_stay_in_their_space_and_info_is_complete(env_id, arguments):
    envs = [gym.make(env_id, mode=mode, **arguments) for mode in ("image", "text")]
    assert envs[0].observation_space == gym.spaces.Box(0, 255, (300, 300, 3), np.uint8)
    text_space = envs[1].observation_space
    assert isinstance(text_space, gym.spaces.Text)
    assert (text_space.min_length, text_space.max_length) == TEXT_LENGTHS.get(env_id, (1, 100))
    for seed in range(15):
        for env in envs:
            for observation, _, info in play(env, seed, seed):
                assert env.observation_space.contains(observation)
                if isinstance(env.action_space, gym.spaces.Discrete):
                    assert info["legal_actions"] == list(range(env.action_space.n))
                assert all(isinstance(v, str) for v in info["facts"].values())
                assert set(env.unwrapped.description.fact_keys) <= info["facts"].keys()
                has_sentence = env_id in FORMULA_IDS and env.unwrapped.mode == "image"
                assert ("observation_text" in info) == has_sentence
            assert isinstance(info["success"], bool)
            assert isinstance(info["progress"], float)
            assert 0 <= info["progress"] <= 1
            assert not info["success"] or info["progress"] == 1


def test_outcome_is_told_at_the_end_only():
    env = gym.make("eyas/NumberLine-v0", mode="text")
    *before, last = list(play(env, 0))
    assert not any("success" in info for _, _, info in before)
    assert {"success", "progress", "target_reached"} <= last[2].keys()


@pytest.mark.parametrize("env_id", IDS)
def test_both_modes_play_the_same_game_and_render_the_same_picture(env_id):
    image = gym.make(env_id, render_mode="rgb_array")
    text = gym.make(env_id, mode="text", render_mode="rgb_array")
    for (picture, *_), (words, *_) in zip(play(image, 4), play(text, 4), strict=True):
        assert isinstance(words, str)
        assert np.array_equal(picture, text.render())
        assert np.array_equal(picture, image.render())


@pytest.mark.parametrize("env_id", IDS)
def test_no_render_mode_renders_nothing(env_id):
    env = gym.make(env_id).unwrapped
    env.reset(seed=0)
    assert env.render() is None


@pytest.mark.parametrize("env_id", IDS)
def test_looks_change_the_picture_but_not_the_game(env_id):
    looks = [{"jitter": 6}, {"background": "green"}]
    looks += [{"suits": "red"}, {"suits": "black"}] if env_id in CARD_IDS else []
    plain = gym.make(env_id, mode="image")
    for look in looks:
        other, num_different = gym.make(env_id, **look), 0
        for seed in range(10):
            for (a, reward_a, info_a), (b, reward_b, info_b) in zip(play(plain, seed), play(other, seed), strict=True):
                assert (reward_a, info_a) == (reward_b, info_b)
                num_different += not np.array_equal(a, b)
        assert num_different > 5


@pytest.mark.parametrize("env_id", IDS)
def test_looks_do_not_change_later_episodes_either(env_id):
    games = []
    for jitter in (0, 5):
        env = gym.make(env_id, mode="text", jitter=jitter)
        env.reset(seed=7)
        games.append([env.reset()[0] for _ in range(5)])
    assert games[0] == games[1]


def test_jitter_shifts_the_whole_drawing_once_an_episode():
    plain, moved = gym.make("eyas/EZPoints-v0"), gym.make("eyas/EZPoints-v0", jitter=6)
    shifts = set()
    for seed in range(40):
        for (a, *_), (b, *_) in zip(play(plain, seed), play(moved, seed), strict=True):
            x, y = moved.unwrapped._shift
            assert np.array_equal(np.roll(a, (y, x), (0, 1)), b)  # the margin is wide enough: nothing is cut
            shifts.add((x, y))
    assert len(shifts) > 25
    assert max(abs(v) for s in shifts for v in s) == 6


@pytest.mark.parametrize("env_id", CARD_IDS)
def test_suit_variants_have_one_colour(env_id):
    for suits in ("all", "black", "red"):
        env = gym.make(env_id, suits=suits)
        is_red = [has_red(env.reset(seed=seed)[0]) for seed in range(12)]
        assert {"all": any(is_red), "black": not any(is_red), "red": all(is_red)}[suits]


def has_red(picture: np.ndarray) -> bool:
    return bool((picture == (200, 0, 30)).all(axis=-1).any())


@pytest.mark.parametrize("env_id", IDS)
def test_observations_are_fresh_arrays(env_id):
    env = gym.make(env_id).unwrapped
    first, _ = env.reset(seed=1)
    copy = first.copy()
    first[:] = 0
    assert np.array_equal(env.reset(seed=1)[0], copy)


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"mode": "video"}, "mode='image' or mode='text'"),
        ({"jitter": -1}, "from 0 to 16"),
        ({"jitter": 0.5}, "from 0 to 16"),
        ({"background": "blue"}, "background='white' or background='green'"),
    ],
)
def test_bad_arguments_say_what_to_type(env_id, arguments, advice):
    with pytest.raises(ValueError, match=advice):
        gym.make(env_id, **arguments)


@pytest.mark.parametrize(
    ("env_id", "arguments"),
    [
        ("eyas/NumberLine-v0", {"max_position": 1}),
        ("eyas/NumberLine-v0", {"max_position": True}),
        ("eyas/NumberLine-v0", {"max_position": 100}),
        ("eyas/EZPoints-v0", {"face_cards": "eleven"}),
        ("eyas/Points24-v0", {"solvable_only": "no"}),
        ("eyas/Points24-v0", {"require_face": 2}),
        ("eyas/Blackjack-v0", {"suits": "green"}),
    ],
)
def test_bad_arguments_of_single_games(env_id, arguments):
    with pytest.raises(ValueError, match="type "):
        gym.make(env_id, **arguments)


@pytest.mark.parametrize("env_id", IDS)
def test_bad_steps(env_id):
    env = gym.make(env_id, mode="text").unwrapped
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    list(play(env, 0))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"type (an integer from 0|1 to 64 characters)"):
        env.step(99)


@pytest.mark.parametrize(("env_id", "arguments"), VARIANTS)
def test_descriptions(env_id, arguments):
    env = gym.make(env_id, mode="text", **arguments)
    description = env.unwrapped.description
    assert isinstance(description, TaskDescription)
    assert len(description.action_names) == getattr(env.action_space, "n", 0)
    assert 15 <= len(description.text.split()) <= 45
    assert "JSON" not in description.text
    expert = expert_for(env)
    for seed in range(10):
        env.reset(seed=seed)
        assert env.unwrapped.description is description
        move = expert(env.unwrapped)
        for facts in (env.unwrapped.facts, move.facts):
            for name in description.action_names or ("2+2",):
                thought = description.write_thought(facts, name)
                assert thought.endswith(f"I choose {name}.")
                assert 7 <= len(thought.split()) <= 20
                assert any(value in thought for value in facts.values())
