"""The catalogue: every id is real, everything that is installed plays, nothing is loaded to list it."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import gymnasium as gym
import pytest

import eyas.envs
from eyas.envs.catalog import CATALOG, CatalogEntry

REPOSITORY = Path(__file__).parents[3]
INSTALLED = [entry for entry in CATALOG if entry.is_installed]


def test_the_catalogue_begins_with_all_of_eyas_and_names_nothing_twice():
    ids = [entry.id for entry in CATALOG]
    own = [i for i in ids if i.startswith("eyas/")]
    assert set(own) == eyas.envs.REGISTRATIONS.keys() | eyas.envs.ADAPTED.keys()
    assert ids[: len(own)] == own
    assert len(set(ids)) == len(ids)


def test_what_needs_another_package_names_an_extra_that_exists():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for entry in CATALOG:
        assert bool(entry.extra) == bool(entry.modules)
        assert not entry.extra or entry.extra in project["optional-dependencies"]


def test_the_games_that_need_nothing_and_the_light_ones_are_here():
    ids = {entry.id for entry in INSTALLED}
    assert {"eyas/Sokoban-v0", "eyas/FrozenLake-v0", "CartPole-v1", "minigrid:BabyAI-GoToLocal-v0"} <= ids


@pytest.mark.parametrize("entry", INSTALLED, ids=lambda entry: entry.id)
def test_what_is_installed_can_be_made_and_played(entry, monkeypatch):
    for name, value in entry.variables.items():
        monkeypatch.setenv(name, os.environ.get(name, value))
    env = gym.make(entry.id, max_episode_steps=5, **entry.env_args)
    env.action_space.seed(0)
    for seed in range(2):
        observation, _ = env.reset(seed=seed)
        assert env.observation_space.contains(observation)
        is_over = False
        while not is_over:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            is_over = terminated or truncated
    picture = env.render() if "render_mode" in entry.env_args else None
    assert picture is None or (picture.ndim == 3 and picture.shape[2] == 3)
    env.close()


def test_listing_loads_nothing():
    code = (
        "import sys; from eyas.envs.catalog import CATALOG; [entry.is_installed for entry in CATALOG];"
        "assert not {'pygame', 'minigrid', 'torch', 'mujoco', 'PIL', 'eyas.envs.numberline'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("needs", "is_installed"),
    [
        ({}, True),
        ({"modules": ("json", "numpy")}, True),
        ({"modules": ("json", "no_such_module")}, False),
        ({"programs": ("sh",)}, True),
        ({"programs": ("no-such-program",)}, False),
    ],
)
def test_installed_means_that_every_module_and_program_is_here(needs, is_installed):
    assert CatalogEntry("x-v0", "", **needs).is_installed is is_installed
