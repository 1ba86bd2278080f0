"""Losses and gradients of GRPO and its relatives equal TRL's on the same tensors."""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

from eyas.algorithms.base import LearnerOutput
from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.algorithms.registry import PAPERS
from eyas.batch import Denominators, SampleStep, TrainingSample
from eyas.collate import collate

LENGTHS = [[3, 2], [1], [4, 1, 2], [6]]  # completion tokens of each step of four trajectories
GAP = 2  # observation tokens before each completion
WIDTH = 12


class Tensors:
    """Log-probs of four trajectories, flat as Eyas has them, and (4, WIDTH) with a mask as TRL has them."""

    def __init__(self, spread: float):
        rng = np.random.default_rng(0)
        self.advantages = [1.5, -0.7, 0.4, -1.2]
        self.samples, places = [], []
        for i, lengths in enumerate(LENGTHS):
            steps, column = [], 0
            for length in lengths:
                column += GAP
                share = length / sum(lengths)
                step = SampleStep(column, column, column + length, advantage=self.advantages[i], share=share)
                steps.append(step)
                places += [(i, column - GAP + k) for k in range(length)]
                column += length
            count = sum(lengths)
            sample = TrainingSample(np.zeros(column, np.int64), (), tuple(steps), trajectory=i)
            sample.sampling_logprobs, sample.old_logprobs, sample.reference_logprobs = (
                rng.normal(-2, 0.3, count).astype(np.float32) for _ in range(3)
            )
            sample.old_logprobs = sample.sampling_logprobs + rng.normal(0, 0.5, count).astype(np.float32)
            self.samples.append(sample)
        self.rows, self.columns = torch.tensor(places).T
        old = torch.tensor(np.concatenate([s.old_logprobs for s in self.samples]))
        self.logprobs = old + torch.tensor(rng.normal(0, spread, len(old)), dtype=torch.float32)

    def spread_out(self, flat) -> torch.Tensor:
        if isinstance(flat, str):
            flat = torch.tensor(np.concatenate([getattr(s, flat) for s in self.samples]))
        return torch.zeros(len(LENGTHS), WIDTH).index_put((self.rows, self.columns), flat)

    @property
    def mask(self) -> torch.Tensor:
        return self.spread_out(torch.ones(len(self.rows)))


def ours(tensors, name, has_old=False, **options):
    """Loss and gradient with respect to the flat log-probs."""
    for sample in tensors.samples:
        if not has_old:
            sample.sampling_logprobs, sample.old_logprobs = sample.old_logprobs, None
    logprobs = tensors.logprobs.clone().requires_grad_()
    algorithm = PolicyGradient(PAPERS[name](**options))
    batch = collate(tensors.samples, 0)
    loss = algorithm.loss(batch, LearnerOutput(logprobs, None, None), Denominators.of(tensors.samples)).total
    loss.backward()
    return loss.item(), logprobs.grad


def identity(x, *args, **kwargs):
    return x


def theirs(tensors, trainer=GRPOTrainer, extra=None, **settings):
    """The same of TRL, by its own method on an object that has just what it reads."""
    logprobs = tensors.logprobs.clone().requires_grad_()
    arguments = {"use_bias_correction_kl": False, "delta": None, "steps_per_generation": 1}
    arguments |= {k: settings.pop(k) for k in list(settings) if k in arguments}
    known = {
        "aux_loss_enabled": False, "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "use_vllm": False,
        "importance_sampling_level": "token", "beta": 0.0, "loss_type": "grpo", "epsilon_low": 0.2,
        "epsilon_high": 0.2, "current_gradient_accumulation_steps": 1, "max_completion_length": 10,
        "vllm_importance_sampling_correction": True, "_entropy_bonus_enabled": False,
        "model": SimpleNamespace(training=True), "args": SimpleNamespace(**arguments),
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "accelerator": SimpleNamespace(num_processes=1, gather=identity, reduce=identity),
    }  # fmt: skip
    if unknown := set(settings) - set(known):
        raise KeyError(unknown)
    wide = tensors.spread_out(logprobs)
    stub = SimpleNamespace(**(known | settings))
    stub._get_per_token_logps_and_entropies = lambda *args, **kwargs: (wide, torch.zeros_like(wide), None)
    ids, mask = torch.zeros(len(LENGTHS), WIDTH, dtype=torch.long), tensors.mask
    inputs = {
        "prompt_ids": ids[:, :1], "prompt_mask": torch.ones(len(LENGTHS), 1), "completion_ids": ids,
        "completion_mask": mask, "advantages": torch.tensor(tensors.advantages),
        "old_per_token_logps": tensors.spread_out("old_logprobs"),
        "ref_per_token_logps": tensors.spread_out("reference_logprobs"), "num_items_in_batch": mask.sum(),
        "old_logps": tensors.spread_out("old_logprobs").sum(1),
    }  # fmt: skip
    loss = trainer._compute_loss(stub, None, inputs | (extra or {}))
    loss.backward()
    return loss.item(), logprobs.grad


