"""Correlation length of a measured curve."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

from isingmoe._kernels import lengths
from isingmoe._text import about

__all__ = [
    "decay_fit",
    "length_variables",
    "percentiles",
    "second_moment_length",
    "seen_distances",
]

Array = NDArray[np.floating]

# A correlation counts as seen above so many of its standard errors.
_SEEN = 2
# Fitted lengths that the second moment is taken over: beyond, an exponential has two fifths
# of it left, and the noise most of its own.
_WINDOW = 3

_MEANING = {
    "correlation_length": "correlation length by a fit of the decay",
    "second_moment_length": "correlation length by the second moment",
}
_ENDS = {
    "": "",
    "_low": ", lower end of the 95 % interval",
    "_high": ", upper end of the 95 % interval",
}


def seen_distances(curve: Array, error: Array) -> NDArray[np.int64]:
    """Distances from 1 up to the first whose |C(d)| is not above twice its error, (...)."""
    return (np.abs(curve[..., 1:]) > _SEEN * error[..., 1:]).cumprod(-1).sum(-1)


def decay_fit(
    curve: Array, error: Array, like: Array | None = None
) -> tuple[Array, NDArray[np.int64]]:
    """Correlation length of A exp(-d / xi) fitted to the distances where C(d) is seen.

    Parameters
    ----------
    curve : ndarray (..., distance)
        C(d) from d = 0 on; any number of curves.
    error : ndarray (distance,)
        Standard error of C(d).
    like : ndarray (distance,), optional
        The curve that sets the distances and the signs for all, as for resamples of it; by
        default each sets its own.

    Returns
    -------
    xi : ndarray (...)
        0 where not even |C(1)| is above twice its error, inf where the curve does not fall,
        NaN where C(1) is.
    n_fitted : ndarray (...)
        Distances used: from 1 up to the first whose |C(d)| is not above twice its error.

    Notes
    -----
    Least squares with weights 1 / error^2 of C(d) times its sign: of the modulus, because
    -1 / ln |lambda_2 / lambda_1| is blind to the sign too. Of C itself and not of its
    logarithm, so that the noise at the last distances, which are chosen for standing out of
    it, has little weight. With one distance, C(0) is the second point.
    """
    rows, sign, last = _rows(curve, error, like)
    size = np.abs(rows[:, 0])
    floor = np.maximum(error, 1e-12 * size[np.isfinite(size)].max(initial=0))
    smallest = floor[np.isfinite(floor) & (floor > 0)].min(initial=np.inf)
    ratio = np.divide(smallest, floor, out=np.zeros_like(floor), where=floor > 0)
    weight = np.nan_to_num(ratio) ** 2
    xi = lengths.decay_lengths(rows, sign, weight, last)
    shape = curve.shape[:-1]
    return xi.reshape(shape), np.broadcast_to(last, len(rows)).reshape(shape)


def second_moment_length(
    curve: Array, last: NDArray[np.int64] | int, sign: Array | None = None
) -> Array:
    """Correlation length from the second moment of C(d), exact for an exponential.

    Parameters
    ----------
    curve : ndarray (..., distance)
        C(d) from d = 0 on.
    last : ndarray (...) or int
        Last distance that enters; beyond it the curve is noise.
    sign : ndarray (distance,), optional
        The sign of C(d); by default each value has its own.

    Returns
    -------
    ndarray (...)

    Notes
    -----
    The mean of d^2 with the weights |C(d)| over the integers -last..last is that of the
    exponential with this length over the same integers. Over all of them it would be
    1 / (2 sinh^2(1 / (2 xi))); what a finite range cuts off is cut off on both sides.
    """
    rows = np.ascontiguousarray(curve.reshape(-1, curve.shape[-1]), float)
    signs = _signs(rows) if sign is None else sign[None]
    lasts = np.asarray(last, np.int64).reshape(-1)
    return lengths.moment_lengths(rows, signs, lasts).reshape(curve.shape[:-1])


def _signs(curve: Array) -> Array:
    return np.where(curve < 0, -1.0, 1.0)


def _rows(curve: Array, error: Array, like: Array | None) -> tuple[Array, Array, NDArray[np.int64]]:
    """Curves one under the other, with the signs and the last distance of each or of all."""
    rows = np.ascontiguousarray(curve.reshape(-1, curve.shape[-1]), float)
    model = rows if like is None else like[None]
    return rows, _signs(model), seen_distances(model, error)


def _largest_unseen(curve: Array, error: Array) -> float:
    """The length whose C(1) lies two errors above a C(1) that is lost in its error."""
    share = (abs(curve[1]) + _SEEN * error[1]) / curve[0] if curve[0] > 0 else 0.0
    if not 0 < share < 1:
        return 0.0 if share <= 0 else np.inf
    return float(-1 / np.log(share))


def length_variables(
    curve: Array, error: Array, resample: Array, n_sequences: int = 0
) -> dict[str, Any]:
    """Both correlation lengths of every layer, with 95 % bootstrap intervals.

    Parameters
    ----------
    curve, error : ndarray (layer, distance)
    resample : ndarray (layer, resample, distance)
    n_sequences : int
        What was resampled; 0 if that is not known.

    Returns
    -------
    dict
        Variables of a Dataset, with dims, values and attributes.

    Notes
    -----
    Percentiles of the resamples, all over the distances and with the signs of the curve: a
    range that each chose for itself would spread more than the estimate does. They are
    moved outwards by what a mean of so few sequences needs (see `percentiles`).
    """
    values: dict[str, list[float]] = {name + end: [] for name in _MEANING for end in _ENDS}
    n_fitted, n_moment = [], []
    for c, e, r in zip(curve, error, resample, strict=True):
        estimates = _both_lengths(c, e, r)
        n_fitted.append(int(seen_distances(c, e)))
        n_moment.append(estimates.n_moment)
        for name, (value, resampled) in zip(_MEANING, estimates[1:], strict=True):
            known = resampled[~np.isnan(resampled)]
            low, high = np.nan, np.nan
            if known.size:
                low, high = percentiles(known, n_sequences)
            if n_fitted[-1] == 0 and known.size:
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
    return variables | {
        "n_fitted": (("layer",), n_fitted, about("number of distances fitted")),
        "n_moment": (("layer",), n_moment, about("last distance in the second moment", "token")),
    }


def percentiles(resampled: Array, n_sequences: int = 0) -> tuple[float, float]:
    """Ends of the 95 % interval of resampled values.

    Parameters
    ----------
    resampled : ndarray (resample,)
        Without NaN; some may be infinite.
    n_sequences : int
        What was resampled; 0 if that is not known.

    Returns
    -------
    low, high : float

    Notes
    -----
    The expanded percentile interval (Hesterberg 2015): a bootstrap mean of n values has
    (n - 1)/n of the variance, and its error is that of Student's t. For n = 100 the ends are the
    2.3 and 97.7 percentiles, for n = 10 the 0.9 and 99.1. Values that were drawn are taken,
    and the outermost where there are too few.

    References
    ----------
    T. C. Hesterberg, The American Statistician 69, 371 (2015).
    """
    tail = 0.025
    if n_sequences > 1:
        reach = np.sqrt(n_sequences / (n_sequences - 1))
        tail = float(norm.cdf(reach * student.ppf(tail, n_sequences - 1)))
    # Of resamples without decay some are infinite: values are taken, not interpolated.
    place = max(int(tail * (len(resampled) + 1)) - 1, 0)
    ordered = np.partition(resampled, [place, len(resampled) - 1 - place])
    return float(ordered[place]), float(ordered[len(resampled) - 1 - place])


class _Estimates(NamedTuple):
    n_moment: int
    fitted: tuple[float, Array]
    moment: tuple[float, Array]


def _both_lengths(curve: Array, error: Array, resample: Array) -> _Estimates:
    """Estimate and resamples by the fit of the decay and by the second moment."""
    together = np.concatenate([curve[None], resample])
    fitted, _ = decay_fit(together, error, like=curve)
    window = _moment_range(float(fitted[0]), int(seen_distances(curve, error)))
    moment = second_moment_length(together, window, _signs(curve))
    moment = np.where(np.isnan(together[:, 1]), np.nan, moment)
    return _Estimates(window, (float(fitted[0]), fitted[1:]), (float(moment[0]), moment[1:]))


def _moment_range(length: float, n_seen: int) -> int:
    """Last distance of the second moment: three fitted lengths, if they are seen."""
    return int(min(np.ceil(_WINDOW * length), n_seen)) if length > 0 else n_seen
