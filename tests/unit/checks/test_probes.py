"""What the probe sees: what an observation promises, and what is the same."""

import string
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.checks.probes import digest, frame_problem, observation_problem
from eyas.envs.host import reward_problem


def test_what_runs_beside_the_environment_loads_no_torch() -> None:
    code = "import eyas.checks.probes, sys; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


VALUES = st.recursive(
    st.one_of(st.integers(), st.text(max_size=5), st.booleans(), st.lists(st.integers(0, 9), max_size=3).map(np.array)),
    lambda inner: st.one_of(st.dictionaries(st.text(max_size=3), inner, max_size=3), st.tuples(inner, inner)),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_a_digest_is_that_of_an_equal_copy(value: Any) -> None:
    copied = value.copy() if isinstance(value, np.ndarray) else value
    if isinstance(value, dict):
        copied = dict(reversed(list(value.items())))
    assert digest(copied) == digest(value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros(4, np.uint8), np.zeros((2, 2), np.uint8)),
        (np.zeros(4, np.uint8), np.zeros(1, np.uint32)),
        (np.array([1.0, 2.0]), np.array([2.0, 1.0])),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        (("ab", "c"), ("a", "bc")),
        ((1, (2, 3)), ((1, 2), 3)),
        (0, False),
    ],
)
def test_what_differs_has_another_digest(one: Any, other: Any) -> None:
    assert digest(one) != digest(other)


def test_a_view_counts_by_what_it_holds() -> None:
    assert digest(np.arange(6).reshape(2, 3).T) == digest(np.array([[0, 3], [1, 4], [2, 5]]))


@pytest.mark.parametrize(
    ("space", "observation", "told"),
    [
        (spaces.Box(0, 1, (2,), np.float32), np.zeros((2, 1), np.float32), "float32 (2, 1)"),
        (spaces.Box(0, 255, (2,), np.uint8), np.zeros(2, np.float64), "float64 (2,)"),
        (spaces.Discrete(3), 3, "int 3"),
        (spaces.Dict(a=spaces.Discrete(2)), {"b": 0}, "dict {'b': 0}"),
        (spaces.Dict(a=spaces.Tuple([spaces.Discrete(2)])), {"a": (5,)}, "observation['a'][0] is int 5"),
        (spaces.Discrete(3), None, "NoneType None"),
    ],
)
def test_the_innermost_place_that_lies_is_named(space: spaces.Space, observation: Any, told: str) -> None:
    problem = observation_problem(space, observation)
    assert problem is not None
    assert problem[0] == "observation"
    assert told in problem[1]


def test_what_is_inside_its_space_is_no_problem() -> None:
    space = spaces.Dict(
        a=spaces.Box(0, 1, (2,), np.float32), b=spaces.Tuple([spaces.Text(9, charset=string.printable)])
    )
    assert observation_problem(space, {"a": np.ones(2, np.float32), "b": ("a b",)}) is None


def test_strange_characters_give_way_to_a_graver_problem() -> None:
    space = spaces.Tuple([spaces.Text(9), spaces.Discrete(2)])
    assert (observation_problem(space, ("a b", 0)) or ("",))[0] == "characters"
    assert (observation_problem(space, ("a b", 2)) or ("",))[0] == "observation"


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), None, "1 point", np.zeros(2)])
def test_a_reward_is_one_finite_number(reward: Any) -> None:
    assert reward_problem(reward, 3) is not None


@pytest.mark.parametrize("reward", [1, 0.5, True, np.float32(2), np.ones(1), np.ones((1, 1))])
def test_one_number_in_any_clothes_is_a_reward(reward: Any) -> None:
    assert reward_problem(reward, 3) is None


def test_a_frame_is_a_colour_picture() -> None:
    assert frame_problem(np.zeros((2, 3, 3), np.uint8)) is None
    for frame in (None, np.zeros((2, 3), np.uint8), np.zeros((2, 3, 3)), np.zeros((2, 3, 4), np.uint8), [1, 2]):
        assert "render() returned" in (frame_problem(frame) or "")
