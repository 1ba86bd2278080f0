"""What families of models really need beyond the generic path, one small declaration each.

A model of a type that is not named here takes the generic path: `eyas model check` says whether that is right for it.
"""

from dataclasses import dataclass, replace
from typing import Any

# PaliGemma's processor writes BOS and the line's end itself; it has no template, and wants the pictures first.
PALIGEMMA_TEMPLATE = (
    "{% for m in messages %}{% for p in m['content'] if p['type'] == 'image' %}<image>{% endfor %}{% endfor %}"
    "{% for m in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}"
    "{% for p in m['content'] if p['type'] == 'text' %}{{ p['text'] }}{% endfor %}{% endfor %}"
)


@dataclass(frozen=True)
class Family:
    """What a family of models supports, and how it departs from a causal decoder with rotary positions."""

    name: str
    model_types: tuple[str, ...] = ()
    is_causal: bool = (
        True  # False: a prompt attends both ways over all of it, so what it begins with depends on its end
    )
    has_slots: bool = True  # keys may stand in any column of a cache: no sliding window, no mask made from columns
    marks_images: bool = False  # its forward wants `token_type_ids`, 1 at picture tokens
    tiles_lone_pictures: bool = False  # a picture alone in its prompt is read in tiles, among several it is not
    first_position: int = 0
    chat_template: str | None = None  # of models that come without one

    @property
    def reuses_prefixes(self) -> bool:
        """Whether what was read once serves every sequence that begins with it: in the sampler, and in the update."""
        return self.is_causal and self.has_slots and not self.tiles_lone_pictures

    @property
    def splices_turns(self) -> bool:
        """Whether a turn's ids do not depend on what follows it; else whole prompts are tokenised anew."""
        return self.is_causal and not self.tiles_lone_pictures

    @property
    def supports(self) -> dict[str, bool]:
        """The optimisations, by the name under which they are shown."""
        return {
            "slots": self.has_slots and self.is_causal,
            "prefix reuse": self.reuses_prefixes,
            "shared prompts": self.reuses_prefixes,
            "merged conversations": self.splices_turns,
            "action scoring": self.has_slots and self.is_causal,
            "feature cache": True,
        }


GENERIC = Family("generic")

FAMILIES = (
    Family("SmolVLM, Idefics3", ("smolvlm", "idefics3")),
    Family("Qwen-VL", ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")),  # three axes of positions: from `get_rope_index`
    Family("LLaVA", ("llava",)),
    Family("LLaVA-OneVision", ("llava_onevision",), tiles_lone_pictures=True),
    Family("InternVL", ("internvl",)),
    Family("Gemma 3", ("gemma3",), has_slots=False, marks_images=True),  # each picture attends both ways in itself
    Family(
        "PaliGemma",
        ("paligemma",),
        is_causal=False,
        has_slots=False,
        first_position=1,
        chat_template=PALIGEMMA_TEMPLATE,
    ),
    Family("text only", ("llama", "qwen2", "qwen3", "smollm3", "gemma3_text")),
)


def family_of(config: Any) -> Family:
    """The declaration for a Hugging Face configuration; the generic one where there is none.

    A sliding window, or layers that are no plain attention, take its slots from any family.
    """
    found = next((f for f in FAMILIES if config.model_type in f.model_types), GENERIC)
    text = getattr(config, "text_config", config)
    layers = getattr(text, "layer_types", None)
    if layers is None:
        layers = ["sliding_attention"] if getattr(text, "sliding_window", None) else []
    return found if all(kind == "full_attention" for kind in layers) else replace(found, has_slots=False)
