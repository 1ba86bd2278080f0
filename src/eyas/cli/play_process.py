"""The process that `eyas play` starts: it owns the environment and the model, and is told by lines of JSON what to do.

The first line on standard input says what is played; each other one is a command. Each is answered by one line: the state
of the play, `{"error": ...}`, or a picture. The end of the input ends the process.
"""

import base64
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

from eyas import build
from eyas.config import TaskConfig
from eyas.errors import EyasError
from eyas.evaluation.measures import rollout_metrics
from eyas.rollouts.actors import Decision, PolicyActor, Turn
from eyas.rollouts.datasets import write_dataset_info
from eyas.rollouts.encoding import encode_action, encode_trajectory, image_hashes
from eyas.rollouts.images import MemoryImageStore, image_to_png
from eyas.rollouts.playing import Playing
from eyas.rollouts.recorder import TrajectoryRecorder
from eyas.rollouts.tables import rows_to_table
from eyas.rollouts.task import Task
from eyas.types import ImagePart, Message, RewardBreakdown, Step, StopReason, Trajectory
from eyas.viewer.episode import describe_step

MOST_SHOWN = 200  # steps of an episode that the page lists
LAST_WORDS_S = 5.0  # for saving, once the one who asked is gone


class Demonstrations:
    """The folder that gets the episodes in which the person acted; made when there is one."""

    def __init__(self, folder: Path, task: Task, images: MemoryImageStore, about: Mapping[str, Any]):
        self.folder, self.task, self.images, self.about = folder, task, images, about
        self.kept: list[Trajectory] = []
        self._recorder: TrajectoryRecorder | None = None

    def keep(self, trajectory: Trajectory) -> None:
        self._recorder = self._recorder or TrajectoryRecorder(self.folder, self.images)
        name = f"episode_{len(self.kept):06d}"
        name_of = {self.task.index: self.task.interface.name_of}
        self._recorder.record(name, [trajectory], name_of, stage="play", iteration=0, env_id=self.task.env_id)
        self._recorder.flush()
        self.kept.append(trajectory)
        numbers = rollout_metrics(self.kept, {self.task.index: self.task.interface.format.fact_keys})
        counts = {"episodes": len(self.kept), "steps": self.num_steps}
        results = {f: numbers[f"rollout/{f}"] for f in ("success_rate", "return_mean")}
        write_dataset_info(self.folder, {**self.about, "policy": "human", **counts, **results})

    @property
    def num_steps(self) -> int:
        return sum(len(t.steps) for t in self.kept)

    def close(self) -> None:
        if self._recorder:
            self._recorder.close()


