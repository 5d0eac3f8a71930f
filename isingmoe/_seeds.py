"""Seeds of whatever is random, and the generators that are spawned from them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Seed", "generators", "seed_sequence"]

Seed = int | np.random.SeedSequence | np.random.Generator


def seed_sequence(seed: Seed) -> np.random.SeedSequence:
    """What generators are spawned from.

    Raises
    ------
    ValueError
        If `seed` is none.
    """
    if isinstance(seed, np.random.Generator):
        return np.random.SeedSequence(seed.integers(0, 1 << 63, 4).tolist())
    if isinstance(seed, np.random.SeedSequence):
        # Afresh, as spawning counts the children: the same seed gives the same samples.
        return np.random.SeedSequence(seed.entropy, spawn_key=seed.spawn_key)
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise ValueError(
            f"seed: expected a whole number from 0, a SeedSequence or a Generator, got {seed!r}"
        )
    return np.random.SeedSequence(int(seed))


def generators(seed: Seed, n: int) -> NDArray[np.uint64]:
    """Words of n generators of the kernels, (n, 4), each spawned by its number."""
    children = seed_sequence(seed).spawn(n)
    words = [child.generate_state(4, np.uint64) for child in children]
    return np.array(words, np.uint64).reshape(n, 4)
