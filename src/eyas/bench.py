"""What Eyas costs on top of the bare model: throughput as ratios, measured side by side in one process.

Rates depend on the machine, ratios much less: both sides run in turn on the same prompts and the same model, on one
thread, and process CPU time is what counts (on a GPU: elapsed time). `benchmarks/README.md` says what each ratio means.
"""

import gc
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import GenerationConfig

from eyas.algorithms import ALGORITHMS
from eyas.batch import SampleStep, TrainingBatch, TrainingSample, collate
from eyas.build import build_policy, build_run, build_task
from eyas.config import ModelConfig, OptimConfig, PPOConfig, RLStage, RunConfig, TaskConfig
from eyas.evaluation.records import provenance
from eyas.interface.formats import is_complete_json
from eyas.models import adapter
from eyas.models.adapter import VisionLanguageModel
from eyas.models.policy import Policy
from eyas.models.value_head import ValueHead
from eyas.rollouts.images import MemoryImageStore
from eyas.rollouts.task import Task
from eyas.samplers.in_process import InProcessSampler
from eyas.seeding import generator
from eyas.training import loop
from eyas.training.learner import Learner
from eyas.training.memory import keep_freed_memory
from eyas.training.optim import Optimizer
from eyas.training.run import Run
from eyas.types import Completion, ImageStore, Message, SampleRequest, StopRule

GOALS: dict[str, tuple[str, float]] = {
    "sampler_vs_bare": ("at least", 0.8),
    "learner_vs_bare": ("at least", 0.8),
    "overhead_share": ("at most", 0.15),
}
MEANINGS = {
    "sampler_vs_bare": "tokens/s, to the bare model's",
    "sampler_vs_lockstep": "tokens/s, lengths vary",
    "learner_vs_bare": "samples/s, to the bare model's",
    "overhead_share": "of an iteration, not model or env",
}
ENVS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("eyas/NumberLine-v0", {"jitter": 6}),
    ("eyas/EZPoints-v0", {"jitter": 6}),
)
SMALL_IMAGE_CACHE_BYTES = 4 * 2**20
COMPLETION_TOKENS = 27  # what a demonstration of NumberLine takes
TINY_LR = 1e-9  # the weights stay: every repeat does the same work


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    repeats: int  # of the sampler's sides
    updates: int  # repeats of the learner's sides
    prompts: int  # the sampler's batch
    new_tokens: int
    samples: int  # the learner's minibatch
    num_envs: int
    rollout_steps: int
    iterations: int  # measured, after one that warms up
    memory_iterations: int  # N: memory after N is compared with memory after 3N


FULL = Sizes(12, 7, 32, 32, 64, 32, 8, 5, 4)
QUICK = Sizes(2, 2, 6, 8, 6, 4, 2, 2, 1)


