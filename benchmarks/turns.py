"""What both trainers play and read: an environment of a fixed number of steps, and a tiny Qwen3-VL."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from eyas.models.nano import nano_tokenizer
from eyas.models.processors import without_videos

ENV_ID = "Turns-v0"
PICTURE = 96
WORDS = ("red", "blue", "green", "left", "right", "up", "down", "one", "two", "three")


class Turns(gym.Env):
    """Shows a new picture, or new words, at each of `steps` steps; one of two actions is right."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  (Gymnasium's)

    def __init__(self, steps: int = 1, shows: str = "picture", filler: int = 0, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.steps, self.shows, self.filler = steps, shows, filler
        self.action_space = gym.spaces.Discrete(2)
        picture = gym.spaces.Box(0, 255, (PICTURE, PICTURE, 3), np.uint8)
        self.observation_space = picture if shows == "picture" else gym.spaces.Text(200)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        reward = float(action == self.np_random.integers(2))
        self.np_random.random(int(action))  # what is shown next depends on what was done
        info = {"observation_text": self.words(self.filler)} if self.filler else {}
        return self._observe(), reward, self.count == self.steps, False, info

    def _observe(self) -> Any:
        if self.shows == "picture":
            coarse = self.np_random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            return coarse.repeat(PICTURE // 6, 0).repeat(PICTURE // 6, 1)
        return "Now " + " ".join(self.np_random.choice(WORDS, 6)) + "."

    @staticmethod
    def words(count: int) -> str:
        """About this many tokens."""
        return " ".join(["up"] * count)


gym.register(ENV_ID, entry_point=f"{__name__}:Turns")

# ----------------------------------------------------------------------------------------------- a tiny Qwen3-VL

SEEN = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
WIDTH, VISION_WIDTH = 192, 128


def save_tiny_qwen(folder: Path) -> None:
    """2.5 million random weights, 9 tokens a picture, with the chat template that TRL knows for this family."""
    backend = nano_tokenizer().backend_tokenizer
    special = ("<|im_start|>", "<|im_end|>", *SEEN, "<tool_call>", "</tool_call>")
    backend.add_special_tokens([AddedToken(t, normalized=False) for t in special])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<|im_end|>", clean_up_tokenization_spaces=False
    )
    template = files("trl").joinpath("chat_templates/qwen3_vl.jinja").read_text()
    images = Qwen2VLImageProcessorPil(
        patch_size=16,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": PICTURE**2, "longest_edge": PICTURE**2},
    )
    processor = without_videos(Qwen3VLProcessor)(images, tokenizer, chat_template=template)
    torch.manual_seed(0)
    Qwen3VLForConditionalGeneration(_qwen_config(tokenizer)).save_pretrained(folder)
    processor.save_pretrained(folder)


def _qwen_config(tokenizer: Any) -> Qwen3VLConfig:
    ids = dict(
        zip(("vision_start", "vision_end", "image", "video"), tokenizer.convert_tokens_to_ids(SEEN), strict=True)
    )
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": WIDTH // 4,
        "max_position_embeddings": 4096,
        "initializer_range": 0.07,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 8, 8]},
    }
    vision = {
        "depth": 3,
        "hidden_size": VISION_WIDTH,
        "intermediate_size": 2 * VISION_WIDTH,
        "num_heads": 4,
        "out_hidden_size": WIDTH,
        "patch_size": 16,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 36,
        "initializer_range": 0.09,
    }
    return Qwen3VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=True, **{f"{k}_token_id": v for k, v in ids.items()}
    )
