"""Cluster algorithms for ferromagnetic chains: Swendsen and Wang's, and Wolff's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import poisson

from isingmoe._kernels.clusters import advance_swendsen_wang, advance_wolff
from isingmoe._kernels.placing import Tables, bins, walker_table
from isingmoe._kernels.random import random_labels
from isingmoe.algorithms._sampler import label_dtype
from isingmoe.chains import Chain
from isingmoe.couplings import gain_of_equal

__all__ = ["SwendsenWang", "Wolff"]

# Distances below this are drawn from one table, which stays in the first cache.
_N_NEAR = 1 << 10

# Far distances whose rates differ by less than this fraction are drawn together.
_SLACK = 1 / 8

# Events drawn together: so many on average, from so many sites at the most.
_EVENTS_OF_BLOCK = 100
_LARGEST_BLOCK = 8

# Sweeps in which order spreads over a chain: clusters join to larger ones in each.
_START_SWEEPS = 64

# Events of a site on average, beyond which a sweep would never end.
_MOST_EVENTS = 1 << 16


@dataclass(frozen=True)
class SwendsenWang:
    """All clusters at once; every cluster gets a new label.

    For chains whose bonds favour equal labels, at any distance, and with any field. A sweep
    takes a time in proportion to the number of sites whatever the reach.

    References
    ----------
    R. H. Swendsen and J.-S. Wang, Phys. Rev. Lett. 58, 86 (1987); K. Fukui and S. Todo,
    J. Comput. Phys. 228, 2629 (2009).
    """

    def prepare(self, chain: Chain) -> SwendsenWangSampler:
        """Make the tables for a chain.

        Parameters
        ----------
        chain : Chain
            Finite, one label to a site, bonds with one value for equal labels and one, not
            larger, for different ones.

        Returns
        -------
        SwendsenWangSampler

        Raises
        ------
        ValueError
            If the chain is not of this kind; says which algorithm to use.
        """
        return SwendsenWangSampler(**_prepared(chain, type(self).__name__))


@dataclass(frozen=True)
class Wolff:
    """One cluster at a time, grown from a random site; it gets another label.

    For the same chains as `SwendsenWang`.

    Parameters
    ----------
    n_clusters : int
        Clusters of a sweep; every second sweep, by chance, has one more. A fixed number:
        to stop when the clusters add up to the chain would favour some states.

    Raises
    ------
    TypeError, ValueError
        If `n_clusters` is not a positive integer.

    Notes
    -----
    A cluster may be far smaller than the chain, while to record a state takes a time in
    proportion to its length: leave many clusters between samples.

    References
    ----------
    U. Wolff, Phys. Rev. Lett. 62, 361 (1989); E. Luijten and H. W. J. Blöte, Int. J. Mod.
    Phys. C 6, 359 (1995).
    """

    n_clusters: int = 1

    def __post_init__(self) -> None:
        n = self.n_clusters
        if not isinstance(n, int | np.integer) or isinstance(n, bool):
            raise TypeError(f"n_clusters: expected an integer, got {n!r}")
        if n < 1:
            raise ValueError(f"n_clusters: expected at least 1, got {n}")

    def prepare(self, chain: Chain) -> WolffSampler:
        """Make the tables for a chain; as for `SwendsenWang`."""
        return WolffSampler(
            **_prepared(chain, type(self).__name__), n_clusters=int(self.n_clusters)
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class _ClusterSampler:
    """What the two have in common.

    Attributes
    ----------
    offset : float
        What the bonds add to the log-weight of a state without equal labels. The events that
        `advance` counts on a state have Poisson's law, and what its bonds add beyond that for
        their mean.
    """

    n_sites: int
    n_states: int
    offset: float
    field: NDArray[np.float64]
    is_ring: bool
    tables: Tables

    lanes = 1
    is_independent = False

    def start(self, words: NDArray[np.uint64]) -> NDArray:
        """Random labels (site,)."""
        labels = np.empty(self.n_sites, label_dtype(self.n_states))
        random_labels(labels, words, self.n_states)
        return labels


class SwendsenWangSampler(_ClusterSampler):
    """`SwendsenWang` made ready for one chain."""

    def advance(
        self, state: NDArray, words: NDArray[np.uint64], out: NDArray, n_sweeps: int
    ) -> NDArray[np.int64]:
        """Sweep on; a state in each row of `out`, and the events on its equal pairs."""
        # An array of numpy's own: large ones come in large pages.
        parent = np.arange(self.n_sites, dtype=np.uint32)
        rest = self.n_states, self.field, self.is_ring, self.tables
        return advance_swendsen_wang(state, words, out, n_sweeps, parent, *rest)


@dataclass(frozen=True, eq=False, kw_only=True)
class WolffSampler(_ClusterSampler):
    """`Wolff` made ready for one chain."""

    n_clusters: int

    def start(self, words: NDArray[np.uint64]) -> NDArray:
        """Random labels (site,) after some sweeps of Swendsen and Wang's.

        Single clusters of random labels are small: it would take a number in proportion
        to the chain to grow order out of them.
        """
        labels = super().start(words)
        parent = np.arange(self.n_sites, dtype=np.uint32)
        rest = self.n_states, self.field, self.is_ring, self.tables
        advance_swendsen_wang(labels, words, labels[None].copy(), _START_SWEEPS, parent, *rest)
        return labels

    def advance(
        self, state: NDArray, words: NDArray[np.uint64], out: NDArray, n_sweeps: int
    ) -> NDArray[np.int64]:
        """Sweep on; a state in each row of `out`, and the events on its equal pairs."""
        rest = self.n_states, self.field, self.is_ring, self.tables
        return advance_wolff(state, words, out, n_sweeps, self.n_clusters, *rest)


def _prepared(chain: Chain, algorithm: str) -> dict[str, Any]:
    """What both samplers hold of a chain, which is checked."""
    n = chain.n_sites
    if n is None:
        raise ValueError(
            f"n_sites: expected a number for {algorithm}, got None, an infinite chain; give n_sites"
        )
    if chain.top_k > 1:
        raise ValueError(f"top_k: expected 1 for {algorithm}, got {chain.top_k}; use HeatBath()")
    rate, least = _rates(chain, algorithm)
    is_ring = chain.boundary == "periodic"
    distance = np.arange(1, len(rate) + 1)
    site = chain.site
    field = site - site.max(1, keepdims=True)
    return {
        "n_sites": n,
        "n_states": chain.n_states,
        "offset": float(np.sum((n - (0 if is_ring else distance)) * least)),
        "field": field if field.any() else field[:0],
        "is_ring": is_ring,
        "tables": _tables(rate, n),
    }


def _rates(chain: Chain, algorithm: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a pair of equal labels has over an unequal one, and what that has, (reach,)."""
    found = gain_of_equal(chain.bond, chain.strength)
    if found is None:
        raise ValueError(
            f"J: expected one coupling for all pairs of equal labels for {algorithm}, got a "
            "matrix or vector; use HeatBath()"
        )
    rate, different = found
    if (rate < 0).any():
        r = int(rate.argmin()) + 1
        raise ValueError(
            f"J: expected a ferromagnetic coupling for {algorithm}, got {rate.min():.3g} for "
            f"equal labels at distance {r}; use HeatBath()"
        )
    if rate.sum() > _MOST_EVENTS:
        raise ValueError(
            f"J: expected couplings of a site that add up to at most {_MOST_EVENTS} of the "
            f"temperature for {algorithm}, got {rate.sum():.3g}; raise the temperature"
        )
    return rate, different


