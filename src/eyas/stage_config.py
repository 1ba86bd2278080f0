"""The stages of a run, as recipes write them, and the optimizer that two of them share. No torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from .algorithms.ppo import PPOConfig
from .algorithms.registry import AlgorithmConfig
from .guidance.options import GuidanceConfig
from .model_config import Config

Row = Literal["random", "constant", "expert", "untrained", "sft", "sft_continued", "rl"]
Decoding = Literal["greedy", "sample"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9._-]*$")]  # becomes a part of file names and of override paths

_COPIES = (
    "copies of the environment that are stepped together: more share a pass of the model, each takes its own memory; "
    "a few where one starts a browser or an emulator"
)


class OptimConfig(Config):
    """AdamW and its schedule."""

    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")
    lr_value_head: float | None = Field(default=None, gt=0, description="of the critic; none: `lr`")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(default=(0.9, 0.95))
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled, on matrices only")
    warmup_steps: int = Field(default=0, ge=0, description="updates of linear rise from 0")
    schedule: Literal["constant", "cosine", "linear"] = Field(default="constant", description="after the warm-up")
    final_lr_share: float = Field(
        default=0.0, ge=0, le=1, description="learning rate at the end of the stage, as a share of `lr`"
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are scaled down to this global norm")
    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        default="adamw", description="adamw_8bit: moments in 8 bits, by bitsandbytes"
    )


class CollectStage(Config):
    """Writes episodes to learn from: demonstrations, own successes, or own episodes with the expert's answers."""

    kind: Literal["collect"] = "collect"
    name: Name = Field(default="collect", description="how other stages refer to this one")
    policy: str = Field(
        default="expert", min_length=1, description="who plays: expert, random, or self, the run's policy as it is now"
    )
    keep: Literal["all", "successes"] = Field(
        default="all", description="successes: only episodes that succeed without a fallback action"
    )
    labels: Literal["own", "expert"] = Field(
        default="own", description="whose answer is written at each step: the player's, or the expert's"
    )
    random_share: float = Field(
        default=0.0, ge=0, le=1, description="share of steps that play a random legal action instead"
    )
    episodes: int = Field(ge=1)
    num_envs: int = Field(default=64, ge=1, description=_COPIES)
    task: int = Field(default=0, ge=0, description="index in `tasks`")


class SFTStage(Config):
    """Supervised fine-tuning on recorded episodes. Exactly one of `steps` and `steps_like`."""

    kind: Literal["sft"] = "sft"
    name: Name = Field(default="sft", description="how other stages refer to this one")
    data: str | tuple[str, ...] = Field(
        default="collect",
        min_length=1,
        description="an earlier collect stage, or a folder (with a slash); or a list of them",
    )
    start_from: str | None = Field(
        default=None, description="earlier stage whose weights to start from; none: where the run stands"
    )
    is_side_branch: bool = Field(
        default=False, description="keep the weights as a checkpoint; the run goes on from before it"
    )
    steps: int | None = Field(default=None, ge=1, description="updates")
    steps_like: str | None = Field(default=None, description="earlier rl stage whose number of updates to take")
    batch_size: int = Field(default=32, ge=1, description="samples an update")
    micro_batch_tokens: int | None = Field(
        default=None, ge=1, description="tokens of a pass of the model, padding included; none: all of an update"
    )
    validation_share: float = Field(default=0.1, ge=0, lt=1, description="share of the episodes that is held out")
    validation_every: int = Field(default=100, ge=1, description="updates")
    optim: OptimConfig = Field(default_factory=OptimConfig)

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        if (self.steps is None) == (self.steps_like is None):
            raise ValueError("give exactly one of 'steps' and 'steps_like'")
        return self

    @property
    def datasets(self) -> tuple[str, ...]:
        """What `data` names, each once."""
        return tuple(dict.fromkeys([self.data] if isinstance(self.data, str) else self.data))


class RLStage(Config):
    """Reinforcement learning. An iteration is `rollout_steps` a copy of the environment, or `rollout_episodes` in all."""

    kind: Literal["rl"] = "rl"
    name: Name = Field(default="rl", description="how other stages refer to this one")
    algorithm: AlgorithmConfig = Field(default_factory=PPOConfig, description="which algorithm, and its options")
    iterations: int = Field(ge=1, description="collect-and-learn cycles")
    num_envs: int = Field(default=32, ge=1, description="copies of the environment that are stepped together")
    rollout_steps: int | None = Field(default=None, ge=1, description="steps a copy; 8 where neither length is given")
    rollout_episodes: int | None = Field(default=None, ge=1, description="whole episodes an iteration")
    group_size: int = Field(default=1, ge=1, description="episodes that share a start")
    guidance: GuidanceConfig | None = Field(default=None, description="corrected thoughts that are cloned too")
    epochs: int = Field(default=2, ge=1, description="passes over an iteration's samples")
    minibatch_size: int = Field(default=64, ge=1, description="environment steps an update")
    micro_batch_tokens: int | None = Field(
        default=None, ge=1, description="tokens of a pass of the model, padding included; none: all of an update"
    )
    temperature: float = Field(default=1.0, gt=0, description="of sampling, on both sides of the ratio")
    evaluate_every: int = Field(default=0, ge=0, description="iterations between evaluations; 0: none")
    evaluate_episodes: int = Field(default=100, ge=1)
    thought_probe_every: int = Field(
        default=10, ge=0, description="iterations between measurements of how thoughts depend on the input; 0: none"
    )
    checkpoint_every: int = Field(default=5, ge=0, description="iterations between checkpoints; 0: at the end only")
    max_nonfinite_updates: int = Field(default=5, ge=1, description="this many skipped updates in a row stop the run")
    optim: OptimConfig = Field(default_factory=OptimConfig)

    @model_validator(mode="before")
    @classmethod
    def _default_length(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("rollout_steps") is None and data.get("rollout_episodes") is None:
            return {**data, "rollout_steps": 8}
        return data

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.rollout_steps is not None and self.rollout_episodes is not None:
            raise ValueError("give exactly one of 'rollout_steps' and 'rollout_episodes'")
        if self.group_size > 1 and self.rollout_episodes is None:
            raise ValueError(
                f"group_size = {self.group_size} needs whole episodes: give 'rollout_episodes', a multiple of it, "
                "in place of 'rollout_steps'"
            )
        if self.rollout_episodes is not None and self.rollout_episodes % self.group_size:
            raise ValueError(
                f"rollout_episodes = {self.rollout_episodes} is no multiple of group_size = {self.group_size}"
            )
        if problem := self.algorithm.problem_with(self.rollout_episodes, self.group_size, self.guidance is not None):
            raise ValueError(problem)
        return self


class EvalStage(Config):
    """Evaluates a ladder of policies on the same seeds."""

    kind: Literal["eval"] = "eval"
    name: Name = Field(default="eval", description="how other stages refer to this one")
    episodes: int = Field(default=500, ge=1, description="a row")
    num_envs: int = Field(default=64, ge=1, description=_COPIES)
    seed: int = Field(default=0, ge=0, description="of the evaluation episodes; never shared with training")
    rows: tuple[Row, ...] | None = Field(default=None, min_length=1, description="none: every row that the run has")
    decodings: tuple[Decoding, ...] = Field(default=("greedy", "sample"), min_length=1)
    task: int = Field(default=0, ge=0, description="index in `tasks`")


Stage = Annotated[CollectStage | SFTStage | RLStage | EvalStage, Field(discriminator="kind")]
