"""Errors of correlated samples: autocorrelation times, bins and the jackknife."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["autocorrelation_time", "jackknife", "merged", "missing_share"]

Array = NDArray[np.floating]
Sums = Mapping[str, Array]

# The window is as many autocorrelation times wide: what lies beyond it is noise (Sokal).
_WINDOW = 6

# Bins so many autocorrelation times long miss about 1/_LENGTH of the variance, which
# `missing_share` knows.
_LENGTH = 10
_FEWEST_BINS = 16


def autocorrelation_time(series: Array) -> float:
    """Integrated autocorrelation time of a quantity, in samples.

    Parameters
    ----------
    series : ndarray (replica, sample)

    Returns
    -------
    float
        1/2 + sum over t > 0 of rho(t): 1/2 for independent samples, and for a quantity
        that never changes.

    Notes
    -----
    The sum ends at the first t that is not below 6 times the sum up to it. All replicas
    share one mean, so that replicas which have not met show up as a long time.

    References
    ----------
    A. D. Sokal, in Functional Integration (Plenum, 1997), p. 131.
    """
    n_replicas, n_samples = series.shape
    deviation = series - series.mean()
    padded = 1 << (2 * n_samples - 1).bit_length()
    power = np.zeros(padded // 2 + 1)
    for replica in deviation:
        power += np.abs(np.fft.rfft(replica, padded)) ** 2
    covariance = np.fft.irfft(power, padded)[:n_samples]
    covariance /= n_replicas * (n_samples - np.arange(n_samples))
    scale = np.abs(series).max(initial=0) * np.finfo(float).eps
    if covariance[0] <= scale**2 * 16:
        return 0.5
    time = np.cumsum(covariance / covariance[0]) - 0.5
    closed = np.arange(n_samples) >= _WINDOW * time
    window = int(closed.argmax()) if closed.any() else n_samples - 1
    return max(float(time[window]), 0.5)


def merged(sums: Sums, size: Array, time: float, n_replicas: int) -> tuple[dict[str, Array], Array]:
    """Bins joined until each is 10 autocorrelation times long, while at least 16 remain.

    Parameters
    ----------
    sums : mapping of ndarray (replica * bin, ...)
        Sums over each bin, replica by replica.
    size : ndarray (replica * bin,)
        Samples in each.
    time : float
        Autocorrelation time in samples.
    n_replicas : int

    Returns
    -------
    sums : dict of ndarray (fewer, ...)
    size : ndarray (fewer,)
    """
    n_bins = len(size) // n_replicas
    wanted = int(np.ceil(_LENGTH * time / size.mean())) if time > 0.5 else 1
    most = max(len(size) // _FEWEST_BINS, 1)
    factor = min(max(wanted, 1), most, n_bins)
    start = np.arange(0, n_bins - factor + 1, factor)
    # What is left over at the end of a replica joins its last bin.
    places = (np.arange(n_replicas)[:, None] * n_bins + start).ravel()
    joined = {name: np.add.reduceat(value, places, axis=0) for name, value in sums.items()}
    return joined, np.add.reduceat(size, places)


def missing_share(time: Array, length: float) -> Array:
    """Share of the variance of a mean that bins do not see, as they are correlated.

    Parameters
    ----------
    time : ndarray
        Integrated autocorrelation time, in samples.
    length : float
        Samples in a bin.

    Returns
    -------
    ndarray
        Exact where the autocorrelation falls exponentially; at most one half.
    """
    beyond = np.asarray(time) - 0.5
    return np.minimum(beyond * (1 + beyond) / (length * np.asarray(time)), 0.5)


def jackknife(
    sums: Sums, size: Array, function: Callable[[dict[str, Array]], dict[str, Array]]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Functions of means, with their standard errors.

    Parameters
    ----------
    sums : mapping of ndarray (bin, ...)
        Sums over each bin.
    size : ndarray (bin,)
        Samples in each.
    function : callable
        Takes the means and returns the quantities.

    Returns
    -------
    value, error : dict of ndarray
        The errors of a single bin are NaN.

    References
    ----------
    B. Efron, The Jackknife, the Bootstrap and Other Resampling Plans (SIAM, 1982).
    """
    whole = {name: value.sum(0) for name, value in sums.items()}
    n_samples, n_bins = size.sum(), len(size)
    value = function({name: total / n_samples for name, total in whole.items()})
    if n_bins < 2:
        return value, {name: np.full_like(found, np.nan) for name, found in value.items()}
    mean = {name: np.zeros_like(found) for name, found in value.items()}
    square = {name: np.zeros_like(found) for name, found in value.items()}
    for j in range(n_bins):
        rest = n_samples - size[j]
        without = function({name: (whole[name] - sums[name][j]) / rest for name in sums})
        for name, found in without.items():
            # About the value of all bins: the squares of large numbers would cancel.
            change = found - value[name]
            mean[name] += change / n_bins
            square[name] += change**2 / n_bins
    error = {
        name: np.sqrt((n_bins - 1) * np.maximum(square[name] - mean[name] ** 2, 0))
        for name in value
    }
    return value, error
