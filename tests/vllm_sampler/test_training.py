"""A run whose completions vLLM writes: the ratio is 1 before the first update, and every update reaches vLLM."""

from pathlib import Path

import pytest
from rich.console import Console

from eyas.build import train
from eyas.config import RunConfig
from eyas.evaluation.records import read_metrics
from helpers_vllm import OPTIONS


@pytest.mark.parametrize("what_learns", ["full", "lora"])
def test_ppo_trains_with_vllm_and_the_learner_agrees_in_every_iteration(tmp_path: Path, what_learns: str):
    config = RunConfig.model_validate(
        {
            "name": "tiny",
            "model": {"train": what_learns},
            "sampler": OPTIONS,
            "tasks": [{"env": "eyas/NumberLine-v0", "interface": {"max_new_tokens": 24}}],
            "stages": [{"kind": "rl", "iterations": 3, "num_envs": 6, "rollout_steps": 3, "minibatch_size": 9}],
        }
    )
    train(config, output=tmp_path, console=Console(quiet=True))
    records = read_metrics(tmp_path / "tiny/metrics.jsonl")
    assert len(records) == 3
    for record in records:
        assert record["train/mismatch_kl_k3_sampling_policy"] < 1e-8
        assert record["train/kl_k3_sampling_policy"] > 1e-6  # of all the updates of an iteration: they do something
