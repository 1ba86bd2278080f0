"""Memory: its peak, and what whole iterations leave behind."""

import gc
import resource
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from eyas.bench.iterations import iterate, open_run
from eyas.config import ModelConfig
from eyas.models import vision

SMALL_CACHE_BYTES = 4 * 2**20


def memory_growth(iterations: int) -> dict[str, Any]:
    """What lives after three times as many iterations beyond what lives after these: Python objects, resident memory.

    The caches of processed and of encoded pictures are made so small that they are full before the first count.
    """
    counts: dict[int, tuple[int, int | None]] = {}
    with (
        patch.multiple(vision, PROCESSED_BYTES=SMALL_CACHE_BYTES, FEATURES_BYTES=SMALL_CACHE_BYTES // 64),
        open_run(3 * iterations, num_envs=8, rollout_steps=4, minibatch_size=32, model=ModelConfig()) as run,
    ):

        def count(iteration: int) -> None:
            if iteration + 1 in (iterations, 3 * iterations):
                run.recorder.flush()
                gc.collect()
                counts[iteration + 1] = len(gc.get_objects()), _resident_bytes()

        iterate(run, count)
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


def peak_memory_bytes() -> int:
    """Of this process; with a GPU, of what torch took there."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
