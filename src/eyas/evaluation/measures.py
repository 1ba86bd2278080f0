"""What trajectories say in numbers. Log, report and viewer call these functions, and no others."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import islice

from eyas.evaluation.statistics import entropy_or_none, mean_or_none
from eyas.evaluation.thoughts import (
    Divided,
    action_entropy,
    thought_action_agreement,
    thought_entropy,
    thought_self_bleu,
    thought_unique_share,
)
from eyas.rewards.recognition import recognised_share
from eyas.types import (
    FactRule,
    FinishReason,
    ImagePart,
    ParsedAction,
    ParseFailure,
    Step,
    StopReason,
    Trajectory,
)


def graded_episodes(episodes: Sequence[Trajectory]) -> list[Trajectory]:
    """Episodes of the tasks that define success: those that told it at an end. Where such a task is silent, it failed."""
    inside = [t for t in episodes if t.stop_reason in (StopReason.TERMINATED, StopReason.TRUNCATED)]
    silent = {t.task for t in inside} - {t.task for t in inside if t.success is not None}
    defining = {t.task for t in episodes if t.success is not None} - silent
    return [t for t in episodes if t.task in defining]


def success_rate(episodes: Sequence[Trajectory]) -> float | None:
    """Share of the episodes with success; None where the task defines none."""
    return mean_or_none(bool(t.success) for t in graded_episodes(episodes))


def strict_success_rate(episodes: Sequence[Trajectory]) -> float | None:
    """Share of the episodes with success and without a single fallback action."""
    return mean_or_none(t.is_strict_success for t in graded_episodes(episodes))


def written_steps(trajectories: Sequence[Trajectory]) -> list[Step]:
    """Steps with a text that was parsed: those of random and constant players have none."""
    return [s for t in trajectories for s in t.steps if s.completion.text or isinstance(s.parse, ParseFailure)]


def parse_rate(steps: Sequence[Step]) -> float | None:
    return mean_or_none(isinstance(s.parse, ParsedAction) for s in steps)


def recognition_accuracy(trajectories: Sequence[Trajectory], fact_keys: Mapping[int, Sequence[str]]) -> float | None:
    """Mean share of the facts, named by task index, that were written down right; a parse failure counts as none right."""
    shares = (recognised_share(s.parse, s.facts, fact_keys[t.task]) for t in trajectories for s in written_steps([t]))
    return mean_or_none(share for share in shares if share is not None)


def sampled_entropy(steps: Sequence[Step]) -> float | None:
    """Entropy a token in nats, estimated as the mean negative log-prob of the sampled tokens.

    Where actions are scored, of the thought's tokens: the action's own is `action_entropy`.
    """
    arrays = [
        c.sampling_logprobs if c.scores is None else c.sampling_logprobs[: c.scores.start]
        for c in (s.completion for s in steps)
        if c.sampling_logprobs is not None
    ]
    return entropy_or_none(arrays)


def cut_share(steps: Sequence[Step]) -> float | None:
    """Share of the sampled completions that were cut at `max_new_tokens`."""
    sampled = [s.completion for s in steps if s.completion.token_ids is not None]
    return mean_or_none(c.finish_reason is FinishReason.LENGTH for c in sampled)


def stop_reasons(episodes: Sequence[Trajectory]) -> dict[str, int]:
    return dict(Counter(str(t.stop_reason) for t in episodes))


def parse_failures(steps: Sequence[Step]) -> dict[str, int]:
    return dict(Counter(str(s.parse.reason) for s in steps if isinstance(s.parse, ParseFailure)))


def start_key(trajectory: Trajectory) -> str | None:
    """Equal where, and only where, two episodes began with the same prompt; None where the start was not seen."""
    if trajectory.first_step or not trajectory.steps:
        return None
    digest = blake2b(digest_size=8)
    for part in (p for m in trajectory.steps[0].messages for p in m.parts):
        digest.update((part.image_hash if isinstance(part, ImagePart) else part.text).encode() + b"\x1f")
    return digest.hexdigest()


def start_keys(trajectories: Iterable[Trajectory]) -> set[str]:
    return {k for t in trajectories if (k := start_key(t)) is not None}


def rollout_metrics(
    trajectories: Sequence[Trajectory],
    fact_keys: Mapping[int, Sequence[str]],
    fact_rules: Mapping[int, FactRule | None] = {},
    divided: Divided = (),
) -> dict[str, float | None]:
    """What an iteration's rollout is logged as. Episode measures are over the episodes that ended in it.

    Fact keys and rules are those of each task, by its index. `divided` says where thoughts end and actions begin, for their
    entropies: training samples know it.
    """
    ended = [t for t in trajectories if t.has_ended]
    steps = written_steps(trajectories)
    counts = {f"rollout/stop_{k}_count": float(v) for k, v in stop_reasons(trajectories).items()}
    counts |= {f"rollout/parse_failure_{k}_count": float(v) for k, v in parse_failures(steps).items()}
    return {
        "rollout/episodes_count": float(len(ended)),
        "rollout/success_rate": success_rate(ended),
        "rollout/strict_success_rate": strict_success_rate(ended),
        "rollout/return_mean": mean_or_none(t.total_return for t in ended),
        "rollout/reward_mean": mean_or_none(s.reward.total for t in trajectories for s in t.steps),
        "rollout/episode_length_steps": mean_or_none(t.num_steps for t in ended),
        "rollout/parse_rate": parse_rate(steps),
        "rollout/recognition_accuracy": recognition_accuracy(trajectories, fact_keys),
        "rollout/thought_unique_share": thought_unique_share(steps),
        "rollout/thought_self_bleu": thought_self_bleu(steps),
        "rollout/thought_action_agreement": thought_action_agreement(trajectories, fact_rules),
        "rollout/entropy_nats": sampled_entropy(steps),
        "rollout/thought_entropy_nats": thought_entropy(divided),
        "rollout/action_entropy_nats": action_entropy(steps, divided),
        "rollout/completion_length_tokens": mean_or_none(
            len(s.completion.token_ids) for s in steps if s.completion.token_ids is not None
        ),
        "rollout/completion_cut_share": cut_share(steps),
        **counts,
    }


def a_few(trajectories: Sequence[Trajectory], n: int) -> list[Trajectory]:
    """Up to n episodes that ended, failures and successes in turn, so that both are seen."""
    good = [t for t in trajectories if t.has_ended and t.success]
    bad = [t for t in trajectories if t.has_ended and not t.success]
    mixed = [t for pair in zip(good, bad, strict=False) for t in pair]
    shorter = min(len(good), len(bad))
    return list(islice([*mixed, *good[shorter:], *bad[shorter:]], n))
