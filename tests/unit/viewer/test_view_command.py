"""`eyas view` as a program: what it prints, what it refuses, what it serves."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from eyas.cli.view import _listen, view
from eyas.errors import ConfigError

PROGRAM = "import typer; from eyas.cli.view import _listen, view; app = typer.Typer(); app.command()(view); app()"


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """The address that is printed by a server in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, *arguments, "--port", "0", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(timeout=20)


def refused(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(view)
    result = CliRunner().invoke(app, [*arguments, "--no-browser"])
    assert isinstance(result.exception, ConfigError)
    return str(result.exception)


def test_it_serves_on_this_machine_only_and_prints_the_address(generated: Path) -> None:
    with serving(str(generated)) as address:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        with urllib.request.urlopen(f"{address}api/runs", timeout=20) as response:
            assert b'"made"' in response.read()
            assert "server" not in response.headers


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_is_stopped_leaves_nothing_behind(
    ending: signal.Signals, generated: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PROGRAM, str(generated), "--port", "0", "--no-browser"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout is not None
    with urllib.request.urlopen(f"{process.stdout.readline().strip()}api/episodes?run=made", timeout=20):
        assert list(tmp_path.iterdir())
    process.send_signal(ending)
    assert process.wait(timeout=20) == 0
    assert not list(tmp_path.iterdir())


def test_answers_are_sent_at_once_on_a_connection_that_is_kept() -> None:
    """Where the system waits for the other side before it sends the rest, each answer takes 40 ms longer."""
    with _listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP  # asyncio then turns the waiting off


def test_with_a_token_the_address_holds_it_and_is_refused_without(generated: Path) -> None:
    with serving(str(generated), "--host", "0.0.0.0", "--token") as address:
        match = re.fullmatch(r"http://0\.0\.0\.0:(\d+)/\?token=([\w-]{32})", address)
        assert match is not None
        local = f"http://127.0.0.1:{match[1]}/api/runs"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(local, timeout=20)
        with urllib.request.urlopen(f"{local}?token={match[2]}", timeout=20) as response:
            assert response.status == 200


def test_another_address_needs_a_token(generated: Path) -> None:
    assert "--token" in refused(str(generated), "--host", "0.0.0.0")


def test_a_missing_folder_and_a_select_without_export_are_said(generated: Path, tmp_path: Path) -> None:
    assert "there is no folder" in refused(str(tmp_path / "nothing"))
    assert "--export" in refused(str(generated), "--select", "stage=rl")


def test_a_port_in_use_is_said(generated: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port + 1}" in refused(str(generated), "--port", str(port))


def test_the_viewer_loads_no_torch() -> None:
    code = (
        "import sys, eyas.cli.view, eyas.viewer.server, eyas.viewer.export\n"
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
