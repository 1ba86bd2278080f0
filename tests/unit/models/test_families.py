"""What is particular to families: turns, BOS, system prompts, positions, tiles, processors without videos."""

import numpy as np
import pytest
import torch
from transformers import Qwen2Config

from eyas.batch import TrainingSample
from eyas.errors import ModelError
from eyas.models.adapter import VisionLanguageModel
from eyas.models.families import GENERIC, family_of
from eyas.models.policy import Policy
from eyas.models.processors import load_processor
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.samples import continues
from eyas.samplers.in_process import InProcessSampler
from eyas.types import ActionChoice, Completion, Message, SampleRequest, TextPart
from families import PICTURED, build
from helpers import picture, prompt

MODELS: dict[str, VisionLanguageModel] = {}


def model_of(name: str) -> VisionLanguageModel:
    if name not in MODELS:
        MODELS[name] = VisionLanguageModel(*build(name))
    return MODELS[name]


def text(model: VisionLanguageModel, messages, images) -> str:
    return model.tokenizer.decode(model.encode(messages, images).ids)


def test_a_turn_ends_with_the_template_s_own_token_and_not_with_eos():
    model = model_of("gemma3")
    end = model.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert model.tokenizer.eos_token_id != end == model.turn_end == model.encode_text("left")[-1]
    assert {end, model.tokenizer.eos_token_id} <= model.end_ids
    assert end not in model.forbidden_ids


@pytest.mark.parametrize("name", ["llava", "gemma3", "paligemma", "smolvlm"])
def test_bos_stands_once_whoever_writes_it(name):
    """The tokenizer (LLaVA), the template (Gemma 3, SmolVLM), or the processor (PaliGemma); also in a later turn."""
    model, images = model_of(name), MemoryImageStore()
    first = prompt("Go.", images.put(picture()))
    answer = Message("assistant", (TextPart("left"),), Completion("left", model.encode_text("left").astype(np.int32)))
    for messages in (first, (*first, answer, *prompt("On."))):
        assert (model.encode(messages, images).ids == model.tokenizer.bos_token_id).sum() == 1


def test_what_the_system_says_is_said_by_the_user_where_the_template_has_no_such_turn():
    images = MemoryImageStore()
    messages = (Message("system", (TextPart("Play."),)), *prompt("What now?"))
    assert text(model_of("gemma3"), messages, images) == (
        "<bos><start_of_turn>user\nPlay.\n\nWhat now?<end_of_turn>\n<start_of_turn>model\n"
    )
    assert text(model_of("qwen2_vl"), messages, images).startswith(
        "<|im_start|>system\nPlay.<|im_end|>\n<|im_start|>user"
    )


def test_a_refusal_of_the_template_is_an_error_that_names_the_roles():
    with pytest.raises(ModelError, match="user, user"):
        model_of("gemma3").encode((*prompt("One."), *prompt("Two.")), MemoryImageStore())


def test_a_model_without_a_template_is_refused_when_it_is_asked():
    model, tokenizer = build("llama")
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        VisionLanguageModel(model, tokenizer).encode(prompt("Go."), MemoryImageStore())


def test_a_model_that_takes_pixels_alone_is_refused():
    model, processor = build("llava")
    model.model.forward = lambda input_ids, pixel_values: None
    with pytest.raises(ModelError, match="type llava"):
        VisionLanguageModel(model, processor)


def test_white_space_before_an_answer_is_the_model_s_own():
    """SmolVLM's template writes "Assistant: left" and asks with "Assistant:": what stands there was sampled."""
    model, images = model_of("smolvlm"), MemoryImageStore()
    assert model.is_prefix_stable
    ids = model.encode_text("left").astype(np.int32)
    messages = (*prompt("Go."), Message("assistant", (TextPart("left"),), Completion("left", ids)), *prompt("On."))
    assert text(model, messages, images) == (
        "<|im_start|>User: Go.<end_of_utterance>\nAssistant:left<end_of_utterance>\nUser: On.<end_of_utterance>\nAssistant:"
    )


def test_packing_positions_of_pictures_are_a_grid_and_text_goes_on_behind_its_longer_side():
    model, images = model_of("qwen2_vl"), MemoryImageStore()
    encoded = model.encode(prompt("Go.", images.put(picture(0, 32, 64))), images)  # 2 x 4 tokens of 16 pixels
    positions = model.positions(encoded.ids, encoded.image_hashes, images)
    of_picture = positions[:, encoded.ids == model.image_token_id]
    start = int(of_picture[0, 0])
    assert (of_picture[0] == start).all()
    assert (of_picture[1] - start).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert (of_picture[2] - start).tolist() == [0, 1, 2, 3] * 2
    behind = positions[:, np.flatnonzero(encoded.ids == model.image_token_id)[-1] + 1]
    assert behind.tolist() == [start + 4] * 3
    counted = np.arange(len(encoded.ids))  # the wrong variant
    assert positions[0, -1] < counted[-1]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llama"])
