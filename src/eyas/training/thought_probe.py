"""Whether thoughts depend on what was seen: each of a few is scored under the prompt of every other (RAGEN-2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eyas.batch import SampleStep, TrainingSample
from eyas.evaluation.thoughts import has_thought, mutual_information, own_prompt_share
from eyas.seeding import generator
from eyas.training.learner import Learner
from eyas.training.prepare import learner_logprobs
from eyas.types import Trajectory

PROBED = 8  # thoughts, and prompts: 64 scores


@dataclass(frozen=True, slots=True)
class _Thought:
    prompt: np.ndarray  # int64 (P,)
    image_hashes: tuple[str, ...]  # of the prompt
    ids: np.ndarray  # int64 (T,)


def probe_thoughts(
    learner: Learner, trajectories: Sequence[Trajectory], samples: Sequence[TrainingSample], seed: int
) -> dict[str, float]:
    """Scores up to 8 thoughts of an iteration under the prompts of one another, which all differ; what to log of it.

    `samples` are those of the trajectories, and the weights those that sampled them. Nothing where there are not two.
    """
    chosen = _chosen(_thoughts(trajectories, samples), seed, learner.policy.model.context)
    if len(chosen) < 2:
        return {}
    scores = np.zeros((len(chosen), len(chosen)))
    for place, other in enumerate(chosen):  # a pass for each prompt, which is read once
        logprobs = learner_logprobs(learner, [_under(other, thought) for thought in chosen])
        scores[:, place] = [of_thought.sum(dtype=np.float64) for of_thought in logprobs]
    return {
        "rollout/thought_mutual_information_nats": mutual_information(scores),
        "rollout/thought_own_prompt_share": own_prompt_share(scores),
        "rollout/thought_probed_count": float(len(chosen)),
    }


def _thoughts(trajectories: Sequence[Trajectory], samples: Sequence[TrainingSample]) -> list[_Thought]:
    steps = (step for t in trajectories for step in t.steps)
    spans = ((sample, span) for sample in samples for span in sample.steps)
    return [
        _Thought(sample.ids[: span.start], sample.image_hashes[: span.num_images], sample.ids[span.start : end])
        for step, (sample, span) in zip(steps, spans, strict=True)
        if has_thought(step) and (end := span.action_start) > span.start
    ]


def _chosen(thoughts: Sequence[_Thought], seed: int, context: int) -> list[_Thought]:
    """Of different prompts, each with room for the longest thought of all."""
    longest = max((len(t.ids) for t in thoughts), default=0)
    found: dict[tuple[bytes, tuple[str, ...]], _Thought] = {}
    for index in generator("thought probe", seed).permutation(len(thoughts)):
        thought = thoughts[index]
        if len(thought.prompt) + longest <= context:
            found.setdefault((thought.prompt.tobytes(), thought.image_hashes), thought)
        if len(found) == PROBED:
            break
    return list(found.values())


def _under(other: _Thought, thought: _Thought) -> TrainingSample:
    ids = np.concatenate([other.prompt, thought.ids])
    return TrainingSample(ids, other.image_hashes, (SampleStep(len(other.prompt), len(ids), len(ids)),))
