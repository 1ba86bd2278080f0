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
from importlib.util import find_spec
from typing import Any

from gymnasium.envs.registration import find_highest_version


@dataclass(frozen=True)
class CatalogEntry:
    """An environment. `id` is what `gymnasium.make` and every command take, `module:Id` where a module registers it."""

    id: str
    about: str
    group: str  # whose it is
    extra: str = ""  # `pip install eyas[extra]`; empty: comes with Eyas
    modules: tuple[str, ...] = ()  # top-level modules that it needs beside Eyas
    programs: tuple[str, ...] = ()  # programs that it starts
    env_args: Mapping[str, Any] = field(default_factory=dict)  # of `gymnasium.make`, so that there is a picture
    wrappers: tuple[str, ...] = ()  # "module:Class", put around it in this order
    variables: Mapping[str, str] = field(default_factory=dict)  # of the process, on a machine without a display

    @property
    def is_installed(self) -> bool:
        """Whether what it needs is here. Imports nothing."""
        has_modules = all(find_spec(module) is not None for module in self.modules)
        return has_modules and all(shutil.which(program) for program in self.programs)


def _own(name: str, about: str) -> CatalogEntry:
    return CatalogEntry(f"eyas/{name}", about, "eyas")


def _drawn_by_pygame(env_id: str, about: str, group: str = "gymnasium", **env_args: Any) -> CatalogEntry:
    return CatalogEntry(env_id, about, group, "envs", ("pygame",), env_args=env_args)


def _newest(name: str) -> str:
    """The id with the newest version that the installed Gymnasium has."""
    return f"{name}-v{find_highest_version(None, name)}"


def _gymnasium(env_id: str, about: str) -> CatalogEntry:
    return _drawn_by_pygame(env_id, about, render_mode="rgb_array")


def _minigrid(env_id: str, about: str, tile_size: int) -> CatalogEntry:
    args = {"render_mode": "rgb_array", "tile_size": tile_size}
    return CatalogEntry(f"minigrid:{env_id}", about, "minigrid", "envs", ("minigrid", "pygame"), env_args=args)


def _atari(name: str, about: str) -> CatalogEntry:
    return CatalogEntry(f"ale_py:ALE/{name}-v5", about, "atari", "envs", ("ale_py",))


def _mujoco(env_id: str, about: str) -> CatalogEntry:
    args, variables = {"render_mode": "rgb_array"}, {"MUJOCO_GL": "egl"}
    return CatalogEntry(env_id, about, "mujoco", "envs", ("mujoco", "imageio"), env_args=args, variables=variables)


# Debian's packages chromium and chromium-driver; miniwob starts them headless and without a sandbox.
_BROWSER = {"MINIWOB_CHROME_BINARY": "/usr/bin/chromium", "MINIWOB_CHROMEDRIVER": "/usr/bin/chromedriver"}


def _miniwob(name: str, about: str) -> CatalogEntry:
    programs = ("chromium", "chromedriver")
    env_id = f"miniwob:miniwob/{name}-v1"
    return CatalogEntry(env_id, about, "miniwob", "browser", ("miniwob", "selenium"), programs, variables=_BROWSER)


CATALOG: tuple[CatalogEntry, ...] = (
    _own("NumberLine-v0", "Move a number to a target number, one up or down at a time"),
    _own("EZPoints-v0", "Write a formula that makes 12 from two cards"),
    _own("Points24-v0", "Write a formula that makes 24 from four cards"),
    _own(
        "GeneralPoints-v0", "Write a whole formula that makes 24 from four cards, and mend it after a verifier's word"
    ),
    _own("Blackjack-v0", "Draw cards to come closer to 21 than the dealer"),
    _own("Sokoban-v0", "Push the boxes onto the targets; a new room in every episode"),
    _drawn_by_pygame("eyas/FrozenLake-v0", "Walk over ice around holes; a new 8x8 map in every episode", "eyas"),
    _drawn_by_pygame("eyas/FrozenLake4x4-v0", "Walk over ice around holes; a new 4x4 map in every episode", "eyas"),
    CatalogEntry("eyas/Crafter-v0", "Survive in a generated world: 22 achievements", "eyas", "envs", ("crafter",)),
    _gymnasium("FrozenLake-v1", "Walk over slippery ice around holes; one 4x4 map"),
    _gymnasium(_newest("CliffWalking"), "Walk along a cliff to the goal"),
    _gymnasium(_newest("Taxi"), "Fetch a passenger and drive to the destination"),
    _gymnasium("Blackjack-v1", "Draw cards to come closer to 21 than the dealer"),
    _gymnasium("CartPole-v1", "Balance a pole on a cart"),
    _gymnasium("MountainCar-v0", "Swing a weak car up a hill"),
    _gymnasium("MountainCarContinuous-v0", "Swing a weak car up a hill, with a force of any strength"),
    _gymnasium("Pendulum-v1", "Swing a pendulum up and hold it, with a torque of any strength"),
    _gymnasium("Acrobot-v1", "Swing two linked rods up by the joint between them"),
    _minigrid("MiniGrid-Empty-Random-6x6-v0", "Go to the green goal in an empty room, from anywhere", 16),
    _minigrid("MiniGrid-DoorKey-6x6-v0", "Take the key, open the door, go to the green goal", 16),
    _minigrid("BabyAI-GoToRedBall-v0", "Go to the red ball among other things", 12),
    _minigrid("BabyAI-GoToLocal-v0", "Go to the thing that the mission names", 12),
    _atari("Pong", "Pong on the Atari 2600"),
    _atari("Breakout", "Breakout on the Atari 2600"),
    CatalogEntry(
        "vizdoom.gymnasium_wrapper:VizdoomBasic-v1",
        "Shoot a monster in a room, seen through one's own eyes",
        "vizdoom",
        "envs",
        ("vizdoom", "pygame"),
        env_args={"render_mode": "rgb_array"},
    ),
    _mujoco("Reacher-v5", "Bring the tip of a two-jointed arm to a target"),
    _mujoco("HalfCheetah-v5", "Make a two-legged runner run fast"),
    _miniwob("click-test-2", "Click the button that the page asks for"),
    _miniwob("click-dialog", "Close a dialog on a page"),
    _miniwob("enter-text", "Write a text into a field of a page and submit it"),
)
