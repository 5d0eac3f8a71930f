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
# Of a stretched exponential, the exponent, and the length, which ends at so many times the
# largest distance. Of an xi^-exponent above the last it is a power law with a huge amplitude.
_STRETCHES, _SHORTEST_STRETCHED, _LONGEST_STRETCHED = (0.2, 3.0), 1e-3, 1e4
_HIGHEST_RATE = 10.0
# Two lengths that are closer than this are one.
_RATIOS = (1.25, 1000.0)
# Points of the grids that fits start from, in one and in two dimensions, and of them the
# minima that are gone down from.
_LINE, _PLANE, _STARTS = 200, 40, 3
_AT_END = 1e-6
# A coordinate goes to an end of its range if that raises chi2 by no more than this share.
_FLAT = 1e-6
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
    within : callable
        Coordinates inside the law's region from those inside its bounds, and these.
    is_one_sided : bool
        Whether the linear coefficients share their sign.
    """

    name: str
    parameters: tuple[str, ...]
    bounds: Callable[[float], tuple[list[float], list[float]]]
    basis: Callable[[Array, Array], Array]
    values: Callable[[Array, Array], Array]
    slopes: Callable[[Array, Array], Array]
    from_coordinate: tuple[str, ...]
    within: Callable[[Array, Array, Array], Array] = lambda x, lower, upper: x
    is_one_sided: bool = False


def _exponentials(log_length: Array, d: Array) -> Array:
    return np.exp(-(d - 1) / np.exp(log_length)[..., None])


def _exponential_slopes(amplitude: float, length: float, d: Array) -> Array:
    fallen = np.exp(-d / length)
    return np.array([fallen, amplitude * fallen * d / length**2])


def _at_nought(amplitude: float, log_length: float) -> list[float]:
    length = float(np.exp(log_length))
    return [amplitude * float(np.exp(1 / length)), length]


def _stretched(x: Array, d: Array) -> Array:
    exponent = x[..., 1, None]
    rate = np.exp(-exponent * x[..., 0, None])
    return np.exp(-rate * np.expm1(exponent * np.log(d)))[..., None, :]


def _stretched_within(x: Array, lower: Array, upper: Array) -> Array:
    """Lengths from the shortest that their exponent allows, in proportion to the range."""
    log_length, exponent = x[..., 0], x[..., 1]
    lowest = np.maximum(lower[0], -np.log(_HIGHEST_RATE) / exponent)
    share = (upper[0] - log_length) / (upper[0] - lower[0])
    return np.stack([upper[0] - share * (upper[0] - lowest), exponent], -1)


def _stretched_values(a: Array, x: Array) -> Array:
    return np.array([a[0] * np.exp(np.exp(-x[0] * x[1])), np.exp(x[0]), x[1]])


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
        lambda last: (
            [np.log(_SHORTEST_STRETCHED), _STRETCHES[0]],
            [np.log(_LONGEST_STRETCHED * last), _STRETCHES[1]],
        ),
        _stretched,
        _stretched_values,
        _stretched_slopes,
        ("length", "exponent"),
        within=_stretched_within,
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
        is_one_sided=True,
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
    two coordinates are left. Their minimum is sought from the lowest points of a grid. Two
    coefficients that must share their sign and would not are fitted best by one of them
    alone: the sum of squares is convex, so that its minimum in either quadrant lies on an axis.

    References
    ----------
    G. H. Golub and V. Pereyra, SIAM J. Numer. Anal. 10, 413 (1973).
    """
    lower, upper = map(np.array, law.bounds(float(distance[-1])))

    def residual(x: Array) -> Array:
        design = smear @ law.basis(law.within(x, lower, upper), distance).T
        return data - design @ _linear(law, design, data)

    tried = [
        least_squares(residual, start, bounds=(lower, upper), xtol=1e-12, ftol=1e-12)
        for start in _starts(law, distance, smear, data, lower, upper)
    ]
    best = min(tried, key=lambda found: found.cost)
    place = _at_ends(residual, np.clip(best.x, lower, upper), lower, upper)
    x = law.within(place, lower, upper)
    design = smear @ law.basis(x, distance).T
    linear = _linear(law, design, data)
    parameter = law.values(linear, x)
    at_end = np.minimum(place - lower, upper - place) < _AT_END * (upper - lower)
    is_free = _free(law, at_end, linear)
    covariance = _covariance(smear @ law.slopes(parameter, distance).T, is_free)
    chi2 = float(((data - design @ linear) ** 2).sum())
    return LawFit(law, linear, x, parameter, covariance, chi2)


