"""A small run of the generator, written once, and a client of a server over a folder."""

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi.testclient import TestClient

from eyas.viewer.answers import Answers
from eyas.viewer.folders import Library
from eyas.viewer.server import create_app

SCRIPT = Path(__file__).parents[3] / "scripts/generate_run.py"
Serve = Callable[..., TestClient]


@pytest.fixture(scope="session")
def generator() -> ModuleType:
    """The script that writes runs, as a module."""
    spec = importlib.util.spec_from_file_location("generate_run", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def generated(generator: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: 60 short episodes in 4 iterations, 2 conversations of 8 steps. Copy it before a change."""
    folder = tmp_path_factory.mktemp("runs") / "made"
    generator.generate_run(folder, episodes=60, steps=3, iterations=4, longest=8, conversations=2)
    return folder


@pytest.fixture
def run(generated: Path, tmp_path: Path) -> Path:
    """A copy of the generated run, alone in its folder."""
    return Path(shutil.copytree(generated, tmp_path / "runs" / "made"))


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves folders; the client is called by a name of this machine."""
    with ExitStack() as stack:

        def start(*folders: Path, **options: Any) -> TestClient:
            answers = Answers(Library(folders))
            stack.callback(answers.close)
            app = create_app(answers, **options)
            return TestClient(app, base_url="http://localhost", raise_server_exceptions=False, follow_redirects=False)

        yield start


@pytest.fixture(scope="session")
def client(generated: Path) -> Iterator[TestClient]:
    """A server over the generated run, for tests that change nothing."""
    answers = Answers(Library([generated.parent]))
    yield TestClient(create_app(answers), base_url="http://localhost", raise_server_exceptions=False)
    answers.close()
