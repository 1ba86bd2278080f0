"""Turns configuration into objects, and nothing else does."""

import importlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import gymnasium as gym
import torch
import transformers
from rich.console import Console

from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.config import (
    CollectStage,
    CriticConfig,
    EvalStage,
    HistoryConfig,
    InterfaceConfig,
    RLStage,
    Row,
    RunConfig,
    SamplerConfig,
    SFTStage,
    TaskConfig,
    WorkersConfig,
    is_folder,
)
from eyas.envs.experts import expert_for, fact_rule_for
from eyas.envs.making import env_factory
from eyas.errors import CheckpointError, ConfigError
from eyas.evaluation.evaluate import evaluation_row, play
from eyas.evaluation.records import EvalReport
from eyas.files import alone
from eyas.guidance.guide import check_guidance
from eyas.interface import Interface
from eyas.interface.history import Conversation, History, LastObservations, NoHistory, Summary
from eyas.model_config import SERVED, ModelConfig
from eyas.models.adapter import VisionLanguageModel
from eyas.models.loading import build_model
from eyas.models.parameters import require_bitsandbytes
from eyas.models.policy import POLICY_FILE, Policy, saved_critic
from eyas.models.value_head import Critic, check_same_tokens
from eyas.recipes import load_recipe
from eyas.rewards.options import JudgeConfig, RewardsConfig
from eyas.rewards.registry import build_rewards
from eyas.rollouts.actors import PolicyActor
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.task import Task
from eyas.samplers.in_process import InProcessSampler
from eyas.samplers.openai import ServedSampler
from eyas.samplers.vllm import VLLMSampler
from eyas.training.checkpoint import MANIFEST, validate_checkpoint
from eyas.training.collect import demonstrator
from eyas.training.loop import train as run_stages
from eyas.training.run import AGENT_FILE, Run
from eyas.training.sft import check_dataset
from eyas.types import Sampler

log = logging.getLogger(__name__)

# ----------------------------------------------------------------------------------------------- environments and tasks


def build_interface(config: InterfaceConfig, env: gym.Env) -> Interface:
    options: dict[str, Any] = config.model_dump(exclude={"customise"})
    options["history"] = _history(config.history)
    interface = Interface.for_env(env, **options)
    if config.customise is None:
        return interface
    customised = _named(config.customise)(env, interface)
    if not isinstance(customised, Interface):
        raise ConfigError(f"interface.customise: {config.customise} gave {customised!r}: return an eyas.Interface")
    return customised


def _history(config: HistoryConfig) -> History:
    match config.kind:
        case "last_k":
            return LastObservations(config.k)
        case "summary":
            return Summary()
        case "conversation":
            return Conversation(config.keep_images, config.older_images == "downscale")
    return NoHistory()


def _named(path: str) -> Any:
    """The object behind `module:name`."""
    module_name, name = path.split(":")
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"'{path}' cannot be imported: {error}; is its folder the current one, or on PYTHONPATH?"
        ) from error


def build_task(config: TaskConfig, index: int = 0, images: MemoryImageStore | None = None) -> Task:
    """`index` is its place in the run's tasks, `images` those that a judge may have to be shown.

    Raises ConfigError for an unknown environment or reward, UnsupportedSpace for spaces without words.
    """
    wrappers = [{"class": w.class_, "args": w.args} for w in config.wrappers]
    factory = env_factory(config.env, config.env_args, wrappers)
    env = factory()
    try:
        interface = build_interface(config.interface, env)
        return Task(
            make_env=factory,
            interface=interface,
            rewards=build_rewards(config.rewards, interface, lambda c: _judging(c, images)),
            reward_scale=config.reward_scale,
            weight=config.weight,
            expert=expert_for(env),
            fact_rule=fact_rule_for(env),
            env_id=config.env,
            index=index,
            success_return=config.success_return,
        )
    finally:
        env.close()


