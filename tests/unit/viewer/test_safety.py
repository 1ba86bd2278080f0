"""What a stranger, a bad link or a bad file can reach and break: nothing."""

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from eyas.errors import ConfigError
from eyas.rollouts.tables import SCHEMA_VERSION
from eyas.viewer import documents
from eyas.viewer.folders import Library
from eyas.viewer.guard import COOKIE

SECRET = "the secret outside"


def total(client: TestClient, **parameters: Any) -> int:
    response = client.get("/api/episodes", params={"run": "made"} | parameters)
    assert response.status_code == 200, response.text
    return response.json()["total"]


def notes(client: TestClient) -> str:
    return " ".join(client.get("/api/episodes", params={"run": "made"}).json()["notes"])


# ----------------------------------------------------------------------------------------------- paths and links


@pytest.mark.parametrize(
    "run_id",
    [
        "../outside",
        "made/../../outside",
        "/etc",
        "..",
        ".",
        "",
        "made/",
        "made\0",
        "%2e%2e/outside",
        "a" * 10_000,
        "\ud800",
    ],
)
def test_a_run_is_looked_up_and_never_a_path(run_id: str, run: Path, serve: Any) -> None:
    outside = Path(shutil.copytree(run, run.parents[1] / "outside"))
    (outside / "config.toml").write_text(f'name = "{SECRET}"')
    client = serve(run.parent)
    for path in ("run", "metrics", "episodes", "thoughts", "evaluations"):
        response = client.get(f"/api/{path}", params={"run": run_id.encode(errors="replace")})
        assert response.status_code == 404 and SECRET not in response.text


@pytest.mark.parametrize("path", ["/../config.toml", "/%2e%2e/server.py", "/assets/../../server.py", "//etc/passwd"])
def test_the_page_s_files_are_those_of_the_page(path: str, client: TestClient) -> None:
    response = client.get(path)
    assert response.status_code == 404 and set(response.json()) == {"error"}


@pytest.mark.parametrize("file", ["config.toml", "metrics.jsonl", "report.json", "environment.json", "eval/eval.json"])
def test_a_link_out_of_the_served_folder_is_as_if_not_there(file: str, run: Path, serve: Any) -> None:
    outside = run.parents[1] / "outside"
    outside.write_text(
        json.dumps({"rows": [{"policy": SECRET}], "sessions": [{"commit": SECRET}], "iteration": 0}) + "\n"
    )
    (run / "dataset.json").write_text("{}")  # without its config.toml it still is a run
    (run / file).unlink()
    (run / file).symlink_to(outside)
    client = serve(run.parent)
    for path in ("runs", "run", "metrics", "thoughts", "evaluations"):
        response = client.get(f"/api/{path}", params={"run": "made"})
        assert response.status_code == 200 and SECRET not in response.text


@pytest.mark.parametrize("part", ["trajectories", "images", "eval"])
def test_a_folder_that_leads_out_is_not_entered(part: str, run: Path, serve: Any) -> None:
    shutil.move(run / part, run.parents[1] / "outside")
    (run / part).symlink_to(run.parents[1] / "outside")
    client = serve(run.parent)
    if part == "trajectories":
        assert total(client) == 0
    elif part == "images":
        image = client.get("/api/episodes", params={"run": "made"}).json()["rows"][0]["thumbnail"]
        assert client.get("/api/image", params={"run": "made", "hash": image}).status_code == 404
    else:
        assert client.get("/api/evaluations", params={"run": "made"}).json()["evaluations"] == []


def test_a_trajectory_file_that_leads_out_is_not_read(run: Path, serve: Any) -> None:
    file = run / "trajectories" / "rl_000000.parquet"
    shutil.move(file, run.parents[1] / "outside.parquet")
    file.symlink_to(run.parents[1] / "outside.parquet")
    assert total(serve(run.parent), stage="rl", iteration_max=0) == 0


def test_a_run_that_leads_out_is_not_served_and_one_that_leads_in_is_served_once(run: Path, serve: Any) -> None:
    outside = Path(shutil.copytree(run, run.parents[1] / "outside"))
    (run.parent / "elsewhere").symlink_to(outside)
    (run.parent / "latest").symlink_to(run)
    (run.parent / "loop").symlink_to(run.parent)
    (run.parent / "itself").symlink_to(run.parent / "itself")
    names = [entry["id"] for entry in serve(run.parent).get("/api/runs").json()["runs"]]
    assert len(names) == 1 and "elsewhere" not in names


