"""Pictures by content hash, and their PNG form."""

import io
import struct
import zlib
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from PIL import Image

from eyas.errors import DatasetError
from eyas.types import ImageSource


def hash_image(image: np.ndarray) -> str:
    """The content hash of a uint8 (H, W, 3) picture: 32 hex characters over shape and bytes."""
    digest = blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def image_to_png(image: np.ndarray, compress_level: int = 1) -> bytes:
    """Encodes a uint8 (H, W, 3) picture without loss: each row as its difference from the one above (PNG's filter 2).

    Pillow tries every filter on each row: at least twice the time, for files of the same size.
    """
    _check_image(image)
    height, width, _ = image.shape
    flat = image.reshape(height, -1)
    rows = np.full((height, 1 + 3 * width), 2, dtype=np.uint8)  # each begins with its filter
    rows[0, 1:], rows[1:, 1:] = flat[0], flat[1:] - flat[:-1]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits a channel, RGB
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), compress_level)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_to_image(data: bytes) -> np.ndarray:
    """Decodes to uint8 (H, W, 3). Raises `DatasetError` where the bytes are not a whole picture."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            return np.array(picture.convert("RGB"))
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, zlib and struct errors for bad bytes
        raise DatasetError(f"these {len(data)} bytes are no readable PNG ({error})") from error


class MemoryImageStore:
    """Keeps each different picture once, in memory. `discard_except` and `clear` keep it from growing over a run."""

    def __init__(self) -> None:
        self._images: dict[str, np.ndarray] = {}
        self._behind: list[ImageSource] = []

    def attach(self, store: ImageSource) -> None:
        """Looks here too for pictures that are not in memory: a dataset's, on disk."""
        self._behind.append(store)

    def detach(self, store: ImageSource) -> None:
        self._behind.remove(store)

    def put(self, image: np.ndarray) -> str:
        """Keeps a read-only copy of a uint8 (H, W, 3) picture and returns its hash."""
        _check_image(image)
        image_hash = hash_image(image)
        if image_hash not in self._images:
            kept = image.copy(order="C")  # environments reuse their frame buffer
            kept.flags.writeable = False
            self._images[image_hash] = kept
        return image_hash

    def get(self, image_hash: str) -> np.ndarray:
        if image_hash in self._images:
            return self._images[image_hash]
        for store in self._behind:
            if image_hash in store:
                return store.get(image_hash)
        raise DatasetError(
            f"image {image_hash} is neither in memory nor in a dataset that is read: if it belongs to one, that folder is "
            "incomplete: copy it whole, or collect again"
        )

    @property
    def nbytes(self) -> int:
        return sum(image.nbytes for image in self._images.values())

    def discard_except(self, hashes: Iterable[str]) -> None:
        keep = set(hashes)
        self._images = {h: image for h, image in self._images.items() if h in keep}

    def clear(self) -> None:
        self._images.clear()

    def __contains__(self, image_hash: object) -> bool:
        return image_hash in self._images

    def __len__(self) -> int:
        return len(self._images)


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DatasetError(
            f"a picture is a uint8 array of shape (height, width, 3), this one is {image.dtype} {image.shape}: "
            "convert it in the environment's render(), or with a Gymnasium observation wrapper"
        )
