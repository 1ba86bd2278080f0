"""Trajectories to training samples: token ids, spans and rewards, then the critic's values.

The steps of a trajectory share one sample as long as each prompt continues the last step's prompt and completion exactly:
token ids and pictures. Where that breaks (no history, an older picture left out, a template that rewrites what was said),
a new sample starts. A whole conversation and one prompt a step are the same code.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from eyas.batch import Candidates, SampleStep, TrainingSample, first_token_beyond
from eyas.errors import DatasetError
from eyas.models.adapter import EncodedPrompt, VisionLanguageModel
from eyas.models.policy import Policy
from eyas.types import Completion, ImagePart, ImageStore, Message, Step, TextPart, Trajectory

log = logging.getLogger(__name__)


class _Merger:
    """Adds steps to the sample that they continue, or begins another one."""

    def __init__(self, model: VisionLanguageModel, trajectory: int):
        self.model, self.trajectory = model, trajectory
        self.samples: list[TrainingSample] = []

    def add(
        self, step: Step, prompt: EncodedPrompt, ids: np.ndarray, is_target: bool = True, is_sampled: bool = False
    ) -> SampleStep:
        """`ids` are the completion's. A step that is no target is only part of what later ones see."""
        if not self.samples or not continues(self.samples[-1], prompt, self.model):
            self.samples.append(TrainingSample(prompt.ids, prompt.image_hashes, (), trajectory=self.trajectory))
        sample, start = self.samples[-1], len(prompt.ids)
        sample.ids, sample.image_hashes = np.concatenate([prompt.ids, ids]), prompt.image_hashes
        span = SampleStep(start, start + self._action_start(step, ids, is_sampled), start + len(ids))
        span.num_images = len(prompt.image_hashes)
        if is_target:
            sample.steps = (*sample.steps, span)
        return span

    def _action_start(self, step: Step, ids: np.ndarray, is_sampled: bool) -> int:
        if is_sampled and step.completion.scores is not None:
            return step.completion.scores.start
        return first_token_beyond(ids, step.parse.action_start, self.model.decode)


def continues(sample: TrainingSample, prompt: EncodedPrompt, model: VisionLanguageModel) -> bool:
    """Whether a prompt begins with all of a sample: its token ids, and its pictures in the same places.

    Never where a prompt attends both ways: all that it begins with would be read differently.
    """
    count = len(sample.image_hashes)
    return (
        model.family.is_causal
        and prompt.image_hashes[:count] == sample.image_hashes
        and np.array_equal(prompt.ids[: len(sample.ids)], sample.ids)
    )


def build_samples(
    trajectories: Sequence[Trajectory], model: VisionLanguageModel, images: ImageStore
) -> list[TrainingSample]:
    """Samples of the sampled token ids: text is never tokenised again here.

    Raises DatasetError for a completion without token ids or log-probs (an expert's, a person's): such steps serve
    supervision only.
    """
    samples: list[TrainingSample] = []
    for index, trajectory in enumerate(trajectories):
        merger = _Merger(model, index)
        logprobs: dict[int, list[np.ndarray]] = {}
        for position, step in enumerate(trajectory.steps):
            completion = step.completion
            if completion.token_ids is None or completion.sampling_logprobs is None:
                raise DatasetError(
                    f"step {position} of episode {trajectory.episode} has no sampled token ids and log-probs "
                    "(was it played by an expert or a person?): use an sft stage for such data"
                )
            prompt = model.encode(step.messages, images)
            span = merger.add(step, prompt, completion.token_ids.astype(np.int64), is_sampled=True)
            span.candidates = _candidates(completion)
            span.reward = step.reward.total
            span.anchor = anchor_of(step.messages)
            logprobs.setdefault(len(merger.samples) - 1, []).append(_of_elements(completion))
        count = sum(span.num_elements for sample in merger.samples for span in sample.steps)
        for place, sample in enumerate(merger.samples):
            sample.sampling_logprobs = np.concatenate(logprobs[place])
            sample.group = trajectory.group
            for span in sample.steps:
                span.share = span.num_elements / max(count, 1)
        samples += merger.samples
    return samples


