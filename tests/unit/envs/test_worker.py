"""Worker processes as seen from outside: from a script, and after the death of their parent."""

import os
import subprocess
import sys
from pathlib import Path

from helpers_envs import ends_within, is_running

WITH_HELPERS = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

SCRIPT = """
import gymnasium as gym, sys
from eyas.envs.host import EnvSource
from eyas.envs.making import env_factory
from eyas.envs.pool import WorkerPool
from helpers_envs import NoisyEnv
import beside_the_script

class Mine(NoisyEnv):
    def observe(self):
        return beside_the_script.WORD + super().observe()

gym.register("Mine-v0", Mine)
gym.register("MineByName-v0", "__main__:Mine")
pool = WorkerPool([EnvSource(env_factory("Mine-v0")), EnvSource(env_factory("MineByName-v0"))], 1)
for source in (0, 1):
    pool.start(0, source, 0)
    pool.answers()
    pool.step(0, [1])
    print(pool.answers()[0][1].observation[:12])
pool.close()
"""


def test_a_script_without_a_guard_can_play_its_own_class_and_its_output_stays_clean(tmp_path: Path) -> None:
    (tmp_path / "beside_the_script.py").write_text("WORD = 'mine: '")
    (tmp_path / "script.py").write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=WITH_HELPERS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "mine: step 1\nmine: step 1\n"
    assert run.stderr.count("a print of the environment") == run.stderr.count("a write of the environment") == 2
    assert "leaked" not in run.stderr and "ResourceWarning" not in run.stderr


PARENT = """
import time
import helpers_envs as broken
from eyas.envs.host import EnvSource
from eyas.envs.pool import WorkerPool

pool = WorkerPool([EnvSource(broken.SleepingStep), EnvSource(broken.WithProcess)], 2)
pool.start(0, 0, 0)
pool.start(1, 1, 0)
infos = {}
while len(infos) < 2:
    infos |= {slot: outcome.info for slot, outcome in pool.answers()}
pool.step(0, [1])
print(infos[0]["pid"], infos[1]["pid"], infos[1]["child"], flush=True)
time.sleep(3600)
"""


def test_no_process_outlives_a_parent_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env=WITH_HELPERS,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        hanging, idle, child = map(int, parent.stdout.readline().split())
        assert is_running(hanging) and is_running(idle) and is_running(child)
        parent.kill()
    assert ends_within(idle, 2) and ends_within(child, 2) and ends_within(hanging, 10)
