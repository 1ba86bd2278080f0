"""The list of runs, how far each is, its curves, evaluations and the differences between configurations."""

import json
import os
import re
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from eyas.rollouts.datasets import load_trajectories
from eyas.viewer.folders import Library, RunFolder
from eyas.viewer.progress import MetricsSummary, overall, read_records, stage_progress

STAGES = [
    {"kind": "collect", "name": "collect"},
    {"kind": "sft", "name": "sft", "steps": 10},
    {"kind": "rl", "name": "rl", "iterations": 4},
    {"kind": "sft", "name": "sft_continued", "steps_like": "rl"},
    {"kind": "eval", "name": "eval"},
]


def get(client: TestClient, path: str, **parameters: Any) -> dict[str, Any]:
    response = client.get(f"/api/{path}", params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


# ----------------------------------------------------------------------------------------------- list


def test_the_list_says_what_a_run_is_and_how_it_did(client: TestClient, generated: Path) -> None:
    (told,) = get(client, "runs")["runs"]
    last = json.loads((generated / "metrics.jsonl").read_text().splitlines()[-1])
    assert (told["id"], told["name"], told["state"], told["progress"]) == ("made", "made", "finished", 1.0)
    assert told["env_ids"] == ["eyas/FrozenLake-v0"] and told["algorithm"] == "ppo" and told["seed"] == 0
    assert told["started"] == 1_760_000_000.0 and told["seconds_left"] is None and told["stage"] == "eval"
    assert told["commit"] == json.loads((generated / "environment.json").read_text())["sessions"][-1]["commit"]
    assert told["main"]["strict_success_rate"] == last["rollout/strict_success_rate"]
    assert told["main"]["return_mean"] == last["rollout/return_mean"]
    assert [row["policy"] for row in told["main"]["eval"]] == ["random", "sft", "rl"]


def test_the_page_of_a_run_holds_its_configuration_and_provenance(client: TestClient, generated: Path) -> None:
    told = get(client, "run", run="made")
    assert told["config_toml"] == (generated / "config.toml").read_text()
    assert told["environment"] == json.loads((generated / "environment.json").read_text())
    assert [(s["name"], s["kind"], s["iterations"], s["done"]) for s in told["stages"]] == [
        ("collect", "collect", 1, 1),
        ("sft", "sft", 600, 600),
        ("rl", "rl", 4, 4),
        ("sft_continued", "sft", 1, 1),
        ("eval", "eval", 1, 1),
    ]


def test_runs_are_found_three_folders_deep_and_named_by_their_place(run: Path, serve: Any) -> None:
    root = run.parent
    for place in ("a/b/deep", "a/b/c/too_deep", ".hidden", "made/checkpoints/inside"):
        (root / place).mkdir(parents=True)
        (root / place / "config.toml").write_text("name = 'x'\n")
    assert {entry["id"] for entry in get(serve(root), "runs")["runs"]} == {"made", "a/b/deep"}


def test_a_run_that_is_served_itself_and_runs_of_the_same_name_have_different_ids(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "others" / "made"))
    library = Library([run, other, tmp_path / "others", run])
    assert {r.id: r.path for r in library.runs()} == {"made": run.resolve(), "made/made": other.resolve()}


def test_a_collected_dataset_is_shown_too_and_so_are_those_inside_a_run(run: Path, serve: Any, tmp_path: Path) -> None:
    dataset = tmp_path / "data" / "mine"
    for part in ("trajectories", "images"):
        shutil.copytree(run / part, dataset / part)
    (dataset / "dataset.json").write_text(json.dumps({"env": "some/Env", "seed": 3}))
    (entry,) = get(serve(dataset), "runs")["runs"]
    assert (entry["id"], entry["env_ids"], entry["seed"], entry["state"]) == ("mine", ["some/Env"], 3, "finished")
    assert get(serve(dataset), "episodes", run="mine")["total"] == 62
    shutil.copytree(dataset, run / "datasets" / "mine")
    client = serve(run)
    told = get(client, "episodes", run="made", stage="mine", limit=1)
    assert told["total"] == 62
    key = told["rows"][0]["key"]
    assert key.startswith("datasets/mine/rl_") and get(client, "episode", run="made", key=key)["steps"]


# ----------------------------------------------------------------------------------------------- progress


def unfinished(tmp_path: Path, records: list[dict[str, Any]], age_s: float = 0.0) -> RunFolder:
    """A run whose stages are STAGES, last written `age_s` ago."""
    folder = tmp_path.resolve() / "run"
    folder.mkdir()
    (folder / "config.toml").write_text("")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for path in (folder / "config.toml", folder / "metrics.jsonl"):
        os.utime(path, (time.time() - age_s, time.time() - age_s))
    return RunFolder("run", folder, folder)


