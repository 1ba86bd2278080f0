"""What of an episode's past the prompt shows: nothing, the last observations, the whole conversation, or a summary.

A history is asked once a step, with the prompt of the step before, so that a conversation grows by what is new: earlier
messages stay the same objects. Training samples follow from the prompts alone, whichever history made them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np
from PIL import Image

from eyas.types import Completion, ImagePart, ImageStore, Message, TextPart

Part = TextPart | ImagePart
OLDER_SCALE = 2  # older pictures of a conversation are reduced by this factor a side


@dataclass(frozen=True, slots=True)
class Shown:
    """One observation, as it is shown."""

    pictures: tuple[ImagePart, ...]
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PastStep:
    """One step of the past: what was shown, what was written, what was done (None: nothing)."""

    shown: Shown
    completion: Completion
    action_name: str | None


@dataclass(frozen=True, slots=True)
class Moment:
    """What a prompt is made from."""

    task: str
    instruction: str
    past: Sequence[PastStep]
    before: tuple[Message, ...]  # the prompt of the step before, () at the start of an episode
    now: Shown
    images: ImageStore
    task_first: bool = False  # the task's words before the pictures, the same in every prompt

    def asked(self, *words: str, pictures: Sequence[Part] = ()) -> Message:
        """The message that says the task, shows the current pictures after those given, and says some words."""
        seen = (*pictures, *self.now.pictures)
        if not self.task_first:
            return _user(*seen, _text(self.task, *words, self.instruction))
        said = _text(*words)
        return _user(_text(self.task, self.instruction), *seen, *((said,) if said.text else ()))


class History(Protocol):
    @property
    def is_continued(self) -> bool:
        """Whether a step's prompt begins with the last one's, and what was written there."""
        ...

    @property
    def depth(self) -> int | None:
        """How many steps of the past it looks at; None: all of them, in words only."""
        ...

    def prompt(self, at: Moment) -> tuple[Message, ...]:
        """The prompt of this step."""
        ...


def _user(*parts: Part) -> Message:
    return Message("user", parts)


def _text(*words: str) -> TextPart:
    return TextPart(" ".join(w for w in words if w))


def _done(action_name: str | None) -> str:
    return "nothing" if action_name is None else action_name


@dataclass(frozen=True)
class NoHistory:
    """The current observation only."""

    is_continued = False
    depth = 0

    def prompt(self, at: Moment) -> tuple[Message, ...]:
        return (at.asked(*at.now.words),)


@dataclass(frozen=True)
class LastObservations:
    """The last `k` observations in one message, the current one included, with the actions taken between them."""

    k: int = 4
    is_continued = False

    @property
    def depth(self) -> int:
        return self.k - 1

    def prompt(self, at: Moment) -> tuple[Message, ...]:
        parts: list[Part] = []
        for step in at.past[len(at.past) - min(self.k - 1, len(at.past)) :]:
            parts += [*step.shown.pictures, _text(*step.shown.words, f"Then you chose {_done(step.action_name)}.")]
        return (at.asked(*at.now.words, pictures=parts),)


@dataclass(frozen=True)
class Summary:
    """The current observation, and every action so far in words: runs of the same one are counted."""

    is_continued = False
    depth = None

    def prompt(self, at: Moment) -> tuple[Message, ...]:
        runs = [(name, len(list(steps))) for name, steps in groupby(_done(s.action_name) for s in at.past)]
        done = ", ".join(name if count == 1 else f"{name} x{count}" for name, count in runs)
        so_far = f"So far you chose: {done}." if done else ""
        return (at.asked(so_far, *at.now.words),)


@dataclass(frozen=True)
class Conversation:
    """Every observation and everything that the model wrote, as a chat. The task stands in the first message.

    With `keep_images` above 0 only the pictures of that many newest messages stay whole; older ones are left out, or
    reduced to half their size. That changes an earlier message, so the training sample forks there.
    """

    keep_images: int = 0
    are_older_downscaled: bool = False
    depth = 1  # what lies further back stands in the prompt before

    @property
    def is_continued(self) -> bool:
        return self.keep_images == 0

    def prompt(self, at: Moment) -> tuple[Message, ...]:
        if not at.before:
            return (at.asked(*at.now.words),)
        written = at.past[-1].completion
        answer = Message("assistant", (TextPart(written.text),), written)
        messages = [*at.before, answer, self._next(at.now)]
        older = len(messages) - 1 - 2 * self.keep_images  # the user message that has just become old
        if self.keep_images and older >= 0:
            messages[older] = self._aged(messages[older], at.images)
        return tuple(messages)

    @staticmethod
    def _next(now: Shown) -> Message:
        words = _text(*now.words)
        return _user(*now.pictures, *((words,) if words.text or not now.pictures else ()))

    def _aged(self, message: Message, images: ImageStore) -> Message:
        parts: list[Part] = []
        for part in message.parts:
            if not isinstance(part, ImagePart):
                parts.append(part)
            elif self.are_older_downscaled:
                parts.append(ImagePart(images.put(_reduced(images.get(part.image_hash)))))
        return Message(message.role, tuple(parts) or (TextPart("(an earlier picture)"),))


def _reduced(image: np.ndarray) -> np.ndarray:
    height, width = (max(1, side // OLDER_SCALE) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
