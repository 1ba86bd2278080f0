"""Pictures: which boxes hold them, how they become uint8 (H, W, 3), and their size."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from PIL import Image

MIN_PICTURE_SIDE = 16  # a smaller array is an encoding (MiniGrid's is 7x7x3), not something to look at
MAX_PICTURE_SIDE = 1024
MAX_STACKED_PICTURES = 16


@dataclass(frozen=True, slots=True)
class PictureReader:
    """Reads the pictures of one Box: uint8 (H, W, 3) each, whatever layout, depth and type they come in."""

    shape: tuple[int, ...]
    dtype: str
    channel_axis: int | None  # within one picture; None: grey, without such an axis
    is_stack: bool  # the first axis counts pictures
    levels: tuple[float, float] | None  # what becomes 0 and 255; None: uint8, taken as it is

    def read(self, value: Any, place: str = "") -> list[np.ndarray]:
        """One picture, or every picture of a stack, oldest first. Raises ValueError for anything the Box does not hold."""
        if not isinstance(value, np.ndarray) or value.shape != self.shape or not self._has_right_type(value):
            raise ValueError(
                f"the environment gave {described(value)} as its picture{place}; needed is {self.dtype} {self.shape}"
            )
        return [self._to_rgb(picture, place) for picture in (value if self.is_stack else (value,))]

    def _has_right_type(self, value: np.ndarray) -> bool:
        return value.dtype == np.uint8 if self.dtype == "uint8" else value.dtype.kind == "f"

    def _to_rgb(self, picture: np.ndarray, place: str) -> np.ndarray:
        if self.channel_axis is None:
            picture = picture[:, :, np.newaxis]
        elif self.channel_axis == 0:
            picture = np.ascontiguousarray(np.moveaxis(picture, 0, 2))
        if self.levels is not None:
            picture = _to_bytes(picture, self.levels, place)
        if picture.shape[2] == 1:
            return np.repeat(picture, 3, axis=2)
        return _on_white(picture) if picture.shape[2] == 4 else picture


def picture_reader(space: spaces.Box) -> PictureReader | None:
    """How the pictures in a Box are read; None where it holds none.

    A picture is uint8, or float with finite bounds; (H, W), (H, W, C) or (C, H, W) with C of 1, 3 or 4 and both sides at
    least `MIN_PICTURE_SIDE`; or a stack of up to `MAX_STACKED_PICTURES` of them along a new first axis. (4, H, W) is a
    stack of four grey pictures, as Atari's usual wrappers make it.
    """
    layout = next((found for is_stack in (False, True) if (found := _layout(space.shape, is_stack))), None)
    if layout is None or (space.dtype != np.uint8 and space.dtype.kind != "f"):
        return None
    channel_axis, is_stack = layout
    levels = float(space.low.min()), float(space.high.max())
    if not 0 < levels[1] - levels[0] < math.inf:
        return None
    # Colours of uint8 are colours whatever bounds were declared; a grey board of 0..2 would be black without its bounds.
    is_colour = channel_axis is not None and space.shape[channel_axis + is_stack] > 1
    is_exact = space.dtype == np.uint8 and (is_colour or levels == (0.0, 255.0))
    return PictureReader(space.shape, str(space.dtype), channel_axis, is_stack, None if is_exact else levels)


def checked_picture(picture: Any, giver: str) -> np.ndarray:
    """What the environment's render(), or an observer, gave as a picture. Raises ValueError where it is none."""
    if picture is None and giver == "environment":
        raise ValueError('render() returned None: make the environment with render_mode="rgb_array"')
    if isinstance(picture, np.ndarray) and picture.shape[2:] == (3,) and picture.size and picture.dtype == np.uint8:
        return picture
    raise ValueError(f"the {giver} gave {described(picture)} as its picture; needed is uint8 (height, width, 3)")


def scaled(picture: np.ndarray, longer_side: int | None) -> np.ndarray:
    """A picture whose longer side is `longer_side` pixels; None: as it is, but at most `MAX_PICTURE_SIDE`.

    Reduced by averaging over areas, with the aspect ratio kept. Enlarged by the largest whole factor that fits, every
    pixel repeated: edges stay sharp, and the longer side may stay below what was asked. Unchanged: the array itself.
    """
    height, width = picture.shape[:2]
    longest = max(height, width)
    target = min(longest, MAX_PICTURE_SIDE) if longer_side is None else longer_side
    if longest > target:
        size = [max(1, round(side * target / longest)) for side in (width, height)]
        return np.array(Image.fromarray(picture).resize((size[0], size[1]), Image.Resampling.BOX))
    factor = target // longest
    return picture if factor == 1 else picture.repeat(factor, axis=0).repeat(factor, axis=1)


def described(value: Any) -> str:
    """What an environment gave, in a few words for an error."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return "None" if value is None else type(value).__name__


def _layout(shape: tuple[int, ...], is_stack: bool) -> tuple[int | None, bool] | None:
    """(channel axis of one picture, whether there is a stack of them); None where the shape is no such picture's."""
    if is_stack and (not shape or not 1 <= shape[0] <= MAX_STACKED_PICTURES):
        return None
    match shape[is_stack:]:
        case (height, width):
            channel_axis = None
        case (height, width, channels) if channels in (1, 3, 4):
            channel_axis = 2
        # Four channels first would be transparency, which nobody gives so; four stacked grey pictures are common.
        case (1 | 3, height, width):
            channel_axis = 0
        case _:
            return None
    return (channel_axis, is_stack) if min(height, width) >= MIN_PICTURE_SIDE else None


def _to_bytes(picture: np.ndarray, levels: tuple[float, float], place: str) -> np.ndarray:
    low, high = levels
    if np.isnan(picture).any():
        raise ValueError(f"the environment gave nan in its picture{place}; needed are numbers from {low:g} to {high:g}")
    return np.rint((np.clip(picture, low, high).astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)


def _on_white(picture: np.ndarray) -> np.ndarray:
    colours, alpha = picture[:, :, :3].astype(np.uint16), picture[:, :, 3:].astype(np.uint16)
    # 255 * 255 + 127 still fits into sixteen bits.
    return ((colours * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
