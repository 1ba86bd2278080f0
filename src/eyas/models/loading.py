"""Models by name: built in, from a folder, from the hub, or the base and adapters of a checkpoint."""

import difflib
import inspect
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError

from eyas.config import ModelConfig
from eyas.errors import CheckpointError, ConfigError, ModelError
from eyas.models.adapter import VisionLanguageModel
from eyas.models.nano import build_nano, load_nano
from eyas.models.parameters import choose_parameters, quantisation, read_adapters
from eyas.models.policy import BASE_FILE
from eyas.models.processors import load_processor

BUILT_IN = {"nano": load_nano, "nano-random": build_nano}


def build_model(config: ModelConfig) -> tuple[VisionLanguageModel, ModelConfig]:
    """The model, with what is to learn of it, on the device; and the configuration that builds it from its base.

    Raises ConfigError, ModelError or CheckpointError, saying what to type.
    """
    folder = Path(config.name).expanduser()
    has_base = (folder / BASE_FILE).exists()
    resolved = _base_of(folder, config) if has_base else config
    if resolved.name in BUILT_IN:
        model, processor = _built_in(resolved)
    else:
        if Path(resolved.name).expanduser().is_dir():  # adapters that are saved point to it, from any folder
            resolved = resolved.model_copy(update={"name": str(Path(resolved.name).expanduser().resolve())})
        model, processor = _pretrained(resolved)
    choose_parameters(model, resolved)
    if has_base:
        read_adapters(model, folder)()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return VisionLanguageModel(model, processor).to(device), resolved


def _base_of(folder: Path, config: ModelConfig) -> ModelConfig:
    """What a checkpoint of adapters was made with, and what of `config` does not belong to them."""
    file = folder / BASE_FILE
    if config.options or config.image_size is not None:
        raise ConfigError("model.options and model.image_size are those of the adapters' base: remove them")
    try:
        base = ModelConfig.model_validate_json(file.read_text())
    except ValidationError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if config.train != "full" and (config.lora, set(config.freeze)) != (base.lora, set(base.freeze)):
        raise ConfigError(
            f"{config.name} holds adapters made with model.lora = {base.lora.model_dump()} and model.freeze = "
            f"{list(base.freeze)}: write the same"
        )
    here = {k: getattr(config, k) for k in ("dtype", "trust_remote_code", "gradient_checkpointing")}
    here |= {k: getattr(config, k) for k in ("compute_dtype", "sampling_dtype")}
    return base.model_copy(update=here | ({"train": config.train} if config.train != "full" else {}))


def _built_in(config: ModelConfig) -> tuple[Any, Any]:
    options = dict(config.options)
    if config.image_size is not None:
        options["image_size"] = config.image_size
    build = BUILT_IN[config.name]
    known = list(inspect.signature(build).parameters)
    for key in options:
        if key not in known:
            raise ConfigError(f"model.options.{key}: {_why_unknown(key, known)}")
    try:
        model, processor = build(**({"seed": config.seed} if "seed" in known else {}) | options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"model.options {options} cannot be built: {error}") from error
    if config.train == "qlora":
        with TemporaryDirectory() as folder:  # weights are quantised while they are read
            model.save_pretrained(folder)
            model = type(model).from_pretrained(folder, **quantisation())
    model.name_or_path = config.name
    return model.to(getattr(torch, config.dtype)) if config.train != "qlora" else model, processor


def _why_unknown(key: str, known: list[str]) -> str:
    if key in inspect.signature(build_nano).parameters:
        return "fixed by the pretrained weights of nano: remove it, or set model.name = 'nano-random'"
    nearest = difflib.get_close_matches(key, known, n=1)
    return "unknown key" + (f"; did you mean '{nearest[0]}'?" if nearest else f"; known: {', '.join(known)}")


def _pretrained(config: ModelConfig) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    if config.options or config.image_size is not None:
        raise ConfigError("model.options and model.image_size are arguments of a built-in model: remove them")
    remote = {"trust_remote_code": config.trust_remote_code}
    folder = Path(config.name).expanduser()
    name = str(folder.resolve()) if folder.is_dir() else config.name  # which adapters that are saved point to
    options = remote | {"dtype": getattr(torch, config.dtype)} | (quantisation() if config.train == "qlora" else {})
    try:
        try:
            model = AutoModelForImageTextToText.from_pretrained(name, **options)
            processor = load_processor(name, **remote)
        except ValueError as error:
            if "nrecognized configuration class" not in str(error):
                raise
            model = AutoModelForCausalLM.from_pretrained(name, **options)
            processor = AutoTokenizer.from_pretrained(name, **remote)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(
            f"'{config.name}' cannot be loaded ({str(error).splitlines()[0]}): type a built-in name (nano, nano-random), a "
            "folder that holds a model, or a Hugging Face id that this machine can reach"
        ) from error
    return model, processor
