"""Rewards the format: an answer that says an action, and where thoughts are asked for, one."""

from collections.abc import Sequence

from eyas.interface import Interface
from eyas.types import ParsedAction, ParseResult, Trajectory


class FormatReward:
    """1 a step whose answer parses and, where the format has thoughts, holds one; else 0 (GTR)."""

    name = "format"

    def __init__(self, interface: Interface):
        self.thoughts = interface.format.thoughts

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        return [[self._of(s.parse) for s in t.steps] for t in trajectories]

    def _of(self, parse: ParseResult) -> float:
        return float(isinstance(parse, ParsedAction) and (bool(parse.thought) or not self.thoughts))
