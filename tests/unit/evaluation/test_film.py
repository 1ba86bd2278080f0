"""Films: what their shots say, and files of each format that read back."""

import io
import json
import stat
import subprocess
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from eyas.errors import ConfigError, DatasetError, EyasError
from eyas.evaluation import film
from eyas.evaluation.film import FORMATS, Shot, gif_bytes, shots, write_film
from eyas.evaluation.statistics import thinned
from eyas.rollouts.images import MemoryImageStore
from eyas.types import (
    ActionScores,
    Completion,
    ExecutedBy,
    FailureReason,
    ImagePart,
    Message,
    ParsedAction,
    ParseFailure,
    RewardBreakdown,
    Step,
    StopReason,
    TextPart,
    Trajectory,
)
from helpers import picture

IMAGES = MemoryImageStore()


def step(index: int, image: np.ndarray | None = None, **changes: Any) -> Step:
    parts = (*([] if image is None else [ImagePart(IMAGES.put(image))]), TextPart(f"Step {index}."))
    plain = {
        "messages": (Message("system", (TextPart("Rules."),)), Message("user", parts)),
        "completion": Completion("written"),
        "parse": ParsedAction(1, "right", f"thought {index}", {}, 0),
        "action": 1,
        "action_name": "right",
        "executed_by": ExecutedBy.POLICY,
        "reward": RewardBreakdown({"environment": float(index), "extra": 10.0}, 0.5),
    }
    return Step(**(plain | changes))


def trajectory(count: int = 3, **fields: Any) -> Trajectory:
    steps = [step(i, picture(i)) for i in range(count)]
    return Trajectory(0, 7, 7, steps, StopReason.TERMINATED, **({"success": True} | fields))


def film_of(count: int = 3, **fields: Any) -> list[Shot]:
    return shots(trajectory(count, **fields), "heading", str)


# ----------------------------------------------------------------------------------------------- what is shown


def test_shots_tell_steps_and_the_environment_s_return_so_far() -> None:
    told = film_of(3, first_step=5, return_before=4.0)
    assert [(s.step, s.num_steps) for s in told] == [(6, 8), (7, 8), (8, 8)]
    assert [s.reward for s in told] == [0.0, 1.0, 2.0]  # unscaled, and without the extra term
    assert [s.return_so_far for s in told] == [4.0, 5.0, 7.0]
    assert [s.outcome for s in told] == [None, None, "success"]
    assert [s.thought for s in told] == ["thought 0", "thought 1", "thought 2"]


def test_the_picture_is_the_last_one_of_the_prompt() -> None:
    old, new = (IMAGES.put(picture(seed)) for seed in (1, 2))
    messages = (
        Message("user", (ImagePart(old), TextPart("before"))),
        Message("user", (ImagePart(new), TextPart("now"))),
    )
    told = shots(Trajectory(0, 0, 0, [step(0, messages=messages)], StopReason.TRUNCATED), "", str)[0]
    assert (told.image_hash, told.text, told.outcome) == (new, "now", "truncated")


def test_what_could_not_be_parsed_is_shown_as_it_was_written() -> None:
    failed = step(0, parse=ParseFailure(FailureReason.UNKNOWN_ACTION, "", 0), executed_by=ExecutedBy.FALLBACK)
    silent = step(1, parse=ParsedAction(1, "right", "", {}, 0), completion=Completion(""))
    told = shots(Trajectory(0, 0, 0, [failed, silent], StopReason.TERMINATED), "", str)
    assert told[0].thought == "[not parsed: unknown_action] written"
    assert told[0].executed_by == "fallback"
    assert told[1].thought == ""


def scores(*shares: float, chosen: int = 0) -> ActionScores:
    words = tuple(np.array([i], np.int32) for i in range(len(shares)))
    return ActionScores(0, words, np.log(np.array(shares, np.float32)), chosen)


def test_scored_actions_have_names_and_probabilities() -> None:
    scored = step(0, completion=Completion("w", scores=scores(0.25, 0.75, chosen=1)), legal_actions=(0, 1))
    bars = shots(Trajectory(0, 0, 0, [scored], StopReason.TERMINATED), "", lambda action: f"go {action}")[0].bars
    assert [(b.name, b.is_chosen) for b in bars] == [("go 0", False), ("right", True)]
    assert [b.probability for b in bars] == pytest.approx([0.25, 0.75])
    unlisted = step(0, completion=Completion("w", scores=scores(0.5, 0.5)))
    assert [b.name for b in shots(Trajectory(0, 0, 0, [unlisted], StopReason.CUT), "", str)[0].bars] == ["right", "?"]


def test_a_long_film_is_thinned_evenly() -> None:
    told = film_of(9)
    assert [s.step for s in thinned(told, 5)] == [1, 3, 5, 7, 9]
    assert thinned(told, 100) == told
    assert thinned([], 5) == []


# ----------------------------------------------------------------------------------------------- files


