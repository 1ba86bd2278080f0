import dataclasses
import json
import subprocess
import sys
import types
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from eyas.errors import DatasetError
from eyas.evaluation import records
from eyas.evaluation.figures import panels
from eyas.evaluation.records import EvalReport, EvalRow, provenance
from eyas.evaluation.report import format_table, write_html_report
from eyas.rollouts.images import MemoryImageStore
from eyas.types import (
    Completion,
    ExecutedBy,
    FailureReason,
    ImagePart,
    Message,
    ParsedAction,
    ParseFailure,
    RewardBreakdown,
    Step,
    StopReason,
    TextPart,
    Trajectory,
)

EVIL = "<script>alert('x')</script> & costs $\\frac$ \x07 ünïcode 棋 🦅"


def _row(policy: str = "rl", decoding: str = "greedy", **changes) -> EvalRow:
    row = EvalRow(policy, decoding, 50, 30, 30, 0.9, (0.786, 0.957), 0.8, (0.67, 0.888), 0.123, (0.05, 0.2), 0.97, 0.66, 4.5,
                  {"terminated": 40, "truncated": 10})  # fmt: skip
    return dataclasses.replace(row, **changes)


def _report(*rows: EvalRow) -> EvalReport:
    return EvalReport("eyas/Toy-v0", {"size": 5}, 3, rows or (_row(),), 12.5, "abc123", True, {"python": "3.11"})


def _episode(store: MemoryImageStore, num_steps: int = 3, size: int = 24, seed: int = 0) -> Trajectory:
    rng = np.random.default_rng(seed)
    steps = []
    for index in range(num_steps):
        frame = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        message = Message("user", (TextPart("go"), ImagePart(store.put(frame))))
        parse = ParsedAction(1, f"right {EVIL}", f"thought {index} {EVIL}", {}, 3)
        by = ExecutedBy.POLICY
        if index == 1:
            parse, by = ParseFailure(FailureReason.NO_ACTION_KEY, EVIL, 3), ExecutedBy.FALLBACK
        reward = RewardBreakdown({"environment": 1.0 * index, "parse": -0.5})
        completion = Completion(f"written {index} {EVIL}")
        steps.append(Step((message,), completion, parse, 1, by, reward, action_name=f"right {EVIL}"))
    return Trajectory(0, 4, 17, steps, StopReason.TERMINATED, success=True)


# ----------------------------------------------------------------------------------------------- data


def test_report_round_trip_and_keys() -> None:
    report = _report(_row(), _row("expert", "sample", success_interval=None, recognition_accuracy=None))
    assert EvalReport.from_json(report.to_json()) == report
    plain = json.loads(report.to_json())
    assert {"env", "rows", "duration_s", "commit", "versions", "schema_version"} <= plain.keys()
    assert plain["rows"][0]["success_interval"] == [0.786, 0.957]
    assert plain["rows"][1]["success_interval"] is None
    keys = {
        "policy",
        "decoding",
        "episodes",
        "distinct_starts",
        "success_rate",
        "success_interval",
        "strict_success_rate",
    }
    assert keys | {"return_mean", "parse_rate"} <= plain["rows"][0].keys()


def test_report_json_is_strict() -> None:
    text = _report(_row(return_mean=float("nan"), episodes=np.int64(5))).to_json()
    assert json.loads(text, parse_constant=pytest.fail)["rows"][0]["return_mean"] is None


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"schema_version": 99}', '{"schema_version": 1, "rows": [{"a": 1}]}']
)
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(DatasetError, match="report"):
        EvalReport.from_json(text)


def test_create_says_where_it_comes_from() -> None:
    report = EvalReport.create("E-v0", {}, 0, (_row(),), 1.0)
    assert report.versions["numpy"] == np.__version__
    assert report.hardware["cores"] >= 1
    assert report.created.startswith("20")


# ----------------------------------------------------------------------------------------------- provenance


