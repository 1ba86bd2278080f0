import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from eyas import config as config_module
from eyas import stage_config
from eyas.config import CollectStage, EvalStage, OptimConfig, RLStage, RunConfig, SFTStage
from eyas.errors import ConfigError
from eyas.recipes import load_recipe, shipped_recipes, to_toml
from eyas.types import FailureEffect

COLLECT: dict[str, Any] = {"kind": "collect", "episodes": 4}
SFT: dict[str, Any] = {"kind": "sft", "steps": 10}
RL: dict[str, Any] = {"kind": "rl", "iterations": 2}


def run_table(*stages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"name": "run", "tasks": [{"env": "eyas/X-v0"}], "stages": list(stages or (COLLECT, SFT, RL)), **changes}


def message(table: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        RunConfig.model_validate(table)
    return str(caught.value)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    text = """
    [model]
    options = { width = 64, depth = 2 }
    [[tasks]]
    env = "eyas/X-v0"
    env_args = { size = 3 }
    [[stages]]
    kind = "collect"
    episodes = 4
    [[stages]]
    kind = "sft"
    steps = 10
    [[stages]]
    kind = "sft"
    name = "arm"
    steps = 10
    [[stages]]
    kind = "rl"
    iterations = 2
    """
    return write(tmp_path / "mine.toml", text)


# --------------------------------------------------------------------------------------------- the parts


def test_a_run_fills_in_defaults() -> None:
    run = RunConfig.model_validate(run_table())
    collect, sft, rl = run.stages
    assert isinstance(collect, CollectStage)
    assert isinstance(sft, SFTStage)
    assert isinstance(rl, RLStage)
    assert (collect.name, sft.name, rl.name) == ("collect", "sft", "rl")
    assert (sft.data, rl.rollout_steps, rl.rollout_episodes) == ("collect", 8, None)
    assert run.model.name == "nano-random"
    assert run.tasks[0].interface.on_parse_failure is FailureEffect.RANDOM_LEGAL


def with_interface(**interface: Any) -> dict[str, Any]:
    return run_table(tasks=[{"env": "eyas/X-v0", "interface": interface}])


@pytest.mark.parametrize(
    ("history", "told"),
    [
        ({"k": 2}, "k = 2 does nothing with kind 'none': remove it, or set kind = 'last_k'"),
        ({"kind": "last_k", "keep_images": 3}, "keep_images = 3 does nothing with kind 'last_k'"),
        ({"kind": "summary", "older_images": "downscale"}, "older_images = 'downscale' does nothing"),
        ({"kind": "conversation", "older_images": "downscale"}, "set keep_images"),
    ],
)
def test_an_option_of_a_history_that_would_do_nothing_is_refused(history: dict[str, Any], told: str) -> None:
    assert told in message(with_interface(history=history))


def test_a_history_that_was_written_out_with_its_defaults_is_read_again() -> None:
    histories = [{"kind": "last_k", "k": 2}, {"kind": "conversation", "keep_images": 1, "older_images": "downscale"}]
    for history in [{}, *histories]:
        run = RunConfig.model_validate(with_interface(history=history))
        assert RunConfig.model_validate(run.model_dump(mode="json", by_alias=True)) == run


def test_several_choices_are_named_by_a_list_for_each() -> None:
    names = [["left", "right"], ["open", "shut"]]
    run = RunConfig.model_validate(with_interface(action_names=names))
    assert run.tasks[0].interface.action_names == (("left", "right"), ("open", "shut"))
    flat = RunConfig.model_validate(with_interface(action_names=["left", "right"]))
    assert flat.tasks[0].interface.action_names == ("left", "right")
    assert "action_names" in message(with_interface(action_names=["left", ["open", "shut"]]))


@pytest.mark.parametrize(
    ("length", "told"),
    [
        ({"rollout_steps": 8}, "group_size = 4 needs whole episodes"),
        ({}, "group_size = 4 needs whole episodes"),
        ({"rollout_episodes": 10}, "rollout_episodes = 10 is no multiple of group_size = 4"),
    ],
)
def test_a_group_is_never_cut(length: dict[str, int], told: str) -> None:
    assert told in message(run_table({**RL, **length, "group_size": 4}))
    assert RunConfig.model_validate(run_table({**RL, "rollout_episodes": 8, "group_size": 4}))


def test_a_run_is_frozen() -> None:
    run = RunConfig.model_validate(run_table())
    with pytest.raises(ValidationError, match="frozen"):
        run.seed = 3


def test_defaults_are_not_shared() -> None:
    first, second = RunConfig.model_validate(run_table()), RunConfig.model_validate(run_table())
    assert first.tasks[0].env_args is not second.tasks[0].env_args


def test_the_constructor_raises_the_same_error() -> None:
    with pytest.raises(ConfigError, match="tasks: is required"):
        RunConfig(name="run", stages=(RLStage(iterations=1),))  # pyright: ignore[reportCallIssue]


def test_every_field_is_described() -> None:
    obvious = {
        "kind",
        "episodes",
        "task",
        "evaluate_episodes",
        "interface",
        "optim",
        "model",
        "tasks",
        "decodings",
        "betas",
        "name",  # of an algorithm
    }
    there = [*vars(config_module).values(), *vars(stage_config).values()]
    parts = {p for p in there if isinstance(p, type) and issubclass(p, config_module.Config)}
    assert len(parts) == 18
    assert [
        f"{p.__name__}.{n}" for p in parts for n, f in p.model_fields.items() if not f.description and n not in obvious
    ] == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sed": 1}, "sed: unknown key; did you mean 'seed'?"),
        ({"zzz": 1}, "zzz: unknown key; known: name, seed, output, track"),
        ({"model": {"dtyp": "x"}}, "model.dtyp: unknown key; did you mean 'dtype'?"),
        ({"dtype": "float32"}, "dtype: unknown key; did you mean 'model.dtype'?"),
        ({"tasks": [{"env": "a"}, {"env": "b", "wieght": 1}]}, "tasks.1.wieght: unknown key; did you mean 'weight'?"),
        (
            {"tasks": [{"env": "a", "interface": {"formt": 1}}]},
            "tasks.0.interface.formt: unknown key; did you mean 'format'?",
        ),
        ({"stages": [{**RL, "optim": {"beta": 1}}]}, "stages.0.optim.beta: unknown key; did you mean 'betas'?"),
        ({"stages": [{**RL, "lr": 1}]}, "stages.0.lr: unknown key; did you mean 'optim.lr'?"),
        ({"stages": [{**RL, "kind": "rll"}]}, "stages.0: unknown kind 'rll'; did you mean 'rl'?"),
        ({"stages": [{}]}, "stages.0: needs a kind, one of collect, sft, rl, eval"),
    ],
)
def test_an_unknown_key_names_the_nearest(changes: dict[str, Any], expected: str) -> None:
    assert message(run_table(**changes)).startswith(expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tasks": []}, "tasks: should not be empty"),
        ({"stages": []}, "stages: should not be empty"),
        ({"tasks": [{}]}, "tasks.0.env: is required"),
        ({"tasks": [{"env": ""}]}, "tasks.0.env: should not be empty"),
        (
            {"tasks": [{"env": "a", "weight": 0}]},
            "tasks: every weight is 0, so that an rl stage has nothing to play: give one a weight",
        ),
        (
            {"name": "a/b"},
            "name: should begin with a letter and hold letters, digits, '.', '_' and '-' only, not 'a/b'",
        ),
        ({"seed": "x"}, "seed: should be a valid integer, not 'x'"),
        ({"threads": 0}, "threads: should be greater than or equal to 1, not 0"),
        ({"model": 3}, "model: should be a table, not 3"),
        ({"model": "nano"}, "model: should be a table, as { name = \"nano\" }, not 'nano'"),
        (
            {"stages": [{**RL, "algorithm": "grpo"}]},
            "stages.0.algorithm: should be a table, as { name = \"grpo\" }, not 'grpo'",
        ),
        (
            {"tasks": [{"env": "a", "interface": {"history": "summary"}}]},
            "tasks.0.interface.history: should be a table, as { kind = \"summary\" }, not 'summary'",
        ),
        ({"track": "wandb"}, "track: should be a list, as [\"wandb\"], not 'wandb'"),
        (
            {"track": "[wandb, tensorboard]"},
            'track: should be a list, as ["wandb", "tensorboard"], not \'[wandb, tensorboard]\'; on the command line put '
            "single quotes around it all",
        ),
        ({"track": ["mlflow"]}, "track.0: should be 'tensorboard' or 'wandb', not 'mlflow'"),
        ({"tasks": [{"env": "a", "env_args": 1}]}, "tasks.0.env_args: should be a table, not 1"),
        ({"tasks": [{"env": "a", "rewards": {"r": "x"}}]}, "tasks.0.rewards.r: should be a valid number, not 'x'"),
        (
            {"tasks": [{"env": "a", "interface": {"on_parse_failure": "stop"}}]},
            "tasks.0.interface.on_parse_failure: should be 'random_legal', 'penalty', 'noop' or 'end', not 'stop'",
        ),
        ({"stages": [{**RL, "optim": {"lr": 0}}]}, "stages.0.optim.lr: should be greater than 0, not 0"),
        ({"stages": [{**RL, "optim": {"lr": float("nan")}}]}, "stages.0.optim.lr: should be a finite number, not nan"),
        (
            {"stages": [{**RL, "rollout_steps": 8, "rollout_episodes": 8}]},
            "stages.0: give exactly one of 'rollout_steps' and 'rollout_episodes'",
        ),
        ({"stages": [COLLECT, {"kind": "sft"}]}, "stages.1: give exactly one of 'steps' and 'steps_like'"),
        (
            {"stages": [{**COLLECT, "random_share": 1.5}]},
            "stages.0.random_share: should be less than or equal to 1, not 1.5",
        ),
    ],
)
def test_a_bad_value_is_told_in_plain_words(changes: dict[str, Any], expected: str) -> None:
    assert message(run_table(**changes)) == expected


