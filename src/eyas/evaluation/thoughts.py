"""How thoughts fare, in numbers: how much they differ, whether actions follow from them, whether they depend on the input."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eyas.evaluation.statistics import entropy_or_none, mean_or_none
from eyas.seeding import generator
from eyas.types import FactRule, ParsedAction, Step, Trajectory

COMPARED = 64  # thoughts of an iteration that are compared with one another: a share of unique ones depends on how many
GRADED = 32  # steps of an iteration whose action is compared with the written facts: a rule may have to search
LONGEST_PHRASE = 4  # words, as in BLEU


def _some(things: Sequence[Any], most: int) -> list[Any]:
    """Up to `most` of them, the same places whenever there are as many."""
    if len(things) <= most:
        return list(things)
    places = generator("thoughts", len(things)).choice(len(things), most, replace=False)
    return [things[i] for i in sorted(places)]


def has_thought(step: Step) -> bool:
    return isinstance(step.parse, ParsedAction) and bool(step.parse.thought)


def _thoughts(steps: Sequence[Step]) -> list[str]:
    return _some([s.parse.thought for s in steps if has_thought(s)], COMPARED)  # type: ignore[union-attr]


# ----------------------------------------------------------------------------------------------- diversity


def thought_unique_share(steps: Sequence[Step]) -> float | None:
    """Number of different thoughts over number of thoughts, of up to `COMPARED`: falls towards 0 as thoughts collapse."""
    thoughts = _thoughts(steps)
    return len(set(thoughts)) / len(thoughts) if thoughts else None


def thought_self_bleu(steps: Sequence[Step]) -> float | None:
    """Mean BLEU of each thought with all others as references, of up to `COMPARED`: 1 where all say the same.

    Self-BLEU of Zhu et al. 2018 ("Texygen"), with BLEU-4 of Papineni et al. 2002 without smoothing; a thought of fewer
    than four words has phrases up to its own length.
    """
    texts = [words for t in _thoughts(steps) if (words := re.findall(r"\w+|[^\w\s]", t))]
    if len(texts) < 2:
        return None
    precisions = [_precisions([_phrases(words, n) for words in texts]) for n in range(1, LONGEST_PHRASE + 1)]
    scores = []
    for index, words in enumerate(texts):
        of_text = np.array([of_all[index] for of_all in precisions[: len(words)]])
        others = [len(other) for place, other in enumerate(texts) if place != index]
        nearest = min(others, key=lambda length: (abs(length - len(words)), length))
        brevity = min(1.0, np.exp(1 - nearest / len(words)))
        scores.append(brevity * np.exp(np.log(of_text).mean()) if of_text.all() else 0.0)
    return float(np.mean(scores))


def _phrases(words: Sequence[str], length: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + length]) for i in range(len(words) - length + 1))


def _precisions(counts: Sequence[Counter[tuple[str, ...]]]) -> list[float]:
    """Of each text, the share of its phrases that another text holds as often; 0 for a text without any."""
    found: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for of_text in counts:
        for phrase, number in of_text.items():
            found[phrase].append(number)
    highest = {phrase: sorted([0, *numbers])[-2:] for phrase, numbers in found.items()}

    def of_others(phrase: tuple[str, ...], own: int) -> int:
        second, first = highest[phrase]
        return second if own == first else first

    return [sum(min(n, of_others(p, n)) for p, n in c.items()) / max(c.total(), 1) for c in counts]


# ----------------------------------------------------------------------------------------------- thought and action


def thought_action_agreement(trajectories: Sequence[Trajectory], rules: Mapping[int, FactRule | None]) -> float | None:
    """Share of the actions that follow from the facts written down before them, right or wrong; `rules` by task index.

    Of up to `GRADED` steps; facts that a rule cannot read do not count. Of several actions in a step, the first one does.
    """
    written = [(rule, s.parse) for t in trajectories if (rule := rules.get(t.task)) for s in t.steps]
    readable = [(rule, parse) for rule, parse in written if isinstance(parse, ParsedAction) and parse.facts]
    agreements = []
    for rule, parse in _some(readable, GRADED):
        action = parse.action[0] if isinstance(parse.action, tuple) else parse.action
        try:
            agreements.append(rule(parse.facts, action))
        except (KeyError, ValueError):
            continue
    return mean_or_none(agreements)


Divided = Sequence[tuple[Step, int]]  # steps, each with the index of its completion's token where the action begins


def thought_entropy(divided: Divided) -> float | None:
    """Entropy a token of the thoughts in nats: the mean negative log-prob of the tokens before the action, as sampled."""
    arrays = [
        s.completion.sampling_logprobs[:token]
        for s, token in divided
        if has_thought(s) and s.completion.sampling_logprobs is not None
    ]
    return entropy_or_none(arrays)


def action_entropy(steps: Sequence[Step], divided: Divided = ()) -> float | None:
    """Entropy of the action after its thought in nats an action.

    Exact where actions are scored; of `divided` text, the mean negative log-prob of all tokens of the action together.
    """
    scored = [s.completion.scores.logprobs for s in steps if s.completion.scores is not None]
    written = [
        s.completion.sampling_logprobs[token:]
        for s, token in divided
        if isinstance(s.parse, ParsedAction)
        and s.completion.scores is None
        and s.completion.sampling_logprobs is not None
    ]
    exact = [float(-(np.exp(p) * np.maximum(p, -1e4)).sum()) for p in scored]
    return mean_or_none([*exact, *(float(-p.sum()) for p in written)])


# ----------------------------------------------------------------------------------------------- thought and input


def mutual_information(logprobs: np.ndarray) -> float:
    """Mutual information of thought and prompt in nats, at most log N; 0 where thoughts do not depend on the prompt.

    logprobs (N, N): of thought i, sampled under prompt i, under prompt j. The mean of log p(thought | own prompt) less the
    log of its mean probability over all N prompts (RAGEN-2, Wang et al. 2026, arXiv 2604.06268).
    """
    return float(np.mean(np.diag(logprobs) - np.logaddexp.reduce(logprobs, axis=1) + np.log(len(logprobs))))


def own_prompt_share(logprobs: np.ndarray) -> float:
    """Share of the thoughts that are likeliest under their own prompt, logprobs as above; 1 / N is chance, also in ties."""
    is_best = logprobs >= logprobs.max(axis=1, keepdims=True)
    return float(np.mean(np.diag(is_best) / is_best.sum(axis=1)))
