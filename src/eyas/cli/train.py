"""`eyas train`"""

import json
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from eyas.config import RunConfig
from eyas.errors import ConfigError, EnvironmentFailure, EyasError
from eyas.recipes import load_recipe, shipped_recipes, to_toml


def train(
    recipe: Annotated[str, typer.Argument(help=f"A TOML file, or a shipped recipe: {', '.join(shipped_recipes())}.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As in `seed=1 stages.rl.iterations=3`.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder that gets the run's folder (default: runs).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved configuration and a preflight; train nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON at the end.")] = False,
) -> None:
    """Train an agent as a recipe says: collect, fine-tune, reinforce, evaluate.

    The run's folder holds the resolved configuration, metrics, trajectories, checkpoints and report.html. Ctrl-C
    finishes the iteration and saves; `--resume` goes on with the same curve.
    """
    config = load_recipe(recipe, overrides or [])
    if output is not None:
        config = config.model_copy(update={"output": str(output)})
    if dry_run:
        _preflight(config)
        return
    from eyas import build

    run = build.train(config, resume=resume)
    report = run.folder / "report.json"
    console = Console(stderr=True)
    console.print(f"run: {run.folder}", highlight=False, soft_wrap=True)
    if as_json:
        print(report.read_text() if report.exists() else json.dumps({"run": str(run.folder)}))


def _preflight(config: RunConfig) -> None:
    """Builds everything and asks each task for its first prompt; writes nothing."""
    from eyas.build import build_run
    from eyas.training.preflight import preflight

    print(to_toml(config))
    run = build_run(config)
    try:
        table, too_long = preflight(run)
    except EyasError:
        raise
    except Exception as error:
        said = f"the first prompt cannot be made, {type(error).__name__}: {error}; `eyas env check` says more"
        raise EnvironmentFailure(f"{said}\n{traceback.format_exc()}") from error
    Console(stderr=True).print(table)
    if too_long:
        raise ConfigError(
            f"{', '.join(too_long)}: the first prompt leaves no room for a completion in the model's context: lower "
            "interface.max_new_tokens, shorten interface.text, or choose a model with a longer context"
        )
