"""`eyas reproduce`"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from eyas.config import EvalStage, RLStage, RunConfig, SFTStage
from eyas.errors import ConfigError
from eyas.reproductions import Definition, Job, Scale, label_of, load_definition, plan, shipped_definitions


def reproduce(
    name: Annotated[
        str, typer.Argument(help=f"A TOML file, or a shipped definition: {', '.join(shipped_definitions())}.")
    ],
    scale: Annotated[
        Scale, typer.Option(help="laptop: a tiny model on a CPU; paper: a model of the paper's size.")
    ] = "laptop",
    quick: Annotated[
        bool, typer.Option("--quick", help="Every part with tiny numbers; says nothing of the claim.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and print what would be run; load no model.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder that gets NAME.md, and NAME/ with figure and records.")] = Path(
        "docs/results"
    ),
    runs: Annotated[Path, typer.Option(help="Folder of the runs; what is there already goes on, or is kept.")] = Path(
        "runs"
    ),
    seeds: Annotated[str | None, typer.Option(help="As in 0,1,2; default: those fixed in the definition.")] = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="Runs at a time (default: laptop 2, paper 1).")] = None,
    page_only: Annotated[
        bool, typer.Option("--page-only", help="Write the page again from the records beside it; run nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Test a published claim: run its arms on its seeds, then write a page with tables, a figure and what they say.

    A run that is finished is not run again, one that was interrupted goes on. A run that fails is reported, and the
    others go on; the exit code is then 1.
    """
    from eyas.reproductions.figure import write_figure
    from eyas.reproductions.page import write_page
    from eyas.reproductions.results import Record, judge, record_of, summary
    from eyas.reproductions.running import run_all
    from eyas.training.progress import StageProgress

    definition, console = load_definition(name), Console(stderr=True)
    jobs = plan(definition, runs, scale, quick, _seeds(seeds))
    if dry_run:
        _print_plan(definition, jobs, scale)
        return
    folder, failed = output / label_of(definition, scale, quick), {}
    if page_only:
        records = [Record.load(path) for j in jobs if (path := folder / f"{j.arm}_{j.seed}.json").exists()]
    else:
        with StageProgress(console, definition.name, len(jobs)) as progress:
            threads = 1 if scale == "laptop" else None
            failed = run_all(jobs, parallel or (2 if scale == "laptop" else 1), threads, progress.update)
        records = [record_of(job, definition) for job in jobs if job not in failed]
        for record in records:
            record.save(folder)
    used = {arm.name: [job.seed for job in jobs if job.arm == arm.name] for arm in definition.arms}
    has_figure = write_figure(definition, records, folder / "figure.png")
    reasons = {f"`{job.arm}`, seed {job.seed}": reason for job, reason in failed.items()}
    page = write_page(definition, records, reasons, used, output, scale, quick, has_figure)
    for run, reason in reasons.items():
        console.print(f"failed: {run}: {reason}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"page: {page}", highlight=False, soft_wrap=True)
    if as_json:
        found = summary([judge(definition, records, used, statement) for statement in definition.statements])
        about: dict[str, Any] = {"name": definition.name, "scale": scale, "page": str(page), "statements": found}
        print(json.dumps(about | {"seeds": used, "failed": {f"{j.arm}-{j.seed}": r for j, r in failed.items()}}))
    if failed:
        raise typer.Exit(1)


def _seeds(text: str | None) -> list[int]:
    if text is None:
        return []
    numbers = [part.strip() for part in text.split(",")]
    if not all(n.isdecimal() for n in numbers) or len(set(map(int, numbers))) < len(numbers):
        raise ConfigError(f"seeds '{text}': type different whole numbers with commas between, as in 0,1,2")
    return list(map(int, numbers))


def _print_plan(definition: Definition, jobs: list[Job], scale: Scale) -> None:
    seeds = dict.fromkeys(job.seed for job in jobs)
    table = Table("arm", "model", "stages", title=f"{definition.title} ({scale})", box=None, title_justify="left")
    for job in {job.arm: job for job in jobs}.values():
        model = job.config.model
        adapters = "" if model.train == "full" else f", {model.train}"
        table.add_row(job.arm, f"{model.name}{adapters}", _stages(job.config))
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"{len(jobs)} runs: {len(definition.arms)} arms, seeds {', '.join(map(str, seeds))}", highlight=False)
    if scale == "laptop":
        console.print(f"budget: {definition.budget_core_hours:g} core-hours", highlight=False)


def _stages(config: RunConfig) -> str:
    words = []
    for stage in config.stages:
        if isinstance(stage, RLStage):
            words.append(f"{stage.name}: {stage.iterations} x {stage.algorithm.name}")
        elif isinstance(stage, SFTStage):
            words.append(f"{stage.name}: {stage.steps or 'as ' + str(stage.steps_like)} updates")
    evals = [stage.episodes for stage in config.stages if isinstance(stage, EvalStage)]
    return ", ".join([*words, f"{len(evals)} x evaluation of {max(evals, default=0)} episodes a row"])
