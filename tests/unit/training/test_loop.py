"""The loop: what a resumed stage begins with."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import gymnasium as gym
from rich.console import Console

import eyas.envs  # noqa: F401
from eyas.interface import Interface
from eyas.rollouts.collector import Collector
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.task import Task
from eyas.seeding import Split
from eyas.training.loop import _iterate
from helpers import ScriptedPolicy, seeded_text


def number_line(images: MemoryImageStore) -> Collector:
    def make() -> gym.Env:
        return gym.make("eyas/NumberLine-v0", max_position=40)

    return Collector(ScriptedPolicy(seeded_text), [Task(make, Interface.for_env(make()))], images, 0, Split.TRAIN, 2)


def test_a_resumed_stage_keeps_only_the_pictures_that_running_episodes_show() -> None:
    before = number_line(MemoryImageStore())
    before.steps(9)
    images = MemoryImageStore()
    collector = number_line(images)
    parts: dict[str, Any] = {"optimizer": None, "learner": None, "collector": before.state_dict(), "reference": None}
    run: Any = SimpleNamespace(
        take_parts=lambda: parts, state={"iteration": 3}, images=images, console=Console(quiet=True)
    )
    stage: Any = SimpleNamespace(name="rl", algorithm=SimpleNamespace(name="ppo"), iterations=3)
    _iterate(run, stage, Mock(needs_reference=False), Mock(), collector)
    assert 0 < len(images) == len(collector.image_hashes()) <= 2
