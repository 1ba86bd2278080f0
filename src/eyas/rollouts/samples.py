"""Trajectories to training samples: values first, then token ids, spans and rewards."""

from collections.abc import Sequence

import numpy as np

from eyas.batch import SampleStep, TrainingSample, first_token_beyond
from eyas.errors import DatasetError
from eyas.models.adapter import VisionLanguageModel
from eyas.models.policy import Policy
from eyas.types import ImageStore, Message, Step, Trajectory


def annotate(policy: Policy, trajectories: Sequence[Trajectory]) -> None:
    """Fills each step's value, and the value after the last step: 0 where the episode truly ended."""
    cut = [t for t in trajectories if t.stop_reason.is_bootstrapped]
    prompts: list[Sequence[Message]] = [s.messages for t in trajectories for s in t.steps]
    for trajectory in cut:
        if trajectory.final_messages is None:
            raise ValueError(f"episode {trajectory.episode} was {trajectory.stop_reason} without a final observation")
        prompts.append(trajectory.final_messages)
    values = iter(policy.values(prompts).tolist() if prompts else [])
    for trajectory in trajectories:
        for step in trajectory.steps:
            step.value = next(values)
        trajectory.final_value = 0.0
    for trajectory in cut:
        trajectory.final_value = next(values)


def build_samples(
    trajectories: Sequence[Trajectory], model: VisionLanguageModel, images: ImageStore
) -> list[TrainingSample]:
    """One sample a step, on the sampled token ids: text is never tokenised again here.

    Raises DatasetError for a completion without token ids or log-probs (an expert's, a person's): such steps serve
    supervision only.
    """
    samples = []
    for index, trajectory in enumerate(trajectories):
        for position, step in enumerate(trajectory.steps):
            completion = step.completion
            if completion.token_ids is None or completion.sampling_logprobs is None:
                raise DatasetError(
                    f"step {position} of episode {trajectory.episode} has no sampled token ids and log-probs "
                    "(was it played by an expert or a person?): use an sft stage for such data"
                )
            is_last = position == len(trajectory.steps) - 1
            sample = _sample(step.messages, completion.token_ids, step, model, images)
            sample.trajectory, sample.sampling_logprobs = index, completion.sampling_logprobs
            span = sample.steps[0]
            span.reward, span.value = step.reward.total, step.value or 0.0
            span.next_value = trajectory.final_value if is_last else None
            samples.append(sample)
    return samples


def supervised_sample(
    messages: Sequence[Message], text: str, step: Step, model: VisionLanguageModel, images: ImageStore
) -> TrainingSample:
    """A target of supervision: its text is tokenised once, here, and ends with the end-of-turn token."""
    return _sample(messages, model.encode_text(text), step, model, images)


def _sample(
    messages: Sequence[Message], ids: np.ndarray, step: Step, model: VisionLanguageModel, images: ImageStore
) -> TrainingSample:
    prompt = model.encode(messages, images)
    start, end = len(prompt.ids), len(prompt.ids) + len(ids)
    action = first_token_beyond(ids, step.parse.action_start, model.decode)
    return TrainingSample(
        ids=np.concatenate([prompt.ids, ids.astype(np.int64)]),
        image_hashes=prompt.image_hashes,
        steps=(SampleStep(start, start + action, end),),
    )
