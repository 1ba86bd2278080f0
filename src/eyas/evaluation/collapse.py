"""What the log of a stage says of collapses: the likely cause of each, and what to try."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Records = Sequence[Mapping[str, Any]]  # of one stage, in order


# From where on a change counts. Ends are means over a few iterations; best is the best such mean so far.
_WINDOW = 3  # iterations that an end is the mean of; fewer than two ends say nothing
_FALLEN_TO = 0.5  # diversity, entropy of thoughts, mutual information: share of what they were
_LEAST_INFORMATION_NATS = 0.2  # mutual information below which there was nothing to lose
_RISEN_TO = 3.0  # entropy of all tokens: times what it was
_STILL_TO = 0.1  # entropy of actions: share of what it was
_LEAST_ENTROPY_NATS = 0.2  # below it a choice was certain before, and is certain still
_LOST = 0.1  # parse rate, recognition, success, cut completions: change of the share
_LOST_AGREEMENT = 0.2  # of thought and action: a share of fewer steps


@dataclass(frozen=True)
class Course:
    """How one number went: at first, at best (its highest), at the end. NaN, of which nothing holds, where too little is known."""

    first: float
    best: float
    last: float

    @classmethod
    def of(cls, records: Records, key: str, window: int = _WINDOW) -> "Course":
        known = [r[key] for r in records if isinstance(r.get(key), int | float) and math.isfinite(r[key])]
        if len(known) < 2 * window:
            return cls(math.nan, math.nan, math.nan)
        means = [sum(known[i : i + window]) / window for i in range(len(known) - window + 1)]
        return cls(means[0], max(means), means[-1])

    @property
    def has_halved(self) -> bool:
        return self.last < _FALLEN_TO * self.best

    @property
    def has_risen(self) -> bool:
        return self.last - self.first >= _LOST

    def has_lost(self, share: float = _LOST) -> bool:
        return self.best - self.last >= share


def _has_information_halved(records: Records) -> bool | None:
    """None where there was none to lose. Probes are few, and each is over many scores: none is averaged with others."""
    course = Course.of(records, "rollout/thought_mutual_information_nats", window=1)
    return course.has_halved if course.best >= _LEAST_INFORMATION_NATS else None


def _has_entropy_of_thoughts_fallen(records: Records) -> bool:
    course = Course.of(records, "rollout/thought_entropy_nats")
    return course.last < _FALLEN_TO * course.first


def _is_collapse(records: Records) -> bool:
    """Thoughts are less different, and nothing says that this is since they name better what was seen."""
    is_uniform = _has_information_halved(records)
    if is_uniform is None:
        is_reading_better = Course.of(records, "rollout/recognition_accuracy").has_risen
        is_uniform = Course.of(records, "rollout/thought_unique_share").has_halved and not is_reading_better
    return is_uniform and _has_entropy_of_thoughts_fallen(records)


def _is_template(records: Records) -> bool:
    return bool(_has_information_halved(records)) and not _has_entropy_of_thoughts_fallen(records)


def _is_growing(records: Records) -> bool:
    length = Course.of(records, "rollout/completion_length_tokens")
    return length.last > length.first and Course.of(records, "rollout/completion_cut_share").has_risen


def _is_better(records: Records) -> bool:
    course = Course.of(records, "rollout/success_rate")
    if math.isnan(course.last):
        course = Course.of(records, "rollout/return_mean")
        return course.last > course.first
    return course.has_risen or course.last >= 1 - _LOST


def _is_action_fixed(records: Records) -> bool:
    course = Course.of(records, "rollout/action_entropy_nats")
    is_still = course.first >= _LEAST_ENTROPY_NATS and course.last < _STILL_TO * course.first
    is_format_learned = Course.of(records, "rollout/parse_rate").has_risen  # its tokens become certain, rightly
    return is_still and not is_format_learned and not _is_better(records)


def _is_diverging(records: Records) -> bool:
    course = Course.of(records, "rollout/entropy_nats")
    is_growing = course.last >= _LEAST_ENTROPY_NATS and course.last > _RISEN_TO * course.first
    return is_growing and not _is_better(records)


_CAUSES: dict[str, tuple[Callable[[Records], bool], str]] = {
    "collapse": (
        _is_collapse,
        "thoughts become alike while their entropy falls: a reward for the outcome alone does not keep them. Try guided "
        "thoughts (`algorithm.name = 'gtr'` with `guidance.corrector`), the reward term `rewards.recognition`, or "
        "`algorithm.kl_coef`",
    ),
    "template": (
        _is_template,
        "thoughts still vary, but depend less and less on what is seen: little of the reward differs between episodes, and "
        "noise and regularisation rule. Try `algorithm.more_groups` with a larger `group_size`, less "
        "`algorithm.entropy_coef` and `algorithm.kl_coef`, or the reward term `rewards.recognition`",
    ),
    "format": (
        lambda records: Course.of(records, "rollout/parse_rate").has_lost(),
        "fewer answers can be read: the format is being unlearned. Try `interface.on_parse_failure = 'penalty'`, a lower "
        "`optim.lr`, the reward term `rewards.format`, or more supervised steps before",
    ),
    "length": (
        _is_growing,
        "completions grow into their limit and are cut. Try a larger `interface.max_new_tokens`, a lower "
        "`algorithm.entropy_coef`, the reward term `rewards.repetition`, or `algorithm.average = 'constant'`, under which "
        "long failures are not cheaper",
    ),
    "idle_thoughts": (
        lambda records: Course.of(records, "rollout/thought_action_agreement").has_lost(_LOST_AGREEMENT),
        "actions follow less and less from the facts written before them: the reward reaches the action and not the "
        "thought. Try a larger `algorithm.thought_weight`, guided thoughts (`guidance.corrector`), or the reward "
        "term `rewards.recognition`",
    ),
    "reading": (
        lambda records: Course.of(records, "rollout/recognition_accuracy").has_lost(),
        "facts are read worse than before: success does not need them, or updates are too large. Try the reward term "
        "`rewards.recognition`, a lower `optim.lr`, or `algorithm.kl_coef`",
    ),
    "fixed_action": (
        _is_action_fixed,
        "the choice of action has become certain without more success. Try `algorithm.entropy_coef`, "
        "`algorithm.clip_high` above `algorithm.clip`, or a lower `optim.lr`",
    ),
    "divergence": (
        _is_diverging,
        "entropy grows without more success: updates are too large, or the bonus for entropy rules. Try a lower "
        "`optim.lr`, a lower `algorithm.entropy_coef`, or `algorithm.kl_coef`",
    ),
}


def collapses(records: Records) -> dict[str, str]:
    """What has gone wrong by the end of the records: name -> likely cause and what to try."""
    return {name: advice for name, (is_seen, advice) in _CAUSES.items() if is_seen(records)}


def new_collapses(records: Records) -> list[str]:
    """Warnings, "name: likely cause and what to try", on what the last record is the first to show."""
    before = collapses(records[:-1])
    return [f"{name}: {advice}" for name, advice in collapses(records).items() if name not in before]
