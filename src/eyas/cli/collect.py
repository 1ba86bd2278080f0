"""`eyas collect`"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from eyas.cli.arguments import EnvArg, NumEnvs, Workers, environment_arguments
from eyas.cli.served import playing_agent, refuse_served, with_served_options
from eyas.errors import DatasetError


@with_served_options
def collect(
    env: Annotated[str, typer.Argument(help="Gymnasium id, or module:Id.")],
    output: Annotated[Path, typer.Option(help="Folder that gets the dataset.")],
    policy: Annotated[
        str, typer.Option(help="expert, random, a checkpoint's folder, or served:MODEL for a model behind a server.")
    ] = "expert",
    episodes: Annotated[int, typer.Option(min=1)] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of the demonstration episodes.")] = 0,
    random_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of an expert's moves played at random.")
    ] = 0.0,
    env_arg: EnvArg = None,
    workers: Workers = 0,
    num_envs: NumEnvs = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was collected as JSON.")] = False,
    *,
    served: dict[str, Any],
) -> None:
    """Write a dataset of episodes: Parquet, with pictures stored once; each move is written as a model would write it.

    An sft stage reads it with `data = "FOLDER/"`.
    """
    if output.exists() and any(output.iterdir()):
        raise DatasetError(f"{output} is not empty: choose another --output, or delete it")
    arguments = environment_arguments(env_arg)
    from eyas import build
    from eyas.config import CollectStage, TaskConfig, WorkersConfig
    from eyas.rollouts.actors import Actor, PolicyActor
    from eyas.rollouts.images import MemoryImageStore
    from eyas.rollouts.task import Task
    from eyas.training.collect import collect_dataset, demonstrator
    from eyas.training.progress import StageProgress

    about = {"env_args": arguments, "policy": policy, "random_share": random_share}
    console = Console(stderr=True)

    def record(task: Task, actor: Actor, images: MemoryImageStore) -> None:
        with StageProgress(console, f"{policy} plays {env}", episodes) as progress:
            options = {"num_envs": num_envs, "workers": WorkersConfig(count=workers)}
            collect_dataset(task, actor, images, output, seed, range(episodes), about, progress.update, **options)

    if policy in ("expert", "random"):
        refuse_served(policy, served)
        task = build.build_task(TaskConfig(env=env, env_args=arguments))
        stage = CollectStage(policy=policy, random_share=random_share, episodes=episodes)
        record(task, demonstrator(task, stage), MemoryImageStore())
    else:
        with playing_agent(policy, env, served) as agent:
            record(agent.task(env, **arguments), PolicyActor(agent.policy), agent.images)
    info = json.loads((output / "dataset.json").read_text())
    if as_json:
        print(json.dumps(info))
    else:
        success = info["success_rate"]
        told = "" if success is None else f", success {success:.1%}"
        console.print(f"{info['episodes']} episodes, {info['steps']} steps{told} -> {output}", highlight=False)
