"""Evaluation within a run: what pictures it needs and leaves, and how environments run."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import eyas
from eyas.build import build_run
from eyas.config import RLStage, RunConfig
from eyas.evaluation.evaluate import Played
from eyas.rollouts.collector import Collector
from eyas.seeding import Split, environment_seed
from eyas.training import evaluation
from eyas.types import ImagePart
from helpers import picture

RL = {"kind": "rl", "iterations": 1, "num_envs": 3, "evaluate_episodes": 5}
EVAL = {"kind": "eval", "episodes": 6, "rows": ["untrained"], "decodings": ["greedy"], "num_envs": 2}
MODEL = {"options": {"hidden_size": 64, "intermediate_size": 96, "vision_hidden_size": 32}}
TASK = {"env": "eyas/NumberLine-v0", "env_args": {"jitter": 4}, "interface": {"max_new_tokens": 4}}


def config(tmp_path: Path, *stages: dict[str, Any], **changes: Any) -> RunConfig:
    plain = {"name": "run", "output": str(tmp_path), "model": MODEL, "tasks": [TASK], "stages": list(stages)}
    return RunConfig.model_validate(plain | changes)


def test_the_report_shows_episodes_whose_pictures_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 6 episodes 3 keep their pictures. The first is lost: the fourth does not take its place."""
    monkeypatch.setattr(evaluation, "SHOWN_OF", 3)
    inner = evaluation.play

    def play(task: Any, actor: Any, images: Any, *args: Any, **options: Any) -> Played:
        played = inner(task, actor, images, *args, **options)
        images.discard_except(evaluation.image_hashes([t for t in played.trajectories if t.episode < 3]))
        return Played(played.trajectories[1:], 1)

    monkeypatch.setattr(evaluation, "play", play)
    run = eyas.train(config(tmp_path, EVAL), console=Console(quiet=True))
    assert (run.folder / "report.html").exists()


def test_the_curve_leaves_no_picture_and_takes_none_of_training_s(tmp_path: Path) -> None:
    run = build_run(config(tmp_path, RL), Console(quiet=True))
    of_training = run.images.put(picture())
    (stage,) = run.config.stages
    assert isinstance(stage, RLStage)
    numbers = evaluation.evaluate_curve(run, stage, 0)
    assert numbers["eval/return_mean_greedy"] is not None
    assert len(run.images) == 1  # the wrong variant: every picture of both decodings
    assert of_training in run.images


def test_copies_failures_and_workers_are_those_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []
    inner = Collector.__init__

    def init(self: Collector, actor: Any, tasks: Any, images: Any, seed: Any, split: Any, num_envs: int, *args: Any,
             max_failures_in_a_row: int, **options: Any) -> None:  # fmt: skip
        made.append((num_envs, max_failures_in_a_row))
        inner(
            self, actor, tasks, images, seed, split, num_envs, *args,
            max_failures_in_a_row=max_failures_in_a_row, **options,
        )  # fmt: skip

    monkeypatch.setattr(Collector, "__init__", init)
    stages = [{"kind": "collect", "episodes": 5, "num_envs": 4}, {**RL, "evaluate_every": 1}, EVAL]
    eyas.train(config(tmp_path, *stages, max_env_failures_in_a_row=7), console=Console(quiet=True))
    assert made == [(4, 7), (3, 7), (3, 7), (3, 7), (2, 7)]


def test_the_episodes_of_a_group_begin_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    inner = Collector.episodes

    def episodes(self: Collector, *args: Any) -> Any:
        trajectories = inner(self, *args)
        seen.extend([dataclasses.replace(t) for t in trajectories])
        return trajectories

    monkeypatch.setattr(Collector, "episodes", episodes)
    stages = [{**RL, "name": name, "rollout_episodes": 6, "group_size": 3} for name in ("first", "second")]
    run = eyas.train(config(tmp_path, *stages), console=Console(quiet=True))
    assert len(seen) == 12
    for begin in range(0, 12, 3):  # also in a second stage, whose first episode is numbered so that groups are whole
        assert len({t.group for t in seen[begin : begin + 3]}) == 1
        starts = {
            tuple(p for p in t.steps[0].messages[0].parts if isinstance(p, ImagePart)) for t in seen[begin : begin + 3]
        }
        assert len(starts) == 1
    assert len({t.group for t in seen}) == 4
    assert {t.seed for t in seen} == {environment_seed(run.config.seed, Split.TRAIN, t.group) for t in seen}