def test_positions_behind_what_was_read_are_those_of_the_whole(name):
    images = MemoryImageStore()
    model = model_of(name)
    hashes = [images.put(picture(i)) for i in range(2)] if name in PICTURED else []
    encoded = model.encode(prompt("Which way?", *hashes[:1]) + prompt("And now?", *hashes[1:]), images)
    whole = model.positions(encoded.ids, encoded.image_hashes, images)
    cut = len(encoded.ids) // 2
    if hashes:  # right before the second picture, its opening token included
        (gap,) = np.flatnonzero(np.diff(np.flatnonzero(encoded.ids == model.image_token_id)) > 1)
        cut = int(np.flatnonzero(encoded.ids == model.image_token_id)[gap + 1])
    begin = int(whole[:, cut - 1].max()) + 1
    assert np.array_equal(model.positions(encoded.ids[cut:], hashes[1:], images, begin), whole[:, cut:])
    assert not np.array_equal(model.positions(encoded.ids[cut:], hashes[1:], images, cut + 1), whole[:, cut:])


@pytest.mark.parametrize("is_scored", [False, True])
def test_a_conversation_asks_for_the_grid_positions_of_what_is_new_only(monkeypatch, is_scored):
    images = MemoryImageStore()
    model = VisionLanguageModel(*build("qwen2_5_vl"))
    policy = Policy(model, InProcessSampler(model, images), images)
    asked, plain = [], model._grid_positions
    monkeypatch.setattr(model, "_grid_positions", lambda ids, *rest: asked.append(len(ids)) or plain(ids, *rest))
    messages = prompt("Look around, and say which way you want to go. " * 4, images.put(picture(0)))
    choice = ActionChoice(lambda head: ["left", "right"]) if is_scored else None
    for turn in range(1, 6):
        (written,) = policy.sample([SampleRequest(messages, turn, 4, 1.0, None, choice, True)])
        said = Message("assistant", (TextPart(written.text),), written)
        messages = (*messages, said, *prompt("Next.", images.put(picture(turn))))
    *others, longest = sorted(asked)
    assert longest > 100 and max(others) < 40


def test_a_picture_alone_is_read_in_tiles_and_among_others_it_is_not():
    model, images = model_of("llava_onevision"), MemoryImageStore()
    one, other = images.put(picture(0)), images.put(picture(1))
    version = "kept"
    counts = []
    for hashes in ((one,), (one, other), (one,)):
        places = (model.encode(prompt("Go.", *hashes), images).ids == model.image_token_id).sum()
        with torch.no_grad():
            features = model.features([hashes], images, version)
        assert sum(len(f.tokens) for f in features) == places
        counts.append(len(features[0].tokens))
    assert counts[0] == counts[2] > counts[1]


def test_prefix_prompts_that_attend_both_ways_never_continue_a_sample():
    images = MemoryImageStore()
    for name, may in (("paligemma", False), ("gemma3", True)):
        model = model_of(name)
        encoded = model.encode(prompt("Go.", images.put(picture())), images)
        sample = TrainingSample(encoded.ids[:-1], encoded.image_hashes, ())
        assert continues(sample, encoded, model) == may


def test_scored_actions_are_refused_where_masks_are_the_model_s_own():
    model = model_of("gemma3")
    ids = torch.arange(10, 14)[None]
    with pytest.raises(ModelError, match="action_mode = 'text'"):
        model.hidden(ids, torch.ones(1, 1, 4, 4, dtype=torch.bool).tril(), torch.arange(4)[None])


def test_a_sliding_window_takes_the_slots_of_any_family():
    assert family_of(Qwen2Config(use_sliding_window=False)).has_slots
    assert not family_of(Qwen2Config(use_sliding_window=True, sliding_window=64, max_window_layers=1)).has_slots
    assert family_of(type("C", (), {"model_type": "unheard_of", "layer_types": None})) == GENERIC


@pytest.mark.parametrize("name", ["smolvlm", "qwen2_5_vl", "internvl", "llava_onevision"])
def test_a_processor_loads_without_what_it_needs_for_videos(name, tmp_path):
    processor = model_of(name).processor
    model_of(name).save(tmp_path)
    loaded = load_processor(str(tmp_path))
    assert type(loaded).__name__ == type(processor).__name__
    assert loaded.chat_template == processor.chat_template
    assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()


def test_what_is_no_model_is_an_error_of_its_own(tmp_path):
    with pytest.raises((OSError, ValueError)):
        load_processor(str(tmp_path))
