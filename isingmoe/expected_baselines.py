"""What baselines are expected to measure: closed forms for one layer of a trace.

The recorded tokens stay where they are, so that pairs are those of the trace. Each baseline then
has an expected overlap of any two tokens, and every measured correlation is a sum of overlaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from isingmoe._kernels import residuals
from isingmoe.centrings import Layer, own_mean_correction
from isingmoe.neighbours import chance_overlap, ratio

__all__ = ["expected_correlation"]

Array = NDArray[np.floating]


def expected_correlation(layer: Layer, kind: str, centre: str) -> Array:
    """Expectation of C(d) of a baseline of a layer.

    Parameters
    ----------
    layer : Layer
    kind : {"random", "shuffled", "position-shuffled"}
    centre : {"global", "position", "sequence"}

    Returns
    -------
    ndarray (distance,)
        NaN at a distance without pairs.
    """
    counted = _Counted(layer)
    if centre == "position":
        return ratio(_RESIDUALS[kind](counted), counted.weight)
    shared, squared_load, chance = _OVERLAPS[kind](counted)
    n_pairs = counted.pairs.sum(0)
    if centre == "global":
        return ratio(shared, n_pairs) - squared_load
    raw = ratio(shared - chance @ counted.pairs, n_pairs)
    correction = own_mean_correction(counted.pairs, counted.tokens)
    return correction @ np.nan_to_num(raw) + 0 * raw


@dataclass(frozen=True, eq=False)
class _Counted:
    """What the baselines of a layer keep."""

    layer: Layer

    @cached_property
    def recorded(self) -> NDArray[np.bool_]:
        """Whether each token has a recorded expert, (position, sequence)."""
        return np.ascontiguousarray(self.layer.recorded.T)

    @cached_property
    def size(self) -> Array:
        """Experts of each token, (sequence, position)."""
        return (self.layer.index >= 0).sum(-1).astype(float)

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        return self.pairs[:, 0]

    @cached_property
    def pairs(self) -> NDArray[np.int64]:
        """Pairs of recorded tokens, (sequence, distance)."""
        return np.concatenate([pairs for _, _, pairs in self.layer.pair_sums(summed=True)])

    @cached_property
    def of_different(self) -> NDArray[np.int64]:
        """Ordered pairs of different tokens of each sequence; 1 where there is none."""
        return np.maximum(self.tokens * (self.tokens - 1), 1)

    @cached_property
    def occupied(self) -> NDArray[np.int64]:
        return self.layer.occupancy[1]

    @cached_property
    def present(self) -> NDArray[np.int64]:
        """Sequences with a recorded token at each position; 1 where there is none."""
        return np.maximum(self.recorded.sum(1), 1)

    @cached_property
    def rates(self) -> Array:
        """Rate of each expert at each position, (position, expert)."""
        return np.ascontiguousarray(self.layer.rates.T)

    @cached_property
    def weight(self) -> Array:
        """What the products about the means of the positions are divided by, (distance,)."""
        return residuals.residual_weights(self.recorded, self.layer.max_distance).sum(0)

    @property
    def squared_load(self) -> float:
        load = self.occupied.sum(0) / max(self.tokens.sum(), 1)
        return float((load**2).sum())

    def products(self, value: Array) -> Array:
        """Products of a value of tokens, summed over the pairs at each distance."""
        return residuals.row_products(value, self.layer.max_distance).sum(0)


def _random_overlaps(counted: _Counted) -> tuple[Array, float, Array]:
    """Two different tokens of m and n experts share mn / E of them."""
    size, q = counted.size, counted.layer.n_experts
    shared = counted.products(size) / q
    shared[0] = size.sum()
    of_others = size.sum() ** 2 - (size**2).sum()
    squared_load = (size.sum() + of_others / q) / max(counted.tokens.sum(), 1) ** 2
    chance = (size.sum(1) ** 2 - (size**2).sum(1)) / q / counted.of_different
    return shared, squared_load, chance


def _shuffled_overlaps(counted: _Counted) -> tuple[Array, float, Array]:
    """Any two different tokens of a sequence are as likely to meet."""
    chance = chance_overlap(counted.tokens, counted.occupied)
    shared = chance @ counted.pairs
    shared[0] = counted.size.sum()
    return shared, counted.squared_load, chance


def _position_shuffled_overlaps(counted: _Counted) -> tuple[Array, float, Array]:
    """A token is any of those at its position, whatever stands at the other positions."""
    shared = residuals.rate_products(counted.recorded, counted.rates, counted.layer.max_distance)
    shared[0] = counted.size.sum()
    recorded = counted.recorded.T
    together = ((recorded @ counted.rates) ** 2).sum(1)
    with_itself = recorded @ (counted.rates**2).sum(1)
    chance = (together - with_itself) / counted.of_different
    return shared, counted.squared_load, chance


_OVERLAPS = {
    "random": _random_overlaps,
    "shuffled": _shuffled_overlaps,
    "position-shuffled": _position_shuffled_overlaps,
}


def _random_residuals(counted: _Counted) -> Array:
    """Tokens of as many experts differ from the mean of their position by chance alone."""
    size, q = counted.size, counted.layer.n_experts
    at_position = size.sum(0)
    about_mean = np.where(counted.layer.recorded, size - at_position / counted.present, 0.0)
    products = counted.products(about_mean) / q
    squared_mean = (at_position + (at_position**2 - (size**2).sum(0)) / q) / counted.present
    products[0] = (at_position - squared_mean).sum()
    return products


def _shuffled_residuals(counted: _Counted) -> Array:
    """The mean at a position is that of the sequences that are there, each at its own rates."""
    tokens = np.maximum(counted.tokens, 1)[:, None]
    rates = counted.occupied / tokens
    own = (rates**2).sum(1)
    same_token = rates.sum(1)
    different_tokens = chance_overlap(counted.tokens, counted.occupied)
    recorded = counted.recorded
    present = counted.present.astype(float)
    total = recorded @ rates
    products = np.zeros(counted.layer.max_distance + 1)
    for d in range(len(products)):
        n = len(recorded) - d
        both = recorded[:n] & recorded[d:]
        overlap = different_tokens if d else same_token
        # With R the summed rates of the sequences at a position, S their number: the expectation
        # of sum_s (n_si - R_i / S_i) (n_sj - R_j / S_j) over the sequences s at i and at j.
        n_both, first, second = both.sum(1), 1 / present[:n], 1 / present[d:]
        of_both = both @ rates
        mixed = n_both * first * second
        products[d] = (
            (both @ overlap)
            - (of_both * total[d:]).sum(1) * second
            - (of_both * total[:n]).sum(1) * first
            + (total[:n] * total[d:]).sum(1) * mixed
            + (both @ (overlap - own)) * (mixed - first - second)
        ).sum()
    return products


def _position_shuffled_residuals(counted: _Counted) -> Array:
    """Tokens at different positions have nothing to do with each other."""
    products = np.zeros(counted.layer.max_distance + 1)
    rates, present = counted.rates, counted.recorded.sum(1)
    products[0] = (present * (rates.sum(1) - (rates**2).sum(1))).sum()
    return products


_RESIDUALS = {
    "random": _random_residuals,
    "shuffled": _shuffled_residuals,
    "position-shuffled": _position_shuffled_residuals,
}
