"""`check_environment`: what is wrong with an environment has a name and a sentence, whatever the environment does."""

import json
import re
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import helpers_checks  # noqa: F401  (registers the environments)
from eyas.build import train
from eyas.checks import contract, playing, preflight
from eyas.checks.env import check_environment
from eyas.checks.recipe import fitted, minimal_recipe, short_name
from eyas.checks.report import Level, Report
from eyas.config import CollectStage, HistoryConfig, InterfaceConfig, ModelConfig, TaskConfig
from eyas.errors import ConfigError
from eyas.recipes import load_recipe
from eyas.rollouts.datasets import load_trajectories
from eyas.seeding import Split, environment_seed
from eyas.types import ParsedAction


def check(name: str, timeout_s: float = 20.0, **options) -> Report:
    return check_environment(f"checks/{name}-v0", timeout_s=timeout_s, **({"model": None, "episodes": 3} | options))


def errors(report: Report) -> dict[str, str]:
    return {finding.name: finding.detail for finding in report.of(Level.ERROR)}


# ----------------------------------------------------------------------------------------------- broken environments


@pytest.mark.parametrize(
    ("name", "failed", "told"),
    [
        ("BrokenConstructor", "made", "RuntimeError: no licence"),
        ("RaisingReset", "reset", "reset raised: RuntimeError: no board"),
        ("RaisingStep", "step", "step 1 raised: RuntimeError: the engine stalled"),
        ("DyingReset", "reset", "exit code 4"),
        ("DyingStep", "step", "exit code 3"),
        ("NaNReward", "reward", "reward for action"),
        ("OutsideSpace", "observation", "values from 7 to 7, its space Box(0.0, 1.0, (2,), float32)"),
        (
            "WrongShape",
            "observation",
            "['numbers'] is float32 (3,) with values from 0 to 0, its space Box(0.0, 1.0, (2,)",
        ),
        (
            "FourParts",
            "step",
            "step() returned a tuple of 4: return (observation, reward, terminated, truncated, info)",
        ),
        ("NoInfo", "reset", "reset() returned NoneType as info"),
        ("Unbounded", "interface", "numbers without bounds"),
        ("Unseeded", "deterministic", "another start; call super().reset(seed=seed)"),
        ("Remembering", "deterministic", "the episode before it changed it"),
        ("OfItsProcess", "deterministic", "another process gives another one"),
        ("NothingLegal", "legal actions", "in step 2: no action is legal"),
    ],
)
def test_each_broken_promise_is_the_only_error_and_says_what_it_is(name: str, failed: str, told: str) -> None:
    report = check(name)
    assert list(errors(report)) == [failed]
    assert told in errors(report)[failed]
    assert report.verdict.startswith(f"not usable: {failed}: ")
    assert not report.ok
    assert not report.recipe
    assert not report.baselines


def test_a_picture_that_render_does_not_give_is_told_with_what_to_return() -> None:
    found = errors(check("NoFrameBesideNumbers"))
    assert set(found) == {"render", "prompt"}
    assert "render() returned None" in found["render"]
    assert "return a uint8 array (height, width, 3)" in found["render"]


@pytest.mark.parametrize(
    ("name", "failed", "told"),
    [
        ("SleepingConstructor", "made", "making it took longer than 1 s"),
        ("SleepingReset", "reset", "reset took longer than 1 s"),
        ("SleepingStep", "step", "step 1 took longer than 1 s"),
    ],
)
def test_an_environment_that_sleeps_for_an_hour_is_stopped(name: str, failed: str, told: str) -> None:
    begun = time.monotonic()
    report = check(name, timeout_s=1.0)
    assert told in errors(report)[failed]
    assert time.monotonic() - begun < 20


def test_an_environment_that_sleeps_late_in_an_episode_is_stopped_in_about_the_time_of_a_step() -> None:
    begun = time.monotonic()
    assert "step 96 or soon after took longer than 1 s" in errors(check("SleepingLate", timeout_s=1.0))["step"]
    assert time.monotonic() - begun < 30


def test_one_reset_says_nothing_of_how_many_starts_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "BUDGET_S", 0.0)
    assert check("ShortCounting").named("starts")[0].detail == "one seed was tried: a reset takes too long for more"