class Table:
    """A play with what surrounds it: what the page is told, and what is kept on disk."""

    def __init__(self, setup: Mapping[str, Any]):
        env, checkpoint, actor, tokenizer = setup["env"], setup["checkpoint"], None, None
        if checkpoint is None:
            images, task = MemoryImageStore(), build.build_task(TaskConfig(env=env, env_args=setup["env_args"]))
        else:
            agent = build.Agent.from_pretrained(checkpoint)
            images, task = agent.images, agent.task(env, **setup["env_args"])
            actor = PolicyActor(agent.policy)
            tokenizer = getattr(agent.policy.model.tokenizer, "backend_tokenizer", None)
        self.setup, self.images, self.task, self.tokenizer = setup, images, task, tokenizer
        about = {key: setup[key] for key in ("env", "env_args", "checkpoint", "seed")}
        self.demonstrations = Demonstrations(Path(setup["output"]), task, images, about)
        self.playing = Playing(task, images, actor, setup["seed"], self.demonstrations.keep)
        self._shown: set[str] = set()  # pictures of this episode that were sent

    def begin(self, seed: int | None = None) -> None:
        self.playing.leave()
        self.images.clear()
        self._shown.clear()
        self.playing.begin(seed)

    def act(self, step: int, action: int | None = None, words: str | None = None) -> None:
        self._check_step(step)
        legal = self.playing.turn.legal_actions
        if words is not None:
            self.playing.act(self.playing.read(words))
        elif action is not None and legal is not None and action < len(legal):
            self.playing.act(legal[action])
        else:
            raise EyasError("this is none of the actions: choose one that is shown")

    def follow(self, step: int, temperature: float) -> None:
        self._check_step(step)
        self.playing.follow(temperature)

    def suggest(self, step: int, temperature: float) -> None:
        self._check_step(step)
        self.playing.suggest(temperature)

    def _check_step(self, step: int) -> None:
        running = self.playing.running
        if running is None or step != len(running.actions):
            raise EyasError("the play has moved on meanwhile: look again, then choose")

    # ------------------------------------------------------------------------------------- what the page is told

    def state(self) -> dict[str, Any]:
        playing, interface = self.playing, self.task.interface
        running, record = playing.running, playing.record
        steps = record.steps if record else running.steps if running else []
        legal = running.told.legal_actions if running and not record else None
        kept = {"episodes": len(self.demonstrations.kept), "steps": self.demonstrations.num_steps}
        return {
            **{key: self.setup[key] for key in ("env", "checkpoint", "output")},
            "kept": kept,
            "episode": playing.episode,
            "seed": running.seed if running else None,
            "step": len(steps),
            "return": sum(step.reward.terms.get("environment", 0.0) for step in steps),
            "prompt": [_message(m) for m in running.messages] if running else [],
            "pictures": self._new_pictures(running.messages) if running else {},
            "actions": None if legal is None else [interface.name_of(a) for a in legal],
            "has_words": legal is None or interface.codec.actions is None,
            "described": interface.codec.describe(),
            "suggestion": _described(playing.turn, playing.suggestion, self.tokenizer) if playing.suggestion else None,
            "played": [_played(i, s) for i, s in enumerate(steps)][-MOST_SHOWN:],
            "end": {"reason": record.stop_reason.value, "success": record.success, "progress": record.progress}
            if record
            else None,
        }

    def _new_pictures(self, messages: tuple[Message, ...]) -> dict[str, str]:
        """PNG in base64 by hash, each once an episode."""
        new = [h for h in dict.fromkeys(image_hashes(messages)) if h not in self._shown]
        self._shown.update(new)
        return {h: base64.b64encode(image_to_png(self.images.get(h))).decode() for h in new}


def _message(message: Message) -> dict[str, Any]:
    parts = [{"image": p.image_hash} if isinstance(p, ImagePart) else {"text": p.text} for p in message.parts]
    return {"role": message.role, "parts": parts}


def _played(index: int, step: Step) -> dict[str, Any]:
    by, name = step.executed_by.value, step.action_name
    return {"step": index, "name": name, "by": by, "reward": step.reward.total}


def _described(turn: Turn, decision: Decision, tokenizer: Any) -> dict[str, Any]:
    """A decision as the viewer describes a recorded step."""
    parse, by = decision.parse, decision.executed_by
    legal = tuple(turn.legal_actions) if turn.legal_actions else None
    step = Step((), decision.completion, parse, None, by, RewardBreakdown({}), legal_actions=legal)
    trajectory = Trajectory(task=0, episode=0, seed=0, steps=[step], stop_reason=StopReason.CUT)
    (row,) = rows_to_table(encode_trajectory(trajectory)).to_pylist()
    names = {json.dumps(encode_action(a)): turn.interface.name_of(a) for a in legal or ()}
    return describe_step(row, names, tokenizer)


# ----------------------------------------------------------------------------------------------- the pipe

_OWN = ("begin", "act", "follow", "suggest")


def answers(lines: Iterator[str], open_table: Callable[[Mapping[str, Any]], Table] = Table) -> Iterator[dict[str, Any]]:
    """What is answered to each line."""
    try:
        table = open_table(json.loads(next(lines)))
        table.begin()
    except EyasError as error:
        yield {"error": str(error)}
        return
    try:
        yield table.state()
        for line in lines:
            command = json.loads(line)
            name = command.pop("do")
            problem = None
            try:
                if name in _OWN:
                    getattr(table, name)(**command)
            except EyasError as error:
                problem = str(error)
            yield table.state() | {"problem": problem}
    finally:
        table.playing.close()
        table.demonstrations.close()


def _lines(source: TextIO) -> Iterator[str]:
    """The lines of the input. A thread reads them: it ends a process that goes on long after its server is gone."""
    lines: SimpleQueue[str | None] = SimpleQueue()

    def read() -> None:
        for line in source:
            lines.put(line)
        lines.put(None)
        threading.Event().wait(LAST_WORDS_S)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    while (line := lines.get()) is not None:
        yield line


def main() -> None:
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what an environment prints is no answer
    for answer in answers(_lines(sys.stdin)):
        print(json.dumps(answer), file=pipe)


if __name__ == "__main__":
    main()
