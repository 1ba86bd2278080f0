"""What a run is made of: `RunConfig`, its parts, and its problems in words. No torch."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from .algorithms.options import CRITIC
from .algorithms.ppo import PPOConfig
from .errors import ConfigError
from .model_config import Config, CriticConfig, ModelConfig
from .problems import hint, in_words, listed
from .rewards.options import RewardsConfig
from .stage_config import CollectStage, Decoding, EvalStage, Name, OptimConfig, RLStage, Row, SFTStage, Stage
from .types import FailureEffect

__all__ = [
    "CollectStage", "CriticConfig", "Decoding", "EvalStage", "HistoryConfig", "InterfaceConfig", "ModelConfig", "Name",
    "OptimConfig", "PPOConfig", "RLStage", "Row", "RunConfig", "SFTStage", "SamplerConfig", "Stage", "TaskConfig",
    "WorkersConfig", "WrapperConfig",
]  # fmt: skip

UNTRAINED = "untrained"  # the checkpoint that a run begins with
ITERATION = "iteration_"  # what checkpoints in the middle of stages are called

# ----------------------------------------------------------------------------------------------- the parts


def _refuse_idle(part: Any, readers: Mapping[str, str]) -> None:
    """Raises ValueError for an option that another kind reads than the part's; `readers` says which."""
    for key, value in part.changed.items():
        if (reader := readers.get(key, part.kind)) != part.kind:
            raise ValueError(
                f"{key} = {value!r} does nothing with kind '{part.kind}': remove it, or set kind = '{reader}'"
            )


class SamplerConfig(Config):
    """What writes completions."""

    kind: Literal["in_process", "vllm"] = Field(
        default="in_process",
        description="the module that is trained itself, or vLLM with a copy of its weights (needs the package vllm)",
    )
    max_batch: int = Field(default=64, ge=1, description="completions that are written together")
    gpu_memory_utilization: float = Field(
        default=0.3, gt=0, le=1, description="vllm: share of the memory that it may take, weights included"
    )
    kv_cache_gib: float | None = Field(
        default=None, gt=0, description="vllm: memory of its key-value cache; none: what gpu_memory_utilization leaves"
    )
    max_model_len: int | None = Field(
        default=None, ge=2, description="vllm: most tokens of prompt and completion together; none: the model's"
    )
    enforce_eager: bool = Field(
        default=False, description="vllm: no compiling and no CUDA graphs: starts sooner, runs slower"
    )
    dtype: Literal["float32", "bfloat16"] | None = Field(
        default=None, description="vllm: of its copy of the weights; none: as model.dtype"
    )

    @model_validator(mode="after")
    def _has_no_idle_option(self) -> Self:
        _refuse_idle(self, dict.fromkeys(set(type(self).model_fields) - {"kind", "max_batch"}, "vllm"))
        return self


class HistoryConfig(Config):
    """What of an episode's past the prompt shows."""

    kind: Literal["none", "last_k", "summary", "conversation"] = Field(
        default="none", description="the current observation only, the last k, every action in words, or the whole chat"
    )
    k: int = Field(default=4, ge=1, description="last_k: observations in the prompt, the current one included")
    keep_images: int = Field(default=0, ge=0, description="conversation: newest pictures kept whole; 0: all")
    older_images: Literal["drop", "downscale"] = Field(
        default="drop", description="conversation: what becomes of pictures beyond keep_images"
    )

    @model_validator(mode="after")
    def _has_no_idle_option(self) -> Self:
        _refuse_idle(self, {"k": "last_k", "keep_images": "conversation", "older_images": "conversation"})
        if self.kind == "conversation" and self.older_images == "downscale" and not self.keep_images:
            raise ValueError("older_images = 'downscale' does nothing where keep_images = 0 keeps all: set keep_images")
        return self