def test_a_pipe_in_place_of_a_file_does_not_hold_the_server_up(run: Path, serve: Any) -> None:
    for file in ("metrics.jsonl", "report.json", "trajectories/rl_000000.parquet"):
        (run / file).unlink()
        os.mkfifo(run / file)
    client = serve(run.parent)
    assert client.get("/api/runs").status_code == 200
    assert total(client, stage="rl") == 45


# ----------------------------------------------------------------------------------------------- bad files


def test_half_written_and_damaged_files_are_left_out_with_a_note(run: Path, serve: Any) -> None:
    folder = run / "trajectories"
    whole = (folder / "rl_000000.parquet").read_bytes()
    (folder / "rl_000000.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "rl_000001.parquet").write_bytes(b"")
    pages = (folder / "rl_000002.parquet").read_bytes()
    (folder / "rl_000002.parquet").write_bytes(
        pages[:200] + b"\xff" * (len(pages) // 3) + pages[200 + len(pages) // 3 :]
    )
    (folder / ".rl_000009.parquet.tmp").write_bytes(b"PAR1")
    client = serve(run)
    assert total(client, stage="rl") == 15
    assert total(client, stage="eval") == 2
    told = notes(client)
    assert "rl_000000, rl_000001" in told and "rl_000002" in told and "half written or damaged" in told
    assert client.get("/api/episode", params={"run": "made", "key": "rl_000000:0"}).status_code == 404


def test_a_damaged_file_comes_back_when_it_is_whole_again(run: Path, serve: Any) -> None:
    file = run / "trajectories" / "rl_000002.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:200] + b"\xff" * (len(whole) // 3) + whole[200 + len(whole) // 3 :])
    client = serve(run)
    assert total(client, stage="rl") == 45 and notes(client)
    file.write_bytes(whole)
    os.utime(file, (1, 1))
    assert total(client, stage="rl") == 60 and not notes(client)


@pytest.mark.parametrize("version", [b"0", b"3", None])
def test_another_schema_version_is_said_and_the_rest_is_served(version: bytes | None, run: Path, serve: Any) -> None:
    file = run / "trajectories" / "rl_000001.parquet"
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata(version and {b"eyas_schema": version}), file)
    client = serve(run)
    assert total(client, stage="rl") == 45
    assert f"schema version {(version or b'none').decode()}, this viewer reads version {SCHEMA_VERSION}" in notes(
        client
    )
    assert "schema version" in " ".join(client.get("/api/run", params={"run": "made"}).json()["notes"])


def test_columns_of_other_types_are_left_out(run: Path, serve: Any) -> None:
    file = run / "trajectories" / "rl_000001.parquet"
    table = pq.read_table(file)
    index = table.schema.get_field_index("step")
    pq.write_table(table.set_column(index, "step", pa.array(["x"] * len(table))), file)
    assert total(serve(run), stage="rl") == 45


def test_a_file_name_that_could_be_a_pattern_is_left_out(run: Path, serve: Any) -> None:
    shutil.copy(run / "trajectories" / "rl_000001.parquet", run / "trajectories" / "*.parquet")
    assert total(serve(run), stage="rl") == 60


def test_a_folder_with_signs_of_patterns_and_columns_in_its_name_is_served(run: Path, serve: Any) -> None:
    odd = run.rename(run.parent / "stage=rl [x]*? '\"; #%20ü")
    client = serve(odd.parent)
    assert client.get("/api/runs").json()["runs"][0]["id"] == odd.name
    row = client.get("/api/episodes", params={"run": odd.name, "text": "row"}).json()["rows"][0]
    assert client.get("/api/episode", params={"run": odd.name, "key": row["key"]}).status_code == 200
    assert client.get("/api/image", params={"run": odd.name, "hash": row["thumbnail"]}).status_code == 200


@pytest.mark.parametrize("name", ["config.toml", "environment.json", "report.json", "eval/eval.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]", b"\xff\xfe\x00", b"[" * 100_000, b'{"rows": 3, "sessions": "x"}']
)
def test_documents_that_are_no_documents_are_no_crash(name: str, content: bytes, run: Path, serve: Any) -> None:
    (run / name).write_bytes(content)
    client = serve(run)
    for path in ("runs", "run", "thoughts", "evaluations"):
        assert client.get(f"/api/{path}", params={"run": "made"}).status_code == 200


def test_a_huge_document_is_left_out_with_a_note(run: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 100)
    (entry,) = serve(run).get("/api/runs").json()["runs"]
    assert any("config.toml is left out: it is larger" in note for note in entry["notes"])


def test_configuration_of_other_types_is_no_crash(run: Path, serve: Any) -> None:
    (run / "config.toml").write_text(
        'name = 3\ntasks = "x"\n[[stages]]\nkind = 5\nname = "../.."\niterations = "many"\nalgorithm = 2\n'
        '[[stages]]\nkind = "rl"\nalgorithm = 3\niterations = -1\n[[stages]]\nkind = "eval"\nname = "../../outside"\n'
    )
    client = serve(run)
    assert client.get("/api/runs").json()["runs"][0]["name"] == "3"
    assert client.get("/api/run", params={"run": "made"}).status_code == 200


# ----------------------------------------------------------------------------------------------- requests


def test_what_was_recorded_is_sent_as_data_that_no_browser_takes_for_a_page(run: Path, serve: Any) -> None:
    evil = "</script><img src=x onerror=alert(1)>\u2028"
    (run / "config.toml").write_text(f'name = "{evil}"\n'.replace("\u2028", "\\u2028"))
    response = serve(run).get("/api/runs")
    assert response.json()["runs"][0]["name"] == evil
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_every_answer_forbids_foreign_content_and_scripts_in_the_page(client: TestClient) -> None:
    for path in ("/", "/api/runs", "/api/run?run=no", "/nowhere"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy
        assert "unsafe" not in policy and "http" not in policy


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_reading_is_allowed(method: str, client: TestClient) -> None:
    response = client.request(method, "/api/runs")
    assert response.status_code == 405 and "GET" in response.json()["error"]


def test_a_foreign_name_that_points_here_is_refused(client: TestClient) -> None:
    for host in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", ""):
        assert client.get("/api/runs", headers={"Host": host}).status_code == 403
    for host in ("localhost:7860", "127.0.0.1", "[::1]:7860", "LOCALHOST"):
        assert client.get("/api/runs", headers={"Host": host}).status_code == 200


def test_with_a_token_nothing_is_answered_without_it(generated: Path, serve: Any) -> None:
    client = serve(generated, hosts=(), token="right")
    for path in ("/", "/api/runs", "/assets/viewer.js", "/?token=wrong", "/api/runs?token=", "/?token=right%00"):
        response = client.get(path)
        assert response.status_code == 401 and "token" in response.json()["error"]
    assert client.get("/api/runs", headers={"Cookie": f"{COOKIE}=wrong"}).status_code == 401


def test_the_token_is_given_once_and_then_stands_in_a_cookie(generated: Path, serve: Any) -> None:
    client = serve(generated, hosts=(), token="right")
    response = client.get("/?token=right")
    assert response.status_code == 303 and response.headers["location"] == "/"
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie
    assert client.get("/api/runs").status_code == 200


def test_nothing_in_a_run_is_written_or_touched(run: Path, serve: Any) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(run.rglob("*"))}

    before = state()
    for path in run.rglob("*"):
        path.chmod(path.stat().st_mode & ~stat.S_IWUSR)
    client = serve(run.parent)
    row = client.get("/api/episodes", params={"run": "made", "text": "row"}).json()["rows"][0]
    for path in ("runs", "run", "metrics", "thoughts", "evaluations"):
        client.get(f"/api/{path}", params={"run": "made"})
    client.get("/api/episode", params={"run": "made", "key": row["key"]})
    client.get("/api/image", params={"run": "made", "hash": row["thumbnail"], "size": 32})
    assert state() == before


def test_a_folder_that_does_not_exist_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        Library([tmp_path / "nowhere"])
