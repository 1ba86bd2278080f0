"""A run that is killed and resumed is the run that was never killed, bit for bit."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from eyas.rollouts.datasets import load_trajectories
from tiny_runs import curve, finish, start, weights


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted")
    finish(start(output))
    return output / "tiny"


def stop_when(output: Path, is_reached: Callable[[list[dict]], bool], with_signal: int) -> int:
    """Starts the run, sends the signal once its metrics say so, and returns the exit code."""
    process = start(output)
    metrics = output / "tiny" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and is_reached(curve(output / "tiny")):
            process.send_signal(with_signal)
            break
        time.sleep(0.005)
    process.communicate(timeout=200)
    return process.returncode


def in_stage(stage: str, iteration: int) -> Callable[[list[dict]], bool]:
    return lambda records: any(r["stage"] == stage and r["iteration"] >= iteration for r in records)


def assert_same_run(one: Path, other: Path) -> None:
    for checkpoint in ("sft", "rl", "sft_continued"):
        for name, tensor in weights(one, checkpoint).items():
            assert torch.equal(tensor, weights(other, checkpoint)[name]), (checkpoint, name)
    assert curve(one) == curve(other)
    report = [(run / "report.json").read_text().partition('"duration_s"')[0] for run in (one, other)]
    assert report[0] == report[1]
    episodes = [[(t.episode, t.first_step, t.total_return) for t in load_trajectories(run)] for run in (one, other)]
    assert episodes[0] == episodes[1]


@pytest.mark.slow
@pytest.mark.parametrize("where", [("sft", 3), ("rl", 2)], ids=["in sft", "in rl"])
def test_resume_after_sigkill_gives_the_same_curve(uninterrupted: Path, tmp_path: Path, where: tuple[str, int]) -> None:
    assert stop_when(tmp_path, in_stage(*where), signal.SIGKILL) == -signal.SIGKILL
    assert not (tmp_path / "tiny" / "report.json").exists()
    finish(start(tmp_path, "--resume"))
    assert_same_run(tmp_path / "tiny", uninterrupted)


@pytest.mark.slow
def test_resume_after_ctrl_c_gives_the_same_curve(uninterrupted: Path, tmp_path: Path) -> None:
    assert stop_when(tmp_path, in_stage("rl", 1), signal.SIGINT) == 130
    finish(start(tmp_path, "--resume"))
    assert_same_run(tmp_path / "tiny", uninterrupted)
