"""What a run measured: one JSON object a line in `metrics.jsonl`, and the same numbers to an optional tracker.

A record holds `stage`, `iteration`, `time_s` (Unix time) and numbers named `area/quantity_unit`.
"""

import io
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from eyas.errors import ConfigError
from eyas.evaluation.film_frame import HEIGHT, WIDTH
from eyas.evaluation.records import Record, read_metric_lines, read_metrics
from eyas.files import write_atomically

logger = logging.getLogger(__name__)

__all__ = ["MetricsWriter", "Record", "Tracker", "open_trackers", "read_metrics", "set_aside_after"]

# ----------------------------------------------------------------------------------------------- the file


class MetricsWriter:
    """Appends records to `path`, each on the disk's side before `write` returns, and passes them to the trackers."""

    def __init__(self, path: str | Path, trackers: "Sequence[Tracker]" = ()) -> None:
        self.path = Path(path)
        self._trackers = trackers
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _drop_partial_line(self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds `time_s`. NaN and infinity are written as null; NumPy scalars and one-element tensors as numbers."""
        plain = {key: _to_plain(value) for key, value in ({"time_s": round(time.time(), 3)} | dict(record)).items()}
        self._file.write(json.dumps(plain, allow_nan=False) + "\n")
        self._file.flush()
        for tracker in self._trackers:
            _log_to(tracker, plain)

    def film(self, stage: str, iteration: int, gif: bytes) -> None:
        """Passes a film to the trackers."""
        for tracker in self._trackers:
            tracker.film(stage, iteration, gif)

    def close(self) -> None:
        self._file.close()
        for tracker in self._trackers:
            tracker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def set_aside_after(path: str | Path, predicate: Callable[[Record], bool]) -> int:
    """Moves the records for which `predicate` holds to `metrics.discarded.jsonl` beside `path`; returns how many.

    A run that resumes calls it with "is beyond my checkpoint", so that no iteration stands in the file twice.
    """
    path = Path(path)
    lines = read_metric_lines(path)
    discarded = [line for line, record in lines if predicate(record)]
    if discarded:
        aside = path.with_name("metrics.discarded.jsonl")
        before = aside.read_text().splitlines() if aside.exists() else []
        # A kill between the two writes repeats the first one: a line that stands there already is not added again.
        _write_lines(aside, before + [line for line in discarded if line not in set(before)])
        _write_lines(path, [line for line, record in lines if not predicate(record)])
    return len(discarded)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    write_atomically(path, lambda file: file.write("".join(f"{line}\n" for line in lines).encode()))


def _drop_partial_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        _write_lines(path, [line for line, _ in read_metric_lines(path)])


def _to_plain(value: Any) -> Any:
    if not isinstance(value, str | int | float | None) and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# ----------------------------------------------------------------------------------------------- trackers


class Tracker(Protocol):
    """Gets every record that is written, and films of evaluations."""

    def log(self, record: Mapping[str, Any]) -> None: ...

    def film(self, stage: str, iteration: int, gif: bytes) -> None: ...

    def close(self) -> None: ...


class _TensorBoardTracker:
    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"))
        self._writer.add_text("config", f"```json\n{json.dumps(config, indent=2, default=str)}\n```")

    def log(self, record: Mapping[str, Any]) -> None:
        for name, value in _numbers(record).items():
            self._writer.add_scalar(name, value, global_step=record.get("iteration"))

    def film(self, stage: str, iteration: int, gif: bytes) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        # `add_video` asks for moviepy to make the same of it: an image whose bytes are a GIF.
        image = Summary.Image(height=HEIGHT, width=WIDTH, colorspace=3, encoded_image_string=gif)
        summary = Summary(value=[Summary.Value(tag=f"{stage}/film", image=image)])
        self._writer.file_writer.add_summary(summary, iteration)  # pyright: ignore[reportOptionalMemberAccess]

    def close(self) -> None:
        self._writer.close()


class _WandbTracker:
    """Offline unless the user's environment says otherwise (`WANDB_MODE`)."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(project="eyas", name=run_dir.name, dir=str(run_dir), config=dict(config), mode=mode)
        self._stages: set[str] = set()

    def log(self, record: Mapping[str, Any]) -> None:
        self._log(record.get("stage", "run"), record.get("iteration"), _numbers(record))

    def film(self, stage: str, iteration: int, gif: bytes) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._log(stage, iteration, {f"{stage}/film": wandb.Video(io.BytesIO(gif), format="gif")})

    def _log(self, stage: str, iteration: int | None, values: Mapping[str, Any]) -> None:
        if stage not in self._stages:  # iterations start anew in each stage, and W&B's own step may only grow
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/iteration")
            self._stages.add(stage)
        self._run.log({**values, f"{stage}/iteration": iteration})

    def close(self) -> None:
        self._run.finish()


_TRACKERS = {"tensorboard": _TensorBoardTracker, "wandb": _WandbTracker}


def open_trackers(names: Sequence[str], run_dir: str | Path, config: Mapping[str, Any]) -> list[Tracker]:
    """The named trackers. Raises `ConfigError` for an unknown name or a package that is not installed."""
    if unknown := [name for name in names if name not in _TRACKERS]:
        raise ConfigError(f"unknown tracker {unknown[0]!r}: use {' or '.join(_TRACKERS)}")
    trackers: list[Tracker] = []
    for name in names:
        try:
            trackers.append(_TRACKERS[name](Path(run_dir), config))
        except ImportError as error:
            raise ConfigError(f"the tracker {name!r} needs a package: type `pip install eyas[track]`") from error
    return trackers


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The measured numbers by stage and name: everything but the record's own fields and the nulls."""
    stage = record.get("stage", "run")
    return {f"{stage}/{k}": v for k, v in record.items() if "/" in k and isinstance(v, int | float)}


def _log_to(tracker: Tracker, record: Mapping[str, Any]) -> None:
    try:
        tracker.log(record)
    except Exception as error:  # a tracker out of reach must not cost the run: the file has the record
        logger.warning("a tracker did not take a record: %s", error)
