"""A run that touches every stage in a few seconds, and what is needed to compare two of them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from eyas.build import build_run
from eyas.config import RunConfig
from eyas.evaluation.records import read_metrics
from eyas.training.loop import train
from eyas.training.run import Interrupted

TINY = [
    "stages.collect.episodes=12",
    "stages.sft.steps=6",
    "stages.sft.batch_size=8",
    "stages.sft.validation_every=2",
    "stages.sft.optim.warmup_steps=2",
    "stages.rl.iterations=5",
    "stages.rl.num_envs=4",
    "stages.rl.rollout_steps=3",
    "stages.rl.minibatch_size=6",
    "stages.rl.checkpoint_every=1",
    "stages.sft_continued.batch_size=8",
    "stages.eval.episodes=6",
    "tasks.0.interface.max_new_tokens=36",
    "tasks.0.env_args.jitter=4",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def start(output: Path, *arguments: str) -> subprocess.Popen[str]:
    """`eyas train` of the tiny run in a process of its own, which a test may kill."""
    command = [sys.executable, "-m", "eyas", "train", "numberline_ppo", *TINY, "name=tiny", "--output", str(output)]
    return subprocess.Popen(
        [*command, *arguments], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return output


def played(recipe: RunConfig, stop_after: int | None = None) -> Path:
    """A whole run in this process, stopped after so many iterations of its rl stage and gone on with where asked."""
    run = build_run(recipe, Console(quiet=True))
    if stop_after is not None:
        log = run.log

        def log_and_stop(stage: str, iteration: int, numbers: Any) -> None:
            log(stage, iteration, numbers)
            run.stop_requested = stage == "rl" and iteration + 1 == stop_after

        run.log = log_and_stop  # type: ignore[method-assign]
        with pytest.raises(Interrupted):
            train(run)
        run = build_run(recipe, Console(quiet=True))
    train(run, resume=stop_after is not None)
    return run.folder


def weights(run: Path, checkpoint: str) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints" / checkpoint
    return load_file(folder / "model.safetensors") | load_file(folder / "value_head.safetensors")


def curve(run: Path) -> list[dict[str, Any]]:
    """Every record without what a clock says."""
    return [
        {k: v for k, v in record.items() if not k.startswith("time")} for record in read_metrics(run / "metrics.jsonl")
    ]
