"""From id to environment: names, versions, wrappers, what is drawn, and what is said where that fails."""

import sys

import cloudpickle
import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec

import eyas.envs
import helpers_envs
from eyas.envs.making import PACKAGES, EnvFactory, env_factory, make_env
from eyas.errors import ConfigError


@pytest.fixture
def registered():
    gym.register("Counting-v0", "helpers_envs:CountingEnv", max_episode_steps=3)
    yield "Counting-v0"
    del gym.registry["Counting-v0"]


def named_wrappers(env: gym.Env) -> list[str]:
    names = []
    while isinstance(env, gym.Wrapper):
        names.append(type(env).__name__)
        env = env.env
    return names


def test_an_environment_is_made_with_its_arguments_and_limit(registered: str) -> None:
    env = make_env(registered, {"length": 7})
    assert env.unwrapped.length == 7  # type: ignore[attr-defined]
    assert "TimeLimit" in named_wrappers(env)
    assert make_env(registered, {"max_episode_steps": 9}).spec.max_episode_steps == 9  # type: ignore[union-attr]


def test_each_call_makes_another_environment(registered: str) -> None:
    factory = env_factory(registered)
    assert factory() is not factory()


def test_a_module_may_be_named_and_the_newest_version_is_taken_where_none_is() -> None:
    env = make_env("eyas.envs:eyas/NumberLine", {"mode": "text"})
    assert env.spec is not None and env.spec.id == "eyas/NumberLine-v0"


@pytest.mark.parametrize(
    ("env_id", "env_args", "render_mode"),
    [
        ("FrozenLake-v1", {}, "rgb_array"),
        ("FrozenLake-v1", {"render_mode": None}, None),
        ("eyas/NumberLine-v0", {"mode": "image"}, None),
        ("eyas/NumberLine-v0", {"mode": "text"}, None),
    ],
)
def test_what_is_no_picture_and_no_text_is_drawn(env_id: str, env_args: dict, render_mode: str | None) -> None:
    env = make_env(env_id, env_args)
    assert env.render_mode == render_mode
    env.close()


def test_a_wrapper_that_makes_a_picture_or_words_leaves_nothing_to_draw() -> None:
    env = make_env("FrozenLake-v1", {}, ["test_making_wrappers:InWords"])
    assert env.render_mode is None and env.reset(seed=0)[0] == "0"


@pytest.fixture(autouse=True)
def a_module_with_wrappers(monkeypatch: pytest.MonkeyPatch) -> None:
    class InWords(gym.ObservationWrapper):
        def __init__(self, env):
            super().__init__(env)
            self.observation_space = gym.spaces.Text(9)

        def observation(self, observation):
            return str(observation)

    module = type(sys)("test_making_wrappers")
    module.InWords = InWords  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "test_making_wrappers", module)


def test_wrappers_are_put_on_in_their_order_with_their_arguments(registered: str) -> None:
    limit = {"class": "gymnasium.wrappers:TimeLimit", "args": {"max_episode_steps": 2}}
    env = make_env(registered, {}, ["gymnasium.wrappers:RecordEpisodeStatistics", limit])
    assert named_wrappers(env)[:2] == ["TimeLimit", "RecordEpisodeStatistics"]
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        ("gymnasium.wrappers:TimeLimi", "has no TimeLimi; did you mean 'gymnasium.wrappers:TimeLimit'"),
        ("gymnasium:Env", "is no gymnasium.Wrapper"),
        ("gymnasium:register", "is no gymnasium.Wrapper"),
        ("no_such_module:Wrapper", "module 'no_such_module' cannot be imported"),
        ("TimeLimit", 'write "module:Class"'),
        ({"clas": "gymnasium.wrappers:TimeLimit"}, 'write "module:Class"'),
        ({"class": "gymnasium.wrappers:TimeLimit", "args": 3}, 'write "module:Class"'),
        ({"class": "gymnasium.wrappers:TimeLimit", "limit": 3}, 'write "module:Class"'),
        (
            {"class": "gymnasium.wrappers:TimeLimit", "args": {"limit": 3}},
            "'TimeLimit' of 'CartPole-v1' with {'limit': 3}",
        ),
    ],
)
def test_a_wrapper_that_cannot_be_used_is_refused(wrapper, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_env("CartPole-v1", {}, [wrapper])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPol-v1", "did you mean 'CartPole-v1'?"),
        ("CartPole-v9", "did you mean 'CartPole-v1'?"),
        ("eyas.envs:eyas/NumberLin-v0", "did you mean 'eyas/NumberLine-v0'?"),
        ("no_such_module:Env-v0", "module 'no_such_module' cannot be imported"),
        ("two words", "environment 'two words'"),
        ("", "environment ''"),
    ],
)
def test_an_unknown_id_is_refused_when_it_is_looked_up(env_id: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        env_factory(env_id)
    assert message in str(caught.value)


@pytest.mark.parametrize("env_id", ["MiniGrid-Moon-v0", "BabyAI-Moon-v0", "ALE/Moon-v5"])
def test_a_known_package_that_is_missing_is_named(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in PACKAGES.values():
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"pip install eyas\[envs\]"):
        env_factory(env_id)


def test_a_known_package_that_is_there_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minigrid", type(sys)("minigrid"))
    with pytest.raises(ConfigError) as caught:
        env_factory("MiniGrid-Moon-v0")
    assert "pip install" not in str(caught.value)


@pytest.mark.parametrize("env_args", [{"mode": "smell"}, {"no_such_argument": 1}])
def test_arguments_that_the_environment_refuses_are_shown(env_args: dict) -> None:
    with pytest.raises(ConfigError, match=f"environment 'eyas/NumberLine-v0' with .*{next(iter(env_args))}"):
        make_env("eyas/NumberLine-v0", env_args)


def test_a_factory_makes_what_is_not_registered_where_it_arrives() -> None:
    class Local(helpers_envs.CountingEnv):
        pass

    gym.register("Local-v0", lambda **kwargs: Local(**kwargs), max_episode_steps=4)
    travelling = cloudpickle.dumps(env_factory("Local-v0", {"length": 5}))
    del gym.registry["Local-v0"]
    env = cloudpickle.loads(travelling)()
    assert env.unwrapped.length == 5 and env.spec.max_episode_steps == 4


def test_a_class_named_in_the_main_module_is_taken_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "MainEnv", helpers_envs.CountingEnv, raising=False)
    gym.register("Main-v0", "__main__:MainEnv")
    spec = env_factory("Main-v0").spec
    del gym.registry["Main-v0"]
    assert spec.entry_point is helpers_envs.CountingEnv


def test_making_leaves_the_registered_spec_as_it_was() -> None:
    before = repr(gym.spec("eyas/NumberLine-v0"))
    factory = env_factory("eyas/NumberLine-v0", {"mode": "text"})
    factory()
    assert isinstance(factory, EnvFactory) and isinstance(factory.spec, EnvSpec)
    assert repr(gym.spec("eyas/NumberLine-v0")) == before
    assert "eyas/NumberLine-v0" in eyas.envs.REGISTRATIONS
