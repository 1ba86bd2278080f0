"""Published claims, tested at another scale. A definition is a TOML file that says, before anything is run, the claim, the
arms, the seeds, what is measured, and what would speak for the claim and what against it.

    definition = load_definition("rl4vlm")
    jobs = plan(definition, Path("runs"))
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from eyas.config import CollectStage, Decoding, EvalStage, Name, RLStage, Row, RunConfig, SFTStage
from eyas.errors import ConfigError
from eyas.model_config import Config
from eyas.problems import hint, in_words
from eyas.recipes import load_recipe

_DEFINITIONS = Path(__file__).parent
Scale = Literal["laptop", "paper"]
Value = Literal["strict_success_rate", "success_rate", "return_mean", "parse_rate", "recognition_accuracy"]
Seed = Annotated[int, Field(ge=0)]


class Arm(Config):
    """What is compared: a recipe with changes."""

    name: Name
    recipe: str = Field(min_length=1, description="shipped recipe, or a file")
    set: tuple[str, ...] = Field(default=(), description="overrides, as `eyas train` takes them")
    paper: tuple[str, ...] = Field(default=(), description="further ones at the scale of the paper")
    seeds: tuple[Seed, ...] = Field(default=(), description="none: those of the definition")


class Measure(Config):
    """A number of each run: of an evaluation, or a metric's mean over some iterations of a stage."""

    name: Name
    eval: str = Field(default="eval", description="name of the eval stage")
    row: Row | None = Field(default=None, description="none: the last of the ladder that the run has")
    decoding: Decoding = Field(default="sample")
    value: Value = Field(default="strict_success_rate", description="of the row")
    metric: str | None = Field(default=None, description="of metrics.jsonl, in place of an evaluation")
    stage: str = Field(default="rl", description="of the metric")
    at: Literal["first", "last"] = Field(default="last", description="which iterations the metric's mean is over")
    iterations: int = Field(default=3, ge=1, description="how many of them")

    @property
    def is_share(self) -> bool:
        """Whether it is shown in per cent."""
        return (self.metric or self.value).endswith(("_rate", "_share", "_accuracy", "_agreement", "_bleu"))


Reference = tuple[str, str]  # arm, measure
Seeds = Mapping[str, Sequence[int]]  # by arm


class Statement(Config):
    """A part of the claim: one number is greater than another."""

    text: str = Field(min_length=1)
    greater: Reference
    lesser: Reference


class Panel(Config):
    """A part of the figure: measures of every arm as dots, a metric over iterations, or a measure against compute."""

    title: str
    measures: tuple[str, ...] = Field(default=(), description="dots, one a seed")
    metric: str | None = Field(default=None, description="a curve for each arm")
    stage: str = Field(default="rl", description="of the metric")
    evals: tuple[str, ...] = Field(default=(), description="a curve for each arm over these eval stages")
    arms: tuple[str, ...] = Field(default=(), description="none: every arm")

    @model_validator(mode="after")
    def _shows_one_thing(self) -> Self:
        if sum(map(bool, (self.measures, self.metric, self.evals))) != 1:
            raise ValueError("give exactly one of 'measures', 'metric' and 'evals'")
        return self


_LADDER = tuple(Measure(name=row, row=row) for row in ("sft", "sft_continued", "rl"))


class Definition(Config):
    """Everything that is fixed beforehand. Raises `ConfigError` with one `path: message` for each problem."""

    name: Name
    title: str
    claim: str = Field(description="what is claimed, or asked")
    source: str = Field(default="", description="the paper")
    analogue: str = Field(default="", description="how what is run here differs from the paper")
    budget_core_hours: float = Field(gt=0, le=3, description="most CPU time of all runs at laptop scale")
    seeds: tuple[Seed, ...] = Field(default=(0, 1, 2), min_length=1)
    shows: Literal["success", "return"] = Field(default="success", description="the measure of the tables' cells")
    arms: tuple[Arm, ...] = Field(min_length=1)
    paper: tuple[str, ...] = Field(default=(), description="overrides of every arm at the scale of the paper")
    measures: tuple[Measure, ...] = Field(default=_LADDER, min_length=1)
    statements: tuple[Statement, ...] = ()
    panels: tuple[Panel, ...] = (Panel(title="Strict success, T = 1", measures=("sft", "sft_continued", "rl")),)

    @model_validator(mode="after")
    def _knows_its_names(self) -> Self:
        arms, measures = [a.name for a in self.arms], [m.name for m in self.measures]
        for names in (arms, measures, list(self.seeds), *(list(a.seeds) for a in self.arms)):
            if len(set(names)) < len(names):
                raise ValueError(f"each of {', '.join(map(str, names))} needs a name, or a seed, of its own")
        asked = [(arms, reference[0]) for s in self.statements for reference in (s.greater, s.lesser)]
        asked += [(measures, reference[1]) for s in self.statements for reference in (s.greater, s.lesser)]
        asked += [(arms, name) for p in self.panels for name in p.arms]
        asked += [(measures, name) for p in self.panels for name in p.measures]
        for known, name in asked:
            if name not in known:
                raise ValueError(f"there is no '{name}'{hint(name, known)}")
        return self

    @property
    def seeds_of_arms(self) -> "Seeds":
        return {arm.name: arm.seeds or self.seeds for arm in self.arms}

    def measure(self, name: str) -> Measure:
        return next(m for m in self.measures if m.name == name)