def test_all_problems_come_at_once() -> None:
    text = message(run_table({**RL, "iterations": 0}, sed=1))
    assert text.splitlines() == [
        "2 problems:",
        "  stages.0.iterations: should be greater than or equal to 1, not 0",
        "  sed: unknown key; did you mean 'seed'?",
    ]


def test_episodes_replace_the_default_steps() -> None:
    rl = RLStage(iterations=1, rollout_episodes=16)
    assert (rl.rollout_steps, rl.rollout_episodes) == (None, 16)


# --------------------------------------------------------------------------------------------- across stages


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([COLLECT, SFT, SFT], "stages.2.name: two stages are named 'sft'; give each its own name"),
        ([{**COLLECT, "task": 1}], "stages.0.task: there is no task 1; there are 1, counted from 0"),
        (
            [COLLECT, {**SFT, "data": "colect"}],
            "stages.1.data: a dataset folder is written with a slash, as in './data', "
            "and there is no earlier collect stage 'colect'; did you mean 'collect'?",
        ),
        (
            [COLLECT, {**SFT, "data": ["collect", "./d", "own"]}],
            "stages.1.data: a dataset folder is written with a slash, as in './data', "
            "and there is no earlier collect stage 'own'; known: collect",
        ),
        ([COLLECT, {**SFT, "data": []}], "stages.1.data: should not be empty"),
        (
            [SFT, COLLECT],
            "stages.0.data: a dataset folder is written with a slash, as in './data', "
            "and there is no earlier collect stage 'collect'",
        ),
        ([COLLECT, {**SFT, "start_from": "rl"}, RL], "stages.1.start_from: no earlier sft or rl stage 'rl'"),
        ([COLLECT, {**SFT, "start_from": "collect"}], "stages.1.start_from: no earlier sft or rl stage 'collect'"),
        (
            [RL, {**SFT, "data": "./d", "steps": None, "steps_like": "r1"}],
            "stages.1.steps_like: no earlier rl stage 'r1'; known: rl",
        ),
        (
            [{"kind": "eval", "rows": ["random", "rl"]}],
            "stages.0.rows: no earlier stage makes 'rl': it needs an rl stage before it",
        ),
    ],
)
def test_a_reference_must_exist_and_come_earlier(stages: list[dict[str, Any]], expected: str) -> None:
    assert message(run_table(*stages)) == expected


