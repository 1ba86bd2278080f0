"""The adapter: what the model is given is what the messages say."""

import numpy as np
import pytest
import torch
from torch import nn

from eyas.errors import ModelError
from eyas.models import vision as vision_module
from eyas.models.adapter import VisionLanguageModel
from eyas.models.logprobs import token_logprobs
from eyas.models.nano import build_nano
from eyas.types import Message, TextPart
from helpers import nano_policy, picture, prompt


@pytest.fixture(scope="module")
def policy():
    return nano_policy()


def test_a_prompt_reads_as_its_template(policy):
    messages = (Message("system", (TextPart("Play."),)), *prompt("What now?", policy.images.put(picture())))
    text = policy.model.tokenizer.decode(policy.model.encode(messages, policy.images).ids)
    image = "<fake_token_around_image><global-img>" + "<image>" * 9 + "<fake_token_around_image>"
    assert text == f"<|system|>Play.<|user|>{image}What now?<|assistant|>"


def test_cached_layouts_keep_their_own_pictures(policy):
    a, b = policy.images.put(picture(1)), policy.images.put(picture(2))
    first, second = (policy.model.encode(prompt("Same words.", h), policy.images) for h in (a, b))
    assert np.array_equal(first.ids, second.ids)
    assert (first.image_hashes, second.image_hashes) == ((a,), (b,))
    assert first.key != second.key


def test_a_small_picture_is_not_read_with_its_axes_swapped(policy):
    small = np.zeros((3, 4, 3), np.uint8)
    small[:, 0] = 255  # the left column is white
    processed = policy.model.vision.processed((policy.images.put(small), True), policy.images)["pixel_values"][0, 0]
    left, right = processed[:, :, :12].mean(), processed[:, :, -12:].mean()
    assert left > 0 > right


def test_a_placeholder_in_the_words_is_an_error_that_names_it(policy):
    with pytest.raises(ModelError, match="<image>"):
        policy.model.encode(prompt("look at <image>"), policy.images)
    with pytest.raises(ModelError, match="1 images"):
        policy.model.encode(prompt("look at <image>", policy.images.put(picture())), policy.images)


def test_forgotten_pictures_are_processed_again(policy, monkeypatch):
    monkeypatch.setattr(vision_module, "PROCESSED_BYTES", 1)
    model = VisionLanguageModel(policy.model.model, policy.model.processor)
    hashes = [policy.images.put(picture(i)) for i in range(3)]
    first = model.vision.pixels(hashes, policy.images)["pixel_values"]
    assert len(model.vision._processed) == 1
    assert torch.equal(model.vision.pixels(hashes, policy.images)["pixel_values"], first)


def test_a_conversation_of_more_pictures_than_are_kept_is_encoded_without_its_pixels(policy, monkeypatch):
    monkeypatch.setattr(vision_module, "PROCESSED_BYTES", 1)
    model = VisionLanguageModel(policy.model.model, policy.model.processor)
    messages = prompt("What now?", *[policy.images.put(picture(i)) for i in range(4)])
    first = model.encode(messages, policy.images)
    processor, runs = model.processor.image_processor, []
    counted = type("Counted", (type(processor),), {"__call__": lambda *a, **k: runs.append(1)})
    monkeypatch.setattr(processor, "__class__", counted)
    again = model.encode(messages, policy.images)
    assert again.key == first.key and not runs


def test_a_text_only_model_refuses_pictures_when_it_reads_the_prompt(policy):
    model = VisionLanguageModel(policy.model.model, policy.model.tokenizer)
    with pytest.raises(ModelError, match="takes no images"):
        model.encode(prompt("What now?", policy.images.put(picture())), policy.images)


def test_dropout_stays_off_in_training():
    model, processor = build_nano()
    model.config.text_config.attention_dropout = 0.5
    model.model.text_model.layers[0].mlp.act_fn = nn.Sequential(nn.SiLU(), nn.Dropout(0.5))
    model.train()
    wrapped = VisionLanguageModel(model, processor)
    wrapped.train()
    ids = torch.arange(10, 30)[None]

    def hidden():
        return wrapped.hidden(ids, torch.ones_like(ids), torch.arange(20)[None])[0]

    assert not any(m.training for m in wrapped.modules())
    assert torch.equal(hidden(), hidden())
    model.train()  # the wrong variant: dropout on
    assert not torch.equal(hidden(), hidden())


def test_ids_that_pad_the_output_matrix_are_never_sampled():
    model, processor = build_nano()
    model.resize_token_embeddings(2048 + 16)
    assert set(range(2048, 2064)) <= set(VisionLanguageModel(model, processor).forbidden_ids.tolist())


def test_a_model_without_an_end_of_turn_is_refused():
    model, processor = build_nano()
    processor.tokenizer.eos_token = None
    model.generation_config.eos_token_id = None
    processor.chat_template = processor.chat_template.replace("<end_of_utterance>", "")
    with pytest.raises(ModelError, match="end-of-turn"):
        VisionLanguageModel(model, processor)


def test_a_target_of_supervision_ends_the_turn(policy):
    ids = policy.model.encode_text('{"action": "+"}')
    assert ids[-1] in policy.model.end_ids
    assert policy.model.decode(ids) == '{"action": "+"}'


# ----------------------------------------------------------------------------------------------- token_logprobs


def test_logprobs_by_hand():
    logits = torch.tensor([0.0, 1.0, 50.0])
    got = token_logprobs(logits, 2.0, torch.tensor([2]))
    z = np.log(1 + np.exp(0.5))
    assert torch.allclose(got[:2], torch.tensor([-z, 0.5 - z], dtype=torch.float32))
    assert got[2] == -torch.inf


def test_temperature_and_forbidden_ids_matter():
    """Four forbidden ids of 600 are worth log(600 / 596) = 0.0067 nats where all logits are equal."""
    logits = torch.zeros(600)
    right, plain = token_logprobs(logits, 1.0, torch.arange(4)), token_logprobs(logits, 1.0, None)
    assert (right - plain)[4:].allclose(torch.tensor(np.log(600 / 596), dtype=torch.float32), atol=1e-6)
    assert np.log(600 / 596) == pytest.approx(0.0067, abs=5e-5)
    logits = torch.tensor([0.0, 1.0])
    assert not torch.allclose(token_logprobs(logits, 0.7, None), token_logprobs(logits, 1.0, None))


def test_a_temperature_a_row():
    logits, temperatures = torch.randn(3, 5), torch.tensor([[0.5], [1.0], [2.0]])
    rows = [token_logprobs(row, float(t), None) for row, t in zip(logits, temperatures)]
    assert torch.allclose(token_logprobs(logits, temperatures, None), torch.stack(rows))
