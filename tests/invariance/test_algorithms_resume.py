"""Runs of algorithms without a critic, and with one of tokens: from recipe to metrics, and resumed as if never stopped."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from eyas.config import RunConfig
from eyas.rollouts.datasets import load_trajectories
from helpers import SMALL
from tiny_runs import curve, played, weights


def config(output: Path, algorithm: dict[str, Any], **tables: Any) -> RunConfig:
    interface = {"format": "plain", "thoughts": False, "action_mode": "score"}
    stage = {"kind": "rl", "iterations": 3, "num_envs": 4, "rollout_episodes": 8, "group_size": 4}
    stage |= {"minibatch_size": 8, "checkpoint_every": 1, "algorithm": algorithm, "optim": {"lr": 1e-3}}
    return RunConfig.model_validate(
        {
            "name": "run",
            "output": str(output),
            "model": {"name": "nano-random", "options": SMALL},
            "tasks": [{"env": "eyas/NumberLine-v0", "env_args": {"max_position": 3}, "interface": interface}],
            "stages": [stage],
            **tables,
        }
    )


def play(output: Path, algorithm: dict[str, Any], stop_after: int | None = None, **tables: Any) -> Path:
    return played(config(output, algorithm, **tables), stop_after)


def test_resume_with_a_reference_gives_the_same_curve(tmp_path: Path) -> None:
    """The reference is the stage's beginning, not where it was resumed."""
    algorithm = {"name": "grpo", "kl_coef": 0.2}
    whole = play(tmp_path / "whole", algorithm)
    resumed = play(tmp_path / "resumed", algorithm, stop_after=2)
    assert curve(whole) == curve(resumed)
    assert all(torch.equal(t, weights(resumed, "rl")[n]) for n, t in weights(whole, "rl").items())
    kls = [record["train/kl_k3_policy_reference"] for record in curve(whole)]
    assert kls[2] > 1e-6  # three updates away from it


def test_replaced_groups_are_recorded_without_an_advantage(tmp_path: Path) -> None:
    folder = play(tmp_path, {"name": "dapo", "more_groups": 2})
    shares = [record["rollout/replaced_episodes_share"] for record in curve(folder)]
    trajectories = load_trajectories(folder)
    is_credited = [t.steps[0].advantage is not None for t in trajectories]
    assert len(trajectories) == len({t.episode for t in trajectories}) > 24 or not any(shares)
    assert np.mean(is_credited) < 1 if any(shares) else all(is_credited)
    assert any(shares)


def test_a_critic_of_tokens_learns_in_a_run(tmp_path: Path) -> None:
    folder = play(tmp_path, {"name": "vagen"}, critic={"level": "token"})
    records = curve(folder)
    assert all(np.isfinite(record["train/value_loss"]) for record in records)
    assert all(record["train/mismatch_kl_k3_sampling_policy"] < 1e-6 for record in records)
