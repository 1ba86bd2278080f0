"""Films that a run makes of itself."""

import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

import eyas
from eyas.config import RunConfig
from eyas.evaluation import film
from eyas.evaluation.records import read_metrics
from eyas.training import metrics

MODEL = {"options": {"hidden_size": 64, "intermediate_size": 96, "vision_hidden_size": 32}}
TASK = {"env": "eyas/NumberLine-v0", "env_args": {"jitter": 4}, "interface": {"max_new_tokens": 4}}
RL = {"kind": "rl", "iterations": 2, "num_envs": 2, "rollout_steps": 2, "evaluate_every": 1, "evaluate_episodes": 1}
EVAL = {"kind": "eval", "episodes": 1, "rows": ["random", "rl"]}


class Tracker:
    def __init__(self) -> None:
        self.films: list[tuple[str, int, bytes]] = []

    def log(self, record: Any) -> None:
        pass

    def film(self, stage: str, iteration: int, gif: bytes) -> None:
        self.films.append((stage, iteration, gif))

    def close(self) -> None:
        pass


def train(tmp_path: Path, **changes: Any) -> Path:
    plain = {"name": "run", "output": str(tmp_path), "model": MODEL, "tasks": [TASK], "stages": [RL, EVAL]}
    return eyas.train(RunConfig.model_validate(plain | changes), console=Console(quiet=True)).folder


def test_each_evaluation_leaves_a_film_and_the_trackers_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The curve's first greedy episode, and one of each row that learned; chance makes no film."""
    tracker = Tracker()
    monkeypatch.setitem(metrics._TRACKERS, "tensorboard", lambda *_: tracker)
    folder = train(tmp_path, track=["tensorboard"])
    films = sorted(path.name for path in (folder / "films").iterdir())
    assert films == ["eval-rl-greedy.webp", "eval-rl-sample.webp", "rl_000000.webp", "rl_000001.webp"]
    for path in (folder / "films").iterdir():
        with Image.open(path) as image:
            assert image.size == (896, 512)
    shown = [(stage, iteration) for stage, iteration, _ in tracker.films]
    assert shown == [("rl", 0), ("rl", 1), ("eval-rl-greedy", 0), ("eval-rl-sample", 0)]
    assert all(gif.startswith(b"GIF89a") for _, _, gif in tracker.films)


def test_a_run_without_films_makes_none(tmp_path: Path) -> None:
    assert not (train(tmp_path, films=False, stages=[RL | {"iterations": 1}]) / "films").exists()


def test_a_film_that_cannot_be_made_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(film, "draw", fail)
    with caplog.at_level(logging.WARNING):
        folder = train(tmp_path, stages=[RL])
    assert "the film rl_000000 could not be made: [Errno 28] No space left on device" in caplog.text
    assert len(read_metrics(folder / "metrics.jsonl")) == 2
    assert not list((folder / "films").iterdir())
