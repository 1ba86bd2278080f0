"""Every measure, worked by hand on a few records."""

import dataclasses

import numpy as np
import pytest

from eyas.evaluation import measures
from eyas.types import Completion, ExecutedBy, FailureReason, ParsedAction, ParseFailure, StopReason
from helpers import prompt, step, trajectory

FAILED = ParseFailure(FailureReason.EMPTY, "", 0)
ENDED, CUT, BROKE = StopReason.TERMINATED, StopReason.CUT, StopReason.PARSE_FAILURE


def parsed(thought="", **facts):
    return ParsedAction(0, "a", thought, facts, 0)


def fallback(**fields):
    return step(parse=FAILED, executed_by=ExecutedBy.FALLBACK, **fields)


def test_success_and_strict_success():
    episodes = [
        trajectory([step()], success=True),
        trajectory([step(), fallback()], success=True),
        trajectory([step()], success=False),
        trajectory([step()], success=True, fallbacks_before=1),
    ]
    assert measures.success_rate(episodes) == 0.75
    assert measures.strict_success_rate(episodes) == 0.25


def test_success_is_unknown_where_the_task_defines_none():
    silent = trajectory([step()])
    broke = trajectory([fallback()], BROKE, success=False)  # the collector knows that this was no success
    for episodes in ([], [silent], [silent, broke]):
        assert measures.success_rate(episodes) is None  # not 0: that would be a claim
        assert measures.strict_success_rate(episodes) is None


def test_a_task_that_defines_success_and_is_silent_did_not_succeed():
    """It tells success at termination and nothing at the time limit: those would otherwise not count."""
    episodes = [trajectory([step()], success=True), trajectory([step()], StopReason.TRUNCATED)]
    assert measures.success_rate(episodes) == 0.5
    assert measures.success_rate([trajectory([fallback()], BROKE, success=False)]) == 0.0


def test_tasks_without_success_do_not_lower_that_of_others():
    episodes = [
        trajectory([step()], success=True),
        trajectory([step()], task=1),
        trajectory([step()], BROKE, success=False, task=1),
    ]
    assert measures.success_rate(episodes) == 1.0


def test_parse_rate_and_failures_by_reason():
    steps = [step(parse=parsed()), step(parse=FAILED), step(parse=FAILED), step(parse=parsed())]
    assert measures.parse_rate(steps) == 0.5
    assert measures.parse_failures(steps) == {"empty": 2}
    assert measures.parse_rate([]) is None


def test_wordless_players_have_nothing_to_parse():
    random = step(Completion(""), parsed(), executed_by=ExecutedBy.RANDOM)
    silent = step(Completion(""), FAILED)
    written = step(parse=parsed())
    assert measures.written_steps([trajectory([random, silent, written])]) == [silent, written]


def test_recognition_accuracy():
    steps = [
        step(parse=parsed(a="1", b="2"), facts={"a": "1", "b": "2"}),
        step(parse=parsed(a="1", b="0"), facts={"a": "1", "b": "2"}),
        step(parse=FAILED, facts={"a": "1", "b": "2"}),
        step(parse=parsed(a="1"), facts={}),
    ]
    other = dataclasses.replace(trajectory([step(parse=parsed(a="1"), facts={"a": "0"})]), task=1)
    assert measures.recognition_accuracy([trajectory(steps), other], [("a", "b"), ()]) == 0.5  # (1 + 0.5 + 0) / 3
    assert measures.recognition_accuracy([trajectory(steps), other], [("a", "b"), ("a",)]) == 0.375
    assert measures.recognition_accuracy([trajectory(steps)], [()]) is None


def test_sampled_entropy_is_a_mean_over_tokens():
    steps = [step(Completion("", np.zeros(n, np.int32), np.full(n, p, np.float32))) for n, p in ((1, -1.0), (3, -2.0))]
    assert measures.sampled_entropy([*steps, step()]) == pytest.approx(1.75)
    assert measures.sampled_entropy([step()]) is None


def test_stop_reasons():
    assert measures.stop_reasons([trajectory([]), trajectory([], BROKE), trajectory([])]) == {
        "terminated": 2,
        "parse_failure": 1,
    }


def test_distinct_starts():
    def starting(*messages, **fields):
        return trajectory([step(messages=m) for m in messages], **fields)

    a, b, c = prompt("a", "hash 1"), prompt("a", "hash 2"), prompt("b", "hash 1")
    assert len(measures.start_keys([starting(a, b), starting(a, c), starting(b), starting(c)])) == 3
    assert measures.start_keys([starting(a, first_step=2), trajectory([])]) == set()


def test_rollout_metrics_count_episodes_that_ended_and_steps_that_were_played():
    whole = trajectory([step(parse=parsed(), reward=1.0), step(parse=parsed(), reward=2.0)], success=True)
    late = trajectory([fallback(reward=4.0)], success=True, first_step=3, return_before=10.0)
    cut = trajectory([step(parse=parsed(), reward=8.0)] * 4, CUT)
    numbers = measures.rollout_metrics([whole, late, cut], [()])
    assert numbers["rollout/episodes_count"] == 2
    assert numbers["rollout/return_mean"] == (3 + 14) / 2
    assert numbers["rollout/episode_length_steps"] == (2 + 4) / 2
    assert numbers["rollout/success_rate"] == 1.0
    assert numbers["rollout/strict_success_rate"] == 0.5
    assert numbers["rollout/reward_mean"] == (1 + 2 + 4 + 4 * 8) / 7
    assert numbers["rollout/parse_rate"] == 6 / 7
    assert numbers["rollout/stop_terminated_count"] == 2
    assert numbers["rollout/stop_cut_count"] == 1
    assert numbers["rollout/parse_failure_empty_count"] == 1
    assert numbers["rollout/entropy_nats"] is None


def test_a_few_shows_failures_and_successes():
    good = [trajectory([], success=True, episode=i) for i in range(4)]
    bad = [trajectory([], success=False, episode=10 + i) for i in range(2)]
    running = trajectory([], CUT, episode=20)
    assert [t.episode for t in measures.a_few([*good, running, *bad], 3)] == [0, 10, 1]
    assert [t.episode for t in measures.a_few([*good, *bad], 99)] == [0, 10, 1, 11, 2, 3]
    assert measures.a_few([running], 3) == []
