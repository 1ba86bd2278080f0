"""Critics on the policy's hidden states."""

from torch import Tensor, nn


class ValueHead(nn.Module):
    """An MLP on the hidden state of the last prompt token (RL4VLM). Starts at 0 everywhere."""

    def __init__(self, hidden_size: int):
        super().__init__()
        last = nn.Linear(hidden_size, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.Tanh(), last)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (..., D) -> values float32 (...)."""
        return self.layers(hidden.float()).squeeze(-1)
