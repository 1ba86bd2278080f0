"""Runs of older schema versions: written here as they were then, and read now."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eyas.rollouts.datasets import load_trajectories
from eyas.rollouts.tables import TRAJECTORY_SCHEMA, columns_of, table_to_rows, upgraded
from eyas.viewer.films import read_recorded
from eyas.viewer.folders import RunFolder

LATER = {"1": {"scores", "learner_logprobs", "updated_logprobs", "token_advantages", "expert_move"}}
LATER["2"] = LATER["1"] - {"scores"}
LATER["3"] = {"expert_move"}
PROMPT = '[{"role": "user", "parts": [{"text": "?"}]}]'
ANSWER = '{"text": "a", "token_ids": [1], "sampling_logprobs": [-1.0], "finish_reason": "stop", "policy_version": 3}'
CHAT = f'[{{"role": "assistant", "parts": [{{"text": "a"}}], "completion": {ANSWER}}}, {PROMPT[1:-1]}]'


def row(version: str, step: int) -> dict[str, Any]:
    plain = {
        "name": "rl_000000", "stage": "rl", "iteration": 0, "env_id": "some/Env", "trajectory": 0, "task": 0,
        "episode": 4, "seed": 9, "success": True, "first_step": 0, "return_before": 0.0, "fallbacks_before": 0,
        "stop_reason": "terminated", "total_return": 2.0, "step": step, "prompt_prefix": step,
        "prompt": CHAT if step else PROMPT, "image_hashes": [], "completion_text": "b", "token_ids": [7, 8],
        "sampling_logprobs": [-0.5, -1.5], "finish_reason": "stop", "policy_version": 3, "parse_kind": "parsed",
        "action_name": "go", "parsed_action": "1", "thought": "why", "facts_written": "{}", "action_start": 0,
        "action": "1", "executed_name": "go", "executed_by": "policy", "reward_terms": '{"environment": 1.0}',
        "environment_scale": 1.0, "reward_total": 1.0, "facts_truth": "{}", "value": 0.25, "advantage": 0.5,
        "legal_actions": [0, 1] if version == "1" else "[0, 1]",
    }  # fmt: skip
    assert set(plain) <= set(columns_of(version))
    return plain


def write_run(folder: Path, version: str) -> Path:
    """A finished run with one episode of two steps, in the columns of that version."""
    schema = pa.schema(list(columns_of(version).items()), metadata={"eyas_schema": version})
    rows = [{name: row(version, step).get(name) for name in schema.names} for step in (0, 1)]
    (folder / "trajectories").mkdir(parents=True)
    (folder / "config.toml").write_text('name = "old"\n')
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "trajectories" / "rl_000000.parquet")
    return folder


@pytest.mark.parametrize("version", ["1", "2", "3"])
def test_the_columns_of_a_version_are_those_it_had(version: str) -> None:
    columns = columns_of(version)
    assert set(TRAJECTORY_SCHEMA.names) - set(columns) == LATER[version]
    assert columns["legal_actions"] == (pa.list_(pa.int64()) if version == "1" else pa.string())


@pytest.mark.parametrize("version", ["1", "2", "3"])
def test_the_viewer_reads_a_run_of_an_older_version(version: str, tmp_path: Path, serve: Any) -> None:
    client = serve(write_run(tmp_path / "old", version))
    table = client.get("/api/episodes", params={"run": "old"}).json()
    assert (table["total"], table["notes"], table["rows"][0]["return"]) == (1, [], 2.0)
    told = client.get("/api/episode", params={"run": "old", "key": "rl_000000:0"}).json()
    assert [step["step"] for step in told["steps"]] == [0, 1]
    assert told["steps"][0]["legal_actions"] == ["0", "go"]
    assert told["steps"][0]["action_probabilities"] is None
    assert (told["steps"][1]["thought"], told["steps"][1]["value"], told["steps"][1]["advantage"]) == ("why", 0.25, 0.5)


@pytest.mark.parametrize("version", ["1", "2", "3"])
def test_trajectories_of_an_older_version_are_whole(version: str, tmp_path: Path) -> None:
    (trajectory,) = load_trajectories(write_run(tmp_path / "old", version))
    assert (trajectory.episode, trajectory.success, trajectory.total_return) == (4, True, 2.0)
    first, second = trajectory.steps
    assert first.legal_actions == (0, 1)
    assert first.completion.scores is None and first.learner_logprobs is None
    assert np.array_equal(first.completion.token_ids, [7, 8])  # pyright: ignore[reportArgumentType]
    assert second.messages[1].completion is not None and second.messages[1].completion.policy_version == 3
    path = (tmp_path / "old").resolve()
    recorded = read_recorded(RunFolder("old", path, path), "rl_000000:0")
    assert [recorded.name_of(0), recorded.name_of(1)] == ["0", "go"]


def test_versions_may_stand_beside_each_other_in_one_run(run: Path, serve: Any) -> None:
    old = write_run(run.parent / "old", "1") / "trajectories" / "rl_000000.parquet"
    old.rename(run / "trajectories" / "rl_000099.parquet")
    client = serve(run)
    before = 60
    assert client.get("/api/episodes", params={"run": "made", "stage": "rl"}).json()["total"] == before + 1


def test_a_trajectory_without_steps_stays_one(tmp_path: Path) -> None:
    empty = dict.fromkeys(columns_of("1")) | {"trajectory": 0}
    table = pa.Table.from_pylist([empty], schema=pa.schema(list(columns_of("1").items())))
    assert table_to_rows(upgraded(table))[0]["step"] is None


def test_a_column_that_every_version_has_is_missed() -> None:
    with pytest.raises(KeyError):
        upgraded(TRAJECTORY_SCHEMA.empty_table().drop_columns(["prompt"]))
