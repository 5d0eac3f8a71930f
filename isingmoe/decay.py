"""Correlation length of a measured curve."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isingmoe._text import about

__all__ = ["decay_fit", "length_variables", "second_moment_length"]

Array = NDArray[np.floating]

# A correlation counts as seen above so many of its standard errors. With one, runs of noise
# stretch the range of the fit: on simulated chains the intervals then cover less often.
_SEEN = 2
# A slope this small is rounding: the curve does not fall.
_FLAT = 1e-12

_MEANING = {
    "correlation_length": "correlation length by a fit of the decay",
    "second_moment_length": "correlation length by the second moment",
}
_ENDS = {
    "": "",
    "_low": ", lower end of the 95 % interval",
    "_high": ", upper end of the 95 % interval",
}


def decay_fit(curve: Array, error: Array) -> tuple[Array, NDArray[np.int64]]:
    """Correlation length of A exp(-d / xi) fitted to the distances where C(d) is seen.

    Parameters
    ----------
    curve : ndarray (..., distance)
        C(d) from d = 0 on; any number of curves.
    error : ndarray (distance,)
        Standard error of C(d).

    Returns
    -------
    xi : ndarray (...)
        0 where not even |C(1)| is above twice its error, inf where the curve does not fall,
        NaN where C(1) is.
    n_fitted : ndarray (...)
        Distances used: from 1 up to the first whose |C(d)| is not above twice its error.

    Notes
    -----
    Least squares of ln |C(d)| with weights (C / error)^2, the inverse variance of ln |C|:
    of the modulus, because -1 / ln |lambda_2 / lambda_1| is blind to the sign too. With one
    such distance, C(0) is the second point.
    """
    size = np.abs(curve)
    n_fitted = (size[..., 1:] > _SEEN * error[1:]).cumprod(-1).sum(-1)
    d = np.arange(curve.shape[-1])
    last = n_fitted[..., None]
    used = (d <= last) & (d >= np.where(last > 1, 1, 0)) & (last > 0)
    floor = np.maximum(error, 1e-12 * size[..., :1])
    weight = np.divide(size, floor, out=np.zeros_like(size), where=used & (floor > 0)) ** 2
    total = np.where(last > 0, weight.sum(-1, keepdims=True), 1)
    weight /= total
    centred = d - (weight * d).sum(-1, keepdims=True)
    covariance = (weight * centred * np.log(np.where(used, size, 1))).sum(-1)
    variance = (weight * centred**2).sum(-1)
    slope = np.divide(covariance, variance, out=np.zeros_like(variance), where=variance > 0)
    falling = slope < -_FLAT
    xi = np.where(falling, -1 / np.where(falling, slope, -1), np.inf)
    xi = np.where(n_fitted == 0, 0.0, xi)
    return np.where(np.isnan(curve[..., 1]), np.nan, xi), n_fitted


def second_moment_length(curve: Array, n_fitted: NDArray[np.int64]) -> Array:
    """Correlation length from the second moment of |C(d)|, exact for an exponential.

    Parameters
    ----------
    curve : ndarray (..., distance)
        C(d) from d = 0 on.
    n_fitted : ndarray (...)
        Last distance that enters; beyond it the curve is noise.

    Returns
    -------
    ndarray (...)

    Notes
    -----
    With m = sum d^2 C(d) / (2 sum C(d)) over all integers d, an exponential on a lattice
    has m = 1 / (4 sinh^2(1 / (2 xi))), which is solved for xi.
    """
    d = np.arange(curve.shape[-1])
    used = np.where(d <= n_fitted[..., None], np.abs(curve), 0)
    both_signs = np.where(d == 0, 1, 2)
    moment = (used * (both_signs * d**2)).sum(-1)
    total = 2 * (used * both_signs).sum(-1)
    m = np.divide(moment, total, out=np.zeros_like(total), where=total > 0)
    with np.errstate(divide="ignore"):
        return 1 / (2 * np.arcsinh(1 / (2 * np.sqrt(m))))


def _largest_unseen(curve: Array, error: Array) -> float:
    """The length whose C(1) lies two errors above a C(1) that is lost in its error."""
    share = (abs(curve[1]) + _SEEN * error[1]) / curve[0] if curve[0] > 0 else 0.0
    if not 0 < share < 1:
        return 0.0 if share <= 0 else np.inf
    return float(-1 / np.log(share))


def length_variables(curve: Array, error: Array, resample: Array) -> dict[str, Any]:
    """Both correlation lengths of every layer, with 95 % bootstrap intervals.

    Parameters
    ----------
    curve, error : ndarray (layer, distance)
    resample : ndarray (layer, resample, distance)

    Returns
    -------
    dict
        Variables of a Dataset, with dims, values and attributes.
    """
    values: dict[str, list[float]] = {name + end: [] for name in _MEANING for end in _ENDS}
    n_fitted = []
    for c, e, r in zip(curve, error, resample, strict=True):
        xi, n = decay_fit(c, e)
        spread, n_spread = decay_fit(r, e)
        n_fitted.append(int(n))
        estimates = (
            (xi, spread),
            (second_moment_length(c, n), second_moment_length(r, n_spread)),
        )
        for name, (value, resampled) in zip(_MEANING, estimates, strict=True):
            known = np.sort(resampled[~np.isnan(resampled)])
            low, high = np.nan, np.nan
            if known.size:
                # Of resamples without decay some are infinite: take values, do not interpolate.
                low, high = np.quantile(known, [0.025, 0.975], method="nearest")
            if n == 0 and known.size:
                high = max(high, _largest_unseen(c, e))
            for end, number in zip(_ENDS, (value, low, high), strict=True):
                values[name + end].append(float(number))
    variables: dict[str, Any] = {
        name + end: (
            ("layer",),
            values[name + end],
            about(meaning + which, "token"),
        )
        for name, meaning in _MEANING.items()
        for end, which in _ENDS.items()
    }
    explained = about("number of distances fitted")
    return variables | {"n_fitted": (("layer",), n_fitted, explained)}
