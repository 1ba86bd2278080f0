"""What tables of episodes are asked from: a row an episode and a row a thought, in DuckDB's memory.

Files are read with PyArrow and handed over as tables: the database never opens a path, so that no name of a file can
mean another one to it.
"""

import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
ROWS_AT_ONCE = 50_000
EXAMPLES = 5  # thoughts shown of a file
_COLUMNS = [
    "stage", "iteration", "env_id", "trajectory", "task", "episode", "seed", "success", "progress", "first_step",
    "stop_reason", "total_return", "step", "image_hashes", "parse_kind", "action_name", "thought",
]  # fmt: skip
_TABLES = """
CREATE SCHEMA {schema};
CREATE TABLE {schema}.episodes (
    id BIGINT, file INTEGER, trajectory BIGINT, stage VARCHAR, iteration BIGINT, env_id VARCHAR, task BIGINT, episode BIGINT,
    seed BIGINT, num_steps BIGINT, first_step BIGINT, "return" DOUBLE, success BOOLEAN, progress DOUBLE,
    stop_reason VARCHAR, parse_failures BIGINT, thumbnail VARCHAR);
CREATE TABLE {schema}.thoughts (file INTEGER, id BIGINT, thought VARCHAR);
CREATE TABLE {schema}.examples (
    file INTEGER, trajectory BIGINT, stage VARCHAR, iteration BIGINT, step BIGINT, thought VARCHAR, action_name VARCHAR);
"""
_INSERT_EPISODES = """
INSERT INTO {schema}.episodes
SELECT any_value(id), file, trajectory, any_value(stage), any_value(iteration), any_value(env_id), any_value(task), any_value(episode),
    any_value(seed), any_value(first_step) + count(step), any_value(first_step), any_value(total_return),
    any_value(success), any_value(progress), any_value(stop_reason), count_if(parse_kind = 'failure'),
    max_by(image_hashes[-1], step) FILTER (len(image_hashes) > 0)
FROM rows GROUP BY file, trajectory
"""
_INSERT_THOUGHTS = """
INSERT INTO {schema}.thoughts SELECT file, id, lower(thought) FROM rows WHERE thought IS NOT NULL AND thought != ''
"""
_INSERT_EXAMPLES = """
INSERT INTO {schema}.examples SELECT file, trajectory, stage, iteration, step, thought, action_name FROM rows
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
        self.version = 0  # rises with every change
        self._lock = threading.Lock()
        self._matches = lru_cache(maxsize=16)(self._find_matches)

    def update(self) -> None:
        """Takes in the files that came, changed or went since the last call."""
        with self._lock:
            there = {file.name: file for file in self.catalog.update()}
            gone = [n for n, (file, _) in self._indexed.items() if there.get(n) != file]
            new = [file for name, file in there.items() if name in gone or name not in self._indexed]
            if gone:
                self._forget([self._indexed.pop(name)[1] for name in gone])
            self._add(new)
            if gone or new:
                self.version += 1

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection for one thread."""
        return self._connection.cursor()

    def matches(self, text: str) -> pa.Table:
        """The `id` of each episode with a thought that holds the text, in any case."""
        return self._matches(text.lower(), self.version)

    def _find_matches(self, text: str, version: int) -> pa.Table:
        query = f"SELECT DISTINCT id FROM {self.schema}.thoughts WHERE contains(thought, ?)"
        return pa.table(self.cursor().execute(query, [text]).fetchnumpy())

    def _forget(self, numbers: list[int]) -> None:
        for table in ("episodes", "thoughts", "examples"):
            self.cursor().execute(f"DELETE FROM {self.schema}.{table} WHERE list_contains(?, file)", [numbers])
        for number in numbers:
            del self.names[number]

    def _add(self, files: Sequence[TrajectoryFile]) -> None:
        batches = list(_batches(files))
        with ThreadPoolExecutor(1) as reader:  # the next batch is read while one is taken in
            reading = [reader.submit(_read_batch, batches[0])] if batches else []
            for following in [*batches[1:], []]:
                tables = reading.pop().result() if reading else []
                reading.append(reader.submit(_read_batch, following))
                self._add_batch(tables)

    def _add_batch(self, tables: Sequence[tuple[TrajectoryFile, pa.Table | None]]) -> None:
        parts = []
        for file, rows in tables:
            if rows is None:
                self.catalog.drop(file, "half written or damaged")
                continue
            number = next(self._numbers)
            self._indexed[file.name], self.names[number] = (file, number), file.name
            parts.append(_numbered(rows, number))
        if parts:
            self._insert(parts, _INSERT_EPISODES, _INSERT_THOUGHTS)
            self._insert([_examples(part) for part in parts], _INSERT_EXAMPLES)

    def _insert(self, parts: list[pa.Table], *statements: str) -> None:
        cursor = self.cursor()
        cursor.register("rows", pa.concat_tables(parts))
        for statement in statements:
            cursor.execute(statement.format(schema=self.schema))
        cursor.unregister("rows")


def _batches(files: Sequence[TrajectoryFile]) -> Iterator[list[TrajectoryFile]]:
    """Files to read together, so that memory is bounded by one file or `ROWS_AT_ONCE`."""
    batch: list[TrajectoryFile] = []
    for file in files:
        if batch and sum(f.rows for f in batch) + file.rows > ROWS_AT_ONCE:
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def _read_batch(files: Sequence[TrajectoryFile]) -> list[tuple[TrajectoryFile, pa.Table | None]]:
    """The rows of each file; None where a whole footer stands over damaged pages."""
    tables: list[tuple[TrajectoryFile, pa.Table | None]] = []
    for file in files:
        try:
            tables.append((file, _read_rows(file)))
        except (pa.ArrowException, OSError, ValueError):
            tables.append((file, None))
    return tables


def _numbered(rows: pa.Table, number: int) -> pa.Table:
    """With the file's number and an id that no other episode has."""
    ids = pc.add(rows.column("trajectory"), pa.scalar(number << 32, pa.int64()))  # pyright: ignore
    rows = rows.append_column("file", pa.array(np.full(len(rows), number, np.int32)))
    return rows.append_column("id", ids)


def _read_rows(file: TrajectoryFile) -> pa.Table:
    with pq.ParquetFile(file.file.path) as parquet:
        rows = parquet.read(columns=_COLUMNS, use_threads=True)
    rows = rows.replace_schema_metadata(None)
    if file.name.startswith("datasets/"):  # of a run's own datasets, the stage that wrote them is their name
        named = pa.array([file.stage] * len(rows), pa.string())
        rows = rows.set_column(rows.schema.get_field_index("stage"), "stage", named)
    return rows


def _examples(rows: pa.Table) -> pa.Table:
    """Up to `EXAMPLES` different thoughts from all over a file."""
    thoughts: dict[Any, int] = {}
    for index in np.unique(np.linspace(0, len(rows) - 1, 5 * EXAMPLES, dtype=int)) if len(rows) else []:
        thought = rows.column("thought")[int(index)].as_py()
        if thought and len(thoughts) < EXAMPLES:
            thoughts.setdefault(thought, int(index))
    return rows.take(pa.array(list(thoughts.values()), pa.int64()))
