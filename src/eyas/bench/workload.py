"""What both sides work on: the model, first prompts of two environments, and requests for completions."""

from collections.abc import Sequence
from typing import Any

from eyas.build import build_policy, build_task
from eyas.config import ModelConfig, TaskConfig
from eyas.interface.formats import is_complete_json
from eyas.models.policy import Policy
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.task import Task
from eyas.types import ImageStore, Message, SampleRequest, StopRule

ENVS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("eyas/NumberLine-v0", {"jitter": 6}),
    ("eyas/EZPoints-v0", {"jitter": 6}),
)


def bench_policy() -> Policy:
    """The built-in model, made to never end its turn by itself: every side then writes the same number of tokens."""
    policy = build_policy(ModelConfig(), MemoryImageStore())
    policy.model.end_ids = frozenset()
    return policy


def bench_tasks() -> list[Task]:
    return [build_task(TaskConfig(env=env, env_args=env_args)) for env, env_args in ENVS]


def prompts(tasks: Sequence[Task], images: ImageStore, number: int) -> list[tuple[Message, ...]]:
    """First prompts of different episodes, all with different pictures, the tasks in turn."""
    envs = [task.make_env() for task in tasks]
    messages = []
    for i in range(number):
        env, interface = envs[i % len(envs)], tasks[i % len(envs)].interface
        observation, info = env.reset(seed=i)
        messages.append(interface.render(observation, info, None, images))
    for env in envs:
        env.close()
    return messages


def requests(messages: Sequence[tuple[Message, ...]], lengths: Sequence[int], draw: int) -> list[SampleRequest]:
    """One request a prompt, at temperature 1 and of a fixed length; `draw` decides the seeds."""
    return [SampleRequest(m, draw * 1000 + i, n, 1.0, _STOP) for i, (m, n) in enumerate(zip(messages, lengths))]


def _never_complete(text: str) -> bool:
    """Asks what the JSON format asks, and goes on."""
    is_complete_json(text)
    return False


_STOP = StopRule("}", _never_complete)
