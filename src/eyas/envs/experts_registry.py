"""Which expert plays which environment. Classes of other packages are named by path, so that none is imported for it."""

from collections.abc import Callable
from typing import Any

from eyas.types import Expert

EXPERTS: dict[type | str, Expert] = {}


def register_expert(*env_classes: type | str) -> Callable[[Expert], Expert]:
    """Decorator: makes a function the expert of environment classes and of their subclasses.

    A class is given itself or as "module:Class", which imports nothing. An expert reads the environment and changes nothing
    in it, its random numbers included: asked twice, it answers twice the same.
    """

    def register(expert: Expert) -> Expert:
        for env_class in env_classes:
            EXPERTS[env_class] = expert
        return expert

    return register


def expert_for(env: Any) -> Expert | None:
    """The expert of an environment, wrapped or not; it is called with `env.unwrapped`. None where there is none."""
    for env_class in type(env.unwrapped).__mro__:
        for key in (env_class, f"{env_class.__module__}:{env_class.__qualname__}"):
            if key in EXPERTS:
                return EXPERTS[key]
    return None