def anchor_of(messages: Sequence[Message]) -> str:
    """Equal where the current observation is: its pictures by content hash, or its words where it shows none."""
    *before, last = messages[-1].parts
    hashes: list[str] = []
    for part in reversed([*before, last] if isinstance(last, ImagePart) else before):
        if not isinstance(part, ImagePart):
            break
        hashes.append(part.image_hash)
    return last.text if isinstance(last, TextPart) and not hashes else " ".join(hashes)


def _candidates(completion: Completion) -> Candidates | None:
    if (scores := completion.scores) is None:
        return None
    return Candidates(scores.candidates, scores.chosen, scores.is_per_token, scores.logprobs)


def _of_elements(completion: Completion) -> np.ndarray:
    """Log-probs of what a loss weighs: each token, or the thought's tokens and the chosen action as one."""
    logprobs, scores = completion.sampling_logprobs, completion.scores
    assert logprobs is not None
    if scores is None:
        return logprobs
    return np.append(logprobs[: scores.start], scores.logprobs[scores.chosen]).astype(np.float32)


def annotate(policy: Policy, trajectories: Sequence[Trajectory], samples: Sequence[TrainingSample]) -> None:
    """Fills each step's value, and the value after each trajectory's last step: 0 where the episode truly ended.

    Where the critic looks at every token, also those before each element.

    A final prompt that continues its trajectory's last sample is read together with it.
    """
    texts = [EncodedPrompt(s.ids[: s.steps[-1].start], s.image_hashes) for s in samples]
    columns = [[step.start - 1 for step in s.steps] for s in samples]
    last = {s.trajectory: i for i, s in enumerate(samples)}
    finals: dict[int, int] = {}  # trajectory -> index of the text whose last column is its final value
    for index, trajectory in enumerate(trajectories):
        if not trajectory.stop_reason.is_bootstrapped or index not in last:
            continue
        if trajectory.final_messages is None:
            raise ValueError(f"episode {trajectory.episode} was {trajectory.stop_reason} without a final observation")
        final = policy.model.encode(trajectory.final_messages, policy.images)
        finals[index] = last[index] if continues(samples[last[index]], final, policy.model) else len(texts)
        if finals[index] == len(texts):
            texts.append(final)
            columns.append([])
        texts[finals[index]] = final
        columns[finals[index]].append(len(final.ids) - 1)
    values = policy.values(texts, columns) if texts else []
    steps = iter([step for t in trajectories for step in t.steps])
    for sample, of_sample in zip(samples, values, strict=False):
        for span, value in zip(sample.steps, of_sample, strict=False):
            span.value = next(steps).value = float(value)
    if policy.critic.config.level == "token":
        for sample, of_elements in zip(samples, policy.token_values(samples), strict=True):
            sample.element_values = of_elements
    for index, trajectory in enumerate(trajectories):
        trajectory.final_value = float(values[finals[index]][-1]) if index in finals else 0.0
        if index in last:
            samples[last[index]].steps[-1].next_value = trajectory.final_value


def supervised_samples(
    trajectory: Trajectory, model: VisionLanguageModel, images: ImageStore, index: int = 0
) -> list[TrainingSample]:
    """Targets of supervision: each written text, tokenised once, here, and ended with the end-of-turn token.

    Recorded token ids are not used, not in earlier turns either: another model may have written them. An expert never
    runs out of context, a model would: the steps from the first that does not fit are left out.
    """
    merger = _Merger(model, index)
    for position, step in enumerate(trajectory.steps):
        prompt = model.encode(as_texts(step.messages), images)
        ids = model.encode_text(step.completion.text)
        if len(prompt.ids) + len(ids) > model.context:
            log.warning(
                "the last %d of %d steps of episode %d do not fit into the model's context of %d tokens and are left out",
                len(trajectory.steps) - position, len(trajectory.steps), trajectory.episode, model.context,
            )  # fmt: skip
            break
        merger.add(step, prompt, ids, is_target=bool(step.completion.text))
    return [s for s in merger.samples if s.steps]


def as_texts(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Earlier answers by their text alone: another model may have written them, with token ids of its own."""
    return tuple(
        m
        if m.completion is None or m.completion.token_ids is None
        else replace(m, completion=Completion(m.completion.text))
        for m in messages
    )
