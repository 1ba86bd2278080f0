"""How `nano` is asked in its pretraining: a scene's facts and decisions as prompts with their answers, in many forms.

The prompt decides what is asked, and in which words it is to be answered.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces
from nano_scenes import SCENES, Fact, Mixture, Rng, Scene, distinct, made_up, pick

from eyas.interface import FORMATS, codec_for

OPENINGS = (
    "", "", "", "Look at the picture.", "You play a game.", "This is what you see.", "Read carefully.", "You are an agent.",
    "Think before you act.", "Every point counts.", "The game ends when the time is over.",
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """A conversation of questions and answers about one picture at most, which stands first."""

    picture: np.ndarray | None
    turns: list[tuple[str, str]]


def _joined(*parts: str) -> str:
    return " ".join(p for p in parts if p)


def _named(rng: Rng, facts: Sequence[Fact], most: int) -> tuple[dict[str, str], str]:
    """Up to `most` facts by key in random order, and what has to be said about keys that are made up."""
    chosen = distinct(rng, facts, int(rng.integers(1, most + 1)))
    named, said = {}, []
    for fact in chosen:
        name = pick(rng, fact.names)
        if rng.random() < 0.25:
            invented = made_up(rng)
            said.append(f'Call the {name} "{invented}".')
            name = invented
        named[name] = fact.value
    return named, " ".join(said)


def questions(rng: Rng, scene: Scene) -> list[tuple[str, str]]:
    """One to three questions, each with the bare answer."""
    turns = []
    for fact in distinct(rng, scene.facts, int(rng.integers(1, 4))):
        name = pick(rng, fact.names)
        asked = pick(
            rng, (f"What is the {name}?", f"Tell the {name}.", f"Read the {name}.", f"{name}?", f"Give me the {name}.")
        )
        ending = pick(rng, ("", "", "Answer briefly.", "Answer with the value only."))
        turns.append((_joined("" if turns else scene.text, asked, ending), fact.value))
    return turns


def key_values(rng: Rng, scene: Scene) -> list[tuple[str, str]]:
    """Facts in JSON or as key: value."""
    named, said = _named(rng, scene.facts, 3)
    if not named:
        return questions(rng, scene)
    opening = pick(rng, OPENINGS)
    if rng.random() < 0.65:
        asked = pick(rng, ("Answer in JSON:", "Fill in this JSON:", "Describe it in JSON:"))
        asked = f"{asked} {json.dumps(dict.fromkeys(named, '...'))}"
        return [(_joined(opening, scene.text, said, asked), json.dumps(named))]
    asked = pick(rng, ("Answer in this form:", "Fill in:")) + " " + "; ".join(f"{k}: ..." for k in named)
    return [(_joined(opening, scene.text, said, asked), "; ".join(f"{k}: {v}" for k, v in named.items()))]


def decision(rng: Rng, scene: Scene) -> list[tuple[str, str]]:
    """A format of the package, asked for and written by its own words."""
    task = pick(rng, scene.decisions)
    named, said = _named(rng, scene.facts, 2) if rng.random() < 0.75 else ({}, "")
    name = str(rng.choice(["json", "think", "think_observation", "plain"], p=[0.55, 0.2, 0.07, 0.18]))
    has_thoughts = rng.random() < 0.85
    keys = tuple(named) if has_thoughts and name != "plain" else ()
    form = FORMATS[name](codec_for(spaces.Discrete(len(task.names)), task.names), keys, has_thoughts)
    is_told = has_thoughts and name != "plain" and rng.random() < 0.5
    ending = f", so I choose {task.action}."
    style = pick(rng, ("End the thought with your choice.", "Say what you choose.")) if is_told else ""
    beginning = made_up(rng, 4) if form.thoughts and rng.random() < 0.15 else ""
    style += f' Begin the thought with "{beginning}".' if beginning else ""
    thought = _joined(beginning, task.thought[0].upper() + task.thought[1:] + (ending if is_told else "."))
    answer = form.write(task.names.index(task.action), named, thought)
    parts = [task.rule, scene.text] if rng.random() < 0.5 else [scene.text, task.rule]
    prompt = _joined(pick(rng, OPENINGS), *parts, said if keys else "", style, form.instruction())
    return [(prompt, answer)]


def make_item(rng: Rng, ease: float = 0.0, mixture: Mixture = SCENES) -> Item:
    """One training item; a share `ease` of the pictures is plain."""
    scene = list(mixture)[int(rng.choice(len(mixture), p=list(mixture.values())))](rng, ease)
    return in_form(rng, scene)


def in_form(rng: Rng, scene: Scene) -> Item:
    forms = (questions, key_values, decision) if scene.decisions else (questions, key_values)
    shares = (0.2, 0.25, 0.55) if scene.decisions else (0.45, 0.55)
    form = forms[int(rng.choice(len(forms), p=shares))]
    return Item(scene.picture, form(rng, scene))
