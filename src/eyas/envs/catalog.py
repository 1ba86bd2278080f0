"""The environments that Eyas knows by name: what they are, which extra installs them, how to make them. Loads none of them.

    for entry in CATALOG:
        if entry.is_installed:
            os.environ.update({k: v for k, v in entry.variables.items() if k not in os.environ})
            env = gymnasium.make(entry.id, **entry.env_args)

Any other Gymnasium id works too; these are the ones that were tried.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

from gymnasium.envs.registration import find_highest_version


@dataclass(frozen=True)
class CatalogEntry:
    """An environment. `id` is what `gymnasium.make` and every command take, `module:Id` where a module registers it."""

    id: str
    about: str
    extra: str = ""  # `pip install eyas[extra]`; empty: comes with Eyas
    modules: tuple[str, ...] = ()  # top-level modules that it needs beside Eyas
    programs: tuple[str, ...] = ()  # programs that it starts
    env_args: Mapping[str, Any] = field(default_factory=dict)  # of `gymnasium.make`, so that there is a picture
    variables: Mapping[str, str] = field(default_factory=dict)  # of the process, on a machine without a display

    @property
    def is_installed(self) -> bool:
        """Whether what it needs is here. Imports nothing."""
        has_modules = all(find_spec(module) is not None for module in self.modules)
        return has_modules and all(shutil.which(program) for program in self.programs)


def _newest(name: str) -> str:
    """The id with the newest version that the installed Gymnasium has."""
    return f"{name}-v{find_highest_version(None, name)}"


_PICTURE = {"render_mode": "rgb_array"}
# Debian's packages chromium and chromium-driver; miniwob starts them headless and without a sandbox.
_BROWSER = {"MINIWOB_CHROME_BINARY": "/usr/bin/chromium", "MINIWOB_CHROMEDRIVER": "/usr/bin/chromedriver"}

_with_extra = partial(CatalogEntry, extra="envs")
_drawn_by_pygame = partial(_with_extra, modules=("pygame",))
_gymnasium = partial(_drawn_by_pygame, env_args=_PICTURE)
_minigrid = partial(_with_extra, modules=("minigrid", "pygame"), env_args=_PICTURE | {"tile_size": 16})
_babyai = partial(_minigrid, env_args=_PICTURE | {"tile_size": 12})
_mujoco = partial(_with_extra, modules=("mujoco", "imageio"), env_args=_PICTURE, variables={"MUJOCO_GL": "egl"})
_miniwob = partial(
    CatalogEntry,
    extra="browser",
    modules=("miniwob", "selenium"),
    programs=("chromium", "chromedriver"),
    variables=_BROWSER,
)

CATALOG: tuple[CatalogEntry, ...] = (
    CatalogEntry("eyas/NumberLine-v0", "Move a number to a target number, one up or down at a time"),
    CatalogEntry("eyas/EZPoints-v0", "Write a formula that makes 12 from two cards"),
    CatalogEntry("eyas/Points24-v0", "Write a formula that makes 24 from four cards"),
    CatalogEntry(
        "eyas/GeneralPoints-v0",
        "Write a whole formula that makes 24 from four cards, and mend it after a verifier's word",
    ),
    CatalogEntry("eyas/Blackjack-v0", "Draw cards to come closer to 21 than the dealer"),
    CatalogEntry("eyas/Sokoban-v0", "Push the boxes onto the targets; a new room in every episode"),
    _drawn_by_pygame("eyas/FrozenLake-v0", "Walk over ice around holes; a new 8x8 map in every episode"),
    _drawn_by_pygame("eyas/FrozenLake4x4-v0", "Walk over ice around holes; a new 4x4 map in every episode"),
    _with_extra("eyas/Crafter-v0", "Survive in a generated world: 22 achievements", modules=("crafter",)),
    _gymnasium("FrozenLake-v1", "Walk over slippery ice around holes; one 4x4 map"),
    _gymnasium(_newest("CliffWalking"), "Walk along a cliff to the goal"),
    _gymnasium(_newest("Taxi"), "Fetch a passenger and drive to the destination"),
    _gymnasium("Blackjack-v1", "Draw cards to come closer to 21 than the dealer"),
    _gymnasium("CartPole-v1", "Balance a pole on a cart"),
    _gymnasium("MountainCar-v0", "Swing a weak car up a hill"),
    _gymnasium("MountainCarContinuous-v0", "Swing a weak car up a hill, with a force of any strength"),
    _gymnasium("Pendulum-v1", "Swing a pendulum up and hold it, with a torque of any strength"),
    _gymnasium("Acrobot-v1", "Swing two linked rods up by the joint between them"),
    _minigrid("minigrid:MiniGrid-Empty-Random-6x6-v0", "Go to the green goal in an empty room, from anywhere"),
    _minigrid("minigrid:MiniGrid-DoorKey-6x6-v0", "Take the key, open the door, go to the green goal"),
    _babyai("minigrid:BabyAI-GoToRedBall-v0", "Go to the red ball among other things"),
    _babyai("minigrid:BabyAI-GoToLocal-v0", "Go to the thing that the mission names"),
    _with_extra("ale_py:ALE/Pong-v5", "Pong on the Atari 2600", modules=("ale_py",)),
    _with_extra("ale_py:ALE/Breakout-v5", "Breakout on the Atari 2600", modules=("ale_py",)),
    _with_extra(
        "vizdoom.gymnasium_wrapper:VizdoomBasic-v1",
        "Shoot a monster in a room, seen through one's own eyes",
        modules=("vizdoom", "pygame"),
        env_args=_PICTURE,
    ),
    _mujoco("Reacher-v5", "Bring the tip of a two-jointed arm to a target"),
    _mujoco("HalfCheetah-v5", "Make a two-legged runner run fast"),
    _miniwob("miniwob:miniwob/click-test-2-v1", "Click the button that the page asks for"),
    _miniwob("miniwob:miniwob/click-dialog-v1", "Close a dialog on a page"),
    _miniwob("miniwob:miniwob/enter-text-v1", "Write a text into a field of a page and submit it"),
)