class InterfaceConfig(Config):
    """How observations become prompts and completions become actions."""

    text: str | None = Field(default=None, description="replaces the task's own text")
    show: Literal["auto", "image", "text", "both"] = Field(
        default="auto",
        description="what is shown of an observation; auto: language always, numbers where no picture is",
    )
    task_first: bool = Field(
        default=False, description="task before pictures: what all prompts begin with is read once"
    )
    image_source: Literal["auto", "observation", "render"] = Field(
        default="auto", description="where pictures come from; auto: the observation, else the environment's render()"
    )
    image_size: int | None = Field(
        default=None,
        ge=8,
        description="longer side in pixels that pictures are scaled to; none: as they are, 1024 at most",
    )
    history: HistoryConfig = Field(default_factory=HistoryConfig, description="what of the past is shown")
    format: str = Field(default="json", min_length=1, description="registered action format")
    thoughts: bool = Field(default=True, description="ask for a thought before the action")
    action_mode: Literal["text", "score"] = Field(
        default="text",
        description="actions are written token by token, or chosen by scoring the words of every legal one",
    )
    is_score_per_token: bool = Field(default=False, description="scored actions: divide by the number of tokens")
    action_names: tuple[str, ...] | tuple[tuple[str, ...], ...] | None = Field(
        default=None,
        min_length=1,
        description="words for discrete actions, in order; of several choices a list for each one",
    )
    observation_names: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="words for the numbers of an observation, in order"
    )
    bins: int | tuple[str, ...] | None = Field(
        default=None,
        description="numbers as actions: this many (or so named) evenly spaced values; none: written numbers",
    )
    precision: int = Field(default=2, ge=0, le=8, description="decimals of numbers, shown and written")
    max_actions: int = Field(default=1, ge=1, description="actions a step may hold")
    separator: str = Field(default=",", min_length=1, description="between several actions of a step")
    on_parse_failure: FailureEffect = Field(default=FailureEffect.RANDOM_LEGAL, description="what a parse failure does")
    parse_failure_penalty: float = Field(
        default=-1.0, le=0, description="reward added on a failure (effects penalty and end)"
    )
    max_parse_failures: int = Field(
        default=10, ge=1, description="effect noop: failures in one episode after which it ends"
    )
    max_new_tokens: int = Field(default=64, ge=1, description="longest completion in tokens")
    customise: str | None = Field(
        default=None, pattern=r"^[\w.]+:\w+$", description="`module:function`: (env, interface) -> the interface to use"
    )


class WrapperConfig(Config):
    """A wrapper around the environment."""

    class_: str = Field(alias="class", pattern=r"^[\w.]+:\w+$", description="`module:Class`")
    args: dict[str, Any] = Field(default={}, description="its arguments after the environment")


class TaskConfig(Config):
    """One environment with its interface and rewards."""

    env: str = Field(min_length=1, description="Gymnasium id, or `module:Id`")
    env_args: dict[str, Any] = Field(default={}, description="arguments of `gymnasium.make`")
    wrappers: tuple[WrapperConfig, ...] = Field(default=(), description="put around the environment, in this order")
    weight: float = Field(
        default=1.0, ge=0, description="share of the episodes, relative to the other tasks; 0: for evaluation only"
    )
    reward_scale: float = Field(
        default=1.0, gt=0, description="factor on the environment's reward for learning; reports show it unscaled"
    )
    success_return: float | None = Field(
        default=None,
        description="return from which on an episode counts as success, where the environment does not say",
    )
    interface: InterfaceConfig = Field(default_factory=InterfaceConfig)
    rewards: RewardsConfig = Field(default_factory=RewardsConfig, description="extra reward terms")


# ----------------------------------------------------------------------------------------------- the run

_STAGES: dict[str, type[Config]] = {"collect": CollectStage, "sft": SFTStage, "rl": RLStage, "eval": EvalStage}


class WorkersConfig(Config):
    """Where environments run."""

    count: int = Field(
        default=0, ge=0, description="worker processes; 0: the trainer's own process, where runs repeat bit for bit"
    )
    reset_timeout_s: float = Field(default=120.0, gt=0, description="a reset that takes longer loses its episode")
    step_timeout_s: float = Field(default=60.0, gt=0, description="a step that takes longer loses its episode")


class RunConfig(Config):
    """Everything that decides a run. Raises `ConfigError` with one `path: message` for each problem."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(description="of the run's folder")
    seed: int = Field(default=0, ge=0, description="decides all randomness of collecting and training")
    output: str = Field(default="runs", min_length=1, description="folder that holds the run's folder")
    track: tuple[Literal["tensorboard", "wandb"], ...] = Field(default=(), description="where metrics also go")
    films: bool = Field(default=True, description="save a film of an episode at each evaluation")
    threads: int | None = Field(default=None, ge=1, description="torch threads; none: torch's choice")
    max_env_failures_in_a_row: int = Field(
        default=10,
        ge=1,
        description="episodes lost to their environment, with none that ended between, that stop the run: of one copy, or this often the number of copies in all",
    )
    workers: WorkersConfig = Field(default_factory=WorkersConfig, description="where environments run")
    model: ModelConfig = Field(default_factory=ModelConfig)
    critic: CriticConfig = Field(default_factory=CriticConfig, description="what estimates values")
    sampler: SamplerConfig = Field(default_factory=SamplerConfig, description="what writes completions")
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)
    stages: tuple[Stage, ...] = Field(min_length=1, description="in order")

    _ladder: ClassVar[tuple[Row, ...]] = get_args(Row)

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, data: Any, validate: Any) -> Self:
        try:
            config = validate(data)
        except ValidationError as error:
            raise ConfigError(in_words(error, cls, _STAGES)) from None
        if problems := list(_cross_stage_problems(config)):
            raise ConfigError(listed(problems))
        return config

    def stage(self, name: str) -> Stage:
        """The stage of that name. Raises `ConfigError` where there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise ConfigError(f"no stage '{name}'{hint(name, [s.name for s in self.stages])}")

    def ladder_rows(self, stage: EvalStage) -> tuple[Row, ...]:
        """The rows of an evaluation, in the ladder's order: those asked for, or all that the stages before it can fill.

        Whether the environment has an expert is not known here: an unnamed `expert` row may have to be left out.
        """
        if stage.rows is not None:
            return tuple(row for row in self._ladder if row in stage.rows)
        missing = _missing_rows(self.stages[: self.stages.index(stage)])
        return tuple(row for row in self._ladder if row not in missing)


