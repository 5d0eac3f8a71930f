"""Folds of the sequences, and errors of means over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe.traces import trace_name

__all__ = ["folds_of", "ratio_error"]

Array = NDArray[Any]


def folds_of(traces: xr.Dataset, n_folds: int, seed: int) -> list[NDArray[np.int64]]:
    """Sequences in random folds of nearly equal number.

    Raises
    ------
    ValueError
        With fewer than two sequences or folds.
    """
    n_sequences = traces.sizes["sequence"]
    if n_sequences < 2 or n_folds < 2:
        raise ValueError(
            f"{trace_name(traces)}: n_folds: expected at least two sequences and two folds, got "
            f"{n_sequences} and {n_folds}; a sequence must be held out"
        )
    order = np.random.default_rng(seed).permutation(n_sequences)
    return [np.sort(part) for part in np.array_split(order, min(n_folds, n_sequences))]


def ratio_error(sums: Array, counts: Array) -> float:
    """Standard error of a sum over a count, by the spread of the units they are made of.

    Parameters
    ----------
    sums, counts : ndarray (unit,)

    Returns
    -------
    float
        NaN with fewer than two units.
    """
    n = len(sums)
    if n < 2:
        return np.nan
    surplus = sums - counts * sums.sum() / counts.sum()
    return float(np.sqrt((surplus**2).sum() * n / (n - 1)) / counts.sum())
