"""`eyas env check` as it is typed."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eyas.cli import app, main

runner = CliRunner()


def test_a_good_environment_gives_json_alone_on_stdout_and_files(tmp_path: Path) -> None:
    folder = tmp_path / "seen"
    command = [
        "env",
        "check",
        "helpers_checks:checks/Printing-v0",
        "--episodes",
        "3",
        "--output",
        str(folder),
        "--json",
    ]
    result = runner.invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["id"], report["ok"], report["verdict"]) == ("helpers_checks:checks/Printing-v0", True, "ready")
    assert {"name", "ok", "detail", "level"} <= report["checks"][0].keys()
    assert report["preflight"]["model"] == "nano-random"
    assert report["recipe_path"] == str(folder / "recipe.toml")
    assert (folder / "recipe.toml").read_text() == report["recipe"]
    assert (folder / "prompt.txt").exists()
    assert "watching resets and steps" in result.stderr


def test_a_broken_environment_is_reported_and_fails(tmp_path: Path) -> None:
    command = ["env", "check", "helpers_checks:checks/RaisingStep-v0", "--output", str(tmp_path)]
    result = runner.invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 1
    assert "Verdict: not usable: step: step 1 raised: RuntimeError: the engine stalled" in result.stdout
    assert "go_wrong" in result.stdout  # the environment's own traceback
    assert "Next:" not in result.stdout


def test_a_recipe_brings_its_arguments_and_its_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "own.toml"
    recipe.write_text(
        '[[tasks]]\nenv = "helpers_checks:checks/Endless-v0"\nenv_args = { max_episode_steps = 3 }\n'
        '[tasks.interface]\ntext = "Go on counting."\n[[stages]]\nkind = "eval"\n'
    )
    result = runner.invoke(app, ["env", "check", "--recipe", str(recipe), "--episodes", "2"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "Go on counting." in result.stdout
    assert "Verdict: ready" in result.stdout
    assert "Next: eyas train env_check_Endless-v0/recipe.toml" in result.stdout
    assert (tmp_path / "env_check_Endless-v0" / "recipe.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["CartPol-v1"], "CartPole-v1"),
        ([], "eyas env check CartPole-v1"),
        (["CartPole-v1", "--recipe", "numberline_ppo"], "not both"),
        (["CartPole-v1", "--env-arg", "mode"], "key=value"),
    ],
)
def test_what_cannot_be_checked_says_what_to_type(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["eyas", "env", "check", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert told in capsys.readouterr().err
