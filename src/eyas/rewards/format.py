"""Rewards the format: an answer that says an action, and where thoughts are asked for, one."""

from eyas.interface import Interface
from eyas.types import ParsedAction, Trajectory


class FormatReward:
    """1 a step whose answer parses and, where the format has thoughts, holds one; else 0 (GTR)."""

    name = "format"

    def __init__(self, interface: Interface):
        self.thoughts = interface.format.thoughts

    def __call__(self, trajectory: Trajectory) -> list[float]:
        parses = [s.parse for s in trajectory.steps]
        return [float(isinstance(p, ParsedAction) and (bool(p.thought) or not self.thoughts)) for p in parses]
