"""Guidance of a stage: corrects an iteration's thoughts, keeps the corrections, and hands them out to updates."""

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from eyas.batch import SampleStep, TrainingSample, first_token_beyond
from eyas.errors import ConfigError
from eyas.guidance.correctors import Corrector, corrector_factory
from eyas.guidance.options import GuidanceConfig
from eyas.interface import Interface
from eyas.models.adapter import VisionLanguageModel
from eyas.models.policy import Policy
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.task import Task
from eyas.seeding import generator
from eyas.types import Completion, ExpertMove, ImageStore, ParsedAction, Step, Trajectory

log = logging.getLogger(__name__)


def thought_sample(
    model: VisionLanguageModel, images: ImageStore, interface: Interface, step: Step, text: str
) -> TrainingSample | None:
    """A target of supervision: the tokens of a corrected answer that lie before its action, after the step's own prompt.

    A token that straddles the beginning of the action belongs to the action. None where the answer does not parse, no token
    is left, or all together do not fit into the model's context.
    """
    parse = interface.parse(Completion(text), None)
    if not isinstance(parse, ParsedAction):
        return None
    prompt = model.encode(step.messages, images)
    ids = model.encode_text(text)
    thought = ids[: first_token_beyond(ids, parse.action_start, model.decode)]
    start, end = len(prompt.ids), len(prompt.ids) + len(thought)
    if not len(thought) or end > model.context:
        return None
    return TrainingSample(np.concatenate([prompt.ids, thought]), prompt.image_hashes, (SampleStep(start, end, end),))


class Guide:
    """Corrections of every iteration, up to `buffer_size`, with their pictures (DAgger: Ross et al. 2011)."""

    def __init__(
        self, config: GuidanceConfig, tasks: Sequence[Task], policy: Policy, corrector: Corrector | None = None
    ):
        self.config, self.tasks, self.policy = config, tasks, policy
        self.corrector = corrector or corrector_factory(config.corrector)(config, policy)
        self.asks_expert = self.corrector.asks_expert or "lost" in config.ends_where
        self.kept: deque[TrainingSample] = deque(maxlen=config.buffer_size)
        self.images = MemoryImageStore()  # those of the run go with each iteration

    def early_end(self, step: Step, move: ExpertMove | None) -> float | None:
        """What a step earns beside its rewards where its episode ends with it; None where the episode goes on."""
        if "punished" in self.config.ends_where and step.reward.terms["environment"] < 0:
            return 0.0
        is_lost = "lost" in self.config.ends_where and move is not None and move.is_lost
        return self.config.early_end_reward if is_lost else None

    def correct(self, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        """Adds the corrections of all steps to those that are kept; returns what to log."""
        clock = time.perf_counter()
        before, counts = dict(self.corrector.costs), np.zeros(3)
        for task in self.tasks:
            steps = [s for t in trajectories if t.task == task.index for s in t.steps]
            for step, text in zip(steps, self.corrector(task, steps), strict=True):
                counts += 1, text is None, text not in (None, step.completion.text)
                if text is not None:
                    self._keep(task.interface, step, text)
        self.images.discard_except({h for sample in self.kept for h in sample.image_hashes})
        if counts[1] == counts[0] > 0:
            log.warning("no thought was corrected: no answer of the corrector says anything, or its calls are spent")
        steps_count = max(1.0, counts[0])
        return {
            "guidance/uncorrected_share": counts[1] / steps_count,
            "guidance/corrected_share": counts[2] / steps_count,
            "guidance/kept_count": float(len(self.kept)),
            "time/guidance_s": time.perf_counter() - clock,
            **{f"guidance/{name}": cost - before.get(name, 0.0) for name, cost in self.corrector.costs.items()},
        }

    def _keep(self, interface: Interface, step: Step, text: str) -> None:
        sample = thought_sample(self.policy.model, self.policy.images, interface, step, text)
        if sample is not None:
            self.kept.append(sample)
            for image_hash in sample.image_hashes:
                if image_hash not in self.images:
                    self.images.put(self.policy.images.get(image_hash))

    def draw(self, *keys: int | str) -> list[TrainingSample]:
        """A batch of kept corrections, each as likely; the keys decide which."""
        size = min(self.config.batch_size, len(self.kept))
        chosen = generator("corrections", *keys).choice(len(self.kept), size, replace=False) if size else ()
        return [self.kept[i] for i in chosen]

    # ------------------------------------------------------------------------------------- resuming

    def state_dict(self) -> dict[str, Any]:
        ids = [torch.from_numpy(s.ids) for s in self.kept]
        hashes = {h for sample in self.kept for h in sample.image_hashes}
        return {
            "ids": torch.cat(ids) if ids else torch.zeros(0, dtype=torch.long),
            "spans": [(len(s.ids), s.steps[0].start) for s in self.kept],
            "hashes": [list(s.image_hashes) for s in self.kept],
            "pictures": [torch.from_numpy(self.images.get(h).copy()) for h in sorted(hashes)],
            "corrector": self.corrector.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for picture in state["pictures"]:
            self.images.put(picture.numpy())
        self.kept.clear()
        begin = 0
        for (length, start), hashes in zip(state["spans"], state["hashes"], strict=True):
            ids = state["ids"][begin : begin + length].numpy().copy()
            self.kept.append(TrainingSample(ids, tuple(hashes), (SampleStep(start, length, length),)))
            begin += length
        self.corrector.load_state_dict(state["corrector"])


def check_guidance(config: GuidanceConfig, tasks: Sequence[Task]) -> None:
    """Raises ConfigError where a task lacks what the corrections need."""
    corrector_factory(config.corrector)
    needs_expert = config.corrector == "expert" or config.knows_truth or "lost" in config.ends_where
    for task in tasks:
        if not task.interface.format.thoughts:
            raise ConfigError(f"{task.env_id} is asked for no thought, so none can be corrected: set thoughts = true")
        if needs_expert and task.expert is None:
            raise ConfigError(
                f"{task.env_id} has no expert: set guidance.corrector = 'model', without knows_truth and ends_where 'lost'"
            )
