"""Reads training samples with a model: from samples to hidden states. Learner, critic and action scoring share it."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eyas.batch import TrainingBatch, TrainingSample
from eyas.collate import collate
from eyas.models import attention
from eyas.models.adapter import VisionLanguageModel
from eyas.models.families import GENERIC
from eyas.models.vision import Features
from eyas.splits import of_similar_length
from eyas.types import ImageStore

LEAST_PADDING = {"cpu": 256}  # tokens that another pass has to save; a GPU needs more of them to be busy
LEAST_BLOCKS_KEYS = {"float32": 256, "bfloat16": 0}  # with fewer torch's attention is as fast in float32


def batch_of(
    model: VisionLanguageModel, images: ImageStore, samples: Sequence[TrainingSample], shares_prompts: bool = False
) -> TrainingBatch:
    """The samples as tensors on the model's device, with its own position ids.

    With `shares_prompts`, prompts that several samples begin with are read once, where the family of the model allows it.
    """

    def positions(ids, image_hashes):
        return model.positions(ids, image_hashes, images)

    shares_prompts = shares_prompts and model.family.reuses_prefixes
    return collate(samples, model.pad_id, model.device, positions, shares_prompts)


def read(model: VisionLanguageModel, images: ImageStore, batch: TrainingBatch, version: Hashable = None) -> Tensor:
    """Last hidden states (B, T, D) of a batch's rows. Gradients flow into shared prompts through their keys and values.

    Rows of similar length share a pass, so that little padding is read: its hidden states are 0, or anything. Without
    gradients, `version` names the weights: pictures that were encoded with them are not encoded again.
    """
    shared = batch.shared
    of_prompts = shared.image_hashes if shared else []
    groups = of_similar_length(batch.lengths, LEAST_PADDING.get(model.device.type, 2048))
    with _suited_attention(model, batch.attention_mask.shape[-1]):
        features = iter(model.features([*of_prompts, *batch.image_hashes], images, version))
        shared_features = list(islice(features, sum(len(hashes) for hashes in of_prompts)))
        of_rows = [list(islice(features, len(hashes))) for hashes in batch.image_hashes]
        cache = None
        if shared:
            prompts = shared.input_ids, shared.attention_mask, shared.position_ids, shared_features
            _, cache = model.hidden(*prompts, use_cache=True)
        parts = [_read_rows(model, batch, rows, [f for row in rows for f in of_rows[row]], cache) for rows in groups]
    if len(parts) == 1:
        return parts[0]
    hidden = parts[0].new_zeros(*batch.input_ids.shape, parts[0].shape[-1])
    for rows, part in zip(groups, parts, strict=True):
        hidden[torch.from_numpy(rows), : part.shape[1]] = part
    return hidden


@contextmanager
def _suited_attention(model: VisionLanguageModel, num_keys: int) -> Iterator[None]:
    """On a CPU attention by products over blocks, which is several times as fast in bfloat16; else the model's own."""
    config, family = model.model.config, model.family
    parts = {"": config, "text_config": config.get_text_config()}
    is_rounded = torch.is_autocast_enabled("cpu")
    if is_rounded and hasattr(config, "vision_config"):
        parts["vision_config"] = config.vision_config
    is_better = model.device.type == "cpu" and num_keys >= LEAST_BLOCKS_KEYS["bfloat16" if is_rounded else "float32"]
    is_plain = family.is_causal and family.has_slots and family.name != GENERIC.name
    is_fused = all(c._attn_implementation == "sdpa" for c in parts.values())
    is_read_again = model.model.is_activation_checkpointing  # in the backward pass, when this context is over
    if not (is_better and is_plain and is_fused) or is_read_again:
        yield
        return
    model.model.set_attn_implementation(dict.fromkeys(parts, attention.NAME))
    try:
        yield
    finally:
        model.model.set_attn_implementation(dict.fromkeys(parts, "sdpa"))


def _read_rows(
    model: VisionLanguageModel, batch: TrainingBatch, rows: np.ndarray, features: Sequence[Features], cache: Any
) -> Tensor:
    """Hidden states (R, W, D) of some rows, as far as the longest of them goes. `cache` holds the shared prompts."""
    width = int(batch.lengths[rows].max())
    index = torch.from_numpy(rows).to(batch.input_ids.device)
    seen = batch.attention_mask.shape[-1] - batch.input_ids.shape[1] + width
    mask = batch.attention_mask[index, ..., :seen]
    prompt_lengths = None if model.family.is_causal else _prompt_lengths(batch)[index].clamp(max=width)
    hidden, _ = model.hidden(
        batch.input_ids[index, :width],
        mask if mask.ndim == 2 else mask[:, :, :width],
        batch.position_ids[..., index, :width],
        features,
        cache=_continued(cache, batch.shared.rows[index]) if batch.shared else None,
        use_cache=batch.shared is not None,
        prompt_lengths=prompt_lengths,
    )
    return hidden


def _continued(cache: Any, rows: Tensor) -> Any:
    """A cache in which row i continues row `rows[i]` of another, which stays as it is."""
    part = copy(cache)
    part.layers = [copy(layer) for layer in cache.layers]
    part.batch_select_indices(rows)
    return part


def _prompt_lengths(batch: TrainingBatch) -> Tensor:
    """Of rows that hold one step, or none: then all of it is prompt."""
    lengths = torch.full_like(batch.input_ids[:, 0], batch.input_ids.shape[1])
    lengths[batch.step_rows] = batch.step_columns + 1
    return lengths
