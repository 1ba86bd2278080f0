"""Processors of Hugging Face models, also where what they need for videos is not installed."""

import sys
from typing import Any

from transformers import AutoConfig, AutoProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING


def load_processor(name: str, **options: Any) -> Any:
    """`AutoProcessor.from_pretrained`; where its part for videos cannot be made, the processor without it.

    That part needs torchvision, and is missing from what such a processor has saved.
    """
    try:
        return AutoProcessor.from_pretrained(name, **options)
    except (ImportError, OSError, ValueError):
        processor_class: Any = PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(name, **options)), None)
        if processor_class is None or "video_processor" not in processor_class.get_attributes():
            raise
        return without_videos(processor_class).from_pretrained(name, **options)


def without_videos(processor_class: Any) -> Any:
    """The class without its video processor, under its own name: what it saves, the library loads."""
    module = sys.modules[processor_class.__module__]
    if getattr(module, "num2words", True) is None:
        module.num2words = str  # type: ignore[attr-defined]  # asked for by __init__, used for videos alone

    attributes = processor_class.get_attributes()

    def without(cls: Any) -> list[str]:
        return [a for a in attributes if "video" not in a]

    def arguments(cls: Any, *args: Any, **options: Any) -> list[Any]:
        found = iter(super(made, cls)._get_arguments_from_pretrained(*args, **options))
        return [None if "video" in a else next(found) for a in attributes]

    members = {"get_attributes": classmethod(without), "_get_arguments_from_pretrained": classmethod(arguments)}
    made = type(processor_class.__name__, (processor_class,), members)
    return made
