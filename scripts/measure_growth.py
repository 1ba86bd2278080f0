"""What each step of a long conversation costs, with what was read before kept and with all of it read again.

    python scripts/measure_growth.py [--steps 64] [--conversations 4] [--output benchmarks/results]

Writes growth.json and growth.png. Time is process CPU time on one thread; memory is what live tensors hold after a step.
"""

import argparse
import gc
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from eyas.bench.measure import one_thread
from eyas.bench.reuse import converse
from eyas.bench.sampling import Prompts
from eyas.bench.workload import bench_policy, bench_tasks, prompts
from eyas.evaluation.records import provenance
from eyas.models.policy import Policy
from eyas.samplers.in_process import InProcessSampler
from eyas.training.memory import keep_freed_memory
from eyas.types import Completion, SampleRequest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NEW_TOKENS = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--conversations", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    keep_freed_memory()
    with one_thread():
        sides = measure(options.steps, options.conversations)
    result = {
        "steps": options.steps,
        "conversations": options.conversations,
        "new_tokens": NEW_TOKENS,
        "load_average": os.getloadavg()[0],
        "sides": sides,
        **provenance(),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "growth.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(sides, options.output / "growth.png")
    for name, side in sides.items():
        print(name, json.dumps(side["fits"]))


def measure(num_steps: int, number: int) -> dict[str, dict[str, Any]]:
    policy = bench_policy()
    messages = prompts(bench_tasks()[:1], policy.images, (num_steps + 1) * number)
    steps = [messages[i : i + number] for i in range(0, len(messages), number)]
    sides = {}
    for name, is_kept in (("kept", True), ("read again", False)):
        follow(policy, steps[: min(4, num_steps)], is_kept)  # warms up
        sides[name] = follow(policy, steps[:num_steps], is_kept)
    return sides


def follow(policy: Policy, steps: Sequence[Prompts], is_kept: bool) -> dict[str, Any]:
    """Seconds of each step, MiB after it, and straight lines through them."""
    sampler = InProcessSampler(policy.model, policy.images, keeps_prefixes=is_kept)
    sampler.forget()
    before = live_bytes()
    seconds: list[float] = []
    mib: list[float] = []

    def sample(asked: list[SampleRequest]) -> list[Completion]:
        if not is_kept:
            sampler.forget()
        begun = time.process_time()
        completions = sampler.sample(asked)
        seconds.append(time.process_time() - begun)
        mib.append((live_bytes() - before) / 2**20)
        return completions

    converse(sample, steps, NEW_TOKENS, draw=0)  # type: ignore[arg-type]
    sampler.forget()
    fits = {"seconds_in_all": line(np.cumsum(seconds)), "seconds_a_step": line(seconds), "mib": line(mib)}
    return {"seconds": np.round(seconds, 5).tolist(), "mib": np.round(mib, 3).tolist(), "fits": fits}


def live_bytes() -> int:
    """Of all tensors that are alive, each storage once."""
    gc.collect()
    tensors = [t for t in gc.get_objects() if issubclass(type(t), torch.Tensor)]  # isinstance wakes lazy modules
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def line(values: Any) -> dict[str, float]:
    """The straight line through values by step, and the share of their variance that it explains."""
    x, y = np.arange(1, len(values) + 1), np.asarray(values)
    slope, start = np.polyfit(x, y, 1)
    left = y - (start + slope * x)
    explained = 1 - left.var() / y.var() if y.var() else 1.0
    return {"start": round(float(start), 5), "slope": round(float(slope), 6), "r_squared": round(float(explained), 4)}


def draw(sides: dict[str, dict[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for (name, side), colour in zip(sides.items(), ("#0b6e4f", "#c44536"), strict=True):
        step = np.arange(1, len(side["seconds"]) + 1)
        axes[0].plot(step, 1000 * np.array(side["seconds"]), label=name, color=colour)
        axes[1].plot(step, np.cumsum(side["seconds"]), color=colour)
        axes[2].plot(step, side["mib"], color=colour)
    fit = sides["kept"]["fits"]["seconds_in_all"]
    last = len(sides["kept"]["seconds"])
    ends = [fit["start"] + fit["slope"], fit["start"] + fit["slope"] * last]
    axes[1].plot([1, last], ends, "k:", linewidth=1, label=f"straight line, R² = {fit['r_squared']:.3f}")
    for axis, title in zip(axes, ("CPU ms of a step", "CPU seconds in all", "MiB after a step"), strict=True):
        axis.set(title=title, xlabel="step of the conversation", ylim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    axes[1].legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
