"""Algorithms turn samples into credit and pick a loss; the trainer does not know which one runs.

What a recipe says of them (`registry`, `options`, a file a paper) loads no torch: the names below load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Algorithm, LearnerOutput, Loss
    from .policy_gradient import ALGORITHMS, PolicyGradient
    from .supervised import Supervised

__all__ = ["ALGORITHMS", "Algorithm", "LearnerOutput", "Loss", "PolicyGradient", "Supervised"]

_HOMES = {
    "ALGORITHMS": "policy_gradient",
    "Algorithm": "base",
    "LearnerOutput": "base",
    "Loss": "base",
    "PolicyGradient": "policy_gradient",
    "Supervised": "supervised",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'eyas.algorithms' has no attribute '{name}'")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