def progress(run: RunFolder) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    summary = MetricsSummary(run)
    summary.update()
    stages = stage_progress(run, {"stages": STAGES}, summary)
    return stages, overall(run, stages, summary)


def records(stage: str, count: int, pace_s: float, end_s: float) -> list[dict[str, Any]]:
    return [{"stage": stage, "iteration": i, "time_s": end_s - pace_s * (count - 1 - i)} for i in range(count)]


def test_a_run_in_its_second_stage_tells_its_share_and_the_time_left_of_the_stage(tmp_path: Path) -> None:
    run = unfinished(tmp_path, records("sft", 5, 2.0, time.time()))
    (run.path / "datasets" / "collect").mkdir(parents=True)
    (run.path / "datasets" / "collect" / "dataset.json").write_text("{}")
    stages, state = progress(run)
    assert [(s["done"], s["iterations"]) for s in stages] == [(1, 1), (5, 10), (0, 4), (0, None), (0, 1)]
    assert state["state"] == "running" and state["stage"] == "sft"
    assert state["progress"] == pytest.approx((1 + 2 * 5 / 10) / 13)
    assert state["seconds_left"] == pytest.approx(2.0 * 5)


def test_a_run_that_fell_silent_is_stopped_and_a_slow_one_is_not(tmp_path: Path) -> None:
    hour_ago = time.time() - 3600
    (tmp_path / "quick").mkdir()
    (tmp_path / "slow").mkdir()
    quick = unfinished(tmp_path / "quick", records("collect", 1, 2.0, hour_ago), age_s=3600)
    assert progress(quick)[1]["state"] == "stopped"
    slow = unfinished(tmp_path / "slow", records("collect", 3, 1800.0, hour_ago), age_s=3600)
    stages = [{"name": "collect", "kind": "rl", "iterations": 9, "done": 3}]
    summary = MetricsSummary(slow)
    summary.update()
    assert overall(slow, stages, summary)["state"] == "running"


def test_a_stage_of_unknown_length_is_done_when_its_checkpoint_is_there(tmp_path: Path) -> None:
    run = unfinished(tmp_path, records("sft_continued", 7, 1.0, time.time()))
    assert progress(run)[0][3] == {"name": "sft_continued", "kind": "sft", "iterations": None, "done": 7}
    (run.path / "checkpoints" / "sft_continued").mkdir(parents=True)
    assert progress(run)[0][3] == {"name": "sft_continued", "kind": "sft", "iterations": 7, "done": 7}


# ----------------------------------------------------------------------------------------------- metrics


def test_metrics_are_the_records_with_the_environment_steps_so_far(client: TestClient, generated: Path) -> None:
    told = get(client, "metrics", run="made")
    recorded = [json.loads(line) for line in (generated / "metrics.jsonl").read_text().splitlines()]
    counts = [sum(len(t.steps) for t in load_trajectories(generated, f"rl_{i:06d}")) for i in range(4)]
    totals = [sum(counts[: i + 1]) for i in range(4)]
    assert told["records"] == [r | {"num_env_steps": n} for r, n in zip(recorded, totals, strict=True)]
    assert get(client, "metrics", run="made", after=told["next"])["records"] == []


def test_metrics_go_on_where_the_last_answer_ended_and_wait_for_whole_lines(run: Path, serve: Any) -> None:
    client, path = serve(run), run / "metrics.jsonl"
    place = get(client, "metrics", run="made")["next"]
    with path.open("a") as file:
        file.write('{"stage": "rl", "iteration": 4}\n{"stage": "rl", "itera')
    told = get(client, "metrics", run="made", after=place)
    assert [record["iteration"] for record in told["records"]] == [4]
    with path.open("a") as file:
        file.write('tion": 5}\n')
    later = get(client, "metrics", run="made", after=told["next"])
    assert [record["iteration"] for record in later["records"]] == [5]


def test_metrics_begin_anew_where_a_resumed_run_rewrote_them(run: Path, serve: Any) -> None:
    client, path = serve(run), run / "metrics.jsonl"
    place = get(client, "metrics", run="made")["next"]
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]))
    told = get(client, "metrics", run="made", after=place)
    assert told["reset"] is True
    assert [record["iteration"] for record in told["records"]] == [0, 1]
    assert get(client, "runs")["runs"][0]["main"]["return_mean"] == told["records"][1]["rollout/return_mean"]


def test_lines_that_are_no_records_are_left_out(run: Path, serve: Any) -> None:
    nested = "[" * 100_000
    (run / "metrics.jsonl").write_text(
        f'nonsense\n[1]\n\n"text"\n{{"stage": "rl", "iteration": 0, "x": NaN}}\n{nested}\n{{"a": "{"y" * 2**21}"}}\n'
    )
    client = serve(run)
    assert [record["x"] for record in get(client, "metrics", run="made")["records"]] == [None]
    assert get(client, "runs")["runs"][0]["id"] == "made"


