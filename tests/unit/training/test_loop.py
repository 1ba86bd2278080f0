"""The loop: what a resumed stage begins with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import gymnasium as gym
import pytest
from rich.console import Console

import eyas.envs  # noqa: F401
from eyas.build import build_run
from eyas.config import RunConfig
from eyas.evaluation.records import read_metrics
from eyas.interface import Interface
from eyas.rollouts.collector import Collector
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.task import Task
from eyas.seeding import Split
from eyas.training import loop
from eyas.training.loop import _iterate, train
from eyas.training.run import Interrupted, Run
from helpers import ScriptedPolicy, seeded_text


def number_line(images: MemoryImageStore) -> Collector:
    def make() -> gym.Env:
        return gym.make("eyas/NumberLine-v0", max_position=40)

    return Collector(ScriptedPolicy(seeded_text), [Task(make, Interface.for_env(make()))], images, 0, Split.TRAIN, 2)


def test_a_resumed_stage_keeps_only_the_pictures_that_running_episodes_show(tmp_path: Path) -> None:
    before = number_line(MemoryImageStore())
    before.steps(9)
    images = MemoryImageStore()
    collector = number_line(images)
    parts: dict[str, Any] = {"optimizer": None, "learner": None, "collector": before.state_dict(), "reference": None}
    run: Any = SimpleNamespace(
        take_parts=lambda: parts, state={"iteration": 3}, images=images, console=Console(quiet=True), folder=tmp_path
    )
    stage: Any = SimpleNamespace(name="rl", algorithm=SimpleNamespace(name="ppo"), iterations=3)
    _iterate(run, stage, Mock(needs_reference=False), Mock(), collector)
    assert 0 < len(images) == len(collector.image_hashes()) <= 2


def small_run(folder: Path) -> Run:
    stage = {"kind": "rl", "iterations": 4, "num_envs": 2, "rollout_steps": 1, "minibatch_size": 2, "epochs": 1}
    task = {"env": "eyas/NumberLine-v0", "env_args": {"mode": "text"}, "interface": {"max_new_tokens": 4}}
    config = {"name": "run", "output": str(folder), "tasks": [task], "stages": [stage]}
    return build_run(RunConfig.model_validate(config), Console(quiet=True))


def test_a_warning_is_said_and_logged_and_a_resumed_stage_knows_what_came_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []

    def find(records: Sequence[Mapping[str, Any]]) -> list[str]:
        seen.append(len(records))
        assert all("rollout/parse_rate" in r for r in records)
        return ["format: type this"] if len(records) == 2 else []

    monkeypatch.setattr(loop, "new_collapses", find)
    run = small_run(tmp_path)
    write = run.log

    def stop_after_two(stage: str, iteration: int, numbers: Mapping[str, Any]) -> None:
        write(stage, iteration, numbers)
        run.stop_requested = iteration == 1

    monkeypatch.setattr(run, "log", stop_after_two)
    with pytest.raises(Interrupted):
        train(run)
    train(small_run(tmp_path), resume=True)
    assert seen == [1, 2, 3, 4]
    logged = [r.get("warnings") for r in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert logged == [None, ["format: type this"], None, None]
    assert [r.getMessage() for r in caplog.records if "format" in r.getMessage()] == ["iteration 1: format: type this"]
