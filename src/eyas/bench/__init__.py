"""What Eyas costs on top of the bare model: throughput as ratios, measured side by side in one process.

Rates depend on the machine, ratios much less: both sides run in turn on the same prompts and the same model, on one
thread, and process CPU time is what counts (on a GPU, and for `workers_vs_in_process`: elapsed time).
`benchmarks/README.md` says what each ratio means.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table

from eyas.bench.iterations import LEARNER_CALLS, overhead_shares
from eyas.bench.learning import group_update_sides, learner_sides
from eyas.bench.measure import Comparison, compare, one_thread, spread
from eyas.bench.memory import memory_growth, peak_memory_bytes
from eyas.bench.overlap import compare_workers
from eyas.bench.reuse import conversation_sides, group_sampling_sides, shared_text_sides
from eyas.bench.sampling import SLOTS_SHARE, geometric_lengths, lockstep_sides, rollout_sides, uniform_lengths
from eyas.bench.workload import bench_policy, bench_tasks, prompts
from eyas.config import ModelConfig
from eyas.evaluation.records import provenance
from eyas.training.memory import keep_freed_memory

RATIOS = {  # goal, meaning
    "sampler_vs_bare": ("at least 0.9", "tokens/s of rollouts, to the bare model's"),
    "sampler_vs_lockstep": ("at least 1.2", "tokens/s, uniform lengths"),
    "sampler_vs_lockstep_geometric": ("at least 1.7", "tokens/s, lengths with a tail"),
    "learner_vs_bare": ("at least 0.95", "samples/s, to the bare model's"),
    "conversation_vs_rereading": ("at least 3.5", "steps/s, a new picture each"),
    "group_sampling_vs_alone": ("at least 1.8", "tokens/s, eight of one prompt"),
    "group_update_vs_alone": ("at least 2.0", "samples/s, eight of one prompt"),
    "shared_text_vs_alone": ("at least 1.4", "tokens/s, prompts that begin alike"),
    "workers_vs_in_process": ("more than 1.0", "steps/s, env as slow as the model"),
    "overhead_share": ("at most 0.05", "of an iteration, not model or env"),
    "learner_overhead_share": ("at most 0.05", "of nano's: credit, batches, logging"),
}
GROUP_SIZE = 8


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    repeats: int  # of the sampler's sides
    updates: int  # repeats of the learner's sides, of conversations, and of rollouts with workers and without
    prompts: int  # the sampler's batch
    new_tokens: int
    samples: int  # the learner's minibatch
    conversation_steps: int
    num_envs: int
    rollout_steps: int
    iterations: int  # measured, after one that warms up
    memory_iterations: int  # N: memory after N is compared with memory after 3N


FULL = Sizes(6, 5, 32, 32, 64, 10, 32, 8, 4, 4)
QUICK = Sizes(2, 2, 4, 4, 16, 3, 4, 2, 2, 1)


def run_bench(quick: bool = False) -> dict[str, Any]:
    """Everything that is measured, as JSON: `ratios` are medians, `spread` holds minimum, median and maximum of each.

    `quick` measures the same on tiny sizes, in seconds: its numbers check the benchmark and say little about speed.
    """
    sizes = QUICK if quick else FULL
    begun = time.perf_counter()
    keep_freed_memory()  # as in a run
    with one_thread():
        comparisons = _compare_with_bare(sizes) | _compare_reuse(sizes)
        rollouts = sizes.iterations, sizes.num_envs, sizes.rollout_steps
        shares = {
            "overhead_share": overhead_shares(*rollouts),
            "learner_overhead_share": overhead_shares(*rollouts, LEARNER_CALLS, ModelConfig()),
        }
        comparison, overlap = compare_workers(sizes.updates, sizes.num_envs, sizes.rollout_steps)
        comparisons["workers_vs_in_process"] = comparison
        memory = memory_growth(sizes.memory_iterations)
    spreads = {name: c.spread for name, c in comparisons.items()}
    spreads |= {name: spread(of_iterations) for name, of_iterations in shares.items()}
    return {
        "ratios": {name: s["median"] for name, s in spreads.items()},
        "spread": spreads,
        "rates_per_s": {name: c.rates_per_s for name, c in comparisons.items()},
        "counts": {name: c.counts for name, c in comparisons.items()},
        "overlap": overlap,
        "memory": memory,
        "peak_memory_gib": round(peak_memory_bytes() / 2**30, 3),
        "clock": "elapsed, GPU" if torch.cuda.is_available() else "process CPU time, one thread",
        "quick": quick,
        "duration_s": round(time.perf_counter() - begun, 1),
        **provenance(),
    }


def _compare_with_bare(sizes: Sizes) -> dict[str, Comparison]:
    policy, tasks, found = bench_policy(), bench_tasks(), {}
    with rollout_sides(policy, sizes.prompts, sizes.rollout_steps // 2, sizes.new_tokens) as sides:
        found["sampler_vs_bare"] = compare(sides, sizes.repeats)
    asked = prompts(tasks, policy.images, SLOTS_SHARE * sizes.prompts)
    for name, lengths in (
        ("sampler_vs_lockstep", uniform_lengths(len(asked), sizes.new_tokens)),
        ("sampler_vs_lockstep_geometric", geometric_lengths(len(asked), sizes.new_tokens)),
    ):
        found[name] = compare(lockstep_sides(policy, asked, lengths), sizes.updates)
    learned = prompts(tasks, policy.images, sizes.samples)
    found["learner_vs_bare"] = compare(learner_sides(policy, learned, sizes.new_tokens), sizes.updates)
    return found


def _compare_reuse(sizes: Sizes) -> dict[str, Comparison]:
    """All on NumberLine alone, whose prompts have one length."""
    policy, tasks = bench_policy(), bench_tasks()[:1]
    asked = prompts(tasks, policy.images, max(sizes.samples, sizes.prompts * sizes.conversation_steps))
    conversations = asked[: sizes.prompts * sizes.conversation_steps]
    many = asked[: sizes.samples]
    new = sizes.new_tokens
    talk = conversation_sides(policy, conversations, sizes.prompts, 3 * new // 4)
    return {
        "conversation_vs_rereading": compare(talk, max(2, sizes.updates // 2)),
        "group_sampling_vs_alone": compare(group_sampling_sides(policy, many, GROUP_SIZE, new), sizes.repeats),
        "group_update_vs_alone": compare(group_update_sides(policy, many, GROUP_SIZE, new), sizes.updates),
        "shared_text_vs_alone": compare(shared_text_sides(policy, asked[: sizes.prompts], new), sizes.repeats),
    }


def format_bench(result: Mapping[str, Any]) -> Table:
    """The ratios as a table for people. Goals stand beside a full measurement only."""
    table = Table(title="Eyas against the bare model" + (", tiny sizes" if result["quick"] else ""))
    for column in ("ratio", "median", "min .. max", "goal", "means"):
        table.add_column(column, no_wrap=column != "means")
    for name, extent in result["spread"].items():
        goal, meaning = RATIOS[name]
        span = f"{extent['min']:.2f} .. {extent['max']:.2f}"
        table.add_row(name, f"{extent['median']:.2f}", span, "" if result["quick"] else goal, meaning)
    first, last = result["memory"]["iterations"]
    growth = str(result["memory"]["live_objects_growth"])
    table.add_row("peak_memory_gib", f"{result['peak_memory_gib']:.2f}", "", "", "of this process")
    table.add_row("live_objects_growth", growth, "", "", f"from iteration {first} to {last}")
    return table


__all__ = ["format_bench", "run_bench"]
