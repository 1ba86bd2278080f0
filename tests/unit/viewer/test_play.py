"""The routes of a play: who may post, and what becomes of a process that dies, hangs or refuses."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from eyas.errors import EyasError
from eyas.viewer import play
from eyas.viewer.guard import PLAY_HEADER
from eyas.viewer.play import PlayEnded, PlayProcess

# Answers each line with a state that says what it was told; some words make it go wrong.
FAKE = """
import json, os, sys, time
for number, line in enumerate(sys.stdin):
    told = json.loads(line)
    words = told.get("words")
    if words == "die":
        print("my last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), 9)
    if words == "hang":
        time.sleep(60)
    answer = {"error": "no such thing: type another"} if words == "refuse" else {"told": told, "number": number, "problem": None}
    print(json.dumps(answer | {"pictures": {f"hash{number}": "UE5H"}}), flush=True)
"""
OWN = {PLAY_HEADER: "1"}
ACT = {"do": "act", "step": 0, "action": 1}


def words(text: str) -> dict[str, Any]:
    return {"do": "act", "step": 0, "words": text}


@contextmanager
def started() -> Iterator[PlayProcess]:
    process = PlayProcess([sys.executable, "-c", FAKE], {"env": "Fake-v0"})
    process.start()
    try:
        yield process
    finally:
        process.close()


@pytest.fixture(scope="module")
def process() -> Iterator[PlayProcess]:
    with started() as process:
        yield process


@pytest.fixture
def client(process: PlayProcess, generated: Path, serve: Any) -> TestClient:
    return serve(generated, play=process)


# ----------------------------------------------------------------------------------------------- who may post


def test_the_page_plays(client: TestClient) -> None:
    response = client.post("/api/play/do", json=ACT, headers=OWN | {"Origin": "http://localhost"})
    assert response.status_code == 200
    assert response.json()["state"]["told"] == ACT | {"words": None}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        OWN | {"Origin": "http://evil.example"},
        OWN | {"Origin": "http://localhost:8080"},
        OWN | {"Origin": "null"},
        OWN | {"Sec-Fetch-Site": "cross-site"},
        OWN | {"Sec-Fetch-Site": "same-site"},
        OWN | {"Host": "evil.example"},
        {"Origin": "http://localhost"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["do", "start"])
def test_another_site_s_page_does_not(path: str, headers: dict[str, str], client: TestClient) -> None:
    before = client.get("/api/play").json()["state"]
    assert client.post(f"/api/play/{path}", json=ACT, headers=headers).status_code == 403
    assert client.get("/api/play").json()["state"] == before


def test_a_page_of_another_site_is_not_even_told_that_it_may_ask(client: TestClient) -> None:
    asks = {"Origin": "http://evil.example", "Access-Control-Request-Headers": PLAY_HEADER}
    response = client.options("/api/play/do", headers=asks)
    assert response.status_code == 405 and "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("path", ["/api/runs", "/api/playing", "/api/play", "/", "/api/play/../runs"])
def test_nothing_else_takes_a_post(path: str, client: TestClient) -> None:
    assert client.post(path, json=ACT, headers=OWN).status_code == 405


def test_a_server_without_a_play_takes_none(generated: Path, serve: Any) -> None:
    client = serve(generated)
    assert client.get("/api/play").json() == {"is_offered": False}
    assert client.post("/api/play/do", json=ACT, headers=OWN).status_code == 405
    assert client.get("/api/play/image", params={"hash": "hash0"}).status_code == 404


def test_with_a_token_a_stranger_does_not_play(process: PlayProcess, generated: Path, serve: Any) -> None:
    client = serve(generated, play=process, hosts=(), token="right")
    assert client.post("/api/play/do", json=ACT, headers=OWN).status_code == 401
    client.get("/?token=right")
    assert client.post("/api/play/do", json=ACT, headers=OWN).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"do": "quit"},
        {"do": "__init__"},
        {"do": "act"},
        {"do": "begin", "seed": -1},
        {"do": "begin", "seed": 2**31},
        {"do": "follow", "step": 0, "temperature": -1},
        {"do": "act", "step": 0, "words": "x" * 10_001},
    ],
    ids=lambda body: str(body)[:40],
)
def test_a_command_that_is_none_does_not_reach_the_process(body: Any, client: TestClient) -> None:
    before = client.get("/api/play").json()["state"]
    response = client.post("/api/play/do", json=body, headers=OWN)
    assert response.status_code == 400 and "error" in response.json()
    assert client.get("/api/play").json()["state"] == before


# ----------------------------------------------------------------------------------------------- the process


def test_pictures_of_the_episode_are_served_until_the_next_one_begins(client: TestClient) -> None:
    client.post("/api/play/do", json={"do": "begin"}, headers=OWN)
    first = client.get("/api/play").json()["state"]["number"]
    client.post("/api/play/do", json=ACT, headers=OWN)
    for number in (first, first + 1):
        response = client.get("/api/play/image", params={"hash": f"hash{number}"})
        assert response.content == b"PNG" and response.headers["content-type"] == "image/png"
    client.post("/api/play/do", json={"do": "begin", "seed": 3}, headers=OWN)
    assert client.get("/api/play/image", params={"hash": f"hash{first}"}).status_code == 404


def test_a_process_that_dies_is_told_with_its_last_words_and_can_be_started_again(
    generated: Path, serve: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    with started() as process:
        client = serve(generated, play=process)
        answer = client.post("/api/play/do", json=words("die"), headers=OWN).json()
        assert answer["state"] is None and "signal 9 (my last words): press Start again" in answer["problem"]
        assert client.get("/api/play").json() == {"is_offered": True, "state": None}
        again = client.post("/api/play/do", json=ACT, headers=OWN).json()
        assert again["state"] is None and "signal 9" in again["problem"]
        assert client.post("/api/play/start", headers=OWN).json()["state"]["number"] == 0
    assert "my last words" in capfd.readouterr().err


def test_a_process_that_hangs_is_replaced_while_a_command_still_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr(play, "CLOSE_TIMEOUT_S", 0.3)
    with started() as process, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(process.ask, words("hang"))
        while not process._talk.locked():
            time.sleep(0.01)
        begun = time.monotonic()
        assert process.start()["number"] == 0
        assert time.monotonic() - begun < 10
        with pytest.raises(PlayEnded):
            waiting.result(timeout=5)


def test_what_cannot_be_started_is_said_in_its_own_words() -> None:
    process = PlayProcess([sys.executable, "-c", FAKE], {"env": "Fake-v0", "words": "refuse"})
    with pytest.raises(EyasError, match="no such thing: type another"):
        process.start()
    process.close()
    process = PlayProcess([sys.executable, "-c", "import nothing_of_that_name"], {})
    with pytest.raises(PlayEnded, match=r"exit code 1 \(ModuleNotFoundError"):
        process.start()
    process.close()
