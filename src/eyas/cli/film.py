"""`eyas film`"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eyas.cli.arguments import EnvArg, environment_arguments
from eyas.errors import ConfigError

if TYPE_CHECKING:
    from eyas.evaluation.film_frame import Shot
    from eyas.types import ImageSource

Form = Literal["webp", "gif", "mp4"]


def film(
    source: Annotated[str, typer.Argument(help="A run's or dataset's folder; or a checkpoint, which then plays.")],
    episode: Annotated[
        str | None,
        typer.Argument(
            help="Of a run: best, worst or last, or a key as the viewer shows it, FILE:INDEX. [default: last]"
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="[default: named by what it shows, in this folder]")
    ] = None,
    form: Annotated[Form | None, typer.Option("--format", help="[default: by FILE's ending, else webp]")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.02, max=60, help="That a step stays; long episodes go faster by default.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Of a run: where best, worst or last is looked for.")] = None,
    env: Annotated[str | None, typer.Option(help="A checkpoint plays this. [default: what it was trained on]")] = None,
    env_arg: EnvArg = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the evaluation episodes that a checkpoint plays.")] = 0,
    episodes: Annotated[int, typer.Option(min=1, help="That a checkpoint plays, one after the other.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="A checkpoint's; 0 is greedy.")] = 0.0,
) -> None:
    """Write a film of an episode: frame, thought, action and reward beside each other."""
    from eyas.evaluation.film import check_format, write_film
    from eyas.viewer.folders import MARKS

    path = _checked(output, form)
    check_format(form or "webp" if path is None else path.suffix[1:].lower())
    if any((Path(source) / mark).is_file() for mark in MARKS):
        if env or env_arg:
            raise ConfigError(f"--env and --env-arg are for a checkpoint that plays, {source} holds recorded episodes")
        shown, images, name = _recorded(Path(source), episode or "last", stage)
    else:
        if episode or stage:
            raise ConfigError(
                f"{source} is no run or dataset: leave {episode or '--stage'} out, or give a run's folder"
            )
        shown, images, name = _played(source, env, env_arg, seed, episodes, temperature)
    path = path or Path(f"{name}.{form or 'webp'}")
    write_film(shown, images, path, path.suffix[1:].lower(), seconds)
    print(path)


def _checked(output: Path | None, form: str | None) -> Path | None:
    """The file to write, with its ending. Raises `ConfigError` for an ending of another format, before any work."""
    if output is None:
        return None
    ending = output.suffix[1:].lower()
    if ending not in ("webp", "gif", "mp4") and form is None:
        raise ConfigError(
            f"--output {output} does not say which format: end it in .webp, .gif or .mp4, or add --format"
        )
    if form is not None and ending != form:
        raise ConfigError(f"--output {output} does not end in .{form}: change one of the two")
    return output


def _recorded(folder: Path, episode: str, stage: str | None) -> "tuple[list[Shot], ImageSource, str]":
    from eyas.evaluation.film import shots
    from eyas.viewer.films import CHOICES, RunImages, find_episode, read_recorded
    from eyas.viewer.folders import RunFolder

    path = folder.resolve()
    run = RunFolder(path.name, path, path)
    if stage is not None and episode not in CHOICES:
        raise ConfigError(f"--stage goes with best, worst or last: leave it out, {episode!r} names one episode")
    recorded = read_recorded(run, find_episode(run, episode, stage) if episode in CHOICES else episode)
    print(f"{recorded.key}: {recorded.heading}", file=sys.stderr)
    name = f"{path.name}-{recorded.key.replace('/', '-').replace(':', '-')}"
    return shots(recorded.trajectory, recorded.heading, recorded.name_of), RunImages(run), name


def _played(
    checkpoint: str, env: str | None, env_arg: list[str] | None, seed: int, episodes: int, temperature: float
) -> "tuple[list[Shot], ImageSource, str]":
    arguments = environment_arguments(env_arg)
    from eyas.build import Agent
    from eyas.evaluation.evaluate import play
    from eyas.evaluation.film import shots
    from eyas.rollouts.actors import PolicyActor

    agent = Agent.from_pretrained(checkpoint)
    envs = [env] if env else list(dict.fromkeys(task.env for task in agent.tasks))
    if not envs:
        raise ConfigError(f"{checkpoint} was not trained on any environment: add --env ID")
    shown: list[Shot] = []
    for env_id in envs:
        task = agent.task(env_id, **arguments)
        actor = PolicyActor(agent.policy, temperature)
        played = play(task, actor, agent.images, seed, range(episodes), num_envs=min(episodes, 8))
        for trajectory in played.trajectories:
            shown += shots(trajectory, f"{env_id} · seed {seed}, episode {trajectory.episode}", task.interface.name_of)
    name = f"{Path(checkpoint).resolve().name}-{envs[0].rpartition('/')[2]}-{seed}".replace(":", "-")
    return shown, agent.images, name
