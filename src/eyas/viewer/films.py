"""The films that a run holds, and what a film of one of its episodes is drawn from."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eyas.errors import ConfigError, EyasError
from eyas.rollouts.encoding import decode_trajectory, encode_action
from eyas.rollouts.images import png_to_image
from eyas.rollouts.tables import table_to_rows
from eyas.types import StopReason, Trajectory
from eyas.viewer.catalog import Catalog, TrajectoryFile
from eyas.viewer.episode import names_of_actions, read_rows, split_key
from eyas.viewer.folders import File, RunFolder
from eyas.viewer.pictures import Pictures
from eyas.viewer.problems import NotServed

TYPES = {".gif": "image/gif", ".mp4": "video/mp4", ".webp": "image/webp"}
CHOICES = ("best", "worst", "last")
_NUMBERED = re.compile(r"(.+)_(\d{6,})")
_UNFINISHED = (StopReason.CUT.value, StopReason.INTERRUPTED.value)
_CHOSEN_BY = ["trajectory", "stage", "iteration", "total_return", "success", "stop_reason"]

# ----------------------------------------------------------------------------------------------- films that are there


def list_films(run: RunFolder) -> dict[str, Any]:
    """`films`: name, stage, iteration (None where the film is of an evaluation's row), bytes and media type of each."""
    files = [file for suffix in TYPES for file in run.files("films", suffix=suffix)]
    return {"films": [_describe(file) for file in sorted(files, key=lambda file: file.name)]}


def film_file(run: RunFolder, name: str) -> File:
    """Raises `NotServed` where the run has no film of that name: a name is looked up, never joined to a path."""
    for suffix in TYPES:
        for file in run.files("films", suffix=suffix):
            if file.name == name:
                return file
    raise NotServed(f"run {run.id!r} has no film {name[:80]!r}: choose one of the list")


def _describe(file: File) -> dict[str, Any]:
    """Names are written by the trainer: STAGE_ITERATION, or STAGE-ROW-DECODING."""
    numbered = _NUMBERED.fullmatch(file.path.stem)
    stage = numbered[1] if numbered else file.path.stem.rsplit("-", 2)[0]
    iteration = int(numbered[2]) if numbered else None
    about = {"name": file.name, "stage": stage, "iteration": iteration}
    return about | {"bytes": file.size, "type": TYPES[file.path.suffix]}


# ----------------------------------------------------------------------------------------------- recorded episodes


@dataclass(frozen=True)
class RecordedEpisode:
    """An episode of a run, or the part of it that one file holds."""

    key: str
    heading: str
    trajectory: Trajectory
    names: Mapping[str, str]  # of actions, by their JSON

    def name_of(self, action: Any) -> str:
        """An action by name where the file names it, else as it is recorded."""
        code = json.dumps(encode_action(action))
        return self.names.get(code, code)


class RunImages:
    """A run's pictures as an image source. Raises `EyasError` for one that is not there or damaged."""

    def __init__(self, run: RunFolder) -> None:
        self._pictures = Pictures(run)

    def get(self, image_hash: str) -> np.ndarray:
        return png_to_image(self._pictures.png(image_hash))

    def __contains__(self, image_hash: object) -> bool:
        try:
            return bool(self._pictures.png(str(image_hash)))
        except EyasError:
            return False


def find_episode(run: RunFolder, choice: str, stage: str | None = None) -> str:
    """The key of the best, worst or last episode of a run, or of one of its stages.

    Best and worst go by return, then by success; episodes that a rollout cut count only where there are no others.
    Without a stage, demonstrations in the run do not count. Raises `ConfigError` where there is nothing to choose from.
    """
    every = [row for file in Catalog(run).update() for row in _chosen_by(file)]
    rows = [row for row in every if (row["stage"] == stage if stage else not row["key"].startswith("datasets/"))]
    if not rows:
        stages = ", ".join(sorted({row["stage"] for row in every}))
        known = f"type --stage and one of {stages}" if stages else "nothing was recorded there that can be read"
        raise ConfigError(f"{run.path} has no episodes{f' of stage {stage!r}' if stage else ''}: {known}")
    rows = [row for row in rows if row["stop_reason"] not in _UNFINISHED] or rows
    sign = {"best": 1, "worst": -1, "last": 0}[choice]
    ranks = [
        (sign * r["total_return"], sign * bool(r["success"]), r["iteration"], place) for place, r in enumerate(rows)
    ]
    return rows[max(ranks)[-1]]["key"]


def _chosen_by(file: TrajectoryFile) -> list[dict[str, Any]]:
    """What each trajectory of a file is chosen by; none where its pages are damaged."""
    try:
        with pq.ParquetFile(file.file.path) as parquet:
            table = parquet.read(columns=_CHOSEN_BY)
    except (pa.ArrowException, OSError, ValueError):
        return []
    rows = table.group_by(_CHOSEN_BY, use_threads=False).aggregate([]).to_pylist()
    stage = {"stage": file.stage} if file.name.startswith("datasets/") else {}
    return [row | stage | {"key": f"{file.name}:{row['trajectory']}"} for row in rows]


def read_recorded(run: RunFolder, key: str) -> RecordedEpisode:
    """Raises `BadQuestion` for a key that is none, `NotServed` where the episode is not there or damaged."""
    name, index = split_key(key)
    file = Catalog(run).file(name)
    try:
        rows = table_to_rows(read_rows(file, index))
        if not rows:
            raise NotServed(f"{name} has no episode {index}: `eyas view {run.path}` lists them")
        trajectory, names = decode_trajectory(rows), names_of_actions(file, rows[0]["task"])
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise NotServed(f"episode {index} of {name} is damaged ({error}): copy the run again") from error
    stem, where = name.rpartition("_")[0], f"{rows[0]['stage']}, iteration {rows[0]['iteration']}"
    where = where if stem == rows[0]["stage"] else stem.removesuffix("/episodes")
    heading = f"{rows[0]['env_id']} · {where} · episode {trajectory.episode}"
    return RecordedEpisode(key, heading, trajectory, names)
