"""How far a run is: read off its metrics, checkpoints and reports, without asking the process that trains."""

import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from eyas.viewer.documents import number, tables
from eyas.viewer.folders import File, RunFolder

WEIGHTS = {"collect": 1.0, "sft": 2.0, "rl": 6.0, "eval": 2.0}  # share of a run's progress, by kind of stage
SILENCE_S = 300.0  # a run that wrote nothing for so long is taken for stopped ...
SILENT_ITERATIONS = 10  # ... and for so many of its own iterations
MAX_LINE_BYTES = 2**20
RECENT = 20  # records that tell the pace
_HEADLINES = ("rollout/strict_success_rate", "rollout/return_mean")

# ----------------------------------------------------------------------------------------------- metrics, followed


@dataclass
class StageRecords:
    count: int = 0
    last_iteration: int = -1
    times: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT + 1))

    @property
    def pace_s(self) -> float | None:
        """Seconds an iteration took lately."""
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1) if len(self.times) > 1 else None


class MetricsSummary:
    """What a growing metrics.jsonl says in short: only what was added is read again."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self.offset = 0
        self.stages: dict[str, StageRecords] = {}
        self.first_s: float | None = None
        self.last_s: float | None = None
        self.last_stage: str | None = None
        self.headline: dict[str, float] = {}

    def update(self) -> None:
        with self._lock:
            while True:
                records, offset, is_reset = read_records(self._run, self.offset)
                if is_reset:
                    self._forget()
                for record in records:
                    self._add(record)
                if offset == self.offset:
                    return
                self.offset = offset

    def _add(self, record: dict[str, Any]) -> None:
        stage, time_s, iteration = str(record.get("stage")), number(record.get("time_s")), record.get("iteration")
        of_stage = self.stages.setdefault(stage, StageRecords())
        of_stage.count += 1
        of_stage.last_iteration = max(of_stage.last_iteration, iteration if isinstance(iteration, int) else -1)
        if time_s is not None:
            of_stage.times.append(time_s)
            self.first_s = time_s if self.first_s is None else self.first_s
            self.last_s = time_s
        self.last_stage = stage
        for key in _HEADLINES:
            if (value := number(record.get(key))) is not None:
                self.headline[key] = value


def read_records(run: RunFolder, offset: int, max_bytes: int = 8 * 2**20) -> tuple[list[dict[str, Any]], int, bool]:
    """The whole records of metrics.jsonl after a place in the file; the place after them; whether it began anew.

    It begins anew where the file was rewritten, so that a line no longer begins at that place. Lines that are no JSON
    objects are left out, and a last one that is only half written waits for the next call.
    """
    file = run.file("metrics.jsonl")
    if file is None:
        return [], 0, offset > 0
    with file.path.open("rb") as stream:
        is_reset = offset > 0 and not _begins_line(stream, offset, file)
        offset = 0 if is_reset else offset
        stream.seek(offset)
        block = stream.read(max_bytes)
    end = block.rfind(b"\n") + 1
    if not end and len(block) == max_bytes:  # a single line larger than any record
        end = len(block)
    records = [record for line in block[:end].split(b"\n") if (record := _to_record(line)) is not None]
    return records, offset + end, is_reset


def _begins_line(stream: Any, offset: int, file: File) -> bool:
    if offset > file.size:
        return False
    stream.seek(offset - 1)
    return stream.read(1) == b"\n"


def _to_record(line: bytes) -> dict[str, Any] | None:
    if not line.strip() or len(line) > MAX_LINE_BYTES:
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


# ----------------------------------------------------------------------------------------------- stages


def stage_progress(run: RunFolder, config: dict[str, Any], summary: MetricsSummary) -> list[dict[str, Any]]:
    """Of each stage its name and kind, `iterations` (None where only its end tells) and how many are `done`."""
    stages = []
    for stage in tables(config, "stages"):
        name, kind = str(stage.get("name")), str(stage.get("kind"))
        records = summary.stages.get(name, StageRecords())
        planned = {"rl": stage.get("iterations"), "sft": stage.get("steps")}.get(kind, 1)
        planned = planned if isinstance(planned, int) else None
        done = min(records.last_iteration + 1, planned or 10**12)
        if _is_finished(run, name, kind):
            planned = planned or max(done, 1)
            done = planned
        stages.append({"name": name, "kind": kind, "iterations": planned, "done": done})
    return stages


def _is_finished(run: RunFolder, name: str, kind: str) -> bool:
    if not name or "/" in name or name.startswith("."):
        return False
    if kind == "collect":
        return run.file("datasets", name, "dataset.json") is not None
    if kind == "eval":
        return run.file("eval", f"{name}.json") is not None
    return name in run.folders("checkpoints")


def overall(run: RunFolder, stages: list[dict[str, Any]], summary: MetricsSummary) -> dict[str, Any]:
    """`state`, `stage`, `progress`, `seconds_left` (of the current stage), `started` and `updated` (Unix times)."""
    left = [stage for stage in stages if stage["iterations"] is None or stage["done"] < stage["iterations"]]
    current = left[0] if left else None
    pace = summary.stages.get(current["name"], StageRecords()).pace_s if current else None
    changed = _changed(run)
    updated = max([summary.last_s or 0.0, *changed])
    is_silent = time.time() - updated > max(SILENCE_S, SILENT_ITERATIONS * (pace or 0.0))
    has_seconds_left = current is not None and pace is not None and current["iterations"] is not None
    return {
        "state": "finished" if current is None else "stopped" if is_silent else "running",
        "stage": current["name"] if current else stages[-1]["name"] if stages else summary.last_stage,
        "progress": _progress(stages),
        "seconds_left": pace * (current["iterations"] - current["done"]) if has_seconds_left else None,  # pyright: ignore
        "started": summary.first_s if summary.first_s is not None else min(changed, default=0.0),
        "updated": updated,
    }


def _progress(stages: list[dict[str, Any]]) -> float:
    """Share of the stages that is done, each weighted by its kind; 1 only where all of them are."""
    total = sum(WEIGHTS.get(stage["kind"], 1.0) for stage in stages)
    done = sum(
        WEIGHTS.get(stage["kind"], 1.0) * (stage["done"] / stage["iterations"] if stage["iterations"] else 0.0)
        for stage in stages
    )
    return done / total if total else 1.0


def _changed(run: RunFolder) -> list[float]:
    """When something was last written, by the clock of the disk."""
    names = ("config.toml", "metrics.jsonl", "report.json", "dataset.json")
    times = [file.changed_ns / 1e9 for name in names if (file := run.file(name)) is not None]
    for folder in ("trajectories", "checkpoints", "images", "eval", "datasets"):
        try:
            times.append((run.path / folder).lstat().st_mtime)
        except OSError:
            continue
    return times
