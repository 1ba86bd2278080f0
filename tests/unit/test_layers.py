"""What the import contracts of `pyproject.toml` cannot see: what really gets loaded, and the public names."""

import importlib
import importlib.util
import subprocess
import sys

import pytest

import eyas


def heavy_modules_after(code: str) -> str:
    """The heavy packages that a fresh interpreter has loaded after `code`, separated by spaces."""
    report = "import sys; print(*sorted({'torch', 'transformers', 'peft', 'accelerate'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "code",
    [
        "import eyas",
        "import eyas.config",
        "import eyas.types, eyas.errors, eyas.seeding",
        "import eyas.envs",
        "from eyas import load_recipe; load_recipe('numberline_ppo')",
    ],
)
def test_what_stays_without_torch(code: str) -> None:
    assert heavy_modules_after(code) == ""


def test_the_probe_sees_torch() -> None:
    assert "torch" in heavy_modules_after("import torch").split()


def test_help_loads_no_torch() -> None:
    code = """
import contextlib, io, sys
sys.argv = ["eyas", "--help"]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    from eyas.cli import main
    main()
"""
    assert heavy_modules_after(code) == ""


def test_importing_eyas_registers_the_environments() -> None:
    code = "import eyas, gymnasium; assert any(i.startswith('eyas/') for i in gymnasium.registry)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_public_names_are_sorted_and_listed() -> None:
    assert eyas.__all__ == sorted(eyas.__all__)
    assert set(eyas.__all__) == {*eyas._HOMES, "__version__"}
    assert set(eyas.__all__) <= set(dir(eyas))


@pytest.mark.parametrize("name", sorted(eyas._HOMES))
def test_every_public_name_loads(name: str) -> None:
    home = importlib.import_module(f"eyas.{eyas._HOMES[name]}")
    assert getattr(eyas, name) is getattr(home, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Agnet'"):
        _ = eyas.Agnet
