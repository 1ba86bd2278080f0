"""What tables of episodes are asked from: a row an episode and a row a thought, in DuckDB's memory.

Files are read with PyArrow and handed over as tables: the database never opens a path, so that no name of a file can
mean another one to it.
"""

import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import count
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eyas.viewer.catalog import Catalog, TrajectoryFile

MEMORY = "160MB"  # of the database; what is beyond goes to a temporary folder of its own
ROWS_AT_ONCE = 100_000  # of the table of episodes, which someone waits for
THOUGHTS_AT_ONCE = 20_000
EXAMPLES = 5  # thoughts shown of a file
# What the table asks is read first; thoughts and pictures, which take longer than all of it, follow.
_COLUMNS = [
    "stage", "iteration", "env_id", "trajectory", "task", "episode", "seed", "success", "progress", "first_step",
    "stop_reason", "total_return", "step", "parse_kind",
]  # fmt: skip
_THOUGHT_COLUMNS = ["trajectory", "step", "thought", "action_name"]
_PICTURE_COLUMNS = ["trajectory", "step", "image_hashes"]
_TABLES = """
CREATE SCHEMA {schema};
CREATE TABLE {schema}.episodes (
    id BIGINT, file INTEGER, trajectory BIGINT, stage VARCHAR, iteration BIGINT, env_id VARCHAR, task BIGINT, episode BIGINT,
    seed BIGINT, num_steps BIGINT, first_step BIGINT, "return" DOUBLE, success BOOLEAN, progress DOUBLE,
    stop_reason VARCHAR, parse_failures BIGINT);
CREATE TABLE {schema}.thoughts (file INTEGER, id BIGINT, thought VARCHAR);
CREATE TABLE {schema}.examples (file INTEGER, id BIGINT, step BIGINT, thought VARCHAR, action_name VARCHAR);
"""
_INSERT_EPISODES = """
INSERT INTO {schema}.episodes
SELECT id, file, trajectory, stage, iteration, env_id, task, episode, seed, first_step + num_steps, first_step,
    total_return, success, progress, stop_reason, parse_failures FROM rows
"""
_INSERT_THOUGHTS = """
INSERT INTO {schema}.thoughts SELECT file, id, lower(thought) FROM rows WHERE thought IS NOT NULL AND thought != ''
"""
_INSERT_EXAMPLES = """
INSERT INTO {schema}.examples SELECT file, id, step, thought, action_name FROM rows
"""