def test_provenance_loads_no_torch() -> None:
    code = "import sys, eyas.evaluation.records as r; r.provenance(); print('torch' in sys.modules, 'transformers' in sys.modules)"
    source = str(Path(records.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": source})
    assert done.stdout.strip() == "False False", done.stderr


def _git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_git_state(tmp_path: Path) -> None:
    package = tmp_path / "src/eyas"
    package.mkdir(parents=True)
    (package / "errors.py").write_text("")
    assert records._git_state(package) == ("unknown", None)
    _git(tmp_path, "init")
    (tmp_path / "other.txt").write_text("")
    _git(tmp_path, "add", "other.txt")
    _git(tmp_path, "commit", "-m", "x")
    assert records._git_state(package) == ("unknown", None)  # inside a checkout, but not of it
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-m", "y")
    commit, dirty = records._git_state(package)
    assert len(commit) == 40
    assert dirty is False
    (tmp_path / "notes.txt").write_text("")  # changes no result
    assert records._git_state(package) == (commit, False)
    (package / "new.py").write_text("")
    assert records._git_state(package) == (commit, True)


def test_gpus_are_named_only_where_something_could_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert provenance()["hardware"]["gpus"] == []
    cuda = types.SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 2, get_device_name=lambda index: f"GPU {index}"
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    assert provenance()["hardware"]["gpus"] == ["GPU 0", "GPU 1"]


# ----------------------------------------------------------------------------------------------- table


def _printed(report: EvalReport, width: int = 80) -> list[str]:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(format_table(report))
    return console.export_text().splitlines()


def test_table_has_both_decodings_on_one_line() -> None:
    sampled = _row("rl", "sample", success_rate=0.7, strict_success_rate=0.6, return_mean=-0.5)
    lines = _printed(_report(_row("random", parse_rate=None, recognition_accuracy=None), _row("rl"), sampled))
    (line,) = [line for line in lines if line.strip().startswith("rl")]
    assert line.split() == ["rl", "50", "90", "70", "80/60", "0.12/-0.50", "97/97", "66/66"]
    below = lines[lines.index(line) + 1]
    assert below.split() == ["79–96", "79–96"]
    (random,) = [line for line in lines if line.strip().startswith("random")]
    assert random.split() == ["random", "50", "90", "–", "80", "0.12", "–", "–"]


def test_unknown_is_never_zero() -> None:
    row = _row(success_rate=None, success_interval=None, strict_success_rate=None, return_mean=None, parse_rate=None)
    (line,) = [line for line in _printed(_report(row)) if line.strip().startswith("rl")]
    assert line.split() == ["rl", "50", "–", "–", "–", "–", "–", "66"]


# ----------------------------------------------------------------------------------------------- HTML


class _Page(HTMLParser):
    """Collects what a browser would load or run, and checks that the tags are balanced."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.open_tags, self.sources, self.tags = "", [], [], set()
        self.feed(text)
        assert self.open_tags == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "srcset")]
        if tag not in self.VOID:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _write_metrics(run_dir: Path) -> None:
    rl = [{"stage": "rl", "iteration": i, "rollout/success_rate": i / 9, "train/clip_share": None} for i in range(10)]
    sft = [{"stage": "sft<b>", "iteration": i, "train/loss": 2.0 - i, "validation/loss": 2.1 - i} for i in range(3)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in sft + rl) + '{"half')


def test_html_is_one_safe_file(tmp_path: Path) -> None:
    store = MemoryImageStore()
    _write_metrics(tmp_path)
    output = tmp_path / "report.html"
    report = _report(_row(), _row("rl", "sample"), _row(EVIL))
    write_html_report(tmp_path, report, output, [_episode(store)], store)
    text = output.read_text()
    page = _Page(text)
    assert "script" not in page.tags
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in page.sources)
    assert len([s for s in page.sources if s.startswith("data:")]) == 3
    assert "prefers-color-scheme: dark" in text
    assert page.text.count("<script>alert('x')</script>") >= 7  # shown as text: thought, text, action, policy
    for shown in (
        "79–96",
        "not parsed: no_action_key",
        "fallback",
        "+1.5",
        "abc123, with uncommitted changes",
        "size=5",
    ):
        assert shown in page.text
    assert "Curves: sft<b>" in page.text
    for panel in ("Success", "Loss"):
        assert panel in page.text
    assert "Clip share" not in page.text  # nothing was measured
    assert output.stat().st_size < 5_000_000


def test_html_shows_how_thoughts_fare_and_what_was_warned_of(tmp_path: Path) -> None:
    keys = (
        "thought_unique_share", "thought_self_bleu", "thought_action_agreement", "thought_own_prompt_share",
        "thought_mutual_information_nats", "thought_entropy_nats", "action_entropy_nats", "completion_length_tokens",
    )  # fmt: skip
    records = [{"stage": "rl", "iteration": i} | {f"rollout/{k}": i / 9 for k in keys} for i in range(10)]
    records[7]["warnings"] = ["format: <b> type `this`", "length: type `that`"]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    write_html_report(tmp_path, _report(), tmp_path / "r.html")
    text = _Page((tmp_path / "r.html").read_text()).text
    for shown in (
        "Thought diversity", "self-BLEU", "unique thoughts", "Thought, action and input", "action follows from the facts",
        "likeliest under its own prompt", "Mutual information, nats", "Completion length, tokens", "a token of thoughts",
        "an action", "Iteration 7: format: <b> type `this`", "Iteration 7: length: type `that`",
    ):  # fmt: skip
        assert shown in text
    assert text.count("Iteration ") == 2


def test_html_without_metrics_and_episodes(tmp_path: Path) -> None:
    write_html_report(tmp_path, _report(), tmp_path / "r.html")
    page = _Page((tmp_path / "r.html").read_text())
    assert "Curves" not in page.text
    assert "Episodes" not in page.text


def test_html_stays_below_5_mb(tmp_path: Path) -> None:
    """Noise does not compress: pictures are left out, and then steps, before the file grows too large."""
    store = MemoryImageStore()
    episodes = [_episode(store, 12, 250, seed) for seed in range(4)]
    write_html_report(tmp_path, _report(), tmp_path / "r.html", episodes, store)
    text = (tmp_path / "r.html").read_text()
    assert 3_000_000 < (tmp_path / "r.html").stat().st_size < 5_000_000
    assert "left out: the file is full" in text
    assert text.count("<li>") == 48
    wordy = _episode(store, 60, 8)
    for step in wordy.steps:
        step.completion = Completion("<" * 10_000)
    write_html_report(tmp_path, _report(), tmp_path / "r.html", [wordy] * 20, store)
    assert (tmp_path / "r.html").stat().st_size < 5_000_000
    assert "further steps are not shown" in (tmp_path / "r.html").read_text()


def test_html_without_a_picture_still_shows_the_step(tmp_path: Path) -> None:
    write_html_report(tmp_path, _report(), tmp_path / "r.html", [_episode(MemoryImageStore())], MemoryImageStore())
    assert _Page((tmp_path / "r.html").read_text()).text.count("no picture") == 3


@pytest.mark.parametrize(
    ("starts", "seen", "expected"),
    [
        (
            30,
            30,
            "training saw 30 of them. A task with 30 starting pictures that training saw tests fit, not generalisation",
        ),
        (500, 0, "training saw none of them"),
        (500, 20, "training saw 20 of them."),
        (30, None, "how many of them training saw is unknown"),
    ],
)
def test_statement_on_starting_states(tmp_path: Path, starts: int, seen: int | None, expected: str) -> None:
    row = _row(distinct_starts=starts, distinct_starts_seen_in_training=seen)
    write_html_report(
        tmp_path, _report(_row("random", distinct_starts_seen_in_training=None), row), tmp_path / "r.html"
    )
    text = _Page((tmp_path / "r.html").read_text()).text
    assert expected in text
    assert ("not generalisation" in text) == (seen == 30)


# ----------------------------------------------------------------------------------------------- curves


def test_a_long_curve_is_drawn_from_its_first_to_its_last_point() -> None:
    ((title, series),) = panels([{"iteration": i, "rollout/return_mean": 2.0 * i} for i in range(402)])
    x, y = series["rollout mean"]
    assert (title, len(x), x[0], x[-1], y[-1]) == ("Return", 400, 0.0, 401.0, 802.0)
