"""`eyas play` as a program: the process that plays, what it records, and that it goes when its server goes."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from eyas.build import build_task
from eyas.cli.play_process import answers
from eyas.config import SFTStage, TaskConfig
from eyas.rollouts.datasets import DatasetImageStore, dataset_info, load_trajectories
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.samples import supervised_samples
from eyas.training.sft import check_dataset
from eyas.types import ExecutedBy
from helpers import nano_policy

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
Talk = Callable[..., dict[str, Any]]


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Callable[..., Talk]]:
    """Starts the play in this process: what is told to it is answered by the state."""
    open_plays = []

    def start(env: str, **setup: Any) -> Talk:
        lines: list[str] = []
        about = {"env": env, "env_args": {}, "checkpoint": None, "seed": 0, "output": str(tmp_path / "played")} | setup
        told = answers(iter(lambda: lines.pop(), None))
        open_plays.append(told)

        def say(**command: Any) -> dict[str, Any]:
            lines.append(json.dumps(command))
            return next(told)

        say(**about)
        return say

    yield start
    for told in open_plays:
        told.close()


def test_the_state_shows_the_prompt_with_its_pictures_and_the_actions(talk: Any) -> None:
    say = talk("eyas/NumberLine-v0")
    state = say(do="begin", seed=0)
    assert (state["actions"], state["has_words"], state["step"], state["seed"]) == (["-", "+"], False, 0, 0)
    picture, text = state["prompt"][0]["parts"]
    assert list(state["pictures"]) == [picture["image"]] and text["text"].startswith("Move the current number")
    assert say(do="act", step=0, action=7)["problem"] == "this is none of the actions: choose one that is shown"
    state = say(do="act", step=0, action=0)
    assert state["played"] == [{"step": 0, "name": "-", "by": "human", "reward": -1.0}] and state["return"] == -1.0
    state = say(do="act", step=0, action=0)
    assert "moved on" in state["problem"] and state["step"] == 1
    assert "--checkpoint" in say(do="suggest", step=1, temperature=1)["problem"]
    assert say(do="act", step=1, action=1)["pictures"] == {}  # back at the first picture, which was sent
    say(do="act", step=2, action=1)
    state = say(do="act", step=3, action=1)
    assert state["end"] == {"reason": "terminated", "success": False, "progress": 1.0} and state["actions"] is None
    assert state["kept"] == {"episodes": 1, "steps": 4}


def test_what_the_model_would_do_is_described_as_a_recorded_step(talk: Any) -> None:
    say = talk("eyas/NumberLine-v0", checkpoint="nano-random")
    said = say(do="suggest", step=0, temperature=1.0)["suggestion"]
    assert "".join(t["text"] for t in said["tokens"]).startswith(said["completion_text"][:20])
    assert said["parse"]["ok"] is False and all(t["logprob"] < 0 for t in said["tokens"])
    state = say(do="follow", step=0, temperature=1.0)
    assert state["suggestion"] is None and state["played"][0]["by"] == "fallback"
    assert state["kept"]["episodes"] == 0


def test_the_folder_is_a_dataset_that_supervision_reads(talk: Any, tmp_path: Path) -> None:
    say = talk("eyas/NumberLine-v0", checkpoint="nano-random", env_args={"jitter": 2})
    say(do="begin", seed=0)
    say(do="follow", step=0, temperature=1.0)
    say(do="act", step=1, action=1)
    say(do="begin")
    folder = tmp_path / "played"
    info = dataset_info(folder)
    assert (info["env"], info["env_args"], info["checkpoint"]) == ("eyas/NumberLine-v0", {"jitter": 2}, "nano-random")
    (trajectory,) = load_trajectories(folder)
    assert [s.executed_by for s in trajectory.steps] == [ExecutedBy.FALLBACK, ExecutedBy.HUMAN]
    policy = nano_policy()
    assert isinstance(policy.images, MemoryImageStore)
    policy.images.attach(DatasetImageStore(folder))
    targets = [
        policy.model.decode(sample.ids[span.start : span.end])
        for sample in supervised_samples(trajectory, policy.model, policy.images)
        for span in sample.steps
    ]
    assert any('"action": "+"' in text for text in targets)


def test_an_sft_stage_takes_the_folder(talk: Any, tmp_path: Path) -> None:
    say = talk("eyas/NumberLine-v0")
    say(do="act", step=0, action=1)
    say(do="begin")
    data = f"{tmp_path / 'played'}/"
    SFTStage.model_validate({"kind": "sft", "name": "sft", "data": data, "steps": 1})
    check_dataset([build_task(TaskConfig(env="eyas/NumberLine-v0"))], data)


def test_what_cannot_be_played_is_said_before_anything_is_served(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eyas", "play", "NumberLine-v7", "--no-browser", "--output", str(tmp_path / "x")]
    run = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert run.returncode == 1 and run.stdout == ""
    assert "error: environment 'NumberLine-v7'" in run.stderr and "Traceback" not in run.stderr
    assert not (tmp_path / "x").exists()


def test_a_server_that_is_killed_takes_its_process_with_it_and_what_was_played_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "played"
    command = [sys.executable, "-m", "eyas", "play", "eyas/NumberLine-v0", "--no-browser", "--port", "0"]
    server = subprocess.Popen(
        [*command, "--output", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
    )
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    assert address.startswith("http://127.0.0.1:") and address.endswith("/#/play")
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    (player,) = (int(c) for c in children if b"play_process" in Path(f"/proc/{c}/cmdline").read_bytes())
    body = json.dumps({"do": "act", "step": 0, "action": 0}).encode()
    headers = {"X-Eyas-Play": "1", "Content-Type": "application/json"}
    request = urllib.request.Request(address.removesuffix("#/play") + "api/play/do", body, headers)
    with urllib.request.urlopen(request, timeout=20) as response:
        assert json.load(response)["state"]["step"] == 1
    server.send_signal(signal.SIGKILL)
    server.wait(timeout=10)
    end = time.monotonic() + 20
    while Path(f"/proc/{player}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{player}").exists()
    (trajectory,) = load_trajectories(folder)
    assert trajectory.stop_reason == "interrupted" and trajectory.steps[0].executed_by is ExecutedBy.HUMAN


SLOW = """
import sys, typer
from eyas.cli import play
play.COMMAND = (sys.executable, "-c", '''
import json, sys, time
for line in sys.stdin:
    time.sleep(3 if "suggest" in line else 0)
    print(json.dumps({"pictures": {}, "said": "at last"}), flush=True)
''')
app = typer.Typer()
app.command()(play.play)
app()
"""


def test_a_server_that_is_stopped_while_the_model_answers_waits_for_it_and_ends_without_a_traceback(
    tmp_path: Path,
) -> None:
    options = ["eyas/NumberLine-v0", "--no-browser", "--port", "0", "--output", str(tmp_path / "played")]
    pipe = subprocess.PIPE
    server = subprocess.Popen([sys.executable, "-c", SLOW, *options], stdout=pipe, stderr=pipe, text=True)
    assert server.stdout is not None
    address = server.stdout.readline().strip().removesuffix("#/play")
    body = json.dumps({"do": "suggest", "step": 0, "temperature": 1}).encode()
    headers = {"X-Eyas-Play": "1", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}api/play/do", body, headers)
    with ThreadPoolExecutor(1) as other:
        answer = other.submit(lambda: json.load(urllib.request.urlopen(request, timeout=30)))
        time.sleep(0.5)
        for _ in range(2):  # an impatient second time too
            server.send_signal(signal.SIGINT)
            time.sleep(0.2)
        assert answer.result().keys() >= {"state"}  # what the model said; on a busy machine, that it was ended
    _, said = server.communicate(timeout=20)
    assert server.returncode == 0
    assert "Traceback" not in said and "ERROR" not in said, said


def test_the_command_loads_no_torch() -> None:
    code = "import sys, eyas.cli.play, eyas.viewer.play; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
