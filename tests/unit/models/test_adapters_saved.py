"""Adapters are saved as adapters: peft, transformers and Eyas load them, from what names their base."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

import eyas
from eyas.build import Agent, build_policy
from eyas.config import ModelConfig, RunConfig
from eyas.errors import CheckpointError, ConfigError
from eyas.models.nano import build_nano
from eyas.models.policy import BASE_FILE
from eyas.rollouts.images import MemoryImageStore
from eyas.types import SampleRequest
from helpers import SMALL, nano_policy, picture, prompt

LORA = {"train": "lora", "lora": {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"]}}


def policy_of(**options):
    return build_policy(ModelConfig.model_validate(options), MemoryImageStore())


def trained(**options):
    """With adapters that say something."""
    policy = policy_of(**(LORA | {"options": SMALL} | options))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for weight in policy.trained_weights():
            policy.model.get_parameter(weight).data.normal_(std=0.3)
    policy.version = 4
    return policy


def written(policy):
    request = SampleRequest(prompt("Say.", policy.images.put(picture())), 0, 16, 1.0)
    completion = policy.sample([request])[0]
    return completion.text, completion.sampling_logprobs.tolist()


def logits(model, policy):
    """Of the plain model, without Eyas."""
    encoded = policy.model.encode(prompt("Say.", policy.images.put(picture())), policy.images)
    pixels = policy.model.vision.pixels(encoded.image_hashes, policy.images)
    with torch.no_grad():
        return model.eval()(input_ids=torch.from_numpy(encoded.ids)[None], **pixels).logits


def test_a_checkpoint_holds_adapters_and_what_builds_their_base(tmp_path):
    policy = trained()
    policy.save(tmp_path)
    names = {f.name for f in tmp_path.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "value_head.safetensors", BASE_FILE} <= names
    assert not {"model.safetensors", "config.json"} & names
    about = json.loads((tmp_path / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == "nano-random"
    assert (about["r"], about["lora_alpha"], about["lora_dropout"], about["peft_type"]) == (4, 8, 0, "LORA")


def test_an_agent_loads_it_from_its_base_s_options(tmp_path):
    policy = trained(seed=5)
    policy.save(tmp_path)
    agent = Agent.from_pretrained(tmp_path)
    assert agent.policy.version == 4
    assert written(agent.policy) == written(policy)
    assert written(policy) != written(policy_of(options=SMALL, seed=5))
    other = trained(seed=6)
    assert written(other) != written(policy)


def test_peft_loads_it_onto_the_base(tmp_path):
    policy = trained()
    policy.save(tmp_path)
    base = build_nano(**SMALL)[0]
    assert not torch.allclose(logits(base, policy), logits(policy.model.model, policy))
    loaded = PeftModel.from_pretrained(base, tmp_path)
    torch.testing.assert_close(logits(loaded, policy), logits(policy.model.model, policy), rtol=0, atol=1e-5)


def test_transformers_loads_adapters_with_the_base_that_they_name(tmp_path, monkeypatch):
    nano_policy().model.save(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    policy = trained(name="./base", options={})
    policy.save(tmp_path / "saved")
    monkeypatch.chdir("/")  # the base is named by its whole path
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(loaded, policy), logits(policy.model.model, policy), rtol=0, atol=1e-5)
    assert AutoProcessor.from_pretrained(tmp_path / "saved").tokenizer.get_vocab()
    assert written(policy_of(name=str(tmp_path / "saved"))) == written(policy)


def test_weights_are_taken_in_place_and_others_are_refused(tmp_path):
    policy = trained()
    policy.save(tmp_path / "saved")
    other = policy_of(**LORA, options=SMALL)
    other.load_weights(tmp_path / "saved")
    assert written(other) == written(policy)
    assert other.version == 4
    before = other.trained_weights()
    trained(lora=LORA["lora"] | {"rank": 2}).save(tmp_path / "narrow")
    trained(lora=LORA["lora"] | {"targets": ["q_proj"]}).save(tmp_path / "few")
    nano_policy().save(tmp_path / "full")
    for name, words in (("narrow", "another model"), ("few", "another model"), ("full", "no readable adapters")):
        with pytest.raises(CheckpointError, match=words):
            other.load_weights(tmp_path / name)
    assert all(torch.equal(v, before[n]) for n, v in other.trained_weights().items())


def test_a_run_goes_on_with_saved_adapters_only_as_they_were_made(tmp_path):
    trained().save(tmp_path)
    name = str(tmp_path)
    policy_of(name=name, **LORA)
    with pytest.raises(ConfigError, match=r"holds adapters made with model.lora = .*'rank': 4.*: write the same"):
        policy_of(name=name, train="lora")
    with pytest.raises(ConfigError, match=r"model.options and model.image_size are those of the adapters' base"):
        policy_of(name=name, options=SMALL)
    stages = [{"kind": "rl", "iterations": 1}]
    plain = {"name": "x", "tasks": [{"env": "eyas/NumberLine-v0"}], "model": {"name": name}, "stages": stages}
    with pytest.raises(ConfigError, match=r"holds adapters: train them with model.train = 'lora'"):
        eyas.train(RunConfig.model_validate(plain))


def test_adapters_of_adapters_name_the_first_base(tmp_path):
    trained(seed=5).save(tmp_path / "first")
    again = policy_of(name=str(tmp_path / "first"), **LORA)
    again.save(tmp_path / "second")
    about = json.loads((tmp_path / "second" / BASE_FILE).read_text())
    assert (about["name"], about["seed"]) == ("nano-random", 5)


def test_4_bit_adapters_load_beside_4_bit_weights(tmp_path):
    policy = trained(train="qlora")
    policy.save(tmp_path)
    assert written(Agent.from_pretrained(tmp_path).policy) == written(policy)
    assert written(policy_of(name=str(tmp_path), **LORA)) != written(policy)  # beside whole weights


def test_a_damaged_description_of_the_base_is_said(tmp_path):
    trained().save(tmp_path)
    Path(tmp_path / BASE_FILE).write_text("{")
    with pytest.raises(CheckpointError, match=f"{BASE_FILE} cannot be read"):
        Agent.from_pretrained(tmp_path)
