"""`nano-random`: a real Idefics3 of about a million parameters with random weights, built offline in a second; and `nano`.

`nano` is the same model pretrained on procedural pictures and texts (assets/NANO.md says what it can do and what it cannot).

Four things let so small a model learn to read from random weights; without them it stays at chance: a background
that is normalised to about zero, an initial standard deviation near 1/sqrt(width), few image tokens, and a learning
rate of about 1e-3 with warm-up. The first three are built in here; the last is in the shipped recipes.
"""

from importlib.resources import files
from math import sqrt
from typing import Any

import torch
from safetensors.torch import load
from tokenizers import Tokenizer
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, PreTrainedTokenizerFast
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

from eyas.errors import ConfigError

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}<end_of_utterance>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def nano_tokenizer() -> PreTrainedTokenizerFast:
    """The shipped byte-level BPE with 2048 tokens (`scripts/train_tokenizer.py` made it)."""
    text = files("eyas.models").joinpath("assets/nano_tokenizer.json").read_text(encoding="utf-8")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text),
        pad_token="<pad>",
        eos_token="<end_of_utterance>",
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
    )


def nano_processor(image_size: int, image_tokens: int, image_mean: float, image_std: float) -> Idefics3Processor:
    tokenizer = nano_tokenizer()
    edge = {"longest_edge": image_size}
    images = Idefics3ImageProcessorPil(
        size=edge,
        max_image_size=edge,
        do_image_splitting=False,
        image_mean=[image_mean] * 3,
        image_std=[image_std] * 3,
    )
    return Idefics3Processor(images, tokenizer, image_seq_len=image_tokens, chat_template=CHAT_TEMPLATE)


def build_nano(
    seed: int = 0,
    image_size: int = 96,
    patch_size: int = 32,
    scale_factor: int = 1,
    hidden_size: int = 128,
    intermediate_size: int = 384,
    layers: int = 2,
    heads: int = 4,
    vision_hidden_size: int = 96,
    vision_layers: int = 1,
    context: int = 4096,
    image_mean: float = 0.999,
    image_std: float = 0.3,
) -> tuple[Idefics3ForConditionalGeneration, Idefics3Processor]:
    """Builds the tiny VLM and its stock processor.

    An image costs `(image_size / patch_size / scale_factor)**2` tokens. `image_mean` is the background in [0, 1]:
    0.999 for white paper (exactly 1 would make an empty white picture all zeros, which Idefics3 takes for padding).
    Raises ConfigError where the sizes do not divide.
    """
    _check_positive(image_size=image_size, patch_size=patch_size, scale_factor=scale_factor)
    _check_positive(hidden_size=hidden_size, intermediate_size=intermediate_size, layers=layers, heads=heads)
    _check_positive(vision_hidden_size=vision_hidden_size, vision_layers=vision_layers, context=context)
    _check_positive(image_std=image_std)
    _check_divisible(image_size, patch_size * scale_factor, hidden_size, heads, vision_hidden_size)
    _check_background(image_mean)
    image_tokens = (image_size // patch_size // scale_factor) ** 2
    processor = nano_processor(image_size, image_tokens, image_mean, image_std)
    config = Idefics3Config(
        text_config=_text_config(processor.tokenizer, hidden_size, intermediate_size, layers, heads, context),
        vision_config=_vision_config(vision_hidden_size, vision_layers, image_size, patch_size),
        scale_factor=scale_factor,
        image_token_id=processor.image_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Idefics3ForConditionalGeneration(config)
    return model.eval(), processor


def load_nano(
    image_mean: float = 0.999, image_std: float = 0.3, context: int = 4096
) -> tuple[Idefics3ForConditionalGeneration, Idefics3Processor]:
    """The pretrained tiny VLM and its processor. Its sizes are fixed; it was trained with the default normalisation."""
    model, processor = build_nano(image_mean=image_mean, image_std=image_std, context=context)
    weights = load(files("eyas.models").joinpath("assets/nano.safetensors").read_bytes())
    with torch.no_grad():  # by name: what is tied is stored once
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model, processor


def _check_positive(**sizes: float) -> None:
    for name, size in sizes.items():
        if size <= 0:
            raise ConfigError(f"{name} is {size}: it must be above 0")


def _check_divisible(image_size: int, unit: int, hidden_size: int, heads: int, vision_hidden_size: int) -> None:
    """`unit` is the edge of what becomes one token, in pixels."""
    if image_size % unit:
        raise ConfigError(f"image_size {image_size} is no multiple of patch_size x scale_factor: try {unit * 3}")
    if hidden_size % (2 * heads):
        raise ConfigError(f"hidden_size {hidden_size} is no multiple of twice the heads: try {2 * heads * 16}")
    if vision_hidden_size % 2:
        raise ConfigError(f"vision_hidden_size {vision_hidden_size} is odd: try {vision_hidden_size + 1}")


def _check_background(image_mean: float) -> None:
    if abs(image_mean * 255 - round(image_mean * 255)) < 1e-3:
        raise ConfigError(
            f"image_mean {image_mean} is a colour: a picture all of it would vanish; try {image_mean - 0.001:g}"
        )


def _text_config(
    tokenizer: PreTrainedTokenizerFast, hidden_size: int, intermediate_size: int, layers: int, heads: int, context: int
) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": context,
        "initializer_range": 1 / sqrt(hidden_size),
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _vision_config(hidden_size: int, layers: int, image_size: int, patch_size: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": patch_size,
        "initializer_range": 1 / sqrt(hidden_size),
    }