def _judging(config: JudgeConfig, images: MemoryImageStore | None) -> Policy | ServedSampler:
    images = MemoryImageStore() if images is None else images  # an empty one is falsy
    if not config.is_served:
        return build_policy(ModelConfig(name=config.model), images)
    options = config.model_dump(include={"api_key_env", "concurrency", "most_requests", "most_cost", "price"})
    options |= {"fields": config.request_fields}
    return ServedSampler(config.model.removeprefix(SERVED), str(config.base_url), images, **options)


# ----------------------------------------------------------------------------------------------- models


def build_policy(
    config: ModelConfig,
    images: MemoryImageStore,
    sampler: SamplerConfig | None = None,
    critic: CriticConfig | None = None,
) -> Policy:
    """A built-in model, a checkpoint, or any Hugging Face id or folder, with sampler and critic.

    A checkpoint's critic comes with it where it is of the kind that is asked for. Without one asked for, none but a head
    is loaded: playing needs no critic.
    """
    if config.name.startswith(SERVED):
        raise ConfigError(
            f"{config.name} lives on a server, and its weights cannot be trained: `eyas eval` and `eyas collect --policy` "
            "take it with --base-url, and fine-tuning takes what it collected (in Python: eyas.Agent.served)"
        )
    transformers.utils.logging.disable_progress_bar()  # of every load and save; the stages show their own
    folder = Path(config.name).expanduser()
    _check_folder(config.name, folder)
    is_checkpoint = (folder / POLICY_FILE).exists()
    saved = saved_critic(folder) if is_checkpoint else CriticConfig()
    if critic is None:
        critic = saved if saved.kind == "head" else CriticConfig()
    model, resolved = build_model(config)
    own = build_model(critic.model or config)[0] if critic.kind == "model" else None
    if own is not None:
        check_same_tokens(model, own)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        policy = Policy(
            model,
            _build_sampler(sampler or SamplerConfig(), model, images),
            images,
            critic=Critic(model.hidden_size, critic, own),
            config=resolved,
        )
    if is_checkpoint:
        has_same_critic = (saved.kind, saved.hidden_sizes) == (critic.kind, critic.hidden_sizes)
        if not has_same_critic:
            log.warning("the critic of %s is of another kind: a new one begins", folder)
        policy.load_weights(folder, with_critic=has_same_critic)
    return policy


def _build_sampler(config: SamplerConfig, model: VisionLanguageModel, images: MemoryImageStore) -> Sampler:
    if config.kind == "vllm":
        return VLLMSampler(model, images, config)
    return InProcessSampler(model, images, config.max_batch)


def _check_folder(name: str, folder: Path) -> None:
    """Raises CheckpointError for a folder that holds checkpoints, a damaged one, and one that is not there."""
    if (folder / "checkpoints").is_dir() or folder.name == "checkpoints":
        inside = sorted(
            p.name for p in (folder if folder.name == "checkpoints" else folder / "checkpoints").glob("[!.]*")
        )
        raise CheckpointError(
            f"{folder} holds checkpoints, it is none: type one of {', '.join(inside)} with its folder"
        )
    if (folder / MANIFEST).exists():
        validate_checkpoint(folder)
    elif name.startswith((".", "/", "~")) and not folder.is_dir():
        raise CheckpointError(f"there is no model or checkpoint at {name}: type a folder, or a Hugging Face id")


# ----------------------------------------------------------------------------------------------- agents


