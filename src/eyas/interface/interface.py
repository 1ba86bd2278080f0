"""The interface of one environment: what the model is shown, and what its text does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from eyas.errors import ConfigError
from eyas.interface import naming
from eyas.interface.actions import MAX_NAMED, ActionCodec, SequenceCodec, codec_for
from eyas.interface.formats import FORMATS, Format
from eyas.interface.history import History, Moment, NoHistory, PastStep, Shown
from eyas.interface.observations import Observer, observer_for
from eyas.interface.pictures import checked_picture
from eyas.types import (
    Completion,
    ExpertMove,
    FailureEffect,
    ImagePart,
    ImageStore,
    Message,
    ParseResult,
    SampleRequest,
    TaskDescription,
)

UNLISTED_TOKENS = 96  # room for a scored action that only info lists: its words are not known before


@dataclass(frozen=True)
class Interface:
    """Renders observations as messages and parses completions into actions.

    Its parts can be replaced one by one (`dataclasses.replace`): `description` says the task, `observer` turns an
    observation into texts and pictures, `history` says what of the past is shown, and `format` holds the instruction, the
    parser and, as `format.codec`, the words of the actions.
    """

    description: TaskDescription
    format: Format
    observer: Observer
    history: History = field(default_factory=NoHistory)
    action_mode: Literal["text", "score"] = "text"
    is_score_per_token: bool = False
    task_first: bool = False  # says task and instruction before the pictures: every prompt begins alike
    max_new_tokens: int = 64
    on_parse_failure: FailureEffect = FailureEffect.RANDOM_LEGAL
    parse_failure_penalty: float = -1.0
    max_parse_failures: int = 10  # with effect noop: the episode ends at this many

    @classmethod
    def for_env(
        cls,
        env: gym.Env,
        *,
        format: str = "json",
        thoughts: bool = True,
        text: str | None = None,
        action_names: Sequence[Any] | None = None,
        observation_names: Sequence[str] | None = None,
        bins: int | Sequence[str] | None = None,
        precision: int = 2,
        max_actions: int = 1,
        separator: str = ",",
        show: str = "auto",
        image_source: str = "auto",
        image_size: int | None = None,
        **options: Any,
    ) -> "Interface":
        """Reads spaces, metadata and docstring, and the description where the environment has one.

        `bins` and `precision` say how numbers are chosen and written, `show`, `image_source` and `image_size` what is
        seen. `options` are the fields of Interface. Raises UnsupportedSpace for a space without words, saying what to
        write instead, ConfigError for an unknown format or names that do not fit.
        """
        if format not in FORMATS:
            raise ConfigError(f"unknown format {format!r}: choose from {', '.join(FORMATS)}")
        description = _description(env, text)
        names = action_names or naming.action_names(env)
        codec: ActionCodec = codec_for(env.action_space, names, bins=bins, precision=precision)
        if max_actions > 1:
            codec = SequenceCodec(codec, max_actions, separator)
        observer = observer_for(
            env,
            show=show,
            image_source=image_source,
            image_size=image_size,
            names=observation_names or naming.observation_names(env, int(np.prod(env.observation_space.shape or (0,)))),
            precision=precision,
        )
        interface = cls(
            description=description,
            format=FORMATS[format](codec, description.fact_keys if thoughts else (), thoughts),
            observer=observer,
            **options,
        )
        if interface.action_mode == "score" and (max_actions > 1 or isinstance(env.action_space, gym.spaces.Box)):
            interface.format.choice(None)  # raises; of other spaces, info may list the legal actions of a step
        return interface

    @property
    def codec(self) -> ActionCodec:
        return self.format.codec

    @property
    def renders(self) -> bool:
        """Whether the observer needs what the environment's render() gives."""
        return bool(getattr(self.observer, "renders", False))

    # ------------------------------------------------------------------------------------- what is shown

    def observe(self, observation: Any, info: Mapping[str, Any], frame: np.ndarray | None, images: ImageStore) -> Shown:
        """Keeps the pictures in `images`. `frame` is what render() gave. Raises ValueError for a broken observation."""
        pictures, words = [], []
        for piece in self.observer(observation, info, frame):
            if isinstance(piece, str):
                words.append(piece)
            else:
                pictures.append(ImagePart(images.put(checked_picture(piece, "observer"))))
        if info.get("observation_text"):
            words.append(str(info["observation_text"]))
        return Shown(tuple(pictures), tuple(words))

    def prompt(
        self, past: Sequence[PastStep], before: tuple[Message, ...], now: Shown, images: ImageStore
    ) -> tuple[Message, ...]:
        """The messages of a step; `before` is the prompt of the step before, () at the start."""
        instruction = self.format.instruction()
        return self.history.prompt(
            Moment(self.description.text, instruction, past, before, now, images, self.task_first)
        )

    def render(
        self, observation: Any, info: Mapping[str, Any], frame: np.ndarray | None, images: ImageStore
    ) -> tuple[Message, ...]:
        """The prompt of an episode's first step."""
        return self.prompt((), (), self.observe(observation, info, frame, images), images)

    # ------------------------------------------------------------------------------------- what is asked and read

    def request(
        self, messages: tuple[Message, ...], legal: Sequence[Any] | None, seed: int, temperature: float
    ) -> SampleRequest:
        choice = self.format.choice(legal, self.is_score_per_token) if self.action_mode == "score" else None
        return SampleRequest(
            messages, seed, self.max_new_tokens, temperature, self.format.stop, choice, self.history.is_continued
        )

    @property
    def most_tokens(self) -> int:
        """What a completion may take of the model's context; where actions are scored, their words come on top."""
        if self.action_mode != "score":
            return self.max_new_tokens
        return self.max_new_tokens + self._most_scored_tokens

    @cached_property
    def _most_scored_tokens(self) -> int:
        """The longest words of an action with what the format writes around them, in bytes, and the end token."""
        if self.codec.actions is None:
            return UNLISTED_TOKENS
        choice = self.format.choice(None)
        text = self.format.write(self.codec.actions[0], dict.fromkeys(self.format.fact_keys, ""), "")
        head = next((h for h in accumulate(text) if choice.head and choice.head.is_complete(h)), "")
        return max((len(words.encode()) for words in choice.continuations(head)), default=0) + 1

    def parse(self, completion: Completion, legal: Sequence[Any] | None) -> ParseResult:
        """The action in the environment's action space, or why there is none."""
        return self.format.parse(completion, legal)

    def write(self, move: ExpertMove) -> str:
        """What a demonstrator who saw these facts and chose this action would have written."""
        name = self.name_of(move.action)
        write_thought = self.description.write_thought
        if move.thought is not None:
            thought = move.thought
        else:
            thought = write_thought(move.facts, name) if write_thought else f"I choose {name}."
        return self.format.write(self._wrapped(move.action), move.facts, thought)

    # ------------------------------------------------------------------------------------- actions

    def legal_actions(self, info: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The actions that are legal now, as the environment's info says.

        Where it says nothing: all of them where they are few, else None, which means all of them too.
        """
        legal = self.codec.legal(info)
        return self.codec.actions if legal is None and len(self.codec.names) <= MAX_NAMED else legal

    def random_action(self, rng: np.random.Generator, legal: Sequence[Any] | None) -> Any:
        return self.codec.sample(rng, legal)

    def name_of(self, action: Any) -> str:
        """How the model calls an action."""
        return self.codec.write(self._wrapped(action))

    def moves(self, action: Any) -> tuple[Any, ...]:
        """The environment's actions, one a call of its step(), that an action of the model stands for."""
        return tuple(action) if isinstance(self.codec, SequenceCodec) else (action,)

    def constants(self) -> tuple[Any, ...]:
        """Actions worth trying as a constant player: every one where they can be listed, else the ends and the middle."""
        inner = self.codec.codec if isinstance(self.codec, SequenceCodec) else self.codec
        if inner.actions is not None:
            return tuple(self._wrapped(a) for a in inner.actions)
        space = inner.space
        if not isinstance(space, gym.spaces.Box):
            return ()
        middle = ((space.low.astype(np.float64) + space.high) / 2).astype(space.dtype)
        return tuple(self._wrapped(a) for a in (space.low, middle, space.high))

    def _wrapped(self, action: Any) -> Any:
        """An environment's single action as one of the model's, which may be several."""
        if not isinstance(self.codec, SequenceCodec):
            return action
        is_sequence = isinstance(action, tuple) and all(self.codec.codec.space.contains(a) for a in action)
        return action if is_sequence else (action,)


def _description(env: gym.Env, text: str | None) -> TaskDescription:
    description = getattr(env.unwrapped, "description", None)
    if not isinstance(description, TaskDescription):
        description = TaskDescription(text or naming.task_text(env))
    return description if text is None else replace(description, text=text)
