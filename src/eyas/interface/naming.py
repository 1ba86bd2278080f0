"""Words that an environment has for itself: of its actions and observations, and what it is about.

They come from its attributes and from its docstring, as Gymnasium's own pages are laid out. Nothing here raises: words
that are not found, or not beyond doubt, are None.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

import gymnasium as gym
from gymnasium import spaces

MAX_TASK_CHARACTERS = 300  # of the docstring
_HEADING = re.compile(r"#+\s*(\S.*)|((?:Actions?|Observations?|Description)(?: Space)?):")
_LISTED = re.compile(r"(?:[-*+]\s*)?`?(\d{1,6})`?\s*(?:[:=)]|\.\s|-\s)\s*(\S.*)")
_LINK = re.compile(r"(?:!\[[^\[\]]*|\[([^\[\]]*))\]\([^()\s]*\)")  # of a picture nothing stays


def action_names(env: gym.Env) -> tuple[str, ...] | None:
    """One word or phrase for each action of a Discrete space, in order.

    Sources, the first that has them all: `description.action_names`, `get_action_meanings()` (ALE), `action_names`
    (Crafter), an IntEnum at `actions` or `Actions` (MiniGrid), the list or table in the docstring's section on actions.
    """
    inner = env.unwrapped
    described = tuple(_attribute(_attribute(inner, "description"), "action_names") or ())
    if described:
        return described
    space = env.action_space
    if not isinstance(space, spaces.Discrete):
        return None
    size, start = int(space.n), int(space.start)
    sources: list[Callable[[], Any]] = [
        lambda: inner.get_action_meanings(),  # type: ignore[attr-defined]
        lambda: _attribute(inner, "action_names"),
        lambda: _members(_attribute(inner, "actions"), start),
        lambda: _members(_attribute(inner, "Actions"), start),
    ]
    for source in sources:
        names = _checked(_called(source), size)
        if names:
            return names
    return _from_docstrings(inner, "action", ("name", "action", "meaning"), size)


def observation_names(env: gym.Env, n: int) -> tuple[str, ...] | None:
    """A name for each of the n numbers of a flat Box, from the table in the docstring's section on observations."""
    space = env.observation_space
    if not isinstance(space, spaces.Box) or space.shape != (n,):
        return None
    return _from_docstrings(env.unwrapped, "observation", ("observation", "name"), n)


def task_text(env: gym.Env) -> str:
    """Two or three sentences: the environment's name, what its docstring says of it first, and to earn reward."""
    about = next(filter(None, map(_about, _docstrings(env.unwrapped))), "")
    return " ".join(filter(None, [f"You play {_name(env)}.", about, "Choose the action that earns the most reward."]))


# ----------------------------------------------------------------------------------------------- attributes


def _called(source: Callable[[], Any]) -> Any:
    try:
        return source()
    except Exception:  # an environment's own code may fail in any way, and words are a courtesy
        return None


def _attribute(owner: Any, name: str) -> Any:
    return _called(lambda: getattr(owner, name))


def _members(enum: Any, start: int) -> list[str]:
    if not (isinstance(enum, type) and issubclass(enum, IntEnum)):
        return []
    members = sorted(enum, key=int)
    return [m.name for m in members] if [int(m) for m in members] == list(range(start, start + len(members))) else []


def _checked(names: Any, size: int) -> tuple[str, ...] | None:
    """The names in order, tidied; None unless they are as many and all different."""
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(n, str) for n in names):
        return None
    tidied = tuple(_tidied(n.replace("_", " ")) for n in names)
    return tidied if len(set(tidied)) == len(tidied) == size and all(tidied) else None


def _tidied(name: str) -> str:
    without_remarks = re.sub(r"(?:^|\s+)\([^()]*\)", "", _plain(name))
    return " ".join(without_remarks.casefold().split()).strip(" .,;:!\"'")


# ----------------------------------------------------------------------------------------------- docstrings


