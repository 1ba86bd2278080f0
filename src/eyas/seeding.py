"""All randomness derives from named keys, so that scheduling never changes a result."""

from enum import IntEnum
from hashlib import blake2b

import numpy as np


class Split(IntEnum):
    """What an episode is for. The split is the lowest two bits of an environment seed: splits never overlap."""

    TRAIN = 0
    EVAL = 1
    DEMONSTRATION = 2
    VALIDATION = 3


def derive_seed(*keys: int | str) -> int:
    """Hashes the keys to an integer in [0, 2**62)."""
    named = (f"str:{k}" if isinstance(k, str) else f"int:{int(k)}" for k in keys)
    digest = blake2b("\x1f".join(named).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big") >> 2


def environment_seed(run_seed: int, split: Split, index: int) -> int:
    """The seed that `env.reset` gets for episode `index` of a split: 31 bits, disjoint between splits."""
    return (derive_seed("environment", run_seed, int(split), index) % 2**29) << 2 | int(split)


def generator(*keys: int | str) -> np.random.Generator:
    """A NumPy generator that belongs to the keys alone."""
    return np.random.Generator(np.random.Philox(key=derive_seed(*keys)))