class Database:
    """DuckDB in memory, shared by the runs of a server; it can reach no file but its own temporary ones."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="eyas-view-")
        options = {"memory_limit": MEMORY, "threads": 2, "temp_directory": self._folder}
        self.connection = duckdb.connect(":memory:", config=options)
        for setting in ("preserve_insertion_order", "enable_external_access"):
            self.connection.execute(f"SET {setting} = false")
        self.connection.execute("SET lock_configuration = true")
        self._numbers = count()
        self._finalizer = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def new_schema(self) -> str:
        schema = f"run_{next(self._numbers)}"
        self.connection.cursor().execute(_TABLES.format(schema=schema))
        return schema

    def close(self) -> None:
        self.connection.close()
        self._finalizer()


class EpisodeIndex:
    """The episodes of one run. Safe to call from several threads."""

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self.catalog = catalog
        self.schema = database.new_schema()
        self._connection = database.connection
        self._numbers = count()
        self._indexed: dict[str, tuple[TrajectoryFile, int]] = {}  # by name: the file as it was, its number
        self.names: dict[int, str] = {}
        self._with_thoughts: set[int] = set()  # numbers of the files whose thoughts can be searched
        self._pictures: dict[int, tuple[np.ndarray, pa.Array]] = {}  # by number: see `_last_pictures`
        self.version = 0  # rises with every change
        self._lock, self._thoughts_lock = threading.Lock(), threading.Lock()
        self._matches = lru_cache(maxsize=16)(self._find_matches)

    def update(self) -> None:
        """Takes in the files that came, changed or went since the last call."""
        with self._lock:
            there = {file.name: file for file in self.catalog.update()}
            gone = [n for n, (file, _) in self._indexed.items() if there.get(n) != file]
            new = [file for name, file in there.items() if name in gone or name not in self._indexed]
            self._forget([self._indexed.pop(name)[1] for name in gone])
            self._add(new)
            if gone or new:
                self.version += 1

    def update_thoughts(self) -> None:
        """The same for what stands in their thoughts."""
        self.update()
        with self._thoughts_lock:
            with self._lock:
                files = {file: number for file, number in self._indexed.values() if number not in self._with_thoughts}
            for tables in _read_ahead(list(files), _THOUGHT_COLUMNS, THOUGHTS_AT_ONCE):
                self._add_thoughts({files[file]: rows for file, rows in self._whole(tables)})

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection for one thread."""
        return self._connection.cursor()

    def thumbnail(self, number: int, trajectory: int) -> str | None:
        """The hash of the last picture of an episode."""
        trajectories, hashes = self._pictures_of(number)
        place = int(np.searchsorted(trajectories, trajectory))
        return hashes[place].as_py() if place < len(hashes) and trajectories[place] == trajectory else None

    def matches(self, text: str) -> pa.Table:
        """The `id` of each episode with a thought that holds the text, in any case."""
        self.update_thoughts()
        return self._matches(text.lower(), self.version)

    def _find_matches(self, text: str, version: int) -> pa.Table:
        query = f"SELECT DISTINCT id FROM {self.schema}.thoughts WHERE contains(thought, ?)"
        return pa.table(self.cursor().execute(query, [text]).fetchnumpy())

    def _pictures_of(self, number: int) -> tuple[np.ndarray, pa.Array]:
        if number not in self._pictures:
            file = next((file for file, known in list(self._indexed.values()) if known == number), None)
            rows = None if file is None else _read_batch([file], _PICTURE_COLUMNS)[0][1]
            self._pictures[number] = _last_pictures(rows) if rows is not None else (np.array([]), pa.array([]))
        return self._pictures[number]

    def _forget(self, numbers: list[int]) -> None:
        self._delete(numbers)
        for number in numbers:
            del self.names[number]
            self._pictures.pop(number, None)

    def _delete(self, numbers: list[int]) -> None:
        for table in ("episodes", "thoughts", "examples") if numbers else ():
            self.cursor().execute(f"DELETE FROM {self.schema}.{table} WHERE list_contains(?, file)", [numbers])

    def _add(self, files: Sequence[TrajectoryFile]) -> None:
        for tables in _read_ahead(files, _COLUMNS, ROWS_AT_ONCE):
            parts = []
            for file, rows in self._whole(tables):
                number = next(self._numbers)
                self._indexed[file.name], self.names[number] = (file, number), file.name
                parts.append(_numbered(rows, number))
            if parts:
                self._insert(_episodes(pa.concat_tables(parts)), _INSERT_EPISODES)

    def _add_thoughts(self, tables: Mapping[int, pa.Table]) -> None:
        parts = [_numbered(rows, number) for number, rows in tables.items()]
        if parts:
            self._insert(pa.concat_tables(parts), _INSERT_THOUGHTS)
            self._insert(pa.concat_tables([_examples(part) for part in parts]), _INSERT_EXAMPLES)
        with self._lock:
            self._with_thoughts.update(tables)
            self._delete([number for number in tables if number not in self.names])  # the file went meanwhile
            self.version += 1

    def _whole(self, tables: "_Tables") -> Iterator[tuple[TrajectoryFile, pa.Table]]:
        """The tables that could be read; the catalog drops the files of the others."""
        for file, rows in tables:
            if rows is None:
                self.catalog.drop(file, "half written or damaged")
            else:
                yield file, rows

    def _insert(self, rows: pa.Table, statement: str) -> None:
        cursor = self.cursor()
        cursor.register("rows", rows)
        cursor.execute(statement.format(schema=self.schema))
        cursor.unregister("rows")


# ----------------------------------------------------------------------------------------------- files

_Tables = Sequence[tuple[TrajectoryFile, pa.Table | None]]  # None where a whole footer stands over damaged pages


