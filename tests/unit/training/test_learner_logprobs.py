"""What the learner said of each token, from its passes to the file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import eyas
from eyas.batch import SampleStep, TrainingSample
from eyas.config import RunConfig
from eyas.rollouts.datasets import load_trajectories
from eyas.training.learner_logprobs import LearnerLogprobs
from eyas.types import Completion, ExecutedBy, ParsedAction, RewardBreakdown, Step, StopReason, Trajectory

# ----------------------------------------------------------------------------------------------- by hand


def sample(trajectory: int, *lengths: int) -> TrainingSample:
    ends = np.cumsum(lengths)
    spans = tuple(SampleStep(int(end) - length, int(end), int(end)) for end, length in zip(ends, lengths))
    return TrainingSample(np.zeros(ends[-1], np.int64), (), spans, trajectory=trajectory)


def trajectory(num_steps: int) -> Trajectory:
    parse, reward = ParsedAction(0, "go", "", {}, 0), RewardBreakdown({})
    steps = [Step((), Completion("x"), parse, 0, ExecutedBy.POLICY, reward) for _ in range(num_steps)]
    return Trajectory(0, 0, 0, steps, StopReason.TERMINATED)


def plain(values: np.ndarray | None) -> list[float] | None:
    return None if values is None else values.tolist()


def test_each_step_gets_what_its_own_tokens_got() -> None:
    """Two passes in different orders; the conversation of the first trajectory is split at its steps."""
    played = [trajectory(3), trajectory(1)]
    talk, alone, other = sample(0, 2, 1), sample(0, 3), sample(1, 2)
    seen = LearnerLogprobs()
    seen([other, talk], torch.tensor([20.0, 21, 0, 1, 2]))
    seen([alone], torch.tensor([10.0, 11, 12]))
    seen([talk, alone, other], torch.tensor([0.5, 1.5, 2.5, 10.5, 11.5, 12.5, 20.5, 21.5]))
    alone.element_advantages = np.array([7.0, 8.0, 9.0])
    seen.write([talk, alone, other], played)
    steps = [step for t in played for step in t.steps]
    assert [plain(s.learner_logprobs) for s in steps] == [[0, 1], [2], [10, 11, 12], [20, 21]]
    assert [plain(s.updated_logprobs) for s in steps] == [[0.5, 1.5], [2.5], [10.5, 11.5, 12.5], [20.5, 21.5]]
    assert [plain(s.token_advantages) for s in steps] == [None, None, [7, 8, 9], None]


def test_what_the_learner_did_not_see_stays_unknown() -> None:
    played = [trajectory(1), trajectory(1)]
    missed, met = sample(0, 2), sample(1, 2)
    seen = LearnerLogprobs()
    seen([met], torch.tensor([1.0, 2.0]))
    seen.write([missed, met], played)
    assert played[0].steps[0].learner_logprobs is None
    assert plain(played[1].steps[0].learner_logprobs) == [1, 2]
    again = [trajectory(1), trajectory(1)]
    seen.write([missed, met], again)  # of an iteration, nothing is left for the next
    assert again[1].steps[0].learner_logprobs is None


def test_gradients_are_not_kept_alive() -> None:
    seen = LearnerLogprobs()
    weight = torch.ones(2, requires_grad=True)
    seen([sample(0, 2)], weight * 2)
    assert not any(values.requires_grad for values in seen._last.values())


# ----------------------------------------------------------------------------------------------- in a run

MODEL = {"options": {"hidden_size": 64, "intermediate_size": 96, "vision_hidden_size": 32}}
RL = {
    "kind": "rl", "iterations": 1, "num_envs": 4, "rollout_steps": 3, "minibatch_size": 100, "micro_batch_tokens": 300,
    "epochs": 2, "optim": {"lr": 0.01},
}  # fmt: skip


def recorded(tmp_path: Path, **interface: Any) -> list[Step]:
    task = {"env": "eyas/NumberLine-v0", "env_args": {"jitter": 4}, "interface": {"max_new_tokens": 6} | interface}
    plain = {"name": "run", "output": str(tmp_path), "model": MODEL, "tasks": [task], "stages": [RL]}
    run = eyas.train(RunConfig.model_validate(plain), console=Console(quiet=True))
    return [step for t in load_trajectories(run.folder, "rl_000000") for step in t.steps]


@pytest.mark.parametrize("mode", ["text", "score"])
def test_a_run_records_first_and_last_pass(mode: str, tmp_path: Path) -> None:
    """One minibatch: the first pass meets the sampler's weights, the second those after the update."""
    steps = recorded(tmp_path, action_mode=mode, thoughts=mode == "text")
    assert len(steps) == 12
    moved = 0.0
    for step in steps:
        completion, scores = step.completion, step.completion.scores
        assert completion.sampling_logprobs is not None and step.learner_logprobs is not None
        sampled = completion.sampling_logprobs
        if scores is not None:
            sampled = np.append(sampled[: scores.start], scores.logprobs[scores.chosen])
        assert step.learner_logprobs == pytest.approx(sampled, abs=1e-4)
        assert step.updated_logprobs is not None and step.updated_logprobs.shape == sampled.shape
        moved = max(moved, float(np.abs(step.updated_logprobs - sampled).max()))
    assert moved > 1e-3
