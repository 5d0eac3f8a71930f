"""Time per site and sweep against the length of the chain."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
import xarray as xr

import isingmoe as im

__all__ = ["time_per_site"]


def time_per_site(ring: Callable[..., im.IsingChain], quick: bool) -> xr.Dataset:
    """Nanoseconds of one core for each site of a Swendsen-Wang sweep at alpha = 1.5.

    The best of seven runs of one replica, measurement included, with at least 64 sweeps: what
    setting up a chain costs is then a small part, as in any study.
    """
    sizes = 2 ** np.arange(12, 15 if quick else 21)
    best = []
    for n_sites in sizes:
        chain, n_samples = ring(0.231, int(n_sites), 1.5), max(2**24 // int(n_sites), 64)
        kwargs = {"n_replicas": 1, "n_equilibration": 0, "max_distance": -1}
        taken = []
        for _ in range(8):
            start = time.perf_counter()
            with warnings.catch_warnings():
                # Long enough to be timed, not to be averaged.
                warnings.simplefilter("ignore", im.ShortRunWarning)
                im.simulate(chain, im.SwendsenWang(), n_samples=n_samples, **kwargs)
            taken.append(time.perf_counter() - start)
        # The first one compiles, and fills the caches.
        best.append(1e9 * min(taken[1:]) / (n_samples * n_sites))
    attributes = {"long_name": "time per site and sweep of one core", "units": "ns"}
    return xr.Dataset({"time": ("n_sites", best, attributes)}, {"n_sites": sizes})