def test_the_traceback_of_what_the_environment_raised_is_kept() -> None:
    (finding,) = check("RaisingStep").of(Level.ERROR)
    assert "go_wrong" in finding.traceback
    assert "go_wrong" in finding.to_json()["traceback"]


def test_episodes_that_only_some_seeds_lose_are_found_by_playing() -> None:
    report = check("RaisingForSomeSeeds", episodes=12)
    assert list(errors(report)) == ["lost episodes"]
    assert "of 12 random episodes were lost" in errors(report)["lost episodes"]
    assert "RuntimeError: stuck" in errors(report)["lost episodes"]
    assert report.baselines["random"]["stop_reasons"]["lost"] > 0


def test_an_unknown_id_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="FrozenLake-v1"):
        check_environment("FrozenLak-v1")


# ----------------------------------------------------------------------------------------------- what is only warned of


def test_large_pictures_cost_time_and_do_not_fail() -> None:
    report = check("BigPicture", episodes=1)
    assert report.ok
    assert [w.name for w in report.of(Level.WARNING)] == ["pictures"]
    assert "pictures of 4000x4000 pixels" in report.verdict
    assert "image_size" in report.verdict
    assert "image_size = 224" in report.recipe


def test_large_renderings_are_warned_of_too() -> None:
    report = check("BigFrame")
    assert report.verdict.startswith("usable, but pictures: pictures of 1200x1500 pixels")


def test_an_episode_without_an_end_is_warned_of_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "LONGEST_EPISODE", 1000)
    monkeypatch.setattr(playing, "LONGEST_EPISODE", 200)
    report = check("Endless", episodes=2)
    (finding,) = report.of(Level.WARNING)
    assert finding.name == "ends"
    assert "env_args = { max_episode_steps = 200 }" in finding.detail
    assert re.search(r"did not end within \d+ steps", finding.detail)
    assert "2 cut after 200 steps" in report.named("random")[0].detail
    limited = TaskConfig(env="checks/Endless-v0", env_args={"max_episode_steps": 7})
    report = check_environment(limited, model=None, episodes=2)
    assert report.verdict == "ready"
    assert report.baselines["random"]["mean_length_steps"] == 7


def test_other_characters_than_the_text_space_has_are_one_warning() -> None:
    (finding,) = check("OtherCharacters").of(Level.WARNING)
    assert finding.name == "characters"
    assert "holds ' ,'" in finding.detail
    assert "charset=string.printable" in finding.detail


def test_numbers_as_ends_are_warned_of() -> None:
    warned = {finding.name for finding in check("NumbersForEnds").of(Level.WARNING)}
    assert "ends" in warned


# ----------------------------------------------------------------------------------------------- good environments


def test_cart_pole_is_ready(tmp_path: Path) -> None:
    task = TaskConfig(env="CartPole-v1", env_args={"max_episode_steps": 100})
    report = check_environment(task, model=None, episodes=2, output=tmp_path)
    assert (report.verdict, report.ok) == ("ready", True)
    assert report.baselines["expert"]["return_mean"] > report.baselines["random"]["return_mean"]
    assert "2 different starts from 2 seeds" in report.named("starts")[0].detail
    assert "success_return = 475" in report.named("success")[0].detail
    assert "all 2 actions" in report.named("round trip")[0].detail
    with Image.open(report.prompt["pictures"][0]) as picture:
        assert picture.size == (600, 400)
    assert "push cart to the left" in (tmp_path / "prompt.txt").read_text()
    recipe = load_recipe(tmp_path / "recipe.toml")
    assert recipe.tasks[0].env == "CartPole-v1"
    assert recipe.tasks[0].interface.image_size == 224


def test_frozen_lake_with_a_model_says_what_training_would_meet() -> None:
    report = check_environment(TaskConfig(env="FrozenLake-v1", env_args={"max_episode_steps": 10}), episodes=3)
    assert report.verdict == "ready"
    assert "one start only" in report.named("starts")[0].detail
    numbers = report.preflight
    assert numbers["prompt_tokens_mean"] <= numbers["prompt_tokens_max"] < numbers["context_tokens"]
    assert numbers["completion_tokens_max"] == 64
    assert numbers["parse_rate"] == 0
    assert "a warm start (an sft stage) comes first" in report.named("parse rate")[0].detail
    returns = np.array(numbers["group_returns"])
    assert returns.shape == (4, 4)
    assert numbers["groups_without_variance"] == sum(len(set(group)) == 1 for group in returns.tolist())
    assert numbers["rollout_s"] * 1e3 == pytest.approx(
        256 * (numbers["environment_step_ms"] + numbers["sampling_step_ms"])
    )
    assert numbers["memory_gib"] == pytest.approx(numbers["parameters"] * 16 / 2**30)
    json.dumps(report.to_json(), allow_nan=False)


