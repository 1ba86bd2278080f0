"""Tiny models of every family with random weights, built offline from their configuration classes, with their processors."""

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    Gemma2Config,
    Gemma3Config,
    Idefics3Config,
    InternVLConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaOnevisionConfig,
    PaliGemmaConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen3Config,
    Qwen3VLConfig,
    SiglipVisionConfig,
    SmolVLMConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor
from transformers.models.paligemma.processing_paligemma import PaliGemmaProcessor
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor

from eyas.models.nano import nano_tokenizer
from eyas.models.processors import without_videos

WIDTH, PICTURE, PATCH = 64, 32, 8  # of the decoder; pixels of a tile and of a patch

# ----------------------------------------------------------------------------------------------- templates

_PARTS = "{% for p in m['content'] %}{% if p['type'] == 'image' %}IMAGE{% else %}{{ p['text'] }}{% endif %}{% endfor %}"
_CHATML = (
    "SYSTEM{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}PARTS{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_HELPFUL = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
_SMOL = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{% if m['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}PARTS<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_LLAVA = (  # pictures first, no end of the assistant's turn, no BOS: the tokenizer adds it
    "{% for m in messages %}{{ m['role'] | upper + ': ' }}"
    "{% for p in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for p in m['content'] | selectattr('type', 'equalto', 'text') %}{{ p['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
_GEMMA = (  # BOS written here, no system turn, roles must alternate, texts are trimmed
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' }}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}<start_of_image>{% else %}{{ p['text'] | trim }}{% endif %}"
    "{% endfor %}{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_TEXT = _CHATML.replace("PARTS", "{{ m['content'] }}")
_FORGETFUL = _CHATML.replace(
    "PARTS", "{{ m['content'].split('</think>')[-1] if m['role'] == 'assistant' else m['content'] }}"
)


def _chat(template: str, image: str = "", system: str = "") -> str:
    return template.replace("PARTS", _PARTS).replace("IMAGE", image).replace("SYSTEM", system)


def tokenizer(
    names: dict[str, str] | None = None,
    eos: str = "<|im_end|>",
    bos: str | None = None,
    more: tuple[str, ...] = (),
    adds_bos: bool = False,
) -> PreTrainedTokenizerFast:
    """The nano tokenizer with the special tokens that a family's processor wants, by name."""
    backend = nano_tokenizer().backend_tokenizer
    backend.add_special_tokens([AddedToken(t, normalized=False) for t in (bos, eos, *more) if t is not None])
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token=eos, bos_token=bos, extra_special_tokens=names or {},
        clean_up_tokenization_spaces=False, model_max_length=4096,
    )  # fmt: skip
    if adds_bos:
        made.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, made.bos_token_id)]
        )
    return made


# ----------------------------------------------------------------------------------------------- configurations


def _text(t: PreTrainedTokenizerFast, **options: Any) -> dict[str, Any]:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 2048, "vocab_size": len(t)}
    ids = {"pad_token_id": t.pad_token_id, "bos_token_id": t.bos_token_id, "eos_token_id": t.eos_token_id}
    return sizes | ids | {"initializer_range": 0.12} | options


def _vision(**options: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return sizes | {"image_size": PICTURE, "patch_size": PATCH, "initializer_range": 0.15} | options


def _id(t: PreTrainedTokenizerFast, token: str) -> int:
    return t.convert_tokens_to_ids(token)  # type: ignore[return-value]


def _smolvlm(seed: int) -> tuple[Any, Any]:
    return _idefics(SmolVLMConfig, SmolVLMImageProcessorPil, without_videos(SmolVLMProcessor))


def _idefics3(seed: int) -> tuple[Any, Any]:
    return _idefics(Idefics3Config, Idefics3ImageProcessorPil, Idefics3Processor)


def _idefics(config_class: Any, image_processor: Any, processor: Any) -> tuple[Any, Any]:
    rows = tuple(f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2))
    t = tokenizer(eos="<end_of_utterance>", bos="<|im_start|>", more=rows)
    images = image_processor(
        size={"longest_edge": 2 * PICTURE}, max_image_size={"longest_edge": PICTURE}, do_image_splitting=True
    )
    options = {"image_seq_len": 4, "chat_template": _chat(_SMOL, "<image>")}
    made = processor(images, t, **options) if processor is Idefics3Processor else processor(images, t, None, **options)
    config = config_class(
        text_config=_text(t, model_type="llama"), vision_config=_vision(), scale_factor=2, image_token_id=_id(t, "<image>"),
        tie_word_embeddings=False, pad_token_id=t.pad_token_id,
    )  # fmt: skip
    return config, made


