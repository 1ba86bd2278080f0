"""What an algorithm can be told: an advantage estimator, a policy loss, and their numbers. No torch.

A paper's algorithm is a class of defaults in a file of its own; a recipe may change any of them. What does not go
together, and what nothing would read, is refused when the recipe is loaded.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from eyas.model_config import Config, CriticConfig

CRITIC = {"gae", "token_gae", "bilevel_gae"}  # estimators that need values, and bootstrap where an episode was cut
ELEMENT_VALUES = {"token_gae", "bilevel_gae"}  # those whose critic looks at every token
ELEMENT_LEVEL = {*ELEMENT_VALUES, "reinforce_pp"}  # those that give each token an advantage of its own
TRAJECTORY_LEVEL = {"group_relative", "leave_one_out"}  # those that give a trajectory one advantage
GROUPED = {*TRAJECTORY_LEVEL, "gigpo"}  # those that compare the episodes of a group

# What papers set has a type of its own.
Estimator = Annotated[
    Literal[
        "gae", "token_gae", "bilevel_gae", "monte_carlo", "group_relative", "leave_one_out", "reinforce_pp", "gigpo"
    ],
    Field(description="how advantages are made of rewards"),
]
PolicyLoss = Annotated[
    Literal["clip", "gspo", "cispo"],
    Field(description="PPO's clip, GSPO's (the mean log-ratio of the unit), or CISPO's clipped weights"),
]
Ratio = Annotated[
    Literal["token", "step", "trajectory"], Field(description="the unit that has a ratio: its log-probs are summed")
]
Average = Annotated[
    Literal["token", "step", "trajectory", "constant"] | None,
    Field(
        description="how the tokens' losses become one: all tokens weigh alike, or all steps, or all trajectories, or "
        "each token 1 / constant_tokens of a trajectory; none: that of `ratio`"
    ),
]
ThoughtWeight = Annotated[float, Field(ge=0, description="lambda: weight of thought tokens; action tokens weigh 1")]
Gamma = Annotated[float, Field(ge=0, le=1, description="discount a step")]
Lambda = Annotated[float, Field(ge=0, le=1, description="of generalised advantage estimation")]
IsStdScaled = Annotated[bool, Field(description="divide a group's advantages by its standard deviation")]
Normalise = Annotated[bool, Field(description="to mean 0 and standard deviation 1 over an iteration")]
Clip = Annotated[float, Field(gt=0, description="how far the ratio may fall below 1 (and rise above it)")]
ClipHigh = Annotated[float | None, Field(gt=0, description="how far the ratio may rise above 1; none: `clip`")]
ValueClip = Annotated[float, Field(ge=0, description="largest change of a value that is rewarded; 0: no limit")]
KLCoef = Annotated[
    float, Field(ge=0, description="weight of KL(policy || reference), the weights at the stage's start; 0: none")
]
KLEstimator = Annotated[Literal["k1", "k2", "k3"], Field(description="of that KL, from the sampled tokens")]
KLIn = Annotated[
    Literal["loss", "reward"], Field(description="whether the KL is a term of the loss or taken off the reward")
]
MoreGroups = Annotated[
    int, Field(ge=0, description="times that groups whose returns are all equal are replaced by new ones; 0: kept")
]

_READERS: dict[str, tuple[str, set[str]]] = {  # option -> the option that decides whether it is read, and when it is
    "gamma": ("estimator", {*CRITIC, "monte_carlo", "reinforce_pp", "gigpo"}),
    "gamma_token": ("estimator", ELEMENT_LEVEL),
    "gae_lambda": ("estimator", CRITIC),
    "omega": ("estimator", {"gigpo"}),
    "is_std_scaled": ("estimator", {"group_relative", "gigpo"}),
    "value_coef": ("estimator", CRITIC),
    "value_clip": ("estimator", CRITIC),
    "more_groups": ("estimator", GROUPED),
    "constant_tokens": ("average", {"constant"}),
    "importance_cap": ("importance", {"truncate", "mask"}),
    "is_kl_corrected": ("kl_in", {"loss"}),
}


class AlgorithmOptions(Config):
    """Every option with its neutral default; a paper's class says its own."""

    name: str
    estimator: Estimator = "gae"
    loss: PolicyLoss = "clip"
    ratio: Ratio = "token"
    average: Average = None
    constant_tokens: int = Field(
        default=512, ge=1, description="tokens that a trajectory counts as (average = 'constant')"
    )
    thought_weight: ThoughtWeight = 1.0
    gamma: Gamma = 0.95
    gamma_token: float = Field(default=1.0, ge=0, le=1, description="discount from token to token inside a step")
    gae_lambda: Lambda = 0.95
    omega: float = Field(default=1.0, ge=0, description="weight of the step's advantage beside the episode's")
    is_std_scaled: IsStdScaled = True
    normalise_advantages: Normalise = False
    clip: Clip = 0.2
    clip_high: ClipHigh = None
    value_coef: float = Field(default=0.5, ge=0, description="weight of the value loss")
    value_clip: ValueClip = 0.2
    entropy_coef: float = Field(default=0.0, ge=0, description="weight of the entropy bonus, nats a token")
    kl_coef: KLCoef = 0.0
    kl_estimator: KLEstimator = "k3"
    kl_in: KLIn = "loss"
    is_kl_corrected: bool = Field(
        default=False, description="weigh the loss's KL by the ratio to the policy that sampled: its gradient is exact"
    )
    importance: Literal["none", "truncate", "mask"] = Field(
        default="none",
        description="where sampler and learner differ: weigh by their ratio up to a cap, or drop what is beyond it",
    )
    importance_cap: float = Field(default=2.0, gt=1, description="largest ratio of learner to sampler")
    more_groups: MoreGroups = 0

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.estimator in ELEMENT_LEVEL and self.ratio != "token":
            raise ValueError(
                f"estimator '{self.estimator}' gives each token its own advantage, ratio = '{self.ratio}' takes one for "
                "many tokens: set ratio = 'token'"
            )
        if self.ratio == "trajectory" and self.estimator not in TRAJECTORY_LEVEL:
            raise ValueError(
                f"ratio = 'trajectory' takes one advantage a trajectory, estimator '{self.estimator}' gives one a step: "
                "set ratio = 'step', or estimator = 'group_relative' or 'leave_one_out'"
            )
        if self.loss == "gspo" and self.ratio == "token":
            raise ValueError("loss 'gspo' is the mean over many tokens: set ratio = 'trajectory' or 'step'")
        if self.kl_coef and self.kl_in == "loss" and self.kl_estimator == "k1" and not self.is_kl_corrected:
            raise ValueError(
                "kl_estimator = 'k1' in the loss pulls nowhere, its gradient is 0 on average: set "
                "is_kl_corrected = true, kl_in = 'reward', or kl_estimator = 'k3'"
            )
        return self

    @model_validator(mode="after")
    def _has_no_idle_option(self) -> Self:
        if idle := [problem for key, value in self.changed.items() if (problem := self._idle(key, value))]:
            raise ValueError("; ".join(idle))
        return self

    def _idle(self, key: str, value: object) -> str | None:
        if key in ("kl_estimator", "kl_in", "is_kl_corrected") and not self.kl_coef:
            return f"{key} = {value!r} does nothing with kl_coef = 0: remove it, or set kl_coef"
        decided_by, values = _READERS.get(key, ("name", {self.name}))
        if (found := getattr(self, decided_by)) in values:
            return None
        wanted = " or ".join(repr(v) for v in sorted(values))
        return (
            f"{key} = {value!r} does nothing with {decided_by} = {found!r}: remove it, or set {decided_by} to {wanted}"
        )

    def problem_with(self, rollout_episodes: int | None, group_size: int, is_guided: bool = False) -> str | None:
        """Why this algorithm cannot learn from what a stage collects, in words; None where it can."""
        if self.name == "gtr" and not is_guided:
            return "GTR clones corrected thoughts: add [stages.guidance] with corrector = 'expert' or 'model'"
        if self.estimator not in CRITIC and rollout_episodes is None:
            return (
                f"estimator '{self.estimator}' has no critic that stands for what follows a cut episode: give "
                "'rollout_episodes' in place of 'rollout_steps'"
            )
        if self.estimator in GROUPED and group_size < 2:
            return f"estimator '{self.estimator}' compares the episodes of a group: set group_size to 2 or more"
        return None

    def problem_with_critic(self, critic: CriticConfig) -> str | None:
        """Why this algorithm cannot learn with such a critic, in words; None where it can."""
        level = "token" if self.estimator in ELEMENT_VALUES else "step"
        if self.estimator in CRITIC and critic.level != level:
            return f"estimator '{self.estimator}' needs the values of every {level}: set critic.level = '{level}'"
        if self.name == "vl_dac" and critic.kind == "head" and not critic.stop_gradient:
            return "VL-DAC's value loss does not reach the policy: set critic.stop_gradient = true"
        return None
