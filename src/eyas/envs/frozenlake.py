"""`eyas/FrozenLake-v0`: Gymnasium's frozen lake with a new map in every episode."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

from eyas.envs.base import DrawnEnv, check_choice, check_range, grid_text
from eyas.envs.searching import distances
from eyas.types import TaskDescription

LEFT, DOWN, RIGHT, UP = range(4)
DIRECTIONS = ("left", "down", "right", "up")
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))
Cell = tuple[int, int]  # row, column; (0, 0) is at the top left


def _write_thought(facts: Mapping[str, str], action_name: str) -> str:
    holes = " ".join(d for d in DIRECTIONS if facts[f"hole {d}"] == "yes")
    near = f"holes {holes}" if holes else "no hole near"
    return f"Row {facts['player row']} column {facts['player column']}, {near}, I choose {action_name}."


PICTURE_DESCRIPTION = TaskDescription(
    text=(
        "You stand on a frozen lake. Walk over the ice to the goal at the bottom right without falling into a hole. "
        "Each action moves you by one tile."
    ),
    action_names=DIRECTIONS,
    write_thought=_write_thought,
)
TEXT_DESCRIPTION = replace(
    PICTURE_DESCRIPTION,
    text=PICTURE_DESCRIPTION.text + " P is you, G the goal, H a hole, F and S ice.",
)


class FrozenLakeEnv(DrawnEnv):
    """
    ## Source
    The rules, the way a map is drawn and the pictures are those of Gymnasium's `FrozenLake-v1`. There the map is fixed;
    here each episode has its own, so that what is learnt has to be read from the picture.

    ## Description
    The player walks over a frozen lake from the top left to the goal at the bottom right. A step into a hole ends the
    episode. Every map has a way. With `is_slippery=True` the player goes the chosen way or one of the two sideways, each
    with probability 1/3.

    ## Action Space
    `Discrete(4)`: 0 "left", 1 "down", 2 "right", 3 "up". All are always legal; at the edge the player stays.

    ## Observation Space
    `mode="image"`: `Box(0, 255, (size * tile_size, size * tile_size, 3), uint8)`, Gymnasium's drawing with each tile scaled to
    `tile_size` pixels; it needs `pygame`. `mode="text"`: `Text`, one line a row with a letter a tile: P the player, S start,
    F ice, H hole, G goal.

    ## Rewards
    - +1 at the goal
    - 0 otherwise

    ## Starting State
    The player is at the top left. Each tile is ice with probability `p`, else a hole; maps without a way are drawn again. The
    first map after `reset(seed=n)` is that of Gymnasium's `generate_random_map(size, p, n)`.

    ## Episode End
    1. Termination: the goal.
    2. Termination: a hole.
    3. Truncation: 100 steps, by the limit of the registration, which lies outside the task.

    ## Information
    At every step `facts` ("player row", "player column", "goal row", "goal column", counted from 1; "hole left", "hole down",
    "hole right", "hole up": "yes" or "no"), `legal_actions`, `success` (at the goal) and `progress` (the share of the first
    distance to the goal that is gone, never below 0; 0 in a hole).

    ## Arguments
    - `mode` ("image"): "image" or "text": what the observation is
    - `render_mode` (None): "rgb_array": `render()` returns the picture, also in text mode
    - `size` (8): rows and columns, 2..16
    - `p` (0.8): probability that a tile is ice, 0.6..1
    - `is_slippery` (False): whether the player may slip sideways
    - `tile_size` (16): edge of a tile in pixels, 4..64

    `eyas/FrozenLake4x4-v0` is the same with `size=4`. A seed gives the same game in every `mode` and `tile_size`.
    """

    is_cut_outside = True

    def __init__(
        self,
        mode: str = "image",
        render_mode: str | None = None,
        size: int = 8,
        p: float = 0.8,
        is_slippery: bool = False,
        tile_size: int = 16,
    ) -> None:
        check_range("size", size, 2, 16)
        check_range("tile_size", tile_size, 4, 64)
        check_choice("is_slippery", is_slippery, (False, True))
        if not 0.6 <= p <= 1:
            raise ValueError(f"p={p!r} cannot be used: type a number from 0.6 to 1, e.g. p=0.8")
        self.size, self.p, self.is_slippery, self.tile_size = size, p, is_slippery, tile_size
        super().__init__(mode, render_mode)
        edge = size * tile_size
        is_text = mode == "text"
        self.description = TEXT_DESCRIPTION if is_text else PICTURE_DESCRIPTION
        self.observation_space = (
            grid_text(size, "PSFHG") if is_text else gym.spaces.Box(0, 255, (edge, edge, 3), np.uint8)
        )
        self.action_space = gym.spaces.Discrete(4)
        self.goal = (size - 1, size - 1)

    @property
    def facts(self) -> dict[str, str]:
        facts = {}
        for who, (row, column) in (("player", self.player), ("goal", self.goal)):
            facts |= {f"{who} row": str(row + 1), f"{who} column": str(column + 1)}
        beside = zip(DIRECTIONS, (self.step_from(self.player, action) for action in range(4)), strict=True)
        return facts | {f"hole {d}": "yes" if self.is_hole[cell] else "no" for d, cell in beside}

    @property
    def rows(self) -> list[str]:
        """The map without the player, in Gymnasium's letters: what `FrozenLakeEnv(desc=...)` takes."""
        letters = np.where(self.is_hole, "H", "F")
        letters[0, 0], letters[self.goal] = "S", "G"
        return ["".join(row) for row in letters]

    def step_from(self, cell: Cell, action: int) -> Cell:
        """Where a step that does not slip leads; the edge stops it."""
        row, column = cell[0] + MOVES[action][0], cell[1] + MOVES[action][1]
        return min(max(row, 0), self.size - 1), min(max(column, 0), self.size - 1)

    def safe_steps(self, cell: Cell) -> Iterator[tuple[int, Cell]]:
        """The actions that do not lead into a hole, with where they lead."""
        for action in range(4):
            following = self.step_from(cell, action)
            if not self._holes[following[0]][following[1]]:
                yield action, following

    def _deal(self) -> None:
        self.player = (0, 0)
        self.steps_to_goal: dict[Cell, int] = {}
        while self.player not in self.steps_to_goal:
            self.is_hole = self.np_random.choice(2, (self.size, self.size), p=[self.p, 1 - self.p]).astype(bool)
            self.is_hole[0, 0] = self.is_hole[self.goal] = False
            self._holes = self.is_hole.tolist()  # single cells of a list are read faster than those of an array
            self.steps_to_goal = distances(self.goal, self.safe_steps)
        self._board: np.ndarray | None = None

    def _play(self, action: int) -> tuple[float, bool, bool]:
        if self.is_slippery:
            action = (action + int(self.np_random.integers(-1, 2))) % 4
        self.player = self.step_from(self.player, action)
        is_won = self.player == self.goal
        return float(is_won), is_won or bool(self.is_hole[self.player]), False

    def _outcome(self) -> dict[str, Any]:
        start, left = self.steps_to_goal[0, 0], self.steps_to_goal.get(self.player)
        progress = 0.0 if left is None else max(0.0, 1 - left / start)
        return {"success": self.player == self.goal, "progress": progress}

    def _words(self) -> str:
        rows = [list(row) for row in self.rows]
        rows[self.player[0]][self.player[1]] = "P"
        return "\n".join(" ".join(row) for row in rows)

    def _draw(self) -> np.ndarray:
        tiles, edge = _tiles(self.size, self.tile_size), self.tile_size
        if self._board is None:  # once a map: a step then draws one tile
            kinds = self.is_hole.astype(int)
            rows, columns = np.indices(kinds.shape)
            self._board = tiles[kinds, rows, columns].swapaxes(1, 2).reshape(self.size * edge, -1, 3)
        row, column = self.player
        picture = np.array(self._board)
        if not self.is_hole[self.player]:
            picture[row * edge : (row + 1) * edge, column * edge : (column + 1) * edge] = tiles[2, row, column]
        return picture


