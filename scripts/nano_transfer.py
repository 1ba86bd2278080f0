"""Counts the updates of fine-tuning that `nano` and `nano-random` need on tasks that neither has seen, and writes the page.

    python scripts/nano_transfer.py --output runs/nano_transfer                    all runs that are not there yet, then the page
    python scripts/nano_transfer.py --output runs/nano_transfer --task numberline  the runs of one task only

Recipes, seeds, tasks and marks stand in `benchmarks/experiments/nano_transfer.toml`; the page is `docs/results/nano.md`.
"""

import argparse
import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import eyas
from eyas.config import RunConfig

ROOT = Path(__file__).parents[1]
EXPERIMENT = ROOT / "benchmarks/experiments/nano_transfer.toml"
PAGE = ROOT / "docs/results/nano.md"
COLOURS = {"nano-random": "tab:gray", "nano": "tab:blue"}
MEASURES = {"facts right": "validation/recognition_accuracy", "exact match": "validation/exact_match"}
Curve = list[tuple[int, float]]  # updates, share
Looks = dict[str, Curve]  # by measure
Curves = dict[tuple[str, str, str], list[Looks]]  # recipe, task, arm -> one a seed
Part = dict[str, Any]


def steps_of(experiment: Part, task: Part, arm: str) -> int:
    return int(task["steps"] * experiment["share_of_updates"][arm])


def run_config(experiment: Part, recipe: Part, task: Part, arm: str, seed: int) -> RunConfig:
    steps, interface = steps_of(experiment, task, arm), {"max_new_tokens": task["max_new_tokens"]}
    return RunConfig.model_validate(
        {
            "name": f"{task['name']}-{arm}-{seed}-{recipe['label']}",
            "seed": seed,
            "threads": 1,
            "model": {"name": arm, "seed": seed},
            "tasks": [{"env": task["env"], "env_args": task["env_args"], "interface": interface}],
            "stages": [
                {"kind": "collect", "policy": "expert", "episodes": task["episodes"]},
                {"kind": "sft", "steps": steps, "optim": recipe["optim"], **experiment["sft"]},
            ],
        }
    )


def looks_of(folder: Path, steps: int) -> Looks:
    """What was found on the held-out steps after so many updates, up to `steps`."""
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    lines = [line for line in lines if line["stage"] == "sft" and line["iteration"] < steps]
    return {
        name: [(line["iteration"] + 1, line[key]) for line in lines if line.get(key) is not None]
        for name, key in MEASURES.items()
    }


def run(config: RunConfig, steps: int, output: Path) -> Looks:
    folder = output / config.name
    if steps not in dict(looks_of(folder, steps)["exact match"]):
        eyas.train(config, output=output, resume=(folder / "config.toml").exists())
    return looks_of(folder, steps)


def plan(experiment: Part) -> Iterator[tuple[Part, Part, str]]:
    for recipe in experiment["recipes"]:
        for task in experiment["tasks"]:
            if task["name"] in recipe["tasks"]:
                yield from ((recipe, task, arm) for arm in COLOURS)


# ----------------------------------------------------------------------------------------------- the page


def updates_to(found: Curve, mark: float) -> int | None:
    return next((updates for updates, share in found if share >= mark), None)


def ratio(slow: list[int | None], fast: list[int | None], steps: int) -> str:
    """How many times as many updates the first needs, of means over seeds; a seed that never got there counts as `steps`."""
    if None in fast:
        return "–"
    return f"{'≥ ' if None in slow else ''}{sum(s or steps for s in slow) / sum(f for f in fast if f):.1f}"


