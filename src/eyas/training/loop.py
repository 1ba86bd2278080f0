"""From a configuration to a trained agent, top to bottom: collect, fine-tune, reinforce, evaluate, checkpoint."""

import logging
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial

import numpy as np

from eyas.algorithms.base import Algorithm
from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.algorithms.supervised import Supervised
from eyas.batch import TrainingSample
from eyas.config import CollectStage, EvalStage, RLStage, SFTStage
from eyas.evaluation.collapse import new_collapses
from eyas.evaluation.measures import rollout_metrics, start_keys
from eyas.evaluation.records import read_metrics
from eyas.guidance.guide import Guide
from eyas.rewards.registry import judge_metrics
from eyas.rollouts.actors import PolicyActor
from eyas.rollouts.collector import Collector
from eyas.seeding import Split, generator
from eyas.splits import minibatches, shuffled
from eyas.training.collect import chosen, collect_dataset, demonstrator
from eyas.training.evaluation import evaluate_curve, evaluate_ladder, playing_options
from eyas.training.iteration import Played, rollout
from eyas.training.learner import Learner
from eyas.training.learner_logprobs import LearnerLogprobs
from eyas.training.optim import Optimizer
from eyas.training.prepare import prepare
from eyas.training.progress import StageProgress
from eyas.training.run import Interrupted, Run, clear_folder
from eyas.training.sft import fine_tune
from eyas.training.thought_probe import probe_thoughts

log = logging.getLogger(__name__)
EPISODES_A_STAGE = 10**8  # no stage plays more
MISMATCH_LIMIT = 1e-3  # nats a token, before the first update of a run


def train(run: Run, resume: bool = False) -> None:
    """Runs the stages in order. Ctrl-C finishes the iteration, saves, and raises Interrupted."""
    run.open(resume)
    undo = run.on_interrupt()
    try:
        for stage in run.config.stages[run.state["stage"] :]:
            if isinstance(stage, CollectStage):
                collect(run, stage)
            elif isinstance(stage, SFTStage):
                fine_tune(run, stage)
            elif isinstance(stage, RLStage):
                reinforce(run, stage)
            elif isinstance(stage, EvalStage):
                evaluate_ladder(run, stage)
            run.finish_stage(stage)
            run.stop_here()
    finally:
        undo()
        run.close()


# ----------------------------------------------------------------------------------------------- demonstrations


def first_episode(run: Run, stage: CollectStage | RLStage) -> int:
    """Where a stage begins to number its episodes, so that no stage plays those of another of its kind."""
    kinds = [type(s) for s in run.config.stages[: run.config.stages.index(stage)]]
    return EPISODES_A_STAGE * kinds.count(type(stage))


def collect(run: Run, stage: CollectStage) -> None:
    """Writes a dataset to `datasets/NAME`."""
    task = run.tasks[stage.task]
    folder = run.folder / "datasets" / stage.name
    clear_folder(folder)
    actor = demonstrator(task, stage, run.policy)
    first = first_episode(run, stage)
    episodes = range(first, first + stage.episodes)
    about = stage.model_dump(include={"policy", "random_share", "keep", "labels"})
    with StageProgress(run.console, f"{stage.name}: {stage.policy} plays", stage.episodes) as progress:
        numbers = collect_dataset(
            task,
            actor,
            run.images,
            folder,
            run.config.seed,
            episodes,
            about,
            progress.update,
            chosen=partial(chosen, task, stage),
            **playing_options(run, stage.num_envs),
        )
    run.log(stage.name, 0, numbers)
    run.images.clear()


# ----------------------------------------------------------------------------------------------- reinforcement


def reinforce(run: Run, stage: RLStage) -> None:
    """Collect with fixed weights, credit, update; evaluate and checkpoint now and then."""
    algorithm = PolicyGradient(stage.algorithm)
    warmup = run.config.critic.warmup_updates
    optimizer = Optimizer(run.policy.model, run.policy.critic, stage.optim, total_updates(stage), warmup)
    learner = Learner(
        run.policy, algorithm, optimizer, stage.temperature, stage.micro_batch_tokens, stage.max_nonfinite_updates
    )
    guide = begin_guidance(run, stage, learner) if stage.guidance else None
    actor = PolicyActor(run.policy, stage.temperature, asks_expert=guide is not None and guide.asks_expert)
    collector = Collector(
        actor,
        run.tasks,
        run.images,
        run.config.seed,
        Split.TRAIN,
        stage.num_envs,
        stage.group_size,
        max_failures_in_a_row=run.config.max_env_failures_in_a_row,
        first_episode=first_episode(run, stage) // stage.group_size * stage.group_size,
        workers=run.config.workers,
    )
    collector.early_end = guide.early_end if guide else None
    with closing(collector):
        _iterate(run, stage, algorithm, learner, collector, guide)
    run.state.setdefault("updates", {})[stage.name] = optimizer.steps
    run.images.clear()
    if guide:
        run.images.detach(guide.images)