def test_a_long_file_comes_in_parts_that_lose_nothing(run: Path) -> None:
    folder = RunFolder("made", run.resolve(), run.resolve())
    (run / "metrics.jsonl").write_text("".join(f'{{"iteration": {i}}}\n' for i in range(100)))
    found, place = [], 0
    for _ in range(100):
        records, place, is_reset = read_records(folder, place, max_bytes=50)
        assert not is_reset
        found += records
    assert [record["iteration"] for record in found] == list(range(100))


# ----------------------------------------------------------------------------------------------- the rest


def test_only_settings_that_differ_are_told(run: Path, serve: Any) -> None:
    other = Path(shutil.copytree(run, run.parent / "other"))
    text = (other / "config.toml").read_text()
    changed = text.replace('name = "made"', 'name = "other"').replace("iterations = 4", "iterations = 5")
    (other / "config.toml").write_text("threads = 2\n" + changed)
    client = serve(run.parent)
    told = client.get("/api/diff?runs=made&runs=other").json()["rows"]
    assert {row["key"]: row["values"] for row in told} == {
        "name": ["made", "other"],
        "threads": [None, 2],
        "stages.rl.iterations": [4, 5],
    }
    assert client.get("/api/diff?runs=made&runs=made").json()["rows"] == []


def test_thoughts_are_the_numbers_of_the_log_with_recorded_examples(client: TestClient, generated: Path) -> None:
    told = get(client, "thoughts", run="made")["iterations"]
    assert [(entry["stage"], entry["iteration"]) for entry in told] == [("rl", i) for i in range(4)] + [("eval", 0)]
    log = json.loads((generated / "metrics.jsonl").read_text().splitlines()[2])
    assert told[2]["unique_share"] == log["rollout/thought_unique_share"]
    assert told[2]["completion_length_tokens"] == log["rollout/completion_length_tokens"]
    assert told[4]["parse_rate"] is None  # the evaluation's are in its report
    for entry in told:
        assert 1 <= len(entry["examples"]) <= 5
        for example in entry["examples"]:
            step = get(client, "episode", run="made", key=example["key"])["steps"][example["step"]]
            assert (step["thought"], step["action_name"]) == (example["thought"], example["action_name"])
    assert len(get(client, "thoughts", run="made", stage="eval")["iterations"]) == 1


def test_every_number_that_the_log_has_of_thoughts_is_told(run: Path, serve: Any) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | {"rollout/thought_new_measure": 0.75})
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    told = get(serve(run.parent), "thoughts", run="made")["iterations"]
    assert told[1]["new_measure"] == 0.75 and "new_measure" not in told[0]


def test_entropies_of_thoughts_and_of_all_tokens_are_told_apart_and_warnings_are_told(run: Path, serve: Any) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    said = {"rollout/entropy_nats": 0.5, "rollout/thought_entropy_nats": 0.25, "rollout/action_entropy_nats": 2.0}
    lines[1] = json.dumps(json.loads(lines[1]) | said | {"warnings": ["format: type this"]})
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    told = get(serve(run.parent), "thoughts", run="made")["iterations"]
    names = ("entropy_nats", "thought_entropy_nats", "action_entropy_nats", "warnings")
    assert [told[1][name] for name in names] == [0.5, 0.25, 2.0, ["format: type this"]]
    assert told[0]["warnings"] == []


def test_evaluations_are_the_reports_as_they_are_written(client: TestClient, generated: Path) -> None:
    (told,) = get(client, "evaluations", run="made")["evaluations"]
    assert told == json.loads((generated / "eval" / "eval.json").read_text()) | {"name": "eval"}


# ----------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_are_played_by_a_command_the_newest_first_and_branches_last(client: TestClient) -> None:
    told = get(client, "play-commands", run="made")["checkpoints"]
    assert [checkpoint["name"] for checkpoint in told] == ["rl", "sft", "sft_continued"]
    (command,) = told[0]["commands"].values()
    assert re.fullmatch(r"eyas play eyas/FrozenLake-v0 --checkpoint /\S+/made/checkpoints/rl", command)


def test_what_a_run_says_of_its_environment_is_one_word_to_a_shell(run: Path, serve: Any) -> None:
    harm = "x; touch $(id) '"
    (run / "config.toml").write_text(f"[[tasks]]\nenv = {json.dumps(harm)}\n")
    moved = run.rename(run.parent / "it's here")
    (moved / "checkpoints" / "half").mkdir()
    told = get(serve(moved), "play-commands", run="it's here")["checkpoints"]
    assert len(told) == 3  # not the half one
    words = shlex.split(told[0]["commands"][harm])
    assert words[:4] == ["eyas", "play", harm, "--checkpoint"] and Path(words[4]).is_dir() and len(words) == 5
