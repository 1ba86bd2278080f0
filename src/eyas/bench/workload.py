"""What both sides work on: the model, prompts of two environments, and requests for completions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eyas.build import build_policy, build_task
from eyas.config import InterfaceConfig, ModelConfig, TaskConfig
from eyas.interface.formats import is_complete_json
from eyas.models.policy import Policy
from eyas.models.vision import Vision
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.task import Task
from eyas.types import ImagePart, ImageStore, Message, SampleRequest, StopRule, TextPart

ENVS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("eyas/NumberLine-v0", {"jitter": 6}),
    ("eyas/EZPoints-v0", {"jitter": 6}),
)
MODEL = ModelConfig(  # an Idefics3 of 2.4 million parameters, 9 tokens a picture
    options={
        "hidden_size": 192,
        "intermediate_size": 384,
        "layers": 4,
        "patch_size": 16,
        "scale_factor": 2,
        "vision_hidden_size": 128,
        "vision_layers": 3,
    }
)
SHARED_TEXT = (
    "Move the current number to the target number: - lowers it by one, + raises it by one. You see both in a picture."
)


def bench_policy() -> Policy:
    """A model made to never end its turn by itself: every side then writes the same number of tokens."""
    policy = build_policy(MODEL, MemoryImageStore())
    policy.model.end_ids = frozenset()
    return policy


def bench_tasks(new_tokens: int = 64) -> list[Task]:
    """The tasks, whose completions all have `new_tokens`."""
    config = InterfaceConfig(max_new_tokens=new_tokens)
    tasks = []
    for index, (env, env_args) in enumerate(ENVS):
        task = build_task(TaskConfig(env=env, env_args=env_args, interface=config), index)
        written: Any = task.interface.format
        interface = replace(task.interface, format=replace(written, stop=NEVER))
        tasks.append(replace(task, interface=interface))
    return tasks


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


def picture_of(messages: Sequence[Message]) -> ImagePart:
    return next(p for m in messages for p in m.parts if isinstance(p, ImagePart))


def text_first(messages: Sequence[Message]) -> tuple[Message, ...]:
    """A prompt with the same picture behind a text that all such prompts begin with."""
    return (
        Message(
            "user", (TextPart(SHARED_TEXT), picture_of(messages), TextPart("Answer in JSON with the action alone."))
        ),
    )


def requests(
    messages: Sequence[tuple[Message, ...]], lengths: Sequence[int], draw: int, is_continued: bool = False
) -> list[SampleRequest]:
    """One request a prompt, at temperature 1 and of a fixed length; `draw` decides the seeds."""
    return [
        SampleRequest(m, draw * 1000 + i, n, 1.0, NEVER, None, is_continued)
        for i, (m, n) in enumerate(zip(messages, lengths, strict=True))
    ]


def forget(policy: Policy) -> None:
    """Drops all that was made of prompts and pictures, the processed pictures too."""
    policy.sampler.forget()
    policy.model.vision = Vision(policy.model.model, policy.model.processor, policy.model.family)


def _never_complete(text: str) -> bool:
    """Asks what the JSON format asks, and goes on."""
    is_complete_json(text)
    return False


NEVER = StopRule("}", _never_complete)
