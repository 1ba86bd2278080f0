"""`eyas env`"""

import json
from typing import Annotated

import gymnasium
import typer
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
    import inspect

    rows = []
    for env_id in ENTRY_POINTS:
        cls = gymnasium.envs.registration.load_env_creator(ENTRY_POINTS[env_id])
        source, _, about = (inspect.getdoc(cls) or "").partition("## Description")
        rows.append({"id": env_id, "about": " ".join(about.split("\n\n")[0].split()).split(". ")[0]})
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("id", "about", box=None)
    for row in rows:
        table.add_row(row["id"], row["about"])
    Console().print(table)
