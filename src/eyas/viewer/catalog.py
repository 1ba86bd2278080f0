"""The trajectory files of a run: which can be read, and what their footers say. Nothing here reads a row."""

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eyas.rollouts.tables import SCHEMA_VERSION, TRAJECTORY_SCHEMA, version_of
from eyas.viewer.folders import File, RunFolder
from eyas.viewer.problems import NotServed

MAX_ROWS = 5_000_000  # in one file
MAX_BYTES = 8 * 2**30  # of one file, as its footer says they are in memory
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=-]*")  # what the recorder gives


@dataclass(frozen=True, slots=True)
class TrajectoryFile:
    """A file whose footer is whole and of a version that can be read."""

    name: str  # `rl_000002`, or `datasets/collect/episodes_00000000`
    file: File
    rows: int
    steps: int  # rows without those of trajectories that have no step
    stage: str | None  # where all its rows are of one
    iteration: int | None


class Catalog:
    """The trajectory files of one run, followed while files come, change and go. Safe to call from several threads."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._read: dict[str, tuple[File, TrajectoryFile | str]] = {}
        self._lock = threading.Lock()

    def update(self) -> list[TrajectoryFile]:
        """The files that can be read now, in the order of their names."""
        with self._lock:
            read: dict[str, tuple[File, TrajectoryFile | str]] = {}
            for name, file in self._files():
                known = self._read.get(name)
                read[name] = known if known and known[0] == file else (file, _read(name, file))
            self._read = read
            return [entry for _, entry in self._read.values() if isinstance(entry, TrajectoryFile)]

    def file(self, name: str) -> TrajectoryFile:
        """Raises `NotServed` where there is no such file, or it cannot be read."""
        found = next((file for file in self.update() if file.name == name), None)
        if found is None:
            raise NotServed(
                f"run {self.run.id!r} has no readable trajectories {name!r}: go back to the list of episodes"
            )
        return found

    def drop(self, file: TrajectoryFile, reason: str) -> None:
        """Leaves a file out until it changes: its rows turned out to be damaged."""
        with self._lock:
            self._read[file.name] = file.file, reason

    def notes(self) -> list[str]:
        """What was left out, and why."""
        left_out = [(name, why) for name, (_, why) in self._read.items() if isinstance(why, str)]
        reasons = dict.fromkeys(why for _, why in left_out)
        notes = []
        for reason in reasons:
            names = [name for name, why in left_out if why == reason]
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            notes.append(f"{shown} left out: {reason}")
        return notes

    def _files(self) -> Iterator[tuple[str, File]]:
        for place in ((), *(("datasets", name) for name in self.run.folders("datasets"))):
            for file in self.run.files(*place, "trajectories", suffix=".parquet"):
                yield "/".join([*place, file.name.removesuffix(".parquet")]), file


def _read(name: str, file: File) -> TrajectoryFile | str:
    """What a footer says, or why the file is left out."""
    if not _NAME.fullmatch(file.path.stem):
        return "the recorder gives no such name"
    try:
        with pq.ParquetFile(file.path) as parquet:
            footer, schema = parquet.metadata, parquet.schema_arrow
    except (pa.ArrowException, OSError, ValueError):
        return "half written or damaged"
    version = version_of(schema)
    if version != SCHEMA_VERSION:
        return f"schema version {version[:20]}, this viewer reads version {SCHEMA_VERSION}"
    columns = dict(zip(schema.names, schema.types, strict=True))
    if any(columns.get(field.name) != field.type for field in TRAJECTORY_SCHEMA):
        return "its columns are not those of its schema version"
    if footer.num_rows > MAX_ROWS or _bytes_in_memory(footer) > MAX_BYTES:
        return "too large to read"
    stage, iteration = _only_value(footer, "stage"), _only_value(footer, "iteration")
    if name.startswith("datasets/"):
        stage, iteration = name.split("/")[1], 0
    steps = footer.num_rows - sum(s.null_count or 0 for s in _statistics(footer, "step"))
    return TrajectoryFile(name, file, footer.num_rows, steps, stage, iteration)


def _bytes_in_memory(footer: pq.FileMetaData) -> int:
    return sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))


def _statistics(footer: pq.FileMetaData, column: str) -> list[pq.Statistics]:
    """Of each row group that has them."""
    index = next((i for i in range(len(footer.schema)) if footer.schema.column(i).path == column), 0)
    chunks = (footer.row_group(group).column(index) for group in range(footer.num_row_groups))
    return [chunk.statistics for chunk in chunks if chunk.statistics is not None and chunk.path_in_schema == column]


def _only_value(footer: pq.FileMetaData, column: str) -> Any:
    """The value of every row, where the footer says that there is only one."""
    statistics = _statistics(footer, column)
    values = {value for s in statistics if s.has_min_max for value in (s.min, s.max)}
    return values.pop() if len(values) == 1 else None
