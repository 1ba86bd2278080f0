"""Supervised fine-tuning on recorded episodes: cross-entropy on completion tokens, with held-out episodes."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from eyas.algorithms.supervised import Supervised
from eyas.batch import Denominators, TrainingSample
from eyas.config import RLStage, SFTStage, is_folder
from eyas.errors import DatasetError
from eyas.evaluation.measures import start_keys
from eyas.evaluation.statistics import mean_or_none
from eyas.models.reading import batch_of
from eyas.rewards.recognition import recognised_share
from eyas.rollouts.datasets import DatasetImageStore, dataset_info, load_trajectories
from eyas.rollouts.samples import supervised_samples
from eyas.rollouts.task import Task
from eyas.seeding import generator
from eyas.splits import micro_batches
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer
from eyas.training.progress import StageProgress
from eyas.training.run import Run
from eyas.types import Trajectory

BUCKET_BATCHES = 16  # batches whose samples are sorted by length together
VALIDATION_TOKENS = 2**14  # of a pass over held-out samples
VALIDATION_STEPS = 128  # held-out steps that are completed greedily


def fine_tune(run: Run, stage: SFTStage) -> None:
    """Trains on datasets; logs the loss, and every now and then what the held-out episodes say."""
    folders = [Path(data) if is_folder(data) else run.folder / "datasets" / data for data in stage.datasets]
    with ExitStack() as stack:
        for folder in folders:
            check_dataset(run.tasks, folder)
            images = DatasetImageStore(folder)
            run.images.attach(images)
            stack.callback(run.images.detach, images)
        _fine_tune(run, stage, [t for folder in folders for t in episodes_of(run.tasks, folder)])


def episodes_of(tasks: Sequence[Task], folder: str | Path) -> list[Trajectory]:
    """The episodes of a dataset as ones of these tasks: where they were recorded, others may have had other numbers."""
    env_id, trajectories = dataset_info(folder)["env"], load_trajectories(folder)
    numbers = [task.index for task in tasks if task.env_id == env_id]
    for trajectory in trajectories:
        if trajectory.task not in numbers:
            trajectory.task = numbers[0]
    return trajectories


def check_dataset(tasks: Sequence[Task], folder: str | Path) -> None:
    """Raises DatasetError where the episodes are of an environment that the run does not have."""
    env_id = dataset_info(folder).get("env")
    if env_id not in {t.env_id for t in tasks}:
        raise DatasetError(f"the dataset {folder} is of {env_id}, the run's tasks are {[t.env_id for t in tasks]}")


def _fine_tune(run: Run, stage: SFTStage, trajectories: list[Trajectory]) -> None:
    train_set, held_out = split(trajectories, stage.validation_share, run.config.seed)
    samples, held_out_samples = supervise(run, train_set), supervise(run, held_out)
    if not samples:
        raise DatasetError(
            "no step of the dataset has a written text: collect with an expert or a checkpoint, or at random with "
            "thoughts = false where the environment has facts and no expert that tells them"
        )
    batches = Batches(samples, stage.batch_size, run.config.seed)
    run.training_starts |= start_keys(train_set)
    num_updates = updates(run, stage)
    parts = run.take_parts()
    begin = run.state["iteration"]
    if begin == 0 and stage.start_from is not None:
        run.policy.load_weights(run.checkpoint(stage.start_from))
    optimizer = Optimizer(run.policy.model, run.policy.critic, stage.optim, num_updates)
    learner = Learner(run.policy, Supervised(), optimizer, micro_batch_tokens=stage.micro_batch_tokens)
    if parts:
        optimizer.load_state_dict(parts["optimizer"])
        learner.load_state_dict(parts["learner"])
    shown: dict[str, float | None] = {}
    with StageProgress(run.console, stage.name, num_updates, begin) as progress:
        for index in range(begin, num_updates):
            numbers: dict[str, float | None] = dict(learner.update(batches[index]))
            is_last = index + 1 == num_updates
            is_due = (index + 1) % stage.validation_every == 0
            if held_out_samples and (is_due or is_last):
                numbers |= validate(run, learner, held_out, held_out_samples)
            run.log(stage.name, index, numbers)
            shown |= {"loss": numbers["train/loss"], "held-out": numbers.get("validation/loss", shown.get("held-out"))}
            shown |= {"exact": numbers.get("validation/exact_match", shown.get("exact"))}
            progress.update(index + 1, shown)
            if (is_due or run.stop_requested) and not is_last:
                run.save_iteration(index + 1, {"optimizer": optimizer.state_dict(), "learner": learner.state_dict()})
                run.stop_here()


def updates(run: Run, stage: SFTStage) -> int:
    """The stage's own number, or that of the rl stage that it is compared with, as it really was."""
    if stage.steps is not None:
        return stage.steps
    assert stage.steps_like is not None
    like = run.config.stage(stage.steps_like)
    assert isinstance(like, RLStage)
    return run.state["updates"][like.name]


