"""The environment with a model: tokens, what it writes, what a group of episodes can teach, and how long that takes."""

import time
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from eyas.build import build_policy
from eyas.checks.playing import Losses
from eyas.checks.recipe import ROOM_TOKENS
from eyas.checks.report import Level, Report
from eyas.config import ModelConfig, WorkersConfig
from eyas.errors import EnvironmentFailure, EyasError
from eyas.evaluation import measures
from eyas.models.policy import Policy
from eyas.rollouts.actors import Decision, PolicyActor, Turn
from eyas.rollouts.collector import Collector
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.task import Task
from eyas.seeding import Split
from eyas.types import Step, Trajectory

GROUPS, GROUP_SIZE = 4, 4
ITERATION_STEPS = 32 * 8  # environments x steps: what an iteration's time is estimated for
BUDGET_S = 15.0
LOW_PARSE_RATE = 0.5


class TimedActor(PolicyActor):
    """Counts what sampling takes."""

    def __init__(self, policy: Policy):
        super().__init__(policy)
        self.seconds, self.num_decisions = 0.0, 0

    def decide(self, turns: Sequence[Turn]) -> list[Decision]:
        begun = time.perf_counter()
        decisions = super().decide(turns)
        self.seconds += time.perf_counter() - begun
        self.num_decisions += len(turns)
        return decisions


