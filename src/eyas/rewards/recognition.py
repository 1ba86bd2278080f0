"""Rewards reading: the share of the graded facts that the model wrote down right at each step."""

from collections.abc import Mapping, Sequence

from eyas.interface import Interface
from eyas.types import ParsedAction, ParseResult, Trajectory


def recognised_share(parse: ParseResult, truth: Mapping[str, str], fact_keys: Sequence[str]) -> float | None:
    """Share of the graded facts named right, a parse failure naming none; None where there is nothing to grade."""
    graded = [k for k in fact_keys if k in truth]
    if not graded:
        return None
    written = parse.facts if isinstance(parse, ParsedAction) else {}
    return sum(written.get(k, "").strip() == truth[k] for k in graded) / len(graded)


class RecognitionReward:
    """In [0, 1] a step; 0 where the environment tells no facts."""

    name = "recognition"

    def __init__(self, interface: Interface):
        self.fact_keys = interface.format.fact_keys

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        return [[recognised_share(s.parse, s.facts, self.fact_keys) or 0.0 for s in t.steps] for t in trajectories]
