"""The built-in model is a real Hugging Face model that happens to be tiny."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText, AutoProcessor

from eyas.errors import ConfigError, ModelError
from eyas.model_config import ModelConfig
from eyas.models.adapter import VisionLanguageModel
from eyas.models.loading import build_model
from eyas.models.nano import build_nano, nano_tokenizer
from eyas.rollouts.images import MemoryImageStore
from helpers import nano_policy, picture, prompt, values


@pytest.fixture(scope="module")
def tokenizer():
    return nano_tokenizer()


def test_it_is_small_and_has_room():
    model, _ = build_nano()
    assert sum(p.numel() for p in model.parameters()) <= 3_000_000
    assert VisionLanguageModel(model, build_nano()[1]).context >= 4096


def test_the_seed_decides_the_weights_and_nothing_else_does():
    before = torch.random.get_rng_state()
    a, b, c = (build_nano(seed=s)[0].state_dict() for s in (1, 1, 2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)
    assert torch.equal(torch.random.get_rng_state(), before)


@settings(deadline=None, max_examples=300)
@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_the_tokenizer_round_trips_any_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_only_one_id_ends_a_turn_and_all_other_special_ids_are_forbidden():
    model = VisionLanguageModel(*build_nano())
    assert model.end_ids == {model.tokenizer.convert_tokens_to_ids("<end_of_utterance>")}
    forbidden = set(model.tokenizer.convert_ids_to_tokens(model.forbidden_ids.tolist()))
    assert {"<image>", "<fake_token_around_image>", "<global-img>", "<pad>", "<|user|>", "<|assistant|>"} <= forbidden


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({}, 9),
        ({"image_size": 128, "patch_size": 32}, 16),
        ({"image_size": 128, "patch_size": 16, "scale_factor": 2}, 16),
        ({"image_size": 128, "patch_size": 16, "scale_factor": 4}, 4),
    ],
)
@pytest.mark.parametrize("shape", [(60, 60), (20, 90), (90, 20), (1, 1)])
def test_an_image_costs_the_stated_number_of_tokens(options, tokens, shape):
    policy = nano_policy(**options)
    message = prompt("What now?", policy.images.put(picture(0, *shape)))
    ids = policy.model.encode(message, policy.images).ids
    assert (ids == policy.model.model.config.image_token_id).sum() == tokens
    assert values(policy, [message]).shape == (1,)  # features and tokens agree


def test_an_all_white_picture_is_seen():
    policy = nano_policy()
    white, black = (policy.images.put(picture() * 0 + shade) for shade in (255, 0))
    policy.value_head.layers[2].weight.data.fill_(1)
    value_white, value_black = values(policy, [prompt("What?", white), prompt("What?", black)])
    assert value_white != value_black


BAD = [
    {"image_size": 100}, {"image_size": 0}, {"image_size": -32}, {"patch_size": 0}, {"scale_factor": 0}, {"heads": 0},
    {"heads": 3}, {"hidden_size": 12, "heads": 4}, {"vision_hidden_size": 95}, {"layers": 0}, {"vision_layers": 0},
    {"context": 0}, {"image_mean": 1.0}, {"image_mean": 0.0}, {"image_std": 0.0},
]  # fmt: skip


@pytest.mark.parametrize("options", BAD, ids=str)
def test_sizes_that_cannot_be_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        build_nano(**options)


def test_plain_transformers_loads_what_was_saved(tmp_path):
    policy = nano_policy(seed=3)
    policy.model.save(tmp_path)
    loaded = VisionLanguageModel(
        AutoModelForImageTextToText.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    )
    images = MemoryImageStore()
    message = prompt("What do you see?", images.put(picture()))
    assert loaded.end_ids == policy.model.end_ids
    assert torch.equal(loaded.forbidden_ids, policy.model.forbidden_ids)
    outputs = []
    for model in (policy.model, loaded):
        encoded = model.encode(message, images)
        ids = torch.from_numpy(encoded.ids)[None]
        features = model.features([encoded.image_hashes], images)
        with torch.inference_mode():
            hidden, _ = model.hidden(ids, torch.ones_like(ids), torch.arange(ids.shape[1])[None], features)
            outputs.append((encoded.ids.tolist(), model.logits(hidden)))
    assert outputs[0][0] == outputs[1][0]
    assert torch.equal(outputs[0][1], outputs[1][1])


def test_weights_that_were_cut_off_are_said_to_be_unreadable(tmp_path):
    model, processor = build_nano()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    build_model(ModelConfig(name=str(tmp_path)))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        build_model(ModelConfig(name=str(tmp_path)))
