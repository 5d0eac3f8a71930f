"""Pseudocounts: what is assumed of pairs of states before any is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import gammaln

__all__ = ["evidence_pseudocount", "pseudocounts_by_load"]

# Counts are integers until something is added to them.
Array = NDArray[Any]

_WEAKEST = 1e-2
_FLOOR_SHARE = 0.01


def pseudocounts_by_load(counts: Array, pseudocount: float | None) -> Array:
    """Pairs of independent tokens that are added to the row of every state.

    Parameters
    ----------
    counts : ndarray (q, q)
    pseudocount : float or None
        Average over the pairs of what is added. If None the evidence decides, with a floor
        that is one half where the data can bear it: 1 % of them in all. Without it the
        couplings of an expert that is hardly ever used would be known to no digit, and
        through the gauge those of all others to fewer.

    Returns
    -------
    ndarray (q, q)
    """
    q, load = len(counts), _smoothed_load(counts)
    if pseudocount is not None:
        return np.tile(pseudocount * q * load, (q, 1))
    floor = min(0.5, _FLOOR_SHARE * float(counts.sum()) / q**2)
    return np.tile(np.maximum(evidence_pseudocount(counts) * q * load, floor), (q, 1))


def evidence_pseudocount(counts: Array) -> float:
    """Average pseudocount under which the counts are most probable.

    Parameters
    ----------
    counts : ndarray (q, q)

    Returns
    -------
    float

    Notes
    -----
    Every row of the transition matrix is drawn from a Dirichlet distribution about the
    load, with one concentration m for all rows; m maximises the probability of the counts
    with the rows integrated out. Rows that differ give a small m, which hardly touches
    them; rows that are alike but for noise give a large one. m is at most the mean number
    of pairs in a row: the data keep half of the say. D. J. C. MacKay and L. C. B. Peto,
    Nat. Lang. Eng. 1, 289 (1995).
    """
    q = len(counts)
    load, leaving = _smoothed_load(counts), counts.sum(1)
    strongest = max(float(leaving.mean()), 1.0)

    def cost(log_m: float) -> float:
        m = np.exp(log_m)
        rows = q * gammaln(m) - gammaln(leaving + m).sum()
        cells = gammaln(counts + m * load).sum() - q * gammaln(m * load).sum()
        return -(rows + cells)

    found = minimize_scalar(
        cost, bounds=np.log([_WEAKEST, strongest]), method="bounded", options={"xatol": 1e-4}
    )
    return float(np.exp(found.x)) / q


def _smoothed_load(counts: Array) -> Array:
    """Share of each state among the second tokens, half of one added to each."""
    entering = counts.sum(0) + 0.5
    return entering / entering.sum()
