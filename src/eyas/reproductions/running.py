"""Runs the jobs of a definition in processes of their own. What is finished is not run again, what was begun goes on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, Any

from eyas.errors import ConfigError
from eyas.evaluation.records import read_metrics
from eyas.files import alone
from eyas.recipes import to_toml
from eyas.reproductions import Job

ATTEMPTS = "attempts.jsonl"  # one line for each process that worked on a run: seconds, and whether it finished
POLL_S = 1.0
TRAIN = (sys.executable, "-m", "eyas", "train")
OnProgress = Callable[[int, dict[str, float | None]], None]  # runs that are done, share done of those that are not


def run_all(jobs: Sequence[Job], parallel: int, threads: int | None, on_progress: OnProgress) -> dict[Job, str]:
    """Runs what is not finished; returns the jobs that failed, each with the last line that it wrote.

    `threads` of each process; None leaves it to torch. An interruption lets the processes save, and is raised again.
    """
    failed: dict[Job, str] = {}
    folder = jobs[0].folder.parent
    at_work = f"processes of another `eyas reproduce` are at work in {folder}: wait for them, or choose another --runs"
    with alone(folder, ".reproduce.lock", at_work) as lock, _Processes(threads, lock) as processes:
        left = [job for job in jobs if not is_finished(job)]
        with ThreadPoolExecutor(parallel) as pool:
            futures: dict[Future[str | None], Job] = {pool.submit(processes.run, job): job for job in left}
            try:
                _watch(futures, failed, len(jobs) - len(left), on_progress)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                processes.stop()
                raise
    return failed


def _watch(futures: dict[Any, Job], failed: dict[Job, str], num_done: int, on_progress: OnProgress) -> None:
    waiting = set(futures)
    while waiting:
        ended, waiting = wait(waiting, timeout=POLL_S, return_when=FIRST_COMPLETED)
        for future in ended:
            num_done += 1
            if (error := future.result()) is not None:
                failed[futures[future]] = error
        running = [futures[f] for f in waiting if f.running()]
        on_progress(num_done, {f"{job.arm}-{job.seed}": share_done(job) for job in running})


class _Processes:
    """The processes at work. Each leads a group of its own, so that Ctrl-C reaches it once, from here."""

    def __init__(self, threads: int | None, lock: IO[str] | None):
        count = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        self.options: dict[str, Any] = {"env": os.environ | count, "start_new_session": True}
        if lock is not None:  # a process that outlives this one still holds the lock
            self.options["pass_fds"] = (lock.fileno(),)
        self.running: set[subprocess.Popen[Any]] = set()
        self.is_stopping = threading.Event()

    def __enter__(self) -> "_Processes":
        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        in_main = threading.current_thread() is threading.main_thread()
        self._before = signal.signal(signal.SIGTERM, interrupt) if in_main else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def run(self, job: Job) -> str | None:
        """Runs one job to its end; the last line that it wrote where it failed."""
        recipe, log = (Path(f"{job.folder}.{ending}") for ending in ("toml", "log"))
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(to_toml(job.config), encoding="utf-8")
        resume = ["--resume"] if (job.folder / "config.toml").exists() else []
        begun = time.monotonic()
        with log.open("ab") as file:
            command = [*TRAIN, str(recipe), *resume]
            process = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, **self.options)
            self.running.add(process)
            if self.is_stopping.is_set():
                self.stop()
            cpu_s = _wait(process)
            self.running.discard(process)
        is_done = process.returncode == 0
        if job.folder.is_dir():
            attempt = {"wall_s": time.monotonic() - begun, "cpu_s": cpu_s, "is_finished": is_done}
            with (job.folder / ATTEMPTS).open("a") as file:
                file.write(json.dumps(attempt) + "\n")
        return None if is_done else _last_line(log, process.returncode)

    def stop(self) -> None:
        """Asks each process to save and to end."""
        self.is_stopping.set()
        for process in list(self.running):
            process.send_signal(signal.SIGINT)


def _wait(process: subprocess.Popen[Any]) -> float | None:
    """Waits, and returns the seconds of CPU time, where the system tells them."""
    if not hasattr(os, "wait4"):
        process.wait()
        return None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def _last_line(log: Path, returncode: int) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it ended with exit code {returncode}"


# ----------------------------------------------------------------------------------------------- where a run stands


def attempts(job: Job) -> list[dict[str, Any]]:
    """The processes that worked on the run, in order."""
    path = job.folder / ATTEMPTS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def is_finished(job: Job) -> bool:
    """Raises `ConfigError` where the folder holds a run of another configuration."""
    path = job.folder / "config.toml"
    if path.exists() and path.read_bytes() != to_toml(job.config).encode():
        raise ConfigError(f"{job.folder} holds a run of another configuration: remove it, or choose another --runs")
    return any(attempt["is_finished"] for attempt in attempts(job))


def share_done(job: Job) -> float:
    """How far a run is, by its stages and the iterations of its rl stages."""
    records = read_metrics(job.folder / "metrics.jsonl")
    names = [stage.name for stage in job.config.stages]
    if not records or records[-1]["stage"] not in names:
        return 0.0
    index = names.index(records[-1]["stage"])
    most = getattr(job.config.stages[index], "iterations", None) or getattr(job.config.stages[index], "steps", None)
    return (index + min(1.0, records[-1]["iteration"] / (most or 1))) / len(names)
