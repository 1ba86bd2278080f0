"""Baselines: what chance and an expert reach, through the same collector that training uses."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from gymnasium.wrappers import TimeLimit

from eyas.checks.contract import LONGEST_EPISODE
from eyas.checks.probes import Around
from eyas.checks.report import Level, Report
from eyas.config import WorkersConfig
from eyas.errors import EnvironmentFailure, EyasError
from eyas.evaluation.evaluate import Played, evaluation_row, play
from eyas.rollouts.actors import Actor, ExpertActor, RandomActor
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.task import Task
from eyas.types import ExpertMove, StopReason

collecting = logging.getLogger("eyas.rollouts.collector")

BUDGET_S = 30.0  # for the episodes of one player
PROMPT_S = 1e-3  # about what making the prompt of a step takes


class Losses(logging.Handler):
    """Keeps what was last said of a lost episode."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()

    @classmethod
    @contextmanager
    def heard(cls) -> "Iterator[Losses]":
        losses = cls()
        collecting.addHandler(losses)
        try:
            yield losses
        finally:
            collecting.removeHandler(losses)


def check_baselines(
    report: Report,
    task: Task,
    episodes: int,
    step_s: float,
    workers: WorkersConfig,
    on_progress: Callable[[str], None],
) -> set[str]:
    """Plays random episodes, and the expert's where there is one; gives what demonstrations of them say.

    Long episodes are cut, so that it takes about a minute.
    """
    written: set[str] = set()
    players: dict[str, Actor] = {"random": RandomActor()}
    if task.expert is not None:
        players["expert"] = ExpertActor()
    limit = longest(step_s, episodes)
    for name, actor in players.items():
        on_progress(f"{episodes} {name} episodes")
        try:
            with Losses.heard() as losses:
                played = _play(task, actor, episodes, limit, workers)
        except EnvironmentFailure as error:
            first, _, rest = str(error).partition("\n")
            report.add(name, f"{first} {rest.splitlines()[-1] if rest else ''}", Level.ERROR, rest)
            return written
        except EyasError as error:
            report.add(name, str(error), Level.ERROR)
            return written
        _tell(report, name, task, played, limit, losses.last)
        written |= _written(task, name, played)
    return written


def _written(task: Task, name: str, played: Played) -> set[str]:
    """What an expert wrote; what random play will write, where no expert demonstrates."""
    steps = [step for t in played.trajectories for step in t.steps]
    if name == "expert":
        return {step.completion.text for step in steps}
    if task.expert is not None or task.interface.format.fact_keys:
        return set()
    moves = (ExpertMove(step.action, thought=f"I choose {step.action_name}.") for step in steps)
    return {task.interface.write(move) for move in moves}


def longest(step_s: float, episodes: int, budget_s: float = BUDGET_S) -> int:
    """The most steps that so many episodes may have each, so that all of them stay within the budget."""
    return max(50, min(LONGEST_EPISODE, int(budget_s / ((step_s + PROMPT_S) * episodes))))


def _play(task: Task, actor: Actor, episodes: int, limit: int, workers: WorkersConfig) -> Played:
    capped = dataclasses.replace(task, make_env=Around(task.make_env, partial(TimeLimit, max_episode_steps=limit)))
    images = MemoryImageStore()
    return play(
        capped, actor, images, 0, range(episodes), num_envs=min(8, episodes), keep_pictures_below=0, workers=workers
    )


def _tell(report: Report, name: str, task: Task, played: Played, limit: int, last_loss: str) -> None:
    row = evaluation_row(name, "sample", played, task.interface.format.fact_keys)
    report.baselines[name] = asdict(row)
    cut = [t for t in played.trajectories if t.stop_reason is StopReason.TRUNCATED and t.num_steps >= limit]
    told = [f"{row.episodes} episodes", f"return {_number(row.return_mean)}", f"{_number(row.mean_length_steps)} steps"]
    if row.success_rate is not None:
        told.append(f"success {row.success_rate:.0%}")
    if cut:
        told.append(f"{len(cut)} cut after {limit} steps to save time")
    if played.num_lost:
        lost = f"{played.num_lost} of {row.episodes} {name} episodes were lost to the environment, though tried twice"
        report.add("lost episodes", f"{lost}; the last: {last_loss}", Level.ERROR)
    report.add(name, ", ".join(told))


def check_success(report: Report, task: Task, reward_threshold: float | None) -> None:
    """Says what to do where nothing tells success."""
    if not report.baselines or any(row["success_rate"] is not None for row in report.baselines.values()):
        return
    advice = f"success_return = {reward_threshold:g}" if reward_threshold is not None else "success_return"
    report.add(
        "success", f"the environment tells none: set {advice} in the task, or info['success'] at an episode's end"
    )


def _number(value: Any) -> str:
    return "unknown" if value is None else f"{value:.3g}"
