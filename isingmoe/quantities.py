"""What is reported of a run: the quantities, their errors and autocorrelation times."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._text import about
from isingmoe.binning import autocorrelation_time, jackknife, merged, missing_share
from isingmoe.measurement import SERIES, Measurement, Record

__all__ = ["analyse"]

Array = NDArray[np.floating]


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
# What a chain without an energy has not.
_OF_ENERGY = ("energy", "specific_heat", "susceptibility")
_SERIES_NAMES = {
    "energy": ("energy per site of each sample; on average, of cluster algorithms", "coupling"),
    "order_parameter": ("order parameter of each sample", "1"),
    "label_share": ("share of the sites with the last label in each sample", "1"),
}


def analyse(
    measurement: Measurement,
    records: list[Record],
    size: NDArray[np.integer],
    n_sweeps: int,
    independent: bool,
) -> tuple[xr.Dataset, float]:
    """Means with their errors and autocorrelation times.

    Parameters
    ----------
    measurement : Measurement
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
    series = {name: np.stack([r.series[i] for r in records]) for i, name in enumerate(SERIES)}
    times = {
        name: 0.5 if independent else autocorrelation_time(values)
        for name, values in series.items()
    }
    longest = max(times.values())
    sums = {name: np.concatenate([r.sums[name] for r in records]) for name in records[0].sums}
    n_replicas = len(records)
    sums["favoured"] = _favoured(sums["total"], n_replicas)
    sizes = np.tile(size, n_replicas).astype(float)
    binned, sizes = merged(sums, sizes, longest, n_replicas)
    value, error = jackknife(binned, sizes, lambda mean: _quantities(measurement, mean))
    square = sum(r.pair_square for r in records) / sizes.sum()
    times_of = _meaningful(
        measurement,
        {
            "energy": times["log_weight"],
            "specific_heat": times["log_weight_square"],
            "magnetization": max(times["label"], times["mean_label"]),
            "order_parameter": times["order"],
            "susceptibility": times["order_square"],
            "binder_cumulant": times["order_square"],
            "correlation_length": max(times["order_square"], times["wave"]),
        },
    )
    spread = square - (binned["pair"].sum(0) / sizes.sum()) ** 2
    slow = _inefficiency(binned["pair"], sizes, spread)
    of_bins = {**times_of, "marginal": max(times["mean_label"], times["overlap"])}
    # Of the noise in the times of the correlations no more than the longest can be true.
    for name, time in {**of_bins, "correlation": np.minimum(slow, longest)}.items():
        error[name] /= np.sqrt(1 - missing_share(time, float(sizes.mean())))
    value["correlation_length"], error["correlation_length"] = _length(
        value["correlation_length"], error["correlation_length"]
    )
    dataset = _labelled(measurement, value, error, times_of, slow, n_sweeps)
    kept = (("energy", "log_weight"), ("order_parameter", "order"), ("label_share", "label"))
    factor = {"energy": -measurement.chain.temperature / measurement.n_sites}
    for name, source in _meaningful(measurement, dict(kept)).items():
        long_name, units = _SERIES_NAMES[name]
        dataset[f"{name}_series"] = (
            ("replica", "sample"),
            series[source] * factor.get(name, 1.0),
            about(long_name, units),
        )
    return dataset, longest


def _meaningful(measurement: Measurement, of_names: dict[str, Any]) -> dict[str, Any]:
    """Without what follows from an energy, where the chain has none."""
    if measurement.has_energy:
        return of_names
    return {name: value for name, value in of_names.items() if name not in _OF_ENERGY}


def _favoured(total: Array, n_replicas: int) -> Array:
    """Of each bin (replica * bin, observable), the sum of the observable that is largest.

    Which one that is the other half of the run says: the largest of several noisy means
    would be too large.
    """
    n_bins = len(total) // n_replicas
    if len(total) < 2:
        return total.max(1)
    place = np.arange(len(total))
    half = place % 2 if n_bins < 2 else place % n_bins * 2 // n_bins
    largest = [int(total[half != side].sum(0).argmax()) for side in range(2)]
    return np.where(half == 0, total[:, largest[0]], total[:, largest[1]])