def _qwen(config_class: Any, processor: Any, vision: dict[str, Any], system: str) -> tuple[Any, Any]:
    seen = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    t = tokenizer(more=("<|im_start|>", *seen))
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 16**2, "longest_edge": 64**2}
    )
    made = without_videos(processor)(images, t, chat_template=_chat(_CHATML, seen[0] + seen[2] + seen[1], system))
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    ids = {
        f"{k}_token_id": _id(t, v) for k, v in zip(("vision_start", "vision_end", "image", "video"), seen, strict=True)
    }
    common = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "initializer_range": 0.15}
    config = config_class(
        text_config=_text(t, rope_parameters=rope), vision_config=common | vision, tie_word_embeddings=True, **ids
    )
    return config, made


def _qwen2_vl(seed: int) -> tuple[Any, Any]:
    return _qwen(Qwen2VLConfig, Qwen2VLProcessor, {"embed_dim": 32, "hidden_size": WIDTH, "mlp_ratio": 2}, _HELPFUL)


def _qwen2_5_vl(seed: int) -> tuple[Any, Any]:
    vision = {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": WIDTH, "fullatt_block_indexes": [1]}
    return _qwen(Qwen2_5_VLConfig, Qwen2_5_VLProcessor, vision | {"window_size": 32}, _HELPFUL)


def _qwen3_vl(seed: int) -> tuple[Any, Any]:
    vision = {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": WIDTH, "deepstack_visual_indexes": [0, 1]}
    return _qwen(Qwen3VLConfig, Qwen3VLProcessor, vision | {"num_position_embeddings": 16}, "")


def _llava(seed: int) -> tuple[Any, Any]:
    t = tokenizer(eos="</s>", bos="<s>", adds_bos=True)
    images = CLIPImageProcessorPil(size={"shortest_edge": PICTURE}, crop_size={"height": PICTURE, "width": PICTURE})
    made = LlavaProcessor(
        images, t, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=_LLAVA,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_vision(projection_dim=32)), text_config=LlamaConfig(**_text(t)),
        image_token_index=_id(t, "<image>"), image_seq_length=16,
    )  # fmt: skip
    return config, made


def _llava_onevision(seed: int) -> tuple[Any, Any]:
    t = tokenizer(more=("<|im_start|>", "<video>"))
    grids = [[32, 32], [32, 64], [64, 32], [64, 64]]
    images = LlavaOnevisionImageProcessorPil(size={"height": PICTURE, "width": PICTURE}, image_grid_pinpoints=grids)
    made = without_videos(LlavaOnevisionProcessor)(
        images,
        t,
        None,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=_chat(_CHATML, "<image>\n"),
    )
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**_vision(vision_use_head=False)), text_config=Qwen2Config(**_text(t)),
        image_token_index=_id(t, "<image>"), video_token_index=_id(t, "<video>"), image_grid_pinpoints=grids,
    )  # fmt: skip
    return config, made


