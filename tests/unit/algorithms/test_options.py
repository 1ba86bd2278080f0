"""What algorithms can be told: every option changes something, and what does not go together is refused."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from eyas.algorithms.base import LearnerOutput
from eyas.algorithms.options import AlgorithmOptions
from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.algorithms.registry import PAPERS
from eyas.batch import Denominators, SampleStep, TrainingSample
from eyas.collate import collate
from eyas.config import RLStage, RunConfig
from eyas.errors import ConfigError

GROUPED = {"rollout_episodes": 8, "group_size": 4}


def iteration():
    """Two groups of two episodes of two steps; each step has a thought token and an action token."""
    rng = np.random.default_rng(0)
    samples = []
    for trajectory in range(4):
        for place in range(2):
            length = 2 + (trajectory + place) % 2
            step = SampleStep(1, 2, 1 + length, reward=rng.normal(), value=rng.normal(), anchor=f"{place}")
            step.share, step.next_value = 0.5, 0.3 if place else None
            sample = TrainingSample(np.arange(1 + length), (), (step,), rng.normal(-1, 0.2, length), trajectory)
            sample.group = trajectory // 2
            for name in ("reference_logprobs", "old_logprobs", "element_values"):
                setattr(sample, name, sample.sampling_logprobs + rng.normal(0, 0.5, length))
            samples.append(sample)
    return samples


def total(name="ppo", **options):
    """The loss of an iteration after credit, with weights that have moved."""
    samples, algorithm = iteration(), PolicyGradient(PAPERS[name](**options))
    if not algorithm.needs_old_logprobs:
        for sample in samples:
            sample.old_logprobs = None
    algorithm.credit(samples)
    batch = collate(samples, 0)
    rng = torch.Generator().manual_seed(0)
    count = len(batch.token_ids)
    moved = batch.sampling_logprobs + 0.3 * torch.randn(count, generator=rng)
    entropy = torch.linspace(1, 2, count) if algorithm.needs_entropy else None
    values = torch.randn(count, generator=rng)
    output = LearnerOutput(moved, entropy, values[: len(samples)], element_values=values)
    return algorithm.loss(batch, output, Denominators.of(samples)).total.item()


TOKENS = {"estimator": "token_gae", "ratio": "token"}
RELATIVE = {"estimator": "group_relative", "ratio": "token"}
KL = {"ratio": "token", "kl_coef": 0.1}
CASES = {  # option -> what it needs, and another value
    "estimator": ({}, "monte_carlo"),
    "loss": ({}, "cispo"),
    "ratio": ({}, "token"),
    "average": ({}, "token"),
    "constant_tokens": ({**RELATIVE, "average": "constant"}, 20),
    "thought_weight": ({}, 0.9),
    "gamma": ({}, 0.3),
    "gamma_token": (TOKENS, 0.5),
    "gae_lambda": ({}, 0.1),
    "omega": ({"estimator": "gigpo", "is_std_scaled": False}, 0.1),
    "is_std_scaled": (RELATIVE, False),
    "normalise_advantages": ({}, False),
    "clip": ({}, 0.05),
    "clip_high": ({"ratio": "token"}, 0.05),
    "value_coef": ({}, 0.9),
    "value_clip": ({}, 0.05),
    "entropy_coef": ({}, 0.3),
    "kl_coef": ({"ratio": "token"}, 0.1),
    "kl_estimator": (KL, "k2"),
    "kl_in": (KL, "reward"),
    "is_kl_corrected": (KL, True),
    "importance": ({"ratio": "token"}, "truncate"),
    "importance_cap": ({"ratio": "token", "importance": "truncate"}, 1.1),
}


@pytest.mark.parametrize("option", sorted(set(AlgorithmOptions.model_fields) - {"name", "more_groups"}))
def test_silentoption_each_option_changes_the_loss(option):
    assert option in CASES, "a new option needs a value here that shows its effect"
    needed, value = CASES[option]
    assert abs(total(**needed, **{option: value}) - total(**needed)) > 1e-5


def test_silentoption_more_groups_is_handed_to_the_loop():
    assert [PolicyGradient(PAPERS["dapo"](more_groups=n)).more_groups for n in (0, 2)] == [0, 2]


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_each_algorithm_gives_a_finite_loss_of_its_own(name):
    assert np.isfinite(total(name))
    assert PAPERS[name]().name == name
    plain = {k: v for k, v in PAPERS[name]().model_dump().items() if k != "name"}
    same = [n for n, p in PAPERS.items() if {k: v for k, v in p().model_dump().items() if k != "name"} == plain]
    assert same == [name]


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_what_is_written_out_reads_back(name):
    options = PAPERS[name]()
    assert PAPERS[name].model_validate(options.model_dump(mode="json", exclude_none=True)) == options


def test_every_option_is_described():
    options = {n: f.description for p in PAPERS.values() for n, f in p.model_fields.items() if n != "name"}
    assert all(options.values())


# ----------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("ppo", {"estimator": "token_gae"}, "gives each token its own advantage.*set ratio = 'token'"),
        ("ppo", {"ratio": "trajectory"}, "takes one advantage a trajectory.*set ratio = 'step'"),
        ("gigpo", {"ratio": "trajectory"}, "gives one a step"),
        ("ppo", {"loss": "gspo", "ratio": "token"}, "set ratio = 'trajectory' or 'step'"),
        ("grpo", {"kl_estimator": "k1"}, "its gradient is 0 on average"),
        ("grpo", {"gae_lambda": 0.5}, "gae_lambda = 0.5 does nothing with estimator = 'group_relative'"),
        ("grpo", {"gamma": 0.5, "omega": 2.0}, "gamma = 0.5 does nothing.*; omega = 2.0 does nothing"),
        ("ppo", {"omega": 0.5}, "set estimator to 'gigpo'"),
        ("ppo", {"kl_estimator": "k2"}, "does nothing with kl_coef = 0"),
        ("ppo", {"importance_cap": 3.0}, "set importance to 'mask' or 'truncate'"),
        ("ppo", {"constant_tokens": 3}, "set average to 'constant'"),
        ("rloo", {"is_kl_corrected": True}, "does nothing with kl_in = 'reward'"),
        ("reinforce_pp", {"more_groups": 2}, "does nothing with estimator = 'reinforce_pp'"),
        ("ppo", {"gamma": 1.5}, "less than or equal to 1"),
        ("dapo", {"clip_high": 0.0}, "greater than 0"),
    ],
)
def test_incompatible_mixes_are_refused(name, options, expected):
    with pytest.raises(ValidationError, match=expected):
        PAPERS[name](**options)


def run_with(algorithm=None, critic=None, **stage):
    stage = {"kind": "rl", "iterations": 1, "algorithm": algorithm or {}} | stage
    tables = {"critic": critic} if critic else {}
    return RunConfig.model_validate({"name": "x", "tasks": [{"env": "a"}], "stages": [stage], **tables})


@pytest.mark.parametrize(
    ("algorithm", "stage", "expected"),
    [
        ({"name": "grpoo"}, {}, r"stages.0.algorithm: unknown name 'grpoo'; did you mean 'grpo'\?"),
        ({"name": "dapo", "clip_hi": 1}, {}, r"stages.0.algorithm.clip_hi: unknown key; did you mean 'clip_high'\?"),
        ({"name": "grpo", "clip": -1}, {}, "stages.0.algorithm.clip: should be greater than 0, not -1"),
        ({"name": "gtr"}, {}, r"stages.0: GTR clones corrected thoughts: add \[stages.guidance\]"),
        ({"name": "grpo"}, {}, "give 'rollout_episodes' in place of 'rollout_steps'"),
        ({"name": "grpo"}, {"rollout_episodes": 8}, "stages.0: .* set group_size to 2 or more"),
        ({"name": "reinforce_pp"}, {"rollout_steps": 8}, "no critic that stands for what follows a cut episode"),
        ({"estimator": "monte_carlo"}, {}, "give 'rollout_episodes'"),
        ({"name": "ppo", "estimator": "token_gae"}, {}, "stages.0.algorithm: .* set ratio = 'token'"),
        ({"name": "vagen"}, {}, "stages.0.algorithm: .*set critic.level = 'token'"),
        ({"name": "vl_dac"}, {}, "set critic.stop_gradient = true"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_when_it_is_loaded(algorithm, stage, expected):
    with pytest.raises(ConfigError, match=expected):
        run_with(algorithm, **stage)


def test_a_critic_that_no_stage_reads_is_refused():
    with pytest.raises(ConfigError, match="critic: no stage of this run has a use for values"):
        run_with({"name": "grpo"}, {"level": "token"}, **GROUPED)
    with pytest.raises(ConfigError, match="estimator 'gae' needs the values of every step"):
        run_with({}, {"level": "token"})


def test_recipes_mix_estimator_and_loss_freely():
    stage = run_with({"name": "ppo", "estimator": "gigpo", "loss": "cispo", "ratio": "token"}, **GROUPED).stages[0]
    assert isinstance(stage, RLStage)
    assert (stage.algorithm.name, stage.algorithm.estimator, stage.algorithm.loss) == ("ppo", "gigpo", "cispo")
    for name in sorted(set(PAPERS) - {"vagen", "vl_dac", "gtr"}):
        assert run_with({"name": name}, **GROUPED).stages[0].algorithm == PAPERS[name]()
    guided = run_with({"name": "gtr"}, guidance={"corrector": "expert"}).stages[0]
    assert isinstance(guided, RLStage) and guided.algorithm == PAPERS["gtr"]()
    assert run_with({"name": "vagen"}, {"level": "token"}).stages[0].algorithm == PAPERS["vagen"]()
    assert run_with({"name": "vl_dac"}, {"stop_gradient": True}).stages[0].algorithm == PAPERS["vl_dac"]()


def test_an_algorithm_without_a_name_is_ppo():
    assert run_with({"gamma": 0.5}).stages[0].algorithm == PAPERS["ppo"](gamma=0.5)