def _tables(rate: NDArray[np.float64], n_sites: int) -> Tables:
    """Tables for events at these rates, (reach,), of a pair at each distance."""
    near = np.zeros(min(_N_NEAR, _power_of_two(max(len(rate) + 1, 2))))
    n_near = min(len(near) - 1, len(rate))
    near[1 : n_near + 1] = rate[:n_near]
    start, width, largest, smallest = bins(rate, len(near), _SLACK)
    far = np.zeros((_power_of_two(len(start)), 3), np.uint64)
    keep = np.zeros(1, np.uint32)
    near[0] = largest @ width
    if near[0]:
        far[:, 0] = walker_table(largest * width, len(far))
        far[: len(start), 1] = start
        # A bin without rate is never drawn.
        scale = np.where(largest > 0, largest, 1)
        least = _below_chance(smallest / scale) << np.uint64(32)
        far[: len(start), 2] = least | (width - 1).astype(np.uint64)
        keep = _below_chance(rate[n_near:] / np.repeat(scale, width)).astype(np.uint32)
    total = float(near.sum())
    if not total:
        near[1] = 1.0
    return Tables(_counts(total, n_sites), walker_table(near, len(near)), far, keep)


def _below_chance(p: NDArray[np.float64]) -> NDArray[np.uint64]:
    """The largest half of a word that is below a chance."""
    return np.maximum(np.rint(p * 2.0**32) - 1, 0).astype(np.uint64)


def _counts(mean: float, n_sites: int) -> NDArray[np.uint64]:
    """Tables of the number of events, `mean` for a site; at least two, for single sites."""
    rows = 2
    while (
        rows <= _LARGEST_BLOCK and mean * 2**rows <= _EVENTS_OF_BLOCK and 2 ** (rows - 1) < n_sites
    ):
        rows += 1
    most = mean * 2 ** (rows - 1)
    # The chance of still more events is below the rounding of the tables.
    number = np.arange(_power_of_two(int(most + 10 * np.sqrt(most) + 30)))
    means = mean * 2.0 ** np.arange(rows)
    return np.stack([walker_table(poisson.pmf(number, m), len(number)) for m in means])


def _power_of_two(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()
