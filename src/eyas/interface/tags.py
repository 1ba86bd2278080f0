"""Formats of tags, as in VAGEN: <think>...</think><answer>...</answer>, and what the thinking consists of in tags of its own."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from eyas.interface.answers import Format, failure_without_action, is_cut
from eyas.types import Completion, ParseResult, StopRule

_ANSWER, _ANSWER_END = "<answer>", "</answer>"
_ENTITIES = {"&": "&amp;", "<": "&lt;", ";": "&#59;"}
_CHARACTERS = {entity: character for character, entity in _ENTITIES.items()}
_ENTITY = "&(?:amp|lt|#59);"
_FACT = rf": ?((?:[^;&]|{_ENTITY}|&(?!{_ENTITY[1:]}))*)(?:; ?|\Z)"


def _has_ended(text: str) -> bool:
    return _ANSWER_END in text


def _has_answer_begun(text: str) -> bool:
    return _ANSWER in text or _has_ended(text)


TAGS_STOP = StopRule(">", _has_ended)
TAGS_HEAD = StopRule(">", _has_answer_begun)  # an answer that ends before it begins ends the sampling too


@dataclass(frozen=True)
class ThinkFormat(Format):
    """Thinking and answer in tags; without thoughts the answer alone.

    The facts stand before the thought as "key: value; ". Strict, as VAGEN is: every tag once and in order, nothing but
    spaces between them. Text in a demonstration that could be read as a tag is escaped ("&lt;"), and read back.
    """

    stop: StopRule | None = field(default=TAGS_STOP, repr=False)
    head: ClassVar[StopRule | None] = TAGS_HEAD
    sections: ClassVar[tuple[str, ...]] = ()  # the tags within <think>; none: it holds facts and thought itself

    def instruction(self) -> str:
        facts = "".join(f"{k}: ...; " for k in self._listed_keys)
        contents = dict.fromkeys(self._names, "...") | {self._thought_tag: f"{facts}..."}
        if "observation" in self.sections:
            contents |= {self._thought_tag: "...", "observation": facts.strip("; ") or "..."}
        return f"Answer in this form: {self._filled(contents)} The answer is {self._in_words()}."

    def write(self, action: Any, facts: Mapping[str, str], thought: str) -> str:
        contents = {"answer": self._escaped(self.codec.write(action))}
        if self.thoughts:
            listed = "; ".join(f"{self._fact(k)}: {self._fact(facts[k])}" for k in self._listed_keys)
            prefix = f"{listed}; " if listed and "observation" not in self.sections else ""
            contents[self._thought_tag] = prefix + self._escaped(thought)
            contents["observation"] = listed or self._escaped(facts.get("observation", ""))
            contents["prediction"] = self._escaped(facts.get("prediction", ""))
        return self._filled(contents)

    def parse(self, completion: Completion, legal: Sequence[Any] | None = None) -> ParseResult:
        """The action in the answer, or why there is none. `action_start` is where the answer's tag begins."""
        text = completion.text
        contents, start = self._contents(text), text.rfind(_ANSWER)
        if contents is None:
            return failure_without_action(text, is_cut(completion) and not _has_ended(text), start)
        told = self._thought_and_facts(contents) if self.thoughts else ("", {})
        return self._read([_unescaped(contents["answer"])], legal, start, *told)

    def _begun(self, head: str) -> str | None:
        before, opening, begun = head.partition(_ANSWER)
        is_whole = opening and self._contents(f"{before}{_ANSWER}{_ANSWER_END}") is not None
        return begun if is_whole else None

    def _ending(self, action: Any) -> str:
        return self._escaped(self.codec.write(action)) + _ANSWER_END

    # ------------------------------------------------------------------------------------- tags

    @property
    def _names(self) -> tuple[str, ...]:
        return ("think", *self.sections, "answer") if self.thoughts else ("answer",)

    @property
    def _thought_tag(self) -> str:
        return "reasoning" if self.sections else "think"

    @property
    def _listed_keys(self) -> tuple[str, ...]:
        """The facts that are written as "key: value"; a prediction has a section of its own."""
        return tuple(k for k in self.fact_keys if not (k == "prediction" and k in self.sections))

    def _filled(self, contents: Mapping[str, str]) -> str:
        answer = f"{_ANSWER}{contents['answer']}{_ANSWER_END}"
        if not self.thoughts:
            return answer
        sections = "".join(f"<{name}>{contents[name]}</{name}>" for name in self.sections)
        return f"<think>{sections or contents['think']}</think>{answer}"

    def _contents(self, text: str) -> dict[str, str] | None:
        """What stands in each innermost tag; None unless every tag is there once, in order, with spaces around them."""
        wanted = self._filled(dict.fromkeys(self._names, ""))
        tags = list(re.finditer(f"</?(?:{'|'.join(self._names)})>", text))
        if "".join(t[0] for t in tags) != wanted or text[: tags[0].start()].strip() or text[tags[-1].end() :].strip():
            return None
        contents = {}
        for tag, following in pairwise(tags):
            between = text[tag.end() : following.start()]
            if following[0] == f"</{tag[0][1:]}":
                contents[tag[0][1:-1]] = between
            elif between.strip():
                return None
        return contents

    # ------------------------------------------------------------------------------------- thought and facts

    def _thought_and_facts(self, contents: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        thought, facts = contents[self._thought_tag], {}
        if "observation" in self.sections:
            facts, rest = self._facts(contents["observation"])
            if rest and not self._listed_keys:
                facts["observation"] = _unescaped(rest)
        else:
            facts, thought = self._facts(thought)
        if contents.get("prediction") or ("prediction" in self.sections and "prediction" in self.fact_keys):
            facts["prediction"] = _unescaped(contents["prediction"])
        return _unescaped(thought), facts

    def _facts(self, text: str) -> tuple[dict[str, str], str]:
        """The listed facts that the text begins with, in order, and what follows them."""
        facts, place = {}, 0
        for key in self._listed_keys:
            match = re.compile(rf"\s*{re.escape(self._fact(key))}{_FACT}").match(text, place)
            if match:
                facts[key], place = _unescaped(match[1]), match.end()
        return facts, text[place:]

    def _escaped(self, text: str, more: str = "") -> str:
        """The text with "<" replaced where it begins a tag, and "&" where it would be read as such a replacement."""
        pattern = f"&(?=amp|lt|#59)|<(?=/?(?:{'|'.join(self._names)})>){more}"
        return re.sub(pattern, lambda match: _ENTITIES[match[0]], text)

    def _fact(self, text: str) -> str:
        return self._escaped(text, more="|;")


def _unescaped(text: str) -> str:
    return re.sub(_ENTITY, lambda match: _CHARACTERS[match[0]], text)


@dataclass(frozen=True)
class ThinkObservationFormat(ThinkFormat):
    """VAGEN's grounding: what is seen, then the reasoning. The facts are the observation."""

    sections: ClassVar[tuple[str, ...]] = ("observation", "reasoning")


@dataclass(frozen=True)
class ThinkPredictionFormat(ThinkFormat):
    """VAGEN's world modelling: the reasoning, then what the action will lead to, which is the fact "prediction"."""

    sections: ClassVar[tuple[str, ...]] = ("reasoning", "prediction")


@dataclass(frozen=True)
class ThinkObservationPredictionFormat(ThinkFormat):
    """VAGEN's grounding and world modelling: what is seen, the reasoning, and what the action will lead to."""

    sections: ClassVar[tuple[str, ...]] = ("observation", "reasoning", "prediction")
