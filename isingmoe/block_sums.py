"""Correlations of block rates and inside windows, from sums over the blocks of every sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from isingmoe._kernels.block_pairs import block_sums
from isingmoe.centrings import spread_of_known
from isingmoe.neighbours import ratio

__all__ = ["FEWEST_BLOCKS", "N_LAGS", "BlockGrid", "BlockSums", "Curves", "block_correlation"]

Array = NDArray[np.floating]

# Lags in blocks: what is fitted is the decay on the scale of the block, at every length of it.
N_LAGS = 8
# A sequence of fewer blocks says nothing of how their rates are correlated.
FEWEST_BLOCKS = 4
# Largest distance inside a window, and the share of it up to which its own mean, which holds
# the correlated pairs too, can be corrected.
_MAX_DISTANCE = 64
_SHARE = 4
# A correlation below this much of the largest overlap is rounding.
_ROUNDING = 1e-12


class BlockGrid(NamedTuple):
    """Lengths of block to measure at.

    Attributes
    ----------
    block_length : int64 ndarray (block_length,)
        Rising.
    n_experts, top_k : int
    """

    block_length: NDArray[np.int64]
    n_experts: int
    top_k: int

    @property
    def reach(self) -> NDArray[np.int64]:
        """Largest distance inside a window of each length; 0 where it is too short for one."""
        return np.minimum(self.block_length // _SHARE, _MAX_DISTANCE)

    def sums(self, sets: NDArray[np.uint64], length: NDArray[np.int64]) -> BlockSums:
        """Sums over the blocks of bit sets (sequence, word, position)."""
        found: Any = block_sums(
            sets, length, self.block_length, self.reach, FEWEST_BLOCKS, N_LAGS, self.n_experts
        )
        return BlockSums(self, 1, *found)


class Curves(NamedTuple):
    """A correlation, its standard error and its bootstrap resamples.

    Attributes
    ----------
    value, error : ndarray (distance,)
    resample : ndarray (resample, distance)
        NaN where there is nothing to resample.
    """

    value: Array
    error: Array
    resample: Array


@dataclass(frozen=True, eq=False)
class BlockSums:
    """Sums over the blocks of every sequence; those of several data sets lie one after another.

    Attributes
    ----------
    grid : BlockGrid
    n_sets : int
        Data sets, all of the same number of sequences.
    tokens, occupied, weight, product, pairs, excess, share : ndarray
        As the kernel `block_sums` gives them.
    """

    grid: BlockGrid
    n_sets: int
    tokens: NDArray[np.int64]
    occupied: NDArray[np.int64]
    weight: NDArray[np.int64]
    product: NDArray[np.int64]
    pairs: NDArray[np.int64]
    excess: Array
    share: Array

    @staticmethod
    def pooled(parts: Sequence[BlockSums]) -> BlockSums:
        """Of several data sets together."""
        names = ("tokens", "occupied", "weight", "product", "pairs", "excess")
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        share = np.sum([part.share for part in parts], axis=0)
        return replace(parts[0], n_sets=len(parts), share=share, **joined)

    @property
    def n_sequences(self) -> int:
        """Sequences of one data set."""
        return len(self.tokens) // self.n_sets

    def coarse(self, place: int, weights: Array) -> Curves:
        """Correlation of the block rates at a place of the grid, over lags in blocks.

        Parameters
        ----------
        place : int
        weights : ndarray (resample, sequence)
            How often each sequence is drawn; the same number of sequences in each resample.

        Returns
        -------
        Curves
            C_b(m) = sum x x' / sum n n' - sum over experts of the squared rates: the mean over
            pairs of tokens, one in each block, of the experts they share, less chance. Of the
            rates x / n of two blocks it is the product, weighted with n n'.
        """
        tokens, occupied = self.tokens[:, place], self.occupied[:, place]
        weight, product = self.weight[:, place], self.product[:, place]

        def curve(w: Array) -> Array:
            rate = (w @ occupied) / np.maximum(w @ tokens, 1)[:, None]
            return ratio(w @ product, w @ weight) - (rate**2).sum(1)[:, None]

        b = int(self.grid.block_length[place])
        return self._curves(curve, weights, weight[:, 1:].any(1), weight / b**2)

    def window(self, place: int, weights: Array) -> Curves:
        """Correlation inside windows at a place of the grid, about the mean of each.

        As `im.correlation` gives it of the windows with centre "sequence", which corrects the
        mean of a window for the correlated pairs that it holds.
        """
        n = int(self.grid.reach[place]) + 1
        pairs, excess = self.pairs[:, place, :n], self.excess[:, place, :n]
        share = self.share[place, :n, :n] / np.maximum(pairs.sum(0), 1)[:, None]
        correction = np.linalg.inv(np.eye(n) - share)

        def curve(w: Array) -> Array:
            raw = ratio(w @ excess, w @ pairs)
            # The correction mixes distances; one without pairs stays without a value.
            return np.nan_to_num(raw) @ correction.T + 0 * raw

        return self._curves(curve, weights, pairs[:, 1:].any(1), pairs)

    def _curves(
        self, curve: Callable[[Array], Array], weights: Array, adds: Any, n_pairs: NDArray
    ) -> Curves:
        """The curve of all sequences, and its spread for one data set."""

        def exact(w: Array) -> Array:
            value = curve(w)
            return np.where(np.abs(value) <= _ROUNDING * self.grid.top_k, 0.0, value)

        value = exact(np.ones((1, len(adds))))[0]
        if adds[: self.n_sequences].sum() > 1:
            resample = exact(weights)
            # A resample of fewer sequences than the data set varies more than it does.
            scale = np.sqrt(weights[0].sum() / self.n_sequences)
            return Curves(value, scale * spread_of_known(resample), resample)
        # One sequence cannot be resampled: the error is that of uncorrelated tokens.
        error = np.abs(value[0]) / np.sqrt(np.maximum(n_pairs.sum(0) / self.n_sets, 1))
        return Curves(value, error, np.full((len(weights), len(value)), np.nan))


def block_correlation(curve: Array, block_length: int, n_lags: int = N_LAGS) -> Array:
    """Correlation of block rates of a stationary chain, from that of its tokens.

    Parameters
    ----------
    curve : ndarray (..., distance)
        C(d) of the tokens, at the distances 0 to at least (n_lags + 1) block_length - 1.
    block_length, n_lags : int

    Returns
    -------
    ndarray (..., lag)
        C_b(m) = sum over |j| < b of (b - |j|) C(|m b + j|) / b^2, exact. Of a Markov chain with
        C(d) = sum_j w_j lambda_j^d it is, from m = 1 on,
        sum_j w_j lambda_j^(b (m - 1) + 1) ((1 - lambda_j^b) / (b (1 - lambda_j)))^2.

    Raises
    ------
    ValueError
        If the curve is too short.
    """
    b = block_length
    last = (n_lags + 1) * b - 1
    if curve.shape[-1] <= last:
        raise ValueError(
            f"curve: expected distances up to {last} for {n_lags} lags of {b} tokens, "
            f"got {curve.shape[-1] - 1}"
        )
    j = np.arange(-b + 1, b)
    distance = np.abs(b * np.arange(n_lags + 1)[:, None] + j)
    return (curve[..., distance] * (b - np.abs(j))).sum(-1) / b**2
