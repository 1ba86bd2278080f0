"""Punishes an answer that repeats itself. Sampling is left alone, so that log-probs stay those of what was sampled."""

from collections.abc import Sequence

from eyas.interface import Interface
from eyas.types import Trajectory

WORDS = 3  # that make a phrase


def repeated_share(text: str) -> float:
    """Share of the phrases of WORDS words that stood in the text before; 0 where it is too short for two."""
    words = text.split()
    phrases = [tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)]
    return 1 - len(set(phrases)) / len(phrases) if phrases else 0.0


class RepetitionReward:
    """In (-1, 0] a step: minus the share of repeated phrases (GTR, which bends the sampled distribution instead)."""

    name = "repetition"

    def __init__(self, interface: Interface):
        """Every format's answers are words."""

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        return [[-repeated_share(s.completion.text) for s in t.steps] for t in trajectories]
