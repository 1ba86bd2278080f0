"""What the log of a stage says of collapses: the likely cause of each, and what to try."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Records = Sequence[Mapping[str, Any]]  # of one stage, in order


@dataclass(frozen=True)
class Thresholds:
    """From where on a change counts. Ends are means over a few iterations; best is the best such mean so far."""

    window: int = 3  # iterations that an end is the mean of; fewer than two ends say nothing
    fallen_to: float = 0.5  # diversity, entropy of thoughts, mutual information: share of what they were
    least_information_nats: float = 0.2  # mutual information below which there was nothing to lose
    risen_to: float = 3.0  # entropy of all tokens: times what it was
    still_to: float = 0.1  # entropy of actions: share of what it was
    least_entropy_nats: float = 0.2  # below it a choice was certain before, and is certain still
    lost: float = 0.1  # parse rate, recognition, success, cut completions: change of the share
    lost_agreement: float = 0.2  # of thought and action: a share of fewer steps


LIMITS = Thresholds()


@dataclass(frozen=True)
class Course:
    """How one number went: at first, at best (its highest), at the end. None where it is not known for long enough."""

    first: float
    best: float
    last: float

    @classmethod
    def of(cls, records: Records, key: str, window: int = LIMITS.window) -> "Course | None":
        known = [r[key] for r in records if isinstance(r.get(key), int | float) and math.isfinite(r[key])]
        if len(known) < 2 * window:
            return None
        means = [sum(known[i : i + window]) / window for i in range(len(known) - window + 1)]
        return cls(means[0], max(means), means[-1])


def _fell_by(course: Course | None, share: float) -> bool:
    return course is not None and course.best - course.last >= share


def _halved(course: Course | None) -> bool:
    return course is not None and course.last < LIMITS.fallen_to * course.best


def _rose(course: Course | None) -> bool:
    return course is not None and course.last - course.first >= LIMITS.lost


def _information(records: Records) -> Course | None:
    """Probes are few, and each is over many scores: none is averaged with others."""
    course = Course.of(records, "rollout/thought_mutual_information_nats", window=1)
    return course if course is not None and course.best >= LIMITS.least_information_nats else None


def _entropy_of_thoughts_fell(records: Records) -> bool:
    course = Course.of(records, "rollout/thought_entropy_nats")
    return course is not None and course.last < LIMITS.fallen_to * course.first


def _are_thoughts_uniform(records: Records) -> bool:
    """Fewer are different, and nothing says that this is since they name better what was seen."""
    if (information := _information(records)) is not None:
        return _halved(information)
    is_reading_better = _rose(Course.of(records, "rollout/recognition_accuracy"))
    return _halved(Course.of(records, "rollout/thought_unique_share")) and not is_reading_better


def _is_better(records: Records) -> bool:
    course = Course.of(records, "rollout/success_rate")
    if course is not None:
        return _rose(course) or course.last >= 1 - LIMITS.lost
    course = Course.of(records, "rollout/return_mean")
    return course is not None and course.last > course.first


def _is_collapse(records: Records) -> bool:
    return _entropy_of_thoughts_fell(records) and _are_thoughts_uniform(records)


def _is_template(records: Records) -> bool:
    return not _entropy_of_thoughts_fell(records) and _halved(_information(records))


def _is_format_lost(records: Records) -> bool:
    return _fell_by(Course.of(records, "rollout/parse_rate"), LIMITS.lost)


def _is_growing(records: Records) -> bool:
    length = Course.of(records, "rollout/completion_length_tokens")
    return (
        length is not None and length.last > length.first and _rose(Course.of(records, "rollout/completion_cut_share"))
    )


def _is_thought_idle(records: Records) -> bool:
    return _fell_by(Course.of(records, "rollout/thought_action_agreement"), LIMITS.lost_agreement)


def _is_reading_lost(records: Records) -> bool:
    return _fell_by(Course.of(records, "rollout/recognition_accuracy"), LIMITS.lost)


def _is_action_fixed(records: Records) -> bool:
    course = Course.of(records, "rollout/action_entropy_nats")
    if course is None or course.first < LIMITS.least_entropy_nats:
        return False
    is_still = course.last < LIMITS.still_to * course.first
    is_format_learned = _rose(Course.of(records, "rollout/parse_rate"))  # its tokens become certain, rightly
    return is_still and not is_format_learned and not _is_better(records)


def _is_diverging(records: Records) -> bool:
    course = Course.of(records, "rollout/entropy_nats")
    if course is None or course.last < LIMITS.least_entropy_nats:
        return False
    return course.last > LIMITS.risen_to * course.first and not _is_better(records)


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
        _is_format_lost,
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
        _is_thought_idle,
        "actions follow less and less from the facts written before them: the reward reaches the action and not the "
        "thought. Try a larger `algorithm.thought_weight`, guided thoughts (`guidance.corrector`), or the reward "
        "term `rewards.recognition`",
    ),
    "reading": (
        _is_reading_lost,
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
