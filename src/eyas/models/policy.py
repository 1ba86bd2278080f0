"""A policy: the model, the sampler that reads from it, and the critic on its hidden states."""

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from eyas.batch import TrainingSample, collate
from eyas.errors import CheckpointError
from eyas.models.adapter import EncodedPrompt, VisionLanguageModel
from eyas.models.value_head import ValueHead
from eyas.types import Completion, ImageStore, Message, Sampler, SampleRequest

VALUE_HEAD_FILE = "value_head.safetensors"
POLICY_FILE = "eyas_policy.json"
MOST_ROWS, MOST_TOKENS = 64, 2**16  # of one pass over texts for their values


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
    def values(self, texts: Sequence[EncodedPrompt], columns: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """V at the given tokens of each text: float32 arrays, as long as the text's columns. Equal texts are read once."""
        keys = [(t.key, tuple(c)) for t, c in zip(texts, columns, strict=True)]
        distinct = dict(zip(keys, texts, strict=True))
        todo = sorted(distinct, key=lambda key: len(distinct[key].ids))
        result: dict[Hashable, np.ndarray] = {}
        while todo:
            size = max(1, min(MOST_ROWS, MOST_TOKENS // len(distinct[todo[-1]].ids)))
            part, todo = todo[:size], todo[size:]
            samples = [TrainingSample(distinct[k].ids, distinct[k].image_hashes, ()) for k in part]
            batch = collate(samples, self.model.pad_id, self.model.device)
            vision = self.model.vision_inputs(batch.image_hashes, self.images)
            hidden, _ = self.model.hidden(batch.input_ids, batch.attention_mask, batch.position_ids, vision)
            rows = torch.tensor([row for row, key in enumerate(part) for _ in key[1]], device=self.model.device)
            places = torch.tensor([c for key in part for c in key[1]], device=self.model.device)
            values = self.value_head(hidden[rows, places]).cpu().numpy()
            ends = np.cumsum([len(key[1]) for key in part])[:-1]
            result.update(zip(part, np.split(values, ends), strict=True))
        return [result[key] for key in keys]

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
