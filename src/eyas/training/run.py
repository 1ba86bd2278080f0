"""A run in progress: its parts, its folder, and where it stands."""

import json
import logging
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console

from eyas.config import RLStage, RunConfig, SFTStage
from eyas.errors import CheckpointError, ConfigError
from eyas.evaluation.records import provenance
from eyas.models.policy import Policy
from eyas.recipes import to_toml
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.recorder import TrajectoryRecorder
from eyas.rollouts.task import Task
from eyas.training.checkpoint import latest_checkpoint, save_checkpoint, validate_checkpoint
from eyas.training.metrics import MetricsWriter, open_trackers, set_aside_after

log = logging.getLogger(__name__)

TRAINER_FILE = "trainer.pt"
AGENT_FILE = "eyas_agent.json"
UNTRAINED = "untrained"


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
        checkpoints = self.folder / "checkpoints"
        has_begun = (self.folder / "config.toml").exists()
        if has_begun and not resume:
            raise ConfigError(f"{self.folder} holds a run already: add --resume, or choose another --output or name=")
        if has_begun:
            self._check_same_config()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.toml").write_text(to_toml(self.config))
        (self.folder / "environment.json").write_text(json.dumps(provenance() | {"seed": self.config.seed}, indent=2))
        latest = latest_checkpoint(checkpoints) if resume else None
        if latest:
            self._restore(latest)
        trackers = open_trackers(self.config.track, self.folder, self.config.model_dump(mode="json"))
        self._metrics = MetricsWriter(self.folder / "metrics.jsonl", trackers)
        self._recorder = TrajectoryRecorder(self.folder, self.images)
        if latest is None:
            self.save(UNTRAINED)

    def _check_same_config(self) -> None:
        before = (self.folder / "config.toml").read_text()
        if before != to_toml(self.config):
            raise ConfigError(
                f"{self.folder} was begun with another configuration: resume it with "
                f"`eyas train {self.folder / 'config.toml'} --resume`"
            )

    def _restore(self, checkpoint: Path) -> None:
        self.policy.load_weights(checkpoint)
        try:
            saved = torch.load(checkpoint / TRAINER_FILE, weights_only=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{checkpoint / TRAINER_FILE} cannot be read: {error}") from error
        self.state, self._parts = saved["state"], saved["parts"]
        self.training_starts = set(saved["training_starts"])
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
        if self._recorder:
            self._recorder.close()
        if self._metrics:
            self._metrics.close()

    # ------------------------------------------------------------------------------------- recording

    @property
    def recorder(self) -> TrajectoryRecorder:
        assert self._recorder is not None, "the run is not open"
        return self._recorder

    def log(self, stage: str, iteration: int, numbers: Mapping[str, Any]) -> None:
        assert self._metrics is not None, "the run is not open"
        record = {"stage": stage, "iteration": iteration, "policy_version": self.policy.version}
        self._metrics.write(record | dict(numbers))

    # ------------------------------------------------------------------------------------- checkpoints

    def save(self, name: str, parts: Mapping[str, Any] | None = None) -> Path:
        """A checkpoint that plain transformers can load, with all that a resumed run needs."""
        if self._recorder:
            self._recorder.flush()

        def write(folder: Path) -> None:
            self.policy.save(folder)
            trainer = {
                "state": self.state,
                "parts": dict(parts or {}),
                "training_starts": sorted(self.training_starts),
            }
            torch.save(trainer, folder / TRAINER_FILE)
            tasks = [t.model_dump(mode="json", exclude_none=True) for t in self.config.tasks]
            (folder / AGENT_FILE).write_text(json.dumps({"tasks": tasks}, indent=1))

        return save_checkpoint(self.folder / "checkpoints", name, write, keep_last=2)

    def save_iteration(self, iteration: int, parts: Mapping[str, Any]) -> None:
        """A checkpoint in the middle of a stage: `iteration` is the next one to do."""
        self.state["iteration"] = iteration
        self.save(f"iteration_{self.state['stage']:02d}{iteration:06d}", parts)

    def parts(self) -> dict[str, Any]:
        """The states of the parts of the stage that was interrupted, once."""
        parts, self._parts = self._parts, {}
        return parts

    def checkpoint(self, name: str) -> Path:
        path = self.folder / "checkpoints" / name
        validate_checkpoint(path)
        return path

    def stop_here(self) -> None:
        """Raises Interrupted where the user asked to stop. Call it right after a checkpoint."""
        if self.stop_requested:
            raise Interrupted(f"stopped and saved: go on with `eyas train {self.folder / 'config.toml'} --resume`")

    def finish_stage(self, stage: Any) -> None:
        """Keeps the weights of a stage that learned under its name, and moves on."""
        if isinstance(stage, RLStage | SFTStage):
            is_side_branch = isinstance(stage, SFTStage) and stage.is_side_branch
            stands_at = self.state["stands_at"]
            self.state |= {"stage": self.state["stage"] + 1, "iteration": 0}
            if not is_side_branch:
                self.state["stands_at"] = stage.name
            self.save(stage.name)
            if is_side_branch:
                self.policy.load_weights(self.checkpoint(stands_at))
                self.save(f"iteration_{self.state['stage']:02d}{0:06d}")
        else:
            self.state |= {"stage": self.state["stage"] + 1, "iteration": 0}
            self.save(f"iteration_{self.state['stage']:02d}{0:06d}")

    # ------------------------------------------------------------------------------------- interruption

    def on_interrupt(self) -> Callable[[], None]:
        """Lets the first Ctrl-C finish the iteration and save; a second one stops at once. Returns the undo."""

        def request(signum: int, frame: FrameType | None) -> None:
            if self.stop_requested:
                raise KeyboardInterrupt
            self.stop_requested = True
            self.console.print("stopping after this iteration; press Ctrl-C again to stop at once")

        try:
            before = signal.signal(signal.SIGINT, request)
        except ValueError:  # not in the main thread: leave the signal alone
            return lambda: None

        def undo() -> None:
            signal.signal(signal.SIGINT, before)

        return undo


def start_weights(run: Run, stage: SFTStage | RLStage) -> None:
    """Loads the weights that a stage begins with, where it does not go on from where the run stands."""
    if isinstance(stage, SFTStage) and stage.start_from is not None:
        run.policy.load_weights(run.checkpoint(stage.start_from))


def clear_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
