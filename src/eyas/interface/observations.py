"""Observations into words and pictures: which of what an observation holds is shown.

An *observer* is any callable `(observation, info, frame) -> texts and pictures`, in the order in which they are shown;
pictures are uint8 (H, W, 3). Where its attribute `renders` is True it is given env.render()'s frame, else None.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from eyas.errors import ConfigError, UnsupportedSpace
from eyas.interface.pictures import checked_picture, scaled
from eyas.interface.space_parts import Kind, Leaf, Part, described_space, named_part, part_of, place_of

SHOWS = ("auto", "image", "text", "both")
IMAGE_SOURCES = ("auto", "observation", "render")

Observer = Callable[[Any, Mapping[str, Any], np.ndarray | None], Sequence[str | np.ndarray]]

_OWN_OBSERVER = "or give an observer of your own, a function (observation, info, frame) -> texts and pictures"


@dataclass(frozen=True)
class SpaceObserver:
    """Shows the observations of one space: first the pictures, then all words as one text."""

    root: Part
    kinds: frozenset[Kind]  # what of the observation is shown
    image_source: str | None  # "observation", "render" or None
    image_size: int | None
    is_labelled: bool  # False where a single piece of language is all that is said
    left_out: tuple[str, ...]  # labels of what the observation holds and the model is not shown

    @property
    def renders(self) -> bool:
        """Whether a frame of env.render() is needed."""
        return self.image_source == "render"

    def __call__(
        self, observation: Any, info: Mapping[str, Any], frame: np.ndarray | None = None
    ) -> tuple[str | np.ndarray, ...]:
        """Raises ValueError where the environment gave what its space does not hold, or no frame."""
        pieces = list(self.root.read(observation, "", self.kinds))
        pictures = [checked_picture(frame, "environment")] if self.renders else []
        pictures += [p.value for p in pieces if p.kind is Kind.PICTURE]
        said = [p for p in pieces if p.kind is Kind.LANGUAGE] + [p for p in pieces if p.kind is Kind.NUMBERS]
        words = "; ".join(f"{p.label}: {p.value}" if p.label and self.is_labelled else p.value for p in said)
        shown = tuple(scaled(picture, self.image_size) for picture in pictures)
        return (*shown, words) if words else shown


def observer_for(
    env: gym.Env,
    *,
    show: str = "auto",
    image_source: str = "auto",
    image_size: int | None = None,
    names: Sequence[str] | None = None,
    precision: int = 2,
) -> SpaceObserver:
    """Reads the observation space and decides what of it is shown.

    `show`: "image" shows pictures only, "text" words only, "both" pictures and all words. "auto" shows pictures and
    language, and numbers only where there is no picture. The pictures are the observation's own, else the rendering;
    `image_source` "observation" or "render" decides otherwise. `image_size`: pixels of the longer side; None leaves
    pictures as they are, up to `MAX_PICTURE_SIDE`. `names`: one for each number of a flat observation. `precision`:
    decimals of a number that is not whole.

    Raises UnsupportedSpace where the observation cannot be shown so, ConfigError for an option that is not one.
    """
    _check_options(show, image_source, image_size, precision)
    space = env.observation_space
    root = named_part(part_of(space, precision), names)
    leaves = list(root.leaves())
    source = None if show == "text" else _image_source(env, leaves, show, image_source)
    kinds = _shown_kinds(show, source, leaves)
    shown = [leaf for leaf in leaves if leaf.kind in kinds]
    _check_something_is_shown(space, leaves, shown, source)
    said = [(leaf.kind, leaf.is_always_there) for leaf in shown if leaf.kind is not Kind.PICTURE]
    left_out = tuple(leaf.label or "observation" for leaf in leaves if leaf.kind not in kinds)
    return SpaceObserver(root, kinds, source, image_size, said != [(Kind.LANGUAGE, True)], left_out)


# ----------------------------------------------------------------------------------------------- what is shown


def _check_options(show: str, image_source: str, image_size: int | None, precision: int) -> None:
    for name, option, known in (("show", show, SHOWS), ("image_source", image_source, IMAGE_SOURCES)):
        if option not in known:
            raise ConfigError(f"unknown {name} {option!r}: choose from {', '.join(known)}")
    if image_size is not None and (isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1):
        raise ConfigError(f"image_size is {image_size!r}: give the pixels of the longer side, such as 224")
    if isinstance(precision, bool) or not isinstance(precision, int) or precision < 0:
        raise ConfigError(f"precision is {precision!r}: give a number of decimals, such as 2")


def _image_source(env: gym.Env, leaves: Sequence[Leaf], show: str, image_source: str) -> str | None:
    has_picture = any(leaf.kind is Kind.PICTURE for leaf in leaves)
    render_mode = getattr(env, "render_mode", None)
    space = described_space(env.observation_space)
    if image_source == "observation" and not has_picture:
        raise UnsupportedSpace(
            f"the observation {space} holds no picture: "
            'use image_source="render" and make the environment with render_mode="rgb_array"'
        )
    if image_source == "render" and render_mode != "rgb_array":
        raise UnsupportedSpace(
            f"the environment renders no pictures, its render_mode is {render_mode!r}: "
            'make it with render_mode="rgb_array"'
        )
    if has_picture and image_source != "render":
        return "observation"
    if render_mode == "rgb_array":
        return "render"
    if show != "auto":
        raise UnsupportedSpace(
            f"the observation {space} is no picture and the environment does not render one: "
            'make it with render_mode="rgb_array", or use show="text"'
        )
    return None


def _shown_kinds(show: str, source: str | None, leaves: Sequence[Leaf]) -> frozenset[Kind]:
    kinds = {Kind.PICTURE} if source == "observation" else set()
    if show != "image":
        kinds.add(Kind.LANGUAGE)
    # A Sequence or a OneOf may hold no picture this time, and then the numbers are all there is.
    is_pictured = any(leaf.kind is Kind.PICTURE and leaf.is_always_there for leaf in leaves)
    has_picture = source == "render" or (source == "observation" and is_pictured)
    if show in ("text", "both") or (show == "auto" and not has_picture):
        kinds.add(Kind.NUMBERS)
    return frozenset(kinds)


def _check_something_is_shown(
    space: spaces.Space, leaves: Sequence[Leaf], shown: Sequence[Leaf], source: str | None
) -> None:
    """Raises UnsupportedSpace where neither pictures nor words show what matters."""
    if source is not None or any(leaf.kind is Kind.LANGUAGE for leaf in shown):
        return
    for leaf in leaves:
        if leaf.kind is Kind.UNSAYABLE:
            raise UnsupportedSpace(
                f"the {place_of(leaf.label)} cannot be shown: {leaf.reason}. Make the environment with "
                f'render_mode="rgb_array", wrap it (gymnasium.wrappers.TransformObservation), {_OWN_OBSERVER}'
            )
    if not shown:
        raise UnsupportedSpace(
            f'the observation {described_space(space)} has nothing to put into words: use show="image", {_OWN_OBSERVER}'
        )