@dataclass
class Agent:
    """A policy, and the tasks that it was trained on: they say how it is used to be asked."""

    policy: Policy
    images: MemoryImageStore
    tasks: tuple[TaskConfig, ...] = ()  # those that it was trained on
    name: str = "rl"  # which row of the ladder it is
    training_starts: frozenset[str] | None = None  # keys of the starting prompts that training saw, where known

    @classmethod
    def from_pretrained(cls, name: str | Path, sampler: SamplerConfig | None = None, **options: Any) -> "Agent":
        """`nano`, `nano-random`, any Hugging Face VLM id or folder, or a checkpoint of Eyas.

        `sampler` writes its completions; options are the fields of `ModelConfig`. Raises ModelError or CheckpointError.
        """
        images = MemoryImageStore()
        policy = build_policy(ModelConfig(name=str(name), **options), images, sampler)
        folder = Path(name).expanduser()
        is_checkpoint = (folder / POLICY_FILE).exists()
        row = folder.name if folder.name in get_args(Row) else "rl"
        tasks, starts = _training_of(folder)
        return cls(policy, images, tasks, row if is_checkpoint else "untrained", starts)

    @classmethod
    def served(cls, model: str, *, base_url: str, tasks: Sequence[TaskConfig] = (), **options: Any) -> "Agent":
        """A model behind an OpenAI-compatible server, to evaluate and to collect with. `tasks` say how it is asked.

        Options are those of `ServedSampler`: api_key_env, concurrency, context, most_requests ... What was spent stands in
        `agent.policy.spending`. Raises ConfigError for options that cannot be used.
        """
        images = MemoryImageStore()
        sampler = ServedSampler(model, base_url, images, **options)
        # playing asks a policy for `sample` and `fits` alone, and nothing else can be done with this one
        return cls(cast(Policy, sampler), images, tuple(tasks), SERVED + model)

    def task(self, env_id: str, /, **env_args: Any) -> Task:
        """As in training where it was trained on this environment, with `env_args` in place of those of the same name.

        Another environment is asked about in the way of the first task, but for what belongs to that one: its text, its
        names, and how its actions are put into words.
        """
        spec_id = env_factory(env_id).spec.id  # an environment has several names, with and without its module
        known = next((t for t in self.tasks if t.env == env_id or _spec_id(t.env) == spec_id), None)
        if known is not None:
            env_args = {**known.env_args, **env_args}
            return build_task(known.model_copy(update={"env_args": env_args, "rewards": RewardsConfig()}))
        interface = _of_any_env(self.tasks[0].interface) if self.tasks else InterfaceConfig()
        if self.tasks:
            trained_on = ", ".join(t.env for t in self.tasks)
            log.warning("%s was not trained on, only %s: it is asked about in the way of the first", env_id, trained_on)
        config = TaskConfig(env=env_id, env_args=env_args, interface=interface)
        try:
            return build_task(config)
        except ConfigError as error:
            if interface.action_mode != "score":
                raise
            as_text = interface.model_copy(update={"action_mode": "text"})
            task = build_task(config.model_copy(update={"interface": as_text}))
            log.warning("%s. Here they are written as text", error)
            return task


def _spec_id(env_id: str) -> str | None:
    """What Gymnasium calls it; None where its module is not here, which a checkpoint may outlive."""
    try:
        return env_factory(env_id).spec.id
    except ConfigError:
        return None


def _of_any_env(interface: InterfaceConfig) -> InterfaceConfig:
    """Without what fits the environment alone that it was written for."""
    own = ("text", "action_names", "observation_names", "customise", "bins", "max_actions", "separator")
    return interface.model_copy(update={key: InterfaceConfig.model_fields[key].default for key in own})