def split(
    trajectories: Sequence[Trajectory], validation_share: float, seed: int
) -> tuple[list[Trajectory], list[Trajectory]]:
    """Training and held-out episodes. A share above 0 holds out at least one, and never all."""
    if not trajectories:
        raise DatasetError("the dataset holds no episode: collect some first")
    order = generator("held out", seed).permutation(len(trajectories))
    wanted = max(1, round(validation_share * len(trajectories))) if validation_share else 0
    count = min(wanted, len(trajectories) - 1)
    held_out = set(order[:count].tolist())
    return (
        [t for i, t in enumerate(trajectories) if i not in held_out],
        [t for i, t in enumerate(trajectories) if i in held_out],
    )


def supervise(run: Run, trajectories: Sequence[Trajectory]) -> list[TrainingSample]:
    """Every step with a written text, tokenised once; the steps of a conversation share a sample."""
    return [
        sample
        for index, trajectory in enumerate(trajectories)
        for sample in supervised_samples(trajectory, run.policy.model, run.images, index)
    ]


class Batches:
    """An endless seeded order of batches: no sample twice in an epoch, similar lengths together.

    Batch `index` depends on the arguments alone, so that a resumed run goes on with the same batches.
    """

    def __init__(self, samples: Sequence[TrainingSample], batch_size: int, seed: int):
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.an_epoch = max(1, len(samples) // batch_size)
        self._epoch = -1
        self._batches: list[np.ndarray] = []

    def __getitem__(self, index: int) -> list[TrainingSample]:
        epoch, position = divmod(index, self.an_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._shuffled(epoch)
        return [self.samples[i] for i in self._batches[position]]

    def _shuffled(self, epoch: int) -> list[np.ndarray]:
        rng = generator("sft order", self.seed, epoch)
        order = rng.permutation(len(self.samples))
        used, bucket_size = self.an_epoch * self.batch_size, BUCKET_BATCHES * self.batch_size
        batches: list[np.ndarray] = []
        for start in range(0, used, bucket_size):
            bucket = sorted(order[start : min(start + bucket_size, used)], key=lambda i: len(self.samples[i].ids))
            batches += np.array_split(np.array(bucket), max(1, len(bucket) // self.batch_size))
        return [batches[i] for i in rng.permutation(len(batches))]


@torch.inference_mode()
def validate(
    run: Run, learner: Learner, trajectories: Sequence[Trajectory], samples: Sequence[TrainingSample]
) -> dict[str, float | None]:
    """Loss on all held-out steps; exact match and recognition of greedy completions on up to 128 of them."""
    denominators = Denominators.of(samples)
    loss = 0.0
    for part in micro_batches(samples, VALIDATION_TOKENS):
        batch = batch_of(run.policy.model, run.images, part)
        loss += float(learner.algorithm.loss(batch, learner.forward(batch), denominators).total)
    steps = [(run.tasks[t.task].interface, s) for t in trajectories for s in t.steps if s.completion.text]
    steps = steps[:VALIDATION_STEPS]
    requests = [interface.request(s.messages, s.legal_actions, seed=0, temperature=0.0) for interface, s in steps]
    exact, recognised = [], []
    for (interface, step), completion in zip(steps, run.policy.sample(requests), strict=True):
        exact.append(completion.text == step.completion.text)
        answer = interface.parse(completion, None)
        recognised.append(recognised_share(answer, step.facts, interface.format.fact_keys))
    return {
        "validation/loss": loss,
        "validation/exact_match": mean_or_none(exact),
        "validation/recognition_accuracy": mean_or_none(r for r in recognised if r is not None),
    }
