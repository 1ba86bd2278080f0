"""Environments that ship with Eyas. Importing this module registers them with Gymnasium; their code loads on `make`."""

import os
import sys
from typing import Any

import gymnasium

# Data of a command goes to stdout: pygame, which many environments load, would greet there.
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
# Without a display it would look for one, and complain: pictures are all that is wanted there.
if sys.platform == "linux" and not os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

REGISTRATIONS: dict[str, dict[str, Any]] = {
    "eyas/NumberLine-v0": {"entry_point": "eyas.envs.numberline:NumberLineEnv"},
    "eyas/EZPoints-v0": {"entry_point": "eyas.envs.ezpoints:EZPointsEnv"},
    "eyas/Points24-v0": {"entry_point": "eyas.envs.points24:Points24Env"},
    "eyas/GeneralPoints-v0": {"entry_point": "eyas.envs.generalpoints:GeneralPointsEnv"},
    "eyas/Blackjack-v0": {"entry_point": "eyas.envs.blackjack:BlackjackEnv"},
    "eyas/FrozenLake-v0": {"entry_point": "eyas.envs.frozenlake:FrozenLakeEnv", "max_episode_steps": 100},
    "eyas/FrozenLake4x4-v0": {
        "entry_point": "eyas.envs.frozenlake:FrozenLakeEnv",
        "kwargs": {"size": 4},
        "max_episode_steps": 100,
    },
    "eyas/Sokoban-v0": {"entry_point": "eyas.envs.sokoban:SokobanEnv", "max_episode_steps": 50},
}
# Games of other packages that come without a registration: each needs its package.
ADAPTED: dict[str, dict[str, Any]] = {
    "eyas/Crafter-v0": {"entry_point": "eyas.envs.crafter:CrafterEnv", "max_episode_steps": 10_000},
}

for _env_id, _options in (REGISTRATIONS | ADAPTED).items():
    gymnasium.register(id=_env_id, **_options)
