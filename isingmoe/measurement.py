"""What is measured on samples of a chain while they are drawn, and the errors of the means."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._kernels.measuring import (
    equal_pairs,
    labels_and_waves,
    log_weights,
    shared_members,
    site_counts,
)
from isingmoe._text import about
from isingmoe.binning import autocorrelation_time, jackknife, merged
from isingmoe.chains import Chain

__all__ = ["Measurement", "Record", "bin_edges"]

Array = NDArray[np.floating]

# Fine bins of a replica, and what the counts of every site may take in memory.
_N_BINS = 128
_SITE_BYTES = 1 << 28

_SERIES = ("log_weight", "log_weight_square", "label", "order", "order_square", "wave")


def bin_edges(
    n_samples: int, n_sites: int, n_states: int, n_replicas: int, local: bool
) -> NDArray[np.int64]:
    """Where the fine bins of a replica begin and end.

    With `local` every bin holds counts for each site, and there are as few as memory asks.
    """
    n_bins = min(n_samples, _N_BINS)
    if local:
        n_bins = min(n_bins, max(_SITE_BYTES // (8 * n_sites * n_states * n_replicas), 2))
    return np.linspace(0, n_samples, n_bins + 1).astype(np.int64)


@dataclass(frozen=True)
class Measurement:
    """What is measured on the states of one chain.

    Attributes
    ----------
    chain : Chain
        Finite.
    n_distances : int
        C(d) is measured for d below it.
    """

    chain: Chain
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
    def overlap(self) -> tuple[float, float]:
        """Product of the observables of two equal labels, and of two different ones."""
        gram = self.observable.T @ self.observable
        return float(gram[0, 0]), float(gram[0, 1])

    def pairs(self, d: NDArray[np.integer]) -> NDArray[np.integer]:
        """Pairs of sites at each distance."""
        return self.n_sites - d * self.is_local

    def means_to_quantities(self, mean: dict[str, Array]) -> dict[str, Array]:
        """Everything that is reported, from the means of what was summed."""
        chain, n, q, k = self.chain, self.n_sites, self.chain.n_states, self.chain.top_k
        temperature = chain.temperature
        total, square = mean["total"], mean["total_square"]
        variance = square - total**2
        second, fourth = mean["order_square"], mean["order_fourth"]
        components = q - 1
        equal, different = self.overlap
        wave = mean["wave"] * (equal - different) / n
        ratio = variance.sum() / n / np.where(wave > 0, wave, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            length = np.sqrt(np.maximum(ratio - 1, 0)) / (2 * np.sin(np.pi / n))
            binder = 1 - components / (components + 2) * fourth / second**2
        quantities = {
            "energy": -temperature * mean["log_weight"] / n,
            "specific_heat": (mean["log_weight_square"] - mean["log_weight"] ** 2) / n,
            "magnetization": total[0] / n
            if len(total) == 1
            else (q * total.max() / (n * k) - 1) / (q - 1),
            "order_parameter": mean["order"],
            "susceptibility": variance / n / temperature,
            "binder_cumulant": binder,
            "correlation_length": length,
            "marginal": mean["label_count"] / (1 if self.is_local else n),
        }
        if len(total) == 1:
            quantities["susceptibility"] = quantities["susceptibility"][0]
        quantities["correlation"] = self._correlation(mean)
        return quantities

    def _correlation(self, mean: dict[str, Array]) -> Array:
        chain, n, d = self.chain, self.n_sites, np.arange(self.n_distances)
        if not len(d):
            return np.empty(0)
        equal, different = self.overlap
        pairs = self.pairs(d)
        product = different * chain.top_k**2 + (equal - different) * mean["pair"] / pairs
        if not self.is_local:
            return product - ((mean["total"] / n) ** 2).sum()
        rate = mean["label_count"] @ self.observable.T
        padded = np.fft.rfft(rate, 2 * n, axis=0)
        expected = np.fft.irfft((np.abs(padded) ** 2).sum(1), 2 * n)[: len(d)]
        return product - expected / pairs

    def result(
        self,
        records: list[Record],
        size: NDArray[np.integer],
        n_sweeps: int,
        independent: bool,
    ) -> tuple[xr.Dataset, float]:
        """Means with their errors and autocorrelation times.

        Parameters
        ----------
        records : list of Record
            One for each replica.
        size : ndarray (bin,)
            Samples in each fine bin of a replica.
        n_sweeps : int
            Sweeps between two samples.
        independent : bool
            Whether the samples are known to be independent.

        Returns
        -------
        Dataset
            Without attributes of its own.
        longest : float
            The longest autocorrelation time, in samples.
        """
        series = {name: np.stack([r.series[i] for r in records]) for i, name in enumerate(_SERIES)}
        times = {
            name: 0.5 if independent else autocorrelation_time(values)
            for name, values in series.items()
        }
        longest = max(times.values())
        sums = {name: np.concatenate([r.sums[name] for r in records]) for name in records[0].sums}
        n_replicas = len(records)
        sizes = np.tile(size, n_replicas).astype(float)
        binned, sizes = merged(sums, sizes, longest, n_replicas)
        value, error = jackknife(binned, sizes, self.means_to_quantities)
        square = sum(r.pair_square for r in records) / sizes.sum()
        times_of = {
            "energy": times["log_weight"],
            "specific_heat": times["log_weight_square"],
            "magnetization": times["label"],
            "order_parameter": times["order"],
            "susceptibility": times["order_square"],
            "binder_cumulant": times["order_square"],
            "correlation_length": max(times["order_square"], times["wave"]),
        }
        spread = square - (binned["pair"].sum(0) / sizes.sum()) ** 2
        slow = _inefficiency(binned["pair"], sizes, spread)
        dataset = self._labelled(value, error, times_of, slow, n_sweeps)
        kept = (("energy", "log_weight"), ("order_parameter", "order"), ("label_share", "label"))
        factor = {"energy": -self.chain.temperature / self.n_sites}
        for name, source in kept:
            long_name, units = _SERIES_NAMES[name]
            dataset[f"{name}_series"] = (
                ("replica", "sample"),
                series[source] * factor.get(name, 1.0),
                about(long_name, units),
            )
        return dataset, longest

    def _labelled(
        self,
        value: dict[str, Array],
        error: dict[str, Array],
        times: dict[str, float],
        slow: Array,
        n_sweeps: int,
    ) -> xr.Dataset:
        label = "state" if len(self.observable) == 1 else "expert"
        dims: dict[str, tuple[str, ...]] = {
            "correlation": ("distance",),
            "marginal": ("site", label) if self.is_local else (label,),
            "susceptibility": () if label == "state" else ("expert",),
        }
        variables: dict[str, Any] = {}
        for name, (long_name, units) in _QUANTITIES.items():
            where = dims.get(name, ())
            variables[name] = (where, value[name], about(long_name, units))
            variables[f"{name}_error"] = (
                where,
                error[name],
                about(f"standard error of the {long_name}", units),
            )
            if name in times:
                variables[f"{name}_autocorrelation_time"] = (
                    (),
                    times[name] * n_sweeps,
                    about(f"integrated autocorrelation time of the {long_name}", "sweep"),
                )
        variables["correlation_autocorrelation_time"] = (
            ("distance",),
            slow * n_sweeps,
            about("integrated autocorrelation time of the connected correlation", "sweep"),
        )
        distance = np.arange(self.n_distances)
        return xr.Dataset(
            variables, coords={"distance": ("distance", distance, about("distance", "site"))}
        )


_QUANTITIES = {
    "energy": ("energy per site", "coupling"),
    "specific_heat": ("specific heat per site", "k_B"),
    "magnetization": ("magnetization", "1"),
    "order_parameter": ("order parameter (q m_max - 1)/(q - 1)", "1"),
    "susceptibility": ("response of the magnetization to its field", "1/coupling"),
    "binder_cumulant": ("Binder cumulant", "1"),
    "correlation_length": ("second-moment correlation length", "site"),
    "correlation": ("connected correlation", "1"),
    "marginal": ("probability of the state", "1"),
}
_SERIES_NAMES = {
    "energy": ("energy per site of each sample", "coupling"),
    "order_parameter": ("order parameter of each sample", "1"),
    "label_share": ("share of the sites with the last label in each sample", "1"),
}


def _inefficiency(sums: Array, size: Array, variance: Array) -> Array:
    """Autocorrelation time from the spread of the bins over that of single samples."""
    mean = sums.sum(0) / size.sum()
    spread = ((sums - size[:, None] * mean) ** 2).sum(0) / size.sum()
    if len(size) < 2:
        return np.full(len(mean), np.nan)
    spread *= len(size) / (len(size) - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(variance > 0, np.maximum(spread / (2 * variance), 0.5), 0.5)


class Record:
    """Sums and series of one replica, filled while it is sampled.

    Parameters
    ----------
    measurement : Measurement
    n_samples, n_bins : int
    """

    def __init__(self, measurement: Measurement, n_samples: int, n_bins: int) -> None:
        chain = measurement.chain
        q, k = chain.n_states, len(measurement.observable)
        self._measurement = measurement
        self.series = np.empty((len(_SERIES), n_samples))
        self.pair_square = np.zeros(measurement.n_distances)
        local = measurement.is_local
        shape = (measurement.n_sites, q) if local else (q,)
        self.sums = {
            "total": np.zeros((n_bins, k)),
            "total_square": np.zeros((n_bins, k)),
            "pair": np.zeros((n_bins, measurement.n_distances)),
            "label_count": np.zeros((n_bins, *shape), np.int64 if local else float),
            **{name: np.zeros(n_bins) for name in (*_SERIES, "order_fourth")},
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
        if bonds is None:
            log_weights(sets, bond, strength, site, periodic, weight)
            weight_square = weight**2
        else:
            log_weights(sets, bond, strength[:0], site, periodic, weight)
            weight += bonds + offset
            # Given the state the count is Poisson: its square is too large by its mean.
            weight_square = weight**2 - bonds
        count = np.empty((n_samples, q), np.int64)
        wave = np.empty(n_samples)
        labels_and_waves(sets, *measured.wave, count, wave)
        total = count @ measured.observable.T
        share = count / (n * k)
        order_square = (q * (share**2).sum(1) - 1) / (q - 1)
        order = (q * share.max(1) - 1) / (q - 1)
        columns = (weight, weight_square, share[:, -1], order, order_square, wave)
        stop = start + n_samples
        for i, (name, column) in enumerate(zip(_SERIES, columns, strict=True)):
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
