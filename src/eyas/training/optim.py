"""AdamW with a warm-up and a schedule; the critic has a learning rate of its own, and may learn first."""

from collections.abc import Iterable
from math import cos, pi
from typing import Any

import torch
from torch import nn

from eyas.config import OptimConfig
from eyas.models.parameters import require_bitsandbytes


def learning_rate_factor(step: float, total_steps: int, warmup_steps: int, schedule: str, final_share: float) -> float:
    """The share of the full learning rate at a step (from 0): linear warm-up, then constant, linear or cosine decay."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant" or total_steps <= warmup_steps:
        return 1.0
    progress = min((step - warmup_steps) / (total_steps - warmup_steps), 1.0)
    remaining = 1 - progress if schedule == "linear" else 0.5 * (1 + cos(pi * progress))
    return final_share + (1 - final_share) * remaining


class Optimizer:
    """AdamW over policy and critic with gradient clipping. Weight decay spares vectors (norms and biases).

    Frozen parameters are not in it. In the first `critic_warmup` steps the policy stays as it is.
    """

    def __init__(
        self, model: nn.Module, critic: nn.Module, config: OptimConfig, total_steps: int, critic_warmup: int = 0
    ):
        self.config = config
        self.total_steps = total_steps
        self.critic_warmup = critic_warmup
        self.steps = 0
        self.progress: float | None = None  # share of the stage that is done, where the number of updates is not known
        head_lr = config.lr if config.lr_value_head is None else config.lr_value_head
        parts = ((model, config.lr), (critic, head_lr))
        groups = [group for module, lr in parts for group in _groups(module.parameters(), lr, config.weight_decay)]
        self.parameters = [p for g in groups for p in g["params"]]
        self.of_policy = [p for p in model.parameters() if p.requires_grad]
        self.adamw = _adamw(groups, config)

    @property
    def learning_rate(self) -> float:
        """Of the model, at the next step."""
        c = self.config
        position = self.steps if self.progress is None else self.progress * self.total_steps
        return c.lr * learning_rate_factor(position, self.total_steps, c.warmup_steps, c.schedule, c.final_lr_share)

    def zero_grad(self) -> None:
        self.adamw.zero_grad(set_to_none=True)

    def clip(self) -> float:
        """Scales the gradient to the largest allowed norm; returns the norm before."""
        if self.steps < self.critic_warmup:
            for parameter in self.of_policy:
                parameter.grad = None
        return float(nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm))

    def step(self) -> None:
        factor = self.learning_rate / self.config.lr
        for group in self.adamw.param_groups:
            group["lr"] = group["full_lr"] * factor
        self.adamw.step()
        self.steps += 1

    def skip(self) -> None:
        """Lets a refused update count in the schedule, without touching weights or moments."""
        self.zero_grad()
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"adamw": self.adamw.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adamw.load_state_dict(state["adamw"])
        self.steps = state["steps"]


def _adamw(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=config.betas, fused=True)
    require_bitsandbytes("optim.optimizer = 'adamw_8bit'")
    from bitsandbytes.optim.adamw import AdamW8bit

    return AdamW8bit(groups, betas=config.betas)


def _groups(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    trained = [p for p in parameters if p.requires_grad]
    matrices, vectors = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
    return [
        {"params": matrices, "lr": lr, "full_lr": lr, "weight_decay": weight_decay},
        {"params": vectors, "lr": lr, "full_lr": lr, "weight_decay": 0.0},
    ]
