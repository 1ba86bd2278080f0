"""Runs with guided thoughts: resumed as if never stopped, and no option that does nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eyas.config import RunConfig
from helpers import SMALL
from tiny_runs import curve, played, weights

CLONED = {"batch_size": 4, "buffer_size": 20}


def play(output: Path, guidance: dict[str, Any], stop_after: int | None = None) -> Path:
    """A run of an rl stage; stopped after so many iterations and gone on with where asked."""
    tasks = [{"env": "eyas/NumberLine-v0", "env_args": {"max_position": 3}, "interface": {"max_new_tokens": 24}}]
    stage = {"kind": "rl", "iterations": 3, "num_envs": 4, "rollout_steps": 3, "minibatch_size": 6, "epochs": 1}
    stage |= {"checkpoint_every": 1, "algorithm": {"name": "gtr"}, "guidance": guidance, "optim": {"lr": 1e-3}}
    table = {"name": "run", "output": str(output), "model": {"name": "nano-random", "options": SMALL}}
    return played(RunConfig.model_validate({**table, "tasks": tasks, "stages": [stage]}), stop_after)


@pytest.mark.parametrize(
    "guidance",
    [
        {**CLONED, "ends_where": ("lost", "punished")},
        {**CLONED, "corrector": "model", "knows_truth": True, "most_calls": 40, "retries": 1},
    ],
)
def test_a_resumed_run_clones_the_same_corrections(tmp_path: Path, guidance: dict[str, Any]) -> None:
    whole = play(tmp_path / "whole", guidance)
    resumed = play(tmp_path / "resumed", guidance, stop_after=2)
    assert curve(whole) == curve(resumed)
    assert all(torch.equal(t, weights(resumed, "rl")[n]) for n, t in weights(whole, "rl").items())
    last = curve(whole)[-1]
    if guidance.get("corrector") == "model":
        assert sum(r["guidance/corrector_calls_count"] for r in curve(whole)) <= 40
    else:
        assert last["guidance/kept_count"] == 20 and np.isfinite(last["train/cloning_loss"])
        assert last["rollout/stop_guidance_count"] > 0


def losses(folder: Path) -> list[float]:
    return [record["train/policy_loss"] for record in curve(folder)]


def test_every_option_of_cloning_changes_what_is_learned(tmp_path: Path) -> None:
    plain = losses(play(tmp_path / "plain", CLONED))
    for i, change in enumerate(({"weight": 3.0}, {"batch_size": 8}, {"buffer_size": 4})):
        changed = losses(play(tmp_path / str(i), CLONED | change))
        assert changed[0] == pytest.approx(plain[0], abs=0.5) and changed[1:] != plain[1:]
