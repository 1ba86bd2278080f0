"""`nano`: shipped weights that load offline, and that can do what its card says."""

import hashlib
import importlib
import socket
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

import eyas
from eyas.envs.blackjack import DESCRIPTION as BLACKJACK
from eyas.envs.frozenlake import PICTURE_DESCRIPTION as FROZEN_LAKE
from eyas.envs.numberline import DESCRIPTION as NUMBER_LINE
from eyas.errors import ConfigError
from eyas.models.nano import build_nano, load_nano
from eyas.rollouts.images import MemoryImageStore
from eyas.samplers.in_process import InProcessSampler
from eyas.seeding import generator

ROOT = Path(__file__).parents[3]
WEIGHTS, CARD = (ROOT / "src/eyas/models/assets" / name for name in ("nano.safetensors", "NANO.md"))


@pytest.fixture(scope="module")
def recipe():
    """The scripts that made the weights: (pretrain_nano, nano_forms, nano_scenes)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield (
            importlib.import_module("pretrain_nano"),
            importlib.import_module("nano_forms"),
            importlib.import_module("nano_scenes"),
        )


@pytest.fixture(scope="module")
def agent():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
        return eyas.Agent.from_pretrained("nano", seed=7)


def test_the_weights_are_those_of_the_card():
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() in CARD.read_text()


def test_the_weights_are_small_and_go_into_the_wheel():
    assert WEIGHTS.stat().st_size < 12 * 2**20
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["artifacts"]
    for file in (WEIGHTS, CARD):
        assert any(fnmatch(str(file.relative_to(ROOT)), p) for p in patterns)


def test_it_has_the_shapes_of_nano_random_and_weights_that_no_seed_changes(agent):
    random, loaded = build_nano(seed=7)[0].state_dict(), load_nano()[0].state_dict()
    own = agent.policy.model.model.state_dict()
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in random.items()}
    assert all(torch.equal(own[k], loaded[k]) for k in own)
    assert not any(torch.equal(own[k], random[k]) for k in own)


@pytest.mark.parametrize("options", [{"options": {"hidden_size": 64}}, {"options": {"seed": 1}}, {"image_size": 128}])
def test_options_that_the_weights_have_fixed_are_refused(options):
    with pytest.raises(ConfigError, match=r"fixed by the pretrained weights.*nano-random"):
        eyas.Agent.from_pretrained("nano", **options)


def test_an_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'image_mean'"):
        eyas.Agent.from_pretrained("nano", options={"image_men": 0.5})


def test_the_normalisation_can_be_chosen():
    dark = eyas.Agent.from_pretrained("nano", options={"image_mean": 0.25})
    assert tuple(dark.policy.model.processor.image_processor.image_mean) == (0.25, 0.25, 0.25)


def test_the_recipe_encodes_as_the_model_does(agent, recipe):
    pretraining, forms, _ = recipe
    encode = pretraining.Encoder(agent.policy.model)
    item = next(i for i in (forms.make_item(generator("encoding", n)) for n in range(50)) if i.picture is not None)
    images = MemoryImageStore()
    shown = pretraining.first_prompt(item, images)
    prompt = agent.policy.model.encode(shown, images).ids
    sample = encode(item)
    assert sample.ids[: sample.steps[0].start].tolist() == prompt.tolist()
    assert agent.policy.model.decode(sample.ids[sample.steps[0].start : sample.steps[0].end]) == item.turns[0][1]


def test_no_task_that_transfer_is_measured_on_was_trained(recipe):
    _, forms, _ = recipe
    rng = generator("what is asked")
    asked = [text for _ in range(500) for turn in forms.make_item(rng).turns for text in turn]
    for description in (NUMBER_LINE, BLACKJACK, FROZEN_LAKE):
        assert not any(description.text in text for text in asked)
    for key in ("current number", "target number", "current formula", '"cards"'):
        assert not any(key in text for text in asked)


@pytest.mark.parametrize(("scene", "least"), [("one_number", 0.5), ("two_numbers", 0.35), ("playing_cards", 0.45)])
def test_it_answers_about_plain_pictures_that_it_has_not_seen(agent, recipe, scene, least):
    pretraining, forms, scenes = recipe
    rng, images = generator("nano unit test", scene), MemoryImageStore()
    items = [forms.in_form(rng, getattr(scenes, scene)(rng, 1.0)) for _ in range(60)]
    sampler = InProcessSampler(agent.policy.model, images)
    assert pretraining.right_answers(sampler, images, items) > least
