"""Rollouts with an environment that takes as long as the model: with worker processes, and in this process.

The environment sleeps for most of its step and computes for the rest, so that two workers and the trainer fit on two
cores. Both sides play the same episodes with the same weights, in turn.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gymnasium as gym

from eyas.bench.iterations import COMPLETION_TOKENS
from eyas.bench.measure import Comparison, Side, compare
from eyas.bench.workload import ENVS
from eyas.build import build_policy, build_task
from eyas.config import InterfaceConfig, ModelConfig, TaskConfig, WorkersConfig
from eyas.models.policy import Policy
from eyas.rollouts.actors import Decision, PolicyActor, Turn
from eyas.rollouts.collector import Collector
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.task import Task
from eyas.seeding import Split

NUM_WORKERS = 2
CPU_SHARE = 0.25  # of the environment's step; it sleeps for the rest


def compare_workers(repeats: int, num_envs: int, rollout_steps: int) -> tuple[Comparison, dict[str, Any]]:
    """Environment steps a second of elapsed time with workers against in this process, and what the environment takes."""
    env, env_args = ENVS[0]
    interface = InterfaceConfig(max_new_tokens=COMPLETION_TOKENS)
    task = build_task(TaskConfig(env=env, env_args=env_args, interface=interface))
    actor = TimedActor(build_policy(ModelConfig(), MemoryImageStore()))
    step_s = sampling_seconds(actor, task, num_envs, rollout_steps)
    slow = replace(task, make_env=slowed(task.make_env, step_s))
    with worker_sides(actor, slow, num_envs, rollout_steps) as sides:
        comparison = compare(sides, repeats, time.perf_counter)
    return comparison, {"workers": NUM_WORKERS, "env_step_ms": round(1000 * step_s, 3), "env_cpu_share": CPU_SHARE}


class TimedActor(PolicyActor):
    """Notes the elapsed seconds of its decisions, and how many they were."""

    def __init__(self, policy: Policy):
        super().__init__(policy)
        self.seconds, self.num_decisions = 0.0, 0

    def decide(self, turns: Sequence[Turn]) -> list[Decision]:
        begun = time.perf_counter()
        decisions = super().decide(turns)
        self.seconds += time.perf_counter() - begun
        self.num_decisions += len(turns)
        return decisions


def sampling_seconds(actor: TimedActor, task: Task, num_envs: int, rollout_steps: int) -> float:
    """Elapsed seconds of the model for each step of an environment, in the second of two rollouts."""
    collector = _collector(actor, task, num_envs, workers=0)
    collector.steps(rollout_steps)
    actor.seconds, actor.num_decisions = 0.0, 0
    collector.steps(rollout_steps)
    collector.close()
    return actor.seconds / actor.num_decisions


@contextmanager
def worker_sides(actor: TimedActor, task: Task, num_envs: int, rollout_steps: int) -> Iterator[list[Side]]:
    """A rollout with workers and one in this process. Repeat i of both plays the same steps."""
    collectors = [_collector(actor, task, num_envs, workers) for workers in (NUM_WORKERS, 0)]

    def rollout(collector: Collector) -> int:
        return sum(len(t.steps) for t in collector.steps(rollout_steps))

    try:
        yield [
            Side(name, lambda c=collector: rollout(c))
            for name, collector in zip(("workers", "in_process"), collectors, strict=True)
        ]
    finally:
        for collector in collectors:
            collector.close()


def _collector(actor: TimedActor, task: Task, num_envs: int, workers: int) -> Collector:
    images = actor.policy.images
    return Collector(actor, [task], images, 0, Split.TRAIN, num_envs, workers=WorkersConfig(count=workers))


def slowed(make_env: Callable[[], gym.Env], step_s: float) -> Callable[[], gym.Env]:
    """Environments whose step takes `step_s` more. The class is local so that it travels by value: no worker loads torch."""
    cpu_s = CPU_SHARE * step_s

    class Slowed(gym.Wrapper):
        def step(self, action: Any) -> Any:
            begun = time.thread_time()
            while time.thread_time() - begun < cpu_s:
                pass
            time.sleep(step_s - cpu_s)
            return self.env.step(action)

    return lambda: Slowed(make_env())
