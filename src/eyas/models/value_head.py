"""Critics: a small MLP on hidden states, of the policy's or of a model of its own."""

from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eyas.config import CriticConfig
from eyas.errors import ConfigError
from eyas.models.adapter import VisionLanguageModel
from eyas.types import ImagePart, Message, TextPart


class ValueHead(nn.Module):
    """An MLP in float32 (RL4VLM). Starts at 0 everywhere. Without sizes it has one hidden layer, as wide as its input."""

    def __init__(self, hidden_size: int, hidden_sizes: Sequence[int] | None = None):
        super().__init__()
        sizes = [hidden_size, *((hidden_size,) if hidden_sizes is None else hidden_sizes)]
        last = nn.Linear(sizes[-1], 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        layers = [layer for n, m in pairwise(sizes) for layer in (nn.Linear(n, m), nn.Tanh())]
        self.layers = nn.Sequential(*layers, last)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (..., D) -> values float32 (...)."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.layers(hidden.float()).squeeze(-1)


class Critic(nn.Module):
    """V at a token, from the hidden state there of `model`; without a model, of the policy's.

    Starts at 0 everywhere. A model has to read the policy's token ids: `check_same_tokens`.
    """

    def __init__(self, hidden_size: int, config: CriticConfig | None = None, model: VisionLanguageModel | None = None):
        super().__init__()
        self.config = config or CriticConfig()
        self.model = model
        self.head = ValueHead(model.hidden_size if model else hidden_size, self.config.hidden_sizes)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (..., D) -> values float32 (...)."""
        return self.head(hidden.detach() if self.config.stop_gradient else hidden)


def check_same_tokens(policy: VisionLanguageModel, critic: VisionLanguageModel) -> None:
    """Raises ConfigError where a critic's model would not understand the policy's token ids."""
    images: Any = SimpleNamespace(get=lambda image_hash: np.zeros((48, 64, 3), dtype=np.uint8))

    def reads(model: VisionLanguageModel) -> tuple[object, ...]:
        picture = [] if model.vision.image_processor is None else [ImagePart("a picture")]
        ids = model.encode([Message("user", (*picture, TextPart("A question.")))], images).ids
        return model.tokenizer.get_vocab(), ids.tolist()

    if reads(policy) != reads(critic):
        raise ConfigError(
            "critic.model reads other tokens than model, or more or fewer for a picture: take one of the same family and "
            "the same image size"
        )
