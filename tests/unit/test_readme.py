"""The README shows only what works."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import eyas
from eyas.cli import app
from eyas.recipes import shipped_recipes

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("line", [line.split("#")[0] for block in blocks("sh") for line in block.splitlines()])
def test_every_command_exists_with_its_options(line: str) -> None:
    program, *arguments = shlex.split(line)
    assert program == "eyas"
    words = [a for a in arguments if not a.startswith("-")]
    command = words[:2] if words[0] == "env" else words[:1]
    shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert all(option in shown.stdout for option in arguments if option.startswith("--"))


def test_python_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks("python"):
        exec(block, {})
    assert capsys.readouterr().out.startswith("greedy 0.0")


def test_recipe_loads(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(blocks("toml")[0])
    assert [s.kind for s in eyas.load_recipe(tmp_path / "mine.toml").stages] == ["collect", "sft", "rl", "eval"]


def test_every_shipped_recipe_is_named() -> None:
    assert all(f"`{name}`" in README for name in shipped_recipes())


def test_pictures_exist() -> None:
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (Path(__file__).parents[2] / path).exists(), path
