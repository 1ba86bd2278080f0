"""Writes trajectories and their pictures to Parquet, off the hot path; `datasets.py` reads them back.

Pictures lie in `images/*.parquet`, each once per folder, written before the rows that name them: a kill at any moment
leaves no row without its picture.
"""

import logging
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eyas.errors import DatasetError
from eyas.files import is_disk_full, write_atomically
from eyas.rollouts.datasets import read_shard_hashes
from eyas.rollouts.encoding import action_names, encode_trajectory, image_hashes
from eyas.rollouts.images import image_to_png
from eyas.rollouts.tables import (
    IMAGE_SCHEMA,
    IMAGES_PER_ROW_GROUP,
    TRAJECTORY_SCHEMA,
    Row,
    rows_to_table,
    with_action_names,
)
from eyas.types import ImageSource, Trajectory

logger = logging.getLogger(__name__)

IMAGES_PER_SHARD = 4096
_GIVEN_COLUMNS = {"stage", "iteration", "env_id"}


class TrajectoryRecorder:
    """Records into a run or dataset folder; encoding to PNG and writing happen on a background thread.

    What a trajectory holds when `record` is called is what is written. An error on the thread is raised, as
    `DatasetError` with the path, by the next `record`, `flush` or `close`; a recorder that failed writes nothing more,
    so that no row can refer to a picture that was lost. Use it as a context manager, or `close` it.
    """

    def __init__(self, folder: str | Path, image_store: ImageSource) -> None:
        self.folder = Path(folder)
        self._image_store = image_store
        self._known_hashes: set[str] = set()
        self._next_shard = 0
        self._error: DatasetError | None = None
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=4)
        self._open_folder()
        self._thread = threading.Thread(target=self._work, name="eyas-recorder", daemon=True)
        self._thread.start()

    def record(
        self,
        name: str,
        trajectories: Sequence[Trajectory],
        name_of: Mapping[int, Callable[[Any], str]] | None = None,
        **columns: Any,
    ) -> None:
        """Writes `trajectories/NAME.parquet`, in place of one that is there.

        `name_of` says, by task, how an action is called: the names of all legal actions then stand once in the file.
        `columns` (stage, iteration, env_id, or any other name) go into each row; a list gives one value a trajectory.
        """
        self._raise_error()
        if not self._thread.is_alive():
            raise DatasetError(f"the recorder of {self.folder} is closed: open a new one")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.=-]*", name):
            raise DatasetError(f"{name!r} cannot be a file name: use letters, digits, '_', '-' and '.'")
        if taken := columns.keys() & (set(TRAJECTORY_SCHEMA.names) - _GIVEN_COLUMNS):
            raise DatasetError(
                f"column {min(taken)!r} is filled from the trajectory: give the extra column another name"
            )
        rows = list(self._rows(name, trajectories, columns))
        names = action_names(rows, name_of or {})
        images = self._new_images(trajectories)
        self._jobs.put(lambda: self._write(name, rows, names, images))

    def flush(self) -> None:
        """Waits until everything recorded is on the disk."""
        self._jobs.join()
        self._raise_error()

    def close(self) -> None:
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()
        self._raise_error()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except DatasetError as own_error:
            if error is None:
                raise
            logger.warning("%s", own_error)  # the first error is the one to see

    def _open_folder(self) -> None:
        for part in ("trajectories", "images"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
            for stale in (self.folder / part).glob(".*.tmp"):
                stale.unlink()
        for shard in sorted((self.folder / "images").glob("*.parquet")):
            self._known_hashes.update(read_shard_hashes(shard))
            if match := re.fullmatch(r"shard_(\d+)", shard.stem):
                self._next_shard = max(self._next_shard, int(match[1]) + 1)

    def _rows(self, name: str, trajectories: Sequence[Trajectory], columns: Mapping[str, Any]) -> Iterator[Row]:
        for index, trajectory in enumerate(trajectories):
            given = {k: v[index] if isinstance(v, list | tuple) else v for k, v in columns.items()}
            for row in encode_trajectory(trajectory):
                yield row | given | {"name": name, "trajectory": index}

    def _new_images(self, trajectories: Sequence[Trajectory]) -> dict[str, np.ndarray]:
        # Taken out of the store now: its owner may discard them as soon as `record` returns.
        images: dict[str, np.ndarray] = {}
        for trajectory in trajectories:
            prompts = [s.messages for s in trajectory.steps] + [trajectory.final_messages or ()]
            for image_hash in dict.fromkeys(h for messages in prompts for h in image_hashes(messages)):
                if image_hash not in self._known_hashes and image_hash not in images:
                    images[image_hash] = self._image_store.get(image_hash)
        self._known_hashes.update(images)
        return images

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                if self._error is None:
                    job()
            except DatasetError as error:
                self._error = error
            finally:
                self._jobs.task_done()
        self._jobs.task_done()

    def _write(
        self, name: str, rows: list[Row], names: dict[int, dict[str, str]], images: dict[str, np.ndarray]
    ) -> None:
        hashes = list(images)
        for start in range(0, len(hashes), IMAGES_PER_SHARD):
            self._write_shard({h: images[h] for h in hashes[start : start + IMAGES_PER_SHARD]})
        path = self.folder / "trajectories" / f"{name}.parquet"
        _write_parquet(path, lambda: with_action_names(rows_to_table(rows), names), compression="zstd")

    def _write_shard(self, images: dict[str, np.ndarray]) -> None:
        def to_table() -> pa.Table:
            rows = [
                {"hash": h, "png": image_to_png(image), "height": image.shape[0], "width": image.shape[1]}
                for h, image in images.items()
            ]
            return pa.Table.from_pylist(rows, schema=IMAGE_SCHEMA)

        path = self.folder / "images" / f"shard_{self._next_shard:06d}.parquet"
        options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        _write_parquet(path, to_table, row_group_size=IMAGES_PER_ROW_GROUP, **options)
        self._next_shard += 1

    def _raise_error(self) -> None:
        if self._error is not None:
            raise DatasetError(str(self._error)) from self._error


def _write_parquet(path: Path, to_table: Callable[[], pa.Table], **options: Any) -> None:
    try:
        write_atomically(path, lambda file: pq.write_table(to_table(), file, **options))
    except Exception as error:
        if is_disk_full(error):
            raise DatasetError(f"the disk is full: {path} could not be written. Free some space, then go on") from error
        raise DatasetError(f"{path} could not be written ({type(error).__name__}: {error})") from error