def _at_ends(residual: Callable[[Array], Array], x: Array, lower: Array, upper: Array) -> Array:
    """Coordinates that the data do not tell from an end of their range, at that end."""
    chi2 = (residual(x) ** 2).sum()
    for i in range(len(x)):
        for end in (lower[i], upper[i]):
            moved = x.copy()
            moved[i] = end
            if (residual(moved) ** 2).sum() <= chi2 + _FLAT * (1 + chi2):
                x = moved
                break
    return x


def _linear(law: Law, design: Array, data: Array) -> Array:
    """Coefficients of least squares; the shortest, where columns are alike."""
    both = np.linalg.lstsq(design, data, rcond=1e-10)[0]
    if not law.is_one_sided or both[0] * both[1] >= 0:
        return both
    onto = design.T @ data
    square = np.maximum((design**2).sum(0), 1e-300)
    better = (onto**2 / square).argmax()
    return np.where(np.arange(2) == better, onto / square, 0.0)


def _free(law: Law, at_end: NDArray[np.bool_], linear: Array) -> NDArray[np.bool_]:
    """Which parameters are inside their range; a term that is nought has none that is."""
    is_free = np.ones(len(law.parameters), bool)
    ended = list(np.array(law.from_coordinate)[at_end])
    if law.is_one_sided:
        terms = np.array([("amplitude", "length"), ("amplitude_2", "length_2")])
        ended += terms[linear == 0].ravel().tolist()
    is_free[[law.parameters.index(name) for name in ended]] = False
    return is_free


def _starts(
    law: Law, distance: Array, smear: Array, data: Array, lower: Array, upper: Array
) -> Array:
    """The lowest local minima of chi2 on a grid over the coordinates, (start, coordinate)."""
    n = _LINE if len(lower) == 1 else _PLANE
    # Off the ends, where the search would have to come back from.
    axes = [np.linspace(a, b, n + 2)[1:-1] for a, b in zip(lower, upper, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    design = law.basis(law.within(grid, lower, upper), distance) @ smear.T
    height = -_explained(design, data, law.is_one_sided)
    is_lowest = np.ones(height.shape, bool)
    for axis in range(height.ndim):
        step = np.diff(height, axis=axis)
        rise = np.concatenate([step, np.ones_like(step.take([0], axis))], axis) >= 0
        fall = np.concatenate([np.ones_like(step.take([0], axis)), -step], axis) >= 0
        is_lowest &= rise & fall
    place = np.argwhere(is_lowest)
    order = height[is_lowest].argsort(kind="stable")[:_STARTS]
    return grid[tuple(place[order].T)]


def _explained(design: Array, data: Array, is_one_sided: bool) -> Array:
    """Sum of squares that one or two columns (..., column, datum) explain."""
    size = np.sqrt((design**2).sum(-1, keepdims=True))
    design = design / np.maximum(size, 1e-300)
    onto = design @ data
    if design.shape[-2] == 1:
        return onto[..., 0] ** 2
    first, second = onto[..., 0], onto[..., 1]
    cosine = (design[..., 0, :] * design[..., 1, :]).sum(-1)
    square = 1 - cosine**2
    is_new = square > 1e-12
    rest = second - cosine * first
    explained = first**2 + np.where(is_new, rest**2 / np.where(is_new, square, 1), 0)
    if is_one_sided:
        # Of opposite signs: the better column alone.
        opposed = rest * (first - cosine * second) < 0
        explained = np.where(opposed, np.maximum(first**2, second**2), explained)
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