def run_bench(quick: bool = False, on_progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Everything that is measured, as JSON: `ratios` are medians, `spread` holds minimum, median and maximum of each.

    `quick` measures the same on tiny sizes, in seconds: its numbers check the benchmark and say little about speed.
    """
    sizes = QUICK if quick else FULL
    say = on_progress or (lambda what: None)
    begun = time.perf_counter()
    keep_freed_memory()  # as in a run
    result: dict[str, Any] = {"ratios": {}, "spread": {}, "rates_per_s": {}, "counts": {}}
    with one_thread():
        policy, tasks = bench_policy(), [build_task(TaskConfig(env=e, env_args=a)) for e, a in ENVS]
        messages = prompts(tasks, policy.images, sizes.prompts)
        say("sampler against the bare model")
        _compare(result, "sampler_vs_bare", sampler_sides(policy, messages, sizes), sizes.repeats)
        say("sampler against lock-step")
        _compare(result, "sampler_vs_lockstep", lockstep_sides(policy, messages, sizes), sizes.repeats)
        say("learner against the bare model")
        _compare(result, "learner_vs_bare", learner_sides(policy, tasks, sizes), sizes.updates)
        say("share of an iteration that is not the model")
        _add_ratio(result, "overhead_share", overhead_shares(sizes))
        say("memory over iterations")
        result["memory"] = memory_growth(sizes.memory_iterations)
    result["peak_memory_gib"] = round(_peak_memory_bytes() / 2**30, 3)
    result |= {"clock": "elapsed, GPU" if torch.cuda.is_available() else "process CPU time, one thread"}
    return result | {"quick": quick, "duration_s": round(time.perf_counter() - begun, 1), **provenance()}


def format_bench(result: Mapping[str, Any]) -> Table:
    """The ratios as a table for people. Goals stand beside a full measurement only."""
    table = Table(title="Eyas against the bare model" + (", tiny sizes" if result["quick"] else ""))
    for column in ("ratio", "median", "min .. max", "goal", "means"):
        table.add_column(column, no_wrap=column != "means")
    for name, spread in result["spread"].items():
        goal = "{} {}".format(*GOALS[name]) if name in GOALS and not result["quick"] else ""
        extent = f"{spread['min']:.2f} .. {spread['max']:.2f}"
        table.add_row(name, f"{spread['median']:.2f}", extent, goal, MEANINGS[name])
    first, last = result["memory"]["iterations"]
    growth = str(result["memory"]["live_objects_growth"])
    table.add_row("peak_memory_gib", f"{result['peak_memory_gib']:.2f}", "", "", "of this process")
    table.add_row("live_objects_growth", growth, "", "", f"from iteration {first} to {last}")
    return table


# ----------------------------------------------------------------------------------------------- measuring


@dataclass
class Side:
    """One way of doing the same work. `run` returns how much it did: tokens or samples."""

    name: str
    run: Callable[[], int]
    seconds: list[float] = field(default_factory=list)
    counts: set[int] = field(default_factory=set)

    @property
    def rate(self) -> float:
        return float(max(self.counts) / np.median(self.seconds))


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _now() -> float:
    """Process CPU time; with a GPU elapsed time, once everything that was asked of it is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def _now_here() -> float:
    """The same for this thread alone: with one torch thread the model computes here, the recorder does not."""
    return _now() if torch.cuda.is_available() else time.thread_time()


def measure(sides: Sequence[Side], repeats: int) -> None:
    """Times the sides in turn, every other repeat in the opposite order, after one run of each to warm up."""
    for repeat in range(-1, repeats):
        for side in sides if repeat % 2 else reversed(sides):
            begun = _now()
            count = side.run()
            seconds = _now() - begun
            if repeat >= 0:
                side.seconds.append(seconds)
                side.counts.add(count)


def _compare(result: dict[str, Any], name: str, sides: Sequence[Side], repeats: int) -> None:
    """The rate of the first side against the fastest of the others, repeat by repeat."""
    measure(sides, repeats)
    ours, *others = sides
    fastest = max(others, key=lambda s: s.rate)
    _add_ratio(result, name, [bare / own for bare, own in zip(fastest.seconds, ours.seconds, strict=True)])
    result["spread"][name]["against"] = fastest.name
    result["rates_per_s"][name] = {s.name: round(s.rate, 1) for s in sides}
    result["counts"][name] = {s.name: sorted(s.counts) for s in sides}


def _add_ratio(result: dict[str, Any], name: str, values: Sequence[float]) -> None:
    spread = {"min": min(values), "median": float(np.median(values)), "max": max(values)}
    result["spread"][name] = {k: round(v, 4) for k, v in spread.items()} | {"repeats": len(values)}
    result["ratios"][name] = round(spread["median"], 4)


# ----------------------------------------------------------------------------------------------- the sampler


def bench_policy() -> Policy:
    """The built-in model, made to never end its turn by itself: every side then writes the same number of tokens."""
    policy = build_policy(ModelConfig(), MemoryImageStore())
    policy.model.end_ids = frozenset()
    return policy


def prompts(tasks: Sequence[Task], images: ImageStore, number: int) -> list[tuple[Message, ...]]:
    """First prompts of different episodes, all with different pictures, the tasks in turn."""
    envs = [task.make_env() for task in tasks]
    messages = []
    for i in range(number):
        env, interface = envs[i % len(envs)], tasks[i % len(envs)].interface
        observation, info = env.reset(seed=i)
        messages.append(interface.render(observation, info, None, images))
    for env in envs:
        env.close()
    return messages


def _never_complete(text: str) -> bool:
    """Asks what the JSON format asks, and goes on."""
    is_complete_json(text)
    return False


STOP = StopRule("}", _never_complete)


def _requests(messages: Sequence[tuple[Message, ...]], lengths: Sequence[int], draw: int) -> list[SampleRequest]:
    return [SampleRequest(m, draw * 1000 + i, n, 1.0, STOP) for i, (m, n) in enumerate(zip(messages, lengths))]


def _num_tokens(completions: Sequence[Completion]) -> int:
    return sum(len(c.token_ids) for c in completions if c.token_ids is not None)


def sampler_sides(policy: Policy, messages: Sequence[tuple[Message, ...]], sizes: Sizes) -> list[Side]:
    """Our sampler from messages to completions; the bare sides start from ready tensors and give ids."""
    draws = iter(range(10**6))
    lengths = [sizes.new_tokens] * len(messages)
    inputs = bare_inputs(policy, messages)

    def sample() -> int:
        return _num_tokens(policy.sample(_requests(messages, lengths, next(draws))))

    return [
        Side("sampler", sample),
        Side("generate", lambda: bare_generate(policy.model, inputs, sizes.new_tokens).numel()),
        Side("bare_loop", lambda: bare_loop(policy.model, inputs, sizes.new_tokens).numel()),
    ]


def bare_inputs(policy: Policy, messages: Sequence[tuple[Message, ...]]) -> dict[str, Tensor]:
    """What the model's `forward` wants for these prompts, padded on the left."""
    model = policy.model
    encoded = [model.encode(m, policy.images) for m in messages]
    width = max(len(e.ids) for e in encoded)
    ids = torch.stack([nn.functional.pad(torch.from_numpy(e.ids), (width - len(e.ids), 0), value=-1) for e in encoded])
    vision = model.vision_inputs([e.image_hashes for e in encoded], policy.images)
    mask = ids != -1
    inputs = {"input_ids": ids.masked_fill(~mask, model.pad_id), "attention_mask": mask.long()}
    return {k: v.to(model.device) for k, v in inputs.items()} | vision


@torch.inference_mode()
def bare_generate(model: VisionLanguageModel, inputs: dict[str, Tensor], new_tokens: int) -> Tensor:
    """Hugging Face `generate`, sampling at temperature 1 from what may be sampled: ids (B, new_tokens)."""
    options = GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=True,
        top_k=0,
        suppress_tokens=model.forbidden_ids.tolist(),
        pad_token_id=model.pad_id,
    )
    hf: Any = model.model
    hf.generation_config.eos_token_id = None  # it would fill the gap in our options
    return hf.generate(**inputs, generation_config=options)[:, inputs["input_ids"].shape[1] :]


