"""A definition, records as runs would leave them, and a stand-in for `eyas train` that takes no time."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from eyas.evaluation.records import EvalReport, EvalRow
from eyas.reproductions import Definition
from eyas.reproductions.results import Record

ROW = EvalRow(
    policy="rl",
    decoding="sample",
    episodes=200,
    distinct_starts=30,
    distinct_starts_seen_in_training=0,
    success_rate=0.5,
    success_interval=(0.43, 0.57),
    strict_success_rate=0.5,
    strict_success_interval=(0.43, 0.57),
    return_mean=1.25,
    return_interval=(1.0, 1.5),
    parse_rate=1.0,
    recognition_accuracy=0.9,
    mean_length_steps=2.0,
)

DEFINITION = """
title = "Does it learn?"
claim = "RL beats its start."
budget_core_hours = 0.5
paper = ["model.name=some/model", "model.train=lora"]

[[arms]]
name = "plain"
recipe = "numberline_ppo"

[[arms]]
name = "other"
recipe = "numberline_ppo"
set = ["stages.rl.algorithm.thought_weight=0.5"]

[[measures]]
name = "sft"
row = "sft"

[[measures]]
name = "rl"
row = "rl"

[[measures]]
name = "unique"
metric = "rollout/thought_unique_share"
iterations = 2

[[statements]]
text = "RL beats its start"
greater = ["plain", "rl"]
lesser = ["plain", "sft"]

[[statements]]
text = "The other ends above"
greater = ["other", "rl"]
lesser = ["plain", "rl"]

[[panels]]
title = "Success"
measures = ["sft", "rl"]

[[panels]]
title = "Unique thoughts"
metric = "rollout/thought_unique_share"

[[panels]]
title = "Against compute"
evals = ["eval"]
"""

# Writes what a run leaves; an arm named `broken` fails, one named `slow` waits for an interruption at its first attempt.
FAKE_TRAIN = """
import json, signal, sys, time, tomllib
from pathlib import Path
path = Path(sys.argv[1])
config = tomllib.loads(path.read_text())
folder = Path(config["output"]) / config["name"]
is_first = not folder.exists()
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.toml").write_bytes(path.read_bytes())
with (folder / "calls").open("a") as file:
    file.write("resumed " if "--resume" in sys.argv else "begun ")
if "-broken-" in config["name"]:
    sys.exit("error: the engine stalled")
if "-slow-" in config["name"] and is_first:
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    (folder / "waits").touch()
    time.sleep(60)
report = json.loads(Path(__file__).with_name("report.json").read_text())
for row in report["rows"]:
    row["strict_success_rate"] += 0.01 * config["seed"]
(folder / "eval").mkdir(exist_ok=True)
for stage in config["stages"]:
    if stage["kind"] == "eval":
        (folder / "eval" / (stage["name"] + ".json")).write_text(json.dumps(report))
records = [{"stage": "rl", "iteration": i, "rollout/thought_unique_share": 1 - i / 10} for i in range(4)]
(folder / "metrics.jsonl").write_text("".join(json.dumps(r) + chr(10) for r in records))
"""


def report(*rows: EvalRow) -> EvalReport:
    return EvalReport("eyas/NumberLine-v0", {}, 0, rows, 1.0, "c" * 40, False, {}, {"cpu": "a CPU", "cores": 2})


def row(policy: str, rate: float, **changes: Any) -> EvalRow:
    return replace(ROW, policy=policy, strict_success_rate=rate, **changes)


def record(arm: str, seed: int, sft: float, rl: float, **changes: Any) -> Record:
    """A run with two rows, two known curves and a minute of work."""
    evaluations = {"eval": report(row("sft", sft), row("rl", rl))}
    curves = {"rl rollout/thought_unique_share": [(0, 1.0), (1, 0.8), (2, 0.4)]}
    return replace(Record(arm, seed, evaluations, curves, {"eval": 100.0}, 60.0, 30.0), **changes)


def definition(**changes: Any) -> Definition:
    import tomllib

    return Definition.model_validate({"name": "tiny", **tomllib.loads(DEFINITION), **changes})


def fake_train(folder: Path) -> tuple[str, ...]:
    """The command that stands in for `eyas train`."""
    (folder / "report.json").write_text(report(row("sft", 0.4), row("rl", 0.6)).to_json())
    (folder / "fake_train.py").write_text(FAKE_TRAIN)
    return sys.executable, str(folder / "fake_train.py")


def seeds(*numbers: int) -> dict[str, list[int]]:
    """The same for both arms."""
    return {"plain": list(numbers), "other": list(numbers)}
