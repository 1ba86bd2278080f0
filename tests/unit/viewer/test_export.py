"""The file that `eyas view --export` writes: whole, small, and closed to what a run recorded."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from eyas.errors import ConfigError
from eyas.viewer import export
from eyas.viewer.answers import Answers
from eyas.viewer.export import request_key, write_export
from eyas.viewer.folders import Library
from eyas.viewer.problems import BadQuestion


class Scripts(HTMLParser):
    """The scripts of a page, and the addresses that it names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.addresses: list[str] = []
        self._is_inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_inside = tag == "script"
        if self._is_inside:
            self.found.append("")
        self.addresses += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_endtag(self, tag: str) -> None:
        self._is_inside = False

    def handle_data(self, data: str) -> None:
        if self._is_inside:
            self.found[-1] += data


def exported(path: Path) -> dict[str, Any]:
    """The answers inside, read as a browser would find them."""
    script = Scripts(path.read_text()).found[0]
    assert script.startswith("window.__EYAS_EXPORT__ = ")
    return json.loads(script.removeprefix("window.__EYAS_EXPORT__ = "))


@pytest.fixture
def answers(generated: Path) -> Any:
    answers = Answers(Library([generated]))
    yield answers
    answers.close()


def test_the_file_holds_every_answer_that_the_page_asks_for(answers: Answers, tmp_path: Path) -> None:
    assert write_export(answers, tmp_path / "run.html") == []
    data = exported(tmp_path / "run.html")
    assert data["/api/runs"] == answers.runs()
    assert data["/api/run?run=made"] == answers.details("made")
    assert data["/api/metrics?run=made"]["records"] == answers.metrics("made")["records"]
    assert data["/api/thoughts?run=made"] == answers.thoughts("made")
    assert data["/api/evaluations?run=made"] == answers.evaluations("made")
    table = data["/api/episodes?run=made"]
    assert table["total"] == len(table["rows"]) == 20
    assert table["rows"] == answers.episodes("made", {"limit": "20"})["rows"]
    for row in table["rows"]:
        key = row["key"].replace(":", "%3A")
        episode = data[f"/api/episode?key={key}&run=made"]
        assert episode == answers.episode("made", row["key"])
        shown = {p["image"] for s in episode["steps"] for m in s["messages"] for p in m["parts"] if "image" in p}
        for image_hash in shown:
            assert data[f"/api/image?hash={image_hash}&run=made"].startswith("data:image/png;base64,iVBOR")


def test_a_query_chooses_the_episodes(answers: Answers, tmp_path: Path) -> None:
    write_export(answers, tmp_path / "run.html", "stage=rl&success=true&sort=-return&limit=3")
    rows = exported(tmp_path / "run.html")["/api/episodes?run=made"]["rows"]
    assert [(row["stage"], row["success"]) for row in rows] == [("rl", True)] * 3
    with pytest.raises(BadQuestion, match="sort"):
        write_export(answers, tmp_path / "run.html", "sort=beauty")


def test_a_filter_that_does_not_exist_is_refused(answers: Answers, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--select sucess: unknown filter; did you mean 'success'"):
        write_export(answers, tmp_path / "a.html", "stage=rl&sucess=false")
    assert not (tmp_path / "a.html").exists()


def test_the_file_needs_no_other_file(answers: Answers, tmp_path: Path) -> None:
    write_export(answers, tmp_path / "run.html")
    page = Scripts((tmp_path / "run.html").read_text())
    assert [a for a in page.addresses if not a.startswith("data:")] == []
    assert len(page.found) == 2 and len(page.found[1]) > 10_000
    assert "<style>" in (tmp_path / "run.html").read_text()


def test_nothing_that_was_recorded_can_end_the_script_it_stands_in(run: Path, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><!--\\u2028"
    (run / "config.toml").write_text(f'name = "{evil}"\n')
    answers = Answers(Library([run]))
    write_export(answers, tmp_path / "run.html")
    answers.close()
    page = Scripts((tmp_path / "run.html").read_text())
    assert len(page.found) == 2
    assert (
        exported(tmp_path / "run.html")["/api/runs"]["runs"][0]["name"]
        == "</script><script>alert(1)</script><!--\u2028"
    )
    assert "alert(1)</script>" not in (tmp_path / "run.html").read_text()


def test_pictures_go_the_largest_first_where_the_file_would_be_too_large(
    answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_export(answers, tmp_path / "all.html")
    limit = (tmp_path / "all.html").stat().st_size - 20_000
    monkeypatch.setattr(export, "MAX_BYTES", limit)
    (note,) = write_export(answers, tmp_path / "some.html")
    assert (tmp_path / "some.html").stat().st_size <= limit
    every, some = exported(tmp_path / "all.html"), exported(tmp_path / "some.html")
    dropped = {key: value for key, value in every.items() if key not in some}
    assert dropped and all(key.startswith("/api/image") for key in dropped)
    kept = [value for key, value in some.items() if key.startswith("/api/image")]
    assert max(map(len, kept)) <= min(map(len, dropped.values()))
    assert some["note"] == note and re.match(rf"{len(dropped)} of {len(dropped) + len(kept)} pictures", note)


def test_what_is_too_large_without_pictures_is_said_and_not_written(
    answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MAX_BYTES", 100_000)
    with pytest.raises(ConfigError, match="--select"):
        write_export(answers, tmp_path / "run.html")
    assert not (tmp_path / "run.html").exists()


def test_several_runs_are_exported_with_their_differences(generated: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.toml").write_text('name = "b"\nseed = 5\n')
    answers = Answers(Library([generated, tmp_path / "b"]))
    write_export(answers, tmp_path / "runs.html", "limit=1")
    answers.close()
    data = exported(tmp_path / "runs.html")
    ids = [entry["id"] for entry in data["/api/runs"]["runs"]]
    assert sorted(ids) == ["b", "made"]
    key = f"/api/diff?runs={ids[0]}&runs={ids[1]}"
    assert {"key": "seed", "values": [5 if i == "b" else 0 for i in ids]} in data[key]["rows"]


def test_keys_are_written_as_a_browser_writes_them() -> None:
    key = request_key("/api/episode", {"run": "a b/c*(ü)'!~", "key": "x:1&2"})
    assert key == "/api/episode?key=x%3A1%262&run=a%20b%2Fc*(%C3%BC)'!~"
    assert request_key("/api/runs", {}) == "/api/runs"
