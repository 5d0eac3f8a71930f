"""The family of decay laws, and their fit by generalised least squares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

__all__ = ["LAWS", "PARAMETERS", "Law", "LawFit", "fit_law"]

Array = NDArray[np.floating]

PARAMETERS = ("amplitude", "length", "exponent", "constant", "amplitude_2", "length_2")

# Ranges of what is not linear. Lengths end at so many times the largest distance: a decay
# that is slower than that is a constant, the sooner where there is another term.
_SHORTEST, _LONGEST, _LONGEST_BESIDE = 0.2, 100.0, 2.0
_EXPONENTS = (0.0, 8.0)
# Of a stretched exponential, the exponent and xi^-exponent. Beyond, it is a power law with a
# huge amplitude and a tiny length.
_STRETCHES, _RATES = (0.2, 3.0), (1e-6, 10.0)
# Two lengths that are closer than this are one.
_RATIOS = (1.25, 1000.0)
# Points of the grids that fits start from, in one and in two dimensions, and of them the
# minima that are gone down from.
_LINE, _PLANE, _STARTS = 200, 40, 3
_AT_END = 1e-6
_SINGULAR = 1e12


@dataclass(frozen=True)
class Law:
    """A law as a sum of basis functions, each one at d = 1, times linear coefficients.

    Attributes
    ----------
    name : str
    parameters : tuple of str
        Those of PARAMETERS that it has.
    bounds : callable
        Lower and upper ends of the coordinates that are not linear, given the largest distance.
    basis : callable
        Functions (..., function, distance) of coordinates (..., coordinate) and distances.
    values : callable
        Parameters from the linear coefficients and the coordinates.
    slopes : callable
        Derivatives (parameter, distance) of the curve by the parameters.
    from_coordinate : tuple of str
        The parameter that each coordinate sets.
    """

    name: str
    parameters: tuple[str, ...]
    bounds: Callable[[float], tuple[list[float], list[float]]]
    basis: Callable[[Array, Array], Array]
    values: Callable[[Array, Array], Array]
    slopes: Callable[[Array, Array], Array]
    from_coordinate: tuple[str, ...]


def _exponentials(log_length: Array, d: Array) -> Array:
    return np.exp(-(d - 1) / np.exp(log_length)[..., None])


def _exponential_slopes(amplitude: float, length: float, d: Array) -> Array:
    fallen = np.exp(-d / length)
    return np.array([fallen, amplitude * fallen * d / length**2])


def _at_nought(amplitude: float, log_length: float) -> list[float]:
    length = float(np.exp(log_length))
    return [amplitude * float(np.exp(1 / length)), length]


def _stretched(x: Array, d: Array) -> Array:
    log_rate, exponent = x[..., 0, None], x[..., 1, None]
    return np.exp(-np.exp(log_rate) * np.expm1(exponent * np.log(d)))[..., None, :]


def _stretched_values(a: Array, x: Array) -> Array:
    return np.array([a[0] * np.exp(np.exp(x[0])), np.exp(-x[0] / x[1]), x[1]])


def _stretched_slopes(p: Array, d: Array) -> Array:
    ratio = d / p[1]
    power = ratio ** p[2]
    fallen = np.exp(-power)
    curve = p[0] * fallen
    return np.array([fallen, curve * power * p[2] / p[1], -curve * power * np.log(ratio)])


def _with_constant(x: Array, d: Array) -> Array:
    falling = _exponentials(x[..., 0], d)
    return np.stack([falling, np.ones_like(falling)], -2)


def _two(x: Array, d: Array) -> Array:
    return np.stack([_exponentials(x[..., 0], d), _exponentials(x.sum(-1), d)], -2)


LAWS = (
    Law(
        "exponential",
        ("amplitude", "length"),
        lambda last: ([np.log(_SHORTEST)], [np.log(_LONGEST * last)]),
        lambda x, d: _exponentials(x[..., 0], d)[..., None, :],
        lambda a, x: np.array(_at_nought(a[0], x[0])),
        lambda p, d: _exponential_slopes(p[0], p[1], d),
        ("length",),
    ),
    Law(
        "power-law",
        ("amplitude", "exponent"),
        lambda last: ([_EXPONENTS[0]], [_EXPONENTS[1]]),
        lambda x, d: np.exp(-x[..., 0, None] * np.log(d))[..., None, :],
        lambda a, x: np.array([a[0], x[0]]),
        lambda p, d: np.array([d ** -p[1], -p[0] * np.log(d) * d ** -p[1]]),
        ("exponent",),
    ),
    Law(
        "stretched",
        ("amplitude", "length", "exponent"),
        lambda _: ([np.log(_RATES[0]), _STRETCHES[0]], [np.log(_RATES[1]), _STRETCHES[1]]),
        _stretched,
        _stretched_values,
        _stretched_slopes,
        ("length", "exponent"),
    ),
    Law(
        "exponential+constant",
        ("amplitude", "length", "constant"),
        lambda last: ([np.log(_SHORTEST)], [np.log(_LONGEST_BESIDE * last)]),
        _with_constant,
        lambda a, x: np.array([*_at_nought(a[0], x[0]), a[1]]),
        lambda p, d: np.array([*_exponential_slopes(p[0], p[1], d), np.ones_like(d)]),
        ("length",),
    ),
    Law(
        "two-exponentials",
        ("amplitude", "length", "amplitude_2", "length_2"),
        lambda last: (
            [np.log(_SHORTEST), np.log(_RATIOS[0])],
            [np.log(_LONGEST_BESIDE * last), np.log(_RATIOS[1])],
        ),
        _two,
        lambda a, x: np.array([*_at_nought(a[0], x[0]), *_at_nought(a[1], x[0] + x[1])]),
        lambda p, d: np.concatenate(
            [_exponential_slopes(p[0], p[1], d), _exponential_slopes(p[2], p[3], d)]
        ),
        ("length", "length_2"),
    ),
)


@dataclass(frozen=True)
class LawFit:
    """A law fitted to a curve.

    Attributes
    ----------
    law : Law
    linear, coordinate : ndarray
    parameter, covariance : ndarray (parameter,), (parameter, parameter)
        In the order of the law's own parameters; the covariance is the inverse of the
        information, NaN of a parameter that is at an end of its range or not determined.
    chi2 : float
    """

    law: Law
    linear: Array
    coordinate: Array
    parameter: Array
    covariance: Array
    chi2: float

    def curve(self, distance: Array) -> Array:
        """The law at distances from 1 on."""
        return self.linear @ self.law.basis(self.coordinate, distance)


def fit_law(law: Law, distance: Array, smear: Array, data: Array) -> LawFit:
    """Generalised least squares of a law.

    Parameters
    ----------
    law : Law
    distance : ndarray (distance,)
        From 1 on.
    smear : ndarray (datum, distance)
        What maps the curve to the data; whitened, so that the data have unit covariance.
    data : ndarray (datum,)

    Returns
    -------
    LawFit

    Notes
    -----
    Variable projection (Golub and Pereyra 1973): what is linear is solved for, and one or
    two coordinates are left. Their minimum is sought from the lowest points of a grid.

    References
    ----------
    G. H. Golub and V. Pereyra, SIAM J. Numer. Anal. 10, 413 (1973).
    """
    lower, upper = map(np.array, law.bounds(float(distance[-1])))

    def residual(x: Array) -> Array:
        design = smear @ law.basis(x, distance).T
        return data - design @ _linear(design, data)

    tried = [
        least_squares(residual, start, bounds=(lower, upper), xtol=1e-12, ftol=1e-12)
        for start in _starts(law, distance, smear, data, lower, upper)
    ]
    best = min(tried, key=lambda found: found.cost)
    x = np.clip(best.x, lower, upper)
    design = smear @ law.basis(x, distance).T
    linear = _linear(design, data)
    parameter = law.values(linear, x)
    is_free = np.ones(len(parameter), bool)
    at_end = np.minimum(x - lower, upper - x) < _AT_END * (upper - lower)
    for name in np.array(law.from_coordinate)[at_end]:
        is_free[law.parameters.index(name)] = False
    covariance = _covariance(smear @ law.slopes(parameter, distance).T, is_free)
    chi2 = float(((data - design @ linear) ** 2).sum())
    return LawFit(law, linear, x, parameter, covariance, chi2)


def _linear(design: Array, data: Array) -> Array:
    """Coefficients of least squares; the shortest, where columns are alike."""
    return np.linalg.lstsq(design, data, rcond=1e-10)[0]


def _starts(
    law: Law, distance: Array, smear: Array, data: Array, lower: Array, upper: Array
) -> Array:
    """The lowest local minima of chi2 on a grid over the coordinates, (start, coordinate)."""
    n = _LINE if len(lower) == 1 else _PLANE
    # Off the ends, where the search would have to come back from.
    axes = [np.linspace(a, b, n + 2)[1:-1] for a, b in zip(lower, upper, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    design = law.basis(grid, distance) @ smear.T
    height = -_explained(design, data)
    is_lowest = np.ones(height.shape, bool)
    for axis in range(height.ndim):
        step = np.diff(height, axis=axis)
        rise = np.concatenate([step, np.ones_like(step.take([0], axis))], axis) >= 0
        fall = np.concatenate([np.ones_like(step.take([0], axis)), -step], axis) >= 0
        is_lowest &= rise & fall
    place = np.argwhere(is_lowest)
    order = height[is_lowest].argsort(kind="stable")[:_STARTS]
    return grid[tuple(place[order].T)]


def _explained(design: Array, data: Array) -> Array:
    """Sum of squares that one or two columns (..., column, datum) explain."""
    first = design[..., 0, :]
    first = first / np.maximum(np.sqrt((first**2).sum(-1, keepdims=True)), 1e-300)
    explained = (first @ data) ** 2
    if design.shape[-2] == 2:
        second = design[..., 1, :]
        size = np.sqrt((second**2).sum(-1, keepdims=True))
        second = second / np.maximum(size, 1e-300)
        second = second - (first * second).sum(-1, keepdims=True) * first
        square = (second**2).sum(-1)
        is_new = square > 1e-12
        explained = explained + np.where(
            is_new, (second @ data) ** 2 / np.where(is_new, square, 1), 0
        )
    return explained


def _covariance(slopes: Array, is_free: NDArray[np.bool_]) -> Array:
    """Inverse of the information of the parameters that are free; NaN of the others."""
    result = np.full((slopes.shape[1],) * 2, np.nan)
    slopes = slopes[:, is_free]
    size = np.sqrt((slopes**2).sum(0))
    if not slopes.size or not np.isfinite(size).all() or not (size > 0).all():
        return result
    information = (slopes / size).T @ (slopes / size)
    if np.linalg.cond(information) < _SINGULAR:
        inverse = np.linalg.inv(information) / np.outer(size, size)
        result[np.ix_(is_free, is_free)] = inverse
    return result