def _docstrings(inner: gym.Env) -> list[str]:
    """Of the class and its bases, the nearest first; those of Gymnasium's own base classes say nothing of the task."""
    classes = [c for c in type(inner).__mro__ if c.__module__ not in ("builtins", "typing", "gymnasium.core")]
    written = [(c, c.__dict__.get("__doc__")) for c in classes]
    # a dataclass without a docstring gets its signature as one
    return [inspect.cleandoc(d) for c, d in written if isinstance(d, str) and not d.startswith(f"{c.__name__}(")]


def _sections(docstring: str) -> list[tuple[str, list[str]]]:
    """Heading and lines of each section; what stands before the first heading has the heading ""."""
    sections: list[tuple[str, list[str]]] = [("", [])]
    for line in map(str.strip, docstring.splitlines()):
        heading = _HEADING.fullmatch(line)
        if heading:
            sections.append(((heading[1] or heading[2]).strip(" :#").casefold(), []))
        else:
            sections[-1][1].append(line)
    return sections


def _from_docstrings(inner: gym.Env, topic: str, columns: Sequence[str], size: int) -> tuple[str, ...] | None:
    """The names that a section on the topic counts from 0 to size - 1, each once."""
    wanted = (topic, f"{topic}s", f"{topic} space", f"{topic}s space")
    for docstring in _docstrings(inner):
        for heading, lines in _sections(docstring):
            counted = (_from_table(lines, columns) or _from_list(lines)) if heading in wanted else []
            if [number for number, _ in counted] == list(range(size)):
                names = tuple(_tidied(name) for _, name in counted)
                if all(names) and len(set(names)) == size:
                    return names
    return None


def _from_table(lines: Sequence[str], columns: Sequence[str]) -> list[tuple[int, str]]:
    """Number and name of each row of a Markdown table; `columns` are the headings to look for, the best one first."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    headings = [cell.casefold() for cell in rows[0]] if rows else []
    column = next((headings.index(c) for c in columns if c in headings), 0)
    if column == 0:  # the first column holds the numbers
        return []
    return [(int(row[0]), row[column]) for row in rows[1:] if re.fullmatch(r"[0-9]{1,6}", row[0]) and len(row) > column]


def _from_list(lines: Sequence[str]) -> list[tuple[int, str]]:
    matches = [_LISTED.fullmatch(line) for line in lines]
    return [(int(m[1]), m[2]) for m in matches if m]


def _about(docstring: str) -> str:
    """The first paragraph of the section Description, or of all; cut after a sentence."""
    sections = _sections(docstring)
    described = [lines for heading, lines in sections if heading == "description"]
    for lines in [*described, sections[0][1]]:
        for paragraph in "\n".join(lines).split("\n\n"):
            text = _plain(paragraph)
            if text[:1].isalnum() or text[:1] in ("'", '"'):
                return _cut(text)
    return ""


def _plain(text: str) -> str:
    """Without the marks of Markdown and HTML."""
    text = re.sub(r"\s*\[<a [^<>]*>[^<>]*</a>\]", "", text)  # a reference to the list of papers
    text = re.sub(r"</?[a-zA-Z][^<>]*>", "", _LINK.sub(lambda match: match[1] or "", text))
    return " ".join(re.sub(r"`|\*\*|__", "", text).split())


def _cut(text: str) -> str:
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z\"“])", text)
    kept = sentences[0]
    for sentence in sentences[1:]:
        if len(kept) + 1 + len(sentence) > MAX_TASK_CHARACTERS:
            break
        kept = f"{kept} {sentence}"
    if len(kept) > MAX_TASK_CHARACTERS:
        return kept[: MAX_TASK_CHARACTERS - 1].rsplit(" ", 1)[0].rstrip(" ,;:") + "…"
    return kept if kept[-1] in ".!?…" else f"{kept}."


def _name(env: gym.Env) -> str:
    """The id without namespace and version, as words: "MiniGrid-Empty-5x5-v0" is "Mini Grid Empty 5x5"."""
    spec = _attribute(env, "spec")
    full = spec.id if spec else re.sub(r"(?<=.)Env(ironment)?$", "", type(env.unwrapped).__name__)
    short = re.sub(r"-v\d+$", "", str(full).rsplit("/", 1)[-1].rsplit(":", 1)[-1])
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[a-z]{2})(?=[0-9])|[-_]+", " ", short)
    return " ".join(words.split())
