"""`eyas env`"""

import inspect
import json
from typing import Annotated

import typer
from gymnasium.envs.registration import load_env_creator
from rich.console import Console
from rich.table import Table

from eyas.envs import ENTRY_POINTS

app = typer.Typer(help="Environments.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command("list")
def list_environments(
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List the environments that ship with Eyas. Any other Gymnasium id with discrete actions works too."""
    rows = [{"id": env_id, "about": _about(entry_point)} for env_id, entry_point in ENTRY_POINTS.items()]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("id", "about", box=None)
    for row in rows:
        table.add_row(row["id"], row["about"])
    Console().print(table)


def _about(entry_point: str) -> str:
    """The first sentence of the description on the environment's page."""
    _, _, description = (inspect.getdoc(load_env_creator(entry_point)) or "").partition("## Description")
    return " ".join(description.split("\n\n")[0].split()).split(". ")[0]