SMALL = ModelConfig(options={"hidden_size": 64, "intermediate_size": 96, "vision_hidden_size": 32})
QUICK = [
    "stages.collect.episodes=3",
    "stages.sft.steps=2",
    "stages.rl.iterations=1",
    "stages.rl.num_envs=2",
    "stages.rl.rollout_steps=2",
    "stages.eval.episodes=2",
]


@pytest.mark.parametrize("name", ["ShortCounting", "Factual"])
def test_the_recipe_for_an_environment_without_an_expert_trains(name: str, tmp_path: Path) -> None:
    report = check_environment(f"checks/{name}-v0", model=SMALL, episodes=2, output=tmp_path)
    assert report.verdict == "ready"
    recipe = load_recipe(tmp_path / "recipe.toml", [*QUICK, "name=own"])
    assert isinstance(recipe.stages[0], CollectStage)
    assert recipe.stages[0].policy == "random"
    run = train(recipe, output=tmp_path, console=Console(quiet=True))
    steps = [s for t in load_trajectories(run.folder / "datasets" / "collect") for s in t.steps]
    assert all(isinstance(s.parse, ParsedAction) and '"action"' in s.completion.text for s in steps)
    assert (run.folder / "report.json").exists()


def test_long_random_demonstrations_get_room() -> None:
    names = ("press the left of the two levers until it clicks", "press the other lever until it clicks", "wait")
    interface = InterfaceConfig(action_names=names, max_new_tokens=12)
    task = TaskConfig(env="checks/ShortCounting-v0", interface=interface)
    report = check_environment(task, model=SMALL, episodes=3)
    (finding,) = report.of(Level.WARNING)
    assert finding.name == "demonstrations"
    longest = report.preflight["demonstration_tokens_max"]
    assert tomllib.loads(report.recipe)["tasks"][0]["interface"]["max_new_tokens"] == longest + 8


def test_only_what_learns_takes_memory_for_gradients_and_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "BUDGET_S", 0.1)
    frozen = SMALL.model_copy(update={"freeze": ("vision", "language")})
    found = check_environment("checks/ShortCounting-v0", model=frozen, episodes=2).preflight
    embeddings = 2048 * 64  # the output's are the same
    assert found["memory_gib"] * 2**30 == pytest.approx(4 * found["parameters"] + 12 * embeddings)


def test_a_conversation_is_checked_with_a_model() -> None:
    interface = InterfaceConfig(history=HistoryConfig(kind="conversation"), max_new_tokens=16)
    report = check_environment(TaskConfig(env="checks/ShortCounting-v0", interface=interface), model=SMALL, episodes=2)
    assert report.verdict == "ready"
    assert report.preflight["prompt_tokens_mean"] < report.preflight["prompt_tokens_max"]


@pytest.mark.parametrize("name", ["LosingTraining", "LosingTrainingSteps"])
def test_episodes_that_training_would_lose_are_named(name: str) -> None:
    bad = [g for g in range(4) if (environment_seed(0, Split.TRAIN, g) >> 2) % 4 == 3]  # groups
    assert 0 < len(bad) < 4
    begun = time.monotonic()
    report = check(name, model=SMALL, episodes=2)
    assert time.monotonic() - begun < preflight.BUDGET_S  # a lost episode is not waited for
    numbers = ", ".join(str(4 * group + place) for group in bad for place in range(4))
    assert list(errors(report)) == ["lost episodes"]
    told = errors(report)["lost episodes"]
    assert told.startswith(f"training episodes {numbers} were lost to the environment; the last: ")
    assert "RuntimeError: stuck" in told
    assert [len(group) for group in report.preflight["group_returns"]] == [0 if g in bad else 4 for g in range(4)]


