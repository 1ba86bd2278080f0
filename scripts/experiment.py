"""Runs an experiment, arms and seeds as its file fixes them, and writes its page.

    python scripts/experiment.py benchmarks/experiments/ezpoints_ppo.toml

A run that is finished is not run again, one that was interrupted is resumed. The page and the reports go to
`docs/results/NAME.md` and `docs/results/NAME/ARM_SEED.json`.
"""

import argparse
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


def table(reports: dict[tuple[str, int], EvalReport], seeds: list[int]) -> list[str]:
    """Strict success of every seed, and over seeds its mean with Student's t interval."""
    lines = [
        "| arm | policy | decoding | "
        + " | ".join(f"seed {s}" for s in seeds)
        + " | mean (95 %) | return | facts right |",
        "|" + "---|" * (6 + len(seeds)),
    ]
    for (arm, policy, decoding), by_seed in rows_of(reports).items():
        rows = [by_seed[s] for s in seeds]
        rates = [r.strict_success_rate for r in rows]
        known = [r for r in rates if r is not None]
        mean = share(sum(known) / len(known), student_t_interval(known)) if len(known) == len(rows) else "–"
        cells = [share(r.strict_success_rate, r.strict_success_interval) for r in rows]
        returns = sum(r.return_mean or 0.0 for r in rows) / len(rows)
        facts = [r.recognition_accuracy for r in rows if r.recognition_accuracy is not None]
        told = share(sum(facts) / len(facts)) if facts else "–"
        lines.append(
            f"| {arm} | {policy} | {LABELS[decoding]} | {' | '.join(cells)} | {mean} | {returns:.3f} | {told} |"
        )
    return lines


def page(experiment: dict[str, Any], reports: dict[tuple[str, int], EvalReport], minutes: dict[str, float]) -> str:
    any_report = next(iter(reports.values()))
    commits = sorted({r.commit[:12] + (" with uncommitted changes" if r.dirty else "") for r in reports.values()})
    episodes = sorted({row.episodes for r in reports.values() for row in r.rows})
    hardware = any_report.hardware
    arms = [
        f"- `{a['name']}`: recipe `{a['recipe']}` {' '.join(f'`{s}`' for s in a.get('set', []))}"
        for a in experiment["arms"]
    ]
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
            f"Strict success in % (no fallback action in the episode), n = {' / '.join(map(str, episodes))} episodes a cell "
            "on evaluation seeds that training never saw, Wilson 95 % in brackets; over seeds the mean with Student's t "
            f"interval. Seeds: {len(experiment['seeds'])}.",
            "",
            *table(reports, experiment["seeds"]),
            "",
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
