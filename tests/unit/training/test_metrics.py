import io
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eyas.errors import ConfigError, DatasetError
from eyas.training.metrics import MetricsWriter, open_trackers, read_metrics, set_aside_after


def _write(path: Path, *iterations: int, stage: str = "rl") -> None:
    with MetricsWriter(path) as writer:
        for iteration in iterations:
            writer.write({"stage": stage, "iteration": iteration, "rollout/return_mean": iteration / 3})


def _iterations(path: Path) -> list[int]:
    return [r["iteration"] for r in read_metrics(path)]


def test_each_line_is_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run/metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write({"stage": "rl", "iteration": 0, "train/clip_share": np.float32(0.5), "train/kl": np.array([2.0])})
    (record,) = read_metrics(path)
    assert record.pop("time_s") > 1.6e9
    assert record == {"stage": "rl", "iteration": 0, "train/clip_share": 0.5, "train/kl": 2.0}
    writer.close()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -np.inf, np.float32("nan")])
def test_what_is_no_number_is_null(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "m.jsonl"
    with MetricsWriter(path) as writer:
        writer.write({"stage": "rl", "iteration": 0, "train/loss": bad})
    assert '"train/loss": null' in path.read_text()


def test_reopening_appends(tmp_path: Path) -> None:
    _write(tmp_path / "m.jsonl", 0, 1)
    _write(tmp_path / "m.jsonl", 2)
    assert _iterations(tmp_path / "m.jsonl") == [0, 1, 2]


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_half_written_last_line_is_left_out_and_never_glued_to(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "m.jsonl"
    _write(path, 0, 1)
    path.write_bytes(path.read_bytes()[:-cut])
    whole = [0, 1] if cut == 1 else [0]  # only the newline was lost: the record is whole
    assert _iterations(path) == whole
    _write(path, 2)
    assert _iterations(path) == [*whole, 2]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_cut_inside_a_character(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    _write(path, 0)
    path.write_bytes(path.read_bytes() + '{"stage": "ü'.encode()[:-1])
    assert _iterations(path) == [0]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"iteration": 0}\n{"iter\n{"iteration": 2}\n')
    with pytest.raises(DatasetError, match=r"line 2 of .*m\.jsonl"):
        read_metrics(path)


def test_missing_file_has_no_records(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "gone.jsonl") == []
    assert set_aside_after(tmp_path / "gone.jsonl", lambda r: True) == 0


def test_set_aside_moves_and_never_duplicates(tmp_path: Path) -> None:
    path, aside = tmp_path / "metrics.jsonl", tmp_path / "metrics.discarded.jsonl"
    _write(path, 0, stage="sft")
    _write(path, 0, 1, 2, 3)
    before = path.read_text().splitlines()
    assert set_aside_after(path, lambda r: r["stage"] == "rl" and r["iteration"] >= 2) == 2
    assert path.read_text().splitlines() == before[:3]
    assert aside.read_text().splitlines() == before[3:]
    _write(path, 2)
    assert _iterations(path) == [0, 0, 1, 2]
    assert set_aside_after(path, lambda r: r["iteration"] >= 2) == 1
    assert [r["iteration"] for r in read_metrics(aside)] == [2, 3, 2]
    assert set_aside_after(path, lambda r: False) == 0


def test_set_aside_again_after_a_kill_between_its_two_writes(tmp_path: Path) -> None:
    path, aside = tmp_path / "metrics.jsonl", tmp_path / "metrics.discarded.jsonl"
    _write(path, 0, 1)
    aside.write_text(path.read_text().splitlines()[1] + "\n")
    set_aside_after(path, lambda r: r["iteration"] >= 1)
    assert _iterations(path) == [0]
    assert [r["iteration"] for r in read_metrics(aside)] == [1]


# ----------------------------------------------------------------------------------------------- trackers


class _FakeSummaryWriter:
    calls: list[tuple[Any, ...]] = []  # noqa: RUF012

    def __init__(self, log_dir: str) -> None:
        self.calls.clear()
        self.calls.append(("open", Path(log_dir).name))

    def add_text(self, tag: str, text: str) -> None:
        json.loads(text.removeprefix("```json\n").removesuffix("\n```"))

    def add_scalar(self, tag: str, value: float, global_step: int) -> None:
        self.calls.append((tag, value, global_step))

    def close(self) -> None:
        self.calls.append(("close",))


def test_tensorboard_gets_the_numbers_by_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.SimpleNamespace(SummaryWriter=_FakeSummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    trackers = open_trackers(["tensorboard"], tmp_path, {"seed": 0, "path": tmp_path})
    with MetricsWriter(tmp_path / "m.jsonl", trackers) as writer:
        writer.write({"stage": "rl", "kind": "rl", "iteration": 4, "train/loss": 0.5, "train/kl": float("nan")})
    assert _FakeSummaryWriter.calls == [("open", "tensorboard"), ("rl/train/loss", 0.5, 4), ("close",)]


@pytest.mark.parametrize(("environment", "expected"), [(None, "offline"), ("online", "online")])
def test_wandb_is_offline_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: str | None, expected: str
) -> None:
    calls: list[Any] = []
    run = types.SimpleNamespace(
        define_metric=lambda name, step_metric: calls.append((name, step_metric)),
        log=calls.append,
        finish=lambda: calls.append("finish"),
    )
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **kw: calls.append(kw["mode"]) or run))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if environment:
        monkeypatch.setenv("WANDB_MODE", environment)
    with MetricsWriter(tmp_path / "m.jsonl", open_trackers(["wandb"], tmp_path, {})) as writer:
        for iteration in (0, 1):
            writer.write({"stage": "rl", "iteration": iteration, "train/loss": 0.5})
    logged = [{"rl/train/loss": 0.5, "rl/iteration": i} for i in (0, 1)]
    assert calls == [expected, ("rl/*", "rl/iteration"), *logged, "finish"]


def test_tensorboard_shows_a_film_as_a_picture_that_moves(tmp_path: Path) -> None:
    """The bytes of the GIF stand in the event file as they are: no package for videos is asked for."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    gif = b"GIF89a" + bytes(range(256))
    with MetricsWriter(tmp_path / "m.jsonl", open_trackers(["tensorboard"], tmp_path, {})) as writer:
        writer.film("rl", 4, gif)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (shown,) = events.Images("rl/film")
    assert (shown.step, shown.width, shown.height, shown.encoded_image_string) == (4, 896, 512, gif)


def test_wandb_gets_a_film_as_a_gif_on_the_axis_of_its_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    run = types.SimpleNamespace(define_metric=lambda *a, **kw: calls.append(kw), log=calls.append, finish=lambda: None)

    def video(data: io.BytesIO, format: str) -> tuple[str, bytes]:
        return format, data.read()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **kw: run, Video=video))
    with MetricsWriter(tmp_path / "m.jsonl", open_trackers(["wandb"], tmp_path, {})) as writer:
        writer.film("rl", 4, b"GIF89a")
    assert calls == [{"step_metric": "rl/iteration"}, {"rl/film": ("gif", b"GIF89a"), "rl/iteration": 4}]


def test_a_missing_package_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}.items():
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigError, match=r"pip install eyas\[track\]"):
            open_trackers([name], tmp_path, {})


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown tracker 'neptune': use tensorboard or wandb"):
        open_trackers(["neptune"], tmp_path, {})


def test_a_tracker_that_fails_does_not_cost_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(record: Any) -> None:
        raise ConnectionError("out of reach")

    tracker = types.SimpleNamespace(log=fail, close=lambda: None)
    with MetricsWriter(tmp_path / "m.jsonl", [tracker]) as writer:
        writer.write({"stage": "rl", "iteration": 0})
    assert _iterations(tmp_path / "m.jsonl") == [0]
    assert "out of reach" in caplog.text
