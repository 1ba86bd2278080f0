"""What a run found, as data: evaluation rows and the report around them, metric records, and where numbers come from."""

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from eyas.errors import DatasetError
from eyas.evaluation.statistics import Interval

Record = dict[str, Any]

SCHEMA_VERSION = 1
_PACKAGES = ("torch", "transformers", "gymnasium", "numpy", "eyas")


@dataclass(frozen=True)
class EvalRow:
    """One policy under one decoding. None means unknown: the task does not define it, or there is too little data."""

    policy: str  # random, constant, expert, untrained, sft, sft_continued, rl
    decoding: str  # greedy or sample (temperature 1)
    episodes: int
    distinct_starts: int  # different first observations among them
    distinct_starts_seen_in_training: int | None
    success_rate: float | None
    success_interval: Interval | None  # Wilson
    strict_success_rate: float | None  # success without any fallback action
    strict_success_interval: Interval | None
    return_mean: float | None
    return_interval: Interval | None  # bootstrap
    parse_rate: float | None  # share of completions with a legal action; None where nothing was parsed
    recognition_accuracy: float | None  # share of the graded facts that were written down right
    mean_length_steps: float | None
    stop_reasons: Mapping[str, int] = field(default_factory=dict)  # number of episodes


@dataclass(frozen=True)
class EvalReport:
    """Rows on one environment, with what is needed to get them again."""

    env: str
    env_args: Mapping[str, Any]
    seed: int
    rows: tuple[EvalRow, ...]
    duration_s: float
    commit: str = "unknown"
    dirty: bool | None = None  # None where the commit is unknown
    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def create(
        cls, env: str, env_args: Mapping[str, Any], seed: int, rows: tuple[EvalRow, ...], duration_s: float
    ) -> Self:
        """A report of now, of this machine and of this commit."""
        return cls(env, env_args, seed, tuple(rows), duration_s, **provenance())

    def to_json(self) -> str:
        return json.dumps(_to_plain(asdict(self)), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The inverse of `to_json`. Raises `DatasetError` for anything else."""
        try:
            data = json.loads(text)
            if data["schema_version"] != SCHEMA_VERSION:
                raise DatasetError(
                    f"the report has schema version {data['schema_version']}, this Eyas reads version {SCHEMA_VERSION}: "
                    "evaluate again"
                )
            rows: list[Record] = [
                {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()} for row in data["rows"]
            ]
            data["rows"] = tuple(EvalRow(**row) for row in rows)
            return cls(**{f.name: data[f.name] for f in fields(cls)})
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"this is no evaluation report ({type(error).__name__}: {error}): evaluate again"
            ) from error


def _to_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(v) for v in value]
    if not isinstance(value, str | int | float | None):
        value = value.item() if hasattr(value, "item") else str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ----------------------------------------------------------------------------------------------- metric records


def read_metrics(path: str | Path) -> list[Record]:
    """The records of a `metrics.jsonl`, in order; none where it does not exist. A half-written last line is left out."""
    return [record for _, record in read_metric_lines(path)]


def read_metric_lines(path: str | Path) -> list[tuple[str, Record]]:
    """Each record with the line it was read from."""
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line) if line.strip() else None
        except ValueError as error:
            if number == len(lines):  # cut short by a kill: a whole line ends with a newline
                break
            raise DatasetError(f"line {number} of {path} is no JSON ({error}): delete that line") from error
        if record is not None:
            records.append((line, record))
    return records


# ----------------------------------------------------------------------------------------------- provenance


def provenance() -> dict[str, Any]:
    """`commit`, `dirty`, `versions` and `hardware` of this process. Imports nothing to find out."""
    commit, dirty = _git_state(Path(__file__).resolve().parents[1])
    versions = {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}
    return {"commit": commit, "dirty": dirty, "versions": versions, "hardware": _hardware()}


def _git_state(package: Path) -> tuple[str, bool | None]:
    """The commit of the package's sources and whether they differ from it.

    Unknown where they are not tracked: a package installed inside another project's checkout is not of its commit.
    """
    commit = _git(package, "rev-parse", "HEAD")
    if not commit or _git(package, "ls-files", "--error-unmatch", "errors.py") is None:
        return "unknown", None
    status = _git(package, "status", "--porcelain", "--", ".")
    return commit, None if status is None else bool(status)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _hardware() -> dict[str, Any]:
    return {"cpu": _cpu_model(), "cores": _cores(), "memory_gib": _memory_gib(), "gpus": _gpus()}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int | None:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _gpus() -> list[str]:
    torch = sys.modules.get("torch")  # where nothing loaded it, nothing ran on a GPU
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
