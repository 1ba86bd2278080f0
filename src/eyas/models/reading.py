"""Reads training samples with a model: from samples to hidden states. Learner, critic and action scoring share it."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from eyas.batch import TrainingBatch, TrainingSample
from eyas.collate import collate
from eyas.models.adapter import VisionLanguageModel
from eyas.types import ImageStore


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

    Without gradients, `version` names the weights: pictures that were encoded with them are not encoded again.
    """
    cache = None
    shared_hashes = batch.shared.image_hashes if batch.shared else []
    features = model.features([*shared_hashes, *batch.image_hashes], images, version)
    count = sum(len(hashes) for hashes in shared_hashes)
    if batch.shared:
        shared = batch.shared
        _, cache = model.hidden(
            shared.input_ids, shared.attention_mask, shared.position_ids, features[:count], use_cache=True
        )
        cache.batch_select_indices(shared.rows)
    hidden, _ = model.hidden(
        batch.input_ids,
        batch.attention_mask,
        batch.position_ids,
        features[count:],
        cache=cache,
        use_cache=cache is not None,
        prompt_lengths=None if model.family.is_causal else _prompt_lengths(batch),
    )
    return hidden


def _prompt_lengths(batch: TrainingBatch) -> Tensor:
    """Of rows that hold one step, or none: then all of it is prompt."""
    lengths = torch.full_like(batch.input_ids[:, 0], batch.input_ids.shape[1])
    lengths[batch.step_rows] = batch.step_columns + 1
    return lengths
