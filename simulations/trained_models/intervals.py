"""Means over trainings, with intervals."""

from __future__ import annotations

import xarray as xr
from scipy.stats import t

__all__ = ["interval", "told"]


def interval(values: xr.DataArray, level: float = 0.95) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean over seeds, and half the width of its interval by Student's t.

    Parameters
    ----------
    values : DataArray (seed, ..)
        Seeds that have none are left out.
    level : float

    Returns
    -------
    mean, half : DataArray (..)
    """
    n = values.count("seed")
    # One value has no interval.
    spread = values.std("seed", ddof=1).where(n > 1)
    quantile = xr.apply_ufunc(t.ppf, 0.5 + level / 2, (n - 1).where(n > 1))
    return values.mean("seed"), spread / n**0.5 * quantile


def told(values: xr.DataArray, digits: int = 2) -> str:
    """`mean ± half` of values (seed,); a dash where there are none."""
    if values.isnull().all():
        return "–"
    mean, half = (float(one) for one in interval(values))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"