@dataclass
class Rollout:
    """What a model played: the first episode of each place in a group, whole or as far as it came."""

    policy: Policy
    actor: TimedActor
    parts: list[Trajectory]
    lost: list[int]  # numbers of the first episodes that the environment lost

    @property
    def steps(self) -> list[Step]:
        return [step for part in self.parts for step in part.steps]

    def prompt_lengths(self) -> list[int]:
        """In tokens, of the different prompts."""
        encoded = [self.policy.model.encode(step.messages, self.policy.images) for step in self.steps]
        return [len(prompt.ids) for prompt in {e.key: e for e in encoded}.values()]

    def returns(self) -> tuple[list[list[float]], int]:
        """Returns so far of each group's episodes, without those that were lost, and how many still went on."""
        first = [p for p in self.parts if p.episode < GROUPS * GROUP_SIZE and p.episode not in self.lost]
        last = {part.episode: part for part in first}  # the parts of an episode come in order
        groups = [[t.total_return for e, t in last.items() if e // GROUP_SIZE == group] for group in range(GROUPS)]
        return groups, sum(not t.has_ended for t in last.values())


def check_with_model(
    report: Report,
    task: Task,
    config: ModelConfig,
    written: Collection[str],
    step_s: float,
    workers: WorkersConfig,
) -> None:
    """Plays groups of episodes for some seconds, and says what training would meet. `written`: what demonstrations say."""
    try:
        with Losses.heard() as losses:
            rollout = _play_groups(task, config, workers)
    except EyasError as error:
        traceback = str(error) if isinstance(error, EnvironmentFailure) else ""
        report.add("model", f"{config.name}: {str(error).splitlines()[0]}", Level.ERROR, traceback)
        return
    if rollout.lost:
        numbers = ", ".join(str(episode) for episode in sorted(rollout.lost))
        told = f"training episodes {numbers} were lost to the environment; the last: {losses.last}"
        report.add("lost episodes", told, Level.ERROR)
    if not rollout.steps:
        return
    parameters = list(rollout.policy.model.model.parameters())
    gib = sum(p.nbytes + 12 * p.numel() * p.requires_grad for p in parameters) / 2**30  # 12: of those that learn
    report.preflight |= {"model": config.name, "parameters": sum(p.numel() for p in parameters), "memory_gib": gib}
    report.add(
        "memory",
        f"{config.name}: {report.preflight['parameters'] / 1e6:.1f} M parameters, {gib:.2f} GiB for weights, gradients "
        "and AdamW; activations come on top",
    )
    _tell_tokens(report, rollout, task)
    if written:
        _tell_demonstrations(report, rollout.policy, task, written)
    _tell_parse_rate(report, rollout)
    _tell_variance(report, rollout)
    _tell_speed(report, rollout, step_s)


def _play_groups(task: Task, config: ModelConfig, workers: WorkersConfig) -> Rollout:
    """Steps the groups together until every first episode ended, or the time is over."""
    images = MemoryImageStore()
    policy = build_policy(config, images)
    actor, count = TimedActor(policy), GROUPS * GROUP_SIZE
    collector = Collector(actor, [task], images, 0, Split.TRAIN, count, GROUP_SIZE, workers=workers)
    parts: list[Trajectory] = []
    lost: list[int] = []
    begun, num_ended = time.monotonic(), 0
    with closing(collector):
        while num_ended + len(lost) < count and time.monotonic() - begun < BUDGET_S:
            parts += collector.steps(1)
            lost += [episode for episode in collector.lost_episodes if episode < count]
            num_ended = sum(part.has_ended for part in parts if part.episode < count)
    return Rollout(policy, actor, parts, lost)


def _tell_tokens(report: Report, rollout: Rollout, task: Task) -> None:
    lengths, most, context = rollout.prompt_lengths(), task.interface.most_tokens, rollout.policy.model.context
    mean, longest = float(np.mean(lengths)), max(lengths)
    report.preflight |= {
        "prompt_tokens_mean": mean,
        "prompt_tokens_max": longest,
        "completion_tokens_max": most,
        "context_tokens": context,
    }
    told = f"prompts of {mean:.0f} tokens (at most {longest}), completions up to {most}, the context holds {context}"
    is_tight = any(part.stop_reason == "context_overflow" for part in rollout.parts)
    if is_tight:
        told += "; episodes were cut where the context was full: show a shorter history or smaller pictures"
    report.add("tokens", told, Level.WARNING if is_tight else Level.INFO)


def _tell_demonstrations(report: Report, policy: Policy, task: Task, written: Collection[str]) -> None:
    longest, most = max(len(policy.model.encode_text(text)) for text in written), task.interface.max_new_tokens
    report.preflight["demonstration_tokens_max"] = longest
    told = f"demonstrations take up to {longest} tokens a step"
    if longest > most:
        told += f", and max_new_tokens = {most} cuts off a model that learns it: set max_new_tokens = {longest + ROOM_TOKENS}"
    report.add("demonstrations", told, Level.WARNING if longest > most else Level.INFO)


def _tell_parse_rate(report: Report, rollout: Rollout) -> None:
    steps = measures.written_steps(rollout.parts)
    rate = measures.parse_rate(steps) or 0.0
    report.preflight["parse_rate"] = rate
    told = f"{rate:.0%} of {len(steps)} completions hold a legal action"
    if rate < LOW_PARSE_RATE:
        told += ": a warm start (an sft stage) comes first, as in the recipe below"
    report.add("parse rate", told)


def _tell_variance(report: Report, rollout: Rollout) -> None:
    returns, num_running = rollout.returns()
    flat = sum(float(np.ptp(group or [0.0])) < 1e-9 for group in returns)
    report.preflight |= {"groups": GROUPS, "groups_without_variance": flat, "group_returns": returns}
    told = f"{flat} of {GROUPS} groups of {GROUP_SIZE} episodes have equal returns, which teach a group method nothing"
    if num_running:
        told += f" (by returns so far: {num_running} of {sum(map(len, returns))} episodes went on)"
    if flat == GROUPS:
        told += "; rewards are rare for this model: start warm, or reward progress"
    report.add("group variance", told)


def _tell_speed(report: Report, rollout: Rollout, step_s: float) -> None:
    sampling_s = rollout.actor.seconds / max(1, rollout.actor.num_decisions)
    seconds = ITERATION_STEPS * (step_s + sampling_s)
    report.preflight |= {
        "environment_step_ms": step_s * 1e3,
        "sampling_step_ms": sampling_s * 1e3,
        "rollout_s": seconds,
    }
    told = f"the environment takes {step_s * 1e3:.1f} ms a step, sampling {sampling_s * 1e3:.1f} ms"
    told += f": 32 environments x 8 steps about {seconds:.0f} s, learning not counted"
    if step_s > sampling_s:
        told += "; most of it is the environment: workers.count shares it among processes"
    report.add("speed", told)