def _training_of(folder: Path) -> tuple[tuple[TaskConfig, ...], frozenset[str] | None]:
    """The tasks of a checkpoint's training, and which starting prompts it saw."""
    path = folder / AGENT_FILE
    if not path.exists():
        return (), None
    try:
        about = json.loads(path.read_text())
        return tuple(TaskConfig.model_validate(t) for t in about["tasks"]), frozenset(about["training_starts"])
    except (ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def evaluate(
    agent: Agent,
    env_id: str,
    episodes: int = 100,
    seed: int = 0,
    decodings: Sequence[str] = ("greedy", "sample"),
    on_episode: Callable[[int], None] | None = None,
    workers: int = 0,
    num_envs: int = 64,
    env_args: Mapping[str, Any] | None = None,
    **more_env_args: Any,
) -> EvalReport:
    """Plays an environment on evaluation seeds, greedily and at temperature 1, in this process or with `workers`.

    `num_envs` copies of it are stepped together. `on_episode` is told how many episodes were played, of all decodings.
    The environment's arguments are further keywords; where this list has their name, they stand in `env_args`.
    """
    begun = time.perf_counter()
    env_args = {**(env_args or {}), **more_env_args}
    task = agent.task(env_id, **env_args)
    rows = []

    def count_on(num_done: int) -> None:
        if on_episode:
            on_episode(len(rows) * episodes + num_done)

    for decoding in decodings:
        actor = PolicyActor(agent.policy, 0.0 if decoding == "greedy" else 1.0)
        played = play(
            task,
            actor,
            agent.images,
            seed,
            range(episodes),
            num_envs=num_envs,
            on_episode=count_on,
            keep_pictures_below=0,
            workers=WorkersConfig(count=workers),
        )
        fact_keys = task.interface.format.fact_keys
        rows.append(evaluation_row(agent.name, decoding, played, fact_keys, agent.training_starts))
        agent.images.clear()
    return EvalReport.create(env_id, env_args, seed, tuple(rows), time.perf_counter() - begun)


# ----------------------------------------------------------------------------------------------- runs


def build_run(config: RunConfig, console: Console | None = None) -> Run:
    """Every object of a run; nothing is written yet."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    images = MemoryImageStore()
    policy = build_policy(config.model, images, config.sampler, config.critic)
    tasks = [build_task(t, index, images) for index, t in enumerate(config.tasks)]
    _check_stages(config, tasks, policy)
    folder = Path(config.output).expanduser() / config.name
    return Run(config, folder, policy, tasks, images, console or Console(stderr=True))


def _check_stages(config: RunConfig, tasks: Sequence[Task], policy: Policy) -> None:
    """Finds out before any work what a stage will lack."""
    for stage in config.stages:
        if isinstance(stage, CollectStage):
            demonstrator(tasks[stage.task], stage, policy)
        if isinstance(stage, RLStage) and stage.guidance is not None:
            check_guidance(stage.guidance, tasks)
        for data in stage.datasets if isinstance(stage, SFTStage) else ():
            if is_folder(data):
                check_dataset(tasks, data)
        if isinstance(stage, SFTStage | RLStage):
            _check_training(config.model, policy, stage)
        if isinstance(stage, EvalStage) and "expert" in (stage.rows or ()) and tasks[stage.task].expert is None:
            raise ConfigError(f"{tasks[stage.task].env_id} has no expert: leave 'expert' out of the rows")


def _check_training(config: ModelConfig, policy: Policy, stage: SFTStage | RLStage) -> None:
    if config.dtype != "float32" and config.train == "full":
        raise ConfigError(
            f"model.dtype = '{config.dtype}' is for evaluation and adapters: updates are lost in the rounding of such "
            "weights. Train with 'float32', with compute_dtype = 'bfloat16' to compute in that"
        )
    if policy.config.train != config.train:
        raise ConfigError(f"{config.name} holds adapters: train them with model.train = '{policy.config.train}'")
    if stage.optim.optimizer == "adamw_8bit":
        require_bitsandbytes("optim.optimizer = 'adamw_8bit'")
    needs_values = isinstance(stage, RLStage) and PolicyGradient(stage.algorithm).needs_values
    if not needs_values and not any(p.requires_grad for p in policy.model.parameters()):
        raise ConfigError(f"model.freeze leaves nothing for the stage '{stage.name}' to train: freeze less")


def train(
    recipe: str | Path | RunConfig,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    output: str | Path | None = None,
    console: Console | None = None,
) -> Run:
    """Runs a recipe, by name, file or RunConfig, and returns the finished run."""
    if not isinstance(recipe, RunConfig):
        recipe = load_recipe(recipe, overrides)
    if output is not None:
        recipe = recipe.model_copy(update={"output": str(output)})
    run = build_run(recipe, console)
    with alone(run.folder, ".train.lock", f"another process is training {run.folder}: wait for it", not resume):
        run_stages(run, resume)
    return run
