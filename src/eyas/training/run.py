"""A run in progress: its parts, its folder, and where it stands."""

import json
import logging
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType
from typing import Any

import torch
from rich.console import Console

from eyas.config import ITERATION, UNTRAINED, RLStage, RunConfig, SFTStage
from eyas.errors import CheckpointError, ConfigError
from eyas.evaluation.records import provenance, read_metrics
from eyas.files import write_atomically
from eyas.models.policy import Policy
from eyas.recipes import to_toml
from eyas.rewards.judge import JudgeReward
from eyas.rewards.registry import judges
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.recorder import TrajectoryRecorder
from eyas.rollouts.task import Task
from eyas.training.checkpoint import latest_checkpoint, save_checkpoint, validate_checkpoint
from eyas.training.metrics import MetricsWriter, open_trackers, set_aside_after

log = logging.getLogger(__name__)

TRAINER_FILE = "trainer.pt"
AGENT_FILE = "eyas_agent.json"
KEPT_ITERATIONS = 2  # checkpoints in the middle of stages; those of finished stages all stay


class Interrupted(KeyboardInterrupt):
    """The user asked to stop; everything up to here is saved."""


@dataclass
class Run:
    """Everything the stages share. `state` is what a checkpoint keeps besides weights."""

    config: RunConfig
    folder: Path
    policy: Policy
    tasks: list[Task]
    images: MemoryImageStore
    console: Console
    state: dict[str, Any] = field(default_factory=lambda: {"stage": 0, "iteration": 0, "stands_at": UNTRAINED})
    training_starts: set[str] = field(default_factory=set)
    stop_requested: bool = False
    _parts: dict[str, Any] = field(default_factory=dict)  # states of the parts of the stage that was interrupted
    _recorder: TrajectoryRecorder | None = None
    _metrics: MetricsWriter | None = None

    # ------------------------------------------------------------------------------------- opening

    def open(self, resume: bool) -> None:
        """Prepares the folder; a resumed run goes back to its last good checkpoint."""
        has_begun = (self.folder / "config.toml").exists()
        if has_begun and not resume:
            raise ConfigError(f"{self.folder} holds a run already: add --resume, or choose another --output or name=")
        if resume and not has_begun:
            raise ConfigError(
                f"there is no run at {self.folder} to resume: leave --resume out, or mend --output or name="
            )
        if has_begun:
            self._check_same_config()
        self.folder.mkdir(parents=True, exist_ok=True)
        latest = latest_checkpoint(self.folder / "checkpoints") if has_begun else None
        if latest:
            self._restore(latest)
        elif has_begun and read_metrics(self.folder / "metrics.jsonl"):
            raise CheckpointError(f"no checkpoint of {self.folder} is whole: begin again under another name=")
        trackers = open_trackers(self.config.track, self.folder, self.config.model_dump(mode="json", by_alias=True))
        self._metrics = MetricsWriter(self.folder / "metrics.jsonl", trackers)
        self._recorder = TrajectoryRecorder(self.folder, self.images)
        self._write_provenance()
        if not has_begun:
            text = to_toml(self.config).encode()
            write_atomically(self.folder / "config.toml", lambda file: file.write(text))
        if latest is None:
            self.save(UNTRAINED)

    def _write_provenance(self) -> None:
        """Adds this process to `environment.json`: a resumed run may go on elsewhere, or with other code."""
        path = self.folder / "environment.json"
        try:
            sessions = json.loads(path.read_bytes())["sessions"] if path.exists() else []
        except (ValueError, KeyError):
            sessions = []
        text = json.dumps({"seed": self.config.seed, "sessions": [*sessions, provenance()]}, indent=1).encode()
        write_atomically(path, lambda file: file.write(text))

    def _check_same_config(self) -> None:
        if (self.folder / "config.toml").read_bytes() != to_toml(self.config).encode():
            raise ConfigError(
                f"{self.folder} was begun with another configuration: resume it with "
                f"`eyas train {self.folder / 'config.toml'} --resume`"
            )

    def _restore(self, checkpoint: Path) -> None:
        self.policy.load_weights(checkpoint)
        try:
            saved = torch.load(checkpoint / TRAINER_FILE, weights_only=True)
            self.state, self._parts = saved["state"], saved["parts"]
            for name, judge in self.judges.items():
                judge.load_state_dict(saved["judges"][name])
            self.training_starts = set(json.loads((checkpoint / AGENT_FILE).read_text())["training_starts"])
        except (OSError, RuntimeError, ValueError, KeyError, UnpicklingError) as error:
            raise CheckpointError(f"{checkpoint} cannot be read: {error}") from error
        if self.state["iteration"] == 0:  # between stages: the checkpoint may be a side branch's
            self.policy.load_weights(self.checkpoint(self.state["stands_at"]))
        self.console.print(f"resuming from {checkpoint}", highlight=False)
        self._set_aside()

    def _set_aside(self) -> None:
        """Moves what was recorded after the checkpoint out of the way; nothing is ever recorded twice."""
        order = {stage.name: i for i, stage in enumerate(self.config.stages)}
        here = (self.state["stage"], self.state["iteration"])

        def is_beyond(stage: str, iteration: int) -> bool:
            return (order.get(stage, -1), iteration) >= here

        set_aside_after(self.folder / "metrics.jsonl", lambda r: is_beyond(r["stage"], r["iteration"]))
        for file in sorted((self.folder / "trajectories").glob("*.parquet")):
            stage, _, number = file.stem.rpartition("_")
            if number.isdigit() and is_beyond(stage, int(number)):
                (self.folder / "discarded").mkdir(exist_ok=True)
                file.replace(self.folder / "discarded" / file.name)

    def close(self) -> None:
        with ExitStack() as stack:  # each is closed, whatever the other raises
            if self._metrics:
                stack.callback(self._metrics.close)
            if self._recorder:
                stack.callback(self._recorder.close)

    # ------------------------------------------------------------------------------------- recording

    @property
    def judges(self) -> dict[str, JudgeReward]:
        return judges((task.index, reward) for task in self.tasks for reward, _ in task.rewards)

    @property
    def recorder(self) -> TrajectoryRecorder:
        assert self._recorder is not None, "the run is not open"
        return self._recorder

    def log(self, stage: str, iteration: int, numbers: Mapping[str, Any]) -> None:
        assert self._metrics is not None, "the run is not open"
        record = {"stage": stage, "iteration": iteration, "policy_version": self.policy.version}
        self._metrics.write(record | dict(numbers))

    def show_film(self, stage: str, iteration: int, gif: bytes) -> None:
        assert self._metrics is not None, "the run is not open"
        self._metrics.film(stage, iteration, gif)

    # ------------------------------------------------------------------------------------- checkpoints

    def save(self, name: str, parts: Mapping[str, Any] | None = None) -> Path:
        """A checkpoint that plain transformers can load, with all that a resumed run needs."""
        if self._recorder:
            self._recorder.flush()

        def write(folder: Path) -> None:
            self.policy.save(folder)
            of_judges = {name: judge.state_dict() for name, judge in self.judges.items()}
            saved = {"state": self.state, "parts": dict(parts or {}), "judges": of_judges}
            torch.save(saved, folder / TRAINER_FILE)
            tasks = [t.model_dump(mode="json", exclude_none=True, by_alias=True) for t in self.config.tasks]
            agent = {"tasks": tasks, "training_starts": sorted(self.training_starts)}
            (folder / AGENT_FILE).write_text(json.dumps(agent, indent=1))

        keep_last = KEPT_ITERATIONS if name.startswith(ITERATION) else None
        return save_checkpoint(self.folder / "checkpoints", name, write, keep_last)

    def save_iteration(self, iteration: int, parts: Mapping[str, Any]) -> None:
        """A checkpoint in the middle of a stage: `iteration` is the next one to do."""
        self.state["iteration"] = iteration
        self.save(f"{ITERATION}{self.state['stage']:02d}{iteration:06d}", parts)

    def take_parts(self) -> dict[str, Any]:
        """The states of the parts of the stage that was interrupted, once."""
        parts, self._parts = self._parts, {}
        return parts

    def checkpoint(self, name: str) -> Path:
        path = self.folder / "checkpoints" / name
        validate_checkpoint(path)
        return path

    def stop_here(self) -> None:
        """Raises Interrupted where the user asked to stop before the end. Call it right after a checkpoint."""
        if self.stop_requested and self.state["stage"] < len(self.config.stages):
            message = f"stopped and saved: go on with `eyas train {self.folder / 'config.toml'} --resume`"
            self.console.print(message, highlight=False, soft_wrap=True)
            raise Interrupted(message)

    def finish_stage(self, stage: Any) -> None:
        """Keeps the weights of a stage that learned under its name, and moves on: from a side branch to where it left."""
        self.state["stage"] += 1
        if not isinstance(stage, RLStage | SFTStage):
            self.save_iteration(0, {})
            return
        self.state["iteration"] = 0
        is_side_branch = isinstance(stage, SFTStage) and stage.is_side_branch
        if not is_side_branch:
            self.state["stands_at"] = stage.name
        self.save(stage.name)
        if is_side_branch:
            self.policy.load_weights(self.checkpoint(self.state["stands_at"]))

    # ------------------------------------------------------------------------------------- interruption

    def on_interrupt(self) -> Callable[[], None]:
        """Lets the first Ctrl-C finish the iteration and save; a second one stops at once. Returns the undo."""

        def request(signum: int, frame: FrameType | None) -> None:
            if self.stop_requested:
                raise KeyboardInterrupt
            self.stop_requested = True
            self.console.print("stopping at the next checkpoint; press Ctrl-C again to stop at once")

        try:
            before = signal.signal(signal.SIGINT, request)
        except ValueError:  # not in the main thread: leave the signal alone
            return lambda: None

        def undo() -> None:
            signal.signal(signal.SIGINT, before)

        return undo


def clear_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
