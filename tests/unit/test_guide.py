"""The guide shows only what works: its files are written, its code and commands run in order, its outputs are what comes out."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import gymnasium as gym
import pytest

import eyas
from eyas.config import HistoryConfig, InterfaceConfig, TaskConfig
from eyas.envs.catalog import CATALOG
from eyas.envs.experts import EXPERTS
from eyas.interface import FORMATS

REPOSITORY = Path(__file__).parents[2]
GUIDE = REPOSITORY / "docs" / "your_environment.md"
TIMEOUT_S = 300


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of each, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def agrees(shown: str, printed: str) -> bool:
    """A line "..." stands for any lines; spaces at the ends of lines do not count."""
    lines = [".*" if line == "..." else re.escape(line.rstrip()) for line in shown.strip().splitlines()]
    tidied = "\n".join(line.rstrip() for line in printed.strip().splitlines())
    return re.fullmatch("\n".join(lines), tidied, re.DOTALL) is not None


def forget_module(name: str) -> None:
    sys.modules.pop(name, None)
    for env_id in [i for i, spec in gym.registry.items() if str(spec.entry_point).startswith(f"{name}:")]:
        del gym.registry[env_id]


class Reader:
    """Does what a reader does, block after block, in the current folder."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "reader"}
        self.printed = ""

    def do(self, language: str, block: str) -> None:
        head = re.match(r"# (\w+\.(?:py|toml))(, continued)?\n", block)
        if head:
            with open(head[1], "a" if head[2] else "w") as file:
                file.write(f"\n\n{block}" if head[2] else block)
            forget_module(Path(head[1]).stem)  # the code that follows is a new session's
        if language == "toml":
            assert head, f"a recipe without a name: {block}"
            eyas.load_recipe(head[1])
        elif language == "python" and not head:
            self.run_code(block)
        elif language == "sh":
            self.run_commands(block)
        elif language == "text":
            assert agrees(block, self.printed), f"the guide shows\n{block}\nbut there came\n{self.printed}"

    def run_code(self, block: str) -> None:
        written = io.StringIO()
        with contextlib.redirect_stdout(written):
            exec(compile(block, str(GUIDE), "exec"), self.names)
        self.printed = written.getvalue()

    def run_commands(self, block: str) -> None:
        for line in block.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            assert program == "eyas"
            environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "80"}
            command = [sys.executable, "-m", "eyas", *arguments]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            self.printed = done.stdout


@pytest.mark.slow
def test_the_guide_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    reader = Reader()
    with mock.patch.dict(gym.registry), mock.patch.dict(EXPERTS), mock.patch.dict(FORMATS):
        try:
            for language, block in blocks(GUIDE.read_text()):
                reader.do(language, block)  # compares what is printed
            assert (tmp_path / "runs/lights/report.json").exists()
        finally:
            forget_module("my_env")


def test_every_key_of_an_interface_is_named() -> None:
    text = GUIDE.read_text()
    keys = {*InterfaceConfig.model_fields, *TaskConfig.model_fields} - {"interface", "env", "weight"}
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []


def test_every_format_and_history_is_shown() -> None:
    text = GUIDE.read_text()
    formats = [name for name, form in FORMATS.items() if form.__module__.startswith("eyas.")]
    kinds = get_args(HistoryConfig.model_fields["kind"].annotation)
    assert len(formats) > 5 and len(kinds) > 3
    assert [name for name in (*formats, *kinds) if f'"{name}"' not in text] == []


def test_the_readme_names_every_environment_with_what_installs_it() -> None:
    rows = [line for line in (REPOSITORY / "README.md").read_text().splitlines() if line.startswith("| ")]
    for entry in CATALOG:
        (row,) = (line for line in rows if f"`{entry.id}`" in line and line.count("|") == 4)
        assert (f"`eyas[{entry.extra}]`" if entry.extra else "nothing more") in row
        assert all(needed in row for needed in (*entry.programs, *entry.variables))


def test_what_the_index_of_the_documentation_names_is_there() -> None:
    folder = REPOSITORY / "docs"
    named = re.findall(r"\]\((.*?)\)", (folder / "README.md").read_text())
    assert [path for path in named if not (folder / path).exists()] == []
    pages = {str(page.relative_to(folder)) for page in folder.rglob("*.md")} - {"README.md"}
    pages -= {page for page in pages if page.endswith("/remarks.md")}  # part of the results page above them
    assert pages <= set(named)


@pytest.mark.parametrize(
    ("shown", "printed", "is_same"),
    [
        ("a\nb\n", "a  \nb\n", True),
        ("a\n...\nd", "a\nb\nc\nd", True),
        ("a\n...\nd", "a\nb\nc", False),
        ("a ... d", "a b d", False),
        ("a", "a\nb", False),
    ],
)
def test_what_is_shown_is_compared_line_by_line(shown: str, printed: str, is_same: bool) -> None:
    assert agrees(shown, printed) is is_same
