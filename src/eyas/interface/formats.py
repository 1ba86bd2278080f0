"""The formats by name: JSON as in RL4VLM, the action's words alone, and VAGEN's tags."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from eyas.errors import ConfigError
from eyas.interface.answers import Format, failure_without_action, is_cut, shortened
from eyas.interface.tags import (
    ThinkFormat,
    ThinkObservationFormat,
    ThinkObservationPredictionFormat,
    ThinkPredictionFormat,
)
from eyas.types import Completion, FailureReason, ParseFailure, ParseResult, StopRule

__all__ = [
    "FORMATS",
    "JSON_STOP",
    "Format",
    "JsonFormat",
    "PlainFormat",
    "ThinkFormat",
    "is_complete_json",
    "register_format",
]

_ACTION_KEY = re.compile(r'"action"\s*:')
_VALUE = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,}"]+))')

# ----------------------------------------------------------------------------------------------- JSON


def is_complete_json(text: str) -> bool:
    """Whether the first JSON object in the text has been closed."""
    depth, is_string, is_escaped = 0, False, False
    for character in text:
        if is_escaped:
            is_escaped = False
        elif is_string:
            is_escaped = character == "\\"
            is_string = character != '"'
        elif character == '"':
            is_string = depth > 0
        elif character == "{":
            depth += 1
        elif character == "}" and depth:
            depth -= 1
            if depth == 0:
                return True
    return False


def _has_action_key(text: str) -> bool:
    return _ACTION_KEY.search(text) is not None or is_complete_json(text)


JSON_STOP = StopRule("}", is_complete_json)
JSON_HEAD = StopRule(":}", _has_action_key)  # a closed object without an action ends the sampling too


@dataclass(frozen=True)
class JsonFormat(Format):
    """RL4VLM's answer: a JSON object with the facts read from the picture, thoughts, then the action.

    Without thoughts the object holds the action alone. Parse rule of the original: what stands after `"action":`
    names exactly one action. Here the quoted value is matched first, so that "10" is never read as "1".
    """

    stop: StopRule | None = field(default=JSON_STOP, repr=False)
    head: ClassVar[StopRule | None] = JSON_HEAD

    def __post_init__(self) -> None:
        if {"thoughts", "action"} & set(self.fact_keys):
            raise ConfigError(
                f'"thoughts" and "action" are keys of the answer itself: rename the facts {self.fact_keys}'
            )

    def instruction(self) -> str:
        actions, remark = '"..."', f". The action is {self.codec.describe()}."
        if self._is_listed():
            actions, remark = " or ".join(_quoted(n) for n in self.codec.names), ""
        if not self.thoughts:
            return f'Answer in JSON: {{"action": {actions}}}{remark}'
        facts = "".join(f'"{k}": "...", ' for k in self.fact_keys)
        return f'Answer in JSON: {{{facts}"thoughts": "...", "action": {actions}}}{remark}'

    def write(self, action: Any, facts: Mapping[str, str], thought: str) -> str:
        answer: dict[str, str] = {}
        if self.thoughts:
            answer = {k: facts[k] for k in self.fact_keys} | {"thoughts": thought}
        return json.dumps(answer | {"action": self.codec.write(action)}, ensure_ascii=False)

    def parse(self, completion: Completion, legal: Sequence[Any] | None = None) -> ParseResult:
        """The action in the text, or why there is none. `action_start` is where the action key begins."""
        text = completion.text
        keys = list(_ACTION_KEY.finditer(text))
        if not keys:
            return failure_without_action(text, is_cut(completion))
        start, tail = keys[-1].start(), text[keys[-1].end() :]
        readings = self._readings(tail, is_cut(completion))
        if not readings:
            return ParseFailure(FailureReason.CUT_OFF, shortened(tail), start)
        return self._read(readings, legal, start, _json_thought(text[:start]), self._facts(text[:start]))

    def _readings(self, tail: str, was_cut: bool) -> list[str]:
        """What the text after the key may mean, the likeliest first; nothing where it was cut before it was whole."""
        value, names = _VALUE.match(tail), {n.strip().casefold() for n in self.codec.names}
        if value and value[1] is not None:
            # words mentioned outside the quotes count too, but free text in them is meant as it stands
            return [_unescape(value[1]), *([tail] if names else [])]
        bare, brace, _ = tail.partition("}")
        is_name = value is not None and value[2].casefold() in names
        if was_cut and not (value and brace):
            return [value[2]] if value and is_name and value.end() < len(tail) else []
        if not names:
            return [bare]
        return [value[2], tail] if value and is_name else [tail]

    def _begun(self, head: str) -> str | None:
        keys = list(_ACTION_KEY.finditer(head))
        return head[keys[-1].end() :] if keys else None

    def _ending(self, action: Any) -> str:
        return f" {_quoted(self.codec.write(action))}}}"

    def _facts(self, head: str) -> dict[str, str]:
        facts = {}
        for key in self.fact_keys:
            match = re.search(re.escape(_quoted(key)) + r"\s*:" + _VALUE.pattern, head)
            if match:
                facts[key] = _unescape(match[1]) if match[1] is not None else match[2]
        return facts


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json_thought(head: str) -> str:
    match = re.search(r'"thoughts"\s*:\s*"((?:[^"\\]|\\.)*)"', head)
    return _unescape(match[1]) if match else head.strip("{, \t\r\n")


def _unescape(text: str) -> str:
    try:
        # half of a surrogate pair is no text that could be stored
        return json.loads(f'"{text}"', strict=False).encode("utf-8", "replace").decode("utf-8")
    except json.JSONDecodeError:
        return text


# ----------------------------------------------------------------------------------------------- the words alone


@dataclass(frozen=True)
class PlainFormat(Format):
    """The words of the action and nothing else, on the first line. Facts and thoughts are never asked for."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "fact_keys", ())
        object.__setattr__(self, "thoughts", False)
        broken = [n for n in self.codec.names if "\n" in n]
        if broken:
            raise ConfigError(f"the plain format reads one line, and actions have line breaks: rename {broken}")

    def instruction(self) -> str:
        return f"Answer with the action only: {self._in_words()}."

    def write(self, action: Any, facts: Mapping[str, str], thought: str) -> str:
        return self.codec.write(action)

    def parse(self, completion: Completion, legal: Sequence[Any] | None = None) -> ParseResult:
        """The action that the first line names; one that was cut may have gone on."""
        text = completion.text.strip()
        line, end, _ = text.partition("\n")
        start = completion.text.find(line)
        if not line or (is_cut(completion) and not end):
            return failure_without_action(completion.text, is_cut(completion), start if line else -1)
        return self._read([line], legal, start)


# ----------------------------------------------------------------------------------------------- by name

# Each is called with codec, fact keys and thoughts.
FORMATS: dict[str, Callable[..., Format]] = {
    "json": JsonFormat,
    "plain": PlainFormat,
    "think": ThinkFormat,
    "think_observation": ThinkObservationFormat,
    "think_prediction": ThinkPredictionFormat,
    "think_observation_prediction": ThinkObservationPredictionFormat,
}

Factory = TypeVar("Factory", bound=Callable[..., Format])


def register_format(name: str) -> Callable[[Factory], Factory]:
    """Makes a class or function a format that is chosen by name; it is called with codec, fact keys and thoughts."""

    def register(factory: Factory) -> Factory:
        FORMATS[name] = factory
        return factory

    return register