CASES = {
    "grpo": ({"kl_coef": 0.04}, {"beta": 0.04}),
    "grpo without a KL": ({"name": "grpo", "kl_coef": 0.0}, {}),
    "grpo, corrected KL": (
        {"name": "grpo", "kl_coef": 0.04, "is_kl_corrected": True}, {"beta": 0.04, "use_bias_correction_kl": True}
    ),
    "dr_grpo": ({"constant_tokens": 10}, {"loss_type": "dr_grpo"}),
    "dapo": ({}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    "cispo": ({}, {"loss_type": "cispo", "epsilon_high": 5.0}),
    "gspo": ({"clip": 0.05, "clip_high": 0.08}, {
        "importance_sampling_level": "sequence", "epsilon_low": 0.05, "epsilon_high": 0.08}),
}  # fmt: skip


@pytest.mark.parametrize("spread", [0.05, 0.6])  # few ratios beyond the clip, and many
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_equal_trl(case, spread):
    options, settings = CASES[case]
    name = options.get("name", case)
    expected_loss, expected = theirs(Tensors(spread), **settings)
    loss, gradient = ours(Tensors(spread), name, **{k: v for k, v in options.items() if k != "name"})
    assert loss == pytest.approx(expected_loss, abs=1e-6)
    assert torch.allclose(gradient, expected, atol=1e-7)
    assert expected.abs().max() > 1e-3


@pytest.mark.parametrize("spread", [0.05, 0.6])
def test_rloo_equals_trl(spread):
    expected_loss, expected = theirs(Tensors(spread), RLOOTrainer)
    loss, gradient = ours(Tensors(spread), "rloo", kl_coef=0.0)
    assert loss == pytest.approx(expected_loss, abs=1e-6)
    assert torch.allclose(gradient, expected, atol=1e-7)


@pytest.mark.parametrize("importance", ["truncate", "mask"])
def test_importance_correction_equals_trl(importance):
    tensors = Tensors(0.1)
    ratio = (tensors.spread_out("old_logprobs") - tensors.spread_out("sampling_logprobs")).exp()
    weights = ratio.clamp(max=2.0) if importance == "truncate" else ratio * ((ratio <= 2.0) & (ratio >= 0.5))
    extra = {"importance_sampling_ratio": weights}
    expected_loss, expected = theirs(tensors, extra=extra, loss_type="dapo", epsilon_high=0.28, use_vllm=True)
    loss, gradient = ours(Tensors(0.1), "dapo", has_old=True, importance=importance)
    assert loss == pytest.approx(expected_loss, abs=1e-6)
    assert torch.allclose(gradient, expected, atol=1e-7)
    _, uncorrected = theirs(Tensors(0.1), loss_type="dapo", epsilon_high=0.28)  # the wrong variant
    assert not torch.allclose(uncorrected, gradient, atol=1e-3)


def test_the_comparison_tells_the_averages_apart():
    found = [theirs(Tensors(0.1), loss_type=t)[0] for t in ("grpo", "dapo", "dr_grpo")]
    assert len({round(x, 4) for x in found}) == 3