def test_a_folder_needs_no_collect_stage() -> None:
    assert RunConfig.model_validate(run_table({**SFT, "data": "./data"})).stages[0].name == "sft"


def test_ladder_rows_are_those_that_the_earlier_stages_fill() -> None:
    arm = {**SFT, "name": "arm", "is_side_branch": True}
    chosen = {"kind": "eval", "name": "chosen", "rows": ["rl", "random"]}
    run = RunConfig.model_validate(
        run_table({"kind": "eval", "name": "first"}, COLLECT, SFT, RL, {"kind": "eval"}, arm, chosen)
    )
    first, last, named = run.stage("first"), run.stage("eval"), run.stage("chosen")
    assert isinstance(first, EvalStage)
    assert isinstance(last, EvalStage)
    assert isinstance(named, EvalStage)
    assert run.ladder_rows(first) == ("random", "constant", "expert", "untrained")
    assert run.ladder_rows(last) == ("random", "constant", "expert", "untrained", "sft", "rl")
    assert run.ladder_rows(named) == ("random", "rl")


def test_a_stage_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="no stage 'sf'; did you mean 'sft'"):
        RunConfig.model_validate(run_table()).stage("sf")


# --------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_load_and_round_trip(name: str, tmp_path: Path) -> None:
    run = load_recipe(name)
    assert run.name == name
    assert load_recipe(write(tmp_path / "other.toml", to_toml(run))) == run


