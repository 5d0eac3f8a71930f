"""How couplings fall with the distance, and the gauge they are reported in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Exponential", "PowerLaw", "exponential", "gain_of_equal", "power_law", "zero_sum"]


@dataclass(frozen=True)
class PowerLaw:
    """Couplings that fall as r**-alpha and reach through the whole chain."""

    alpha: float

    def __post_init__(self) -> None:
        _positive("alpha", self.alpha)

    def __call__(self, reach: int) -> NDArray[np.float64]:
        """Strength at the distances 1 to `reach`."""
        return np.arange(1.0, reach + 1) ** -float(self.alpha)


@dataclass(frozen=True)
class Exponential:
    """Couplings that fall as exp(-(r - 1) / length) and reach through the whole chain."""

    length: float

    def __post_init__(self) -> None:
        _positive("length", self.length)

    def __call__(self, reach: int) -> NDArray[np.float64]:
        """Strength at the distances 1 to `reach`."""
        return np.exp(-np.arange(reach) / self.length)


def power_law(alpha: float) -> PowerLaw:
    """Couplings J r**-alpha between all sites of a chain.

    Parameters
    ----------
    alpha : float
        Positive.

    Returns
    -------
    PowerLaw
        For the argument `decay` of a chain.

    Raises
    ------
    TypeError, ValueError
        If `alpha` is not a positive number.

    References
    ----------
    F. J. Dyson, Commun. Math. Phys. 12, 91 (1969).
    """
    return PowerLaw(alpha)


def exponential(length: float) -> Exponential:
    """Couplings J exp(-(r - 1) / length) between all sites of a chain.

    Parameters
    ----------
    length : float
        Positive, in sites.

    Returns
    -------
    Exponential
        For the argument `decay` of a chain.

    Raises
    ------
    TypeError, ValueError
        If `length` is not a positive number.
    """
    return Exponential(length)


def zero_sum(
    J: ArrayLike, h: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Couplings and fields of the same chain in the zero-sum gauge.

    Parameters
    ----------
    J : array_like (..., q, q)
        Coupling J[a, b] of state a at site i and state b at site i + 1.
    h : array_like (..., q), optional
        Field; zero if absent.

    Returns
    -------
    J : ndarray (..., q, q)
        Every row and every column sums to zero.
    h : ndarray (..., q)
        Sums to zero. The row and column means of J have gone into it: on a periodic or
        infinite chain every site is once the left and once the right end of a bond, so
        that the probabilities are unchanged.

    Raises
    ------
    ValueError
        If J is not square.
    """
    coupling = np.asarray(J, float)
    if coupling.ndim < 2 or coupling.shape[-1] != coupling.shape[-2]:
        raise ValueError(f"J: expected square matrices (..., q, q), got shape {coupling.shape}")
    row = coupling.mean(-1, keepdims=True)
    column = coupling.mean(-2, keepdims=True)
    grand = coupling.mean((-1, -2), keepdims=True)
    shift = row[..., 0] + column[..., 0, :] - 2 * grand[..., 0]
    field_ = shift if h is None else np.asarray(h, float) + shift
    return coupling - row - column + grand, field_ - field_.mean(-1, keepdims=True)


def gain_of_equal(
    bond: NDArray[np.float64], strength: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Of bonds that only tell equal labels from different ones.

    Parameters
    ----------
    bond : ndarray (1 or reach, q, q)
    strength : ndarray (reach,)

    Returns
    -------
    gain : ndarray (reach,)
        Log-weight of a pair of equal labels less that of different ones.
    different : ndarray (reach,)
        Log-weight of a pair of different labels.
        None instead of both where it also matters which labels they are.
    """
    equal = np.eye(bond.shape[1], dtype=bool)
    same, different = bond[:, equal], bond[:, ~equal]
    tolerance = 1e-12 * np.abs(bond).max(initial=0)
    if np.ptp(same, 1).max() > tolerance or np.ptp(different, 1).max() > tolerance:
        return None
    row = np.minimum(np.arange(len(strength)), len(bond) - 1)
    different = different.mean(1)[row]
    gain = strength * (same.mean(1)[row] - different)
    gain[np.abs(gain) <= tolerance * np.abs(strength)] = 0
    return gain, strength * different


def _positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name}: expected a positive number, got {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a positive number, got {value!r}")
