"""The command line: data goes to stdout, progress and errors to stderr, and the exit code is 0 only on success."""

import logging
import os
import sys

# Threads that wait spin only shortly: with anything else on the machine, spinning costs many times the work itself.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer

from eyas import __version__
from eyas.cli import bench, collect, demo, env, evaluate, film, model, play, reproduce, train, view
from eyas.errors import EyasError

app = typer.Typer(
    name="eyas",
    help="Turns a vision-language model into an agent for any Gymnasium environment, and improves it from the reward.",
    epilog="Start with `eyas demo`: it trains a tiny model on a card game, on a CPU, in about two minutes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("collect")(collect.collect)
app.command("play")(play.play)
app.command("film")(film.film)
app.command("reproduce")(reproduce.reproduce)
app.command("view")(view.view)
app.command("bench")(bench.bench)
app.add_typer(env.app, name="env")
app.add_typer(model.app, name="model")


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def main() -> None:
    """Runs the program. An error that a user can act on is one message, without a traceback."""
    sys.path.insert(0, os.getcwd())  # `module:EnvId` finds a module beside the user, as `python -m eyas` does
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        app()
    except EyasError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"error: {error.filename or 'the disk'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as interruption:
        print(str(interruption) or "interrupted", file=sys.stderr)
        sys.exit(130)
