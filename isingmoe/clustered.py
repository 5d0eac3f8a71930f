"""Tests of counts whose tokens depend on each other, by the scatter of the sequences."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtr, fdtrc, fdtri, stdtrit

__all__ = ["Scatter", "ratio_errors", "scatter"]

Array = NDArray[np.floating]

# Sequences, or groups of them, whose products are taken.
_MOST_UNITS = 512
# Few sequences can hide that one direction prevails. This much over their number squared is
# added to one over the degrees of freedom: tails stay near nominal from four sequences on, and
# from some twenty on it no longer matters.
_CAUTION = 2.0
# A spread this small beside the square is rounding: the sequences are all alike.
_ROUNDING = 1e-20


class Scatter(NamedTuple):
    """The square of a sum over sequences, and what it is where each has the mean nought.

    Attributes
    ----------
    value : ndarray (item,)
        The square.
    expected : ndarray (item,)
        Its mean, from the spread of the sequences about their mean.
    freedom : ndarray (item,)
        Effective number of independent directions, Satterthwaite's.
    n_units : ndarray (item,)
        Sequences behind it.
    """

    value: Array
    expected: Array
    freedom: Array
    n_units: NDArray[np.int64]

    @property
    def alike(self) -> NDArray[np.bool_]:
        """Whether all sequences show the same, and not nought."""
        return (self.n_units > 1) & (self.value > 0) & (self.expected <= _ROUNDING * self.value)

    def p_value(self, *, lower: bool = False) -> Array:
        """Chance of a square as large, or as small; NaN of fewer than two sequences."""
        tail = fdtr if lower else fdtrc
        spread = self.expected > _ROUNDING * self.value
        scaled = self.value / np.where(spread, self.expected, 1)
        p = tail(*self._freedoms(), scaled)
        # Sequences that are all alike have agreed by chance at most so often.
        alike = np.where(self.alike & (not lower), 0.5 ** (self.n_units - 1.0), 1.0)
        return np.where(self.n_units < 2, np.nan, np.where(spread, p, alike))

    def quantile(self, share: float) -> Array:
        """Quantile of the square where every sequence has the mean nought."""
        scaled = fdtri(*self._freedoms(), share)
        return np.where(self.n_units < 2, np.nan, self.expected * scaled)

    def _freedoms(self) -> tuple[Array, Array]:
        return self.freedom, self.freedom * np.maximum(self.n_units - 1, 1)


def scatter(parts: Array, present: NDArray[np.bool_]) -> Scatter:
    """Square of sums of vectors over sequences, against the spread between them.

    Parameters
    ----------
    parts : ndarray (sequence, item, component)
        Of each sequence, for any number of items tested side by side; independent between
        sequences, of whatever law within one.
    present : bool ndarray (sequence, item)
        Where a sequence has a part; it is zero elsewhere.

    Returns
    -------
    Scatter

    Notes
    -----
    Where every part has the mean nought the square is a sum of chi-squares, weighted with the
    eigenvalues of the covariance C of the sum. Only tr C and tr C^2 are needed: the square
    over its mean is about chi-square over its degrees of freedom d = (tr C)^2 / tr C^2, and
    as tr C is an estimate from n sequences, the law is F with d and d (n - 1) degrees of
    freedom. This is the second-order correction of Rao and Scott to chi-square tests of
    clustered counts; tr C^2 is taken from products of different sequences, which neither few
    sequences nor long tails bias. With few sequences fewer degrees of freedom are taken, at
    most n^2 / 2, which keeps improbable values improbable where one direction prevails. More
    than 512 sequences are taken in 512 groups.

    References
    ----------
    J. N. K. Rao and A. J. Scott, Ann. Stat. 12, 46 (1984); D. R. Thomas and J. N. K. Rao,
    J. Am. Stat. Assoc. 82, 630 (1987); S. X. Chen and Y.-L. Qin, Ann. Stat. 38, 808 (2010).
    """
    if len(parts) > _MOST_UNITS:
        parts, present = _grouped(parts), _grouped(present) > 0
    n_units = present.sum(0)
    total = parts.sum(0)
    mean = total / np.maximum(n_units, 1)[:, None]
    x = np.where(present[..., None], parts - mean, 0).transpose(1, 0, 2)
    across = np.swapaxes(x, 1, 2)
    # The smaller of two matrices with the same eigenvalues.
    product = x @ across if x.shape[1] < x.shape[2] else across @ x
    n = np.maximum(n_units, 3)
    size = (x**2).sum(-1)
    spread = size.sum(-1) / np.maximum(n_units - 1, 1)
    # Products of different sequences alone: their squares are no larger for long tails.
    others = ((product**2).sum((1, 2)) - (size**2).sum(-1)) / (n * (n - 1))
    share = (1 - 1 / n) ** 2 + 1 / n**2 - 2 / (n**2 * (n - 1.0))
    trace = np.where(n_units > 1, n_units * spread, np.nan)
    # One over the degrees of freedom: tr C^2 over (tr C)^2.
    unbiased = (others - spread**2 / n**2) / share
    ratio = np.divide(unbiased, spread**2, out=np.ones_like(trace), where=spread > 0)
    ratio = np.clip(np.where(n_units > 2, ratio, 1), 1 / x.shape[2], 1)
    freedom = 1 / np.minimum(ratio + _CAUTION / n**2, 1)
    return Scatter((total**2).sum(-1), trace, freedom, n_units)


def _grouped(values: NDArray) -> NDArray:
    """Sums over sequences that follow each other in steps of the number of groups."""
    pad = -len(values) % _MOST_UNITS
    padded = np.concatenate([values, np.zeros((pad, *values.shape[1:]), values.dtype)])
    return padded.reshape(-1, _MOST_UNITS, *values.shape[1:]).sum(0)


def ratio_errors(sums: NDArray, counts: NDArray) -> tuple[Array, Array, Array]:
    """Ratios of sums over sequences, their standard errors and Student's factor for 95 %.

    Parameters
    ----------
    sums : ndarray (sequence, item, component)
    counts : ndarray (sequence, item)
        What they are divided by; a sequence without counts does not count.

    Returns
    -------
    ratio, error : ndarray (item, component)
        NaN without counts; the error with fewer than two sequences.
    factor : ndarray (item,)
        One-sided.
    """
    n_units = (counts > 0).sum(0)
    total = np.where(n_units > 0, counts.sum(0), np.nan)[:, None]
    ratio = sums.sum(0) / total
    surplus = sums - counts[..., None] * np.where(np.isnan(ratio), 0, ratio)
    known = np.where(n_units > 1, n_units, np.nan)
    grown = known / (known - 1)
    error = np.sqrt(grown[:, None] * (surplus**2).sum(0)) / total
    return ratio, error, stdtrit(known - 1, 0.95)
