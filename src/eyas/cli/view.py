"""`eyas view`"""

import contextlib
import signal
import socket
import sys
import threading
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from eyas.cli.arguments import Host, NoBrowser, Port, Token
from eyas.errors import ConfigError

END_TIMEOUT_S = 10  # for the questions that are open; longer than a play takes to save and end


def view(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Runs, or folders that hold runs. [default: runs]")
    ] = None,
    port: Port = 7860,
    host: Host = "127.0.0.1",
    no_browser: NoBrowser = False,
    token: Token = False,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one HTML file that needs no server, and serve nothing.")
    ] = None,
    select: Annotated[
        str, typer.Option(metavar="QUERY", help="Episodes that --export takes, as in 'stage=rl&sort=-return&limit=50'.")
    ] = "",
) -> None:
    """Show runs in the browser, also while they train: curves, episodes step by step, thoughts, evaluations.

    Run folders are only read, and nothing outside them is served.
    """
    try:
        from eyas.viewer.answers import Answers
        from eyas.viewer.folders import Library
    except ImportError as error:
        raise ConfigError(f"the viewer needs {error.name}: type `pip install eyas[viewer]`") from error
    if select and export is None:
        raise ConfigError("--select chooses what --export holds: give --export FILE too")
    answers = Answers(Library(runs or [Path("runs")]))
    try:
        if export is not None:
            _export(answers, export, select)
        else:
            serve(answers, host, port, token, not no_browser)
    finally:
        answers.close()


def _export(answers: Any, path: Path, select: str) -> None:
    from eyas.viewer.export import write_export

    for note in write_export(answers, path, select):
        print(note, file=sys.stderr)
    print(path)


def serve(answers: Any, host: str, port: int, has_token: bool, opens_browser: bool, play: Any = None) -> None:
    """Serves until a signal ends it; the page opens on the `play` where there is one."""
    import uvicorn

    from eyas.viewer.guard import LOOPBACK, new_token
    from eyas.viewer.server import create_app

    is_local = host in LOOPBACK
    if not is_local and not has_token:
        raise ConfigError(f"--host {host} lets other machines read your runs: add --token, or leave --host out")
    token = new_token() if has_token else None
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")
    address += "#/play" if play else ""
    print(address, flush=True)
    print("serving until Ctrl-C", file=sys.stderr)
    threading.Thread(target=answers.warm, name="eyas-view-warm", daemon=True).start()
    if opens_browser:
        threading.Timer(0.5, webbrowser.open, [address]).start()
    app = create_app(answers, LOOPBACK if is_local else (), token, play)
    server = uvicorn.Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=END_TIMEOUT_S
        )
    )
    _end_well(server, play)
    # The server hands a signal on when it has stopped: a default handler would end the program before it has cleaned up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def _end_well(server: Any, play: Any) -> None:
    """Lets a signal end the `play` first: the server waits for its answers, and a model may take its time."""
    handle_exit = server.handle_exit

    def stop(number: int, frame: Any) -> None:
        if server.should_exit:  # a second one would tear open questions down, with a traceback of each
            return
        print("ending", file=sys.stderr)
        if play:
            threading.Thread(target=play.close).start()
        handle_exit(number, frame)

    server.handle_exit = stop


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # Said to be TCP, asyncio sends the end of an answer at once; else it waits 40 ms for the other side each time.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)  # from now on, so that who reads the printed address can call it
    except OSError as error:
        raise ConfigError(f"{host}:{port} cannot be served on ({error.strerror}): try --port {port + 1}") from error
    return listener
