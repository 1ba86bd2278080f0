"""An episode replays bit for bit from id, arguments, seed and actions."""

import gymnasium as gym
import numpy as np
import pytest

import eyas.envs
from helpers_envs import some_action

CASES = [
    ("eyas/NumberLine-v0", {}),
    ("eyas/NumberLine-v0", {"jitter": 6, "max_position": 20, "background": "green"}),
    ("eyas/EZPoints-v0", {"jitter": 3}),
    ("eyas/EZPoints-v0", {"face_cards": "rank", "suits": "red", "require_face": True}),
    ("eyas/Points24-v0", {"suits": "black"}),
    ("eyas/Points24-v0", {"solvable_only": False, "jitter": 16}),
    ("eyas/GeneralPoints-v0", {"jitter": 3}),
    ("eyas/GeneralPoints-v0", {"num_cards": 3, "target": 12, "face_cards": "rank", "require_face": True}),
    ("eyas/Blackjack-v0", {"jitter": 6}),
    ("eyas/FrozenLake-v0", {}),
    ("eyas/FrozenLake-v0", {"is_slippery": True, "size": 5, "tile_size": 7}),
    ("eyas/FrozenLake4x4-v0", {}),
    ("eyas/Sokoban-v0", {"jitter": 3}),
    ("eyas/Sokoban-v0", {"num_boxes": 2, "background": "green"}),
]


def record(env_id: str, arguments: dict, seed: int, num_steps: int, dirty: bool = False) -> list:
    """What a player sees; a dirty environment has played other episodes before."""
    env = gym.make(env_id, **arguments)
    if dirty:
        env.reset(seed=seed + 1)
        env.step(some_action(env.action_space, np.random.default_rng(0)))
        env.reset()
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    seen = [(digest(observation), info)]
    for _ in range(num_steps):
        observation, *rest = env.step(some_action(env.action_space, rng))
        seen.append((digest(observation), *rest))
        if rest[1] or rest[2]:
            observation, info = env.reset()  # the next episode continues the same stream
            seen.append((digest(observation), info))
    return seen


def digest(observation: np.ndarray | str) -> bytes | str:
    return observation if isinstance(observation, str) else observation.tobytes()


def test_every_environment_has_a_case():
    assert {env_id for env_id, _ in CASES} == eyas.envs.REGISTRATIONS.keys()


@pytest.mark.parametrize("mode", ["image", "text"])
@pytest.mark.parametrize(("env_id", "arguments"), CASES)
def test_replay_is_exact(env_id, arguments, mode):
    arguments = arguments | {"mode": mode}
    for seed in (0, 1, 12345):
        first = record(env_id, arguments, seed, 12)
        assert first == record(env_id, arguments, seed, 12)
        assert first == record(env_id, arguments, seed, 12, dirty=True)


@pytest.mark.parametrize(("env_id", "arguments"), CASES)
def test_seeds_matter(env_id, arguments):
    starts = {record(env_id, arguments, seed, 0)[0][0] for seed in range(20)}
    assert len(starts) > 5