def begin_guidance(run: Run, stage: RLStage, learner: Learner) -> Guide:
    """Gives the learner its second stream, whose denominators are its own."""
    assert stage.guidance is not None
    guide = Guide(stage.guidance, run.tasks, run.policy)
    run.images.attach(guide.images)
    cloning = Supervised(stage.guidance.weight, "train/cloning_loss")
    learner.cloner = Learner(run.policy, cloning, learner.optimizer, micro_batch_tokens=stage.micro_batch_tokens)
    return guide


def _iterate(
    run: Run,
    stage: RLStage,
    algorithm: Algorithm,
    learner: Learner,
    collector: Collector,
    guide: Guide | None = None,
) -> None:
    """The iterations that are left, from where a resumed run stands."""
    reference = run.policy.trained_weights() if algorithm.needs_reference else None
    if parts := run.take_parts():
        reference = parts["reference"]
        learner.optimizer.load_state_dict(parts["optimizer"])
        learner.load_state_dict(parts["learner"])
        collector.load_state_dict(parts["collector"])
        if guide:
            guide.load_state_dict(parts["guide"])
        keep_images_of_running_episodes(run, collector)  # not those of all the steps that were played again
    learner.on_pass = seen = LearnerLogprobs()
    begin = run.state["iteration"]
    history = [r for r in read_metrics(run.folder / "metrics.jsonl") if r["stage"] == stage.name]
    with StageProgress(run.console, f"{stage.name}: {stage.algorithm.name}", stage.iterations, begin) as progress:
        for iteration in range(begin, stage.iterations):
            run.policy.sampler.forget()  # what an evaluation left would round otherwise than a resumed run
            clock = time.perf_counter()
            played = rollout(collector, stage, algorithm.more_groups)
            rollout_s = time.perf_counter() - clock
            numbers: dict[str, float | None] = {}
            if guide:
                numbers |= guide.correct(played.kept)
            clock = time.perf_counter()
            samples = prepare(learner, played.kept, reference)
            numbers |= measure(run, stage, iteration, learner, played, samples)
            numbers |= algorithm.credit(samples)
            prepare_s = time.perf_counter() - clock
            clock = time.perf_counter()
            numbers |= update(learner, samples, stage, run.config.seed, iteration, guide)
            update_s = time.perf_counter() - clock
            clock = time.perf_counter()
            seen.write(samples, played.kept)
            record(run, stage, iteration, played, samples)
            if stage.evaluate_every and (iteration + 1) % stage.evaluate_every == 0:
                numbers |= evaluate_curve(run, stage, iteration)
            numbers |= played.metrics()
            numbers |= judge_metrics(run.judges)
            keep_images_of_running_episodes(run, collector)
            numbers |= {"time/rollout_s": rollout_s, "time/prepare_s": prepare_s, "time/update_s": update_s}
            numbers["time/other_s"] = time.perf_counter() - clock
            history.append(numbers)
            found = new_collapses(history)
            run.log(stage.name, iteration, {**numbers, "warnings": found} if found else numbers)
            warn(run, iteration, numbers, found)
            progress.update(iteration + 1, headline(numbers))
            is_due = stage.checkpoint_every and (iteration + 1) % stage.checkpoint_every == 0
            if (is_due or run.stop_requested) and iteration + 1 < stage.iterations:
                parts = {
                    "optimizer": learner.optimizer.state_dict(),
                    "learner": learner.state_dict(),
                    "collector": collector.state_dict(),
                    "reference": reference,
                    "guide": guide.state_dict() if guide else None,
                }
                run.save_iteration(iteration + 1, parts)
                run.stop_here()


def measure(
    run: Run, stage: RLStage, iteration: int, learner: Learner, played: Played, samples: Sequence[TrainingSample]
) -> dict[str, float | None]:
    """What is logged of the play: before it is learned from, with the weights that sampled it."""
    fact_keys = {t.index: t.interface.format.fact_keys for t in run.tasks}
    spans = (span for sample in samples for span in sample.steps)
    steps = (step for trajectory in played.kept for step in trajectory.steps)
    divided = [(step, span.action_start - span.start) for step, span in zip(steps, spans, strict=True)]
    numbers = rollout_metrics(played.every, fact_keys, {t.index: t.fact_rule for t in run.tasks}, divided)
    if stage.thought_probe_every and iteration % stage.thought_probe_every == 0:
        numbers |= probe_thoughts(learner, played.kept, samples, iteration)
    return numbers


