"""Runs an experiment, arms and seeds as its file fixes them, and writes its page.

    python scripts/experiment.py benchmarks/experiments/ezpoints_ppo.toml

A run that is finished is not run again, one that was interrupted is resumed. The page and the reports go to
`docs/results/NAME.md` and `docs/results/NAME/ARM_SEED.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from eyas.evaluation.records import EvalReport, EvalRow
from eyas.evaluation.statistics import student_t_interval

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results"
LABELS = {"greedy": "greedy", "sample": "T = 1"}


def run_one(experiment: dict[str, Any], arm: dict[str, Any], seed: int, output: Path) -> Path:
    """One arm with one seed, one thread, in a process of its own; returns its report."""
    name = f"{experiment['name']}-{arm['name']}-{seed}"
    report = output / name / "report.json"
    if not report.exists():
        overrides = [f"name={name}", f"seed={seed}", f"model.seed={seed}", *arm.get("set", [])]
        command = [sys.executable, "-m", "eyas", "train", arm["recipe"], *overrides, "--output", str(output)]
        resume = ["--resume"] if (output / name / "config.toml").exists() else []
        with (output / f"{name}.log").open("a") as log:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run([*command, *resume], check=True, stdout=log, stderr=log, env=environment)
    return report


def share(rate: float | None, interval: tuple[float, float] | None = None) -> str:
    if rate is None:
        return "–"
    within = f" ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})" if interval else ""
    return f"{100 * rate:.1f}{within}"


def rows_of(reports: dict[tuple[str, int], EvalReport]) -> dict[tuple[str, str, str], dict[int, EvalRow]]:
    """(arm, policy, decoding) -> seed -> row."""
    found: dict[tuple[str, str, str], dict[int, EvalRow]] = {}
    for (arm, seed), report in reports.items():
        for row in report.rows:
            found.setdefault((arm, row.policy, row.decoding), {})[seed] = row
    return found


def success_cell(row: EvalRow) -> str:
    return share(row.strict_success_rate, row.strict_success_interval)


def return_cell(row: EvalRow) -> str:
    return number(row.return_mean, row.return_interval)


def number(value: float | None, interval: tuple[float, float] | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" + (f" ({interval[0]:.1f}–{interval[1]:.1f})".replace("–-", " to -") if interval else "")


# experiment's `measure` -> what a cell shows, the number behind it, and how the mean over seeds is written
MEASURES = {
    "success": (success_cell, lambda row: row.strict_success_rate, share),
    "return": (return_cell, lambda row: row.return_mean, number),
}
MEASURED = {
    "success": "Strict success in % (no fallback action in the episode), Wilson 95 % in brackets",
    "return": "Return of the environment, bootstrapped 95 % in brackets",
}


def table(reports: dict[tuple[str, int], EvalReport], seeds: list[int], measure: str) -> list[str]:
    """The measure of every seed, and over seeds its mean with Student's t interval."""
    lines = [
        "| arm | policy | decoding | "
        + " | ".join(f"seed {s}" for s in seeds)
        + " | mean (95 %) | return | facts right |",
        "|" + "---|" * (6 + len(seeds)),
    ]
    cell, value, written = MEASURES[measure]
    for (arm, policy, decoding), by_seed in rows_of(reports).items():
        rows = [by_seed[s] for s in seeds]
        known = [v for r in rows if (v := value(r)) is not None]
        mean = written(sum(known) / len(known), student_t_interval(known)) if len(known) == len(rows) else "–"
        cells = [cell(r) for r in rows]
        returns = sum(r.return_mean or 0.0 for r in rows) / len(rows)
        facts = [r.recognition_accuracy for r in rows if r.recognition_accuracy is not None]
        told = share(sum(facts) / len(facts)) if facts else "–"
        lines.append(
            f"| {arm} | {policy} | {LABELS[decoding]} | {' | '.join(cells)} | {mean} | {returns:.3f} | {told} |"
        )
    return lines