@torch.inference_mode()
def bare_loop(
    model: VisionLanguageModel, inputs: dict[str, Tensor], new_tokens: int, is_greedy: bool = False
) -> Tensor:
    """The least that samples: forward, cache, softmax, cumulative sum, search. Ids (B, new_tokens)."""
    inputs, cache, written, logprobs = dict(inputs), None, [], []
    for _ in range(new_tokens):
        mask = inputs["attention_mask"]
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -inputs["input_ids"].shape[1] :]
        output = model.model(**inputs, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        logits = output.logits[:, -1].index_fill(-1, model.forbidden_ids, float("-inf"))
        probabilities = torch.softmax(logits, -1)
        cumulative = probabilities.cumsum(-1)
        u = torch.rand(len(mask), 1, device=mask.device) * cumulative[:, -1:]
        ids = logits.argmax(-1, keepdim=True) if is_greedy else torch.searchsorted(cumulative, u, right=True)
        ids = ids.clamp(max=logits.shape[-1] - 1)
        written.append(ids)
        logprobs.append(probabilities.gather(1, ids).log())
        inputs = {"input_ids": ids, "attention_mask": torch.cat([mask, mask.new_ones(len(mask), 1)], 1)}
    return torch.cat(written, 1)


def lockstep_sides(policy: Policy, messages: Sequence[tuple[Message, ...]], sizes: Sizes) -> list[Side]:
    """Lengths uniform from a quarter of the tokens to twice as many; without dropping, rows wait for the longest."""
    draws = {name: iter(range(10**6)) for name in ("sampler", "lockstep")}
    low, high = max(1, sizes.new_tokens // 4), 2 * sizes.new_tokens
    lengths = generator("bench lengths").integers(low, high, len(messages), endpoint=True).tolist()
    samplers = {
        "sampler": InProcessSampler(policy.model, policy.images),
        "lockstep": InProcessSampler(policy.model, policy.images, compact_below=0.0),
    }

    def run(name: str) -> int:
        return _num_tokens(samplers[name].sample(_requests(messages, lengths, next(draws[name]))))

    return [Side("sampler", lambda: run("sampler")), Side("lockstep", lambda: run("lockstep"))]


# ----------------------------------------------------------------------------------------------- the learner


def learner_sides(policy: Policy, tasks: Sequence[Task], sizes: Sizes) -> list[Side]:
    """A whole `Learner.update`, against plain updates of the same model on tensors that are ready."""
    samples = training_samples(policy, prompts(tasks, policy.images, sizes.samples), sizes.new_tokens)
    optimizer = Optimizer(policy.model, policy.value_head, OptimConfig(lr=TINY_LR), total_steps=1000)
    learner = Learner(policy, ALGORITHMS["ppo"](PPOConfig()), optimizer)
    batch = collate(samples, policy.model.pad_id, policy.model.device)
    vision = policy.model.vision_inputs(batch.image_hashes, policy.images)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long(), **vision}

    def ours() -> int:
        learner.update(samples)
        return len(samples)

    return [
        Side("learner", ours),
        Side("model_loss", bare_update(policy.model, lambda: model_loss(policy.model, inputs, batch), len(samples))),
        Side(
            "completion_loss",
            bare_update(policy.model, lambda: completion_loss(policy.model, inputs, batch), len(samples)),
        ),
    ]


def training_samples(policy: Policy, messages: Sequence[tuple[Message, ...]], new_tokens: int) -> list[TrainingSample]:
    """One-step samples that the policy wrote itself, of lengths around `new_tokens`, with made-up advantages."""
    rng = generator("bench samples")
    lengths = rng.integers(max(1, new_tokens // 2), 3 * new_tokens // 2, len(messages), endpoint=True).tolist()
    samples = []
    for m, completion in zip(messages, policy.sample(_requests(messages, lengths, 0)), strict=True):
        prompt = policy.model.encode(m, policy.images)
        assert completion.token_ids is not None
        start, length = len(prompt.ids), len(completion.token_ids)
        step = SampleStep(start, start + length // 2, start + length, advantage=rng.normal(), value_target=rng.normal())
        ids = np.concatenate([prompt.ids, completion.token_ids.astype(np.int64)])
        samples.append(TrainingSample(ids, prompt.image_hashes, (step,), completion.sampling_logprobs))
    return samples


def bare_update(model: VisionLanguageModel, loss: Callable[[], Tensor], num_samples: int) -> Callable[[], int]:
    """Forward, backward, clipping and AdamW, and nothing else."""
    parameters = list(model.model.parameters())
    adamw = torch.optim.AdamW(parameters, lr=TINY_LR, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def update() -> int:
        adamw.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        adamw.step()
        return num_samples

    return update


def model_loss(model: VisionLanguageModel, inputs: Mapping[str, Tensor], batch: TrainingBatch) -> Tensor:
    """The loss that the Hugging Face model computes itself from labels: logits at every position."""
    labels = torch.full_like(batch.input_ids, -100)
    labels[batch.token_rows, batch.token_columns + 1] = batch.token_ids
    return model.model(**inputs, labels=labels).loss


def completion_loss(model: VisionLanguageModel, inputs: Mapping[str, Tensor], batch: TrainingBatch) -> Tensor:
    """The same loss with logits at the completion's tokens only."""
    base = getattr(model.model, model.model.base_model_prefix)
    hidden = base(**inputs).last_hidden_state[batch.token_rows, batch.token_columns]
    return nn.functional.cross_entropy(model.logits(hidden), batch.token_ids)


# ----------------------------------------------------------------------------------------------- whole iterations


class _Inside:
    """Adds up the time inside the functions that it wraps; one that another of them calls counts once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._depth:
                return function(*args, **kwargs)
            self._depth = 1
            begun = _now_here()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += _now_here() - begun
                self._depth = 0

        return timed


MODEL_CALLS: tuple[tuple[Any, str], ...] = (
    (VisionLanguageModel, "hidden"),
    (VisionLanguageModel, "logits"),
    (ValueHead, "forward"),
    (Tensor, "backward"),
    (Optimizer, "zero_grad"),
    (Optimizer, "clip"),
    (Optimizer, "step"),
)


@contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


class _TimedEnv(gym.Wrapper):
    def __init__(self, env: gym.Env, inside: _Inside):
        super().__init__(env)
        for name in ("reset", "step", "render"):
            setattr(self, name, inside.wrap(getattr(env, name)))


def overhead_shares(sizes: Sizes) -> list[float]:
    """For each iteration of a real run, the share outside model, optimizer and environment; the first one warms up."""
    inside, marks = _Inside(), []
    with ExitStack() as stack:
        for owner, name in MODEL_CALLS:
            stack.enter_context(patched(owner, name, inside.wrap(getattr(owner, name))))
        run = stack.enter_context(_open_run(sizes.iterations + 1, sizes.num_envs, sizes.rollout_steps, 64))
        run.tasks[:] = [replace(t, make_env=partial(_timed_env, t, inside)) for t in run.tasks]
        _iterate(run, lambda iteration: marks.append((_now(), inside.seconds)))
    shares = []
    for (begun, inside_before), (ended, inside_after) in pairwise(marks):
        shares.append(1 - (inside_after - inside_before) / (ended - begun))
    return shares


def _timed_env(task: Task, inside: _Inside) -> gym.Env:
    return _TimedEnv(task.make_env(), inside)


@contextmanager
def _open_run(iterations: int, num_envs: int, rollout_steps: int, minibatch_size: int) -> Iterator[Run]:
    """A PPO run on NumberLine in a temporary folder, with completions of the length that a trained policy writes."""
    env, env_args = ENVS[0]
    with tempfile.TemporaryDirectory() as output:
        config: dict[str, Any] = {
            "name": "bench",
            "output": output,
            "threads": torch.get_num_threads(),
            "tasks": [{"env": env, "env_args": env_args, "interface": {"max_new_tokens": COMPLETION_TOKENS}}],
            "stages": [
                {
                    "kind": "rl",
                    "iterations": iterations,
                    "num_envs": num_envs,
                    "rollout_steps": rollout_steps,
                    "minibatch_size": minibatch_size,
                    "checkpoint_every": 0,
                }
            ],
        }
        with open(os.devnull, "w") as nowhere:
            run = build_run(RunConfig.model_validate(config), Console(file=nowhere))
            run.open(resume=False)
            try:
                yield run
            finally:
                run.close()


def _iterate(run: Run, on_iteration: Callable[[int], None]) -> None:
    """Runs the stage; `on_iteration` is called where an iteration has logged its numbers."""
    log = run.log

    def log_and_call(stage: str, iteration: int, numbers: Mapping[str, Any]) -> None:
        log(stage, iteration, numbers)
        on_iteration(iteration)

    stage = run.config.stages[0]
    assert isinstance(stage, RLStage)
    with patched(run, "log", log_and_call):
        loop.reinforce(run, stage)


# ----------------------------------------------------------------------------------------------- memory


def memory_growth(iterations: int) -> dict[str, Any]:
    """What lives after three times as many iterations beyond what lives after these: Python objects, resident memory.

    The cache of processed pictures is made so small that it is full before the first count.
    """
    counts: dict[int, tuple[int, int | None]] = {}
    with ExitStack() as stack:
        stack.enter_context(patched(adapter, "IMAGE_CACHE_BYTES", SMALL_IMAGE_CACHE_BYTES))
        run = stack.enter_context(_open_run(3 * iterations, 8, 4, 32))

        def count(iteration: int) -> None:
            if iteration + 1 in (iterations, 3 * iterations):
                run.recorder.flush()
                gc.collect()
                counts[iteration + 1] = len(gc.get_objects()), _resident_bytes()

        _iterate(run, count)
    (objects, resident), (objects_later, resident_later) = counts[iterations], counts[3 * iterations]
    growth = None if resident is None or resident_later is None else round((resident_later - resident) / 2**20, 2)
    return {
        "iterations": [iterations, 3 * iterations],
        "live_objects": objects,
        "live_objects_growth": objects_later - objects,
        "resident_growth_mib": growth,
    }


def _resident_bytes() -> int | None:
    """None where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return None


def _peak_memory_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


__all__ = ["format_bench", "run_bench"]