def test_round_trip_keeps_what_differs_from_the_default(tmp_path: Path) -> None:
    table = run_table(
        {**COLLECT, "name": "demos"},
        {**SFT, "data": "demos"},
        {**RL, "rollout_episodes": 16, "algorithm": {"ratio": "token", "clip": 0.1}, "optim": {"lr": 3e-7}},
        tasks=[
            {"env": "a", "interface": {"text": 'Say "yes"\nor no.', "on_parse_failure": "noop"}},
            {"env": "b", "env_args": {}, "rewards": {"recognition": 0.5}},
        ],
        track=["wandb"],
        threads=1,
    )
    run = RunConfig.model_validate(table)
    assert load_recipe(write(tmp_path / "resolved.toml", to_toml(run))) == run
    assert RunConfig.model_validate(tomllib.loads(to_toml(run))) == run


def test_a_file_without_a_name_is_named_after_itself(recipe: Path) -> None:
    assert load_recipe(recipe).name == "mine"
    assert load_recipe(str(recipe), ["name=other"]).name == "other"


def test_an_unknown_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("numberline_pp")
    assert str(caught.value).startswith("no recipe 'numberline_pp': did you mean 'numberline_ppo'? Give a TOML file or")
    assert all(name in str(caught.value) for name in shipped_recipes())


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML: .*line 1"):
        load_recipe(write(tmp_path / "bad.toml", "name = ]"))


def test_an_error_names_the_recipe(recipe: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe, ["sed=1"])
    assert str(caught.value) == f"recipe '{recipe}': sed: unknown key; did you mean 'seed'?"


