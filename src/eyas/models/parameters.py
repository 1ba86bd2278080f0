"""What of a model learns: frozen parts, adapters of low rank, and layers that are computed again to save memory."""

import importlib.util
import logging
from collections.abc import Callable
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from eyas.config import ModelConfig
from eyas.errors import CheckpointError, ConfigError, ModelError
from eyas.model_config import LoRAConfig

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # warns of a fast path that is off here
ADAPTER_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."  # of the names in peft's files


def choose_parameters(model: Any, config: ModelConfig) -> None:
    """Freezes parts, or all but the adapters that it adds; lets layers be computed again. In place, seeded by `config.seed`.

    Adapters are float32 whatever the weights are, are never merged into these, and have no dropout, so that sampler
    and learner see one function. Raises ModelError where a part or a layer that is named does not exist.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes' fast path of eval mode: rounds the weights' scales for good, and is not what learning computes
            module.support_avx512bf16_for_cpu = False
    of_parts = parts(model) if config.freeze else {}
    for part in config.freeze:
        if not of_parts[part]:
            raise ModelError(f"the model has no {part} part: leave it out of model.freeze")
    frozen = {id(p) for part in config.freeze for p in of_parts[part]}
    for parameter in model.parameters():
        if id(parameter) in frozen:
            parameter.requires_grad_(False)
    if config.train != "full":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            _add_adapters(model, config, frozen)
    if config.gradient_checkpointing:
        _compute_layers_again(model)


def parts(model: Any) -> dict[str, list[nn.Parameter]]:
    """The parameters of each part: embeddings (input and output), language (the decoder), vision (all the rest)."""
    tokens = [m for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None]
    embeddings = {id(p) for m in tokens for p in m.parameters()}
    decoder = {id(p) for p in model.get_decoder().parameters()} - embeddings
    found: dict[str, list[nn.Parameter]] = {"vision": [], "language": [], "embeddings": []}
    for p in model.parameters():
        found["embeddings" if id(p) in embeddings else "language" if id(p) in decoder else "vision"].append(p)
    return found


def require_bitsandbytes(what: str) -> None:
    """Raises ConfigError where the package is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"{what} needs the package bitsandbytes: `pip install 'eyas[quantize]'`")


def quantisation() -> dict[str, Any]:
    """The arguments of `from_pretrained` that store linear weights in 4 bits (QLoRA, Dettmers et al. 2023)."""
    require_bitsandbytes("model.train = 'qlora'")
    from transformers import BitsAndBytesConfig

    # products in float32, or in what autocast says: sampler and learner agree
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
    }


# ----------------------------------------------------------------------------------------------- adapters


def _add_adapters(model: Any, config: ModelConfig, frozen: set[int]) -> None:
    from peft import LoraConfig

    layers = _layers(model, config.lora)
    kept = [name for name, layer in layers.items() if not any(id(p) in frozen for p in layer.parameters())]
    for part in config.freeze:
        of_part = {id(p) for p in parts(model)[part]}
        if not any(id(p) in of_part for layer in layers.values() for p in layer.parameters()):
            raise ModelError(f"model.freeze = '{part}' does nothing: no adapter of model.lora is in that part")
    if not kept:
        raise ModelError("model.freeze leaves no layer for an adapter: freeze less, or set model.train = 'full'")
    model.add_adapter(
        LoraConfig(r=config.lora.rank, lora_alpha=config.lora.alpha, lora_dropout=0.0, target_modules=kept)  # type: ignore[arg-type]
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()


def _layers(model: Any, config: LoRAConfig) -> dict[str, nn.Module]:
    """The layers that get an adapter, by name."""
    named = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Embedding)}
    if config.targets == "all-linear":
        output = model.get_output_embeddings()
        return {n: m for n, m in named.items() if isinstance(m, nn.Linear) and m is not output}
    found: dict[str, nn.Module] = {}
    for target in config.targets:
        alike = {n: m for n, m in named.items() if n == target or n.endswith(f".{target}")}
        if not alike:
            known = ", ".join(sorted({n.rpartition(".")[2] for n in named}))
            raise ModelError(f"model.lora.targets: no layer is called '{target}'; known: {known}")
        found |= alike
    return found


def has_adapters(model: Any) -> bool:
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def save_adapters(model: Any, folder: Path) -> None:
    """As peft stores them. The library's own way asks the hub about the base at every save."""
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({_PREFIX + name: weight.contiguous() for name, weight in weights.items()}, folder / ADAPTER_FILE)
    model.peft_config["default"].save_pretrained(folder)


def read_adapters(model: Any, folder: Path) -> Callable[[], Any]:
    """Reads adapters that were saved, or raises CheckpointError; what is returned puts them in place."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    try:
        weights = {k.removeprefix(_PREFIX): v for k, v in load_file(folder / ADAPTER_FILE).items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} holds no readable adapters: {error}") from error
    check_same_shapes(folder, get_peft_model_state_dict(model, save_embedding_layers=False), weights)
    return partial(set_peft_model_state_dict, model, weights)


def check_same_shapes(folder: Path, own: dict[str, Any], loaded: dict[str, Any]) -> None:
    missing = sorted(set(own) - set(loaded))
    unknown = sorted(set(loaded) - set(own))
    different = [k for k in loaded if k in own and loaded[k].shape != own[k].shape]
    if missing or unknown or different:
        raise CheckpointError(
            f"{folder} holds another model: missing {missing[:3]}, unknown {unknown[:3]}, of other shape {different[:3]}"
        )


# ----------------------------------------------------------------------------------------------- memory


def _compute_layers_again(model: nn.Module) -> None:
    """The library's own switch does nothing in eval mode, in which everything here runs."""
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            index: Any = next((m.layer_idx for m in layer.modules() if hasattr(m, "layer_idx")), None)
            layer.forward = partial(_checkpointed, layer.forward, index)
            layer.gradient_checkpointing = True  # only says so


def _checkpointed(forward: Callable[..., Any], index: int | None, *args: Any, **options: Any) -> Any:
    cache: Any = options.get("past_key_values")
    if not torch.is_grad_enabled() or (cache is not None and index is None):
        return forward(*args, **options)
    kept: Any = [] if cache is None else cache.layers
    before = copy(kept[index]) if kept else None

    def compute(*inputs: Any) -> Any:
        if before is not None:  # a second pass appends to what was there before the first one
            kept[index] = copy(before)
        return forward(*inputs, **options)

    return checkpoint(compute, *args, use_reentrant=False)