@dataclass(frozen=True, eq=False)
class Job:
    """One arm with one seed."""

    arm: str
    seed: int
    config: RunConfig

    @property
    def folder(self) -> Path:
        return Path(self.config.output) / self.config.name


def shipped_definitions() -> list[str]:
    """Names of the definitions inside the package, sorted."""
    return sorted(path.stem for path in _DEFINITIONS.glob("*.toml"))


def load_definition(source: str) -> Definition:
    """A shipped definition by name, or a TOML file. Raises `ConfigError`."""
    path = _DEFINITIONS / f"{source}.toml" if source in shipped_definitions() else Path(source).expanduser()
    if not path.is_file():
        raise ConfigError(f"there is nothing to reproduce called '{source}'{hint(source, shipped_definitions())}")
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return Definition.model_validate({"name": path.stem, **table})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {in_words(error, Definition, {})}") from None


def plan(
    definition: Definition, runs: Path, scale: Scale = "laptop", is_quick: bool = False, seeds: Sequence[int] = ()
) -> list[Job]:
    """Every arm with every seed, seed by seed. A quick plan has tiny numbers and one seed. Raises `ConfigError`."""
    label, jobs = label_of(definition, scale, is_quick), []
    of_arms = {
        a.name: seeds or (definition.seeds[:1] if is_quick else a.seeds or definition.seeds) for a in definition.arms
    }
    for seed in every_seed(of_arms):
        for arm in (a for a in definition.arms if seed in of_arms[a.name]):
            overrides = [*arm.set, *((*definition.paper, *arm.paper) if scale == "paper" else ())]
            name = f"{label}-{arm.name}-{seed}"
            own = [f"name={name}", f"seed={seed}", f"model.seed={seed}", f'output="{runs.as_posix()}"']
            config = load_recipe(arm.recipe, [*overrides, *own])
            jobs.append(Job(arm.name, seed, quickened(config) if is_quick else config))
    return jobs


def every_seed(seeds: Seeds) -> list[int]:
    """Each once, in order of first mention."""
    return list(dict.fromkeys(seed for own in seeds.values() for seed in own))


def label_of(definition: Definition, scale: Scale, is_quick: bool) -> str:
    """What runs and page are called: what is not of the definition's own numbers has another name."""
    return definition.name + ("_paper" if scale == "paper" else "") + ("_quick" if is_quick else "")


def quickened(config: RunConfig) -> RunConfig:
    """The same run with tiny numbers: every part is exercised, nothing is learned."""
    table: dict[str, Any] = config.model_dump(exclude_none=True, by_alias=True)
    table["films"] = False
    for task in table["tasks"]:
        task["interface"]["max_new_tokens"] = min(24, task["interface"]["max_new_tokens"])
    for stage, entry in zip(config.stages, table["stages"], strict=True):
        if isinstance(stage, CollectStage):
            entry["episodes"] = 8
        elif isinstance(stage, EvalStage):
            learned = [row for row in config.ladder_rows(stage) if row in ("sft", "sft_continued", "rl")]
            entry |= {"episodes": 4} | ({"rows": learned} if learned else {})
        elif isinstance(stage, SFTStage):
            entry |= {"batch_size": 4} | ({"steps": 2} if stage.steps else {})
        elif isinstance(stage, RLStage):
            entry |= {"iterations": 2, "num_envs": 4, "epochs": 1, "minibatch_size": 8, "evaluate_episodes": 4}
            grouped = {"group_size": min(2, stage.group_size), "rollout_episodes": 4}
            entry |= {"rollout_steps": 2} if stage.rollout_steps else grouped
        entry.get("optim", {}).pop("warmup_steps", None)
    return RunConfig.model_validate(table)
