"""A broken environment costs its own episodes: all others are what they are without it, down to each picture's hash."""

from functools import partial
from typing import Any

import pytest

from eyas.config import WorkersConfig
from eyas.errors import EnvironmentFailure, EyasError
from eyas.rollouts.collector import Collector
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.task import Task
from eyas.seeding import Split, environment_seed
from helpers import ScriptedPolicy, seeded_text, summary, text_task
from helpers_checks import BreakingForSomeSeeds, is_bad_seed
from helpers_envs import Unseeded

EPISODES = range(9)
NUM_ENVS = 4
BAD = [episode for episode in EPISODES if is_bad_seed(environment_seed(0, Split.TRAIN, episode))]
HERE = WorkersConfig(count=0)
TWO = WorkersConfig(count=2, reset_timeout_s=10.0, step_timeout_s=10.0)
IMPATIENT = WorkersConfig(count=2, reset_timeout_s=0.8, step_timeout_s=0.8)


def task_of(fault: str | None) -> Task:
    return text_task(partial(BreakingForSomeSeeds, fault), show="both")


def collector_of(fault: str | None, workers: WorkersConfig, **options: Any) -> Collector:
    options = {"max_failures_in_a_row": 20} | options
    images = MemoryImageStore()
    policy = ScriptedPolicy(seeded_text)
    return Collector(policy, [task_of(fault)], images, 0, Split.TRAIN, NUM_ENVS, workers=workers, **options)


def played(fault: str | None, workers: WorkersConfig) -> tuple[list[tuple], list[int], int]:
    """What episodes were, which were lost, and how many failures were counted."""
    collector = collector_of(fault, workers)
    try:
        trajectories = collector.episodes(EPISODES)
        return summary(trajectories), sorted(collector.lost_episodes), collector.env_failures
    finally:
        collector.close()


@pytest.fixture(scope="module")
def healthy() -> list[tuple]:
    episodes, lost, failures = played(None, HERE)
    assert (len(episodes), lost, failures) == (len(EPISODES), [], 0)
    return episodes


def test_the_seeds_are_a_mixture() -> None:
    assert 2 <= len(BAD) <= len(EPISODES) - 4


def harmless_here(fault: str) -> bool:
    return not fault.startswith(("dies", "sleeps"))


@pytest.mark.parametrize(
    ("fault", "workers"),
    [(fault, IMPATIENT if fault.startswith("sleeps") else TWO) for fault in BreakingForSomeSeeds.faults]
    + [(fault, HERE) for fault in BreakingForSomeSeeds.faults if harmless_here(fault)],
    ids=lambda value: value if isinstance(value, str) else f"{value.count} workers",
)
def test_only_the_episodes_of_the_broken_environment_are_lost(
    fault: str, workers: WorkersConfig, healthy: list[tuple]
) -> None:
    episodes, lost, failures = played(fault, workers)
    assert lost == BAD
    assert failures == len(BAD)
    assert episodes == [episode for episode in healthy if episode[0] not in BAD]


@pytest.mark.parametrize(("fault", "workers"), [("raises in step", HERE), ("dies in step", TWO)])
def test_a_rollout_of_so_many_steps_is_full_and_the_other_slots_are_as_before(
    fault: str, workers: WorkersConfig
) -> None:
    def stepped(broken: str | None, where: WorkersConfig) -> dict[int, list[tuple]]:
        collector = collector_of(broken, where)
        try:
            episodes = summary(collector.steps(6))
        finally:
            collector.close()
        return {slot: [e for e in episodes if e[0] % NUM_ENVS == slot] for slot in range(NUM_ENVS)}

    before, after = stepped(None, HERE), stepped(fault, workers)
    begun = {slot: {e[0] for e in episodes} for slot, episodes in before.items()}
    spared = [slot for slot in range(NUM_ENVS) if not begun[slot] & set(BAD)]
    assert 0 < len(spared) < NUM_ENVS
    assert all(after[slot] == before[slot] for slot in spared)
    assert not {e[0] for episodes in after.values() for e in episodes} & {
        e for e in range(100) if is_bad_seed(environment_seed(0, Split.TRAIN, e))
    }


def test_a_failure_that_goes_on_stops_the_run_with_the_traceback() -> None:
    collector = Collector(
        ScriptedPolicy(seeded_text),
        [text_task(partial(_AlwaysBad, "raises in step"), show="both")],
        MemoryImageStore(),
        0,
        Split.TRAIN,
        2,
        max_failures_in_a_row=3,
    )
    with pytest.raises(EnvironmentFailure, match=r"3 environment failures in a row[\s\S]*go_wrong_in[\s\S]*stuck"):
        collector.episodes(range(20))
    collector.close()


class _AlwaysBad(BreakingForSomeSeeds):
    def reset(self, **options: Any) -> Any:
        answer = super().reset(**options)
        self.is_bad = True
        return answer


def test_an_environment_without_seeds_is_refused_for_groups_and_plays_without_them() -> None:
    def collector(group_size: int) -> Collector:
        policy = ScriptedPolicy(seeded_text)
        task = text_task(partial(Unseeded, 3))
        return Collector(policy, [task], MemoryImageStore(), 0, Split.TRAIN, 4, group_size=group_size)

    with pytest.raises(EyasError, match="eyas env check"):
        collector(2).episodes(range(4))
    assert len(collector(1).episodes(range(4))) == 4
