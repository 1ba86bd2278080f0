"""Pictures by hash, whole and as thumbnails."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from eyas.rollouts.images import hash_image, png_to_image
from eyas.viewer import pictures


def hashes(run: Path) -> list[str]:
    return [h for shard in sorted((run / "images").glob("*.parquet")) for h in pq.read_table(shard)["hash"].to_pylist()]


def get(client: TestClient, image_hash: str, **parameters: Any) -> Any:
    return client.get("/api/image", params={"run": "made", "hash": image_hash} | parameters)


def test_each_picture_is_the_one_of_its_hash(client: TestClient, generated: Path) -> None:
    for image_hash in hashes(generated)[::7]:
        response = get(client, image_hash)
        assert response.status_code == 200 and response.headers["content-type"] == "image/png"
        assert "immutable" in response.headers["cache-control"]
        assert hash_image(png_to_image(response.content)) == image_hash


def test_a_thumbnail_is_no_larger_than_asked_for_and_shows_the_same(client: TestClient, generated: Path) -> None:
    image_hash = hashes(generated)[0]
    whole = png_to_image(get(client, image_hash).content)
    small = png_to_image(get(client, image_hash, size=24).content)
    assert small.shape == (24, 24, 3)
    wanted = np.asarray(Image.fromarray(whole).resize((24, 24), Image.Resampling.BOX), np.float64)
    assert np.abs(small - wanted).mean() < 8
    assert get(client, image_hash, size=500).content == get(client, image_hash).content


@pytest.mark.parametrize("image_hash", ["x", "../../etc/passwd", "A" * 32, "0" * 31, "0" * 32 + "\n", ""])
def test_what_is_no_hash_is_refused(image_hash: str, client: TestClient) -> None:
    assert get(client, image_hash).status_code == 400


def test_a_picture_that_is_not_there_and_a_silly_size_are_said(client: TestClient, generated: Path) -> None:
    assert get(client, "0" * 32).status_code == 404
    image_hash = hashes(generated)[0]
    for size in ("0", "-5", "100000", "x", "1e3"):
        assert get(client, image_hash, size=size).status_code == 400


def test_two_hashes_with_the_same_first_half_are_not_confused(run: Path, serve: Any) -> None:
    shard = sorted((run / "images").glob("*.parquet"))[0]
    table = pq.read_table(shard)
    rows = table.to_pylist()
    other = rows[0]["hash"][:16] + "f" * 16
    rows.append(rows[1] | {"hash": other})
    pq.write_table(table.from_pylist(rows, schema=table.schema), shard, row_group_size=64)
    client = serve(run)
    assert get(client, other).content == rows[1]["png"]
    assert get(client, rows[0]["hash"]).content == rows[0]["png"]


def test_a_damaged_shard_costs_its_own_pictures_only(run: Path, serve: Any) -> None:
    shards = sorted((run / "images").glob("*.parquet"))
    lost, kept = (pq.read_table(shard)["hash"][0].as_py() for shard in (shards[0], shards[-1]))
    content = shards[0].read_bytes()
    shards[0].write_bytes(content[: len(content) // 2])
    client = serve(run)
    assert get(client, lost).status_code == 404
    assert get(client, kept).status_code == 200


@pytest.mark.parametrize("content", [b"<svg onload='alert(1)'/>", b"\x89PNG\r\n\x1a\n" + b"junk", b""])
def test_bytes_that_are_no_picture_are_no_crash(content: bytes, run: Path, serve: Any) -> None:
    shard = sorted((run / "images").glob("*.parquet"))[0]
    table = pq.read_table(shard)
    rows = [row | {"png": content} for row in table.to_pylist()]
    pq.write_table(table.from_pylist(rows, schema=table.schema), shard)
    response = get(serve(run), rows[0]["hash"], size=32)
    assert response.status_code == 404 and response.headers["content-type"] == "application/json"


def test_a_picture_of_too_many_pixels_is_not_unpacked(
    client: TestClient, generated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 96 * 96 - 1)
    assert get(client, hashes(generated)[0], size=32).status_code == 404


def test_pictures_that_come_while_serving_are_found(run: Path, serve: Any) -> None:
    shard = sorted((run / "images").glob("*.parquet"))[-1]
    image_hash = pq.read_table(shard)["hash"][0].as_py()
    shutil.move(shard, run.parent / "later")
    client = serve(run)
    assert get(client, image_hash).status_code == 404
    shutil.move(run.parent / "later", shard)
    assert get(client, image_hash).status_code == 200
