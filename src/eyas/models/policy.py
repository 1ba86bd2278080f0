"""A policy: the model, the sampler that reads from it, and the critic on its hidden states."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from eyas.batch import TrainingSample, collate
from eyas.errors import CheckpointError
from eyas.models.adapter import VisionLanguageModel
from eyas.models.value_head import ValueHead
from eyas.types import Completion, ImageStore, Message, Sampler, SampleRequest

VALUE_HEAD_FILE = "value_head.safetensors"
POLICY_FILE = "eyas_policy.json"


class Policy:
    """`version` counts the updates behind the weights; every cache of theirs is keyed by it."""

    def __init__(self, model: VisionLanguageModel, sampler: Sampler, images: ImageStore, version: int = 0):
        self.model = model
        self.value_head = ValueHead(model.hidden_size).to(model.device)
        self.sampler = sampler
        self.images = images
        self.version = version

    def sample(self, requests: Sequence[SampleRequest]) -> list[Completion]:
        self.sampler.policy_version = self.version
        return self.sampler.sample(requests)

    def fits(self, messages: Sequence[Message], max_new_tokens: int) -> bool:
        """Whether prompt and completion fit into the model's context."""
        return len(self.model.encode(messages, self.images).ids) + max_new_tokens <= self.model.context

    @torch.inference_mode()
    def values(self, prompts: Sequence[Sequence[Message]], batch_size: int = 64) -> np.ndarray:
        """V at the last token of each prompt: float32 (n,). Equal prompts are read once."""
        encoded = [self.model.encode(p, self.images) for p in prompts]
        distinct = {e.key: e for e in encoded}
        place = {key: i for i, key in enumerate(distinct)}
        order, unique = [place[e.key] for e in encoded], list(distinct.values())
        by_length = sorted(range(len(unique)), key=lambda i: len(unique[i].ids))
        result = np.zeros(len(unique), dtype=np.float32)
        for start in range(0, len(unique), batch_size):
            chunk = by_length[start : start + batch_size]
            samples = [TrainingSample(unique[i].ids, unique[i].image_hashes, ()) for i in chunk]
            batch = collate(samples, self.model.pad_id, self.model.device)
            vision = self.model.vision_inputs(batch.image_hashes, self.images)
            hidden, _ = self.model.hidden(batch.input_ids, batch.attention_mask, batch.position_ids, vision)
            last = batch.attention_mask.sum(1) - 1
            result[chunk] = self.value_head(hidden[torch.arange(len(chunk)), last]).cpu().numpy()
        return result[order]

    # ------------------------------------------------------------------------------------- saving and loading

    def save(self, folder: Path) -> None:
        """The model in Hugging Face format, and beside it the value head and the version."""
        self.model.save(folder)
        save_file(self.value_head.state_dict(), folder / VALUE_HEAD_FILE)
        (folder / POLICY_FILE).write_text(json.dumps({"version": self.version}))

    def load_weights(self, folder: Path) -> None:
        """Takes the weights of a checkpoint of the same architecture, in place, or nothing and raises CheckpointError."""
        try:
            # through the class: large models are saved in several files, and some under other names
            loaded, found = type(self.model.model).from_pretrained(folder, dtype="auto", output_loading_info=True)
            weights = {k: v for k, v in loaded.state_dict().items() if k not in found["missing_keys"]}
            value_head = load_file(folder / VALUE_HEAD_FILE)
            version = int(json.loads((folder / POLICY_FILE).read_text())["version"])
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"{folder} holds no readable policy: {error}") from error
        own = self.model.model.state_dict()
        _check_same_shapes(folder, own, weights)
        _check_same_shapes(folder, self.value_head.state_dict(), value_head)
        self.model.model.load_state_dict(weights)
        self.value_head.load_state_dict(value_head)
        self.version = version
        self.sampler.forget()  # two checkpoints may have the same number of updates behind them


def _check_same_shapes(folder: Path, own: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> None:
    missing = sorted(set(own) - set(loaded))
    unknown = sorted(set(loaded) - set(own))
    different = [k for k in loaded if k in own and loaded[k].shape != own[k].shape]
    if missing or unknown or different:
        raise CheckpointError(
            f"{folder} holds another model: missing {missing[:3]}, unknown {unknown[:3]}, of other shape {different[:3]}"
        )
