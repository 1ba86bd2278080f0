"""A policy: the model, the sampler that reads from it, and its critic."""

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from eyas.batch import TrainingBatch, TrainingSample
from eyas.config import CriticConfig, ModelConfig
from eyas.errors import CheckpointError
from eyas.models.adapter import EncodedPrompt, VisionLanguageModel
from eyas.models.parameters import check_same_shapes, has_adapters, read_adapters, save_adapters
from eyas.models.reading import batch_of, read
from eyas.models.value_head import Critic, ValueHead
from eyas.splits import parts
from eyas.types import Completion, ImageStore, Message, Sampler, SampleRequest

VALUE_HEAD_FILE = "value_head.safetensors"
POLICY_FILE = "eyas_policy.json"
BASE_FILE = "eyas_base.json"  # of adapters: the ModelConfig that builds what they belong to
CRITIC_FOLDER = "critic"
MOST_ROWS, MOST_TOKENS = 64, 2**16  # of one pass over texts for their values


class Policy:
    """`version` counts the updates behind the weights; every cache of theirs is keyed by it."""

    def __init__(
        self,
        model: VisionLanguageModel,
        sampler: Sampler,
        images: ImageStore,
        version: int = 0,
        critic: Critic | None = None,
        config: ModelConfig | None = None,
    ):
        self.model = model
        self.critic = (critic or Critic(model.hidden_size)).to(model.device)
        self.sampler = sampler
        self.images = images
        self.version = version
        self.config = config or ModelConfig()

    @property
    def value_head(self) -> ValueHead:
        return self.critic.head

    def sample(self, requests: Sequence[SampleRequest]) -> list[Completion]:
        self.sampler.policy_version = self.version
        if hasattr(self.sampler, "critic"):
            self.sampler.critic = self.critic if self._samples_as_it_learns else None  # type: ignore[attr-defined]
        with self._autocast(self.config.sampling_dtype):
            return self.sampler.sample(requests)

    def fits(self, messages: Sequence[Message], max_new_tokens: int) -> bool:
        """Whether prompt and completion fit into the model's context."""
        return len(self.model.encode(messages, self.images).ids) + max_new_tokens <= self.model.context

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of an update's passes: products in `compute_dtype`, weights and sums in float32."""
        return self._autocast(self.config.compute_dtype)

    def _autocast(self, dtype: str) -> AbstractContextManager[object]:
        return torch.autocast(self.model.device.type, getattr(torch, dtype), enabled=dtype != "float32")

    # ------------------------------------------------------------------------------------- values

    def batch_values(self, batch: TrainingBatch, hidden: Tensor) -> Tensor:
        """V as the critic's level asks for it: float32 (S,) at the last prompt tokens, or (N,) before every element.

        `hidden` are the policy's own hidden states of the batch (B, T, D), which a critic model does not look at.
        """
        if self.critic.model is not None:
            hidden = read(self.critic.model, self.images, batch)
        if self.critic.config.level == "token":
            return self.critic(hidden[batch.token_rows, batch.token_columns])
        return self.critic(hidden[batch.step_rows, batch.step_columns])

    @torch.inference_mode()
    def values(self, texts: Sequence[EncodedPrompt], columns: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """V at the given tokens of each text: float32 arrays, as long as the text's columns. Equal texts are read once."""
        keys = [(t.key, tuple(c)) for t, c in zip(texts, columns, strict=True)]
        distinct = dict(zip(keys, texts, strict=True))
        result = self._read_before(distinct)
        todo = sorted((key for key in distinct if key not in result), key=lambda key: len(distinct[key].ids))
        while todo:
            size = max(1, min(MOST_ROWS, MOST_TOKENS // len(distinct[todo[-1]].ids)))
            part, todo = todo[:size], todo[size:]
            samples = [TrainingSample(distinct[k].ids, distinct[k].image_hashes, ()) for k in part]
            hidden = self._read(batch_of(self.model, self.images, samples))
            rows = torch.tensor([row for row, key in enumerate(part) for _ in key[1]], device=self.model.device)
            places = torch.tensor([c for key in part for c in key[1]], device=self.model.device)
            values = self.critic(hidden[rows, places]).cpu().numpy()
            ends = np.cumsum([len(key[1]) for key in part])[:-1]
            result.update(zip(part, np.split(values, ends), strict=True))
        return [result[key] for key in keys]

    def _read_before(self, texts: Mapping[Any, EncodedPrompt]) -> dict[Hashable, np.ndarray]:
        """The values of those texts that are prompts which the sampler read with these very weights."""
        known = getattr(self.sampler, "prompt_values", {}) if self.sampler.policy_version == self.version else {}
        ends = {key: text for key, text in texts.items() if key[1] == (len(text.ids) - 1,)}
        return {key: np.array([known[t.key]], np.float32) for key, t in ends.items() if t.key in known}

    @torch.inference_mode()
    def token_values(self, samples: Sequence[TrainingSample]) -> list[np.ndarray]:
        """V before each element of each sample's completions, as `SampleStep.num_elements` counts them: float32 arrays."""
        result: dict[int, np.ndarray] = {}
        longest = max((len(s.ids) for s in samples), default=1)
        for part in parts(samples, max(1, min(MOST_ROWS, MOST_TOKENS // longest))):
            batch = batch_of(self.model, self.images, [samples[i] for i in part])
            values = self.critic(self._read(batch)[batch.token_rows, batch.token_columns]).cpu().numpy()
            counts = [sum(step.num_elements for step in samples[i].steps) for i in part]
            result.update(zip(part, np.split(values, np.cumsum(counts)[:-1]), strict=True))
        return [result[i] for i in range(len(samples))]

    def _read(self, batch: TrainingBatch) -> Tensor:
        """The hidden states that the critic looks at, in an update's precision."""
        with self.autocast():
            version = self.version if self._samples_as_it_learns else None
            return read(self.critic.model or self.model, self.images, batch, version)

    @property
    def _samples_as_it_learns(self) -> bool:
        """Whether what the sampler read is as good as what the critic reads: the same model, in the same precision."""
        return self.critic.model is None and self.config.sampling_dtype == self.config.compute_dtype

    # ------------------------------------------------------------------------------------- other weights

    def trained_weights(self) -> dict[str, Tensor]:
        """Copies of those weights of the model that learn, by name: with adapters only theirs."""
        return {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}

    @contextmanager
    def using(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Lets the model have weights that `trained_weights` gave, such as a reference's, for passes of the learner.

        Nothing is copied. What is sampled meanwhile may come from caches of the policy's own weights.
        """
        self.model.vision.forget()
        own = {n: p.data for n, p in self.model.named_parameters() if n in weights}
        parameters = dict(self.model.named_parameters())
        try:
            for name, weight in weights.items():
                parameters[name].data = weight
            yield
        finally:
            for name, weight in own.items():
                parameters[name].data = weight
            self.model.vision.forget()

    # ------------------------------------------------------------------------------------- saving and loading

    def save(self, folder: Path) -> None:
        """The model, or its adapters, as Hugging Face and peft store them; beside it the critic and the version."""
        _save(self.model, folder)
        if has_adapters(self.model.model):
            (folder / BASE_FILE).write_text(self.config.model_dump_json(indent=1))
        if self.critic.model is not None:
            _save(self.critic.model, folder / CRITIC_FOLDER)
        save_file(self.value_head.state_dict(), folder / VALUE_HEAD_FILE)
        critic = self.critic.config.model_dump(mode="json", include={"kind", "hidden_sizes"})
        (folder / POLICY_FILE).write_text(json.dumps({"version": self.version, "critic": critic}))

    def load_weights(self, folder: Path, with_critic: bool = True) -> None:
        """Takes the weights of a checkpoint of the same architecture, in place, or nothing and raises CheckpointError."""
        loads: list[Callable[[], object]] = [_loading(self.model, folder)]
        try:
            version = int(json.loads((folder / POLICY_FILE).read_text())["version"])
            value_head = load_file(folder / VALUE_HEAD_FILE)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"{folder} holds no readable policy: {error}") from error
        if with_critic:
            check_same_shapes(folder, self.value_head.state_dict(), value_head)
            if self.critic.model is not None:
                loads += [_loading(self.critic.model, folder / CRITIC_FOLDER), self.critic.model.vision.forget]
            loads.append(lambda: self.value_head.load_state_dict(value_head))
        for load in loads:
            load()
        self.version = version
        self.sampler.forget()  # two checkpoints may have the same number of updates behind them


def _save(model: VisionLanguageModel, folder: Path) -> None:
    if has_adapters(model.model):
        save_adapters(model.model, folder)
        model.processor.save_pretrained(folder)
    else:
        model.save(folder)


def _loading(model: VisionLanguageModel, folder: Path) -> Callable[[], object]:
    """Reads and checks the weights in a folder; what is returned puts them in place."""
    if has_adapters(model.model):
        return read_adapters(model.model, folder)
    try:
        # through the class: large models are saved in several files, and some under other names
        loaded, found = type(model.model).from_pretrained(folder, dtype="auto", output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} holds no readable policy: {error}") from error
    weights = {k: v for k, v in loaded.state_dict().items() if k not in found["missing_keys"]}
    check_same_shapes(folder, model.model.state_dict(), weights)
    return lambda: model.model.load_state_dict(weights)


def saved_critic(folder: Path) -> CriticConfig:
    """The kind and layers of a checkpoint's critic. Raises CheckpointError."""
    try:
        return CriticConfig.model_validate(json.loads((folder / POLICY_FILE).read_text()).get("critic", {}))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / POLICY_FILE} cannot be read: {error}") from error
