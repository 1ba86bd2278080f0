"""Reads what `recorder.py` wrote: trajectories as they were, pictures by hash, and what a dataset says of itself."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eyas.errors import DatasetError
from eyas.files import write_atomically
from eyas.rollouts.encoding import decode_trajectory
from eyas.rollouts.images import hash_image, png_to_image
from eyas.rollouts.tables import IMAGES_PER_ROW_GROUP, SCHEMA_VERSION, TRAJECTORY_SCHEMA, table_to_rows, version_of
from eyas.types import Trajectory


def _missing(folder: str | Path, said: str = "") -> DatasetError:
    said = said or f"there is no dataset at {folder}"
    return DatasetError(f"{said}: type `eyas collect ENV --policy expert --output {folder}`")


# ----------------------------------------------------------------------------------------------- trajectories


def load_trajectories(folder: str | Path, name: str | None = None) -> list[Trajectory]:
    """The trajectories of one recorded file, or of all of them in the order of their names.

    Raises `DatasetError` where the folder is missing or empty, or a file in it cannot be read.
    """
    return [t for path in _trajectory_files(Path(folder), name) for t in _load_file(path)]


def _trajectory_files(folder: Path, name: str | None) -> list[Path]:
    if not folder.is_dir():
        raise _missing(folder)
    files = sorted((folder / "trajectories").glob("*.parquet"))
    if not files:
        raise _missing(folder, f"{folder} holds no trajectories")
    if name is None:
        return files
    if named := [f for f in files if f.stem == name]:
        return named
    raise DatasetError(f"{folder} holds no trajectories named {name!r}, only {', '.join(f.stem for f in files)}")


def _load_file(path: Path) -> list[Trajectory]:
    try:
        with pq.ParquetFile(path) as file:
            version = version_of(file.schema_arrow)
            if version != SCHEMA_VERSION:
                raise DatasetError(
                    f"{path} has schema version {version}, this Eyas reads version {SCHEMA_VERSION}: collect it again"
                )
            rows = table_to_rows(file.read(columns=TRAJECTORY_SCHEMA.names))
        return [decode_trajectory(list(group)) for _, group in groupby(rows, key=lambda row: row["trajectory"])]
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, IndexError) as error:
        raise DatasetError(
            f"{path} is cut short or damaged ({type(error).__name__}: {error}): restore it from a copy, or delete it and "
            "collect again"
        ) from error


# ----------------------------------------------------------------------------------------------- pictures


class DatasetImageStore:
    """The recorded pictures of a folder, read lazily. Decoded ones are kept up to `max_cached_bytes`.

    Shards written after opening are found on the first miss.
    """

    def __init__(self, folder: str | Path, max_cached_bytes: int = 256 * 2**20) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise _missing(folder)
        self._max_cached_bytes = max_cached_bytes
        self._cached_bytes = 0
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()
        self._places: dict[str, tuple[Path, int]] = {}  # hash -> shard, row
        self._shards: set[Path] = set()
        self._row_group: tuple[Path, int, list[bytes]] | None = None
        self._find_shards()

    def get(self, image_hash: str) -> np.ndarray:
        """The read-only uint8 (H, W, 3) picture. Raises `DatasetError` where it is missing or damaged."""
        if image_hash in self._cache:
            self._cache.move_to_end(image_hash)
            return self._cache[image_hash]
        if image_hash not in self:
            raise DatasetError(
                f"image {image_hash} is in no shard of {self.folder / 'images'}: the folder is incomplete, copy it whole or "
                f"collect again"
            )
        image = self._read(image_hash)
        self._remember(image_hash, image)
        return image

    def __contains__(self, image_hash: object) -> bool:
        if image_hash not in self._places:
            self._find_shards()
        return image_hash in self._places

    def _find_shards(self) -> None:
        for shard in sorted((self.folder / "images").glob("*.parquet")):
            if shard not in self._shards:
                for row, image_hash in enumerate(read_shard_hashes(shard)):
                    self._places.setdefault(image_hash, (shard, row))
                self._shards.add(shard)

    def _read(self, image_hash: str) -> np.ndarray:
        shard, row = self._places[image_hash]
        try:
            image = png_to_image(self._read_png(shard, row))
        except (DatasetError, pa.ArrowException, OSError, IndexError) as error:
            raise DatasetError(
                f"image {image_hash} in {shard} is damaged: {error}. Restore the file from a copy"
            ) from error
        if hash_image(image) != image_hash:
            raise DatasetError(f"image {image_hash} in {shard} shows another picture: restore the file from a copy")
        image.flags.writeable = False
        return image

    def _read_png(self, shard: Path, row: int) -> bytes:
        group, offset = divmod(row, IMAGES_PER_ROW_GROUP)
        if self._row_group is None or self._row_group[:2] != (shard, group):
            with pq.ParquetFile(shard) as file:
                pngs = file.read_row_group(group, columns=["png"]).column("png").to_pylist()
            self._row_group = shard, group, pngs
        return self._row_group[2][offset]

    def _remember(self, image_hash: str, image: np.ndarray) -> None:
        self._cache[image_hash] = image
        self._cached_bytes += image.nbytes
        while self._cached_bytes > self._max_cached_bytes and len(self._cache) > 1:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= oldest.nbytes


def read_shard_hashes(shard: Path) -> list[str]:
    """The hashes in an image shard, without reading its pictures."""
    try:
        return pq.read_table(shard, columns=["hash"]).column("hash").to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DatasetError(
            f"{shard} cannot be read ({error}): restore it from a copy, or collect into a new folder"
        ) from error


# ----------------------------------------------------------------------------------------------- what a dataset is


def write_dataset_info(folder: str | Path, info: Mapping[str, Any]) -> None:
    """Writes `dataset.json`: number of episodes and steps, environment id, policy, and what else the collector knows."""
    text = json.dumps(dict(info), indent=2) + "\n"
    write_atomically(Path(folder) / "dataset.json", lambda file: file.write(text.encode()))


def dataset_info(folder: str | Path) -> dict[str, Any]:
    """What `write_dataset_info` wrote. Raises `DatasetError` where it is missing or unreadable."""
    path = Path(folder) / "dataset.json"
    if not path.is_file():
        raise _missing(folder)
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DatasetError(f"{path} is no JSON ({error}): restore it from a copy, or collect again") from error