def samples_an_iteration(stage: RLStage) -> int | None:
    """Known in advance only where an iteration is a fixed number of steps."""
    return stage.num_envs * stage.rollout_steps if stage.rollout_steps else None


def total_updates(stage: RLStage) -> int:
    """Optimizer steps of the stage; a guess of four steps an episode where an iteration is whole episodes.

    Only the warm-up and the preflight feel the guess: the schedule goes by the share of iterations that are done.
    """
    samples = samples_an_iteration(stage) or 4 * (stage.rollout_episodes or 1)
    return stage.iterations * stage.epochs * max(1, round(samples / stage.minibatch_size))


def update(
    learner: Learner,
    samples: Sequence[TrainingSample],
    stage: RLStage,
    run_seed: int,
    iteration: int,
    guide: Guide | None = None,
) -> dict[str, float]:
    """Several passes over the samples in minibatches; returns means over the updates."""
    metrics: list[dict[str, float]] = []
    if not samples:  # every episode was lost to its environment
        return {"train/updates_count": 0.0}
    for epoch in range(stage.epochs):
        rng = generator("minibatches", run_seed, stage.name, iteration, epoch)
        ordered = shuffled(samples, rng, keeps_groups=stage.group_size > 1)
        parts = minibatches(ordered, stage.minibatch_size, learner.algorithm.keeps_trajectories)
        for done, part in enumerate(parts):
            learner.optimizer.progress = (iteration + (epoch + done / len(parts)) / stage.epochs) / stage.iterations
            corrections = guide.draw(run_seed, stage.name, iteration, epoch, done) if guide else ()
            metrics.append(learner.update(part, corrections))
    applied = [m for m in metrics if not m["train/nonfinite_updates_count"]]
    numbers = {k: float(np.mean([m[k] for m in applied])) for k in metrics[0] if applied}
    numbers["train/nonfinite_updates_count"] = float(len(metrics) - len(applied))
    numbers["train/updates_count"] = float(len(metrics))
    # the first minibatch meets the weights that sampled it: what differs is not learning, it is a mismatch
    if "train/kl_k3_sampling_policy" in metrics[0]:
        numbers["train/mismatch_kl_k3_sampling_policy"] = metrics[0]["train/kl_k3_sampling_policy"]
    return numbers


def record(run: Run, stage: RLStage, iteration: int, played: Played, samples: Sequence[TrainingSample]) -> None:
    """Writes the trajectories with their advantages, and remembers where training began episodes."""
    spans = (step for sample in samples for step in sample.steps)
    for trajectory in played.kept:
        for step in trajectory.steps:
            step.advantage = next(spans).advantage
    trajectories = played.every
    run.training_starts |= start_keys(trajectories)
    ids = [run.tasks[t.task].env_id for t in trajectories]
    name_of = {task.index: task.interface.name_of for task in run.tasks}
    name = f"{stage.name}_{iteration:06d}"
    run.recorder.record(name, trajectories, name_of, stage=stage.name, iteration=iteration, env_id=ids)


def keep_images_of_running_episodes(run: Run, collector: Collector) -> None:
    """Memory does not grow with iterations: pictures stay only where a running episode still shows them."""
    run.images.discard_except(collector.image_hashes())


def headline(numbers: dict[str, float | None]) -> dict[str, float | None]:
    """What the progress bar shows."""
    shown = {
        "success": "rollout/strict_success_rate",
        "return": "rollout/return_mean",
        "parse": "rollout/parse_rate",
        "entropy": "rollout/entropy_nats",
        "kl": "train/kl_k3_sampling_policy",
        "clipped": "train/clip_share",
        "thoughts": "rollout/thought_unique_share",
        "rollout_s": "time/rollout_s",
        "update_s": "time/update_s",
    }
    return {name: numbers.get(key) for name, key in shown.items()}


def warn(run: Run, iteration: int, numbers: dict[str, float | None], found: Sequence[str]) -> None:
    """`found` are the collapses that this iteration is the first to show."""
    for collapse in found:
        log.warning("iteration %d: %s", iteration, collapse)
    mismatch = numbers.get("train/mismatch_kl_k3_sampling_policy")
    if iteration == 0 and mismatch is not None and mismatch > MISMATCH_LIMIT:
        log.warning(
            "sampler and learner disagree by %.2g nats a token before the first update: the ratio is wrong. "
            "With bfloat16 weights try model.dtype = 'float32'",
            mismatch,
        )
    if numbers.get("train/nonfinite_updates_count"):
        log.warning("iteration %d: updates that were not finite were refused", iteration)


__all__ = ["Interrupted", "train"]
