"""`eyas env check`"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eyas.cli.arguments import EnvArg, ReportAsJson, environment_arguments, tell_begun
from eyas.errors import ConfigError

_MARKS = {"info": "[green]ok[/]", "warning": "[yellow]warning[/]", "error": "[red]FAILED[/]"}


def check(
    env: Annotated[str | None, typer.Argument(metavar="ID", help="Gymnasium id, or module:Id.")] = None,
    env_arg: EnvArg = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Instead of ID: check this recipe's first task, with its wrappers, interface and model."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Who plays the preflight: a model as in `eyas eval`. [default: nano-random]")
    ] = None,
    episodes: Annotated[
        int, typer.Option(min=1, help="Of each baseline: random, and the expert where there is one.")
    ] = 20,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the prompt, its pictures and the recipe. [default: env_check_NAME]"),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that one reset or step may take.")] = 30.0,
    as_json: ReportAsJson = False,
) -> None:
    """Check an environment before training on it: what is wrong, what a model will see, and what to type next.

    The environment runs in processes of its own, so that one that hangs, crashes or prints is reported too.

    **Contract**: made, reset, step, spaces, rewards and pictures are what Gymnasium says. **Repeating**: the same seed and
    actions give the same again, also in another process; how many starts there are. **Interface**: the prompt in full,
    its pictures, every action through writing and reading. **Baselines**: random and expert episodes. **Preflight**:
    a model plays groups of episodes: tokens, parse rate, variance of the returns, memory, time.

    It ends with a verdict, *ready*, *usable, but ...* or *not usable: ...*, and a recipe to start from. The exit code is
    1 where a check failed; warnings do not fail.
    """
    if (env is None) == (recipe is None):
        raise ConfigError(
            "give an environment's ID, as in `eyas env check CartPole-v1`, or --recipe RECIPE, and not both"
        )
    arguments = environment_arguments(env_arg)
    from eyas.checks.env import check_environment, default_output
    from eyas.config import ModelConfig, TaskConfig
    from eyas.recipes import load_recipe

    config = load_recipe(recipe) if recipe is not None else None
    task = config.tasks[0] if config is not None else TaskConfig(env=str(env))
    task = task.model_copy(update={"env_args": {**task.env_args, **arguments}})
    player = config.model if config is not None and model is None else ModelConfig(name=model or "nano-random")
    folder = output or default_output(task.env)
    with contextlib.redirect_stdout(sys.stderr):  # what a constructor prints is no part of the report
        report = check_environment(
            task,
            model=player,
            episodes=episodes,
            output=folder,
            timeout_s=timeout,
            on_progress=tell_begun,
        )
    if as_json:
        print(json.dumps(report.to_json()))
    else:
        _show(report, Console())
    raise typer.Exit(0 if report.ok else 1)


def show_checks(report: Any, console: Console) -> None:
    """Every finding of a check, then the tracebacks."""
    table = Table("check", "", "what was seen", box=None, title=report.id, title_justify="left")
    for finding in report.checks:
        mark = "-" if finding.detail.startswith("does not apply") else _MARKS[finding.level]
        table.add_row(finding.name, mark, escape(finding.detail))
    console.print(table)
    for finding in report.checks:
        if finding.traceback:
            console.print(f"\n{finding.name}:\n{finding.traceback.rstrip()}", markup=False, highlight=False)


def _show(report: Any, console: Console) -> None:
    show_checks(report, console)
    if report.prompt:
        console.print("\nThe first prompt:", style="bold")
        console.print(report.prompt["text"], markup=False, highlight=False, soft_wrap=True)
    if report.recipe:
        console.print("\nA recipe to start from:", style="bold")
        console.print(report.recipe.rstrip(), markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nVerdict: {escape(report.verdict)}", style="bold", highlight=False, soft_wrap=True)
    if report.recipe_path:
        console.print(f"Next: eyas train {report.recipe_path}", markup=False, highlight=False, soft_wrap=True)
