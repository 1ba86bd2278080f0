"""The pictures of a run by content hash, as the PNG that was recorded or as a thumbnail of it."""

import io
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from eyas.viewer.folders import File, RunFolder
from eyas.viewer.problems import BadQuestion, NotServed

CACHED_BYTES = 32 * 2**20  # of encoded pictures, a run
MAX_GROUP_BYTES = 256 * 2**20  # of a row group, which is read as a whole
MAX_PIXELS = 64 * 10**6
SIZES = range(8, 1025)
_HASH = re.compile(r"[0-9a-f]{32}")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class _Shard:
    """A damaged one has no rows."""

    file: File
    heads: np.ndarray  # uint64 (n,): the first half of each hash
    ends: list[int]  # one past the last row of each row group


class Pictures:
    """Finds pictures of one run. Shards that are damaged are left out. Safe to call from several threads."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._shards: dict[str, _Shard] = {}
        self._groups: OrderedDict[tuple[str, int], dict[str, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def png(self, image_hash: str) -> bytes:
        """The recorded bytes. Raises `BadQuestion` for what is no hash, `NotServed` where no shard holds the picture."""
        if not _HASH.fullmatch(image_hash):
            raise BadQuestion("a picture's hash is 32 hexadecimal digits")
        with self._lock:
            data = self._find(image_hash)
            if data is None and self._update():
                data = self._find(image_hash)
        if data is None or not data.startswith(_PNG):
            raise NotServed(f"run {self.run.id!r} has no picture {image_hash}: it may be incomplete, copy it whole")
        return data

    def thumbnail(self, image_hash: str, size: int) -> bytes:
        """A PNG whose longer side is `size` pixels at most."""
        if size not in SIZES:
            raise BadQuestion(f"size={size}: write a number from {SIZES[0]} to {SIZES[-1]}")
        data = self.png(image_hash)
        try:
            with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise NotServed(f"picture {image_hash} is too large for a thumbnail")
                if max(picture.size) <= size:
                    return data
                small = picture.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise NotServed(f"picture {image_hash} is damaged: copy the run again") from error
        small.thumbnail((size, size))
        buffer = io.BytesIO()
        small.save(buffer, format="PNG", compress_level=1)
        return buffer.getvalue()

    def _find(self, image_hash: str) -> bytes | None:
        head = np.uint64(int(image_hash[:16], 16))
        for name, shard in self._shards.items():
            for row in np.flatnonzero(shard.heads == head):
                group = next(i for i, end in enumerate(shard.ends) if row < end)
                if (data := self._group(name, group).get(image_hash)) is not None:
                    return data
        return None

    def _group(self, name: str, group: int) -> dict[str, bytes]:
        key = name, group
        if key not in self._groups:
            self._groups[key] = _read_group(self._shards[name].file, group)
            while len(self._groups) > 1 and _size(self._groups) > CACHED_BYTES:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]

    def _update(self) -> bool:
        """Looks for shards that came or changed; whether there were any."""
        there: dict[str, File] = {}
        for place in [("images",), *(("datasets", name, "images") for name in self.run.folders("datasets"))]:
            there |= {file.place: file for file in self.run.files(*place, suffix=".parquet")}
        same = {n for n, shard in self._shards.items() if there.get(n) == shard.file}
        self._shards = {n: self._shards[n] if n in same else _read_shard(file) for n, file in there.items()}
        self._groups = OrderedDict((k, v) for k, v in self._groups.items() if k[0] in same)
        return len(same) < len(there)


def _size(groups: OrderedDict[tuple[str, int], dict[str, bytes]]) -> int:
    return sum(len(data) for group in groups.values() for data in group.values())


def _read_shard(file: File) -> _Shard:
    damaged = _Shard(file, np.zeros(0, np.uint64), [])
    try:
        with pq.ParquetFile(file.path) as parquet:
            footer = parquet.metadata
            hashes = parquet.read(columns=["hash"]).column("hash").to_pylist()
        heads = np.frombuffer(b"".join(bytes.fromhex(h[:16].rjust(16, "0")) for h in hashes), ">u8").astype(np.uint64)
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError):
        return damaged
    ends = list(accumulate(footer.row_group(i).num_rows for i in range(footer.num_row_groups)))
    return _Shard(file, heads, ends) if len(heads) == len(hashes) else damaged


def _read_group(file: File, group: int) -> dict[str, bytes]:
    try:
        with pq.ParquetFile(file.path) as parquet:
            if parquet.metadata.row_group(group).total_byte_size > MAX_GROUP_BYTES:
                return {}
            table = parquet.read_row_group(group, columns=["hash", "png"])
        pairs = zip(table.column("hash").to_pylist(), table.column("png").to_pylist(), strict=True)
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return {}
    return {image_hash: bytes(data) for image_hash, data in pairs if isinstance(data, bytes)}
