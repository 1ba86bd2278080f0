"""Writes a dataset: episodes of a player that does not learn."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eyas.config import CollectStage, WorkersConfig
from eyas.errors import ConfigError, DatasetError, EnvironmentFailure
from eyas.evaluation.evaluate import Played, play
from eyas.evaluation.measures import rollout_metrics
from eyas.interface import Interface
from eyas.models.policy import Policy
from eyas.rollouts.actors import Actor, ExpertActor, PolicyActor, RandomActor
from eyas.rollouts.datasets import write_dataset_info
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.recorder import TrajectoryRecorder
from eyas.rollouts.task import Task
from eyas.seeding import Split
from eyas.types import Completion, Step, Trajectory

FIRST_EPISODES, MOST_EPISODES = 32, 256  # a file; the first one tells how large pictures are
PICTURE_BYTES = 256 * 2**20  # of the episodes of a file, which are in memory together


def demonstrator(task: Task, stage: CollectStage, policy: Policy | None = None) -> Actor:
    """An expert that plays a share of its moves at random, chance, or `policy` at temperature 1; all write.

    Raises ConfigError where there is no expert, and for options that nothing reads.
    """
    is_labelled = stage.labels == "expert"
    if task.expert is None and (is_labelled or stage.policy == "expert"):
        raise ConfigError(f"{task.env_id} has no expert: take random, or self, with labels = 'own'")
    if stage.random_share and stage.policy != "expert":
        raise ConfigError(f"random_share does nothing with policy '{stage.policy}': remove it")
    if stage.policy == "random":
        return RandomActor(is_writing=True)
    if stage.policy == "self" and policy is not None:
        return PolicyActor(policy, asks_expert=is_labelled)
    if stage.policy != "expert":
        raise ConfigError(f"unknown demonstrator '{stage.policy}': type expert, random or self")
    return ExpertActor(stage.random_share)


def chosen(task: Task, stage: CollectStage, played: Sequence[Trajectory]) -> list[Trajectory]:
    """Those that the stage keeps, with the answers that it asks for: the actions that were played stay as they are."""
    kept = [t for t in played if stage.keep == "all" or t.is_strict_success]
    if stage.labels == "own":
        return kept
    return [replace(t, steps=[_labelled(task.interface, s) for s in t.steps]) for t in kept]


def _labelled(interface: Interface, step: Step) -> Step:
    assert step.expert_move is not None
    answer = Completion(interface.write(step.expert_move))
    return replace(step, completion=answer, parse=interface.parse(answer, step.legal_actions))


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
    chosen: Callable[[Sequence[Trajectory]], list[Trajectory]] = list,
) -> dict[str, float | None]:
    """Plays on demonstration seeds and writes what is chosen of it; `dataset.json` comes last and marks it as whole.

    Raises EnvironmentFailure after too many failures in a row, DatasetError where every episode was lost, or none chosen.
    """
    trajectories: list[Trajectory] = []
    written: list[Trajectory] = []
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
            if of_part := chosen(played.trajectories):
                name_of = {task.index: task.interface.name_of}
                recorder.record(name, of_part, name_of, stage="collect", iteration=0, env_id=task.env_id)
            size = max(1, min(MOST_EPISODES, int(PICTURE_BYTES * len(part) / max(images.nbytes, 1))))
            images.clear()
            trajectories += played.trajectories
            written += of_part
            lost += played.num_lost
            lost_in_a_row = 0 if played.trajectories else lost_in_a_row + len(part)
    if not trajectories:
        raise DatasetError(
            f"each of the {len(episodes)} episodes was lost to its environment: type `eyas env check {task.env_id}`"
        )
    if not written:
        raise DatasetError(
            f"none of the {len(trajectories)} episodes succeeded without a fallback action, so none was kept: set "
            "keep = 'all', play more, or train before"
        )
    numbers = rollout_metrics(trajectories, {task.index: task.interface.format.fact_keys}, {task.index: task.fact_rule})
    info = {"env": task.env_id, "seed": seed, **about, "episodes": len(written), "played": len(trajectories)}
    info |= {"steps": sum(len(t.steps) for t in written), "success_rate": numbers["rollout/success_rate"]}
    write_dataset_info(folder, info | {"return_mean": numbers["rollout/return_mean"]})
    return numbers
