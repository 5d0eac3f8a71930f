"""Correlation lengths of many curves at once, each from a root in one variable.

A curve is multiplied with the signs it is expected to have, so that an alternating decay is
fitted like one that keeps its sign. A distance without a value is left out.
"""

import numba as nb
import numpy as np

# Lengths between which a fit first looks for its best: below, C(2) is lost beside C(1).
_SHORTEST, _LONGEST, _STEPS = 0.03, 1e5, 40
# Steps of regula falsi, each of which takes a share of the bracket (Illinois).
_TOLERANCE, _MOST_STEPS = 1e-14, 100
# A slope this small beside the curve is rounding.
_FLAT = 1e-12


@nb.njit(cache=True, nogil=True, inline="always")
def _projection(y, weight, last, rho, top):
    """Share of a curve that an exponential explains, and its logarithmic slope by ln rho.

    Where an exponential of positive amplitude explains nothing the slope leads to `top`.
    """
    above = moment = below = square = 0.0
    power = rho
    for d in range(1, last + 1):
        if not np.isnan(y[d]):
            model = weight[d] * power
            above += model * y[d]
            moment += model * y[d] * d
            below += model * power
            square += model * power * d
        power *= rho
    if not above > 0 or not below > 0:
        return 0.0, (1.0 if rho < top else -1.0)
    return above / below * above, moment / above - square / below


@nb.njit(cache=True, nogil=True)
def _decay(y, weight, last):
    """Length of the exponential nearest to a curve over the distances 1..last."""
    best, best_height, top = 0, 0.0, 0.0
    ratio = (_LONGEST / _SHORTEST) ** (1 / (_STEPS - 1))
    for step in range(_STEPS + 1):
        rho = np.exp(-1 / (_SHORTEST * ratio**step)) if step < _STEPS else 1.0
        height, _ = _projection(y, weight, last, rho, 1.0)
        if height > best_height:
            best, best_height, top = step, height, rho
    if best_height == 0:
        return 0.0
    low = np.exp(-1 / (_SHORTEST * ratio ** (best - 1)))
    high = np.exp(-1 / (_SHORTEST * ratio ** (best + 1))) if best < _STEPS - 1 else 1.0
    _, rise = _projection(y, weight, last, low, top)
    _, fall = _projection(y, weight, last, high, top)
    if high == 1.0 and fall >= -_FLAT:
        return np.inf
    if best == 0 and rise <= 0:
        return 0.0
    if rise <= 0 or fall >= 0:
        return -1 / np.log(top)
    kept = 0
    for _ in range(_MOST_STEPS):
        middle = high - fall * (high - low) / (fall - rise)
        _, slope = _projection(y, weight, last, middle, top)
        if slope == 0 or high - low <= _TOLERANCE * high:
            return -1 / np.log(middle)
        if slope > 0:
            low, rise = middle, slope
            fall = fall / 2 if kept == 1 else fall
            kept = 1
        else:
            high, fall = middle, slope
            rise = rise / 2 if kept == -1 else rise
            kept = -1
    return -1 / np.log((low + high) / 2)


@nb.njit(cache=True, nogil=True)
def _first_step(y):
    """Length by C(1) / C(0) alone."""
    if not y[0] > 0 or not y[1] > 0:
        return 0.0 if y[0] > 0 else np.inf
    return -1 / np.log(y[1] / y[0]) if y[1] < y[0] * (1 - _FLAT) else np.inf


@nb.njit(cache=True, nogil=True, parallel=True)
def decay_lengths(curves, sign, weight, last):
    """Length of A exp(-d / xi), A > 0, by weighted least squares of the curves themselves.

    Parameters
    ----------
    curves : float64 array (curve, distance)
        From d = 0 on.
    sign : float64 array (curve or 1, distance)
    weight : float64 array (distance,)
    last : int64 array (curve or 1,)
        Distances 1..last are fitted; with one, C(0) is the second point.

    Returns
    -------
    float64 array (curve,)
        0 where the curve falls at once or has not the sign, inf where it does not fall, NaN
        where C(1) is.
    """
    lengths = np.empty(len(curves))
    for i in nb.prange(len(curves)):
        own = last[i] if last.size > 1 else last[0]
        y = curves[i] * (sign[i] if len(sign) > 1 else sign[0])
        if own == 0:
            lengths[i] = 0.0
        elif own == 1:
            lengths[i] = _first_step(y)
        else:
            lengths[i] = _decay(y, weight, own)
        if np.isnan(y[1]):
            lengths[i] = np.nan
    return lengths


@nb.njit(cache=True, nogil=True, inline="always")
def _moment_excess(y, last, wanted, rho):
    """How far the mean of d^2 of an exponential, over the distances of a curve, is too large."""
    total, moment, power = 0.5, 0.0, 1.0
    for d in range(1, last + 1):
        power *= rho
        if not np.isnan(y[d]):
            total += power
            moment += power * d * d
    return moment / total - wanted


@nb.njit(cache=True, nogil=True)
def _moment(y, last):
    """Length of the exponential with the same mean of d^2 as a curve over 0..last."""
    if np.isnan(y[0]):
        return np.nan
    total, moment = y[0] / 2, 0.0
    for d in range(1, last + 1):
        if not np.isnan(y[d]):
            total += y[d]
            moment += y[d] * d * d
    if not moment > 0:
        return 0.0
    if not total > 0:
        return np.inf
    wanted = moment / total
    low, under = 0.0, -wanted
    high, over = 1.0, _moment_excess(y, last, wanted, 1.0)
    if over <= _FLAT * wanted:
        return np.inf
    kept = 0
    for _ in range(_MOST_STEPS):
        middle = high - over * (high - low) / (over - under)
        excess = _moment_excess(y, last, wanted, middle)
        if excess == 0 or high - low <= _TOLERANCE * high:
            return -1 / np.log(middle)
        if excess < 0:
            low, under = middle, excess
            over = over / 2 if kept == 1 else over
            kept = 1
        else:
            high, over = middle, excess
            under = under / 2 if kept == -1 else under
            kept = -1
    return -1 / np.log((low + high) / 2)


@nb.njit(cache=True, nogil=True, parallel=True)
def moment_lengths(curves, sign, last):
    """Length of the exponential that has a curve's mean of d^2 over the same distances.

    Parameters
    ----------
    curves : float64 array (curve, distance)
        From d = 0 on.
    sign : float64 array (curve or 1, distance)
    last : int64 array (curve or 1,)
        Last distance that enters.

    Returns
    -------
    float64 array (curve,)
        0 where the sum of d^2 C(d) is not positive, inf where it is that of no decay.
    """
    lengths = np.empty(len(curves))
    for i in nb.prange(len(curves)):
        own = last[i] if last.size > 1 else last[0]
        y = curves[i] * (sign[i] if len(sign) > 1 else sign[0])
        lengths[i] = _moment(y, own)
    return lengths
