"""`eyas eval`"""

from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from eyas.cli.arguments import EnvArg, NumEnvs, ReportAsJson, Workers, environment_arguments
from eyas.cli.served import playing_agent, with_served_options


@with_served_options
def evaluate(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A checkpoint's folder, a Hugging Face id or folder, nano-random, or served:MODEL for one that an "
            "OpenAI-compatible server holds (vLLM, Ollama, a commercial one)."
        ),
    ],
    env: Annotated[str, typer.Option(help="Gymnasium id, or module:Id.")],
    episodes: Annotated[int, typer.Option(min=1, help="Episodes for each decoding.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of the evaluation episodes; never shared with training.")] = 0,
    env_arg: EnvArg = None,
    workers: Workers = 0,
    num_envs: NumEnvs = 64,
    decoding: Annotated[
        Literal["greedy", "sample", "both"], typer.Option(help="The likeliest text, or drawn at temperature 1.")
    ] = "both",
    sampler: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="What writes the completions, as in a recipe: kind=vllm, max_batch=128."
        ),
    ] = None,
    as_json: ReportAsJson = False,
    *,
    served: dict[str, Any],
) -> None:
    """Evaluate an agent: success with Wilson intervals, return, parse rate; greedy and at temperature 1."""
    arguments = environment_arguments(env_arg)
    from eyas import build
    from eyas.evaluation.report import format_table
    from eyas.training.progress import StageProgress

    decodings = ("greedy", "sample") if decoding == "both" else (decoding,)
    with (
        playing_agent(checkpoint, env, served, sampler) as agent,
        StageProgress(Console(stderr=True), "eval", episodes * len(decodings)) as progress,
    ):
        options: dict[str, Any] = {"on_episode": progress.update, "workers": workers, "num_envs": num_envs}
        report = build.evaluate(agent, env, episodes, seed, decodings, **options, env_args=arguments)
    if as_json:
        print(report.to_json())
    else:
        Console().print(format_table(report))