def test_extends_merges_tables_and_replaces_lists(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    middle = write(
        tmp_path / "sub" / "middle.toml", 'extends = "../mine.toml"\nname = "middle"\n[model.options]\nwidth = 128\n'
    )
    child = write(
        tmp_path / "child.toml", 'extends = "sub/middle.toml"\nseed = 7\n[[stages]]\nkind = "rl"\niterations = 9\n'
    )
    run = load_recipe(child)
    assert run.model.options == {"width": 128, "depth": 2}
    assert [stage.kind for stage in run.stages] == ["rl"]
    assert (run.name, run.seed, run.tasks[0].env) == ("child", 7, "eyas/X-v0")
    assert load_recipe(middle).name == "middle"


def test_extends_a_shipped_recipe(tmp_path: Path) -> None:
    child = write(tmp_path / "child.toml", 'extends = "numberline_ppo"\nseed = 3\n')
    assert load_recipe(child) == load_recipe("numberline_ppo", ["seed=3", "name=child"])


def test_extends_in_a_circle_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", 'extends = "b.toml"')
    write(tmp_path / "b.toml", 'extends = "c.toml"')
    write(tmp_path / "c.toml", 'extends = "b.toml"')
    with pytest.raises(ConfigError, match=r"in a circle: b -> c -> b$"):
        load_recipe(tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("line", "expected"),
    [("extends = 3", "extends should be the name of a recipe or a file, not 3"), ('extends = "x"', "no recipe 'x'")],
)
def test_extends_something_else_is_refused(line: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_recipe(write(tmp_path / "a.toml", line))


def test_overrides_reach_every_part(recipe: Path) -> None:
    overrides = [
        "seed=5",
        "model.options.width=96",
        "model.name=some/folder",
        "tasks.0.env_args.jitter=6",
        "tasks.0.interface.text=two = words",
        "stages.rl.iterations=3",
        "stages.3.optim.lr=2e-4",
        "stages.arm.steps=20",
        'stages.sft.optim.schedule="cosine"',
        'track=["wandb"]',
    ]
    run = load_recipe(recipe, overrides)
    _, sft, arm, rl = run.stages
    assert isinstance(sft, SFTStage)
    assert isinstance(arm, SFTStage)
    assert isinstance(rl, RLStage)
    assert (run.seed, run.model.name, run.track) == (5, "some/folder", ("wandb",))
    assert run.model.options == {"width": 96, "depth": 2}
    assert run.tasks[0].env_args == {"size": 3, "jitter": 6}
    assert run.tasks[0].interface.text == "two = words"
    assert (rl.iterations, rl.optim) == (3, OptimConfig(lr=2e-4))
    assert (sft.steps, sft.optim.schedule, arm.steps) == (10, "cosine", 20)


def test_an_empty_override_removes_the_key(recipe: Path) -> None:
    rl = load_recipe(
        recipe, ["stages.rl.rollout_steps=4", "stages.rl.rollout_steps=", "stages.rl.rollout_episodes=6"]
    ).stages[3]
    assert isinstance(rl, RLStage)
    assert (rl.rollout_steps, rl.rollout_episodes) == (None, 6)


def test_a_kind_names_a_stage_that_has_another_name(tmp_path: Path, recipe: Path) -> None:
    text = recipe.read_text().replace('kind = "rl"', 'kind = "rl"\nname = "ppo"')
    run = load_recipe(write(tmp_path / "named.toml", text), ["stages.rl.iterations=4", "stages.ppo.epochs=1"])
    rl = run.stage("ppo")
    assert isinstance(rl, RLStage)
    assert (rl.iterations, rl.epochs) == (4, 1)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "override 'seed': write it as key=value, as in 'stages.rl.iterations=3'"),
        ("stages..x=1", "override 'stages..x=1': write it as key=value, as in 'stages.rl.iterations=3'"),
        ("stages.r.iterations=3", "override of 'stages.r': 'stages' has no single element 'r'; did you mean 'rl'?"),
        ("stages.9.iterations=3", "override of 'stages.9': 'stages' has 4 elements, counted from 0"),
        ("tasks.env=x", "override 'tasks.env=x': 'tasks' is a list; set one key, as in 'tasks.0.KEY=VALUE'"),
        (
            "tasks.env_args.x=1",
            "override of 'tasks.env_args': 'tasks' has no single element 'env_args'; use an index, as in 'tasks.0'",
        ),
        (
            "stages.rl.iterations.x=1",
            "override 'stages.rl.iterations.x=1': 'stages.rl.iterations' is a value and has no keys",
        ),
        (
            "stages.rl.iterations.x.y=1",
            "override of 'stages.rl.iterations.x': 'stages.rl.iterations' is a value and has no keys",
        ),
        (
            "stages.rl.itertions=",
            "override 'stages.rl.itertions=': 'stages.rl.itertions' is not set, "
            "so it cannot be removed; did you mean 'iterations'?",
        ),
    ],
)
def test_an_override_that_leads_nowhere(recipe: Path, override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe, [override])
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stages.rl.itertions=3", "stages.3.itertions: unknown key; did you mean 'iterations'?"),
        ("modle.name=x", "modle: unknown key; did you mean 'model'?"),
        ("stages.rl.iterations=three", "stages.3.iterations: should be a valid integer, not 'three'"),
    ],
)
def test_an_override_is_validated(recipe: Path, override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe, [override])
    assert str(caught.value) == f"recipe '{recipe}': {expected}"
