"""A run of adapters, critics and small optimizers that is stopped and resumed is the run that never stopped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import eyas
from eyas.build import Agent
from eyas.config import RunConfig
from helpers import SMALL
from tiny_runs import curve, played

LORA = {"train": "lora", "lora": {"rank": 4}}
RUNS = {
    "adapters and a critic model": {"model": LORA, "critic": {"kind": "model"}},
    "frozen parts, a critic that warms up, 8 bits": {
        "model": {"freeze": ["vision"]},
        "critic": {"stop_gradient": True, "warmup_updates": 1, "hidden_sizes": [16]},
        "optimizer": "adamw_8bit",
    },
}


def config(output: Path, parts: dict[str, Any]) -> RunConfig:
    optim = {"lr": 1e-3, "optimizer": parts.get("optimizer", "adamw")}
    sft = {"kind": "sft", "data": "collect", "steps": 2, "batch_size": 4, "optim": optim}
    rl = {"kind": "rl", "iterations": 2, "num_envs": 2, "rollout_steps": 2, "minibatch_size": 4, "checkpoint_every": 1}
    return RunConfig.model_validate(
        {
            "name": "run",
            "output": str(output),
            "model": {"options": SMALL} | parts["model"],
            "critic": parts["critic"],
            "tasks": [{"env": "eyas/NumberLine-v0", "interface": {"max_new_tokens": 6}}],
            "stages": [{"kind": "collect", "episodes": 4}, sft, rl | {"optim": optim}],
        }
    )


def weights(output: Path, checkpoint: str) -> dict[str, torch.Tensor]:
    folder = output / "run" / "checkpoints" / checkpoint
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{f.relative_to(folder)} {n}": t for f in files for n, t in load_file(f).items()}


@pytest.mark.parametrize("parts", RUNS.values(), ids=list(RUNS))
def test_resume_gives_the_same_curve_and_the_same_weights(tmp_path: Path, parts: dict[str, Any]) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    played(config(whole, parts))
    played(config(broken, parts), stop_after=1)
    assert curve(whole / "run") == curve(broken / "run")
    of_whole, of_broken = weights(whole, "rl"), weights(broken, "rl")
    assert of_whole.keys() == of_broken.keys()
    assert all(torch.equal(t, of_broken[n]) for n, t in of_whole.items())
    of_sft = weights(whole, "sft")
    learned = {n for n, t in of_whole.items() if not torch.equal(t, of_sft[n])}
    assert any("value_head" in n for n in learned)
    if parts["model"] == LORA:
        assert any(n.startswith("adapter_model") for n in learned)
        assert any(n.startswith("critic/adapter_model") for n in learned)
        assert not any("/model.safetensors" in n or n.startswith("model.safetensors") for n in of_whole)
    else:
        assert not any("vision_model" in n or "connector" in n for n in learned)
    agent = Agent.from_pretrained(whole / "run" / "checkpoints" / "rl")
    report = eyas.evaluate(agent, "eyas/NumberLine-v0", episodes=2)
    assert {row.policy for row in report.rows} == {"rl"}
