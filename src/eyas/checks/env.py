"""`eyas env check`: whether an environment can be trained on, and what a model will see of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from eyas.checks.contract import (
    Record,
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
from eyas.checks.report import Level, Report
from eyas.checks.words import check_interface, check_legal_actions, check_prompt, save_prompt
from eyas.config import ModelConfig, TaskConfig, WorkersConfig
from eyas.envs.making import EnvFactory, env_factory
from eyas.errors import ConfigError
from eyas.rollouts.images import MemoryImageStore
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
    with Workbench(factory, timeout_s) as bench:
        checking = _Checking(Report(config.env), bench, factory, config, player, episodes, folder, on_progress)
        checking.run()
    return checking.report


def default_output(env_id: str) -> Path:
    """Where the command writes without --output."""
    return Path(f"env_check_{short_name(env_id)}")


@dataclass
class _Checking:
    """One check: every part may end it, the parts after the first two only where everything before was good."""

    report: Report
    bench: Workbench
    factory: EnvFactory
    config: TaskConfig
    model: ModelConfig | None
    episodes: int
    folder: Path | None
    on_progress: Callable[[str], None]
    picture_side: int = field(default=0, init=False)  # pixels of the longest that is shown

    def run(self) -> None:
        self.on_progress("making the environment")
        if not check_made(self.report, self.bench):
            return
        try:
            env = self.factory()
        except ConfigError as error:
            self.report.add("made", f"only once, a second one beside it fails: {error}", Level.ERROR)
            return
        spec, space, observation_space, mode = env.spec, env.action_space, env.observation_space, env.render_mode
        self.report.add("made", f"{type(env.unwrapped).__name__}, render_mode {mode!r}, action space {space}")
        env.close()
        self.on_progress("watching resets and steps")
        record = check_contract(self.report, self.bench, space)
        if record.error is None:
            self._check_repeating(record, spec.max_episode_steps if spec else None)
        self.on_progress("words and pictures")
        task = check_interface(self.report, self.config)
        check_picture_size(self.report, record, observation_space, _picture_source(task, mode))
        if task is not None and record.first is not None:
            self._show(task, record)
        if task is not None and self.report.ok:
            self._play(task, record, spec.reward_threshold if spec else None)

    def _check_repeating(self, record: Record, limit: int | None) -> None:
        self.on_progress("playing the same again")
        check_determinism(self.report, self.bench, record)
        check_starts(self.report, self.bench, max(2, min(20, self.episodes)))
        if not self.report.named("reward"):  # the same failure once more
            check_ends(self.report, self.bench, record.space, limit)

    def _show(self, task: Task, record: Record) -> None:
        images = MemoryImageStore()
        check_legal_actions(self.report, task.interface, record)
        side = check_prompt(self.report, task.interface, record, images)
        if side is not None:
            self.picture_side = side
            save_prompt(self.report, images, self.folder)

    def _play(self, task: Task, record: Record, reward_threshold: float | None) -> None:
        """Costs the most, and comes last."""
        limit_s = self.bench.timeout_s
        workers = WorkersConfig(count=1, reset_timeout_s=limit_s, step_timeout_s=limit_s)
        pace_s = record.round_trip_s
        written = check_baselines(self.report, task, self.episodes, pace_s, workers, self.on_progress)
        check_success(self.report, task, reward_threshold)
        if self.report.ok and self.model is not None:
            self.on_progress(f"{self.model.name} plays")
            check_with_model(self.report, task, self.model, written, record.step_s, workers)
        if self.report.ok:
            self._write_recipe(task)

    def _write_recipe(self, task: Task) -> None:
        rows = self.report.baselines
        length = rows["expert" if "expert" in rows else "random"]["mean_length_steps"]
        tokens = self.report.preflight.get("demonstration_tokens_max", 0)
        interface = fitted(self.config.interface, self.picture_side, tokens)
        if "expert" not in rows and task.interface.format.fact_keys:
            interface = interface.model_copy(update={"thoughts": False})  # random play knows no facts to write
        config = self.config.model_copy(update={"interface": interface})
        self.report.recipe = minimal_recipe(config, self.model or ModelConfig(), "expert" in rows, length)
        if self.folder is not None:
            path = self.folder / "recipe.toml"
            path.write_text(self.report.recipe, encoding="utf-8")
            self.report.recipe_path = str(path)


def _picture_source(task: Task | None, render_mode: str | None) -> str | None:
    """Where the pictures that are shown come from; where there is no interface, where they would."""
    if task is None:
        return "render" if render_mode == "rgb_array" else "observation"
    return getattr(task.interface.observer, "image_source", None)
