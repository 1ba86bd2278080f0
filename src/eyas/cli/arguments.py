"""What several commands take, and say."""

from typing import Annotated, Any

import typer
from rich.console import Console

from eyas.errors import ConfigError
from eyas.recipes import toml_value

EnvArg = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Argument of the environment.")]
Workers = Annotated[int, typer.Option(min=0, help="Worker processes that run the environments; 0: none.")]
NumEnvs = Annotated[
    int, typer.Option(min=1, help="Copies of the environment, stepped together; each takes its own memory.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
Host = Annotated[str, typer.Option(help="Address to serve on; any but this machine's own needs --token.")]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Only print the address.")]
Token = Annotated[bool, typer.Option("--token", help="Ask callers for a token, which is made and printed.")]
ReportAsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


def environment_arguments(pairs: list[str] | None) -> dict[str, Any]:
    """`["jitter=6", "mode=text"]` as keyword arguments: values are TOML, else strings."""
    arguments: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{pair}': write it as key=value, as in 'jitter=6'")
        arguments[key] = toml_value(value)
    return arguments


def tell_begun(what: str) -> None:
    """Says on stderr what a check is at."""
    Console(stderr=True).print(f"{what} ...", style="dim", highlight=False)