def _cross_stage_problems(config: RunConfig) -> Iterable[str]:
    has_critic = any(isinstance(s, RLStage) and s.algorithm.estimator in CRITIC for s in config.stages)
    if config.critic != CriticConfig() and not has_critic:
        yield "critic: no stage of this run has a use for values: remove it, or add an rl stage whose estimator has"
    if config.sampler.kind == "vllm" and config.model.train == "qlora":
        yield "sampler.kind: weights in 4 bits cannot be handed to vLLM: set model.train = 'lora', or kind = 'in_process'"
    if config.sampler.kind == "vllm" and config.model.sampling_dtype != "float32":
        yield "model.sampling_dtype: does nothing with vLLM: set sampler.dtype"
    if not any(task.weight for task in config.tasks) and any(isinstance(s, RLStage) for s in config.stages):
        yield "tasks: every weight is 0, so that an rl stage has nothing to play: give one a weight"
    seen: dict[str, Any] = {}
    for i, stage in enumerate(config.stages):
        path = f"stages.{i}"
        if stage.name == UNTRAINED or stage.name.startswith(ITERATION):
            yield f"{path}.name: '{stage.name}' is what checkpoints of Eyas's own are called; choose another"
        if stage.name in seen:
            yield f"{path}.name: two stages are named '{stage.name}'; give each its own name"
        if isinstance(stage, CollectStage | EvalStage) and stage.task >= len(config.tasks):
            yield f"{path}.task: there is no task {stage.task}; there are {len(config.tasks)}, counted from 0"
        if isinstance(stage, SFTStage):
            yield from _reference_problems(path, stage, seen)
        if isinstance(stage, RLStage) and (problem := stage.algorithm.problem_with_critic(config.critic)):
            yield f"{path}.algorithm: {problem}"
        if isinstance(stage, EvalStage) and stage.rows is not None:
            for row in sorted(_missing_rows(config.stages[:i]) & set(stage.rows)):
                yield f"{path}.rows: no earlier stage makes '{row}': {_ROW_SOURCES[row]}"
        seen[stage.name] = stage


def _reference_problems(path: str, stage: SFTStage, seen: dict[str, Any]) -> Iterable[str]:
    for data in stage.datasets:
        if not is_folder(data) and not isinstance(seen.get(data), CollectStage):
            folder = "a dataset folder is written with a slash, as in './data'"
            yield f"{path}.data: {folder}, and there is {_no_stage('collect', data, seen, CollectStage)}"
    if stage.start_from is not None and not isinstance(seen.get(stage.start_from), SFTStage | RLStage):
        yield f"{path}.start_from: {_no_stage('sft or rl', stage.start_from, seen, SFTStage | RLStage)}"
    if stage.steps_like is not None and not isinstance(seen.get(stage.steps_like), RLStage):
        yield f"{path}.steps_like: {_no_stage('rl', stage.steps_like, seen, RLStage)}"


def is_folder(data: str) -> bool:
    """Whether an SFT stage's `data` is a dataset folder, and not the name of a stage: it has a slash."""
    return "/" in data or "\\" in data


def _no_stage(kinds: str, name: str, seen: dict[str, Any], wanted: Any) -> str:
    return f"no earlier {kinds} stage '{name}'{hint(name, [n for n, s in seen.items() if isinstance(s, wanted)])}"


_ROW_SOURCES = {
    "sft": "it needs an sft stage before it that is no side branch",
    "sft_continued": "it needs an sft stage before it with is_side_branch = true",
    "rl": "it needs an rl stage before it",
}


def _missing_rows(earlier: Sequence[Any]) -> set[Row]:
    sft = [stage for stage in earlier if isinstance(stage, SFTStage)]
    has: dict[Row, bool] = {
        "sft": any(not stage.is_side_branch for stage in sft),
        "sft_continued": any(stage.is_side_branch for stage in sft),
        "rl": any(isinstance(stage, RLStage) for stage in earlier),
    }
    return {row for row, is_there in has.items() if not is_there}
