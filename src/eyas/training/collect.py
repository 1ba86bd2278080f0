"""Writes a dataset: episodes of a player that does not learn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from eyas.config import WorkersConfig
from eyas.errors import ConfigError, DatasetError, EnvironmentFailure
from eyas.evaluation.evaluate import Played, play
from eyas.evaluation.measures import rollout_metrics
from eyas.rollouts.actors import Actor, ExpertActor, RandomActor
from eyas.rollouts.datasets import write_dataset_info
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.recorder import TrajectoryRecorder
from eyas.rollouts.task import Task
from eyas.seeding import Split
from eyas.types import Trajectory

FIRST_EPISODES, MOST_EPISODES = 32, 256  # a file; the first one tells how large pictures are
PICTURE_BYTES = 256 * 2**20  # of the episodes of a file, which are in memory together


def demonstrator(task: Task, policy: str, random_share: float) -> Actor:
    """An expert that plays a share of its moves at random, or chance; both write. Raises ConfigError where there is no expert."""
    if policy == "random":
        return RandomActor(is_writing=True)
    if policy != "expert":
        raise ConfigError(f"unknown demonstrator '{policy}': type expert or random")
    if task.expert is None:
        raise ConfigError(f"{task.env_id} has no expert: type random, or give an sft stage a dataset folder")
    return ExpertActor(random_share)


def collect_dataset(
    task: Task,
    actor: Actor,
    images: MemoryImageStore,
    folder: Path,
    seed: int,
    episodes: range,
    about: dict[str, Any],
    on_episode: Callable[[int], None],
    num_envs: int = 64,
    max_failures_in_a_row: int = 10,
    workers: WorkersConfig = WorkersConfig(),  # noqa: B008  (frozen)
) -> dict[str, float | None]:
    """Plays on demonstration seeds and writes the folder; `dataset.json` comes last and marks it as whole.

    Raises EnvironmentFailure after too many failures in a row, DatasetError where every episode was lost.
    """
    trajectories: list[Trajectory] = []
    lost, lost_in_a_row = 0, 0

    def play_part(part: range, done: int) -> Played:
        options = {"num_envs": num_envs, "max_failures_in_a_row": max_failures_in_a_row, "workers": workers}
        try:
            return play(
                task,
                actor,
                images,
                seed,
                part,
                Split.DEMONSTRATION,
                on_episode=lambda n: on_episode(done + n),
                **options,
            )
        except EnvironmentFailure:
            if lost_in_a_row + len(part) >= max_failures_in_a_row:
                raise
            return Played([], len(part))  # a file may hold a single episode

    with TrajectoryRecorder(folder, images) as recorder:
        size = FIRST_EPISODES
        while (done := len(trajectories) + lost) < len(episodes):
            part = episodes[done : done + size]
            played = play_part(part, done)
            name = f"episodes_{done:08d}"
            recorder.record(name, played.trajectories, stage="collect", iteration=0, env_id=task.env_id)
            size = max(1, min(MOST_EPISODES, int(PICTURE_BYTES * len(part) / max(images.nbytes, 1))))
            images.clear()
            trajectories += played.trajectories
            lost += played.num_lost
            lost_in_a_row = 0 if played.trajectories else lost_in_a_row + len(part)
    if not trajectories:
        raise DatasetError(
            f"each of the {len(episodes)} episodes was lost to its environment: type `eyas env check {task.env_id}`"
        )
    numbers = rollout_metrics(trajectories, {task.index: task.interface.format.fact_keys})
    info = {"env": task.env_id, "seed": seed, **about, "episodes": len(trajectories)}
    info |= {"steps": sum(len(t.steps) for t in trajectories), "success_rate": numbers["rollout/success_rate"]}
    write_dataset_info(folder, info | {"return_mean": numbers["rollout/return_mean"]})
    return numbers
