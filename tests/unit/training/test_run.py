"""Where a run stands after each stage, and what a stop between two moments leaves behind."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

import eyas
from eyas.build import build_run
from eyas.config import RunConfig
from eyas.errors import CheckpointError, ConfigError, DatasetError
from eyas.models.policy import Policy
from eyas.rollouts.datasets import load_trajectories
from eyas.training.optim import Optimizer
from eyas.training.run import Run
from eyas.training.sft import Batches, split
from eyas.types import ExecutedBy, ParsedAction

SFT = {"kind": "sft", "data": "collect", "steps": 1}
STAGES = [
    {"kind": "collect", "episodes": 1},
    SFT,
    {**SFT, "name": "side", "start_from": "sft", "is_side_branch": True},
    {"kind": "rl", "name": "rl1", "iterations": 1},
    {"kind": "rl", "name": "rl2", "iterations": 1},
    {"kind": "rl", "name": "rl3", "iterations": 1},
]


def config(tmp_path: Path, **changes) -> RunConfig:
    plain = {"name": "run", "output": str(tmp_path), "tasks": [{"env": "eyas/NumberLine-v0"}], "stages": STAGES}
    return RunConfig.model_validate(plain | changes)


def opened(tmp_path: Path, resume: bool = False, **changes) -> Run:
    run = build_run(config(tmp_path, **changes), Console(quiet=True))
    run.open(resume)
    return run


def mark(policy: Policy, number: float) -> None:
    """Weights that can be told apart."""
    with torch.no_grad():
        next(policy.model.model.parameters()).fill_(number)


def marked(policy: Policy) -> float:
    return next(policy.model.model.parameters()).flatten()[0].item()


def finish(run: Run, stage: int, number: float) -> None:
    mark(run.policy, number)
    run.finish_stage(run.config.stages[stage])


def test_a_side_branch_leaves_the_run_where_it_stood(tmp_path: Path) -> None:
    run = opened(tmp_path)
    for stage, number in enumerate((0.0, 1.0, 2.0)):
        finish(run, stage, number)
    assert (marked(run.policy), run.state["stands_at"], run.state["stage"]) == (1.0, "sft", 3)
    run.policy.load_weights(run.checkpoint("side"))
    assert marked(run.policy) == 2.0
    run.close()


def test_a_kill_right_after_a_side_branch_goes_on_from_where_the_run_stood(tmp_path: Path) -> None:
    run = opened(tmp_path)
    for stage, number in enumerate((0.0, 1.0, 2.0)):
        finish(run, stage, number)
    run.close()  # the newest checkpoint is the side branch's
    resumed = opened(tmp_path, resume=True)
    assert (marked(resumed.policy), resumed.state["stage"]) == (1.0, 3)
    resumed.close()


def test_checkpoints_of_finished_stages_are_never_pruned(tmp_path: Path) -> None:
    run = opened(tmp_path)
    for stage in range(6):
        finish(run, stage, float(stage))
    for iteration in range(4):
        run.save_iteration(iteration, {})
    names = {p.name for p in (run.folder / "checkpoints").iterdir()}
    assert {"untrained", "sft", "side", "rl1", "rl2", "rl3"} <= names
    assert sum(n.startswith("iteration_") for n in names) == 2
    run.close()


def test_names_of_checkpoints_of_eyas_s_own_are_refused(tmp_path: Path) -> None:
    for name in ("untrained", "iteration_7"):
        with pytest.raises(ConfigError, match="choose another"):
            config(tmp_path, stages=[{"kind": "rl", "name": name, "iterations": 1}])


def test_resume_needs_a_run_and_a_whole_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run at .* to resume"):
        opened(tmp_path, resume=True)
    run = opened(tmp_path)
    run.log("sft", 0, {"train/loss": 1.0})
    run.close()
    for file in (run.folder / "checkpoints").rglob("model.safetensors"):
        file.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint of .* is whole"):
        opened(tmp_path, resume=True)


def test_a_run_that_could_not_begin_blocks_nothing(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_):
        raise ConfigError("the tracker needs a package")

    monkeypatch.setattr("eyas.training.run.open_trackers", refuse)
    with pytest.raises(ConfigError, match="needs a package"):
        opened(tmp_path)
    monkeypatch.undo()
    opened(tmp_path).close()


def test_each_process_adds_its_provenance(tmp_path: Path) -> None:
    import json

    opened(tmp_path).close()
    opened(tmp_path, resume=True).close()
    sessions = json.loads((tmp_path / "run" / "environment.json").read_text())["sessions"]
    assert len(sessions) == 2 and all({"commit", "versions", "hardware"} <= s.keys() for s in sessions)


# ----------------------------------------------------------------------------------------------- what is found out before any work


def test_training_in_bfloat16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Train with 'float32'"):
        build_run(config(tmp_path, model={"dtype": "bfloat16"}))
    build_run(config(tmp_path, model={"dtype": "bfloat16"}, stages=[{"kind": "eval", "rows": ["untrained"]}]))


def test_data_of_another_environment_is_refused(tmp_path: Path) -> None:
    from eyas.rollouts.datasets import write_dataset_info

    write_dataset_info(tmp_path, {"env": "eyas/EZPoints-v0"})
    with pytest.raises(DatasetError, match="is of eyas/EZPoints-v0"):
        build_run(config(tmp_path, stages=[{**SFT, "data": f"{tmp_path}/"}]))


RANDOM = {"kind": "collect", "policy": "random", "episodes": 2}


def test_random_demonstrations_teach_the_format_with_the_true_facts(tmp_path: Path) -> None:
    run = eyas.train(config(tmp_path, stages=[RANDOM, SFT]), console=Console(quiet=True))
    steps = [s for t in load_trajectories(run.folder / "datasets" / "collect") for s in t.steps]
    assert {s.executed_by for s in steps} == {ExecutedBy.RANDOM}
    for step in steps:
        assert isinstance(step.parse, ParsedAction)
        assert step.parse.facts == {k: step.facts[k] for k in run.tasks[0].interface.format.fact_keys}
        assert json.loads(step.completion.text)["action"] == step.action_name
    assert len({s.action_name for s in steps}) > 1


def test_demonstrations_without_words_cannot_be_imitated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eyas.build.expert_for", lambda env: None)  # nobody tells the facts that the format asks for
    stages = [RANDOM, SFT]
    with pytest.raises(DatasetError, match="no step of the dataset has a written text"):
        eyas.train(config(tmp_path, stages=stages), console=Console(quiet=True))


# ----------------------------------------------------------------------------------------------- batches and schedules


class Sized:
    def __init__(self, length: int):
        self.ids = range(length)


def test_batches_visit_each_sample_once_an_epoch_and_depend_on_the_index_alone() -> None:
    samples = [Sized(n % 7) for n in range(24)]
    batches = Batches(samples, 4, seed=0)  # type: ignore[arg-type]
    first = [batches[i] for i in range(6)]
    assert sorted(id(s) for b in first for s in b) == sorted(map(id, samples))
    assert Batches(samples, 4, seed=0)[4] == first[4]  # type: ignore[arg-type]
    assert [batches[i] for i in range(6, 12)] != first
    spread = [len({len(s.ids) for s in b}) for b in first]
    assert max(spread) <= 3  # similar lengths together; at random a batch of 4 from 7 lengths has up to 4


def test_a_batch_larger_than_the_data_is_all_of_it() -> None:
    samples = [Sized(1), Sized(2)]
    assert set(Batches(samples, 8, seed=0)[5]) == set(samples)  # type: ignore[arg-type]


def test_held_out_episodes_are_disjoint_at_least_one_and_never_all() -> None:
    episodes = list(range(10))
    train, held_out = split(episodes, 0.3, seed=1)  # type: ignore[arg-type]
    assert (len(train), len(held_out)) == (7, 3) and sorted(train + held_out) == episodes
    assert split([7], 0.5, seed=1) == ([7], [])  # type: ignore[arg-type]
    assert len(split(episodes, 0.001, seed=1)[1]) == 1  # type: ignore[arg-type]
    assert split(episodes, 0.0, seed=1)[1] == []  # type: ignore[arg-type]


def test_the_schedule_of_reinforcement_goes_by_the_share_that_is_done(tmp_path: Path) -> None:
    optim = {"lr": 1.0, "schedule": "linear", "final_lr_share": 0.0}
    stage = {"kind": "rl", "iterations": 4, "rollout_steps": None, "rollout_episodes": 3, "optim": optim}
    run = build_run(config(tmp_path, stages=[stage]))
    optimizer = Optimizer(run.policy.model, run.policy.value_head, run.config.stages[0].optim, total_steps=5)
    optimizer.steps = 1000  # far more updates than the guess
    for progress in (0.0, 0.25, 0.9, 1.0):
        optimizer.progress = progress
        assert optimizer.learning_rate == pytest.approx(1 - progress)


def test_later_stages_play_other_episodes(tmp_path: Path) -> None:
    from eyas.training.loop import first_episode

    run = build_run(config(tmp_path))
    starts = [first_episode(run, run.config.stages[i]) for i in (0, 3, 4, 5)]
    assert starts == [0, 0, 10**8, 2 * 10**8]


def test_whole_episodes_train_too(tmp_path: Path) -> None:
    stage = {"kind": "rl", "iterations": 2, "num_envs": 3, "rollout_episodes": 5, "minibatch_size": 8}
    tasks = [{"env": "eyas/NumberLine-v0", "interface": {"max_new_tokens": 4}}]
    run = eyas.train(config(tmp_path, tasks=tasks, stages=[stage]), console=Console(quiet=True))
    from eyas.rollouts.datasets import load_trajectories

    episodes = [t.episode for t in load_trajectories(run.folder)]
    assert sorted(episodes) == list(range(10))
