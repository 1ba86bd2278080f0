"""Drives a Hugging Face VLM through its own processor and chat template: messages in, hidden states and logits out."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from eyas.errors import ModelError
from eyas.types import ImagePart, ImageStore, Message, TextPart

IMAGE_CACHE_BYTES = 512 * 2**20
TWO_WAY_ATTENTION = ("gemma3", "paligemma")  # over the tokens of a picture, told by token types
PROMPT_CACHE_ENTRIES = 8192


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as the model reads it."""

    ids: np.ndarray  # int64 (T,), image placeholders included
    image_hashes: tuple[str, ...]

    @property
    def key(self) -> Hashable:
        """Equal where, and only where, the model sees the same."""
        return self.ids.tobytes(), self.image_hashes


class VisionLanguageModel(nn.Module):
    """A model, its processor and what is particular to them: which ids end a turn and which are never sampled.

    Any model of `AutoModelForImageTextToText` whose base model returns `last_hidden_state`, and text-only causal
    models with a chat template. Everything runs in eval mode, so that sampler and learner see the same function:
    dropout is off in training too.
    """

    model: Any  # what Hugging Face adds to a module differs between models
    forbidden_ids: Tensor

    def __init__(self, model: Any, processor: Any):
        super().__init__()
        self.model = model
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        base = getattr(model, model.base_model_prefix, model)
        if hasattr(base, "get_rope_index") or model.config.model_type in TWO_WAY_ATTENTION:
            raise ModelError(
                f"models of type {model.config.model_type} need positions or attention masks of their own over a picture, "
                "which are not built here yet: take SmolVLM, Idefics3, LLaVA or a text-only model"
            )
        self.end_ids = frozenset(_end_ids(model, self.tokenizer))
        if not self.end_ids:
            raise ModelError("the model names no end-of-turn token: set eos_token in its tokenizer")
        forbidden = torch.tensor(sorted(_never_sampled(model, self.tokenizer) - self.end_ids), dtype=torch.long)
        self.register_buffer("forbidden_ids", forbidden, persistent=False)
        self.pad_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else min(self.end_ids)
        self._prompts: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._texts: OrderedDict[str, np.ndarray] = OrderedDict()
        self._images: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._image_bytes = 0
        self.eval()

    def train(self, mode: bool = True) -> "VisionLanguageModel":
        """Stays in eval mode: dropout would make the learner another function than the sampler."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def hidden_size(self) -> int:
        config = self.model.config
        return getattr(config, "text_config", config).hidden_size

    @property
    def context(self) -> int:
        """The most tokens that prompt and completion may have together."""
        config = self.model.config
        return int(getattr(config, "text_config", config).max_position_embeddings)

    # ------------------------------------------------------------------------------------- messages to ids

    def encode(self, messages: Sequence[Message], images: ImageStore) -> EncodedPrompt:
        """Messages to ids: the chat template, image placeholders, and the very ids of earlier completions.

        A conversation is put together from segments, each tokenised once: what comes before the first completion, the
        completions, and what comes between them. Where the template would change earlier messages (one that drops
        earlier thoughts), every prompt is rendered anew from text instead, and training samples fork.
        """
        hashes = tuple(_hashes(messages))
        if hashes:
            self._image_processor()  # pixels are for `vision_inputs`: a long conversation holds more than are kept
        answers = [i for i, m in enumerate(messages) if m.completion is not None]
        if not answers or not self.is_prefix_stable:
            return EncodedPrompt(self._segment((), messages, images), hashes)
        parts = [self._segment((), messages[: answers[0]], images)]
        for place, after in zip(answers, [*answers[1:], len(messages)], strict=True):
            written = self._written(messages[place])
            between = self._segment(_BEFORE_TAIL, messages[place + 1 : after], images)
            # the end of the turn that the model wrote itself is not said again; one that it did not write is the prompt's
            is_said = len(written) > 0 and int(written[-1]) in self.end_ids and int(between[0]) in self.end_ids
            parts += [written, between[1:] if is_said else between]
        return EncodedPrompt(np.concatenate(parts), hashes)

    def _written(self, message: Message) -> np.ndarray:
        """The ids of an earlier completion: those that were sampled, or those that supervision takes its text for."""
        assert message.completion is not None
        ids = message.completion.token_ids
        return self.encode_text(message.completion.text) if ids is None else ids.astype(np.int64)

    def _segment(self, before: tuple[Message, ...], messages: Sequence[Message], images: ImageStore) -> np.ndarray:
        """The ids that these messages add after `before`, up to where the model goes on. Equal layouts are made once."""
        layout = bool(before), tuple((m.role, tuple(_layout(m, images))) for m in messages)
        if layout not in self._prompts:
            text = self._templated([*before, *messages])
            if before:
                text = text.split(_MARK)[1]
            self._prompts[layout] = self._tokenise(text, [images.get(h) for h in _hashes(messages)])
            if len(self._prompts) > PROMPT_CACHE_ENTRIES:
                self._prompts.popitem(last=False)
        return self._prompts[layout]

    @cached_property
    def is_prefix_stable(self) -> bool:
        """Whether the chat template keeps what was said before as it was, and adds each message in the same way."""
        question, answer = (_said("user", t) for t in ("first", "second")), _said("assistant", _MARK)
        first, second = question
        try:
            opening = self._templated([first])
            once = self._templated([first, answer, second])
            twice = self._templated([first, answer, second, answer, second])
        except Exception:  # templates raise whatever they like where roles do not suit them
            return False
        if once.count(_MARK) != 1 or twice.count(_MARK) != 2:
            return False
        tail = once.split(_MARK)[1]
        return once.startswith(opening + _MARK) and twice == once + _MARK + tail

    def _templated(self, messages: Sequence[Message]) -> str:
        chat = [
            {
                "role": m.role,
                "content": [
                    {"type": "image"} if isinstance(p, ImagePart) else {"type": "text", "text": p.text} for p in m.parts
                ],
            }
            for m in messages
        ]
        if not hasattr(self.processor, "image_processor"):  # templates of text-only models want plain strings
            chat = [{**m, "content": "".join(p["text"] for p in m["content"])} for m in chat]
        return self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)

    def _tokenise(self, text: str, images: list[np.ndarray]) -> np.ndarray:
        # the template writes any BOS token itself, the tokenizer must not add a second one
        options = {"add_special_tokens": False}
        if images:
            try:
                encoded = self.processor(text=[text], images=[[Image.fromarray(i) for i in images]], **options)
            except ValueError as error:
                raise ModelError(f"the processor refuses a prompt with {len(images)} images: {error}") from error
        else:
            encoded = self.tokenizer([text], **options)
        ids = np.asarray(encoded["input_ids"][0], dtype=np.int64)
        image_id = getattr(self.model.config, "image_token_id", None)
        if not images and image_id is not None and image_id in ids:
            placeholder = self.tokenizer.convert_ids_to_tokens(image_id)
            raise ModelError(f"the prompt holds {placeholder!r} and no image: keep it out of what the environment says")
        return ids

    def encode_text(self, text: str) -> np.ndarray:
        """Tokenises a target of supervision, the end-of-turn token included: int64 (T,)."""
        if text not in self._texts:
            end = min(self.end_ids) if self.tokenizer.eos_token_id is None else self.tokenizer.eos_token_id
            ids = [*self.tokenizer(text, add_special_tokens=False)["input_ids"], end]
            self._texts[text] = np.asarray(ids, dtype=np.int64)
            if len(self._texts) > PROMPT_CACHE_ENTRIES:
                self._texts.popitem(last=False)
        return self._texts[text]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self.tokenizer.decode(
            np.asarray(ids).tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    # ------------------------------------------------------------------------------------- images

    def _image_processor(self) -> Any:
        processor = getattr(self.processor, "image_processor", None)
        if processor is None:
            raise ModelError("this model takes no images: use the environment's text mode")
        return processor

    def _processed(self, image_hash: str, images: ImageStore) -> dict[str, Tensor]:
        if image_hash in self._images:
            self._images.move_to_end(image_hash)
            return self._images[image_hash]
        processor = self._image_processor()
        # as a picture, not as an array: the axes of a very small array are ambiguous
        processed = processor([Image.fromarray(images.get(image_hash))], return_tensors="pt")
        kept = {k: v for k, v in processed.items() if isinstance(v, Tensor) and k not in ("rows", "cols")}
        if "pixel_attention_mask" in kept:  # int64 zeros and ones: as large as the pictures
            kept["pixel_attention_mask"] = kept["pixel_attention_mask"].bool()
        self._images[image_hash] = kept
        self._image_bytes += _nbytes(kept)
        while self._image_bytes > IMAGE_CACHE_BYTES and len(self._images) > 1:
            self._image_bytes -= _nbytes(self._images.popitem(last=False)[1])
        return kept

    def vision_inputs(self, samples: Sequence[Sequence[str]], images: ImageStore) -> dict[str, Tensor]:
        """What the model's forward wants for the images of each sample, in order."""
        processed = [[self._processed(h, images) for h in hashes] for hashes in samples]
        flat = [p for sample in processed for p in sample]
        if not flat:
            return {}
        if flat[0]["pixel_values"].ndim == 5:  # Idefics3: (samples, tiles, C, H, W), short samples padded with zeros
            return {k: self._stack_tiles(processed, k).to(self.device) for k in flat[0]}
        return {k: torch.cat([p[k] for p in flat]).to(self.device) for k in flat[0]}

    @staticmethod
    def _stack_tiles(processed: list[list[dict[str, Tensor]]], key: str) -> Tensor:
        tiles = [[p[key][0] for p in sample] for sample in processed]
        counts = {sum(len(t) for t in sample) for sample in tiles}
        flat = torch.cat([t for sample in tiles for t in sample])
        if len(counts) == 1:  # nothing to pad: several times faster
            return flat.view(len(tiles), -1, *flat.shape[1:])
        rows = [torch.cat(sample) if sample else flat[:0] for sample in tiles]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    # ------------------------------------------------------------------------------------- forward

    def hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        vision: dict[str, Tensor] | None = None,
        cache: Any = None,
        use_cache: bool = False,
    ) -> tuple[Tensor, Any]:
        """Last hidden states (B, T, D) and the key-value cache. Positions are always explicit.

        `attention_mask` is bool: (B, T) of what is no padding, causal, or (B, 1, T, T) of what each token sees.
        """
        if attention_mask.ndim == 4:  # as what is added to the scores, which every attention of the library takes
            dtype = self.model.dtype
            nothing = torch.zeros((), dtype=dtype, device=attention_mask.device)
            attention_mask = torch.where(attention_mask, nothing, torch.finfo(dtype).min)
        base = getattr(self.model, self.model.base_model_prefix)
        output = base(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=use_cache,
            return_dict=True,
            **(vision or {}),
        )
        return output.last_hidden_state, output.past_key_values

    def logits(self, hidden: Tensor) -> Tensor:
        return self.model.get_output_embeddings()(hidden)

    def save(self, folder: Path) -> None:
        """Hugging Face format: `from_pretrained` of model and processor load it."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def _said(role: str, text: str) -> Message:
    return Message(role, (TextPart(text),))


# a thought and an answer, as templates that drop earlier thoughts look for them
_MARK = "<think>earlier</think>answer\u2063"
_BEFORE_TAIL = (_said("user", "first"), _said("assistant", _MARK))


def _hashes(messages: Sequence[Message]) -> list[str]:
    return [p.image_hash for m in messages for p in m.parts if isinstance(p, ImagePart)]


def _layout(message: Message, images: ImageStore) -> list[Hashable]:
    """Texts, and the shapes of pictures: all that the ids depend on."""
    return [images.get(p.image_hash).shape if isinstance(p, ImagePart) else p.text for p in message.parts]


def _nbytes(tensors: dict[str, Tensor]) -> int:
    return sum(t.nbytes for t in tensors.values())


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    generation = getattr(model, "generation_config", None)
    ends = getattr(generation, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    return {int(i) for i in [*ends, tokenizer.eos_token_id] if i is not None}


def _never_sampled(model: Any, tokenizer: Any) -> set[int]:
    """Special tokens, image placeholders (no image is behind a sampled one), and rows that pad the output matrix."""
    config = model.config.to_dict()
    vision = {
        v for k, v in config.items() if k.endswith("_token_id") and ("image" in k or "video" in k or "vision" in k)
    }
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    padding = set(range(len(tokenizer), model.get_output_embeddings().weight.shape[0]))
    return {int(i) for i in vision | special | padding | set(tokenizer.all_special_ids) if isinstance(i, int)}
