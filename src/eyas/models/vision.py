"""Pictures on their way into a model: processed once, and encoded once for as long as the weights stay."""

import inspect
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from eyas.errors import ModelError
from eyas.models.families import GENERIC, Family
from eyas.types import ImageStore

PROCESSED_BYTES = 512 * 2**20
FEATURES_BYTES = 256 * 2**20

Picture = tuple[str, bool]  # its hash, and whether it is alone in its prompt where that changes how it is read


@dataclass(frozen=True, slots=True)
class Features:
    """What the vision tower makes of one picture: a vector for each of its tokens in the prompt."""

    tokens: Tensor  # (N, D)
    deep: tuple[Tensor, ...] = ()  # (N, D) each: added to the hidden states of the first layers (DeepStack)

    @property
    def nbytes(self) -> int:
        return self.tokens.nbytes + sum(t.nbytes for t in self.deep)


class _OfOnePatch(nn.Conv3d):
    """A convolution of input as large as its kernel is a product, which on a CPU is many times as fast."""

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[2:] != self.kernel_size or self.groups > 1 or any(self.padding):
            return super().forward(input)
        return F.linear(input.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]


class Vision:
    """The image processor and the vision tower of a model. Text-only models have neither."""

    def __init__(self, model: Any, processor: Any, family: Family = GENERIC):
        self.model = model
        self.family = family
        self.image_processor = getattr(processor, "image_processor", None)
        self._options = {}
        if hasattr(processor, "_merge_kwargs"):  # what the processor asks of its image processor (InternVL: tiles)
            self._options = processor._merge_kwargs(tokenizer_init_kwargs=processor.tokenizer.init_kwargs)[
                "images_kwargs"
            ]
        self._inputs: frozenset[str] = frozenset()
        if self.image_processor is not None:
            forward = getattr(model, model.base_model_prefix).forward
            if "mm_encoder_outputs" not in inspect.signature(forward).parameters:
                raise ModelError(f"models of type {model.config.model_type} take no pictures that were encoded before")
            self._inputs = frozenset(inspect.signature(model.get_image_features).parameters)
        for module in model.modules():
            if type(module) is nn.Conv3d:
                module.__class__ = _OfOnePatch
        self._processed: OrderedDict[Picture, dict[str, Tensor]] = OrderedDict()
        self._processed_bytes = 0
        self._features: OrderedDict[Picture, Features] = OrderedDict()
        self._features_bytes = 0
        self._version: Hashable = None
        self._is_list = True  # whether the model hands on its features as a list, or as one tensor

    def require(self) -> Any:
        if self.image_processor is None:
            raise ModelError("this model takes no images: use the environment's text mode")
        return self.image_processor

    # ------------------------------------------------------------------------------------- pixels

    def keys(self, hashes: Sequence[str]) -> list[Picture]:
        """The pictures of one prompt, with all that their features depend on."""
        is_alone = len(hashes) == 1 or not self.family.tiles_lone_pictures
        return [(h, is_alone) for h in hashes]

    def processed(self, picture: Picture, images: ImageStore) -> dict[str, Tensor]:
        """What the image processor makes of a picture, with a leading axis of 1 (or of its patches or tiles)."""
        if picture in self._processed:
            self._processed.move_to_end(picture)
            return self._processed[picture]
        image_hash, is_alone = picture
        # as a picture, not as an array: the axes of a very small array are ambiguous
        shown = [Image.fromarray(images.get(image_hash))]
        if is_alone:
            found = self.require()(shown, return_tensors="pt", **self._options)
        else:
            found = self.require()([shown * 2], return_tensors="pt", **self._options)
            found = {k: v[:1] for k, v in found.items()}
        kept = {k: v for k, v in found.items() if isinstance(v, Tensor) and k in self._inputs}
        if "pixel_attention_mask" in kept:  # int64 zeros and ones: as large as the pictures
            kept["pixel_attention_mask"] = kept["pixel_attention_mask"].bool()
        self._processed[picture] = kept
        self._processed_bytes += _nbytes(kept)
        while self._processed_bytes > PROCESSED_BYTES and len(self._processed) > 1:
            self._processed_bytes -= _nbytes(self._processed.popitem(last=False)[1])
        return kept

    def pixels(self, hashes: Sequence[str], images: ImageStore) -> dict[str, Tensor]:
        """The inputs of the vision tower for the pictures of one prompt, of equal shape, one after the other."""
        return self._joined(self.keys(hashes), images)

    def _joined(self, pictures: Sequence[Picture], images: ImageStore) -> dict[str, Tensor]:
        found = [self.processed(p, images) for p in pictures]
        device = next(self.model.parameters()).device
        return {k: torch.cat([p[k] for p in found]).to(device) for k in found[0]}

    # ------------------------------------------------------------------------------------- features

    def features(self, pictures: Sequence[Picture], images: ImageStore, version: Hashable = None) -> list[Features]:
        """Of each picture, in order; equal ones are encoded once, and not again while the weights' version stays.

        Without a version nothing is kept: what the learner differentiates belongs to one pass.
        """
        if version is None:
            found = self._encode(list(dict.fromkeys(pictures)), images)
            return [found[p] for p in pictures]
        if version != self._version:
            self.forget()
            self._version = version
        found = self._encode([p for p in dict.fromkeys(pictures) if p not in self._features], images)
        for picture, features in found.items():
            self._features[picture] = features
            self._features_bytes += features.nbytes
        result = [self._features[p] for p in pictures]
        while self._features_bytes > FEATURES_BYTES and len(self._features) > 1:
            self._features_bytes -= self._features.popitem(last=False)[1].nbytes
        return result

    def forget(self) -> None:
        """Drops the features: other weights were loaded."""
        self._features, self._features_bytes, self._version = OrderedDict(), 0, None

    def _encode(self, pictures: Sequence[Picture], images: ImageStore) -> dict[Picture, Features]:
        """Pictures of equal shape share a pass of the tower."""
        by_shape: dict[Hashable, list[Picture]] = {}
        for picture in pictures:
            shapes = tuple((k, tuple(v.shape)) for k, v in self.processed(picture, images).items())
            by_shape.setdefault((picture[1], shapes), []).append(picture)
        found: dict[Picture, Features] = {}
        for alike in by_shape.values():
            output = self.model.get_image_features(**self._joined(alike, images), return_dict=True)
            self._is_list = isinstance(output.pooler_output, list | tuple)
            parts = [_of_each(output.pooler_output, len(alike))]
            parts += [_of_each(deep, len(alike)) for deep in getattr(output, "deepstack_features", None) or ()]
            for picture, tokens, *deep in zip(alike, *parts, strict=True):
                found[picture] = Features(tokens, tuple(deep))
        return found

    def handed_on(self, features: Sequence[Features]) -> dict[str, Any]:
        """Features in reading order, as the arguments of the model's forward that stand for pixels."""
        if not features:
            return {}
        tokens: Any = [f.tokens for f in features]
        deep = [[f.deep[layer] for f in features] for layer in range(len(features[0].deep))]
        output = SimpleNamespace(
            pooler_output=tokens if self._is_list else torch.cat(tokens), deepstack_features=deep or None
        )
        return {"mm_encoder_outputs": {"image": output}}


def _of_each(of_all: Any, count: int) -> Sequence[Tensor]:
    """Of each of `count` pictures of equal shape, its tokens (N, D); the tower's parts may be pictures or tiles."""
    is_flat = isinstance(of_all, Tensor) and of_all.ndim == 2
    parts = [of_all] if is_flat else [t.reshape(-1, t.shape[-1]) for t in of_all]
    if len(parts) != count:
        flat = torch.cat(parts)
        parts = list(flat.split(max(1, flat.shape[0] // count)))
    if len(parts) != count or not all(len(t) for t in parts):
        raise ModelError(
            f"{count} pictures of equal shape have {sum(map(len, parts))} features together: one of them counts as padding "
            "(a picture that is all of the background colour?)"
        )
    return parts


def _nbytes(tensors: dict[str, Tensor]) -> int:
    return sum(t.nbytes for t in tensors.values())
