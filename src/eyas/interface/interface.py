"""The interface of one environment: what the model is shown, and what its text does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from eyas.errors import ConfigError, UnsupportedSpace
from eyas.interface.formats import FORMATS, JsonFormat
from eyas.types import (
    Completion,
    FailureEffect,
    ImagePart,
    ImageStore,
    Message,
    ParsedAction,
    ParseResult,
    SampleRequest,
    TaskDescription,
    TextPart,
)


@dataclass(frozen=True)
class Interface:
    """Renders observations as messages and parses completions into actions.

    `image_source` says where the picture comes from: "observation", "render" (the environment's render()), or None.
    """

    description: TaskDescription
    format: JsonFormat
    image_source: str | None
    is_text_observation: bool = False
    first_action: int = 0  # `start` of the Discrete action space
    max_new_tokens: int = 64
    on_parse_failure: FailureEffect = FailureEffect.RANDOM_LEGAL
    parse_failure_penalty: float = -1.0
    max_parse_failures: int = 10  # with effect noop: the episode ends at this many

    @classmethod
    def for_env(
        cls, env: gym.Env, *, format: str = "json", thoughts: bool = True, text: str | None = None, **options: Any
    ) -> "Interface":
        """Reads the spaces, and the description where the environment has one.

        Raises UnsupportedSpace for an action space that is not Discrete, ConfigError for an unknown format.
        """
        if format not in FORMATS:
            raise ConfigError(f"unknown format {format!r}: choose from {', '.join(FORMATS)}")
        if not isinstance(env.action_space, spaces.Discrete):
            raise UnsupportedSpace(f"the action space {env.action_space} is not Discrete: wrap it in a Discrete one")
        description = getattr(env.unwrapped, "description", None) or _derived_description(env)
        if len(description.action_names) != env.action_space.n:
            raise ConfigError(f"{env.action_space} has not as many actions as names: {list(description.action_names)}")
        if text is not None:
            description = TaskDescription(
                text, description.action_names, description.fact_keys, description.write_thought
            )
        is_text = isinstance(env.observation_space, spaces.Text)
        return cls(
            description=description,
            format=FORMATS[format](description.action_names, description.fact_keys if thoughts else (), thoughts),
            image_source=None if is_text else _image_source(env),
            is_text_observation=is_text,
            first_action=int(env.action_space.start),
            **options,
        )

    def render(
        self, observation: Any, info: Mapping[str, Any], frame: np.ndarray | None, images: ImageStore
    ) -> tuple[Message, ...]:
        """One user message: the picture, the task, what the environment says of this step, the instruction.

        `frame` is what env.render() gave where `image_source` is "render". Raises ValueError for a broken picture.
        """
        parts: list[TextPart | ImagePart] = []
        if self.image_source:
            picture = observation if self.image_source == "observation" else frame
            parts.append(ImagePart(images.put(_checked_picture(picture))))
        words = [self.description.text]
        if self.is_text_observation:
            words.append(str(observation))
        if info.get("observation_text"):
            words.append(str(info["observation_text"]))
        words.append(self.format.instruction())
        parts.append(TextPart(" ".join(words)))
        return (Message("user", tuple(parts)),)

    def request(self, messages: tuple[Message, ...], seed: int, temperature: float) -> SampleRequest:
        return SampleRequest(messages, seed, self.max_new_tokens, temperature, self.format.stop)

    def parse(self, completion: Completion, legal_actions: Sequence[int] | None) -> ParseResult:
        """The action in the environment's action space, or why there is none."""
        legal = None if legal_actions is None else [a - self.first_action for a in legal_actions]
        parsed = self.format.parse(completion, legal)
        if isinstance(parsed, ParsedAction) and self.first_action:
            return replace(parsed, action=parsed.action + self.first_action)
        return parsed

    def name_of(self, action: int) -> str:
        """How the model calls an action of the environment."""
        return self.description.action_names[action - self.first_action]

    def write(self, action: int, facts: Mapping[str, str]) -> str:
        """What a demonstrator who saw these facts and chose this action would have written."""
        name = self.name_of(action)
        write_thought = self.description.write_thought
        thought = write_thought(facts, name) if write_thought else f"I choose {name}."
        return self.format.write(action - self.first_action, facts, thought)


def _derived_description(env: gym.Env) -> TaskDescription:
    assert isinstance(env.action_space, spaces.Discrete)
    name = env.spec.id if env.spec else type(env.unwrapped).__name__
    names = tuple(str(i) for i in range(int(env.action_space.n)))
    return TaskDescription(f"You play {name}. Choose the action that earns the most reward.", names)


def _image_source(env: gym.Env) -> str:
    space = env.observation_space
    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] == 3:
        return "observation"
    if env.render_mode != "rgb_array":
        raise UnsupportedSpace(
            f"the observation {space} is no picture and the environment does not render one: "
            'make it with render_mode="rgb_array"'
        )
    return "render"


def _checked_picture(picture: Any) -> np.ndarray:
    is_array = isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.size > 0
    if not is_array or picture.shape[2] != 3 or picture.dtype != np.uint8:
        described = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        raise ValueError(f"the environment gave {described} as its picture; needed is uint8 (height, width, 3)")
    return picture