def read_back(path: Path) -> tuple[list[np.ndarray], float]:
    """The frames that were shown, and how long it takes, in seconds."""
    if path.suffix == ".mp4":
        reader: Iterator[Any] = imageio_ffmpeg.read_frames(str(path))
        about = next(reader)
        frames = [np.frombuffer(data, np.uint8).reshape(512, 896, 3) for data in reader]
        return frames, about["duration"]
    frames, duration = [], 0
    with Image.open(path) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")))
            duration += image.info["duration"]
    return frames, duration / 1000


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_reads_back(form: str, tmp_path: Path) -> None:
    """Three shots: two of 0.5 s, and the last, which stays for 2.5 s."""
    told, path = film_of(3), tmp_path / f"a film: 100 % good.{form}"
    write_film(told, IMAGES, path, form, seconds=0.5)
    frames, duration = read_back(path)
    assert duration == pytest.approx(3.5, abs=0.01)
    assert len(frames) == {"webp": 3, "gif": 3, "mp4": 35}[form]
    expected = [film.draw(shot, IMAGES.get(shot.image_hash or "")) for shot in told]
    for index, place in enumerate([0, 1, 2] if form != "mp4" else [0, 5, 34]):
        # the pictures are noise, which compresses badly; the right half is text
        difference = np.abs(frames[place].astype(int) - np.asarray(expected[index]).astype(int))[:, 450:]
        assert difference.mean() < 2, index
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("form", FORMATS)
def test_a_film_of_one_step_is_a_film(form: str, tmp_path: Path) -> None:
    write_film(film_of(1), IMAGES, tmp_path / f"one.{form}", form)
    if form == "mp4":
        assert len(read_back(tmp_path / "one.mp4")[0]) == 25
    else:
        with Image.open(tmp_path / f"one.{form}") as image:
            assert image.size == (896, 512)


def test_a_long_episode_passes_in_a_minute_and_a_short_one_can_be_read() -> None:
    assert film._durations(film_of(3), None) == [1200, 1200, 2500]
    going_on = film_of(2)[:1]
    assert film._durations(going_on * 200, None) == [300] * 200
    assert film._durations(going_on * 5000, None) == [100] * 5000  # faster would only flicker


@pytest.mark.parametrize("form", FORMATS)
def test_frames_are_drawn_one_at_a_time(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the film, few frames are alive at once: the wrong variant has them all."""
    drawn: list[weakref.ref[Image.Image]] = []
    most, inner = 0, film.draw

    def draw(*arguments: Any) -> Image.Image:
        nonlocal most
        frame = inner(*arguments)
        drawn.append(weakref.ref(frame))
        most = max(most, sum(frame() is not None for frame in drawn))
        return frame

    monkeypatch.setattr(film, "draw", draw)
    write_film(film_of(12), IMAGES, tmp_path / "film", form, seconds=0.1)
    assert len(drawn) == 12
    assert most <= 3


def test_gif_bytes_are_those_of_the_file(tmp_path: Path) -> None:
    told = film_of(2)
    write_film(told, IMAGES, tmp_path / "film.gif", "gif")
    data = gif_bytes(told, IMAGES)
    assert data == (tmp_path / "film.gif").read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size, image.info["loop"]) == ("GIF", (896, 512), 0)


def test_a_picture_that_is_lost_costs_the_picture_only(tmp_path: Path) -> None:
    write_film(film_of(2), MemoryImageStore(), tmp_path / "film.webp")
    assert len(read_back(tmp_path / "film.webp")[0]) == 2


@pytest.mark.parametrize("form", FORMATS)
def test_an_episode_without_steps_is_refused_and_leaves_no_file(form: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no steps"):
        write_film([], IMAGES, tmp_path / f"film.{form}", form)
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------------------- trouble


def fake_encoder(folder: Path, script: str) -> str:
    path = folder / "encoder"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


@pytest.mark.parametrize(
    ("script", "why"),
    [("echo first >&2; echo no codec >&2; exit 1", "no codec"), ("cat > /dev/null; exit 3", "no reason given")],
)
def test_an_encoder_that_fails_is_told_and_leaves_no_file(
    script: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = fake_encoder(tmp_path, script)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: encoder)
    with pytest.raises(EyasError, match=rf"{why}.*choose --format webp"):
        write_film(film_of(3), IMAGES, tmp_path / "films" / "film.mp4", "mp4")
    assert list((tmp_path / "films").iterdir()) == []


def test_a_frame_that_cannot_be_drawn_stops_the_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes: list[subprocess.Popen[bytes]] = []

    class Popen(subprocess.Popen):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            processes.append(self)

    monkeypatch.setattr(film.subprocess, "Popen", Popen)
    monkeypatch.setattr(film, "draw", lambda *_: json.loads("no picture"))
    with pytest.raises(ValueError):
        write_film(film_of(2), IMAGES, tmp_path / "film.mp4", "mp4")
    assert processes[0].returncode is not None
    assert list(tmp_path.iterdir()) == []


def test_a_missing_encoder_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(film, "draw", lambda *_: pytest.fail("drew a frame"))
    with pytest.raises(ConfigError, match=r"pip install eyas\[viewer\]"):
        write_film(film_of(2), IMAGES, tmp_path / "film.mp4", "mp4")
    film.check_format("webp")
