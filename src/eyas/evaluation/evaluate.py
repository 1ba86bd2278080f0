"""Plays a policy on evaluation seeds and counts, with intervals. Nothing here has seen a training seed."""

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from eyas.config import WorkersConfig
from eyas.errors import EnvironmentFailure
from eyas.evaluation import measures
from eyas.evaluation.records import EvalRow
from eyas.evaluation.statistics import bootstrap_interval, thinned, wilson_interval
from eyas.rollouts.actors import Actor, ConstantActor
from eyas.rollouts.collector import Collector
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.task import Task
from eyas.seeding import Split
from eyas.types import Trajectory

MOST_CONSTANTS = 16  # actions that are tried as constants, evenly spaced among all
SCREENING_EPISODES = 20  # of each, where they are many
FINALISTS = 4  # as many of the best are compared on more episodes
VALIDATION_EPISODES = 200  # to choose the best constant action on
MOST_PICTURES = 512  # in memory, before those that nobody will look at again go


@dataclass(frozen=True)
class Played:
    """Episodes that were played, and how many were lost to a failing environment even when tried again."""

    trajectories: list[Trajectory]
    num_lost: int


def play(
    task: Task,
    actor: Actor,
    images: MemoryImageStore,
    seed: int,
    episodes: range,
    split: Split = Split.EVAL,
    num_envs: int = 64,
    on_episode: Callable[[int], None] | None = None,
    keep_pictures_below: int | None = None,
    max_failures_in_a_row: int = 10,
    workers: WorkersConfig = WorkersConfig(),  # noqa: B008  (frozen)
) -> Played:
    """Plays these episodes to their ends. One that is lost to its environment is tried once more.

    With `keep_pictures_below`, only pictures of episodes with a lower number stay in `images`, which does not grow then.
    Raises EnvironmentFailure after too many failures in a row, and where no episode could be played at all.
    """
    num_pictures = MOST_PICTURES

    def on_step(num_done: int) -> None:
        nonlocal num_pictures
        if on_episode:
            on_episode(num_done)
        if keep_pictures_below is not None and len(images) > num_pictures:
            images.discard_except(collector.image_hashes(keep_pictures_below))
            num_pictures = max(MOST_PICTURES, 2 * len(images))  # finding out costs as much as there are

    at = {"num_envs": min(num_envs, len(episodes)), "max_failures_in_a_row": max_failures_in_a_row}
    with closing(Collector(actor, [task], images, seed, split, **at, workers=workers)) as collector:
        played, lost = collector.episodes(episodes, on_step), collector.lost_episodes
    if lost:
        # what a seed made fail once may fail again, where others have shown that the environment works at all
        limit = len(lost) + 1 if played else min(max_failures_in_a_row, len(lost))
        at = {"num_envs": 1, "max_failures_in_a_row": limit}
        with closing(Collector(actor, [task], images, seed, split, **at, workers=workers)) as again:
            played = sorted([*played, *again.episodes(lost)], key=lambda t: t.episode)
    for trajectory in played:
        trajectory.task = task.index
    if on_episode:
        on_episode(len(episodes))
    return Played(played, len(episodes) - len(played))


def evaluation_row(
    policy: str, decoding: str, played: Played, fact_keys: Sequence[str], training_starts: Collection[str] | None = None
) -> EvalRow:
    """Counts. A lost episode is a failure. `training_starts` are the start keys that training saw, where known."""
    episodes, lost = played.trajectories, played.num_lost
    graded = measures.graded_episodes(episodes)
    has_success = bool(graded)
    n = len(graded) + lost
    wins, strict = sum(bool(t.success) for t in graded), sum(t.is_strict_success for t in graded)
    returns = [t.total_return for t in episodes]
    steps = measures.written_steps(episodes)
    starts = measures.start_keys(episodes)
    reasons = measures.stop_reasons(episodes)
    return EvalRow(
        policy=policy,
        decoding=decoding,
        episodes=len(episodes) + lost,
        distinct_starts=len(starts),
        distinct_starts_seen_in_training=None if training_starts is None else len(starts & set(training_starts)),
        success_rate=wins / n if has_success else None,
        success_interval=wilson_interval(wins, n) if has_success else None,
        strict_success_rate=strict / n if has_success else None,
        strict_success_interval=wilson_interval(strict, n) if has_success else None,
        return_mean=measures.mean_or_none(returns),
        return_interval=bootstrap_interval(returns, seed=0),
        parse_rate=measures.parse_rate(steps),
        recognition_accuracy=measures.recognition_accuracy(episodes, {t.task: fact_keys for t in episodes}),
        mean_length_steps=measures.mean_or_none(t.num_steps for t in episodes),
        stop_reasons=reasons | ({"lost": lost} if lost else {}),
    )


def best_constant_action(task: Task, images: MemoryImageStore, seed: int, **options: Any) -> Any:
    """The action whose constant repetition earns the highest mean return, chosen on validation seeds.

    Where there are many actions, MOST_CONSTANTS of them are tried for a few episodes, and the best ones for more.
    `options` are those of `play`.
    """
    actions = thinned(task.interface.constants(), MOST_CONSTANTS)

    def mean_return(action: Any, episodes: int) -> float:
        where = {"split": Split.VALIDATION, "keep_pictures_below": 0} | options
        try:
            played = play(task, ConstantActor(action), images, seed, range(episodes), **where)
        except EnvironmentFailure:  # another action may be one that the environment can take
            return -np.inf
        return float(np.mean([t.total_return for t in played.trajectories]))

    if len(actions) > FINALISTS:
        actions = sorted(actions, key=lambda a: mean_return(a, SCREENING_EPISODES), reverse=True)[:FINALISTS]
    return max(actions, key=lambda a: mean_return(a, VALIDATION_EPISODES))
