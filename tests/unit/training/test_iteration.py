"""One iteration's play, and new groups in place of those that teach nothing."""

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from eyas.rollouts.collector import Collector
from eyas.rollouts.images import MemoryImageStore
from eyas.seeding import Split
from eyas.training.iteration import rollout
from eyas.types import FailureEffect
from helpers import ScriptedPolicy, seeded_text, text_task

OPTIONS: dict[str, Any] = {"on_parse_failure": FailureEffect.END, "parse_failure_penalty": 0.0}


class SometimesDecided(gym.Env):
    """One step. In every other world both actions pay 1; in the rest action 1 pays 1 and action 0 nothing."""

    observation_space = spaces.Text(50)
    action_space = spaces.Discrete(2)
    render_mode = None

    def __init__(self, is_always_decided: bool = False):
        self.is_always_decided = is_always_decided

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.is_decided = self.is_always_decided or bool(self.np_random.integers(2))
        return "decided" if self.is_decided else "open", {}

    def step(self, action: int) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "over", 1.0 if self.is_decided else float(action), True, False, {}


def collector(is_always_decided: bool = False, text: Any = seeded_text) -> Collector:
    task = text_task(lambda: SometimesDecided(is_always_decided), **OPTIONS)
    return Collector(ScriptedPolicy(text), [task], MemoryImageStore(), 0, Split.TRAIN, 8, group_size=4)


def stage(**lengths: int) -> Any:
    return SimpleNamespace(**({"rollout_steps": None, "rollout_episodes": None, "group_size": 4} | lengths))


def returns(trajectories: Any) -> dict[int | None, set[float]]:
    found: dict[int | None, set[float]] = {}
    for trajectory in trajectories:
        found.setdefault(trajectory.group, set()).add(sum(s.reward.total for s in trajectory.steps))
    return found


def test_zerovariance_groups_whose_returns_are_equal_are_replaced() -> None:
    plain = rollout(collector(), stage(rollout_episodes=32))
    assert len(plain.kept) == 32 and not plain.replaced
    assert any(len(r) == 1 for r in returns(plain.kept).values())
    played = rollout(collector(), stage(rollout_episodes=32), more_groups=20)
    assert len(played.kept) == 32
    assert all(len(r) == 2 for r in returns(played.kept).values())
    assert played.replaced and all(len(r) == 1 for r in returns(played.replaced).values())
    assert [t.episode for t in played.every] == sorted(t.episode for t in played.every)
    assert len({t.episode for t in played.every}) == len(played.every)
    share = len(played.replaced) / len(played.every)
    assert played.metrics()["rollout/replaced_episodes_share"] == share > 0


def test_zerovariance_asking_for_more_groups_ends() -> None:
    decided = collector(is_always_decided=True, text=lambda turn: '{"action": "1"}')
    played = rollout(decided, stage(rollout_episodes=8), more_groups=2)
    assert not played.kept and len(played.replaced) == 24
    assert decided.next_episode == 24


def test_groups_that_all_fail_to_parse_are_replaced_and_counted() -> None:
    nonsense = collector(text=lambda turn: "nonsense")
    played = rollout(nonsense, stage(rollout_episodes=8), more_groups=1)
    assert not played.kept and len(played.every) == 16
    kept = rollout(nonsense, stage(rollout_episodes=8))  # without replacement they stay, and get credit 0
    assert len(kept.kept) == 8


def test_a_fixed_number_of_steps_has_no_groups_to_replace() -> None:
    played = rollout(collector(), stage(rollout_steps=2))
    assert len(played.kept) == 16 and not played.replaced
    assert played.metrics()["rollout/env_failures_count"] == 0


def test_what_the_environments_lose_is_counted_over_all_rounds() -> None:
    doomed = collector()
    counts = iter([1, 2, 4])
    episodes = doomed.episodes

    def losing(numbers: Any) -> Any:
        played = episodes(numbers)
        doomed.env_failures = next(counts)
        return played[4:]  # a whole group

    doomed.episodes = losing  # type: ignore[method-assign]
    played = rollout(doomed, stage(rollout_episodes=8), more_groups=2)
    assert played.env_failures == 7
