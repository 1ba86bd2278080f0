"""Action formats: the instruction in the prompt, the parser of what comes back and the writer of demonstrations, in one object."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from eyas.errors import ConfigError
from eyas.types import Completion, FailureReason, FinishReason, ParsedAction, ParseFailure, ParseResult, StopRule

_ACTION_KEY = re.compile(r'"action"\s*:')
_VALUE = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,}"]+))')


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


JSON_STOP = StopRule("}", is_complete_json)


@dataclass(frozen=True)
class JsonFormat:
    """RL4VLM's answer: a JSON object with the facts read from the picture, thoughts, then the action.

    Without thoughts the object holds the action alone. Parse rule of the original: what stands after `"action":`
    names exactly one action. Here the quoted value is matched first, so that "10" is never read as "1".
    Raises ConfigError for action names that are empty, or equal but for spaces around them.
    """

    action_names: tuple[str, ...]
    fact_keys: tuple[str, ...] = ()
    thoughts: bool = True
    stop: StopRule = field(default=JSON_STOP, repr=False)

    def __post_init__(self) -> None:
        stripped = [n.strip() for n in self.action_names]
        if not all(stripped) or len(set(stripped)) < len(stripped):
            raise ConfigError(f"the action names {list(self.action_names)} need to be different words, none empty")

    def instruction(self) -> str:
        actions = " or ".join(json.dumps(a, ensure_ascii=False) for a in self.action_names)
        if not self.thoughts:
            return f'Answer in JSON: {{"action": {actions}}}'
        facts = "".join(f'"{k}": "...", ' for k in self.fact_keys)
        return f'Answer in JSON: {{{facts}"thoughts": "...", "action": {actions}}}'

    def write(self, action: int, facts: Mapping[str, str], thought: str) -> str:
        """The completion that a demonstrator would have written."""
        answer: dict[str, str] = {}
        if self.thoughts:
            answer = {k: facts[k] for k in self.fact_keys} | {"thoughts": thought}
        return json.dumps(answer | {"action": self.action_names[action]}, ensure_ascii=False)

    def parse(self, completion: Completion, legal_actions: Sequence[int] | None = None) -> ParseResult:
        """The action in the text, or why there is none. `action_start` is where the action key begins."""
        text = completion.text
        keys = list(_ACTION_KEY.finditer(text))
        if not keys:
            return ParseFailure(self._why_no_key(completion), _shorten(text), len(text))
        key = keys[-1]
        tail = text[key.end() :]
        is_cut = completion.finish_reason is FinishReason.LENGTH and not _is_whole(tail)
        named = FailureReason.CUT_OFF if is_cut else self._named(tail)
        if isinstance(named, FailureReason):
            return ParseFailure(named, _shorten(tail), key.start())
        if legal_actions is not None and named not in legal_actions:
            return ParseFailure(FailureReason.ILLEGAL_ACTION, self.action_names[named], key.start())
        return ParsedAction(
            action=named,
            name=self.action_names[named],
            thought=self._thought(text[: key.start()]),
            facts=self._facts(text[: key.start()]),
            action_start=key.start(),
        )

    @staticmethod
    def _why_no_key(completion: Completion) -> FailureReason:
        if not completion.text.strip():
            return FailureReason.EMPTY
        is_cut = completion.finish_reason is FinishReason.LENGTH
        return FailureReason.CUT_OFF if is_cut else FailureReason.NO_ACTION_KEY

    def _named(self, tail: str) -> int | FailureReason:
        """The one action that the text after the key names."""
        value = _VALUE.match(tail)
        if value:
            text = (_unescape(value[1]) if value[1] is not None else value[2]).strip()
            for same in (str, str.casefold):  # names may differ in case alone: the exact one comes first
                matching = [i for i, name in enumerate(self.action_names) if same(text) == same(name.strip())]
                if len(matching) == 1:
                    return matching[0]
        found = set(_mentions(self.action_names).findall(tail))
        if len(found) > 1:
            return FailureReason.AMBIGUOUS_ACTION
        return self.action_names.index(found.pop()) if found else FailureReason.UNKNOWN_ACTION

    @staticmethod
    def _thought(head: str) -> str:
        match = re.search(r'"thoughts"\s*:\s*"((?:[^"\\]|\\.)*)"', head)
        return _unescape(match[1]) if match else head.strip("{, \t\r\n")

    def _facts(self, head: str) -> dict[str, str]:
        facts = {}
        for key in self.fact_keys:
            match = re.search(re.escape(json.dumps(key, ensure_ascii=False)) + r"\s*:" + _VALUE.pattern, head)
            if match:
                facts[key] = _unescape(match[1]) if match[1] is not None else match[2]
        return facts


def _mentions(names: tuple[str, ...]) -> re.Pattern[str]:
    """Finds action names, the longest first, and words only as whole words."""
    patterns = [
        rf"(?<!\w){re.escape(n)}(?!\w)" if re.fullmatch(r"\w.*\w|\w", n) else re.escape(n)
        for n in sorted(names, key=len, reverse=True)
    ]
    return re.compile("|".join(patterns))


def _is_whole(tail: str) -> bool:
    """Whether the value after the action key has ended: what was cut off at 1 may have become 10."""
    value = _VALUE.match(tail)
    return value is not None and (value[1] is not None or value.end() < len(tail))


def _unescape(text: str) -> str:
    try:
        # half of a surrogate pair is no text that could be stored
        return json.loads(f'"{text}"', strict=False).encode("utf-8", "replace").decode("utf-8")
    except json.JSONDecodeError:
        return text


def _shorten(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


FORMATS = {"json": JsonFormat}
