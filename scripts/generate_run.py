"""Writes a run of any size without training: the real recorder, metrics and report with made-up episodes in a maze.

    python scripts/generate_run.py /tmp/generated --episodes 100000 --steps 10 --iterations 400

The same arguments give the same run. One file of long conversations (`longest` steps each, every picture different) is
added, so that what a viewer finds hardest is in it too.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from eyas.evaluation.collapse import new_collapses
from eyas.evaluation.measures import rollout_metrics
from eyas.evaluation.records import EvalReport, EvalRow, provenance
from eyas.evaluation.statistics import wilson_interval
from eyas.files import write_atomically
from eyas.recipes import load_recipe, to_toml
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.recorder import TrajectoryRecorder
from eyas.seeding import Split, environment_seed, generator
from eyas.training.metrics import MetricsWriter
from eyas.types import (
    ActionScores,
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

ENV = "eyas/FrozenLake-v0"
ACTIONS = ("left", "down", "right", "up")
NAMES = {0: ACTIONS.__getitem__}
WORDS = [
    "ice",
    "hole",
    "goal",
    "edge",
    "path",
    "north",
    "south",
    "wall",
    "gap",
    "turn",
    "back",
    "near",
    "far",
    "safe",
    "risky",
    "open",
]
TEXT = (
    "Walk over the ice to the goal. Holes end the game. Answer with a thought and an action: left, down, right or up."
)
STARTED = 1_760_000_000.0  # Unix time of the first record
SECONDS_AN_ITERATION = 30.0
IMAGES = 600  # different pictures of the short episodes


class Maze:
    """Draws episodes. `tokenizer` makes the token ids of what is written."""

    def __init__(self, seed: int, tokenizer: Tokenizer) -> None:
        self.seed, self.tokenizer = seed, tokenizer
        self.images = MemoryImageStore()
        self.words = [np.array(tokenizer.encode(f'"{name}"}}').ids, np.int32) for name in ACTIONS]
        self.pool = [self.images.put(self.draw(index)) for index in range(IMAGES)]

    def draw(self, index: int, size: int = 96) -> np.ndarray:
        """A picture of an 8x8 field with an agent on it: uint8 (size, size, 3)."""
        rng = generator("picture", self.seed, index)
        field = rng.choice(np.array([[226, 240, 250], [120, 170, 210]], np.uint8), size=(8, 8), p=[0.8, 0.2])
        field[7, 7], field[tuple(rng.integers(8, size=2))] = (60, 170, 90), (200, 60, 60)
        picture = field.repeat(size // 8, axis=0).repeat(size // 8, axis=1)
        picture[0, :3, 0] = np.frombuffer(index.to_bytes(3, "big"), np.uint8)  # no two are the same
        return picture

    def episodes(self, iteration: int, first: int, count: int, steps: int, is_scored: bool) -> list[Trajectory]:
        """`count` episodes of 1 to 2 * `steps` - 1 steps, `steps` in the mean."""
        rng = generator("episodes", self.seed, iteration)
        half = rng.integers(1, 2 * steps, size=(count + 1) // 2)
        lengths = np.concatenate([half, 2 * steps - half])[:count]
        skill = 1 - 0.8 * np.exp(-iteration / 60)
        texts = self._texts(rng, int(lengths.sum()), skill)
        return [self._episode(rng, first + i, int(n), skill, texts, is_scored) for i, n in enumerate(lengths)]

    def conversations(self, count: int, length: int) -> Iterator[Trajectory]:
        """Episodes whose prompts are the whole conversation, every picture a new one."""
        rng = generator("conversations", self.seed)
        for episode in range(count):
            texts = self._texts(rng, length, 1.0)
            trajectory = self._episode(rng, 10**7 + episode, length, 1.0, texts, False)
            messages: tuple[Message, ...] = (Message("system", (TextPart(TEXT),)),)
            for index, step in enumerate(trajectory.steps):
                image = self.images.put(self.draw(10**6 + episode * length + index))
                messages = (*messages, Message("user", (ImagePart(image), TextPart(f"Step {index}."))))
                step.messages = messages
                messages = (*messages, Message("assistant", (TextPart(step.completion.text),), step.completion))
            yield trajectory

    def _texts(self, rng: np.random.Generator, count: int, skill: float) -> Iterator[tuple[str, int, np.ndarray]]:
        """(thought, action, token ids of the whole completion) of each step."""
        words = rng.choice(len(WORDS), size=(count, 6), p=_collapsing(len(WORDS), skill))
        actions = rng.integers(4, size=count)
        cells = rng.integers(8, size=(count, 2))
        thoughts = [
            f"I am at row {row} and column {column}; {' '.join(WORDS[w] for w in line)}, so I go {ACTIONS[action]}."
            for (row, column), line, action in zip(cells.tolist(), words.tolist(), actions.tolist())
        ]
        written = [_written(thought, action) for thought, action in zip(thoughts, actions.tolist())]
        ids = (np.array(e.ids, np.int32) for e in self.tokenizer.encode_batch_fast(written))
        return zip(thoughts, actions.tolist(), ids)

    def _episode(
        self,
        rng: np.random.Generator,
        episode: int,
        length: int,
        skill: float,
        texts: Iterator[tuple[str, int, np.ndarray]],
        is_scored: bool,
    ) -> Trajectory:
        is_success = bool(rng.random() < skill * 0.9)
        pictures = rng.integers(IMAGES, size=length + 1).tolist()
        broken = (rng.random(length) < 0.08 * (1 - skill) + 0.005).tolist()
        values = rng.normal(skill, 0.2, size=(length, 2)).tolist()
        steps = []
        for index in range(length):
            prompt = (Message("user", (ImagePart(self.pool[pictures[index]]), TextPart(TEXT))),)
            step = self._step(rng, prompt, *next(texts), broken[index], is_scored)
            step.value, step.advantage = values[index]
            steps.append(step)
        steps[-1].reward = RewardBreakdown({"environment": float(is_success), "recognition": 0.1}, 1.0)
        reason = StopReason.TERMINATED if is_success or rng.random() < 0.7 else StopReason.TRUNCATED
        final = None
        if reason is StopReason.TRUNCATED:
            final = (Message("user", (ImagePart(self.pool[pictures[length]]), TextPart(TEXT))),)
        return Trajectory(
            task=0,
            episode=episode,
            seed=environment_seed(self.seed, Split.TRAIN, episode),
            steps=steps,
            stop_reason=reason,
            final_messages=final,
            final_value=0.0 if final is None else 0.5,
            group=episode,
            success=is_success,
            progress=1.0 if is_success else round(float(rng.random()), 2),
        )

    def _step(
        self,
        rng: np.random.Generator,
        prompt: tuple[Message, ...],
        thought: str,
        action: int,
        ids: np.ndarray,
        is_broken: bool,
        is_scored: bool,
    ) -> Step:
        text = _written(thought, action)
        logprobs = -rng.exponential(0.3, size=len(ids)).astype(np.float32)
        facts = {"row": thought[12], "column": thought[25]}
        completion = Completion(text, ids, logprobs, policy_version=0)
        start = text.index('"action"')
        parse = ParsedAction(action, ACTIONS[action], thought, facts, start)
        reward = RewardBreakdown({"environment": 0.0, "recognition": 0.1}, 1.0)
        if is_broken:
            completion = replace(completion, text=text[:start])
            parse = ParseFailure(FailureReason.NO_ACTION_KEY, "there is no action", start)
        elif is_scored:
            odds = rng.normal(size=4)
            scores = (odds - np.log(np.exp(odds).sum())).astype(np.float32)
            completion = replace(completion, scores=ActionScores(len(ids) - 2, tuple(self.words), scores, action))
        by = ExecutedBy.FALLBACK if is_broken else ExecutedBy.POLICY
        return Step(prompt, completion, parse, action, by, reward, facts, (0, 1, 2, 3), ACTIONS[action])


def _written(thought: str, action: int) -> str:
    return json.dumps({"thoughts": thought, "action": ACTIONS[action]})


def _collapsing(count: int, skill: float) -> np.ndarray:
    """Probabilities of words, all the same at first: (count,)."""
    odds = np.exp(-skill * np.arange(count) / 2)
    return odds / odds.sum()


# ----------------------------------------------------------------------------------------------- the run's folder


def generate_run(
    folder: Path,
    episodes: int = 400,
    steps: int = 5,
    iterations: int = 8,
    longest: int = 20,
    conversations: int = 4,
    seed: int = 0,
) -> None:
    """Writes a finished run of about `episodes` * `steps` steps in stage `rl`, and its evaluation."""
    asset = Path(__file__).parents[1] / "src/eyas/models/assets/nano_tokenizer.json"
    maze = Maze(seed, Tokenizer.from_file(str(asset)))
    lengths = [f"stages.rl.iterations={iterations}", f"name={folder.name}", f"seed={seed}"]
    config = load_recipe("frozenlake_ppo", lengths)
    _write(folder / "config.toml", to_toml(config))
    _write(folder / "environment.json", json.dumps({"seed": seed, "sessions": [provenance()]}, indent=1))
    for sequence, name in enumerate(("sft", "rl", "sft_continued")):
        _write(folder / "checkpoints" / name / "tokenizer.json", asset.read_text())
        _write(folder / "checkpoints" / name / "manifest.json", json.dumps({"sequence": sequence}))
    _write(folder / "datasets" / "collect" / "dataset.json", json.dumps({"env": ENV, "episodes": 0}))
    with MetricsWriter(folder / "metrics.jsonl") as metrics, TrajectoryRecorder(folder, maze.images) as recorder:
        each = -(-episodes // iterations)
        records: list[dict[str, Any]] = []
        for iteration in range(iterations):
            played = maze.episodes(iteration, iteration * each, each, steps, is_scored=iteration % 2 == 1)
            recorder.record(f"rl_{iteration:06d}", played, NAMES, stage="rl", iteration=iteration, env_id=ENV)
            time_s = STARTED + SECONDS_AN_ITERATION * iteration
            numbers = {"time_s": time_s, "stage": "rl", "iteration": iteration, "policy_version": iteration}
            records.append(numbers | rollout_metrics(played, {0: ("row", "column")}) | _learned(seed, iteration))
            records[-1]["rollout/thought_mutual_information_nats"] = 1.8 * float(np.exp(-2 * iteration / iterations))
            found = new_collapses(records)
            metrics.write(records[-1] | ({"warnings": found} if found else {}))
        talks = list(maze.conversations(conversations, longest))
        recorder.record("eval-rl-greedy_000000", talks, NAMES, stage="eval", iteration=0, env_id=ENV)
    rows = tuple(_row(policy, played) for policy in ("random", "sft", "rl"))
    report = EvalReport.create(ENV, {}, 0, rows, 12.5).to_json()
    for path in (folder / "eval" / "eval.json", folder / "report.json"):
        _write(path, report)


def _learned(seed: int, iteration: int) -> dict[str, float]:
    noise = generator("curve", seed, iteration).normal(size=3) * 0.02
    return {
        "train/loss": float(0.8 * np.exp(-iteration / 80) + noise[0]),
        "train/kl_k3_sampling_policy": float(abs(noise[1])),
        "train/clip_share": float(0.1 + noise[2]),
        "train/updates_count": 8.0,
        "time/rollout_s": 20.0,
        "time/update_s": 8.0,
    }


def _row(policy: str, played: Sequence[Trajectory]) -> EvalRow:
    n, wins = len(played), sum(bool(t.success) for t in played)
    return EvalRow(
        policy=policy,
        decoding="greedy",
        episodes=n,
        distinct_starts=n,
        distinct_starts_seen_in_training=0,
        success_rate=wins / n,
        success_interval=wilson_interval(wins, n),
        strict_success_rate=wins / n,
        strict_success_interval=wilson_interval(wins, n),
        return_mean=wins / n,
        return_interval=None,
        parse_rate=0.99,
        recognition_accuracy=1.0,
        mean_length_steps=5.0,
        stop_reasons={"terminated": n},
    )


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=10, help="of an episode, in the mean")
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--longest", type=int, default=200, help="steps of the long conversations")
    parser.add_argument("--conversations", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    generate_run(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