def table(experiment: Part, curves: Curves) -> list[str]:
    lines = ["| recipe | task | reached | nano-random | nano | ratio |", "|---|---|---|---|---|---|"]
    for recipe, task, arm in plan(experiment):
        if arm != "nano":
            continue
        of_arm = {a: curves[recipe["label"], task["name"], a] for a in COLOURS}
        begin, half = f"| {recipe['name']} | {task['env']} |", steps_of(experiment, task, arm)
        for measure in [m for m in MEASURES if of_arm["nano"][0][m]]:
            for mark in experiment["marks"]:
                reached = {a: [updates_to(c[measure], mark) for c in of_arm[a]] for a in COLOURS}
                told = {
                    a: ", ".join(str(n or f"> {steps_of(experiment, task, a)}") for n in reached[a]) for a in COLOURS
                }
                times = ratio(reached["nano-random"], reached["nano"], task["steps"])
                lines.append(
                    f"{begin} {measure} {100 * mark:.0f} % | {told['nano-random']} | {told['nano']} | {times} |"
                )
        best = {
            a: ", ".join(f"{100 * max(s for u, s in c['exact match'] if u <= half):.0f} %" for c in of_arm[a])
            for a in COLOURS
        }
        lines.append(f"{begin} best exact match within {half} | {best['nano-random']} | {best['nano']} | |")
    return lines


def draw(experiment: Part, curves: Curves) -> None:
    """Exact match over updates; recipes and tasks side by side."""
    panels = [(recipe, task) for recipe, task, arm in plan(experiment) if arm == "nano"]
    figure = Figure(figsize=(3 * len(panels), 2.8), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (recipe, task) in zip(axes, panels, strict=True):
        for arm, colour in COLOURS.items():
            for seed, found in enumerate(curves[recipe["label"], task["name"], arm]):
                label = arm if seed == 0 else None
                axis.plot(*zip(*found["exact match"], strict=True), color=colour, label=label, linewidth=1.2)
        axis.set_title(f"{task['env']}\n{recipe['name']}", fontsize=8)
        axis.set_xlabel("updates")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("exact match, held out")
    axes[0].legend(fontsize=8)
    figure.savefig(ROOT / "docs/images/nano_transfer.png", dpi=110)


def write_page(experiment: Part, curves: Curves) -> None:
    sft = experiment["sft"]
    draw(experiment, curves)
    seeds = ", ".join(map(str, experiment["seeds"]))
    text = "\n".join(
        [
            f"# {experiment['title']}",
            "",
            experiment["question"].strip(),
            "",
            "Updates until the share was reached of facts read rightly, and of completions that match exactly, one number "
            f"a seed (seeds {seeds}), looked at every "
            f"{sft['validation_every']} updates on up to 128 held-out steps; ratio of the means. Batch {sft['batch_size']}, learning "
            "rate 1e-3, constant after the warm-up; `nano` gets half the updates of `nano-random`.",
            "",
            *table(experiment, curves),
            "",
            "![exact match over updates](../images/nano_transfer.png)",
            "",
            experiment["outcome"].strip(),
            "",
            "Command: `python scripts/nano_transfer.py --output runs/nano_transfer`, settings in "
            "`benchmarks/experiments/nano_transfer.toml`. Hardware: two AMD EPYC cores with other work beside, one thread a run. What "
            "`nano` was trained on: [its card](../../src/eyas/models/assets/NANO.md).",
            "",
        ]
    )
    PAGE.write_text(text)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "runs/nano_transfer")
    parser.add_argument("--task", help="run one task only, and write no page")
    parser.add_argument("--arm", help="run one arm only, and write no page")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    experiment = tomllib.loads(EXPERIMENT.read_text())
    curves: Curves = {}
    for recipe, task, arm in plan(experiment):
        if options.task in (None, task["name"]) and options.arm in (None, arm):
            configs = [run_config(experiment, recipe, task, arm, seed) for seed in experiment["seeds"]]
            steps = steps_of(experiment, task, arm)
            curves[recipe["label"], task["name"], arm] = [run(config, steps, options.output) for config in configs]
    if options.task is None and options.arm is None:
        write_page(experiment, curves)


if __name__ == "__main__":
    main()
