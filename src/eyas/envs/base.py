"""What the drawn environments share: picture or words as observation, looks, information, checks of arguments."""

from abc import abstractmethod
from collections.abc import Sequence
from string import ascii_letters, digits
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from eyas.envs import rendering
from eyas.types import TaskDescription

CHARSET = ascii_letters + digits + " .,:'_+-*/()="


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raises ValueError, naming what to type, unless `value` is one of `choices`."""
    if value not in choices:
        options = " or ".join(f"{name}={c!r}" for c in choices)
        raise ValueError(f"{name}={value!r} is unknown: type {options}")


def check_range(name: str, value: Any, low: int, high: int) -> None:
    """Raises ValueError, naming what to type, unless `value` is an integer in low..high."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or not low <= value <= high:
        raise ValueError(f"{name}={value!r} cannot be used: type an integer from {low} to {high}, e.g. {name}={low}")


def checked_action(space: Any, action: Any) -> int:
    """The action in plain Python. Raises ValueError, saying what to type, for one outside the space."""
    if not space.contains(action):
        raise ValueError(f"action {action!r} is unknown: type an integer from 0 to {space.n - 1}")
    return int(action)


def grid_text(size: int, signs: str) -> gym.spaces.Text:
    """Words of `size` lines, in each `size` signs with a blank between them."""
    length = 2 * size**2 - 1
    return gym.spaces.Text(length, min_length=length, charset=f"{signs} \n")


class DrawnEnv(gym.Env[Any, Any]):
    """A game whose state is a picture (`mode="image"`) or the same state in words (`mode="text"`).

    Its arguments, with their defaults:
    - `mode` ("image"): what the observation is, "image" or "text"
    - `render_mode` (None): with "rgb_array" `render()` returns the picture, also in text mode
    - `jitter` (0): the drawing is shifted by up to this many pixels in x and y, 0..16
    - `background` ("white"): "white" or "green"

    The look of an episode (shift of the drawing, suits) is drawn once at reset, after the game's own random numbers and
    always with the same number of draws: a seed gives the same game under every look.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 2}
    description: TaskDescription  # the task in words, for the prompt
    max_text_length = 100
    is_cut_outside = False  # by a limit of steps that the registration sets: the outcome is then told at every step
    action_space: Any  # Discrete, where a subclass does not check its actions itself

    def __init__(
        self, mode: str = "image", render_mode: str | None = None, jitter: int = 0, background: str = "white"
    ) -> None:
        check_choice("mode", mode, ("image", "text"))
        check_choice("render_mode", render_mode, (None, "rgb_array"))
        check_range("jitter", jitter, 0, rendering.MARGIN)
        check_choice("background", background, tuple(rendering.BACKGROUNDS))
        self.mode, self.render_mode, self.jitter, self.background = mode, render_mode, jitter, background
        self.observation_space: gym.Space[Any] = gym.spaces.Box(0, 255, (rendering.SIZE, rendering.SIZE, 3), np.uint8)
        if mode == "text":
            self.observation_space = gym.spaces.Text(self.max_text_length, charset=CHARSET)
        self.is_over = True

    @property
    @abstractmethod
    def facts(self) -> dict[str, str]:
        """The state as a careful reader of the observation would write it down."""

    @abstractmethod
    def _deal(self) -> None:
        """Draws the start of an episode from `self.np_random`."""

    @abstractmethod
    def _play(self, action: Any) -> tuple[float, bool, bool]:
        """Changes the state; returns reward, terminated, truncated."""

    @abstractmethod
    def _outcome(self) -> dict[str, Any]:
        """`success` and `progress` of the episode so far."""

    @abstractmethod
    def _draw(self) -> np.ndarray:
        """The picture without the shift; must be a fresh array."""

    @abstractmethod
    def _words(self) -> str:
        """The same state in words."""

    def _deal_looks(self) -> None:
        width = 2 * self.jitter + 1
        self._shift = tuple(int(u * width) - self.jitter for u in self.np_random.random(2))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode. `options` is not used."""
        super().reset(seed=seed, options=options)
        self._deal()
        self._deal_looks()
        self.is_over = False
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Plays one action. Raises ValueError for one outside the action space, ResetNeeded after the end."""
        if self.is_over:
            raise gym.error.ResetNeeded("The episode is over: call env.reset() before env.step(action)")
        reward, terminated, truncated = self._play(self._checked(action))
        self.is_over = terminated or truncated
        return self._observation(), reward, terminated, truncated, self._info()

    def _checked(self, action: Any) -> Any:
        """The action in plain Python. Raises ValueError, saying what to type, for one outside the action space."""
        return checked_action(self.action_space, action)

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"facts": self.facts}
        if isinstance(self.action_space, gym.spaces.Discrete):
            info["legal_actions"] = list(range(int(self.action_space.n)))
        return info | self._outcome() if self.is_over or self.is_cut_outside else info

    def _observation(self) -> Any:
        return self._words() if self.mode == "text" else self._picture()

    def _picture(self) -> np.ndarray:
        return rendering.shift(self._draw(), self._shift, self.background)

    def render(self) -> np.ndarray | None:
        """The picture, uint8 (300, 300, 3), in both modes; None without `render_mode="rgb_array"`."""
        return self._picture() if self.render_mode == "rgb_array" else None
