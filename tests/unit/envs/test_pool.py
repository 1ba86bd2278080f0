"""Pools: the same outcomes in this process and in others, and nothing lost but the episode that failed."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import helpers_envs as broken
from eyas.envs.host import EnvError, EnvOutcome, EnvSource
from eyas.envs.making import env_factory
from eyas.envs.pool import EnvPool, LocalPool, WorkerPool, make_pool
from eyas.errors import ConfigError, EnvironmentFailure
from helpers_envs import ends_within, is_running

COUNTING = EnvSource(broken.CountingEnv)
MakePool = Callable[..., WorkerPool]


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePool]:
    """Makes pools of workers, and closes them without much patience."""
    monkeypatch.setattr("eyas.envs.pool.CLOSE_TIMEOUT_S", 0.5)
    pools: list[WorkerPool] = []

    def make(*sources: EnvSource, num_workers: int = 1, **limits: float) -> WorkerPool:
        pools.append(WorkerPool(sources, num_workers, **({"reset_timeout_s": 20.0, "step_timeout_s": 20.0} | limits)))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def take(pool: EnvPool, number: int) -> dict[int, Any]:
    """The next so many answers, by slot."""
    answers: dict[int, Any] = {}
    while len(answers) < number:
        some = pool.answers()
        assert some, f"only {len(answers)} of {number} answers came"
        assert not answers.keys() & dict(some).keys()
        answers |= dict(some)
    assert len(answers) == number
    return answers


def start(pool: EnvPool, slot: int = 0, source: int = 0, seed: int = 0, replay: Sequence[Sequence[Any]] = ()) -> Any:
    pool.start(slot, source, seed, replay)
    return take(pool, 1)[slot]


def step(pool: EnvPool, slot: int = 0, *moves: Any) -> Any:
    pool.step(slot, moves or [1])
    return take(pool, 1)[slot]


def without_pid(outcome: EnvOutcome) -> list[Any]:
    info = {k: v for k, v in outcome.info.items() if k != "pid"}
    rest = outcome.reward, outcome.terminated, outcome.truncated, outcome.expert_move, outcome.num_moves
    return [outcome.observation, outcome.frame, info, *rest]


def assert_same(one: EnvOutcome, other: EnvOutcome) -> None:
    assert isinstance(one, EnvOutcome) and isinstance(other, EnvOutcome), (one, other)
    np.testing.assert_equal(without_pid(one), without_pid(other))


# ----------------------------------------------------------------------------------------------- the same outcomes


@pytest.mark.parametrize(
    "source",
    [
        EnvSource(broken.CountingEnv, expert=broken.counting_expert),
        EnvSource(partial(broken.CountingEnv, render_mode="rgb_array"), renders=True),
        EnvSource(broken.DictEnv),
        EnvSource(broken.BigPicture),
        EnvSource(broken.OutsideSpace),
        EnvSource(env_factory("eyas/NumberLine-v0")),
        EnvSource(env_factory("eyas/Blackjack-v0", {"mode": "text"})),
        EnvSource(env_factory("FrozenLake-v1"), renders=True),
    ],
    ids=["text", "rendered", "dict", "big", "outside", "image", "blackjack", "frozen_lake"],
)
def test_workers_give_the_same_outcomes_as_this_process(workers: MakePool, source: EnvSource) -> None:
    pools = LocalPool([source]), workers(source)
    for seed in (3, 4):
        one, other = (start(pool, seed=seed) for pool in pools)
        assert_same(one, other)
        for move in (1, 0, 1):
            if not one.has_ended:
                one, other = (step(pool, 0, move) for pool in pools)
                assert_same(one, other)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_neither_order_nor_number_of_workers_changes_what_a_slot_sees(workers: MakePool, num_workers: int) -> None:
    alone = LocalPool([COUNTING])
    expected = {s: [start(alone, 0, 0, s).observation, *(step(alone).observation for _ in range(3))] for s in range(5)}
    pool = workers(COUNTING, num_workers=num_workers) if num_workers else LocalPool([COUNTING])
    for slot in (4, 1, 0, 3, 2):
        pool.start(slot, 0, slot)
    seen: dict[int, list[str]] = {slot: [] for slot in expected}
    pending = 5
    while pending:
        for slot, outcome in reversed(pool.answers()):
            assert isinstance(outcome, EnvOutcome)
            seen[slot].append(outcome.observation)
            pending -= 1
            if len(seen[slot]) < 4:
                pool.step(slot, [1])
                pending += 1
    assert seen == expected


@pytest.mark.parametrize("num_workers", [0, 1])
def test_without_a_call_there_is_no_answer(num_workers: int) -> None:
    pool = make_pool([COUNTING], num_workers)
    assert pool.answers() == []
    start(pool)
    assert pool.answers() == []
    pool.close()
    pool.close()


def test_a_pool_without_workers_plays_in_this_process() -> None:
    assert start(make_pool([COUNTING], 0)).info["pid"] == os.getpid()


def test_slots_are_spread_over_the_workers(workers: MakePool) -> None:
    pool = workers(COUNTING, num_workers=2)
    for slot in range(4):
        pool.start(slot, 0, 0)
    pids = [answer.info["pid"] for _, answer in sorted(take(pool, 4).items())]
    assert pids[:2] == pids[2:] and len({*pids, os.getpid()}) == 3


def test_arrays_stay_as_they_were_and_can_be_written_to(workers: MakePool) -> None:
    pool = workers(EnvSource(partial(broken.BigPicture, 100)), EnvSource(partial(broken.BigPicture, 400)))
    pictures = [start(pool).observation, step(pool).observation, start(pool, 1).observation, step(pool).observation]
    grown = [start(pool, 0, source=1).observation, step(pool).observation]
    assert [(p.shape[0], int(p.min()), int(p.max())) for p in pictures + grown] == [
        (100, 0, 0),
        (100, 1, 1),
        (100, 0, 0),
        (100, 2, 2),
        (400, 0, 0),
        (400, 1, 1),
    ]
    pictures[0] += 5
    assert pictures[0].max() == 5 and pictures[1].max() == 1


def test_a_slot_uses_its_part_of_the_shared_memory_again(workers: MakePool) -> None:
    pool = workers(EnvSource(partial(broken.BigPicture, 100)))
    start(pool, 0)
    start(pool, 1)
    memory = pool._workers[0]._memory
    size = os.fstat(memory.fileno()).st_size
    assert [step(pool, slot).observation.max() for slot in (0, 1, 0)] == [1, 1, 2]
    assert os.fstat(memory.fileno()).st_size == size


def test_a_call_that_is_longer_than_a_socket_holds_waits_until_the_worker_is_up(workers: MakePool) -> None:
    pool = workers(EnvSource(broken.CountingEnv))
    begun = time.monotonic()
    pool.start(0, 0, 0, [["1" + " " * 2_000_000]])
    sent_s = time.monotonic() - begun
    assert take(pool, 1)[0].observation.startswith("step 1,")
    assert sent_s < (time.monotonic() - begun) / 2


def test_many_calls_at_once_with_long_answers_do_not_block(workers: MakePool) -> None:
    pool = workers(EnvSource(broken.LongInfo))
    long_move = "1" + " " * 10_000  # 600 kB of calls and 900 kB of answers, more than a socket holds
    for slot in range(60):
        pool.start(slot, 0, 0, [[long_move]])
    assert all(len(o.info["words"]) == 15_000 for o in take(pool, 60).values())
    for slot in range(60):
        pool.step(slot, [long_move])
    assert all(o.observation.startswith("step 2,") for o in take(pool, 60).values())


def test_two_workers_overlap_what_takes_long(workers: MakePool) -> None:
    pool = workers(EnvSource(partial(broken.SlowStep, 0.2)), num_workers=2)
    for slot in range(4):
        pool.start(slot, 0, 0)
    take(pool, 4)
    begun = time.monotonic()
    for slot in range(4):
        pool.step(slot, [1])
    take(pool, 4)
    assert 0.4 <= time.monotonic() - begun < 0.7


def test_workers_go_on_while_nobody_asks_for_answers(workers: MakePool) -> None:
    pool = workers(EnvSource(partial(broken.SlowStep, 0.1)))
    for slot in range(3):
        pool.start(slot, 0, 0)
    take(pool, 3)
    for slot in range(3):
        pool.step(slot, [1])
    time.sleep(0.5)
    assert len(pool.answers()) == 3


def test_what_cannot_be_pickled_is_left_out_of_the_info(workers: MakePool) -> None:
    pool = workers(EnvSource(broken.LockedInfo))
    start(pool)
    assert step(pool).info.keys() == {"pid"}


# ----------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_exception_costs_its_own_episode_only(workers: MakePool, num_workers: int) -> None:
    sources = EnvSource(broken.RaisingStep), EnvSource(broken.RaisingReset), EnvSource(broken.NaNReward), COUNTING
    pool = workers(*sources) if num_workers else LocalPool(sources)
    first = start(pool, 3, 3).info["pid"]
    start(pool, 0, 0)
    start(pool, 2, 2)
    errors = step(pool, 0), start(pool, 1, 1), step(pool, 2)
    assert [(e.kind, e.message) for e in errors] == [
        ("raised", "RuntimeError: the engine stalled"),
        ("raised", "RuntimeError: no board"),
        ("raised", "ValueError: the environment's reward for action 1 is nan: it must be finite"),
    ]
    assert all("Traceback" in e.traceback for e in errors)
    assert step(pool, 3).observation.startswith("step 1,") and step(pool, 3).info["pid"] == first
    assert start(pool, 0, 3).observation.startswith("step 0,")


@pytest.mark.parametrize(
    ("make", "in_reset", "kind", "message"),
    [
        (broken.DyingStep, False, "crashed", "the environment's process ended during step with exit code 3"),
        (broken.DyingReset, True, "crashed", "the environment's process ended during reset with exit code 4"),
        (broken.SleepingStep, False, "hung", "step took longer than 0.5 s"),
        (broken.SleepingReset, True, "hung", "reset took longer than 0.9 s"),
    ],
)
def test_a_failed_worker_is_replaced_and_the_other_slots_lose_nothing(
    workers: MakePool, caplog: pytest.LogCaptureFixture, make: type, in_reset: bool, kind: str, message: str
) -> None:
    pool = workers(EnvSource(make), COUNTING, reset_timeout_s=0.9, step_timeout_s=0.5)
    alone = LocalPool([COUNTING])
    for slot in (1, 2):
        assert_same(start(pool, slot, 1, seed=slot), start(alone, slot, 0, seed=slot))
    for slot, moves in ((1, [1]), (1, [2, 0]), (2, [1])):
        assert_same(step(pool, slot, *moves), step(alone, slot, *moves))
    old = start(pool, 4, 1).info["pid"]
    if not in_reset:
        start(pool, 0, 0)
        pool.step(0, [1])
    else:
        pool.start(0, 0, 0)
    pool.step(1, [2])  # waits behind the one that fails; slot 2 is idle; slot 3 begins
    pool.start(3, 1, 9)
    answers = take(pool, 3)
    assert (answers[0].kind, answers[0].message) == (kind, message)
    assert_same(answers[1], step(alone, 1, 2))
    assert_same(answers[3], start(alone, 3, 0, seed=9))
    assert_same(step(pool, 2, 1), step(alone, 2, 1))
    assert not is_running(old)
    assert message in caplog.text and "slot 0" in caplog.text
    assert start(pool, 0, 1).observation.startswith("step 0,")


def test_a_sequence_has_the_time_of_its_moves(workers: MakePool) -> None:
    pool = workers(EnvSource(partial(broken.SlowStep, 0.25)), step_timeout_s=0.5)
    start(pool)
    assert step(pool, 0, 1, 1, 1).num_moves == 3


def test_time_that_the_caller_takes_is_not_held_against_an_environment(workers: MakePool) -> None:
    pool = workers(EnvSource(partial(broken.SlowStep, 0.1)), step_timeout_s=0.5)
    for slot in range(2):
        pool.start(slot, 0, 0)
    take(pool, 2)
    for slot in range(2):
        pool.step(slot, [1])
    time.sleep(0.8)
    assert all(isinstance(answer, EnvOutcome) for answer in take(pool, 2).values())


def test_waiting_behind_others_is_not_held_against_an_environment(workers: MakePool) -> None:
    pool = workers(EnvSource(partial(broken.SlowStep, 0.2)), step_timeout_s=0.5)
    for slot in range(3):
        pool.start(slot, 0, 0)
    take(pool, 3)
    for slot in range(3):
        pool.step(slot, [1])
    assert all(isinstance(answer, EnvOutcome) for answer in take(pool, 3).values())


def test_nobody_is_blamed_for_a_worker_that_dies_between_two_calls(workers: MakePool) -> None:
    pool = workers(COUNTING)
    pid = start(pool).info["pid"]
    step(pool)
    os.kill(pid, signal.SIGKILL)
    outcome = step(pool)
    assert outcome.observation.startswith("step 2,") and outcome.info["pid"] != pid


def test_a_worker_killed_in_a_step_is_a_crash_with_its_signal(workers: MakePool) -> None:
    pool = workers(EnvSource(broken.SleepingStep))
    pid = start(pool).info["pid"]
    pool.step(0, [1])
    threading.Timer(0.2, os.kill, (pid, signal.SIGKILL)).start()
    error = take(pool, 1)[0]
    assert error.kind == "crashed" and "exit code -9 (SIGKILL)" in error.message


def test_an_episode_that_cannot_be_played_again_is_the_error_of_its_slot(workers: MakePool, tmp_path: Path) -> None:
    pool = workers(EnvSource(broken.DyingStep), EnvSource(partial(broken.OneReset, str(tmp_path / "marker"))))
    start(pool, 1, 1)
    step(pool, 1)
    start(pool, 0, 0)
    assert step(pool, 0).kind == "crashed"
    error = step(pool, 1)
    assert error.kind == "raised" and error.message.startswith("FileExistsError")


def test_an_environment_that_does_not_repeat_itself_is_not_continued_past_an_early_end(workers: MakePool) -> None:
    pool = workers(EnvSource(partial(broken.CountingEnv, 2)))
    error = start(pool, replay=[[1], [1], [1]])
    assert isinstance(error, EnvError) and "does not repeat itself" in error.message


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_for_the_user_is_raised(workers: MakePool, num_workers: int) -> None:
    source = EnvSource(env_factory("eyas/NumberLine-v0", {"mode": "smell"}))
    pool = workers(source) if num_workers else LocalPool([source])
    pool.start(0, 0, 0)
    with pytest.raises(ConfigError, match="mode='smell' is unknown"):
        pool.answers()


def test_an_error_for_the_user_is_a_failure_once_the_environment_has_worked(workers: MakePool, tmp_path: Path) -> None:
    """The process that replaces a dead one has seen nothing work yet: the pool has."""
    pool = workers(EnvSource(partial(broken.made_once, str(tmp_path / "marker"))))
    start(pool)
    assert isinstance(step(pool), EnvError)  # the process died
    error = start(pool)
    assert isinstance(error, EnvError) and "the port is in use" in error.message


def test_sources_that_cannot_travel_are_refused_at_once() -> None:
    lock = threading.Lock()
    with pytest.raises(ConfigError, match="--workers 0"):
        WorkerPool([EnvSource(lambda: lock)], 1)  # type: ignore[arg-type, return-value]


def test_sources_that_do_not_arrive_end_the_run(workers: MakePool) -> None:
    pool = workers(EnvSource(broken.Unloadable()))  # type: ignore[arg-type]
    pool.start(0, 0, 0)
    with pytest.raises(EnvironmentFailure, match=r"could not start(.|\n)*this never loads"):
        pool.answers()


# ----------------------------------------------------------------------------------------------- processes


def test_closing_ends_the_processes_and_frees_the_memory(workers: MakePool) -> None:
    before = os.listdir("/dev/fd")
    pool = workers(EnvSource(broken.WithProcess), num_workers=2)
    infos = [start(pool, slot).info for slot in (0, 1)]
    assert len(os.listdir("/dev/fd")) > len(before)
    pool.close()
    assert all(ends_within(info[which], 1) for info in infos for which in ("pid", "child"))
    assert len(os.listdir("/dev/fd")) == len(before)
    pool.close()


def test_closing_does_not_wait_for_an_environment_that_hangs(workers: MakePool) -> None:
    pool = workers(EnvSource(broken.SleepingStep))
    pid = start(pool).info["pid"]
    pool.step(0, [1])
    pool.close()
    assert not is_running(pid)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As a program starts: other tests of this process may have left a handler of their own."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_reaches_the_caller_and_the_pool_can_be_closed(workers: MakePool) -> None:
    pool = workers(EnvSource(broken.SleepingStep), COUNTING, num_workers=2, step_timeout_s=30)
    start(pool, 0)
    pid = start(pool, 1, 1).info["pid"]
    pool.step(0, [1])
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        pool.answers()
    os.kill(pid, signal.SIGINT)  # the parent decides
    assert step(pool, 1).info["pid"] == pid
