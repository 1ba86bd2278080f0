"""A run that is written while it is served: what comes, changes and goes is seen at the next question."""

import json
import shutil
from pathlib import Path
from threading import Event, Thread
from types import ModuleType
from typing import Any

from fastapi.testclient import TestClient

from eyas.rollouts.recorder import TrajectoryRecorder


def table(client: TestClient, **parameters: Any) -> dict[str, Any]:
    response = client.get("/api/episodes", params={"run": "made", "limit": 500} | parameters)
    assert response.status_code == 200, response.text
    return response.json()


def move_away(run: Path, name: str) -> Path:
    return Path(shutil.move(run / "trajectories" / f"{name}.parquet", run.parent / name))


def test_episodes_that_come_are_found_by_every_filter(run: Path, serve: Any) -> None:
    later = move_away(run, "rl_000003")
    client = serve(run.parent)
    assert table(client, stage="rl")["total"] == 45
    assert table(client, text="row", iteration_min=3)["total"] == 0
    shutil.move(later, run / "trajectories" / "rl_000003.parquet")
    assert table(client, stage="rl")["total"] == 60
    assert table(client, text="row", iteration_min=3)["total"] > 0
    assert table(client)["rows"][0]["key"].startswith("rl_000003:")
    assert client.get("/api/metrics", params={"run": "made"}).json()["records"][-1]["num_env_steps"] is not None


def test_episodes_that_a_resumed_run_set_aside_are_gone_and_its_new_ones_count_once(run: Path, serve: Any) -> None:
    client = serve(run.parent)
    before = table(client, iteration_min=2)
    found = table(client, iteration_min=2, text="row")["rows"]
    move_away(run, "rl_000003")
    replaced = move_away(run, "rl_000002")
    assert table(client, iteration_min=2)["total"] == table(client, iteration_min=2, text="row")["total"] == 0
    assert table(client, iteration_min=2)["facets"]["stage"] == {}
    shutil.copy(replaced, run / "trajectories" / "rl_000002.parquet")
    shutil.copy(replaced, run / "trajectories" / "rl_000002.parquet")
    assert table(client, iteration_min=2)["rows"] == [r for r in before["rows"] if r["key"].startswith("rl_000002")]
    again = table(client, iteration_min=2, text="row")["rows"]
    assert again == [r for r in found if r["key"].startswith("rl_000002")] != []


def test_a_file_that_is_replaced_shows_what_it_holds_now(run: Path, serve: Any) -> None:
    client = serve(run.parent)
    old = table(client, stage="rl", iteration_min=3)["rows"]
    shutil.copy(run / "trajectories" / "eval-rl-greedy_000000.parquet", run / "trajectories" / "rl_000003.parquet")
    assert table(client, stage="rl", iteration_min=3)["total"] == 0
    assert table(client, stage="eval")["total"] == 4
    response = client.get("/api/episode", params={"run": "made", "key": old[-1]["key"]})
    assert response.status_code == 404


def test_a_run_that_begins_while_serving_is_listed(run: Path, serve: Any) -> None:
    client = serve(run.parent)
    assert len(client.get("/api/runs").json()["runs"]) == 1
    (run.parent / "new").mkdir()
    (run.parent / "new" / "config.toml").write_text(
        'name = "new"\n[[stages]]\nkind = "rl"\nname = "rl"\niterations = 2\n'
    )
    told = {entry["id"]: entry for entry in client.get("/api/runs").json()["runs"]}
    assert told["new"]["state"] == "running" and told["new"]["progress"] == 0
    assert client.get("/api/episodes", params={"run": "new"}).json()["total"] == 0
    shutil.rmtree(run)
    assert [entry["id"] for entry in client.get("/api/runs").json()["runs"]] == ["new"]
    assert client.get("/api/episodes", params={"run": "made"}).status_code == 404


def test_reading_beside_the_recorder_never_fails_and_never_sees_half_a_file(
    generator: ModuleType, tmp_path: Path, serve: Any
) -> None:
    run = tmp_path / "made"
    generator.generate_run(run, episodes=5, steps=2, iterations=1, longest=3, conversations=1)
    maze = generator.Maze(0, generator.Tokenizer.from_file(str(run / "checkpoints" / "rl" / "tokenizer.json")))
    done = Event()

    def write() -> None:
        with TrajectoryRecorder(run, maze.images) as recorder, (run / "metrics.jsonl").open("a") as metrics:
            for iteration in range(1, 20):
                played = maze.episodes(iteration, iteration * 5, 5, 2, False)
                recorder.record(f"rl_{iteration:06d}", played, stage="rl", iteration=iteration, env_id="x")
                metrics.write(json.dumps({"stage": "rl", "iteration": iteration}) + "\n")
                metrics.flush()
        done.set()

    client, counts = serve(run), []
    writer = Thread(target=write)
    writer.start()
    while not done.is_set() or not counts:
        answer = table(client, text="row", has_parse_failure="false", sort="return")
        counts.append(table(client, stage="rl")["total"])
        assert answer["notes"] == []
        assert client.get("/api/runs").status_code == 200
    writer.join()
    assert all(count % 5 == 0 for count in counts) and counts == sorted(counts)
    assert table(client, stage="rl")["total"] == 100
