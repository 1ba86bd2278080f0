"""Films that a run holds, and which of its episodes a film is made of."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from eyas.errors import ConfigError, EyasError
from eyas.rollouts.datasets import load_trajectories
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.recorder import TrajectoryRecorder
from eyas.types import Completion as Written
from eyas.types import ExecutedBy, ParsedAction, RewardBreakdown, Step, StopReason, Trajectory
from eyas.viewer.films import RunImages, find_episode, read_recorded
from eyas.viewer.folders import RunFolder
from eyas.viewer.problems import BadQuestion, NotServed

# ----------------------------------------------------------------------------------------------- films that are there

FILMS = {"rl_000009.webp": b"RIFF-1", "eval-sft_continued-greedy.webp": b"RIFF-22", "rl_000019.mp4": b"0123456789"}


@pytest.fixture
def client(run: Path, serve: Any) -> TestClient:
    (run / "films").mkdir()
    for name, data in FILMS.items():
        (run / "films" / name).write_bytes(data)
    (run / "films" / "notes.txt").write_text("no film")
    (run / "films" / ".hidden.webp").write_bytes(b"half")
    (run / "films" / "away.webp").symlink_to("/etc/hostname")
    return serve(run)


def test_the_films_of_a_run_are_listed_by_name(client: TestClient) -> None:
    films = client.get("/api/films", params={"run": "made"}).json()["films"]
    assert films == [
        {
            "name": "eval-sft_continued-greedy.webp",
            "stage": "eval",
            "iteration": None,
            "bytes": 7,
            "type": "image/webp",
        },
        {"name": "rl_000009.webp", "stage": "rl", "iteration": 9, "bytes": 6, "type": "image/webp"},
        {"name": "rl_000019.mp4", "stage": "rl", "iteration": 19, "bytes": 10, "type": "video/mp4"},
    ]


def test_a_run_without_films_has_none(generated: Path, serve: Any) -> None:
    assert serve(generated).get("/api/films", params={"run": "made"}).json() == {"films": []}


def test_a_film_is_served_as_it_is_and_in_parts(client: TestClient) -> None:
    for name, data in FILMS.items():
        answer = client.get("/api/film", params={"run": "made", "name": name})
        assert (answer.status_code, answer.content) == (200, data)
    assert answer.headers["content-type"] == "video/mp4"
    part = client.get("/api/film", params={"run": "made", "name": "rl_000019.mp4"}, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")  # browsers wind videos this way


@pytest.mark.parametrize(
    "name", ["../config.toml", "notes.txt", ".hidden.webp", "away.webp", "", "x" * 5000, "a\0.webp"]
)
def test_nothing_but_the_run_s_own_films_is_served(name: str, client: TestClient) -> None:
    answer = client.get("/api/film", params={"run": "made", "name": name})
    assert answer.status_code == 404
    assert "choose one of the list" in answer.json()["error"]


# ----------------------------------------------------------------------------------------------- recorded episodes


def folder(path: Path) -> RunFolder:
    return RunFolder(path.name, path.resolve(), path.resolve())


def episode(index: int, reward: float, success: bool | None, ending: StopReason = StopReason.TERMINATED) -> Trajectory:
    step = Step(
        (),
        Written("x"),
        ParsedAction(1, "go", "why", {}, 0),
        1,
        ExecutedBy.POLICY,
        RewardBreakdown({"environment": reward}),
    )
    return Trajectory(0, index, index, [step], ending, success=success)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small"
    files = {
        "rl_000000": [episode(0, 1.0, False), episode(1, 5.0, False), episode(2, 5.0, True)],
        "rl_000001": [episode(3, 0.5, False), episode(4, 9.0, None, StopReason.CUT), episode(5, 0.5, True)],
    }
    with TrajectoryRecorder(path, MemoryImageStore()) as recorder:
        for iteration, (name, episodes) in enumerate(files.items()):
            recorder.record(name, episodes, stage="rl", iteration=iteration, env_id="some/Env")
        recorder.record("eval-rl-greedy_000000", [episode(6, 7.0, True)], stage="eval", iteration=0, env_id="some/Env")
    with TrajectoryRecorder(path / "datasets" / "gold", MemoryImageStore()) as recorder:
        recorder.record("episodes_00000000", [episode(7, 99.0, True)], stage="collect", iteration=0, env_id="some/Env")
    return path


@pytest.mark.parametrize(
    ("choice", "stage", "key"),
    [
        ("best", "rl", "rl_000000:2"),  # success decides between equal returns; the one that was cut is no candidate
        ("worst", "rl", "rl_000001:0"),
        ("last", "rl", "rl_000001:2"),
        ("best", None, "eval-rl-greedy_000000:0"),  # demonstrations are not the run's own
        ("best", "gold", "datasets/gold/episodes_00000000:0"),
        ("last", "eval", "eval-rl-greedy_000000:0"),
    ],
)
def test_best_worst_and_last_are_found(choice: str, stage: str | None, key: str, small: Path) -> None:
    assert find_episode(folder(small), choice, stage) == key


def test_where_every_episode_was_cut_one_of_them_is_chosen(tmp_path: Path) -> None:
    with TrajectoryRecorder(tmp_path, MemoryImageStore()) as recorder:
        parts = [episode(i, float(i), None, StopReason.CUT) for i in range(2)]
        recorder.record("rl_000000", parts, stage="rl", iteration=0, env_id="some/Env")
    assert find_episode(folder(tmp_path), "best") == "rl_000000:1"


def test_an_unknown_stage_is_told_those_that_there_are(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no episodes of stage 'sft': type --stage and one of eval, gold, rl"):
        find_episode(folder(small), "best", "sft")
    with pytest.raises(ConfigError, match="nothing was recorded"):
        find_episode(folder(tmp_path), "best")


def test_a_recorded_episode_is_the_one_that_was_recorded(generated: Path) -> None:
    recorded = read_recorded(folder(generated), "rl_000001:2")
    expected = load_trajectories(generated, "rl_000001")[2]
    assert recorded.trajectory.episode == expected.episode
    assert [s.completion.text for s in recorded.trajectory.steps] == [s.completion.text for s in expected.steps]
    assert recorded.heading == f"eyas/FrozenLake-v0 · rl, iteration 1 · episode {expected.episode}"
    assert [recorded.name_of(a) for a in range(4)] == ["left", "down", "right", "up"]
    assert recorded.name_of(17) == "17"


def test_the_heading_of_an_evaluation_names_its_row(small: Path) -> None:
    assert read_recorded(folder(small), "eval-rl-greedy_000000:0").heading == "some/Env · eval-rl-greedy · episode 6"
    demonstration = read_recorded(folder(small), "datasets/gold/episodes_00000000:0")
    assert demonstration.heading == "some/Env · datasets/gold · episode 7"


@pytest.mark.parametrize(
    ("key", "error"),
    [("rl_000000:9999", NotServed), ("rl_999999:0", NotServed), ("../x:0", NotServed), ("rl_000000", BadQuestion)],
)
def test_a_key_that_names_nothing_is_said(key: str, error: type[Exception], small: Path) -> None:
    with pytest.raises(error):
        read_recorded(folder(small), key)


def test_damaged_pages_are_said(small: Path) -> None:
    file = small / "trajectories" / "rl_000000.parquet"
    with pq.ParquetFile(file) as parquet:
        end = parquet.metadata.row_group(0).column(parquet.metadata.num_columns - 1).data_page_offset
    file.write_bytes(b"PAR1" + b"\xff" * (end - 4) + file.read_bytes()[end:])  # the footer stays whole
    with pytest.raises(NotServed, match="copy the run again"):
        read_recorded(folder(small), "rl_000000:0")
    assert find_episode(folder(small), "best", "rl") == "rl_000001:2"


def test_pictures_of_a_run_are_those_that_were_recorded(generated: Path, tmp_path: Path) -> None:
    images = RunImages(folder(generated))
    step = load_trajectories(generated, "rl_000000")[0].steps[0]
    (image_hash,) = (p.image_hash for m in step.messages for p in m.parts if hasattr(p, "image_hash"))  # type: ignore
    assert images.get(image_hash).shape == (96, 96, 3)
    assert image_hash in images and "0" * 32 not in images and 3 not in images
    with pytest.raises(EyasError):
        images.get("0" * 32)
    copy = shutil.copytree(generated, tmp_path / "copy")
    shutil.rmtree(copy / "images")
    with pytest.raises(EyasError):
        RunImages(folder(copy)).get(image_hash)