def _read_ahead(files: Sequence[TrajectoryFile], columns: list[str], rows_at_once: int) -> Iterator[_Tables]:
    """The files batch after batch: the next is read while one is taken in."""
    with ThreadPoolExecutor(1) as reader:
        reading: list[Future[_Tables]] = []
        for batch in _batches(files, rows_at_once):
            reading.append(reader.submit(_read_batch, batch, columns))
            if len(reading) > 1:
                yield reading.pop(0).result()
        for last in reading:
            yield last.result()


def _batches(files: Sequence[TrajectoryFile], rows_at_once: int) -> Iterator[list[TrajectoryFile]]:
    """Files to read together, so that memory is bounded by one file or so many rows."""
    batch: list[TrajectoryFile] = []
    for file in files:
        if batch and sum(f.rows for f in batch) + file.rows > rows_at_once:
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def _read_batch(files: Sequence[TrajectoryFile], columns: list[str]) -> _Tables:
    tables: list[tuple[TrajectoryFile, pa.Table | None]] = []
    for file in files:
        try:
            tables.append((file, _read_rows(file, columns)))
        except (pa.ArrowException, OSError, ValueError):
            tables.append((file, None))
    return tables


def _read_rows(file: TrajectoryFile, columns: list[str]) -> pa.Table:
    with pq.ParquetFile(file.file.path) as parquet:
        rows = parquet.read(columns=columns, use_threads=True)
    rows = rows.replace_schema_metadata(None)
    if "stage" in columns and file.name.startswith("datasets/"):  # of a run's own datasets, their name is the stage
        named = pa.array([file.stage] * len(rows), pa.string())
        rows = rows.set_column(rows.schema.get_field_index("stage"), "stage", named)
    return rows


def _numbered(rows: pa.Table, number: int) -> pa.Table:
    """With the file's number and an id that no other episode has."""
    ids = pc.add(rows.column("trajectory"), pa.scalar(number << 32, pa.int64()))  # pyright: ignore
    rows = rows.append_column("file", pa.array(np.full(len(rows), number, np.int32)))
    return rows.append_column("id", ids)


def _episodes(rows: pa.Table) -> pa.Table:
    """A row an episode, with its `num_steps` and `parse_failures`."""
    _, first, places = np.unique(rows.column("id").to_numpy(), return_index=True, return_inverse=True)
    is_step = rows.column("step").is_valid().to_numpy()
    is_failure = pc.equal(rows.column("parse_kind"), "failure").fill_null(False).to_numpy()  # pyright: ignore
    rows = rows.take(pa.array(first))
    for name, counted in (("num_steps", is_step), ("parse_failures", is_failure)):
        rows = rows.append_column(name, pa.array(np.bincount(places[counted], minlength=len(first)), pa.int64()))
    return rows


def _examples(rows: pa.Table) -> pa.Table:
    """Up to `EXAMPLES` different thoughts from all over a file."""
    thoughts: dict[Any, int] = {}
    for index in np.unique(np.linspace(0, len(rows) - 1, 5 * EXAMPLES, dtype=int)) if len(rows) else []:
        thought = rows.column("thought")[int(index)].as_py()
        if thought and len(thoughts) < EXAMPLES:
            thoughts.setdefault(thought, int(index))
    return rows.take(pa.array(list(thoughts.values()), pa.int64()))


def _last_pictures(rows: pa.Table) -> tuple[np.ndarray, pa.Array]:
    """The trajectories that have pictures, ascending, and the hash of the last one of each."""
    lists = rows.column("image_hashes").combine_chunks()
    trajectories, steps = (rows.column(name).to_numpy() for name in ("trajectory", "step"))
    offsets = lists.offsets.to_numpy()
    order = np.flatnonzero(np.diff(offsets) > 0)
    order = order[np.lexsort((steps[order], trajectories[order]))]
    order = order[np.append(np.diff(trajectories[order]) > 0, True)[: len(order)]]
    return trajectories[order], lists.values.take(pa.array(offsets[order + 1] - 1))
