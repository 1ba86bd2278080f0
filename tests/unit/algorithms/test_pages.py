"""The pages of docs/algorithms say what the code does: defaults, tests that exist, recipes that load."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from eyas.algorithms.options import AlgorithmOptions
from eyas.algorithms.registry import PAPERS
from eyas.config import RunConfig

ROOT = Path(__file__).parents[3]
PAGES = ROOT / "docs" / "algorithms"
NEUTRAL = {n: f.default for n, f in AlgorithmOptions.model_fields.items() if n != "name"}


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text()


def defaults_in(text: str) -> dict[str, Any]:
    rows = re.findall(r"^\| `(\w+)` \| (?:`([^`]*)`|none) \|", text, re.MULTILINE)
    return {name: tomllib.loads(f"x = {value}")["x"] if value else None for name, value in rows}


def test_the_overview_lists_every_option_with_its_default() -> None:
    assert defaults_in(page("README")) == NEUTRAL


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_a_page_lists_what_its_paper_changes(name: str) -> None:
    options = PAPERS[name]()
    changed = {n: getattr(options, n) for n, default in NEUTRAL.items() if getattr(options, n) != default}
    assert defaults_in(page(name)) == changed
    assert f"[{name}]({name}.md)" in page("README")


@pytest.mark.parametrize("file", sorted(p.stem for p in PAGES.glob("*.md")))
def test_the_tests_that_a_page_names_exist(file: str) -> None:
    assert file == "README" or file in PAPERS
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page(file))
    assert named
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text()


@pytest.mark.parametrize("file", ["README", "vl_dac", "vagen", "gtr"])
def test_the_recipes_of_a_page_load(file: str) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", page(file), re.DOTALL)
    if "[[stages]]" not in block:
        block = block.replace("[stages.algorithm]", '[[stages]]\nkind = "rl"\niterations = 1\n[stages.algorithm]')
    run = RunConfig.model_validate(tomllib.loads(f'name = "x"\ntasks = [{{ env = "a" }}]\n{block}'))
    assert run.stages[0].kind == "rl"
