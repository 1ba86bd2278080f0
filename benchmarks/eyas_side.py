"""Eyas's side of the comparison: whole iterations of a run, its records and its log included."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import turns

from eyas.bench.iterations import iterate, opened
from eyas.bench.workload import MODEL, NEVER
from eyas.training import loop
from eyas.training.run import Run


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each iteration after the first, and the tokens of the longest sample."""
    marks: list[tuple[float, float]] = []
    rows: list[int] = []
    update = loop.update

    def watched(learner: Any, samples: Any, *rest: Any) -> Any:
        rows.append(max(len(s.ids) for s in samples))
        return update(learner, samples, *rest)

    loop.update = watched
    with opened(_config(case)) as run:
        _fix_lengths(run)
        iterate(run, lambda iteration: marks.append((time.process_time(), time.perf_counter())))
    loop.update = update
    pairs = list(pairwise(marks))
    return {
        "cpu_s": [b[0] - a[0] for a, b in pairs],
        "elapsed_s": [b[1] - a[1] for a, b in pairs],
        "row_tokens": max(rows),
    }


def _fix_lengths(run: Run) -> None:
    """Every completion takes all its tokens, as on the other side."""
    run.policy.model.end_ids = frozenset()
    for index, task in enumerate(run.tasks):
        written: Any = task.interface.format
        run.tasks[index] = replace(task, interface=replace(task.interface, format=replace(written, stop=NEVER)))


def _config(case: dict[str, Any]) -> dict[str, Any]:
    """One update an iteration, on whole episodes; without groups the baseline is the mean over all of them."""
    episodes, steps = case["episodes"], case["env_steps"]
    algorithm: dict[str, Any] = {"name": "reinforce_pp", "kl_coef": 0.0}
    if case["group_size"] > 1:
        algorithm = {"name": "grpo", "kl_coef": 0.0, "thought_weight": 1.0}
    stage = {
        "kind": "rl",
        "algorithm": algorithm,
        "iterations": case["updates"] + 1,
        "num_envs": episodes,
        "rollout_episodes": episodes,
        "group_size": case["group_size"],
        "epochs": 1,
        "minibatch_size": episodes * steps,
        "checkpoint_every": 0,
        "optim": {"lr": 1e-9},
    }
    interface: dict[str, Any] = {"max_new_tokens": case["new_tokens"], "text": case["text"]}
    if steps > 1:
        interface["history"] = {"kind": "conversation"}
    env_args = {"steps": steps, "shows": case["shows"], "filler": case.get("filler", 0)}
    model = {"name": case["model"]} if case["model"] else MODEL.model_dump()
    return {
        "name": "compared",
        "seed": case["seed"],
        "threads": case["threads"],
        "films": False,
        "model": model | {"compute_dtype": case["dtype"]},
        "tasks": [{"env": turns.ENV_ID, "env_args": env_args, "interface": interface}],
        "stages": [stage],
    }


@contextmanager
def first_prompts(case: dict[str, Any], seeds: list[int]) -> Iterator[list[tuple[str, Any]]]:
    """The words and the picture of an episode's first prompt, for each seed: what the other side is given."""
    from eyas.build import build_task
    from eyas.config import TaskConfig
    from eyas.rollouts.images import MemoryImageStore
    from eyas.types import ImagePart, TextPart

    config = TaskConfig.model_validate(_config(case)["tasks"][0])
    task, images = build_task(config), MemoryImageStore()
    env = task.make_env()
    found = []
    for seed in seeds:
        observation, info = env.reset(seed=seed)
        (message,) = task.interface.render(observation, info, None, images)
        words = " ".join(p.text for p in message.parts if isinstance(p, TextPart))
        picture = next((images.get(p.image_hash) for p in message.parts if isinstance(p, ImagePart)), None)
        found.append((words, picture))
    env.close()
    yield found
