"""`eyas model check` on a tiny random model of every family, and on models that are broken in one way each."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from eyas.algorithms.supervised import Supervised
from eyas.batch import SampleStep, TrainingSample
from eyas.checks.model import check_policy
from eyas.checks.report import Report
from eyas.config import ModelConfig, OptimConfig
from eyas.models import adapter, families, reading
from eyas.models.adapter import VisionLanguageModel
from eyas.models.policy import Policy
from eyas.rollouts.images import MemoryImageStore
from eyas.samplers.in_process import InProcessSampler
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer
from families import BUILDERS, PICTURED, build
from helpers import picture, prompt

LINES = [
    "tokens", "picture tokens", "chat template", "repeatable", "bare forward", "positions", "padding left", "never sampled",
    "token identity", "generate", "sampler = learner", "action scoring", "prefix cache", "feature cache", "masks", "padding right",
    "merged steps", "shared prompts", "several pictures", "value head", "adapters", "save and load", "optimisations", "memory",
]  # fmt: skip


def policy_of(name: str) -> Policy:
    images = MemoryImageStore()
    model = VisionLanguageModel(*build(name))
    return Policy(model, InProcessSampler(model, images), images)


def failed(report: Report) -> list[str]:
    return [check.name for check in report.checks if not check.ok]


def idle(report: Report) -> set[str]:
    return {check.name for check in report.checks if check.detail.startswith("does not apply")}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_family_is_driven_as_it_was_made(name):
    policy = policy_of(name)
    before = {k: v.clone() for k, v in policy.model.state_dict().items()}
    report = check_policy(policy, name)
    assert [c.name for c in report.checks] == LINES
    assert failed(report) == [], [c.detail for c in report.checks if not c.ok]
    about_pictures = {"picture tokens", "feature cache", "several pictures"}
    assert about_pictures & idle(report) == (set() if name in PICTURED else about_pictures)
    supports = policy.model.family.supports
    assert ("shared prompts" in idle(report)) == (not supports["shared prompts"])
    assert ("prefix cache" in idle(report)) == (not supports["prefix reuse"])
    assert ("merged steps" in idle(report)) == (not policy.model.is_prefix_stable)
    assert all(torch.equal(v, before[k]) for k, v in policy.model.state_dict().items())


@pytest.mark.parametrize("name", BUILDERS)
def test_how_rows_are_parted_and_attended_to_changes_no_logprob(name, monkeypatch):
    """Passes by length and attention in blocks are exact; in bfloat16 blocks round otherwise than fused attention, and no more."""
    policy = policy_of(name)
    learner = Learner(policy, Supervised(), Optimizer(policy.model, policy.critic, OptimConfig(), 1))
    hashes = [policy.images.put(picture(i)) for i in range(3)] if name in PICTURED else []
    samples = [sample_of(policy, "word " * (1 + 4 * i), hashes[:1] if i % 2 else [], 3 * i + 1) for i in range(4)]

    def logprobs(least_padding: int, least_keys: int, dtype: str) -> torch.Tensor:
        monkeypatch.setattr(reading, "LEAST_PADDING", {"cpu": least_padding})
        monkeypatch.setattr(reading, "LEAST_BLOCKS_KEYS", {dtype: least_keys})
        policy.config = ModelConfig(compute_dtype=dtype)
        with torch.no_grad():
            return learner.forward(reading.batch_of(policy.model, policy.images, samples)).logprobs

    together = logprobs(10**9, 10**9, "float32")
    assert (logprobs(1, 10**9, "float32") - together).abs().max() < 1e-4
    text, family = policy.model.model.config.get_text_config(), policy.model.family
    takes_blocks = text._attn_implementation == "sdpa" and family.has_slots and family.is_causal
    in_blocks = logprobs(1, 0, "float32")
    assert torch.equal(in_blocks, logprobs(1, 10**9, "float32")) != takes_blocks
    assert (in_blocks - together).abs().max() < 1e-4
    fused, plain = (logprobs(10**9, least_keys, "bfloat16") for least_keys in (10**9, 0))
    assert torch.equal(fused, plain) != takes_blocks
    assert (plain - together).abs().mean() < 2 * (fused - together).abs().mean() + 1e-4
    assert takes_blocks <= (text._attn_implementation == "sdpa")


def sample_of(policy: Policy, text: str, hashes: list[str], length: int) -> TrainingSample:
    encoded = policy.model.encode(prompt(text, *hashes), policy.images)
    ids = np.concatenate([encoded.ids, encoded.ids[-1:].repeat(length)])
    return TrainingSample(ids, encoded.image_hashes, (SampleStep(len(encoded.ids), len(ids), len(ids)),))


def test_bfloat16_has_limits_of_its_own():
    policy = policy_of("qwen2_vl")
    policy.model.model.to(torch.bfloat16)
    report = check_policy(policy, "qwen2_vl")
    assert failed(report) == []
    (line,) = report.named("sampler = learner")
    assert "p99" in line.detail and "KL" in line.detail


def test_ropestate_positions_do_not_come_from_the_model_s_memory():
    policy = policy_of("qwen2_vl")
    policy.model.model.model.rope_deltas = torch.full((1, 1), 1000)  # of another conversation
    assert failed(check_policy(policy, "qwen2_vl")) == []


@pytest.mark.parametrize("name", ["smolvlm", "llama"])
def test_prefix_a_template_that_rewrites_earlier_turns_forks_and_does_not_fail(name):
    policy = policy_of(name)
    holder, part = policy.model.processor, {"smolvlm": "p['text']", "llama": "m['content']"}[name]
    forgets = f"({part}.split('</think>')[-1] if m['role'] == 'assistant' else {part})"
    holder.chat_template = holder.chat_template.replace(f"{{{{ {part} }}}}", f"{{{{ {forgets} }}}}")
    report = check_policy(policy, name)
    assert failed(report) == []
    assert not policy.model.is_prefix_stable
    assert "rewrites earlier turns" in report.named("chat template")[0].detail


# ----------------------------------------------------------------------------------------------- broken models


def loses_a_placeholder(policy: Policy) -> None:
    processor = policy.model.processor
    whole = processor.replace_image_token
    processor.replace_image_token = lambda *args, **options: whole(*args, **options)[: -len(processor.image_token)]


def adds_a_second_bos(policy: Policy) -> None:
    processor = policy.model.processor
    processor.chat_template = processor.chat_template.replace("{{ bos_token }}", "{{ bos_token }}{{ bos_token }}")


def loses_bos(policy: Policy) -> None:
    policy.model.__dict__["_bos"] = None


def ignores_its_mask(policy: Policy) -> None:
    base = policy.model.model.model
    forward = base.forward
    base.forward = lambda *args, **options: forward(*args, **(options | {"attention_mask": None}))


def counts_positions_from_1(policy: Policy) -> None:
    model = policy.model
    positions = model.positions
    model.positions = lambda *args: positions(*args) + 1  # type: ignore[method-assign]


def skips_a_position_behind_pictures(policy: Policy) -> None:
    model = policy.model
    positions = model.positions

    def wrong(ids, *rest):
        places = np.flatnonzero(ids == model.image_token_id)
        behind = np.arange(len(ids)) > (places[-1] if len(places) else len(ids))
        return positions(ids, *rest) + behind

    model.positions = wrong  # type: ignore[method-assign]


class Dropout(nn.Module):
    def forward(self, hidden):
        return nn.functional.dropout(hidden, 0.2, training=True)


def drops_out_in_its_tower(policy: Policy) -> None:
    tower: Any = policy.model.model.model.vision_tower
    tower.post_layernorm = nn.Sequential(tower.post_layernorm, Dropout())


def loses_its_head_on_the_disk(policy: Policy) -> None:
    model = policy.model.model
    save, weights = model.save_pretrained, {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    model.save_pretrained = lambda folder: save(folder, state_dict=weights)


def may_sample_anything(policy: Policy) -> None:
    policy.model.forbidden_ids = policy.model.forbidden_ids[:0]


def caps_no_logits(policy: Policy) -> None:
    policy.model.logits = lambda hidden: policy.model.model.lm_head(hidden)  # type: ignore[method-assign]


def confuses_its_pictures(policy: Policy) -> None:
    """Every picture gets the features of the first."""
    vision = policy.model.vision
    handed_on = vision.handed_on
    vision.handed_on = lambda features: handed_on(list(features[:1]) * len(features))  # type: ignore[method-assign]


BROKEN: list[tuple[Callable[[Policy], None], str, str]] = [
    (loses_a_placeholder, "llava", "picture tokens"),
    (adds_a_second_bos, "gemma3", "tokens"),
    (loses_bos, "llava", "tokens"),
    (ignores_its_mask, "llama", "padding left"),
    (counts_positions_from_1, "llama", "positions"),
    (skips_a_position_behind_pictures, "qwen3_vl", "bare forward"),
    (drops_out_in_its_tower, "gemma3", "repeatable"),
    (loses_its_head_on_the_disk, "smolvlm", "save and load"),
    (may_sample_anything, "idefics3", "never sampled"),
    (caps_no_logits, "paligemma", "bare forward"),
    (confuses_its_pictures, "llava", "bare forward"),
]


@pytest.mark.parametrize(("broken", "name", "line"), BROKEN, ids=[b[0].__name__ for b in BROKEN])
def test_a_broken_model_fails_the_right_line(broken, name, line):
    policy = policy_of(name)
    broken(policy)
    assert failed(check_policy(policy, name))[0] == line


@pytest.mark.parametrize(
    ("name", "line"), [("paligemma", "bare forward"), ("gemma3", "bare forward"), ("llava_onevision", "picture tokens")]
)
def test_a_family_that_needs_its_declaration_fails_without_it(monkeypatch, name, line):
    paligemma = next(f for f in families.FAMILIES if f.name == "PaliGemma")
    generic = families.Family("generic", chat_template=paligemma.chat_template)
    monkeypatch.setattr(adapter, "family_of", lambda config: generic)
    assert failed(check_policy(policy_of(name), name))[0] == line
