"""`eyas/Sokoban-v0`: push the boxes onto the targets, in a new room in every episode."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image, ImageDraw

from eyas.envs import rendering
from eyas.envs.base import DrawnEnv, check_range, grid_text
from eyas.envs.searching import shortest_path
from eyas.types import TaskDescription

ACTION_NAMES = ("up", "down", "left", "right")
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
WALL_SHARE = 0.2
Cell = tuple[int, int]  # row, column; (0, 0) is at the top left
State = tuple[Cell, frozenset[Cell]]  # player, boxes


def _places(cells: Iterable[Cell]) -> str:
    return " and ".join(f"{row + 1},{column + 1}" for row, column in sorted(cells))


def _write_thought(facts: Mapping[str, str], action_name: str) -> str:
    boxes, targets = facts["boxes"], facts["targets"]
    return f"I am at {facts['player']}, box at {boxes}, target at {targets}, I choose {action_name}."


PICTURE_DESCRIPTION = TaskDescription(
    text=(
        "Push every box onto a target. Walking into a box pushes it if the field behind it is free. Boxes cannot be pulled."
    ),
    action_names=ACTION_NAMES,
    write_thought=_write_thought,
)
TEXT_DESCRIPTION = replace(
    PICTURE_DESCRIPTION,
    text=PICTURE_DESCRIPTION.text + " P is you, X a box, O a target, S and * the same on a target, # a wall.",
)


class SokobanEnv(DrawnEnv):
    """
    ## Source
    The rewards and the small rooms are those of Sokoban in VAGEN (Wang et al. 2025, "VAGEN: Reinforcing World Model Reasoning
    for Multi-Turn VLM Agents"), which took them from gym-sokoban. Rooms and pictures are our own.

    ## Description
    The player pushes boxes through a room until each stands on a target. A box moves only where the field behind it is free;
    it cannot be pulled, so that a wrong push can make the room unsolvable. That is not told.

    ## Action Space
    `Discrete(4)`: 0 "up", 1 "down", 2 "left", 3 "right". All are always legal; a wall or a box that is stuck stops the player.

    ## Observation Space
    `mode="image"`: `Box(0, 255, (300, 300, 3), uint8)`: grey walls, red rings as targets, brown boxes, green where they stand
    on a target, the player a blue disc. `mode="text"`: `Text`, one line a row with a sign a field: P the player, S the player
    on a target, X a box, * a box on a target, O a target, # a wall, _ floor.

    ## Rewards
    - -0.1 in every step
    - +1 for a box that is pushed onto a target, -1 for one that is pushed off
    - +10 when every box stands on a target

    ## Starting State
    The outer fields are walls, each inner one is a wall with probability 0.2. Player, boxes and targets stand on fields of
    their own, drawn uniformly. Rooms that cannot be solved, as breadth-first search tells, are drawn again.

    ## Episode End
    1. Termination: every box stands on a target.
    2. Truncation: 50 steps, by the limit of the registration, which lies outside the task.

    ## Information
    At every step `facts` ("player", "boxes", "targets": row and column counted from 1), `legal_actions`, `success` (every box
    on a target) and `progress` (the share of the boxes on a target).

    ## Arguments
    - `size` (6): rows and columns with the outer walls, 5..8
    - `num_boxes` (1): boxes, and targets, 1..2
    - `mode`, `render_mode`, `jitter`, `background`: see `DrawnEnv`
    """

    is_cut_outside = True

    def __init__(self, size: int = 6, num_boxes: int = 1, **looks: Any) -> None:
        super().__init__(**looks)
        check_range("size", size, 5, 8)
        check_range("num_boxes", num_boxes, 1, 2)
        self.size, self.num_boxes = size, num_boxes
        self.action_space = gym.spaces.Discrete(4)
        self.description = TEXT_DESCRIPTION if self.mode == "text" else PICTURE_DESCRIPTION
        if self.mode == "text":
            self.observation_space = grid_text(size, "PSX*O#_")

    @property
    def facts(self) -> dict[str, str]:
        return {"player": _places([self.player]), "boxes": _places(self.boxes), "targets": _places(self.targets)}

    def _deal(self) -> None:
        is_solvable = False
        while not is_solvable:
            self.is_wall = np.ones((self.size, self.size), bool)
            self.is_wall[1:-1, 1:-1] = self.np_random.random((self.size - 2, self.size - 2)) < WALL_SHARE
            free = [(int(row), int(column)) for row, column in np.argwhere(~self.is_wall)]
            if len(free) < 2 * self.num_boxes + 1:
                continue
            self.player, *places = (free[i] for i in self.np_random.permutation(len(free))[: 2 * self.num_boxes + 1])
            self.boxes = frozenset(places[: self.num_boxes])
            self.targets = frozenset(places[self.num_boxes :])
            is_solvable = self.solve() is not None

    def solve(self) -> list[int] | None:
        """The actions of a shortest solution from the present state; None where there is none."""
        return shortest_path((self.player, self.boxes), self._successors, lambda state: state[1] == self.targets)

    def _successors(self, state: State) -> Iterator[tuple[int, State]]:
        for action in range(4):
            following = self._move(state, action)
            if following != state:
                yield action, following

    def _move(self, state: State, action: int) -> State:
        (row, column), boxes = state
        down, right = MOVES[action]
        ahead, behind = (row + down, column + right), (row + 2 * down, column + 2 * right)
        if self.is_wall[ahead]:
            return state
        if ahead not in boxes:
            return ahead, boxes
        if self.is_wall[behind] or behind in boxes:
            return state
        return ahead, boxes - {ahead} | {behind}

    def _play(self, action: int) -> tuple[float, bool, bool]:
        before = self._num_done()
        self.player, self.boxes = self._move((self.player, self.boxes), action)
        is_solved = self.boxes == self.targets
        return -0.1 + (self._num_done() - before) + 10 * is_solved, is_solved, False

    def _num_done(self) -> int:
        return len(self.boxes & self.targets)

    def _outcome(self) -> dict[str, Any]:
        return {"success": self.boxes == self.targets, "progress": self._num_done() / self.num_boxes}

    def _sign(self, cell: Cell) -> str:
        if self.is_wall[cell]:
            return "#"
        if cell == self.player:
            return "S" if cell in self.targets else "P"
        if cell in self.boxes:
            return "*" if cell in self.targets else "X"
        return "O" if cell in self.targets else "_"

    def _rows(self) -> list[list[str]]:
        return [[self._sign((row, column)) for column in range(self.size)] for row in range(self.size)]

    def _words(self) -> str:
        return "\n".join(" ".join(row) for row in self._rows())

    def _draw(self) -> np.ndarray:
        canvas, edge = rendering.blank(self.background), rendering.INNER // self.size
        for row, signs in enumerate(self._rows()):
            for column, sign in enumerate(signs):
                y, x = rendering.MARGIN + row * edge, rendering.MARGIN + column * edge
                canvas[y : y + edge, x : x + edge] = _tile(sign, edge, self.background)
        return canvas


_GREY, _BROWN, _GREEN = (120, 120, 120), (160, 95, 40), (60, 170, 60)


@lru_cache(maxsize=64)
def _tile(sign: str, edge: int, background: str) -> np.ndarray:
    """A field, uint8 (edge, edge, 3)."""
    image = Image.new("RGB", (edge, edge), _GREY if sign == "#" else rendering.BACKGROUNDS[background])
    draw, last = ImageDraw.Draw(image), edge - 1
    inset = edge // 8
    if sign in "OS":
        draw.ellipse([inset, inset, last - inset, last - inset], outline=rendering.RED, width=max(2, edge // 12))
    if sign in "X*":
        fill = _GREEN if sign == "*" else _BROWN
        draw.rectangle([inset, inset, last - inset, last - inset], fill=fill, outline=rendering.BLACK, width=2)
        draw.line([inset, inset, last - inset, last - inset], fill=rendering.BLACK, width=2)
        draw.line([inset, last - inset, last - inset, inset], fill=rendering.BLACK, width=2)
    if sign in "PS":
        draw.ellipse([2 * inset, 2 * inset, last - 2 * inset, last - 2 * inset], fill=rendering.BLUE)
    draw.rectangle([0, 0, last, last], outline=rendering.BLACK if sign == "#" else _GREY)
    return np.asarray(image)
