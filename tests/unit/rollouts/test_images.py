import io

import numpy as np
import pytest
from PIL import Image

from eyas.errors import DatasetError
from eyas.rollouts.images import MemoryImageStore, hash_image, image_to_png, png_to_image


def _picture(seed: int = 0, shape: tuple[int, ...] = (5, 7, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_hash_covers_shape_and_content() -> None:
    flat = np.zeros((2, 8, 3), np.uint8)
    assert len(hash_image(flat)) == 32
    assert hash_image(flat) == hash_image(flat.copy())
    assert hash_image(flat) != hash_image(flat.reshape(4, 4, 3))
    assert hash_image(_picture(0)) != hash_image(_picture(1))


def test_hash_does_not_depend_on_memory_layout() -> None:
    picture = _picture()
    mirrored = np.ascontiguousarray(picture[:, ::-1])[:, ::-1]
    assert not mirrored.flags.c_contiguous
    assert hash_image(mirrored) == hash_image(picture)


def test_store_keeps_a_copy_once() -> None:
    store, frame = MemoryImageStore(), _picture()
    image_hash = store.put(frame)
    kept = frame.copy()
    frame[:] = 0  # an environment that draws into the same buffer
    np.testing.assert_array_equal(store.get(image_hash), kept)
    assert store.put(kept) == image_hash
    assert len(store) == 1
    with pytest.raises(ValueError, match="read-only"):
        store.get(image_hash)[0] = 1


def test_store_forgets() -> None:
    store = MemoryImageStore()
    first, second = store.put(_picture(0)), store.put(_picture(1))
    store.discard_except([second, "unknown"])
    assert first not in store
    assert second in store
    with pytest.raises(DatasetError, match=first):
        store.get(first)
    store.clear()
    assert len(store) == 0


@pytest.mark.parametrize("level", [0, 1, 9])
def test_png_is_lossless(level: int) -> None:
    np.testing.assert_array_equal(png_to_image(image_to_png(_picture(), level)), _picture())


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 7, 3), (7, 1, 3), (40, 30, 3)])
def test_any_reader_of_png_gets_the_picture(shape: tuple[int, int, int]) -> None:
    mirrored = _picture(shape=shape)[:, ::-1]  # not contiguous
    with Image.open(io.BytesIO(image_to_png(mirrored))) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(np.asarray(picture), mirrored)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-30], lambda b: b"", lambda b: b[:60] + b"xxxx" + b[64:], lambda b: b[9:]]
)
def test_broken_png(damage) -> None:
    with pytest.raises(DatasetError, match="no readable PNG"):
        png_to_image(damage(image_to_png(_picture(shape=(40, 40, 3)))))


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), float)])
def test_what_is_no_picture_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(DatasetError, match=r"uint8 array of shape \(height, width, 3\)"):
        MemoryImageStore().put(bad)
