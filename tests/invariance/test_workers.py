"""Where environments run, and how fast they are, changes nothing of what is played. A run with workers leaves none behind."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import eyas
from eyas.config import RunConfig, WorkersConfig
from eyas.envs.host import EnvHosts, EnvSource
from eyas.evaluation.records import read_metrics
from eyas.interface.history import Conversation, LastObservations, NoHistory, Summary
from eyas.recipes import to_toml
from eyas.rollouts.collector import Collector
from eyas.rollouts.datasets import load_trajectories
from eyas.rollouts.images import MemoryImageStore
from eyas.seeding import Split
from eyas.types import FailureEffect, StopReason
from helpers import ScriptedPolicy, said, seeded_text, summary, text_task
from helpers_envs import ends_within, is_running
from helpers_walks import Uneven
from tiny_runs import ENVIRONMENT

NUM_ENVS, GROUP_SIZE = 5, 3
HISTORIES = [NoHistory(), LastObservations(3), Conversation(), Conversation(keep_images=1, are_older_downscaled=True)]


class ScheduledPool:
    """Answers as workers of any speed might: `rng` decides in which order, and how many at a time."""

    def __init__(self, sources, rng):
        self.hosts, self.rng, self.waiting = EnvHosts(sources), rng, []

    def start(self, slot, source, seed, replay=()):
        self.waiting.append((slot, self.hosts.start(slot, source, seed, replay)))

    def step(self, slot, moves):
        self.waiting.append((slot, self.hosts.step(slot, moves)))

    def answers(self):
        self.rng.shuffle(self.waiting)
        count = self.rng.integers(1, len(self.waiting) + 1) if self.waiting else 0
        answers, self.waiting = self.waiting[:count], self.waiting[count:]
        return answers

    def close(self):
        self.hosts.close()


def uneven_task(history=NoHistory(), delay_s=0.0, fails=False, effect=FailureEffect.RANDOM_LEGAL):  # noqa: B008
    make_env = partial(Uneven, delay_s, fails)
    return text_task(make_env, history=history, on_parse_failure=effect, max_parse_failures=3)


def collector(task, workers=0, schedule=None, kind=Collector):
    """`schedule` seeds a pool that answers in some order; None: this process, or so many workers."""
    made = kind(
        ScriptedPolicy(seeded_text),
        [task],
        MemoryImageStore(),
        0,
        Split.TRAIN,
        NUM_ENVS,
        group_size=GROUP_SIZE,
        max_failures_in_a_row=1000,
        workers=WorkersConfig(count=workers),
    )
    if schedule is not None:
        source = EnvSource(task.make_env, task.interface.renders)
        made.pool = ScheduledPool([source], np.random.default_rng(schedule))
    return made


def told(collector, trajectories):
    """All that learning could see. Prompts name their pictures by content hash."""
    ends = [(t.group, said(t.final_messages), t.progress) for t in trajectories]
    return summary(trajectories), ends, collector.lost_episodes, collector.env_failures


def play_steps(collector, calls=4):
    return [told(collector, collector.steps(4)) for _ in range(calls)]


def play_episodes(collector, calls=2):
    return [told(collector, collector.episodes(range(9 * i, 9 * (i + 1)))) for i in range(calls)]


WAYS = {"steps": play_steps, "episodes": play_episodes}


def played(way, *args, **options):
    made = collector(*args, **options)
    try:
        return WAYS[way](made)
    finally:
        made.close()


# ----------------------------------------------------------------------------------------------- any schedule


@settings(max_examples=12, deadline=None)
@given(
    schedule=st.integers(0, 2**32),
    way=st.sampled_from(sorted(WAYS)),
    history=st.sampled_from([*HISTORIES, Summary()]),
    effect=st.sampled_from([FailureEffect.RANDOM_LEGAL, FailureEffect.NOOP, FailureEffect.END]),
    fails=st.booleans(),
)
def test_the_order_in_which_environments_answer_changes_nothing(schedule, way, history, effect, fails):
    task = uneven_task(history, fails=fails, effect=effect)
    assert played(way, task, schedule=schedule) == played(way, task)


def test_what_is_compared_holds_cuts_groups_truncation_failures_and_pictures():
    reasons, groups, pictures, lost = set(), set(), set(), 0
    made = collector(uneven_task(fails=True))
    for _ in range(4):
        for t in made.steps(4):
            reasons.add(t.stop_reason)
            groups.add(t.group)
            pictures |= {p.image_hash for s in t.steps for m in s.messages for p in m.parts if hasattr(p, "image_hash")}
        lost += len(made.lost_episodes)
    assert reasons == {StopReason.CUT, StopReason.TERMINATED, StopReason.TRUNCATED}
    assert len(groups) > 3 and len(pictures) > 20 and lost > 1


class NumberedByArrival(Collector):
    """The wrong variant: a slot that becomes free takes the next number."""

    def steps(self, steps_per_env):
        self._begin()
        left = [steps_per_env] * self.num_envs

        def next_of(slot):
            if not left[slot]:
                return None
            self.next_episode += 1
            return self.next_episode - 1

        def on_decisions(slots):
            for slot in slots:
                left[slot] -= 1

        self._play(next_of, lambda slot: left[slot] > 0, on_decisions)
        for running in list(self._running.values()):
            if running.steps:
                self._close(running, StopReason.CUT)
        return self._finish()


def test_numbers_that_are_given_out_as_slots_become_free_would_depend_on_speed():
    speeds = [play_steps(collector(uneven_task(), schedule=s, kind=NumberedByArrival)) for s in range(4)]
    assert any(one != speeds[0] for one in speeds[1:])
    right = [play_steps(collector(uneven_task(), schedule=s)) for s in range(4)]
    assert all(one == right[0] for one in right[1:])


# ----------------------------------------------------------------------------------------------- worker processes


@pytest.mark.parametrize("way", sorted(WAYS))
def test_workers_play_what_this_process_plays_however_long_steps_take(way):
    expected = played(way, uneven_task(Conversation(), fails=True))
    slow = uneven_task(Conversation(), delay_s=0.02, fails=True)
    for workers in (0, 1, 3):
        assert played(way, slow, workers=workers) == expected, f"{workers} workers"


def resumed(state, task, **options):
    made = collector(task, **options)
    made.load_state_dict(state)
    try:
        return play_steps(made)
    finally:
        made.close()


@pytest.mark.parametrize("effect", [FailureEffect.RANDOM_LEGAL, FailureEffect.NOOP])
@pytest.mark.parametrize("history", HISTORIES)
def test_resume_in_any_order_of_answers_goes_on_as_if_never_stopped(history, effect):
    task = uneven_task(history, effect=effect)
    states, expected = [], []
    for schedule in (None, 0, 1):
        made = collector(task, schedule=schedule)
        play_steps(made, calls=2)
        states.append(copy.deepcopy(made.state_dict()))
        expected.append(play_steps(made))
    assert states[0]["running"] and states[0] == states[1] == states[2]
    assert expected[0] == expected[1] == expected[2]
    for schedule in (None, 2, 3):
        assert resumed(states[0], task, schedule=schedule) == expected[0]


@pytest.mark.parametrize("history", [LastObservations(3), Conversation()], ids=["last_k", "conversation"])
@pytest.mark.parametrize(("before", "after"), [(2, 0), (0, 2)], ids=["to this process", "to workers"])
def test_resume_with_another_number_of_workers_goes_on_as_if_never_stopped(history, before, after):
    task = uneven_task(history, delay_s=0.005)
    made = collector(task, workers=before)
    play_steps(made, calls=2)
    state = copy.deepcopy(made.state_dict())
    expected = play_steps(made)
    made.close()
    assert state["running"]
    assert resumed(json.loads(json.dumps(state)), task, workers=after) == expected
    fresh = copy.deepcopy(state) | {"running": []}  # the wrong variant: running episodes begin anew
    assert resumed(fresh, task) != expected


# ----------------------------------------------------------------------------------------------- whole runs


def run_config(folder: Path, workers: int, iterations: int = 2, step_s: float = 0.0) -> RunConfig:
    (folder / "pids").mkdir(parents=True, exist_ok=True)
    traced = {"class": "helpers_walks:Traced", "args": {"folder": str(folder / "pids"), "step_s": step_s}}
    task = {
        "env": "eyas/NumberLine-v0",
        "env_args": {"jitter": 4},
        "wrappers": [traced],
        "interface": {"max_new_tokens": 12},
    }
    stage = {"kind": "rl", "iterations": iterations, "num_envs": 4, "rollout_steps": 3, "minibatch_size": 6}
    return RunConfig.model_validate(
        {
            "name": "run",
            "output": str(folder),
            "threads": 1,
            "workers": {"count": workers},
            "model": {"options": {"hidden_size": 64, "intermediate_size": 96, "vision_hidden_size": 32}},
            "tasks": [task],
            "stages": [stage | {"epochs": 1, "checkpoint_every": 1, "evaluate_every": 2, "evaluate_episodes": 4}],
        }
    )


def pids(folder: Path) -> set[int]:
    """Of the processes that environments were reset in."""
    return {int(file.name) for file in (folder / "pids").iterdir()}


def test_a_run_with_workers_finishes_and_leaves_none_behind(tmp_path):
    for workers in (0, 2):
        eyas.train(run_config(tmp_path / str(workers), workers), console=Console(quiet=True))
    here, elsewhere = pids(tmp_path / "0"), pids(tmp_path / "2")
    assert here == {os.getpid()}
    assert os.getpid() not in elsewhere and len(elsewhere) >= 2
    assert not any(is_running(pid) for pid in elsewhere)
    episodes = [[(t.episode, t.seed, t.first_step) for t in load_trajectories(tmp_path / n / "run")] for n in "02"]
    assert episodes[0][:4] == episodes[1][:4]  # of the first rollout, with the weights of the start


class Started:
    """`eyas train` in a process of its own."""

    def __init__(self, folder: Path, *arguments: str):
        config = run_config(folder, workers=2, iterations=5, step_s=0.03)
        recipe = folder / "recipe.toml"
        recipe.write_text(to_toml(config))
        self.folder, self.seen = folder, pids(folder)
        tests = str(Path(__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "eyas", "train", str(recipe), *arguments],
            env=ENVIRONMENT | {"PYTHONPATH": tests},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, is_reached: Callable[[list[int]], bool]) -> None:
        metrics = self.folder / "run" / "metrics.jsonl"
        end = time.monotonic() + 200
        while self.process.poll() is None and time.monotonic() < end:
            if metrics.exists() and is_reached([r["iteration"] for r in read_metrics(metrics)]):
                return
            time.sleep(0.005)
        pytest.fail(f"it never came so far: {self.end()[1]}")

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=200)
        return self.process.returncode, errors

    @property
    def workers(self) -> set[int]:
        return pids(self.folder) - self.seen


@pytest.mark.slow
def test_a_run_with_workers_stops_at_ctrl_c_survives_a_kill_and_resumes(tmp_path):
    run = Started(tmp_path)
    run.wait_for(lambda iterations: len(iterations) >= 1)
    run.process.send_signal(signal.SIGINT)
    code, errors = run.end()
    assert code == 130 and "Traceback" not in errors
    assert len(run.workers) >= 2 and all(ends_within(pid, 10.0) for pid in run.workers)

    run = Started(tmp_path, "--resume")
    run.wait_for(lambda iterations: len(iterations) >= 3)
    run.process.kill()
    assert run.end()[0] == -signal.SIGKILL
    assert len(run.workers) >= 2 and all(ends_within(pid, 10.0) for pid in run.workers)

    run = Started(tmp_path, "--resume")
    code, errors = run.end()
    assert code == 0, errors
    assert not any(is_running(pid) for pid in run.workers)
    assert [r["iteration"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl")] == list(range(5))