def _length(square: Array, error: Array) -> tuple[Array, Array]:
    """Root of a squared length with its error, which stays one where noise hides the length."""
    clipped = np.maximum(square, 0)
    root = np.sqrt(clipped)
    return root, np.sqrt(clipped + error) - root


def _quantities(measurement: Measurement, mean: dict[str, Array]) -> dict[str, Array]:
    """Everything that is reported, from the means of what was summed; the length squared."""
    chain, n = measurement.chain, measurement.n_sites
    q, k = chain.n_states, chain.top_k
    temperature = chain.temperature
    total, square = mean["total"], mean["total_square"]
    variance = square - total**2
    second, fourth = mean["order_square"], mean["order_fourth"]
    components = q - 1
    equal, different = measurement.overlap
    wave = mean["wave"] * (equal - different) / n
    if measurement.is_local:
        # Sites with means of their own have a wave on average, too.
        still = np.stack(measurement.wave) @ mean["label_count"] @ measurement.observable.T
        wave -= (still**2).sum() / n
    ratio = variance.sum() / n / np.where(wave > 0, wave, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        length_square = (ratio - 1) / (2 * np.sin(np.pi / n)) ** 2
        binder = 1 - components / (components + 2) * fourth / second**2
    quantities = {
        "energy": -temperature * mean["log_weight"] / n,
        "specific_heat": (mean["log_weight_square"] - mean["log_weight"] ** 2) / n,
        "magnetization": total[0] / n
        if len(total) == 1
        else (q * mean["favoured"] / (n * k) - 1) / (q - 1),
        "order_parameter": mean["order"],
        "susceptibility": variance / n / temperature,
        "binder_cumulant": binder,
        "correlation_length": length_square,
        "marginal": mean["label_count"] / (1 if measurement.is_local else n),
    }
    if len(total) == 1:
        quantities["susceptibility"] = quantities["susceptibility"][0]
    quantities["correlation"] = _correlation(measurement, mean)
    return _meaningful(measurement, quantities)


def _correlation(measurement: Measurement, mean: dict[str, Array]) -> Array:
    chain, n = measurement.chain, measurement.n_sites
    d = np.arange(measurement.n_distances)
    if not len(d):
        return np.empty(0)
    equal, different = measurement.overlap
    pairs = measurement.pairs(d)
    product = different * chain.top_k**2 + (equal - different) * mean["pair"] / pairs
    if not measurement.is_local:
        return product - ((mean["total"] / n) ** 2).sum()
    rate = mean["label_count"] @ measurement.observable.T
    padded = np.fft.rfft(rate, 2 * n, axis=0)
    expected = np.fft.irfft((np.abs(padded) ** 2).sum(1), 2 * n)[: len(d)]
    return product - expected / pairs


def _labelled(
    measurement: Measurement,
    value: dict[str, Array],
    error: dict[str, Array],
    times: dict[str, float],
    slow: Array,
    n_sweeps: int,
) -> xr.Dataset:
    label = "state" if len(measurement.observable) == 1 else "expert"
    dims: dict[str, tuple[str, ...]] = {
        "correlation": ("distance",),
        "marginal": ("site", label) if measurement.is_local else (label,),
        "susceptibility": () if label == "state" else ("expert",),
    }
    variables: dict[str, Any] = {}
    for name, (long_name, units) in _meaningful(measurement, _QUANTITIES).items():
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
    distance = np.arange(measurement.n_distances)
    return xr.Dataset(
        variables, coords={"distance": ("distance", distance, about("distance", "site"))}
    )


def _inefficiency(sums: Array, size: Array, variance: Array) -> Array:
    """Autocorrelation time from the spread of the bins over that of single samples."""
    mean = sums.sum(0) / size.sum()
    spread = ((sums - size[:, None] * mean) ** 2).sum(0) / size.sum()
    if len(size) < 2:
        return np.full(len(mean), np.nan)
    spread *= len(size) / (len(size) - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(variance > 0, np.maximum(spread / (2 * variance), 0.5), 0.5)
