"""`eyas env check`: whether an environment can be trained on, and what a model will see of it."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from eyas.checks.contract import (
    Workbench,
    check_contract,
    check_determinism,
    check_ends,
    check_made,
    check_picture_size,
    check_starts,
)
from eyas.checks.playing import check_baselines, check_success
from eyas.checks.preflight import check_with_model
from eyas.checks.recipe import fitted, minimal_recipe, short_name
from eyas.checks.report import Report
from eyas.checks.words import check_interface, check_legal_actions, check_prompt
from eyas.config import ModelConfig, TaskConfig, WorkersConfig
from eyas.envs.making import env_factory
from eyas.rollouts.task import Task


def check_environment(
    task: str | TaskConfig,
    *,
    model: str | ModelConfig | None = "nano-random",
    episodes: int = 20,
    output: str | Path | None = None,
    timeout_s: float = 30.0,
    on_progress: Callable[[str], None] = lambda told: None,
) -> Report:
    """Makes, watches, repeats, shows and plays an environment; what may hang or crash does so in a process of its own.

    `model`: who plays the preflight; None leaves it out. `episodes` of each baseline. `output` gets the pictures, the
    prompt and the recipe; none: nothing is written. `timeout_s` is what one reset or step may take. Raises ConfigError
    for an environment or a wrapper that is not there: whatever else goes wrong is in the report.
    """
    config = TaskConfig(env=task) if isinstance(task, str) else task
    factory = env_factory(config.env, config.env_args, [{"class": w.class_, "args": w.args} for w in config.wrappers])
    player = ModelConfig(name=model) if isinstance(model, str) else model
    folder = None if output is None else Path(output)
    report = Report(config.env)
    with closing(Workbench(factory, timeout_s)) as bench:
        on_progress("making the environment")
        env = check_made(report, bench, factory)
        if env is None:
            return report
        on_progress("watching resets and steps")
        record = check_contract(report, bench, env.action_space)
        if record.error is None:
            on_progress("playing the same again")
            check_determinism(report, bench, record)
            check_starts(report, bench, max(2, min(20, episodes)))
            if not report.named("reward"):  # the same failure once more
                check_ends(report, bench, record.space, env.spec.max_episode_steps if env.spec else None)
        on_progress("words and pictures")
        built, side = check_interface(report, config), 0
        check_picture_size(report, record, env.observation_space, _picture_source(built, env.render_mode))
        if built is not None and record.first is not None:
            check_legal_actions(report, built.interface, record)
            side = check_prompt(report, built.interface, record, folder)
        if built is None or not report.ok:
            return report
        workers = WorkersConfig(count=1, reset_timeout_s=timeout_s, step_timeout_s=timeout_s)
        written = check_baselines(report, built, episodes, record.round_trip_s, workers, on_progress)
        check_success(report, built, env.spec.reward_threshold if env.spec else None)
        if report.ok and player is not None:
            on_progress(f"{player.name} plays")
            check_with_model(report, built, player, written, record.step_s, workers)
        if report.ok:
            _write_recipe(report, config, built, player or ModelConfig(), side, folder)
    return report


def default_output(env_id: str) -> Path:
    """Where the command writes without --output."""
    return Path(f"env_check_{short_name(env_id)}")


def _write_recipe(
    report: Report, config: TaskConfig, task: Task, model: ModelConfig, picture_side: int, folder: Path | None
) -> None:
    has_expert = "expert" in report.baselines
    length = report.baselines["expert" if has_expert else "random"]["mean_length_steps"]
    interface = fitted(config.interface, picture_side, report.preflight.get("demonstration_tokens_max", 0))
    if not has_expert and task.interface.format.fact_keys:
        interface = interface.model_copy(update={"thoughts": False})  # random play knows no facts to write
    config = config.model_copy(update={"interface": interface})
    report.recipe = minimal_recipe(config, model, has_expert, length)
    if folder is not None:
        path = folder / "recipe.toml"
        path.write_text(report.recipe, encoding="utf-8")
        report.recipe_path = str(path)


def _picture_source(task: Task | None, render_mode: str | None) -> str | None:
    """Where the pictures that are shown come from; where there is no interface, where they would."""
    if task is None:
        return "render" if render_mode == "rgb_array" else "observation"
    return getattr(task.interface.observer, "image_source", None)
