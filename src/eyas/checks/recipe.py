"""The smallest recipe that trains on an environment."""

import re
from typing import Any

import tomli_w

from eyas.config import InterfaceConfig, ModelConfig, TaskConfig

DEMONSTRATED_STEPS = 2000
LARGE_PICTURE, REDUCED_PICTURE = 320, 224  # pixels of the longer side
ROOM_TOKENS = 8  # beyond the longest demonstration


def short_name(env_id: str) -> str:
    """An id as a name for folders and runs: `eyas/NumberLine-v0` becomes `NumberLine-v0`."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", re.split(r"[/:]", env_id)[-1])
    return name.lstrip("._-") or "environment"


def fitted(interface: InterfaceConfig, picture_side: int, written_tokens: int) -> InterfaceConfig:
    """Reduces large pictures, so that a dataset has some hundred MB at most, and gives room for what experts write."""
    changes: dict[str, Any] = {}
    if picture_side > LARGE_PICTURE and interface.image_size is None:
        changes["image_size"] = REDUCED_PICTURE
    if written_tokens > interface.max_new_tokens:
        changes["max_new_tokens"] = written_tokens + ROOM_TOKENS
    return interface.model_copy(update=changes)


def minimal_recipe(task: TaskConfig, model: ModelConfig, has_expert: bool, mean_length_steps: float) -> str:
    """TOML: demonstrations, a warm start that teaches the format, reinforcement learning, and an evaluation.

    Long episodes make fewer demonstrations.
    """
    episodes = max(10, min(200, round(DEMONSTRATED_STEPS / max(1.0, mean_length_steps))))
    stages: list[dict[str, Any]] = [
        {"kind": "collect", "policy": "expert" if has_expert else "random", "episodes": episodes},
        {"kind": "sft", "steps": 200},
        {"kind": "rl", "iterations": 20, "num_envs": 32, "rollout_steps": 8},
        {"kind": "eval", "episodes": episodes},
    ]
    parts = [
        tomli_w.dumps({"name": short_name(task.env).lower()}),
        _table("[model]", {"name": model.name, **model.model_dump(exclude_defaults=True, exclude={"name"})}),
        _table("[[tasks]]", task.model_dump(mode="json", exclude_defaults=True, exclude_none=True, by_alias=True)),
        *(_table("[[stages]]", stage) for stage in stages),
    ]
    return "\n".join(parts)


def _table(header: str, content: dict[str, Any]) -> str:
    """A table and those inside it, whose headers get the name of the outer one in front."""
    name = header.strip("[]")
    return f"{header}\n" + re.sub(r"^(\[+)", rf"\1{name}.", tomli_w.dumps(content), flags=re.MULTILINE)
