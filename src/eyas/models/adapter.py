"""Drives a Hugging Face VLM through its own processor and chat template: messages in, hidden states and logits out."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor, nn

from eyas.errors import ModelError
from eyas.models.families import family_of
from eyas.models.vision import Features, Vision
from eyas.types import ImagePart, ImageStore, Message, TextPart

PROMPT_CACHE_ENTRIES = 8192


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as the model reads it."""

    ids: np.ndarray  # int64 (T,), image placeholders included
    image_hashes: tuple[str, ...]
    resumes_at: int = 0  # tokens up to the end of the last completion in it: what an earlier prompt's sampling has read
    images_before: int = 0  # pictures among those

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
        self.family = family_of(model.config)
        self.vision = Vision(model, processor, self.family)
        self.image_token_id: int | None = getattr(model.config, "image_token_id", None)
        turn_end = self._turn_end()
        self.end_ids = frozenset(_end_ids(model, self.tokenizer) | ({turn_end} if turn_end is not None else set()))
        if not self.end_ids:
            raise ModelError("the model names no end-of-turn token: set eos_token in its tokenizer")
        eos = self.tokenizer.eos_token_id if self.tokenizer.eos_token_id is not None else min(self.end_ids)
        self.turn_end = eos if turn_end is None else turn_end  # of what supervision wants to be said
        forbidden = torch.tensor(sorted(_never_sampled(model, self.tokenizer) - self.end_ids), dtype=torch.long)
        self.register_buffer("forbidden_ids", forbidden, persistent=False)
        self.pad_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else min(self.end_ids)
        self._prompts: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._texts: OrderedDict[str, np.ndarray] = OrderedDict()
        self._positions: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self.has_grid_positions = hasattr(self._base, "get_rope_index")
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
            self.vision.require()  # pixels are for `features`: a long conversation holds more than are kept
        messages = self._with_system(messages)
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
        resumes_at = sum(len(p) for p in parts[:-1])
        return EncodedPrompt(np.concatenate(parts), hashes, resumes_at, len(_hashes(messages[: answers[-1]])))

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
            ids = self._tokenise(text, [images.get(h) for h in _hashes(messages)])
            if self._bos is not None and not before and not text.startswith(self.tokenizer.bos_token):
                ids = np.insert(ids, 0, self._bos)
            self._prompts[layout] = ids
            if len(self._prompts) > PROMPT_CACHE_ENTRIES:
                self._prompts.popitem(last=False)
        return self._prompts[layout]

    @cached_property
    def _bos(self) -> int | None:
        """The id that the tokenizer puts before a text where the template does not: as the processor's own calls do."""
        bos = self.tokenizer.bos_token_id
        is_added = bos is not None and self.tokenizer("a")["input_ids"][0] == bos
        return bos if is_added and hasattr(self.processor, "image_processor") else None

    # ------------------------------------------------------------------------------------- the chat template

    @cached_property
    def is_prefix_stable(self) -> bool:
        """Whether the chat template keeps what was said before as it was, and adds each message in the same way.

        White space between where the model goes on and what it said may differ (SmolVLM writes "Assistant: left", and asks
        with "Assistant:"): what stands there is what the model wrote.
        """
        if not self.family.splices_turns:
            return False
        first, answer, second = _said("user", "first"), _said("assistant", _MARK), _said("user", "second")
        try:
            opening = self._templated([first])
            once = self._templated([first, answer, second])
            twice = self._templated([first, answer, second, answer, second])
        except ModelError:  # roles do not suit it
            return False
        if once.count(_MARK) != 1 or twice.count(_MARK) != 2:
            return False
        head, tail = once.split(_MARK)
        gap = head[len(opening) :]
        return head.startswith(opening) and not gap.strip() and twice == once + gap + _MARK + tail

    def _turn_end(self) -> int | None:
        """The special token with which the template ends what the model said (Gemma: another one than EOS)."""
        found = set()
        for after in ((), (_said("user", "second"),)):  # what begins the next turn is not meant
            try:
                said = self._templated([*_BEFORE_TAIL, *after])
            except ModelError:
                return None
            _, answer, tail = said.rpartition(_ANSWER)
            found.add(next(iter(self.tokenizer(tail, add_special_tokens=False)["input_ids"]), None) if answer else None)
        return found.pop() if len(found) == 1 and found <= _special_ids(self.tokenizer) else None

    @cached_property
    def takes_system(self) -> bool:
        try:
            return _MARK in self._templated([_said("system", _MARK), _said("user", "first")])
        except ModelError:
            return False

    def _with_system(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Where the template refuses or drops what the system says, the user says it first."""
        if len(messages) < 2 or messages[0].role != "system" or self.takes_system:
            return messages
        system, (first, *rest) = messages[0].parts, messages[1].parts
        if isinstance(first, TextPart):  # as one text: templates may trim each
            said = "".join(p.text for p in system if isinstance(p, TextPart))
            system, first = (), TextPart(f"{said}\n\n{first.text}")
        return [replace(messages[1], parts=(*system, first, *rest)), *messages[2:]]

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
        template = getattr(self.processor, "chat_template", None) or self.tokenizer.chat_template
        template = template or self.family.chat_template
        if template is None:
            raise ModelError(
                "the model has no chat template: set chat_template of its processor, or use an instruct model"
            )
        try:  # the tokenizer's: some processors ask here for what they need for videos
            return self.tokenizer.apply_chat_template(
                chat, chat_template=template, add_generation_prompt=True, tokenize=False
            )
        except TemplateError as error:
            roles = ", ".join(m.role for m in messages)
            raise ModelError(f"the chat template refuses the roles {roles}: {error}") from error

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
        image_id = self.image_token_id
        if not images and image_id is not None and image_id in ids:
            placeholder = self.tokenizer.convert_ids_to_tokens(image_id)
            raise ModelError(f"the prompt holds {placeholder!r} and no image: keep it out of what the environment says")
        return ids

    # ------------------------------------------------------------------------------------- text and ids

    def encode_text(self, text: str) -> np.ndarray:
        """Tokenises a target of supervision, the end-of-turn token included: int64 (T,)."""
        if text not in self._texts:
            ids = [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.turn_end]
            self._texts[text] = np.asarray(ids, dtype=np.int64)
            if len(self._texts) > PROMPT_CACHE_ENTRIES:
                self._texts.popitem(last=False)
        return self._texts[text]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self.tokenizer.decode(
            np.asarray(ids).tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    # ------------------------------------------------------------------------------------- images

    def features(self, rows: Sequence[Sequence[str]], images: ImageStore, version: Hashable = None) -> list[Features]:
        """Of the pictures of each row, in reading order. With a version of the weights they are kept for the next call."""
        return self.vision.features([p for hashes in rows for p in self.vision.keys(hashes)], images, version)

    def positions(
        self, ids: np.ndarray, image_hashes: Sequence[str], images: ImageStore, begin: int | None = None
    ) -> np.ndarray:
        """Position ids of a whole sequence: int64 (A, T), where A is 1, or 3 for models with M-RoPE.

        With `begin` of the end of one, behind tokens whose next position that is: no picture may be cut.
        """
        if not self.has_grid_positions:
            return np.arange(len(ids), dtype=np.int64)[None] + (self.family.first_position if begin is None else begin)
        key = ids.tobytes(), tuple(images.get(h).shape for h in image_hashes)
        if key not in self._positions:
            self._positions[key] = self._grid_positions(ids, image_hashes, images)
            if len(self._positions) > PROMPT_CACHE_ENTRIES:
                self._positions.popitem(last=False)
        return self._positions[key] + (begin or 0)

    def _grid_positions(self, ids: np.ndarray, image_hashes: Sequence[str], images: ImageStore) -> np.ndarray:
        """By the model's own function, which is asked about one sequence without padding: it keeps no state then."""
        tokens = torch.from_numpy(ids)[None]
        grids = [self.vision.processed(p, images)["image_grid_thw"] for p in self.vision.keys(image_hashes)]
        positions, _ = self._base.get_rope_index(
            tokens,
            mm_token_type_ids=(tokens == self.image_token_id).int(),
            image_grid_thw=torch.cat(grids) if grids else None,
        )
        return positions[:, 0].numpy()

    @property
    def _base(self) -> Any:
        return getattr(self.model, self.model.base_model_prefix)

    # ------------------------------------------------------------------------------------- forward

    def hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        features: Sequence[Features] = (),
        cache: Any = None,
        use_cache: bool = False,
        prompt_lengths: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Last hidden states (B, T, D) and the key-value cache. Positions are always explicit.

        `attention_mask` (B, past + T) says what is no padding, causal; or (B, 1, T, past + T) what each token sees: bool, or
        what is added to the scores. `position_ids` (B, T), or (3, B, T) for M-RoPE. `features` are those of the pictures
        in `input_ids`, in reading order. `prompt_lengths` (B,) says how much of each row is its prompt, for models whose
        prompts attend both ways; none: all of it.
        """
        if attention_mask.ndim == 4 and not self.family.has_slots:
            raise ModelError(
                f"models of type {self.model.config.model_type} make their own attention masks, and action scoring needs "
                "another: use interface.action_mode = 'text'"
            )
        if attention_mask.ndim == 4 and attention_mask.dtype == torch.bool:  # as every attention takes it
            attention_mask = additive_mask(attention_mask, self.model.dtype)
        options: dict[str, Any] = self.vision.handed_on(features)
        if cache is None:  # with one, all that attends both ways has been read
            options |= self._token_types(input_ids, prompt_lengths)
        output = self._base(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=use_cache,
            return_dict=True,
            **options,
        )
        return output.last_hidden_state, output.past_key_values

    def _token_types(self, input_ids: Tensor, prompt_lengths: Tensor | None) -> dict[str, Tensor]:
        if self.family.marks_images:
            return {"token_type_ids": (input_ids == self.image_token_id).long()}
        if self.family.is_causal:
            return {}
        if prompt_lengths is None:
            return {"token_type_ids": torch.zeros_like(input_ids)}
        columns = torch.arange(input_ids.shape[1], device=input_ids.device)
        return {"token_type_ids": (columns >= prompt_lengths[:, None]).long()}

    def logits(self, hidden: Tensor) -> Tensor:
        logits = self.model.get_output_embeddings()(hidden)
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def save(self, folder: Path) -> None:
        """Hugging Face format: `from_pretrained` of model and processor load it."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def _said(role: str, text: str) -> Message:
    return Message(role, (TextPart(text),))


# a thought and an answer, as templates that drop earlier thoughts look for them
_ANSWER = "answer\u2063"
_MARK = f"<think>earlier</think>{_ANSWER}"
_BEFORE_TAIL = (_said("user", "first"), _said("assistant", _MARK))


def _hashes(messages: Sequence[Message]) -> list[str]:
    return [p.image_hash for m in messages for p in m.parts if isinstance(p, ImagePart)]


def _layout(message: Message, images: ImageStore) -> list[Hashable]:
    """Texts, and the shapes of pictures: all that the ids depend on."""
    return [images.get(p.image_hash).shape if isinstance(p, ImagePart) else p.text for p in message.parts]


def additive_mask(sees: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores: 0 where `sees` (bool, any shape), the least number elsewhere."""
    nothing = torch.zeros((), dtype=dtype, device=sees.device)
    return torch.where(sees, nothing, torch.finfo(dtype).min)


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    generation = getattr(model, "generation_config", None)
    ends = getattr(generation, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    return {int(i) for i in [*ends, tokenizer.eos_token_id] if i is not None}


def _special_ids(tokenizer: Any) -> set[int]:
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return special | set(tokenizer.all_special_ids)


def _never_sampled(model: Any, tokenizer: Any) -> set[int]:
    """Special tokens, image placeholders (no image is behind a sampled one), and rows that pad the output matrix."""
    config = model.config.to_dict()
    words = ("image", "video", "vision", "boi", "eoi")
    vision = {
        v for k, v in config.items() if k.endswith(("_token_id", "_token_index")) and any(word in k for word in words)
    }
    rows = model.get_output_embeddings().weight.shape[0]
    padding = set(range(len(tokenizer), rows))
    never = vision | padding | _special_ids(tokenizer)
    return {int(i) for i in never if isinstance(i, int) and i < rows}  # a placeholder may lie beyond the vocabulary
