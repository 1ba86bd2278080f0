"""What is wrong with a configuration, in words: one `path: message` a problem, with the nearest known name."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .algorithms.registry import PAPERS

Part = type[BaseModel]


def in_words(error: ValidationError, root: Part, kinds: Mapping[str, Part]) -> str:
    """`kinds` are the parts that the list `stages` may hold, by the kind that pydantic writes into their paths."""
    problems = _Problems(root, kinds)
    return listed([problems.describe(e) for e in error.errors() if not _is_echo(e)])


def listed(problems: Sequence[str]) -> str:
    return problems[0] if len(problems) == 1 else "\n  ".join([f"{len(problems)} problems:", *problems])


def hint(name: str, known: Iterable[str]) -> str:
    """The nearest known name, or all of them where none is near."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    if nearest:
        return f"; did you mean '{nearest[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""


class _Problems:
    def __init__(self, root: Part, kinds: Mapping[str, Part]):
        self.root, self.kinds = root, kinds

    def describe(self, detail: ErrorDetails) -> str:
        """One pydantic error as `path: message`."""
        location = detail["loc"]
        path = ".".join(str(part) for part in self._without_kind(location)) or "the recipe"
        return f"{path}: {self._message(detail, location)}"

    def _message(self, detail: ErrorDetails, location: tuple[int | str, ...]) -> str:
        match detail["type"]:
            case "extra_forbidden":
                return f"unknown key{_keyhint(str(location[-1]), self._part_at(location[:-1]))}"
            case "missing":
                return "is required"
            case "union_tag_not_found":
                return f"needs a kind, one of {', '.join(self.kinds)}"
            case "union_tag_invalid":
                context = detail.get("ctx", {})
                word, known = str(context["discriminator"]).strip("'"), re.findall(r"'(\w+)'", context["expected_tags"])
                return f"unknown {word} '{context['tag']}'{hint(context['tag'], known)}"
            case "string_pattern_mismatch" if ":" in detail.get("ctx", {}).get("pattern", ""):
                return f"should be written as module:name, not {_shortened(detail['input'])}"
            case "string_pattern_mismatch":
                wanted = "should begin with a letter and hold letters, digits, '.', '_' and '-' only"
                return f"{wanted}, not {_shortened(detail['input'])}"
            case "value_error":
                return str(detail.get("ctx", {}).get("error", detail["msg"]))
            case "too_short" | "string_too_short":
                return "should not be empty"
            case "model_type" | "model_attributes_type" | "dict_type":
                like = _as_table(detail["input"], self._part_at(location))
                return f"should be a table{like}, not {_shortened(detail['input'])}"
            case "tuple_type":
                like, advice = _as_list(detail["input"])
                return f"should be a list{like}, not {_shortened(detail['input'])}{advice}"
            case _:
                wanted = re.sub(r", (unable|got) .*", "", detail["msg"]).replace("Input should", "should")
                return f"{wanted}, not {_shortened(detail['input'])}"

    def _without_kind(self, location: tuple[int | str, ...]) -> tuple[int | str, ...]:
        """pydantic writes `stages.1.rl.lr`, with the kind as a part of the path: users write `stages.1.lr`."""
        is_stage = len(location) > 2 and location[0] == "stages" and location[2] in self.kinds
        path = location[:2] + location[3:] if is_stage else location
        return path[:3] + path[4:] if path[2:3] == ("algorithm",) else path

    def _part_at(self, location: tuple[int | str, ...]) -> Part:
        part = self.root
        for key in location:
            if key in self.kinds:
                part = self.kinds[str(key)]
            elif key in part.model_fields:
                part = _part_in(part.model_fields[str(key)].annotation) or part
            elif key in PAPERS:
                part = PAPERS[str(key)]
        return part


def _is_echo(detail: ErrorDetails) -> bool:
    """pydantic also calls a list too short when its elements are wrong: those are reported themselves."""
    return detail["type"] == "too_short" and bool(detail["input"])


def _shortened(value: Any, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def _as_table(value: Any, part: Part) -> str:
    """How a word is written that chooses among parts."""
    word = next((key for key in ("kind", "name") if key in part.model_fields), None)
    return f", as {{ {word} = {json.dumps(value)} }}" if word and isinstance(value, str) else ""


def _as_list(value: Any) -> tuple[str, str]:
    """How words are written as a list, and what to do about a shell that took their quotes."""
    if not isinstance(value, str):
        return "", ""
    words = [word.strip(" '\"") for word in value.strip("[]").split(",")]
    advice = "; on the command line put single quotes around it all" if value.startswith("[") else ""
    return f", as {json.dumps(words)}", advice


def _part_in(annotation: Any) -> Part | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _part_in(arg))), None)


def _keyhint(key: str, part: Part) -> str:
    for name, field in part.model_fields.items():
        inner = _part_in(field.annotation)
        if inner is not None and key in inner.model_fields and name not in ("tasks", "stages"):
            return f"; did you mean '{name}.{key}'?"
    return hint(key, part.model_fields)
