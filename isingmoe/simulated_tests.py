"""Tests of a measured number against simulated ones, all treated alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["checked_simulations", "departures", "p_values"]

Array = NDArray[np.floating]

# Numbers that differ by less than this share are tied: they differ by rounding.
_TIED = 1e-9
# Of the scale of the curves; what is less is rounding.
_ROUNDING = 1e-12
# A spread is known to so much of the one with the outlier in it.
_LOST = 1e-7


def departures(curves: Array, scale: float) -> Array:
    """How far each of some curves lies from all others, in units of their spread.

    Parameters
    ----------
    curves : ndarray (curve, ...)
        At least three: the measured one and those of simulations, in any order.
    scale : float
        Size of what the curves are differences of, to tell from rounding.

    Returns
    -------
    ndarray (curve, ...)
        Deviation from the mean of the others over their standard deviation.

    Notes
    -----
    What is done to the measured curve is done to every other. If the simulations are of the
    process that was measured, any of the curves is as likely as another to lie farthest out.
    """
    n = len(curves)
    about = curves - curves.mean(0)
    squares = (about**2).sum(0)
    # Without curve j the mean moves by -about_j / (n - 1).
    others = np.maximum(squares - about**2 * (n / (n - 1)), 0) / (n - 2)
    least = max(_ROUNDING * scale, np.finfo(float).tiny ** 0.5)
    spread = np.maximum(np.sqrt(others), np.maximum(_LOST * np.sqrt(squares), least))
    return about * (n / (n - 1)) / spread


def p_values(statistic: Array) -> Array:
    """Share of statistics as large as the first, itself among them.

    Parameters
    ----------
    statistic : ndarray (curve, ...)
        The measured one first.

    Returns
    -------
    ndarray (...)
        (1 + simulations not below the measured one) / (1 + simulations). Ties count.
    """
    measured = statistic[0]
    is_as_large = statistic[1:] >= measured - _TIED * np.abs(measured)
    return (1 + is_as_large.sum(0)) / len(statistic)


def checked_simulations(n_simulations: Any) -> int:
    """A number of simulations; at least two, for a spread."""
    is_whole = isinstance(n_simulations, int | np.integer) and not isinstance(n_simulations, bool)
    if not is_whole or n_simulations < 2:
        raise ValueError(f"n_simulations: expected an integer of at least 2, got {n_simulations!r}")
    return int(n_simulations)
