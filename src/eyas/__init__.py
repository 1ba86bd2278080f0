"""Eyas turns a vision-language model into a Gymnasium agent and improves it from the reward.

Importing the package registers the environments under `eyas/` and loads no torch: the names below load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import envs as _envs  # noqa: F401  (registers the environments)

if TYPE_CHECKING:
    from .build import Agent, evaluate, train
    from .config import RunConfig
    from .interface import Interface
    from .recipes import load_recipe

__version__ = "0.1.0"

__all__ = ["Agent", "Interface", "RunConfig", "__version__", "evaluate", "load_recipe", "train"]

_HOMES = {
    "Agent": "build",
    "Interface": "interface",
    "RunConfig": "config",
    "evaluate": "build",
    "load_recipe": "recipes",
    "train": "build",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'eyas' has no attribute '{name}'")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
