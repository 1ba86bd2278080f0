"""Agents: how an environment is asked about that a checkpoint was trained on, or was not."""

import json
import logging
from types import SimpleNamespace

import gymnasium as gym
import pytest

from eyas.build import Agent, evaluate, train
from eyas.config import TaskConfig
from eyas.errors import ConfigError
from eyas.files import alone
from eyas.rollouts.images import MemoryImageStore
from eyas.training.run import AGENT_FILE
from helpers import nano_policy


@pytest.fixture(scope="module")
def policy():
    return nano_policy()


def agent(policy, env, interface=None, **options) -> Agent:
    task = TaskConfig.model_validate({"env": env, "interface": interface or {}, **options})
    return Agent(policy, MemoryImageStore(), (task,))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and r.name == "eyas.build"]


def test_a_task_of_training_is_found_under_each_of_its_names(policy, caplog) -> None:
    named = {"text": "Push.", "bins": 3}
    limited = {"max_episode_steps": 7}
    for trained, asked in [
        ("gymnasium.envs.classic_control:Pendulum-v1", "Pendulum-v1"),
        ("Pendulum-v1", "gymnasium.envs.classic_control:Pendulum-v1"),
        ("Pendulum", "Pendulum-v1"),
    ]:
        task = agent(policy, trained, named, env_args=limited).task(asked)
        assert task.interface.description.text == "Push."
        assert len(task.interface.codec.names) == 3
        spec = task.make_env().spec
        assert spec is not None and spec.max_episode_steps == 7
    assert not warnings(caplog)


def test_another_environment_is_asked_about_without_what_fits_that_of_training_alone(policy, caplog) -> None:
    trained = {"text": "Push.", "bins": 5, "max_actions": 3, "separator": ";", "format": "plain", "max_new_tokens": 9}
    task = agent(policy, "Pendulum-v1", trained).task("FrozenLake-v1")
    assert task.interface.codec.actions == (0, 1, 2, 3)
    assert (type(task.interface.format).__name__, task.interface.max_new_tokens) == ("PlainFormat", 9)
    assert "Push." not in task.interface.description.text
    assert warnings(caplog) == [
        "FrozenLake-v1 was not trained on, only Pendulum-v1: it is asked about in the way of the first"
    ]


def test_actions_that_cannot_be_scored_are_written_by_an_agent_that_scored(policy, caplog) -> None:
    scoring = agent(policy, "FrozenLake-v1", {"action_mode": "score"})
    assert scoring.task("Pendulum-v1").interface.action_mode == "text"
    assert "written as text" in warnings(caplog)[-1]
    assert scoring.task("CliffWalking-v1").interface.action_mode == "score"


def test_a_checkpoint_outlives_the_module_of_its_environment(policy) -> None:
    assert agent(policy, "a_module_that_is_gone:Lamp-v0").task("FrozenLake-v1").env_id == "FrozenLake-v1"


def test_an_agent_that_was_never_trained_is_warned_of_nothing(policy, caplog) -> None:
    Agent(policy, MemoryImageStore()).task("FrozenLake-v1")
    assert not warnings(caplog)


def test_a_checkpoint_in_the_home_folder_is_one_too(policy, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    policy.save(tmp_path / "sft")
    about = {"tasks": [{"env": "FrozenLake-v1"}], "training_starts": ["a"]}
    (tmp_path / "sft" / AGENT_FILE).write_text(json.dumps(about))
    found = Agent.from_pretrained("~/sft")
    assert (found.name, [t.env for t in found.tasks], found.training_starts) == ("sft", ["FrozenLake-v1"], {"a"})


class Seeded(gym.Env):
    """An environment with an argument that the evaluation has a parameter of the same name for."""

    observation_space = gym.spaces.Discrete(9)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, seed: int = 0, render_mode: str | None = None):
        self.start = seed

    def reset(self, *, seed=None, options=None):
        return self.start, {}

    def step(self, action):
        return self.start, float(self.start), True, False, {}


def test_an_argument_of_the_environment_may_be_called_like_one_of_the_evaluation(policy) -> None:
    gym.register("Seeded-v0", Seeded)
    short = agent(policy, "Seeded-v0", {"max_new_tokens": 1})
    report = evaluate(short, "Seeded-v0", 1, seed=0, decodings=["greedy"], env_args={"seed": 7})
    gym.registry.pop("Seeded-v0")
    assert report.rows[0].return_mean == 7.0
    assert report.env_args == {"seed": 7}


def test_a_run_that_another_process_trains_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("eyas.build.build_run", lambda config, console: SimpleNamespace(folder=tmp_path))
    monkeypatch.setattr("eyas.build.run_stages", lambda run, resume: None)
    with alone(tmp_path, ".train.lock", ""), pytest.raises(ConfigError, match="another process is training"):
        train("numberline_ppo", resume=True)
    train("numberline_ppo", resume=True)