@lru_cache(maxsize=8)
def _tiles(size: int, tile_size: int) -> np.ndarray:
    """Gymnasium's tiles, uint8 (3, size, size, tile_size, tile_size, 3): ice or what is there, hole, player.

    Each place has its own: the cracks in the ice depend on it, and start and goal have their signs.
    """
    from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv as Painter

    ice = np.full((size, size), "F")
    ice[0, 0], ice[-1, -1] = "S", "G"
    holes = np.where(ice == "F", "H", ice)
    painter = Painter(desc=["".join(row) for row in ice], render_mode="rgb_array")
    painter.reset(seed=0)
    edges = painter.cell_size[::-1]
    tiles = np.empty((3, size, size, tile_size, tile_size, 3), np.uint8)

    def paint(kind: int, letters: np.ndarray, player: Cell, cells: list[Cell]) -> None:
        painter.desc = letters.astype("c")
        painter.s = player[0] * size + player[1]
        picture = np.asarray(painter.render())
        for row, column in cells:
            y, x = row * edges[0], column * edges[1]
            tile = Image.fromarray(picture[y : y + edges[0], x : x + edges[1]])
            tiles[kind, row, column] = np.asarray(tile.resize((tile_size, tile_size), Image.Resampling.BOX))

    cells = [(row, column) for row in range(size) for column in range(size)]
    for kind, letters in enumerate((ice, holes)):
        paint(kind, letters, (0, 0), cells[1:])
        paint(kind, letters, (size - 1, size - 1), cells[:1])
    for cell in cells:
        paint(2, ice, cell, [cell])
    painter.close()
    return tiles