def test_an_environment_that_training_could_not_use_at_all_is_not_usable() -> None:
    report = check("LosingAllTraining", model=SMALL, episodes=2)
    assert not report.ok
    assert "stuck" in report.verdict or "stuck" in "".join(f.traceback for f in report.of(Level.ERROR))


def test_numbers_as_actions_are_tried_at_random() -> None:
    task = TaskConfig(env="Pendulum-v1", env_args={"max_episode_steps": 20})
    report = check_environment(task, model=None, episodes=1)
    assert "random 200 actions are read as they were written" in report.named("round trip")[0].detail
    assert report.verdict == "ready"


def test_the_interface_of_the_task_is_the_one_that_is_checked() -> None:
    interface = InterfaceConfig(format="plain", text="Count on.", action_names=("one", "two", "three"))
    report = check_environment(TaskConfig(env="checks/ShortCounting-v0", interface=interface), model=None, episodes=2)
    assert report.ok
    assert "Count on." in report.prompt["text"]
    assert "one, two or three" in report.prompt["text"]
    task = tomllib.loads(report.recipe)["tasks"][0]
    assert TaskConfig.model_validate(task).interface == interface


# ----------------------------------------------------------------------------------------------- report and recipe


def test_warnings_do_not_fail_and_errors_do() -> None:
    report = Report("x")
    report.add("a", "fine")
    assert (report.verdict, report.ok) == ("ready", True)
    report.add("b", "slow", Level.WARNING)
    assert (report.verdict, report.ok) == ("usable, but b: slow", True)
    report.add("c", "broken\nin two lines", Level.ERROR)
    assert (report.verdict, report.ok) == ("not usable: c: broken", False)
    assert [finding["ok"] for finding in report.to_json()["checks"]] == [True, True, False]


def test_the_recipe_keeps_arguments_wrappers_and_the_model(tmp_path: Path) -> None:
    task = TaskConfig.model_validate(
        {
            "env": "module:eyas/Points-v0",
            "env_args": {"words": ["a", "b"], "deep": {"x": 1}},
            "wrappers": [{"class": "gymnasium.wrappers:TimeLimit", "args": {"max_episode_steps": 5}}],
            "interface": {"history": {"kind": "last_k", "k": 2}, "text": "Line one.\n[line two]"},
        }
    )
    path = tmp_path / "recipe.toml"
    path.write_text(minimal_recipe(task, ModelConfig(name="nano-random", seed=3), False, 500.0))
    config = load_recipe(path)
    assert config.tasks == (task,)
    assert config.model == ModelConfig(name="nano-random", seed=3)
    assert config.name == "points-v0"
    collect = config.stages[0]
    assert isinstance(collect, CollectStage)
    assert collect.policy == "random"
    assert collect.episodes == 10  # long episodes: as few as that


def test_a_recipe_fits_large_pictures_and_long_demonstrations() -> None:
    interface = InterfaceConfig()
    assert fitted(interface, 320, 64) == interface
    assert fitted(interface, 321, 64).image_size == 224
    assert fitted(interface, 0, 65).max_new_tokens == 73
    assert fitted(InterfaceConfig(image_size=500), 500, 0).image_size == 500


def test_an_expert_that_writes_more_than_the_model_may_is_warned_of() -> None:
    interface = InterfaceConfig(max_new_tokens=12)
    report = check_environment(TaskConfig(env="eyas/NumberLine-v0", interface=interface), episodes=2)
    (finding,) = report.of(Level.WARNING)
    longest = report.preflight["demonstration_tokens_max"]
    assert longest > 12
    assert finding.name == "demonstrations"
    assert f"set max_new_tokens = {longest + 8}" in finding.detail
    assert tomllib.loads(report.recipe)["tasks"][0]["interface"]["max_new_tokens"] == longest + 8


@pytest.mark.parametrize(
    ("env_id", "name"),
    [
        ("CartPole-v1", "CartPole-v1"),
        ("ALE/Pong-v5", "Pong-v5"),
        ("rooms:Big rooms-v0", "Big_rooms-v0"),
        ("x:-", "environment"),
    ],
)
def test_a_name_for_folders_comes_from_the_id(env_id: str, name: str) -> None:
    assert short_name(env_id) == name
