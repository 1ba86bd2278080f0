"""`eyas env`"""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eyas.cli import env_check
from eyas.envs.catalog import CATALOG, CatalogEntry

app = typer.Typer(help="Environments.", no_args_is_help=True)
app.command("check")(env_check.check)


@app.command("list")
def list_environments(
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List the environments that Eyas knows, its own first, and what installs them. Any other Gymnasium id works too."""
    rows = [
        {"id": entry.id, "about": entry.about, "extra": entry.extra, "is_installed": entry.is_installed}
        for entry in CATALOG
    ]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table(box=None)
    table.add_column("id", no_wrap=True)
    table.add_column("about")
    table.add_column("installed", overflow="fold")
    for entry in CATALOG:
        table.add_row(entry.id, entry.about, "yes" if entry.is_installed else escape(_how_to_install(entry)))
    Console().print(table)


def _how_to_install(entry: CatalogEntry) -> str:
    return " and ".join((f"pip install 'eyas[{entry.extra}]'", *entry.programs))
