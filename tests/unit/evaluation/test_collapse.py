"""Warnings on collapses: each is seen where its cause shows, and nowhere else."""

import json
import math
import re

import pytest

from eyas.algorithms.registry import PAPERS
from eyas.config import InterfaceConfig, OptimConfig, RLStage
from eyas.evaluation.collapse import _CAUSES, Course, collapses, new_collapses
from eyas.guidance.options import GuidanceConfig
from eyas.rewards.registry import REWARDS

HEALTHY = {
    "success_rate": (0.3, 0.7),
    "return_mean": (-1.0, 0.5),
    "parse_rate": (0.97, 1.0),
    "recognition_accuracy": (0.6, 0.65),
    "thought_unique_share": (0.6, 0.5),
    "thought_entropy_nats": (0.4, 0.25),
    "action_entropy_nats": (0.6, 0.2),
    "entropy_nats": (0.4, 0.25),
    "thought_action_agreement": (0.8, 0.9),
    "completion_length_tokens": (20.0, 25.0),
    "completion_cut_share": (0.02, 0.0),
}
BLIND = {"thought_mutual_information_nats": (1.8, 0.5)}
SEEING = {"thought_mutual_information_nats": (1.8, 1.9)}


def records(count=12, **changes):
    """A stage whose numbers go from one value to the other in the middle."""
    ends = {k: v for k, v in (HEALTHY | changes).items() if v is not None}
    return [{f"rollout/{k}": v[2 * i >= count] for k, v in ends.items()} for i in range(count)]


def seen(**changes):
    return set(collapses(records(**changes)))


def test_a_healthy_stage_warns_of_nothing():
    assert seen() == seen(**SEEING) == set()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("collapse", {"thought_unique_share": (0.6, 0.1), "thought_entropy_nats": (0.4, 0.05)}),
        ("collapse", BLIND | {"thought_entropy_nats": (0.4, 0.05)}),
        ("template", BLIND),
        ("format", {"parse_rate": (0.97, 0.7)}),
        ("length", {"completion_length_tokens": (20.0, 60.0), "completion_cut_share": (0.02, 0.4)}),
        ("idle_thoughts", {"thought_action_agreement": (0.9, 0.5)}),
        ("reading", {"recognition_accuracy": (0.8, 0.5)}),
        ("fixed_action", {"action_entropy_nats": (0.6, 0.01), "success_rate": (0.3, 0.3)}),
        ("divergence", {"entropy_nats": (0.4, 1.5), "success_rate": (0.3, 0.1)}),
    ],
)
def test_each_cause_is_named_alone(name, changes):
    assert seen(**changes) == {name}


@pytest.mark.parametrize(
    "changes",
    [
        {"thought_unique_share": (0.6, 0.1)},  # while their entropy stays
        {"thought_entropy_nats": (0.4, 0.05)},  # while they stay different
        {"thought_unique_share": (1.0, 0.3), "thought_entropy_nats": (2.0, 0.05), "recognition_accuracy": (0.2, 1.0)},
        SEEING | {"thought_unique_share": (0.6, 0.1), "thought_entropy_nats": (0.4, 0.05)},
        {"thought_mutual_information_nats": (0.1, 0.01)},  # there was nothing to lose
        {"completion_length_tokens": (20.0, 60.0)},  # and none is cut
        {"action_entropy_nats": (0.6, 0.01)},  # with more success
        {"action_entropy_nats": (0.6, 0.01), "success_rate": (0.95, 0.95)},  # nothing is left to explore
        {"action_entropy_nats": (9.0, 0.01), "success_rate": (0.3, 0.3), "parse_rate": (0.1, 0.99)},
        {"action_entropy_nats": (0.1, 0.0), "success_rate": (0.3, 0.3)},  # it was certain before
        {"entropy_nats": (0.04, 0.15), "success_rate": (0.3, 0.1)},  # and is certain still
        {"entropy_nats": (0.4, 1.5)},  # with more success
        {"entropy_nats": (0.4, 1.5), "success_rate": None},  # with more return
    ],
)
def test_what_looks_alike_and_is_healthy_is_not_warned_of(changes):
    assert seen(**changes) == set()


def test_a_fall_counts_from_the_best_that_was_seen():
    rising, falling = records(parse_rate=(0.2, 0.95)), records(parse_rate=(0.95, 0.8))
    assert set(collapses(rising)) == set()
    assert set(collapses([*rising, *falling])) == {"format"}  # though it parses far more than at first


def test_too_little_says_nothing_and_a_single_iteration_does_not_either():
    assert set(collapses(records(5, parse_rate=(1.0, 0.0)))) == set()
    dip = [*records(11), {"rollout/parse_rate": 0.8}]
    assert set(collapses(dip)) == set()  # the mean of three is 0.933
    assert set(collapses([*dip, {"rollout/parse_rate": 0.8}])) == {"format"}  # and now 0.867


def test_what_is_not_known_is_left_out_of_a_course():
    course = Course.of([{"x": v} for v in (None, 4.0, float("nan"), 2.0, 6.0)] + [{}], "x", window=1)
    assert course == Course(4.0, 6.0, 6.0)
    assert math.isnan(Course.of([{"x": 1.0}], "x", window=1).last)


def test_a_warning_is_given_once_when_it_is_first_seen_and_again_when_it_comes_back():
    rates = [1.0] * 6 + [0.5] * 6 + [1.0] * 6 + [0.5] * 6
    played = [{"rollout/parse_rate": rate} for rate in rates]
    warned = [i for i in range(len(played)) if new_collapses(played[: i + 1])]
    assert warned == [6, 18]
    (warning,) = new_collapses(played[:7])
    assert warning.startswith("format: ")


def test_a_resumed_run_reads_the_same_from_its_log():
    played = records(parse_rate=(0.97, 0.7))
    assert new_collapses(json.loads(json.dumps(played))) == new_collapses(played)


def test_what_is_advised_can_be_typed():
    parts = {
        "algorithm": set.union(*(set(c.model_fields) for c in PAPERS.values())),
        "interface": set(InterfaceConfig.model_fields),
        "optim": set(OptimConfig.model_fields),
        "guidance": set(GuidanceConfig.model_fields),
        "rewards": set(REWARDS),
    }
    advice = [text for _, text in _CAUSES.values()]
    for text in advice:
        options = re.findall(r"`([^`]+)`", text)
        assert options
        for option in options:
            name = option.split(" = ")[0]
            part, _, key = name.partition(".")
            assert key in parts[part] if key else name in RLStage.model_fields, option
    assert "'gtr'" in advice[0] and "gtr" in PAPERS
