"""`eyas model`"""

import json
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from eyas.cli.arguments import ReportAsJson, tell_begun
from eyas.cli.env_check import show_checks

app = typer.Typer(help="Models.", no_args_is_help=True)


@app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List the built-in models and the families that Eyas is tested with, and which optimisations they go without."""
    from eyas.models.families import FAMILIES
    from eyas.models.loading import BUILT_IN

    rows = [{"family": f.name, "model_types": list(f.model_types), "supports": f.supports} for f in FAMILIES]
    if as_json:
        print(json.dumps({"built_in": list(BUILT_IN), "families": rows}))
        return
    console = Console()
    console.print(f"Built in: {', '.join(BUILT_IN)}. Any Hugging Face id or folder of one of these families works too:")
    table = Table("family", box=None)
    table.add_column("model types", overflow="fold")
    table.add_column("without")
    for row in rows:
        without = [name for name, is_on in row["supports"].items() if not is_on]
        table.add_row(row["family"], ", ".join(row["model_types"]), ", ".join(without) or "-")
    console.print(table)
    console.print("Of another family: `eyas model check NAME` says whether it is driven right.")


@app.command("check")
def check(
    name: Annotated[str, typer.Argument(metavar="NAME_OR_PATH", help="Built-in name, Hugging Face id, or folder.")],
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of the weights.")] = "float32",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model from the hub.")
    ] = False,
    as_json: ReportAsJson = False,
) -> None:
    """Check that a model is driven as it was made: what sampler and learner read is what the bare model reads.

    **Text**: tokens and picture placeholders are those of its own processor, what is sampled keeps its ids over turns, and
    special tokens are never sampled. **Numbers**: log-probs and gradients are the same by the bare model, padded or alone,
    merged or separate, shared, cached, and in sampler and learner. **Training**: value head, LoRA, saving and loading,
    memory.

    In float32 every log-prob has to agree within 1e-4 nats; in bfloat16 the mean, the 99th percentile, the maximum and
    the KL have limits of their own. The exit code is 1 where a check failed.
    """
    from eyas.checks.model import check_model
    from eyas.config import ModelConfig

    config = ModelConfig(name=name, dtype=dtype, trust_remote_code=trust_remote_code)
    report = check_model(config, on_progress=tell_begun)
    if as_json:
        checks = [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in report.checks]
        print(json.dumps({"id": report.id, "ok": report.ok, "checks": checks}))
    else:
        console = Console()
        show_checks(report, console)
        failed = ", ".join(c.name for c in report.checks if not c.ok)
        console.print(f"\nNot usable yet: {failed}" if failed else "\nReady", style="bold", highlight=False)
    raise typer.Exit(0 if report.ok else 1)
