"""`eyas bench`"""

import json
from typing import Annotated

import typer
from rich.console import Console


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repeats: seconds instead of a minute.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ratios as JSON.")] = False,
) -> None:
    """Measure throughput against the bare model, as ratios within one run."""
    from eyas.bench import format_bench, run_bench

    result = run_bench(quick=quick)
    if as_json:
        print(json.dumps(result))
    else:
        Console().print(format_bench(result))
