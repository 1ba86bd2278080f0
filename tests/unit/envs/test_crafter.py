"""Crafter as a Gymnasium environment, with a small game in the place of the package."""

import sys
from collections import defaultdict
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from eyas.envs.crafter import CrafterEnv

NAMES = [f"collect_{i}" for i in range(22)]


class World:
    def __init__(self):
        self.reset()

    def reset(self, seed=None):
        self.random, self._chunks = np.random.RandomState(seed), defaultdict(set)


class Game:
    """Health falls by one with "noop", to 0 at last; every other action reaches the achievement of its number."""

    action_names = ("noop", "move_left", "do")

    def __init__(self, size, length, seed):
        assert length is None  # else the game would end by itself, and call that an end
        self._size, self._seed, self._episode, self._world = size, seed, 0, World()

    def reset(self):
        self._episode += 1
        self._world.reset(seed=hash((self._seed, self._episode)) % (2**31 - 1))
        self._player = SimpleNamespace(health=2, achievements=dict.fromkeys(NAMES, 0), inventory={"health": 2})
        return self.render()

    def step(self, action):
        self._player.health -= action == 0
        self._player.achievements[NAMES[action]] += 1 if action else 0
        info = {"achievements": self._player.achievements, "inventory": {"health": self._player.health}, "semantic": 1}
        return self.render(), 0.1, self._player.health <= 0, info

    def render(self):
        return self._world.random.randint(0, 256, (*self._size, 3)).astype(np.uint8)


@pytest.fixture
def env(monkeypatch):
    package = ModuleType("crafter")
    package.Env = Game
    monkeypatch.setitem(sys.modules, "crafter", package)
    return CrafterEnv(render_mode="rgb_array")


def test_progress_is_the_share_of_the_achievements_that_were_reached_at_least_once(env):
    _, info = env.reset(seed=0)
    assert info["progress"] == 0
    shares = [env.step(action)[4]["progress"] for action in (1, 1, 2)]
    assert shares == pytest.approx([1 / 22, 1 / 22, 2 / 22])


def test_death_terminates_and_nothing_truncates(env):
    env.reset(seed=0)
    assert [env.step(0)[2:4] for _ in range(2)] == [(False, False), (True, False)]


def test_a_seed_decides_the_world_whatever_was_played_before(env):
    first, _ = env.reset(seed=4)
    second, _ = env.reset()
    assert not np.array_equal(first, second)
    assert np.array_equal(env.reset(seed=4)[0], first)
    assert np.array_equal(env.reset()[0], second)
    assert not np.array_equal(env.reset(seed=5)[0], first)


def test_creatures_are_walked_through_in_the_order_in_which_they_came(env):
    env.reset(seed=0)
    chunk = env._game._world._chunks["somewhere"]
    for creature in ("zombie", "cow", "arrow", "plant"):
        chunk.add(creature)
    chunk.remove("cow")
    chunk.add("cow")
    assert list(chunk) == ["zombie", "arrow", "plant", "cow"]


def test_info_is_a_copy_and_the_actions_have_names(env):
    env.reset(seed=0)
    *_, info = env.step(1)
    env.step(1)
    assert info["achievements"][NAMES[1]] == 1
    assert set(info) == {"progress", "achievements", "inventory"}
    assert env.description.action_names == ("noop", "move left", "do")


def test_an_unknown_action_says_what_to_type(env):
    env.reset(seed=0)
    with pytest.raises(ValueError, match="from 0 to 2"):
        env.step(3)
