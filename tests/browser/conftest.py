"""A viewer over generated runs, and a headless Chromium that looks at it.

The tests need `pip install playwright axe-playwright-python` and the program chromium, no Node: they test the committed bundle.
Where Playwright is not installed they are not collected, except where EYAS_BROWSER=1 says that they have to run.
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
HAS_PLAYWRIGHT = importlib.util.find_spec("playwright") is not None
collect_ignore_glob = [] if HAS_PLAYWRIGHT or os.environ.get("EYAS_BROWSER") == "1" else ["test_*.py"]

START_MS = 120_000  # a process that loads torch, on a busy machine
OpenPage = Callable[..., "Page"]


@pytest.fixture(scope="session")
def generator() -> ModuleType:
    """The script that writes runs, as a module."""
    spec = importlib.util.spec_from_file_location("generate_run", ROOT / "scripts/generate_run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def runs(generator: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three seeds of one recipe: 150 short episodes in 6 iterations, 2 conversations of 8 steps each."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        generator.generate_run(
            folder / f"maze-{seed}", episodes=150, steps=4, iterations=6, longest=8, conversations=2, seed=seed
        )
    return folder


@pytest.fixture(scope="session")
def site(runs: Path) -> Iterator[str]:
    """The address of a server over the runs."""
    import uvicorn

    from eyas.viewer.answers import Answers
    from eyas.viewer.folders import Library
    from eyas.viewer.server import create_app

    answers = Answers(Library([runs]))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(answers), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join(timeout=10)
    answers.close()


@pytest.fixture(scope="session")
def scored(site: str) -> dict[str, Any]:
    """An episode of maze-0 with three steps or more, each with an action that was chosen by scoring."""
    for index in range(25):
        episode = ask(site, f"api/episode?run=maze-0&key=rl_000001:{index}")
        if len(episode["steps"]) >= 3 and all(step["action_probabilities"] for step in episode["steps"]):
            return episode
    raise AssertionError("the generated run has no such episode")


def ask(site: str, path: str) -> Any:
    """What the server answers, without a browser."""
    with urllib.request.urlopen(site + path) as response:
        return json.load(response)


@dataclass
class Played:
    """`eyas play` as a program of its own."""

    address: str  # of the page, without the view
    folder: Path  # that gets the demonstrations
    process: "subprocess.Popen[str]"

    def player(self) -> int:
        """The id of the process that owns environment and model."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return next(int(c) for c in children if b"play_process" in Path(f"/proc/{c}/cmdline").read_bytes())


@contextmanager
def playing(folder: Path, *arguments: str) -> Iterator[Played]:
    command = [sys.executable, "-m", "eyas", "play", *arguments, "--port", "0", "--no-browser", "--output", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.endswith("#/play"), "eyas play did not start"
        yield Played(address.removesuffix("#/play"), folder, process)
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def play_pendulum(tmp_path: Path) -> Iterator[Played]:
    """A person plays Pendulum alone, for this test only."""
    with playing(tmp_path / "played", "Pendulum-v1") as played:
        yield played


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """A person plays NumberLine alone."""
    with playing(tmp_path_factory.mktemp("play") / "alone", "eyas/NumberLine-v0") as played:
        yield played


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """A person and a model with random weights play NumberLine."""
    folder = tmp_path_factory.mktemp("play") / "together"
    with playing(folder, "eyas/NumberLine-v0", "--checkpoint", "nano-random") as played:
        yield played


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    assert program, "the program chromium is missing: install it, on Debian by `apt-get install chromium`"
    with sync_playwright() as playwright:
        # No sandbox: it cannot start in a container that runs as root, and the page is our own.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: "Browser", site: str) -> "Iterator[OpenPage]":
    """Opens views, each in a fresh profile. At the end no page may have logged an error or a warning."""
    contexts: list[Any] = []
    logged: list[str] = []

    def open_view(
        view: str = "#/runs", width: int = 1280, theme: Literal["light", "dark"] = "light", base: str = site
    ) -> "Page":
        context = browser.new_context(
            viewport={"width": width, "height": 860}, color_scheme=theme, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda m: logged.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.goto(base + view)
        page.locator("main :is(h1, [role=alert])").first.wait_for()
        return page

    yield open_view
    for context in contexts:
        context.close()
    assert not logged
