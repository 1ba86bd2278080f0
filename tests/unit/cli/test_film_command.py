"""`eyas film`: what it takes, what it writes, and what it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from eyas.cli.film import film
from eyas.config import TaskConfig
from eyas.errors import ConfigError, EyasError
from eyas.evaluation import film as films
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.recorder import TrajectoryRecorder
from eyas.types import (
    Completion,
    ExecutedBy,
    ImagePart,
    Message,
    ParsedAction,
    RewardBreakdown,
    Step,
    StopReason,
    Trajectory,
)
from helpers import picture

app = typer.Typer()
app.command()(film)


def run(*arguments: str) -> Path:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip())


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, EyasError), result.output
    return str(result.exception)


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with episodes of 2 and of 3 steps, the longer with the higher return; the folder is the current one."""
    folder, images = tmp_path / "my run", MemoryImageStore()
    prompt = (Message("user", (ImagePart(images.put(picture())),)),)
    parse, reward = ParsedAction(1, "go", "why", {}, 0), RewardBreakdown({"environment": 1.0})
    step = Step(prompt, Completion("x"), parse, 1, ExecutedBy.POLICY, reward)
    episodes = [Trajectory(0, n, n, [step] * n, StopReason.TERMINATED, success=True) for n in (3, 2)]
    with TrajectoryRecorder(folder, images) as recorder:
        recorder.record("rl_000004", episodes, stage="rl", iteration=4, env_id="some/Env")
    (folder / "config.toml").write_text('name = "my run"\n')
    monkeypatch.chdir(tmp_path)
    return folder


def num_frames(path: Path) -> int:
    with Image.open(path) as image:
        return getattr(image, "n_frames", 1)


def test_the_last_episode_of_a_run_is_the_default(recorded: Path) -> None:
    path = run(str(recorded))
    assert path == Path("my run-rl_000004-1.webp")
    assert num_frames(path) == 2


@pytest.mark.parametrize(("episode", "steps"), [("best", 3), ("worst", 2), ("rl_000004:0", 3)])
def test_an_episode_is_chosen_by_word_or_key(episode: str, steps: int, recorded: Path) -> None:
    assert num_frames(run(str(recorded), episode, "--format", "gif")) == steps


def test_the_ending_of_the_file_says_the_format(recorded: Path, tmp_path: Path) -> None:
    path = run(str(recorded), "best", "--stage", "rl", "--output", str(tmp_path / "new folder" / "a film.GIF"))
    assert path == tmp_path / "new folder" / "a film.GIF"
    with Image.open(path) as image:
        assert image.format == "GIF"


def test_seconds_are_what_a_step_stays(recorded: Path) -> None:
    with Image.open(run(str(recorded), "--seconds", "0.25", "--format", "gif")) as image:
        assert image.info["duration"] == 250


def test_a_checkpoint_plays_what_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two episodes stand in one film, one after the other; the same seed gives the same film."""
    monkeypatch.chdir(tmp_path)
    told: list[films.Shot] = []
    inner = films.write_film
    monkeypatch.setattr(films, "write_film", lambda shots, *rest: told.extend(shots) or inner(shots, *rest))
    options = ["--env", "eyas/NumberLine-v0", "--env-arg", "jitter=4", "--seed", "5", "--episodes", "2"]
    path = run("nano-random", *options)
    assert path == Path("nano-random-NumberLine-v0-5.webp")
    headings = list(dict.fromkeys(shot.heading for shot in told))
    assert headings == [f"eyas/NumberLine-v0 · seed 5, episode {n}" for n in (0, 1)]
    assert sum(shot.outcome is not None for shot in told) == 2
    assert num_frames(path) == len(told)
    before = path.read_bytes()
    assert run("nano-random", *options).read_bytes() == before


def test_a_checkpoint_plays_its_own_tasks_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eyas.build import Agent

    inner = Agent.from_pretrained

    def trained(name: str) -> Agent:
        agent = inner(name)
        tasks = [{"env": "eyas/NumberLine-v0", "env_args": {"jitter": n}} for n in (4, 6)]
        agent.tasks = tuple(TaskConfig.model_validate(t | {"interface": {"max_new_tokens": 4}}) for t in tasks)
        return agent

    monkeypatch.setattr(Agent, "from_pretrained", trained)
    monkeypatch.chdir(tmp_path)
    assert run("nano-random", "--format", "gif") == Path("nano-random-NumberLine-v0-0.gif")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["RUN", "rl_000004:7"], "has no episode 7"),
        (["RUN", "rl_9:0"], "no readable trajectories"),
        (["RUN", "first"], "FILE:INDEX"),
        (["RUN", "best", "--stage", "sft"], "one of rl"),
        (["RUN", "rl_000004:0", "--stage", "rl"], "leave it out"),
        (["RUN", "--env", "CartPole-v1"], "for a checkpoint"),
        (["RUN", "--output", "film.avi"], ".webp, .gif or .mp4"),
        (["RUN", "--output", "film.gif", "--format", "mp4"], "change one of the two"),
        (["nano-random"], "add --env ID"),
        (["nano-random", "best"], "give a run's folder"),
        (["no/such/folder"], "cannot be loaded"),
    ],
)
def test_what_cannot_be_filmed_is_said(arguments: list[str], told: str, recorded: Path) -> None:
    assert told in refused(*(str(recorded) if argument == "RUN" else argument for argument in arguments))
    assert not [path for path in recorded.parent.iterdir() if path != recorded]


def test_a_missing_encoder_is_said_before_a_checkpoint_plays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(films.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("eyas.cli.film._played", lambda *_: pytest.fail("played"))
    message = refused("nano-random", "--env", "FrozenLake-v1", "--format", "mp4")
    assert "pip install eyas[viewer]" in message
    assert issubclass(ConfigError, EyasError)


def test_a_film_of_a_recorded_episode_loads_no_torch() -> None:
    code = (
        "import sys, eyas.cli.film, eyas.evaluation.film, eyas.viewer.films\n"
        "print(sorted({'torch', 'transformers', 'duckdb', 'fastapi'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
