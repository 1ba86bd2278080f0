"""Which expert plays which environment. Classes of other packages are named by path, so that none is imported for it."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from eyas.types import Expert, FactRule

EXPERTS: dict[type | str, Expert] = {}
_Rule = Callable[[Any, Mapping[str, str], Any], bool]
FACT_RULES: dict[type | str, _Rule] = {}


def register_expert(*env_classes: type | str) -> Callable[[Expert], Expert]:
    """Decorator: makes a function the expert of environment classes and of their subclasses.

    A class is given itself or as "module:Class", which imports nothing. An expert reads the environment and changes nothing
    in it, its random numbers included: asked twice, it answers twice the same.
    """
    return partial(_register, EXPERTS, env_classes)


def register_fact_rule(*env_classes: type | str) -> Callable[[_Rule], _Rule]:
    """Decorator: makes a function (environment, written facts, action) -> bool the `FactRule` of environment classes.

    Of the environment it reads the rules alone, not where a game stands: that the facts say.
    """
    return partial(_register, FACT_RULES, env_classes)


def _register(registry: dict[type | str, Any], env_classes: Iterable[type | str], function: Any) -> Any:
    registry.update(dict.fromkeys(env_classes, function))
    return function


def expert_for(env: Any) -> Expert | None:
    """The expert of an environment, wrapped or not; it is called with `env.unwrapped`. None where there is none."""
    return _of(env, EXPERTS)


def fact_rule_for(env: Any) -> FactRule | None:
    """Says whether actions follow from written facts in an environment, wrapped or not. None where no rule is known."""
    rule = _of(env, FACT_RULES)
    return None if rule is None else partial(rule, env.unwrapped)


def _of(env: Any, registry: Mapping[type | str, Any]) -> Any:
    for env_class in type(env.unwrapped).__mro__:
        for key in (env_class, f"{env_class.__module__}:{env_class.__qualname__}"):
            if key in registry:
                return registry[key]
    return None
