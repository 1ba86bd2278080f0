"""Measures `eyas view` over a folder of runs, from outside: how long pages take, and how much memory the server.

    python scripts/generate_run.py /tmp/generated && python scripts/measure_viewer.py /tmp/generated

Times are in milliseconds: of a fresh server (up to `first search`, which waits until all thoughts are read), then of each
request, all over one connection as a browser keeps it; the episode is the longest one, its pictures loaded one after
the other. Beside each stands the processor time that the server spent, on all
cores together: on a machine that does other things too, it is what the time would come down to at most.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

PROGRAM = "import typer; from eyas.cli.view import view; app = typer.Typer(); app.command()(view); app()"
FILTERS: dict[str, dict[str, str]] = {
    "no filter": {},
    "success": {"success": "true"},
    "stop reason and parse failure": {"stop_reason": "truncated", "has_parse_failure": "true"},
    "return, sorted by it": {"return_min": "0.5", "sort": "-return"},
    "iterations": {"iteration_min": "10", "iteration_max": "20"},
    "last page": {"sort": "length", "offset": "99000"},
    "frequent text": {"text": "goal"},
    "rare text": {"text": "row 3 and column 5; gap"},
    "missing text": {"text": "zebra"},
    "text and success": {"text": "near far", "success": "false"},
}


class Cost(NamedTuple):
    elapsed_ms: float
    processor_ms: float  # of the server


def total(costs: Sequence[Cost]) -> Cost:
    return Cost(sum(cost.elapsed_ms for cost in costs), sum(cost.processor_ms for cost in costs))


class Caller:
    """Asks a server, and measures."""

    def __init__(self, address: str, process_id: int) -> None:
        self.connection = HTTPConnection(urlsplit(address).netloc, timeout=120)
        self.process_id = process_id

    def get(self, path: str, **parameters: Any) -> tuple[bytes, Cost]:
        """The answer, and what it cost until it was whole."""
        begun, spent = time.perf_counter(), processor_ms(self.process_id)
        self.connection.request("GET", f"/{path}?{urlencode(parameters)}")
        response = self.connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise OSError(f"{path} was answered with {response.status}: {content[:200]!r}")
        return content, Cost(1000 * (time.perf_counter() - begun), processor_ms(self.process_id) - spent)

    def json(self, path: str, **parameters: Any) -> tuple[Any, Cost]:
        content, cost = self.get(path, **parameters)
        return json.loads(content), cost


def measure(folder: Path) -> tuple[dict[str, Cost], float]:
    """What each request cost, `start` included, and the most memory that the server ever held, in MB."""
    begun = time.perf_counter()
    command = [sys.executable, "-c", PROGRAM, str(folder), "--port", "0", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        caller = Caller(process.stdout.readline().strip(), process.pid)
        numbers = {"start": Cost(1000 * (time.perf_counter() - begun), processor_ms(process.pid))}
        runs, numbers["first page"] = caller.json("api/runs")
        numbers["first page"] = total([numbers["first page"], caller.get("")[1]])
        run = runs["runs"][0]["id"]
        numbers["first table of episodes"] = caller.json("api/episodes", run=run)[1]
        numbers["first search in thoughts"] = caller.json("api/episodes", run=run, text="ice")[1]
        numbers |= {name: caller.json("api/episodes", run=run, **asked)[1] for name, asked in FILTERS.items()}
        numbers |= {path: caller.json(f"api/{path}", run=run)[1] for path in ("run", "metrics", "thoughts")}
        numbers |= _measure_episode(caller, run)
        return numbers, peak_memory(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=20)


def _measure_episode(caller: Caller, run: str) -> dict[str, Cost]:
    longest = caller.json("api/episodes", run=run, sort="-length", limit=1)[0]["rows"][0]
    episode, cost = caller.json("api/episode", run=run, key=longest["key"])
    parts = [part for step in episode["steps"] for m in step["messages"] for part in m["parts"]]
    hashes = list(dict.fromkeys(part["image"] for part in parts if "image" in part))
    pictures = [caller.get("api/image", run=run, hash=image_hash)[1] for image_hash in hashes]
    return {f"episode of {len(episode['steps'])} steps": cost, f"its {len(hashes)} pictures": total(pictures)}


# ----------------------------------------------------------------------------------------------- processes


def processor_ms(process_id: int) -> float:
    """What a process spent on all cores; not a number where the system does not tell it as Linux does."""
    status = Path(f"/proc/{process_id}/stat")
    if not status.exists():
        return math.nan
    fields = status.read_text().rpartition(")")[2].split()
    return 1000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory(process_id: int) -> float:
    """In MB; not a number where the system does not tell it as Linux does."""
    status = Path(f"/proc/{process_id}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM")), math.nan)


def main() -> None:
    costs, memory = measure(Path(sys.argv[1]))
    print(f"{'':32} {'ms':>8} {'CPU ms':>8}")
    for name, cost in costs.items():
        print(f"{name:32} {cost.elapsed_ms:8.0f} {cost.processor_ms:8.0f}")
    print(f"{'memory, MB':32} {memory:8.0f}")


if __name__ == "__main__":
    main()
