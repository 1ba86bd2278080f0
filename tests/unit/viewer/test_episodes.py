"""The table of episodes against the same question asked of the trajectories in plain Python."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eyas.rollouts.datasets import load_trajectories
from eyas.types import ImagePart, ParsedAction, ParseFailure, Trajectory

Row = dict[str, Any]


def thumbnail(trajectory: Trajectory) -> str:
    """The picture that the last step was decided on."""
    return [p.image_hash for m in trajectory.steps[-1].messages for p in m.parts if isinstance(p, ImagePart)][-1]


def to_row(name: str, index: int, t: Trajectory) -> Row:
    thoughts = [s.parse.thought for s in t.steps if isinstance(s.parse, ParsedAction)]
    return {
        "key": f"{name}:{index}",
        "stage": "rl" if name.startswith("rl") else "eval",
        "iteration": int(name[-6:]),
        "env_id": "eyas/FrozenLake-v0",
        "task": t.task,
        "episode": t.episode,
        "seed": t.seed,
        "num_steps": t.num_steps,
        "first_step": t.first_step,
        "return": t.total_return,
        "success": t.success,
        "progress": t.progress,
        "stop_reason": t.stop_reason.value,
        "parse_failures": sum(isinstance(s.parse, ParseFailure) for s in t.steps),
        "thumbnail": thumbnail(t),
        "thoughts": thoughts,
    }


@pytest.fixture(scope="module")
def expected(generated: Path) -> list[Row]:
    """Every episode in the order of files and of their places in them."""
    names = sorted(path.stem for path in (generated / "trajectories").glob("*.parquet"))
    return [to_row(n, i, t) for n in names for i, t in enumerate(load_trajectories(generated, n))]


def shown(row: Row) -> Row:
    return {key: value for key, value in row.items() if key != "thoughts"}


def ask(client: TestClient, **parameters: Any) -> dict[str, Any]:
    response = client.get("/api/episodes", params={"run": "made", "limit": 500} | parameters)
    assert response.status_code == 200, response.text
    return response.json()


def test_without_filters_every_episode_comes_the_latest_iteration_first(
    client: TestClient, expected: list[Row]
) -> None:
    answer = ask(client)
    in_order = sorted(expected, key=lambda row: -row["iteration"])  # stable: files and places stay in order
    assert answer["total"] == len(expected) == 62
    assert answer["rows"] == [shown(row) for row in in_order]
    assert answer["notes"] == []


FILTERS: dict[str, tuple[dict[str, Any], Callable[[Row], bool]]] = {
    "stage": ({"stage": "eval"}, lambda r: r["stage"] == "eval"),
    "task": ({"task": 0}, lambda r: r["task"] == 0),
    "no such task": ({"task": 1}, lambda r: False),
    "env": ({"env": "eyas/FrozenLake-v0"}, lambda r: True),
    "success": ({"success": "true"}, lambda r: r["success"] is True),
    "failure": ({"success": "false"}, lambda r: r["success"] is False),
    "unknown success": ({"success": "none"}, lambda r: r["success"] is None),
    "stop reason": ({"stop_reason": "truncated"}, lambda r: r["stop_reason"] == "truncated"),
    "return": ({"return_min": 0.5, "return_max": 1}, lambda r: 0.5 <= r["return"] <= 1),
    "iteration": ({"iteration_min": 1, "iteration_max": 2}, lambda r: 1 <= r["iteration"] <= 2),
    "parse failure": ({"has_parse_failure": "true"}, lambda r: r["parse_failures"] > 0),
    "no parse failure": ({"has_parse_failure": "false"}, lambda r: r["parse_failures"] == 0),
    "text": ({"text": "ROW 3"}, lambda r: any("row 3" in thought for thought in r["thoughts"])),
    "text with signs of patterns": ({"text": "%"}, lambda r: False),
    "empty parameters": ({"stage": "", "text": "", "task": ""}, lambda r: True),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_leaves_what_plain_python_leaves(name: str, client: TestClient, expected: list[Row]) -> None:
    parameters, holds = FILTERS[name]
    left = {row["key"] for row in expected if holds(row)}
    answer = ask(client, **parameters)
    assert {row["key"] for row in answer["rows"]} == left
    assert answer["total"] == len(left)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.sets(st.sampled_from(sorted(FILTERS)), max_size=3),
    sort=st.sampled_from(["iteration", "-iteration", "return", "-return", "success", "-success", "length", "-length"]),
    offset=st.integers(0, 70),
    limit=st.integers(0, 70),
)
def test_filters_order_and_pages_together_are_those_of_plain_python(
    names: set[str], sort: str, offset: int, limit: int, client: TestClient, expected: list[Row]
) -> None:
    parameters: dict[str, Any] = {}
    for name in sorted(names):
        parameters |= FILTERS[name][0]
    # where two filters name the same parameter, the later one counts
    counting = [n for n in names if all(parameters[k] == v for k, v in FILTERS[n][0].items())]
    left = [row for row in expected if all(FILTERS[n][1](row) for n in counting)]
    if len(counting) == len(names):
        column = {"length": "num_steps"}.get(sort.lstrip("-"), sort.lstrip("-"))
        sign = -1 if sort.startswith("-") else 1
        left.sort(key=lambda row: sign * row[column])
        answer = ask(client, **parameters, sort=sort, offset=offset, limit=limit)
        assert answer["total"] == len(left)
        assert answer["rows"] == [shown(row) for row in left[offset : offset + limit]]


def test_a_facet_counts_under_the_other_filters_and_not_its_own(client: TestClient, expected: list[Row]) -> None:
    facets = ask(client, success="true", stage="rl")["facets"]
    of_stage = [row for row in expected if row["stage"] == "rl"]
    assert facets["success"] == Counter(str(row["success"]).lower() for row in of_stage)
    successes = [row for row in expected if row["success"]]
    assert facets["stage"] == Counter(row["stage"] for row in successes)
    both = [row for row in of_stage if row["success"]]
    assert facets["stop_reason"] == Counter(row["stop_reason"] for row in both)
    assert facets["env_id"] == {"eyas/FrozenLake-v0": len(both)}
    every = {"stage": "rl", "stop_reason": "terminated", "success": "true", "env": "eyas/FrozenLake-v0", "task": 0}
    facets = ask(client, **every)["facets"]
    assert facets["success"] == Counter(str(r["success"]).lower() for r in of_stage if r["stop_reason"] == "terminated")
    assert facets["task"] == {"0": sum(r["success"] and r["stop_reason"] == "terminated" for r in of_stage)}


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"sort": "seed"}, "iteration, return, success, length"),
        ({"success": "yes"}, "true, false, none"),
        ({"return_min": "much"}, "return_min=1"),
        ({"return_min": "nan"}, "return_min=1"),
        ({"iteration_max": "1e400"}, "iteration_max=1"),
        ({"task": str(10**30)}, "task=1"),
        ({"offset": "x"}, "offset=1"),
        ({"sort": '-"return"; DROP TABLE episodes'}, "iteration, return"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_said(parameters: dict[str, str], told: str, client: TestClient) -> None:
    response = client.get("/api/episodes", params={"run": "made"} | parameters)
    assert response.status_code == 400
    assert told in response.json()["error"]


def test_a_filter_is_a_value_and_never_a_piece_of_the_question(client: TestClient) -> None:
    assert ask(client, stage="rl' OR 'a' = 'a")["total"] == 0
    assert ask(client, text="' OR true --")["total"] == 0