def _paligemma(seed: int) -> tuple[Any, Any]:
    """PaliGemma 2: a decoder with soft-capped logits and, every other layer, a sliding window."""
    t = tokenizer({"image_token": "<image>"}, eos="<eos>", bos="<bos>")
    images = SiglipImageProcessorPil(size={"height": PICTURE, "width": PICTURE})
    images.image_seq_length = 16
    made = PaliGemmaProcessor(images, t)  # which has no chat template, and adds tokens of its own
    text = Gemma2Config(
        **_text(
            t, sliding_window=24, final_logit_softcapping=4.0, attn_logit_softcapping=None, query_pre_attn_scalar=16
        )
    )
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(**_vision(vision_use_head=False, projection_dim=WIDTH)), text_config=text,
        image_token_index=_id(t, "<image>"), projection_dim=WIDTH, hidden_size=WIDTH,
    )  # fmt: skip
    return config, made


def _gemma3(seed: int) -> tuple[Any, Any]:
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    t = tokenizer(names, eos="<eos>", bos="<bos>", more=("<start_of_turn>", "<end_of_turn>"), adds_bos=True)
    images = Gemma3ImageProcessorPil(size={"height": PICTURE, "width": PICTURE})
    made = Gemma3Processor(images, t, chat_template=_GEMMA, image_seq_length=4)
    layers = ["sliding_attention", "full_attention"]
    # the placeholder of pictures is an id beyond the decoder's vocabulary
    text = _text(t, sliding_window=24, layer_types=layers, query_pre_attn_scalar=16, vocab_size=len(t) - 1)
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(**_vision(vision_use_head=False)), text_config=text, mm_tokens_per_image=4,
        boi_token_index=_id(t, names["boi_token"]), eoi_token_index=_id(t, names["eoi_token"]),
        image_token_index=_id(t, names["image_token"]),
    )  # fmt: skip
    return config, made


def _internvl(seed: int) -> tuple[Any, Any]:
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    t = tokenizer(names | {"video_token": "<video>"}, more=("<|im_start|>",))
    images = GotOcr2ImageProcessorPil(size={"height": PICTURE, "width": PICTURE}, min_patches=1, max_patches=4)
    made = without_videos(InternVLProcessor)(
        images, t, image_seq_length=4, chat_template=_chat(_CHATML, "<IMG_CONTEXT>\n")
    )
    config = InternVLConfig(
        vision_config=_vision(image_size=[PICTURE] * 2, patch_size=[PATCH] * 2), text_config=Qwen2Config(**_text(t)).to_dict(),
        image_token_id=_id(t, "<IMG_CONTEXT>"), image_seq_length=4,
    )  # fmt: skip
    return config, made


def _llama(seed: int) -> tuple[Any, Any]:
    t = tokenizer(more=("<|im_start|>",))
    t.chat_template = _chat(_TEXT, system=_HELPFUL)
    return LlamaConfig(**_text(t, tie_word_embeddings=True)), t


def _qwen3(seed: int) -> tuple[Any, Any]:
    """Its template drops the thoughts of earlier turns."""
    t = tokenizer(more=("<|im_start|>",))
    t.chat_template = _chat(_FORGETFUL)
    return Qwen3Config(**_text(t)), t


BUILDERS: dict[str, Callable[[int], tuple[Any, Any]]] = {
    "smolvlm": _smolvlm,
    "idefics3": _idefics3,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "llava": _llava,
    "llava_onevision": _llava_onevision,
    "paligemma": _paligemma,
    "gemma3": _gemma3,
    "internvl": _internvl,
    "llama": _llama,
    "qwen3": _qwen3,
}
TEXT_ONLY = ("llama", "qwen3")
PICTURED = tuple(name for name in BUILDERS if name not in TEXT_ONLY)


def build(name: str, seed: int = 0) -> tuple[Any, Any]:
    """A model of the family with random weights, about half a million of them, and its processor."""
    config, processor = BUILDERS[name](seed)
    kind = AutoModelForCausalLM if name in TEXT_ONLY else AutoModelForImageTextToText
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.from_config(config)
        if name == "gemma3":  # which begins at zero
            torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.15)
    return model.eval(), processor
