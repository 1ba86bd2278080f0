"""Writes a dataset: episodes of a player that does not learn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from eyas.errors import ConfigError
from eyas.evaluation.evaluate import play
from eyas.evaluation.measures import rollout_metrics
from eyas.rollouts.actors import Actor, ExpertActor, RandomActor
from eyas.rollouts.datasets import write_dataset_info
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.recorder import TrajectoryRecorder
from eyas.rollouts.task import Task
from eyas.seeding import Split
from eyas.types import Trajectory


def demonstrator(task: Task, policy: str, random_share: float) -> Actor:
    """An expert that plays a share of its moves at random, or chance. Raises ConfigError where there is no expert."""
    if policy == "random":
        return RandomActor()
    if policy != "expert":
        raise ConfigError(f"unknown demonstrator '{policy}': type expert or random")
    if task.expert is None:
        raise ConfigError(f"{task.env_id} has no expert: type random, or give an sft stage a dataset folder")
    return ExpertActor(task.expert, random_share)


def collect_dataset(
    task: Task,
    actor: Actor,
    images: MemoryImageStore,
    folder: Path,
    seed: int,
    episodes: int,
    about: dict[str, Any],
    on_episode: Callable[[int], None] | None = None,
) -> tuple[list[Trajectory], dict[str, float | None]]:
    """Plays on demonstration seeds and writes the folder; `dataset.json` comes last and marks it as whole."""
    played = play(task, actor, images, seed, episodes, Split.DEMONSTRATION, on_episode=on_episode)
    with TrajectoryRecorder(folder, images) as recorder:
        recorder.record("episodes_000000", played.trajectories, stage="collect", iteration=0, env_id=task.env_id)
    numbers = rollout_metrics(played.trajectories, [task.interface.format.fact_keys])
    info = {"env": task.env_id, "seed": seed, **about, "episodes": len(played.trajectories)}
    info |= {"steps": sum(len(t.steps) for t in played.trajectories), "success_rate": numbers["rollout/success_rate"]}
    write_dataset_info(folder, info | {"return_mean": numbers["rollout/return_mean"]})
    return played.trajectories, numbers
