"""One iteration's play: a fixed number of steps, or a fixed set of episodes, and new groups for those that teach nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from eyas.algorithms.credit import has_variance
from eyas.config import RLStage
from eyas.rollouts.collector import Collector
from eyas.types import Trajectory


@dataclass(slots=True)
class Played:
    """What an iteration learns from, and what of its play it leaves out."""

    kept: list[Trajectory] = field(default_factory=list)
    replaced: list[Trajectory] = field(default_factory=list)  # of groups whose returns are all equal
    env_failures: int = 0
    moves_asked: int = 0
    moves_dropped: int = 0

    @property
    def every(self) -> list[Trajectory]:
        return sorted([*self.kept, *self.replaced], key=lambda t: (t.episode, t.first_step))

    def metrics(self) -> dict[str, float]:
        return {
            "rollout/env_failures_count": float(self.env_failures),
            "rollout/dropped_moves_share": self.moves_dropped / max(1, self.moves_asked),
            "rollout/replaced_episodes_share": len(self.replaced) / max(1, len(self.kept) + len(self.replaced)),
        }

    def count(self, collector: Collector) -> None:
        """Adds what the collector's last call lost."""
        self.env_failures += collector.env_failures
        self.moves_asked += collector.moves_asked
        self.moves_dropped += collector.moves_dropped


def rollout(collector: Collector, stage: RLStage, more_groups: int = 0) -> Played:
    """A fixed number of steps with the cut episodes bootstrapped, or a fixed set of episodes, all awaited.

    With `more_groups`, groups whose returns are all equal are left out and as many new ones played in their place, at
    most this often; which groups are played depends on returns alone, not on how long an episode takes.
    """
    played = Played()
    if stage.rollout_steps:
        played.kept = collector.steps(stage.rollout_steps)
        played.count(collector)
        return played
    assert stage.rollout_episodes
    missing = stage.rollout_episodes
    for _ in range(more_groups + 1):
        first = collector.next_episode
        collector.next_episode += missing
        trajectories = collector.episodes(range(first, collector.next_episode))
        played.count(collector)
        if not more_groups:
            played.kept = trajectories
            return played
        useful = _groups_with_variance(trajectories)
        played.kept += [t for t in trajectories if t.group in useful]
        played.replaced += [t for t in trajectories if t.group not in useful]
        missing -= len(useful) * stage.group_size
        if not missing:
            break
    return played


def _groups_with_variance(trajectories: Sequence[Trajectory]) -> set[int | None]:
    returns: dict[int | None, list[float]] = {}
    for trajectory in trajectories:
        returns.setdefault(trajectory.group, []).append(sum(s.reward.total for s in trajectory.steps))
    return {group for group, of_group in returns.items() if has_variance(of_group)}
