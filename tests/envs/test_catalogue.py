"""Every environment of the catalogue plays through the same way as in training: chance, and a model that chooses or writes.

Without EYAS_ALL_ENVS the installed ones play. With 1 every one has to be installed, with "pip" those that pip alone installs.
"""

import dataclasses
import math
import os
from typing import Any

import pytest

from eyas.build import build_task
from eyas.config import InterfaceConfig, TaskConfig
from eyas.envs.catalog import CATALOG, CatalogEntry
from eyas.evaluation.evaluate import play
from eyas.interface import Interface
from eyas.models.policy import Policy
from eyas.rollouts.actors import Actor, PolicyActor, RandomActor
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.task import Task
from eyas.types import ExecutedBy, ImagePart, Message, StopReason, TextPart, Trajectory
from helpers import nano_policy

WANTED = os.environ.get("EYAS_ALL_ENVS", "")
RANDOM_EPISODES, MODEL_EPISODES = 20, 5
MOST_STEPS = 30 if WANTED else 15
MOST_STEPS_OF_A_BROWSER = 5  # a step takes a tenth of a second
MOST_BROWSERS = 2
MOST_SCORED = 20  # actions


def entries() -> list[CatalogEntry]:
    if WANTED not in ("", "pip", "1"):
        raise ValueError(f"EYAS_ALL_ENVS is {WANTED!r}: write 1, pip, or nothing")
    return [e for e in CATALOG if e.is_installed or WANTED == "1" or (WANTED == "pip" and not e.programs)]


@pytest.fixture(params=entries(), ids=lambda entry: entry.id)
def entry(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> CatalogEntry:
    entry = request.param
    assert entry.is_installed, f"{entry.id} needs {', '.join(entry.modules + entry.programs)}: type `make test-envs`"
    for name, value in entry.variables.items():
        monkeypatch.setenv(name, os.environ.get(name) or value)
    monkeypatch.chdir(tmp_path)  # ViZDoom leaves a folder where it runs
    return entry


@pytest.fixture(scope="module")
def policy() -> Policy:
    return nano_policy(context=8192)


def task_of(entry: CatalogEntry) -> Task:
    limit = MOST_STEPS_OF_A_BROWSER if entry.programs else MOST_STEPS
    env_args = {**entry.env_args, "max_episode_steps": limit}
    return build_task(
        TaskConfig(env=entry.id, env_args=env_args, interface=InterfaceConfig(format="plain", max_new_tokens=6))
    )


def played_by(actor: Actor, entry: CatalogEntry, task: Task, images: MemoryImageStore, count: int) -> list[Trajectory]:
    num_envs = MOST_BROWSERS if entry.programs else 5
    played = play(task, actor, images, 0, range(count), num_envs=num_envs, keep_pictures_below=1)
    assert played.num_lost == 0
    assert [t.episode for t in played.trajectories] == list(range(count))
    return played.trajectories


def check_episodes(trajectories: list[Trajectory], task: Task, images: MemoryImageStore) -> None:
    for trajectory in trajectories:
        assert trajectory.stop_reason in (StopReason.TERMINATED, StopReason.TRUNCATED)
        assert trajectory.steps
        for step in trajectory.steps:
            assert math.isfinite(step.reward.total)
            assert shows_something(step.messages, task.interface)
            assert is_legal(step.action, step.legal_actions, task.interface)
    hashes = [h for step in trajectories[0].steps for h in picture_hashes(step.messages)]
    assert not hashes or any(images.get(h).std() > 0 for h in hashes), "every picture is of one colour"


def picture_hashes(messages: tuple[Message, ...]) -> list[str]:
    return [p.image_hash for m in messages for p in m.parts if isinstance(p, ImagePart)]


def shows_something(messages: tuple[Message, ...], interface: Interface) -> bool:
    """Beside the task and the instruction, which stand in every prompt."""
    always = len(f"{interface.description.text} {interface.format.instruction()}")
    said = sum(len(p.text) for m in messages for p in m.parts if isinstance(p, TextPart))
    return bool(picture_hashes(messages)) or said > always


def is_legal(action: Any, legal: tuple[Any, ...] | None, interface: Interface) -> bool:
    return interface.codec.space.contains(action) and interface.codec.is_legal(action, legal)


def test_random_players_play_to_the_end(entry: CatalogEntry) -> None:
    images, task = MemoryImageStore(), task_of(entry)
    trajectories = played_by(RandomActor(), entry, task, images, RANDOM_EPISODES)
    check_episodes(trajectories, task, images)
    actions = {step.action_name for t in trajectories for step in t.steps}
    assert len(actions) > 1


def test_an_untrained_model_plays_to_the_end(entry: CatalogEntry, policy: Policy) -> None:
    """Actions that can be listed are scored, so that each one is the model's own; others are written."""
    task = task_of(entry)
    is_scored = 0 < len(task.interface.codec.names) <= MOST_SCORED
    if is_scored:
        task = dataclasses.replace(task, interface=dataclasses.replace(task.interface, action_mode="score"))
    images = policy.images
    assert isinstance(images, MemoryImageStore)
    images.clear()
    trajectories = played_by(PolicyActor(policy), entry, task, images, MODEL_EPISODES)
    check_episodes(trajectories, task, images)
    steps = [step for t in trajectories for step in t.steps]
    allowed = {ExecutedBy.POLICY} if is_scored else {ExecutedBy.POLICY, ExecutedBy.FALLBACK}
    assert {step.executed_by for step in steps} <= allowed
    assert all(step.completion.token_ids is not None and len(step.completion.token_ids) for step in steps)
