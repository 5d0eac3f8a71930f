"""Correlation length of a measured curve."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["decay_fit", "length_variables", "second_moment_length"]

Array = NDArray[np.floating]

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


def decay_fit(
    curve: Array, error: Array, resample: Array | None = None
) -> tuple[Any, int, Array | None]:
    """Correlation length of A exp(-d / xi) fitted to the distances above their error.

    Parameters
    ----------
    curve, error : ndarray (distance,)
        C(d) from d = 0 on, and its standard error.
    resample : ndarray (resample, distance), optional
        Bootstrap curves, fitted at the same distances with the same weights.

    Returns
    -------
    xi : float
        0 where not even d = 1 is above its error, inf where the curve does not fall.
    n_fitted : int
        Distances used: from 1 up to the first that is not above its error.
    resampled : ndarray (resample,) or None
        xi of every resample.

    Notes
    -----
    Least squares of ln C(d) with weights (C / error)^2, the inverse variance of ln C. With
    one distance above its error, C(0) is the second point.
    """
    above = curve[1:] > error[1:]
    n_fitted = len(above) if above.all() else int(above.argmin())
    if n_fitted == 0:
        return 0.0, 0, None if resample is None else np.zeros(len(resample))
    first = 1 if n_fitted > 1 else 0
    used = slice(first, n_fitted + 1)
    d = np.arange(first, n_fitted + 1, dtype=float)
    floor = np.maximum(error[used], 1e-12 * curve[0])
    weight = (curve[used] / floor) ** 2
    weight /= weight.sum()
    centred = d - weight @ d
    slope_of = weight * centred / (weight @ centred**2)

    def length(c: Array) -> Array:
        # A resample may fall to zero at a distance; its own error is then what it can tell.
        slope = np.log(np.maximum(c[..., used], floor / 10)) @ slope_of
        falling = slope < -_FLAT
        return np.where(falling, -1 / np.where(falling, slope, -1), np.inf)

    return float(length(curve)), n_fitted, None if resample is None else length(resample)


def second_moment_length(curve: Array, n_fitted: int) -> Array:
    """Correlation length from the second moment of C(d), exact for an exponential.

    Parameters
    ----------
    curve : ndarray (..., distance)
        C(d) from d = 0 on.
    n_fitted : int
        Last distance that enters; beyond it the curve is noise.

    Returns
    -------
    ndarray (...)

    Notes
    -----
    With m = sum d^2 C(d) / (2 sum C(d)) over all integers d, an exponential on a lattice
    has m = 1 / (4 sinh^2(1 / (2 xi))), which is solved for xi.
    """
    used = curve[..., : n_fitted + 1]
    d = np.arange(n_fitted + 1)
    both_signs = np.where(d == 0, 1, 2)
    moment = (used * (both_signs * d**2)).sum(-1)
    total = 2 * (used * both_signs).sum(-1)
    m = np.maximum(np.divide(moment, total, out=np.zeros_like(total), where=total > 0), 0)
    with np.errstate(divide="ignore"):
        return 1 / (2 * np.arcsinh(1 / (2 * np.sqrt(m))))


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
        length, n, spread = decay_fit(c, e, r)
        second, second_spread = second_moment_length(c, n), second_moment_length(r, n)
        n_fitted.append(n)
        for name, value, resampled in zip(
            _MEANING, (length, second), (spread, second_spread), strict=True
        ):
            # Of resamples without decay some are infinite: take values, do not interpolate.
            low, high = np.quantile(np.asarray(resampled), [0.025, 0.975], method="nearest")
            for end, number in zip(_ENDS, (value, low, high), strict=True):
                values[name + end].append(float(number))
    variables: dict[str, Any] = {
        name + end: (
            ("layer",),
            values[name + end],
            {"long_name": meaning + which, "units": "token"},
        )
        for name, meaning in _MEANING.items()
        for end, which in _ENDS.items()
    }
    explained = {"long_name": "number of distances fitted", "units": "1"}
    return variables | {"n_fitted": (("layer",), n_fitted, explained)}
