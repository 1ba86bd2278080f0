"""Whole iterations of a real run, and the share of them that is neither model nor environment."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial, wraps
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import gymnasium as gym
import torch
from rich.console import Console
from torch import Tensor

from eyas.bench.measure import now, now_here
from eyas.bench.workload import ENVS, MODEL
from eyas.build import build_run
from eyas.config import ModelConfig, RLStage, RunConfig
from eyas.models.adapter import VisionLanguageModel
from eyas.models.policy import Policy
from eyas.models.value_head import ValueHead
from eyas.rollouts.collector import Collector
from eyas.rollouts.task import Task
from eyas.samplers.fused import FusedRows
from eyas.training import loop
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer
from eyas.training.run import Run

COMPLETION_TOKENS = 27  # what a demonstration of NumberLine takes
MODEL_CALLS: tuple[tuple[Any, str], ...] = (
    (VisionLanguageModel, "hidden"),
    (VisionLanguageModel, "logits"),
    (FusedRows, "step"),
    (ValueHead, "forward"),
    (Tensor, "backward"),
    (Optimizer, "zero_grad"),
    (Optimizer, "clip"),
    (Optimizer, "step"),
)


class Inside:
    """Adds up the time inside the functions that it wraps; one that another of them calls counts once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._depth:
                return function(*args, **kwargs)
            self._depth = 1
            begun = now_here()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += now_here() - begun
                self._depth = 0

        return timed


LEARNER_CALLS = (*MODEL_CALLS, (Collector, "steps"), (Learner, "forward"), (Policy, "values"))


def overhead_shares(
    iterations: int,
    num_envs: int,
    rollout_steps: int,
    calls: Sequence[tuple[Any, str]] = MODEL_CALLS,
    config: ModelConfig = MODEL,
) -> list[float]:
    """For each iteration of a real run, the share outside `calls` and the environment; one more warms up.

    Outside `LEARNER_CALLS`, playing and passes as a whole, lie estimators, batching and logging, the recorder's thread too.
    """
    inside, marks = Inside(), []
    with ExitStack() as stack:
        for owner, name in calls:
            stack.enter_context(patch.object(owner, name, inside.wrap(getattr(owner, name))))
        run = stack.enter_context(open_run(iterations + 1, num_envs, rollout_steps, 64, config))
        model = run.policy.model.model
        stack.enter_context(patch.object(model, "get_image_features", inside.wrap(model.get_image_features)))
        run.tasks[:] = [replace(t, make_env=partial(_timed_env, t, inside)) for t in run.tasks]
        iterate(run, lambda iteration: marks.append((now(), inside.seconds)))
    shares = []
    for (begun, inside_before), (ended, inside_after) in pairwise(marks):
        shares.append(1 - (inside_after - inside_before) / (ended - begun))
    return shares


def _timed_env(task: Task, inside: Inside) -> gym.Env:
    env = task.make_env()
    for name in ("reset", "step", "render"):
        setattr(env, name, inside.wrap(getattr(env, name)))
    return env


@contextmanager
def open_run(
    iterations: int, num_envs: int, rollout_steps: int, minibatch_size: int, model: ModelConfig = MODEL
) -> Iterator[Run]:
    """A PPO run on NumberLine in a temporary folder, with completions of the length that a trained policy writes."""
    env, env_args = ENVS[0]
    stage = {
        "kind": "rl",
        "iterations": iterations,
        "num_envs": num_envs,
        "rollout_steps": rollout_steps,
        "minibatch_size": minibatch_size,
        "checkpoint_every": 0,
    }
    task = {"env": env, "env_args": env_args, "interface": {"max_new_tokens": COMPLETION_TOKENS}}
    config = {"name": "bench", "threads": torch.get_num_threads(), "tasks": [task], "stages": [stage]}
    with opened(config | {"model": model.model_dump()}) as run:
        yield run


@contextmanager
def opened(config: Mapping[str, Any]) -> Iterator[Run]:
    """A run in a temporary folder, which says nothing."""
    with tempfile.TemporaryDirectory() as output, open(os.devnull, "w") as nowhere:
        run = build_run(RunConfig.model_validate(dict(config) | {"output": output}), Console(file=nowhere))
        run.open(resume=False)
        try:
            yield run
        finally:
            run.close()


def iterate(run: Run, on_iteration: Callable[[int], None]) -> None:
    """Runs the stage; `on_iteration` is called where an iteration has logged its numbers."""
    log = run.log

    def log_and_call(stage: str, iteration: int, numbers: Mapping[str, Any]) -> None:
        log(stage, iteration, numbers)
        on_iteration(iteration)

    stage = run.config.stages[0]
    assert isinstance(stage, RLStage)
    with patch.object(run, "log", log_and_call):
        loop.reinforce(run, stage)