def reference(experiment: dict[str, Any]) -> list[str]:
    """What `scripts/reference_sb3.py` found for the same observation, where it was run."""
    lines = []
    for path in sorted((RESULTS / experiment["name"]).glob("sb3*.json")):
        found = json.loads(path.read_text())
        rates = ", ".join(share(row["success_rate"], row["success_interval"]) for row in found["rows"])
        returns = ", ".join(f"{row['return_mean']:.2f}" for row in found["rows"])
        minutes = sum(row["duration_s"] for row in found["rows"]) / len(found["rows"]) / 60
        success = "" if found["success_mean"] is None else f"success in % {rates}, "
        lines.append(
            f"Reference: {found['algorithm']} of Stable-Baselines3 {found['stable_baselines3']} on the same observation, without "
            f"demonstrations, {found['steps']} environment steps, greedy, seeds {[row['seed'] for row in found['rows']]}: "
            f"{success}return {returns}; {minutes:.1f} minutes a seed (`python scripts/reference_sb3.py {found['recipe']} "
            f"--steps {found['steps']}`)."
        )
    return [*lines, ""] if lines else []


def page(experiment: dict[str, Any], reports: dict[tuple[str, int], EvalReport], minutes: dict[str, float]) -> str:
    any_report = next(iter(reports.values()))
    commits = sorted({r.commit[:12] + (" with uncommitted changes" if r.dirty else "") for r in reports.values()})
    episodes = sorted({row.episodes for r in reports.values() for row in r.rows})
    hardware = any_report.hardware
    arms = [
        f"- `{a['name']}`: recipe `{a['recipe']}` {' '.join(f'`{s}`' for s in a.get('set', []))}"
        for a in experiment["arms"]
    ]
    measure = experiment.get("measure", "success")
    spent = ", ".join(f"{name} {value:.1f}" for name, value in minutes.items())
    return "\n".join(
        [
            f"# {experiment['title']}",
            "",
            experiment["question"].strip(),
            "",
            "Arms, fixed before they were run:",
            "",
            *arms,
            "",
            f"{MEASURED[measure]}, n = {' / '.join(map(str, episodes))} episodes a cell on evaluation seeds that training never "
            f"saw; over seeds the mean with Student's t interval. Seeds: {len(experiment['seeds'])}.",
            "",
            *table(reports, experiment["seeds"], measure),
            "",
            *reference(experiment),
            experiment.get("outcome", "").strip(),
            "",
            f"Command: `python scripts/experiment.py benchmarks/experiments/{experiment['name']}.toml`. "
            f"Commit {', '.join(commits)}. Hardware: {hardware.get('cpu')}, {hardware.get('cores')} cores, one thread a run, "
            f"two runs at a time and other work beside them. Wall minutes a run: {spent}.",
            "",
        ]
    )


def minutes_of(output: Path, experiment: dict[str, Any]) -> dict[str, float]:
    """Wall minutes of an arm's run from its beginning to its report, mean over seeds."""
    spent = {}
    for arm in experiment["arms"]:
        times = []
        for seed in experiment["seeds"]:
            run = output / f"{experiment['name']}-{arm['name']}-{seed}"
            begin, end = (run / "config.toml").stat().st_mtime, (run / "report.json").stat().st_mtime
            times.append((end - begin) / 60)
        spent[arm["name"]] = sum(times) / len(times)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--output", type=Path, default=ROOT / "runs")
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time")
    options = parser.parse_args()
    experiment = tomllib.loads(options.experiment.read_text()) | {"name": options.experiment.stem}
    options.output.mkdir(parents=True, exist_ok=True)
    jobs = [(arm, seed) for seed in experiment["seeds"] for arm in experiment["arms"]]
    with ThreadPoolExecutor(options.parallel) as pool:
        paths = list(pool.map(lambda job: run_one(experiment, *job, options.output), jobs))
    reports = {
        (arm["name"], seed): EvalReport.from_json(path.read_text())
        for (arm, seed), path in zip(jobs, paths, strict=True)
    }
    folder = RESULTS / experiment["name"]
    folder.mkdir(parents=True, exist_ok=True)
    for (arm, seed), report in reports.items():
        (folder / f"{arm}_{seed}.json").write_text(report.to_json())
    text = page(experiment, reports, minutes_of(options.output, experiment))
    (RESULTS / f"{experiment['name']}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
