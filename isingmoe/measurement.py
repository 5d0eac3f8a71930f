"""What is summed up on samples of a chain while they are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from isingmoe._kernels.measuring import (
    equal_pairs,
    labels_and_waves,
    log_weights,
    shared_members,
    site_counts,
)
from isingmoe.chains import AnyChain, Chain

__all__ = ["SERIES", "Measurement", "Record", "bin_edges"]

Array = NDArray[np.floating]

# Fine bins of a replica, of all replicas, and what the counts of every site may take in memory.
_N_BINS = 128
_N_BINS_OF_ALL = 2048
_SITE_BYTES = 1 << 28
# So many replicas give an error by their spread alone.
_ENOUGH_REPLICAS = 16

# Sites of a block whose phases stay in the first cache.
_PHASES = 1024

# What is kept of every sample. The last two are there to be slow where something is: labels
# that change places, and, where sites have means of their own, the pattern of a state.
SERIES = (
    "log_weight",
    "log_weight_square",
    "label",
    "order",
    "order_square",
    "wave",
    "mean_label",
    "overlap",
)


def bin_edges(
    n_samples: int, n_sites: int, n_states: int, n_replicas: int, local: bool
) -> NDArray[np.int64]:
    """Where the fine bins of a replica begin and end.

    With `local` every bin holds counts for each site, and there are as few as memory asks.
    """
    n_bins = min(n_samples, _N_BINS, max(_N_BINS_OF_ALL // n_replicas, 2))
    if local:
        fewest = 2 if n_replicas < _ENOUGH_REPLICAS else 1
        n_bins = min(n_bins, max(_SITE_BYTES // (8 * n_sites * n_states * n_replicas), fewest))
    return np.linspace(0, n_samples, n_bins + 1).astype(np.int64)


@dataclass(frozen=True)
class Measurement:
    """What is measured on the states of one chain.

    Attributes
    ----------
    chain : AnyChain
        Finite.
    n_distances : int
        C(d) is measured for d below it.
    """

    chain: AnyChain
    n_distances: int

    @cached_property
    def n_sites(self) -> int:
        """Length of the chain."""
        return int(self.chain.n_sites)  # type: ignore[arg-type]

    @cached_property
    def is_local(self) -> bool:
        """Whether sites differ, so that each needs a mean of its own."""
        return self.chain.boundary == "open"

    @cached_property
    def has_energy(self) -> bool:
        """Whether the chain is one in equilibrium."""
        return isinstance(self.chain, Chain)

    @cached_property
    def tables(self) -> tuple[Array, Array, Array]:
        """Bond, strength and site of the chain."""
        return self.chain.bond, self.chain.strength, self.chain.site

    @cached_property
    def observable(self) -> Array:
        """What is measured on each label."""
        return self.chain.observable

    @cached_property
    def wave(self) -> tuple[Array, Array]:
        """Cosine and sine of the longest wave that fits on the chain."""
        phase = 2 * np.pi * np.arange(self.n_sites) / self.n_sites
        return np.cos(phase), np.sin(phase)

    @cached_property
    def phases(self) -> tuple[Array, Array]:
        """The same of the sites of the first block, and of the first site of each block."""
        cosine_and_sine = np.stack(self.wave)
        step = np.ascontiguousarray(cosine_and_sine[:, :_PHASES])
        return step, np.ascontiguousarray(cosine_and_sine[:, ::_PHASES])

    @cached_property
    def overlap(self) -> tuple[float, float]:
        """Product of the observables of two equal labels, and of two different ones."""
        gram = self.observable.T @ self.observable
        return float(gram[0, 0]), float(gram[0, 1])

    def pairs(self, d: NDArray[np.integer]) -> NDArray[np.integer]:
        """Pairs of sites at each distance."""
        return self.n_sites - d * self.is_local


class Record:
    """Sums and series of one replica, filled while it is sampled.

    Parameters
    ----------
    measurement : Measurement
    n_samples, n_bins : int

    Attributes
    ----------
    reference : ndarray (site[, rank]) or None
        A state to compare others with, the same for all replicas.
    """

    def __init__(self, measurement: Measurement, n_samples: int, n_bins: int) -> None:
        chain = measurement.chain
        q, k = chain.n_states, len(measurement.observable)
        self._measurement = measurement
        self.reference: NDArray | None = None
        self.series = np.empty((len(SERIES), n_samples))
        self.pair_square = np.zeros(measurement.n_distances)
        local = measurement.is_local
        shape = (measurement.n_sites, q) if local else (q,)
        self.sums = {
            "total": np.zeros((n_bins, k)),
            "total_square": np.zeros((n_bins, k)),
            "pair": np.zeros((n_bins, measurement.n_distances)),
            "label_count": np.zeros((n_bins, *shape), np.int64 if local else float),
            **{name: np.zeros(n_bins) for name in (*SERIES, "order_fourth")},
        }

    def add(
        self,
        states: NDArray,
        bonds: NDArray[np.int64] | None,
        offset: float,
        start: int,
        place: int,
    ) -> None:
        """Measure some states.

        Parameters
        ----------
        states : unsigned array (sample, site[, rank])
        bonds : int64 array (sample,) or None
            Bonds placed on each state.
        offset : float
            What the log-weight has beyond the mean count of the bonds.
        start : int
            Place of the first sample in the series.
        place : int
            The bin.
        """
        measured = self._measurement
        chain, n, q, k = (
            measured.chain,
            measured.n_sites,
            measured.chain.n_states,
            measured.chain.top_k,
        )
        sets = states if states.ndim == 3 else states[..., None]
        n_samples = len(sets)
        bond, strength, site = measured.tables
        periodic = chain.boundary == "periodic"
        weight = np.empty(n_samples)
        if not measured.has_energy:
            weight[:] = 0
            weight_square = weight
        elif bonds is None:
            log_weights(sets, bond, strength, site, periodic, weight)
            weight_square = weight**2
        else:
            log_weights(sets, bond, strength[:0], site, periodic, weight)
            weight += bonds + offset
            # Given the state the count is Poisson: its square is too large by its mean.
            weight_square = weight**2 - bonds
        count = np.empty((n_samples, q), np.int64)
        wave = np.empty(n_samples)
        labels_and_waves(sets, *measured.phases, count, wave)
        total = count @ measured.observable.T
        share = count / (n * k)
        order_square = (q * (share**2).sum(1) - 1) / (q - 1)
        order = (q * share.max(1) - 1) / (q - 1)
        overlap = np.zeros(n_samples)
        if measured.is_local and self.reference is not None:
            same = states == self.reference
            overlap = same.reshape(n_samples, -1).mean(1)
        mean_label = share @ np.arange(q)
        columns = (
            weight,
            weight_square,
            share[:, -1],
            order,
            order_square,
            wave,
            mean_label,
            overlap,
        )
        stop = start + n_samples
        for i, (name, column) in enumerate(zip(SERIES, columns, strict=True)):
            self.series[i, start:stop] = column
            self.sums[name][place] += column.sum()
        self.sums["order_fourth"][place] += (order_square**2).sum()
        self.sums["total"][place] += total.sum(0)
        self.sums["total_square"][place] += (total**2).sum(0)
        if measured.is_local:
            site_counts(sets, self.sums["label_count"][place])
        else:
            self.sums["label_count"][place] += count.sum(0)
        if measured.n_distances:
            into = (self.sums["pair"][place], self.pair_square)
            if states.ndim == 2 and states.dtype == np.uint8:
                equal_pairs(states, (q - 1).bit_length(), periodic, *into)
            else:
                shared_members(sets, q, periodic, *into)
