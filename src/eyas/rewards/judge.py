"""A reward from a model that is asked how good each step is."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from eyas.errors import LimitReached, ModelError
from eyas.interface import Interface
from eyas.rewards.options import JudgeConfig
from eyas.samplers.openai import ServedSampler
from eyas.seeding import derive_seed
from eyas.types import (
    Completion,
    FinishReason,
    ImagePart,
    Message,
    ParsedAction,
    SampleRequest,
    Step,
    TextPart,
    Trajectory,
)

log = logging.getLogger(__name__)

TOGETHER = 32  # questions of a call: an error of the judge costs them all
MOST_FAILURES_IN_A_ROW = 3  # calls
RETRY_TEMPERATURE = 0.7  # greedy, the same answer would come again
SCORE = re.compile(r"(?:(?:score|answer)\s*[:=])?[\s*_`\"']*(yes|no|[01]?\.\d+|[01])[\s*_`\"'.]*", re.IGNORECASE)

Question = tuple[Message, ...]


class Asked(Protocol):
    """A served model, or a policy that does not learn."""

    def sample(self, requests: Sequence[SampleRequest]) -> list[Completion]: ...

    def fits(self, messages: Sequence[Message], max_new_tokens: int) -> bool: ...


def score_in(answer: str) -> float | None:
    """What the last line says and says alone: a number from 0 to 1, yes (1) or no (0)."""
    lines = answer.strip().splitlines()
    found = SCORE.fullmatch(lines[-1].strip()) if lines else None
    if found is None:
        return None
    score = {"yes": 1.0, "no": 0.0}.get(found[1].lower())
    score = float(found[1]) if score is None else score
    return score if score <= 1 else None


class JudgeReward:
    """In [0, 1] a step; 0, and nothing is asked, where a step has no action of the policy's own.

    Equal questions are asked once a run. After an answer without a score it is asked again, at most `retries` times; then,
    and where the judge fails, refuses the question or cannot read it, the score is `on_failure`, and the step is counted as
    failed. Raises ModelError where the judge fails MOST_FAILURES_IN_A_ROW times in a row, and at once where a limit is reached.
    """

    name = "judge"

    def __init__(self, config: JudgeConfig, interface: Interface, asked: Asked):
        self.config, self.interface, self.asked = config, interface, asked
        self._scores: dict[int, float | None] = {}  # None: all answers were without a score
        self._failures_in_a_row = 0
        self._counts = {"steps_count": 0.0, "asked_count": 0.0, "failed_count": 0.0, "score_sum": 0.0}
        self._spent_before = self._spent

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        questions = [[self._question(step) for step in t.steps] for t in trajectories]
        self._ask({_key(q): q for of_trajectory in questions for q in of_trajectory if q is not None})
        return [[0.0 if q is None else self._score(q) for q in of_trajectory] for of_trajectory in questions]

    def metrics(self) -> dict[str, float]:
        """What it said and took since the last call; tokens and cost of a served model only."""
        counts, spent, before = self._counts, self._spent, self._spent_before
        self._counts, self._spent_before = dict.fromkeys(counts, 0.0), spent
        score = counts.pop("score_sum") / max(1.0, counts["steps_count"])
        return counts | {"score_mean": score} | {name: value - before[name] for name, value in spent.items()}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs so that nothing is asked twice, and limits count what was spent before."""
        spent = self.asked.spending.state_dict() if isinstance(self.asked, ServedSampler) else None
        return {"scores": dict(self._scores), "spent": spent}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._scores = dict(state["scores"])
        if isinstance(self.asked, ServedSampler):
            self.asked.spending.load_state_dict(state["spent"])
        self._spent_before = self._spent

    # ------------------------------------------------------------------------------------- questions

    def _question(self, step: Step) -> Question | None:
        if not isinstance(step.parse, ParsedAction):
            return None
        shown, task = step.messages[-1].parts, self.interface.description.text
        words = " ".join(p.text for p in shown if isinstance(p, TextPart))
        for said in (task, self.interface.format.instruction()):
            words = words.replace(said, "")
        text = self.config.question.format(
            task=task,
            observation=words.strip() or "nothing in words",
            action=step.parse.name,
            thought=step.parse.thought.strip() or "nothing",
        )
        return (Message("user", (*(p for p in shown if isinstance(p, ImagePart)), TextPart(text))),)

    def _ask(self, questions: Mapping[int, Question]) -> None:
        """Finds the scores of those that are new."""
        todo = [key for key in questions if key not in self._scores]
        for attempt in range(self.config.retries + 1):
            for start in range(0, len(todo), TOGETHER):
                part = {key: questions[key] for key in todo[start : start + TOGETHER]}
                self._scores |= self._answered(part, attempt)
            todo = [key for key in todo if self._scores.get(key, 0.0) is None]

    def _answered(self, questions: Mapping[int, Question], attempt: int) -> dict[int, float | None]:
        """The score in each answer; nothing where the judge failed or refused: the same question may be asked another time."""
        config = self.config
        temperature = RETRY_TEMPERATURE if attempt else 0.0
        readable = [k for k, question in questions.items() if self.asked.fits(question, config.max_new_tokens)]
        self._counts["asked_count"] += len(readable)
        try:
            answers = self.asked.sample(
                [
                    SampleRequest(questions[k], derive_seed(k, attempt), config.max_new_tokens, temperature)
                    for k in readable
                ]
            )
        except LimitReached:
            raise
        except ModelError as error:
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= MOST_FAILURES_IN_A_ROW:
                raise ModelError(f"the judge failed {MOST_FAILURES_IN_A_ROW} times in a row: {error}") from error
            log.warning("the judge failed; %d answers count as %g: %s", len(readable), config.on_failure, error)
            return {}
        self._failures_in_a_row = 0
        found: dict[int, float | None] = dict.fromkeys(questions, None)
        for key, answer in zip(readable, answers, strict=True):
            found[key] = score_in(answer.text)
            if answer.finish_reason is FinishReason.REFUSED:
                del found[key]
        return found

    def _score(self, question: Question) -> float:
        score = self._scores.get(_key(question))
        self._counts["failed_count"] += score is None
        score = self.config.on_failure if score is None else score
        self._counts["steps_count"] += 1
        self._counts["score_sum"] += score
        return score

    @property
    def _spent(self) -> dict[str, float]:
        if not isinstance(self.asked, ServedSampler):
            return {}
        spending = self.asked.spending
        tokens = {"input_tokens_count": spending.input_tokens, "output_tokens_count": spending.output_tokens}
        return {**tokens, "requests_count": spending.requests, "cost": spending.cost or 0.0}


def _key(question: Question) -> int:
    """Of all that is asked: the words and the pictures."""
    parts = [p.image_hash if isinstance(p, ImagePart) else p.text for message in question for p in message.parts]
    return derive_seed("judge", *parts)
