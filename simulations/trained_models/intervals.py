"""Means over trainings and layers, with intervals, and how they are told."""

from __future__ import annotations

from typing import Any

import xarray as xr
from scipy.stats import t

__all__ = ["interval", "over_layers", "significant", "told"]


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


def over_layers(values: xr.DataArray, **options: Any) -> xr.DataArray:
    """Mean over layers, and over stacks, of what has them; options as for xarray's mean."""
    return values.mean([dim for dim in ("stack", "layer") if dim in values.dims], **options)


def told(values: xr.DataArray, digits: int = 2) -> str:
    """`mean ± half` of values (seed,); a dash where there are none."""
    if values.isnull().all():
        return "–"
    mean, half = (float(one) for one in interval(values))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def significant(p_value: xr.DataArray) -> str:
    """How many of the p-values are below 0.05."""
    return f"{int((p_value < 0.05).sum())} of {int(p_value.count())}"
