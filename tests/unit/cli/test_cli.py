"""What a user types, and what comes back."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

import eyas
from eyas.cli import app, main
from eyas.rollouts.datasets import load_trajectories
from tiny_runs import TINY

runner = CliRunner()
NUMBER_LINE = ["--env", "eyas/NumberLine-v0"]


def run(*arguments: str) -> str:
    result = runner.invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a command that must fail, through the real entry point."""
    monkeypatch.setattr("sys.argv", ["eyas", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    assert "error: " in message
    assert "Traceback" not in message
    return message


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs")
    run("demo", "--quick", "--output", str(output))
    return output / "demo"


def test_demo_goes_through_every_stage_and_reports_the_ladder(finished_run: Path) -> None:
    report = json.loads((finished_run / "report.json").read_text())
    assert report["env"] == "eyas/NumberLine-v0"
    assert [(r["policy"], r["decoding"]) for r in report["rows"]] == [
        ("random", "sample"),
        ("constant", "greedy"),
        ("expert", "greedy"),
        *((p, d) for p in ("untrained", "sft", "sft_continued", "rl") for d in ("greedy", "sample")),
    ]
    expert = report["rows"][2]
    assert expert["success_rate"] == expert["strict_success_rate"] == 1.0
    assert all(r["episodes"] == 10 for r in report["rows"])
    assert {"commit", "versions", "duration_s"} <= report.keys()
    page = (finished_run / "report.html").read_text()
    assert "<table" in page
    assert "<script" not in page
    assert not any(f'{attribute}="{scheme}' in page for attribute in ("src", "href") for scheme in ("http", "//"))


def test_demo_run_folder_is_complete(finished_run: Path) -> None:
    names = {p.name for p in finished_run.iterdir()}
    assert {
        "config.toml",
        "environment.json",
        "metrics.jsonl",
        "trajectories",
        "images",
        "checkpoints",
        "eval",
    } <= names
    assert {"untrained", "sft", "rl", "sft_continued"} <= {p.name for p in (finished_run / "checkpoints").iterdir()}
    assert len(load_trajectories(finished_run, "rl_000001")) >= 8


def test_a_second_demo_leaves_the_first_alone(finished_run: Path) -> None:
    before = (finished_run / "metrics.jsonl").read_bytes()
    run("demo", "--quick", "--output", str(finished_run.parent))
    assert (finished_run.parent / "demo-2" / "report.json").exists()
    assert (finished_run / "metrics.jsonl").read_bytes() == before


def test_checkpoint_loads_in_plain_transformers(finished_run: Path) -> None:
    folder = finished_run / "checkpoints" / "rl"
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    agent = eyas.Agent.from_pretrained(folder)
    for name, tensor in agent.policy.model.model.state_dict().items():
        assert tensor.equal(model.state_dict()[name]), name
    assert processor.tokenizer.get_vocab() == agent.policy.model.tokenizer.get_vocab()
    assert agent.tasks[0].interface.max_new_tokens == 36  # as it was trained


def test_eval_prints_json_of_an_untrained_model() -> None:
    report = json.loads(run("eval", "nano-random", *NUMBER_LINE, "--episodes", "4", "--json"))
    assert [r["decoding"] for r in report["rows"]] == ["greedy", "sample"]
    assert all(r["strict_success_rate"] == 0 for r in report["rows"])


def test_eval_of_a_checkpoint_is_reproducible(finished_run: Path) -> None:
    command = ["eval", str(finished_run / "checkpoints" / "sft"), *NUMBER_LINE, "--episodes", "4", "--json"]
    first, second = (json.loads(run(*command))["rows"] for _ in range(2))
    assert first == second
    assert all(0 < r["distinct_starts_seen_in_training"] <= r["distinct_starts"] for r in first)


def test_eval_passes_arguments_to_the_environment() -> None:
    out = run(
        "eval", "nano-random", *NUMBER_LINE, "--episodes", "2", "--num-envs", "1", "--env-arg", "mode=text", "--json"
    )
    assert json.loads(out)["env_args"] == {"mode": "text"}


def test_collect_writes_a_dataset_that_training_reads(tmp_path: Path) -> None:
    dataset = tmp_path / "demonstrations"
    command = ["collect", "eyas/NumberLine-v0", "--episodes", "12", "--output", str(dataset), "--json"]
    info = json.loads(run(*command))
    assert (info["episodes"], info["success_rate"]) == (12, 1.0)
    overrides = ["stages.collect.episodes=1", f'stages.sft.data="{dataset}/"', "name=own", "stages.eval.rows=['sft']"]
    run("train", "numberline_ppo", *TINY, *overrides, "--output", str(tmp_path))
    assert json.loads((tmp_path / "own" / "report.json").read_text())["rows"][0]["policy"] == "sft"


def test_collect_at_random_writes_what_a_model_can_learn(tmp_path: Path) -> None:
    options = ["--policy", "random", "--episodes", "3", "--num-envs", "2", "--output", str(tmp_path / "random")]
    run("collect", "FrozenLake-v1", *options)
    steps = [s for t in load_trajectories(tmp_path / "random") for s in t.steps]
    assert steps and all(f'"action": "{s.action_name}"' in s.completion.text for s in steps)


def test_collect_with_a_checkpoint(finished_run: Path, tmp_path: Path) -> None:
    checkpoint = str(finished_run / "checkpoints" / "sft")
    run("collect", "eyas/NumberLine-v0", "--policy", checkpoint, "--episodes", "3", "--output", str(tmp_path / "own"))
    steps = [s for t in load_trajectories(tmp_path / "own") for s in t.steps]
    assert all(s.completion.token_ids is not None for s in steps)


def test_dry_run_prints_a_configuration_that_loads_and_writes_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = run("train", "numberline_ppo", "--dry-run", "seed=7")
    (tmp_path / "again.toml").write_text(printed)
    assert eyas.load_recipe(tmp_path / "again.toml").seed == 7
    assert [p.name for p in tmp_path.iterdir()] == ["again.toml"]


def test_env_list_names_every_environment() -> None:
    listed = {e["id"] for e in json.loads(run("env", "list", "--json"))}
    assert {f"eyas/{n}-v0" for n in ("NumberLine", "EZPoints", "Points24", "Blackjack")} <= listed


def test_errors_say_what_to_type(monkeypatch, capsys, tmp_path: Path) -> None:
    def error(*arguments: str) -> str:
        return fail(monkeypatch, capsys, *arguments)

    assert "did you mean 'numberline_ppo'" in error("train", "numberlin_ppo")
    assert "did you mean 'iterations'" in error("train", "numberline_ppo", "stages.rl.iteratons=3")
    assert "did you mean 'eyas/NumberLine-v0'" in error("eval", "nano-random", "--env", "eyas/NumberLin-v0")
    assert "no model or checkpoint at /nowhere" in error("eval", "/nowhere", *NUMBER_LINE)
    assert "jitter" in error("eval", "nano-random", *NUMBER_LINE, "--env-arg", "jitter=1000")
    assert "key=value" in error("eval", "nano-random", *NUMBER_LINE, "--env-arg", "jitter")
    twice = ("--sampler", "kind=in_process", "--sampler", "kind.of=1")
    assert "'kind' was given as a value" in error("eval", "nano-random", *NUMBER_LINE, *twice)
    assert "which model?" in error("eval", "served:", *NUMBER_LINE, "--base-url", "http://localhost:1/v1")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "not empty" in error("collect", "eyas/NumberLine-v0", "--output", str(tmp_path / "full"))
    assert "no expert" in error("collect", "minigrid:MiniGrid-Fetch-5x5-N2-v0", "--output", str(tmp_path / "other"))
    data = f"stages.sft.data='{tmp_path}/missing/'"
    missing = error("train", "numberline_ppo", *TINY, data, "--output", str(tmp_path))
    assert "eyas collect" in missing
    assert "expert plays" not in missing  # found out before any work
    assert "model.options.layer" in error("train", "numberline_ppo", "model.options.layer=3", "--output", str(tmp_path))
    assert "unknown reward 'recognitio'" in error(
        "train", "numberline_ppo", "tasks.0.rewards.recognitio=1", "--output", str(tmp_path)
    )


def test_a_dry_run_of_prompts_that_do_not_fit_is_an_error_after_its_table(monkeypatch, capsys) -> None:
    message = fail(monkeypatch, capsys, "train", "numberline_ppo", "tasks.0.interface.max_new_tokens=9000", "--dry-run")
    assert "does NOT fit" in message.replace("\n", " ")
    assert "error: eyas/NumberLine-v0: the first prompt leaves no room" in message


def test_a_dry_run_says_what_the_environment_raised(monkeypatch, capsys) -> None:
    def raises(run: object) -> None:
        raise RuntimeError("the belt is jammed")

    monkeypatch.setattr("eyas.build.build_run", lambda config: None)
    monkeypatch.setattr("eyas.training.preflight.preflight", raises)
    monkeypatch.setattr("sys.argv", ["eyas", "train", "numberline_ppo", "--dry-run"])
    with pytest.raises(SystemExit) as stopped:
        main()
    message = capsys.readouterr().err
    assert stopped.value.code == 1
    assert message.startswith(
        "error: the first prompt cannot be made, RuntimeError: the belt is jammed; `eyas env check`"
    )
    assert "in raises" in message  # where it was raised


def test_a_run_is_not_overwritten_and_not_resumed_with_another_configuration(
    finished_run: Path, monkeypatch, capsys
) -> None:
    config = str(finished_run / "config.toml")
    assert "holds a run already" in fail(monkeypatch, capsys, "train", config)
    assert "another configuration" in fail(monkeypatch, capsys, "train", config, "stages.eval.seed=5", "--resume")


def test_a_damaged_checkpoint_is_named(finished_run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    import shutil

    damaged = tmp_path / "damaged"
    shutil.copytree(finished_run / "checkpoints" / "sft", damaged)
    with (damaged / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    message = fail(monkeypatch, capsys, "eval", str(damaged), *NUMBER_LINE)
    assert "model.safetensors holds 1000 bytes" in message


def test_an_environment_of_the_user_s_own_module(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "lamps.py").write_text(
        "import gymnasium as gym, numpy as np\n"
        "class Lamp(gym.Env):\n"
        "    metadata = {'render_modes': ['rgb_array'], 'render_fps': 1}\n"
        "    observation_space = gym.spaces.Discrete(2)\n"
        "    action_space = gym.spaces.Discrete(2, start=3)\n"
        "    def __init__(self, render_mode=None): self.render_mode = render_mode\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        super().reset(seed=seed)\n"
        "        self.lamp = int(self.np_random.integers(2))\n"
        "        return self.lamp, {}\n"
        "    def step(self, action): return self.lamp, float(action - 3 == self.lamp), True, False, {}\n"
        "    def render(self): return np.full((20, 20, 3), 255 * self.lamp, np.uint8)\n"
        "gym.register('Lamp-v0', entry_point=Lamp)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["eyas", "eval", "nano-random", "--env", "lamps:Lamp-v0", "--episodes", "6"])
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0


def test_errors_of_places_and_models(finished_run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def error(*arguments: str) -> str:
        return fail(monkeypatch, capsys, *arguments)

    (tmp_path / "file").touch()
    assert "file" in error("train", "numberline_ppo", "--output", str(tmp_path / "file"))
    assert "file" in error("demo", "--quick", "--output", str(tmp_path / "file"))
    assert "file" in error("collect", "eyas/NumberLine-v0", "--output", str(tmp_path / "file" / "x"))
    assert "type one of iteration_" in error("eval", str(finished_run), *NUMBER_LINE)
    assert "image_size" in error(
        "train", "numberline_ppo", f"model.name='{finished_run}/checkpoints/sft'", "model.image_size=32", "--dry-run"
    )
    assert "hidden_size" in error("train", "numberline_ppo", "model.options.hidden_size='abc'", "--dry-run")
