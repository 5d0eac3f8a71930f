"""The three means that a correlation is measured about, for one layer of a trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numba
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._kernels import overlaps, planes, residuals
from isingmoe.neighbours import chance_overlap, ratio
from isingmoe.traces import primary_expert, trace_name

__all__ = [
    "CENTRES",
    "Curves",
    "Layer",
    "bootstrap_error",
    "centred_curves",
    "check_centre",
    "distances",
    "own_mean_correction",
    "resampling_weights",
    "spread_of_known",
]

Array = NDArray[np.floating]
Counts = NDArray[np.int64]

CENTRES = ("global", "position", "sequence")

# Numbers held at a time for the sums of each sequence and expert.
_BLOCK = 1 << 23


def check_centre(traces: xr.Dataset, centre: str) -> None:
    """Complain of a centre that is none, or that the traces are too few for.

    Raises
    ------
    ValueError
    """
    if centre not in CENTRES:
        raise ValueError(f"centre: expected one of {', '.join(CENTRES)}, got {centre!r}")
    if centre == "position" and traces.sizes["sequence"] < 2:
        raise ValueError(
            f"{trace_name(traces)}: centre: 'position' needs at least two sequences, got one"
        )


def distances(traces: xr.Dataset, max_distance: int) -> NDArray[np.int64]:
    """Distances 0 to the largest, as far as the longest sequence has them.

    Raises
    ------
    ValueError
        If no sequence has two tokens.
    """
    longest = int(traces["length"].max())
    if longest < 2:
        raise ValueError(
            f"{trace_name(traces)}: length: expected a sequence of at least two tokens, "
            f"got {longest}"
        )
    return np.arange(min(max_distance, longest - 1) + 1)


def resampling_weights(n_sequences: int, n_resamples: int, seed: int) -> Array:
    """How often each sequence is drawn in each bootstrap resample, (resample, sequence)."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, n_sequences, (n_resamples, n_sequences), dtype=np.int32)
    # One bin for each resample and sequence: faster than as many multinomial draws.
    place = drawn + n_sequences * np.arange(n_resamples)[:, None]
    counts = np.bincount(place.ravel(), minlength=place.size)
    return counts.reshape(place.shape).astype(float)


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of a trace, to be counted.

    Attributes
    ----------
    index : int16 ndarray (sequence, position, rank)
        Expert ids, -1 where there is none.
    n_experts : int
    max_distance : int
        At least 1.
    """

    index: NDArray[np.int16]
    n_experts: int
    max_distance: int

    @classmethod
    def of(cls, traces: xr.Dataset, place: int, max_distance: int, *, primary: bool) -> Layer:
        """A layer by its place: all experts of a token, or the primary one.

        Raises
        ------
        ValueError
            If an id is out of range.
        """
        n_experts = int(traces.attrs["num_experts"])
        if primary:
            index = primary_expert(traces).values[place][..., None]
        else:
            index = traces["expert_index"].values[place]
        lowest, highest = int(index.min()), int(index.max())
        if lowest < -1 or highest >= n_experts:
            raise ValueError(
                f"{trace_name(traces)}: expert_index: expected ids of -1 to {n_experts - 1}, got "
                f"{lowest if lowest < -1 else highest}; isingmoe.validate names the first"
            )
        # One memory layout means one compiled kernel.
        return cls(np.ascontiguousarray(index), n_experts, max_distance)

    @classmethod
    def of_sets(cls, sets: NDArray[np.uint64], n_experts: int, max_distance: int) -> Layer:
        """A layer from its bit sets (sequence, word, position)."""
        most = int(np.bitwise_count(sets).sum(1).max(initial=1))
        return cls(overlaps.unpack_sets(sets, most), n_experts, max_distance)

    @property
    def n_sequences(self) -> int:
        """Number of sequences."""
        return len(self.index)

    @cached_property
    def recorded(self) -> NDArray[np.bool_]:
        """Whether each token has a recorded expert, (sequence, position)."""
        return residuals.recorded_tokens(self.index)

    @cached_property
    def occupancy(self) -> tuple[Counts, Counts]:
        """Recorded tokens of each sequence, and those that each expert serves."""
        sets, _, _ = overlaps.pack_sets(self.index, -(-self.n_experts // 64))
        return overlaps.occupancy_counts(sets, self.n_experts)

    @cached_property
    def rates(self) -> Array:
        """Occupancy of each expert at each position over the sequences, (expert, position)."""
        sets, _, _ = overlaps.pack_sets(
            # A position is to its sequences what a sequence is to its positions.
            np.ascontiguousarray(self.index.swapaxes(0, 1)),
            -(-self.n_experts // 64),
        )
        present, occupied = overlaps.occupancy_counts(sets, self.n_experts)
        return np.ascontiguousarray((occupied / np.maximum(present, 1)[:, None]).T)

    def pair_totals(self, *, summed: bool) -> tuple[Counts, Counts]:
        """Pairs with an expert at both ends, and with any recorded, of all sequences together.

        Parameters
        ----------
        summed : bool
            Whether over experts too.

        Returns
        -------
        both : ndarray (expert or 1, distance)
        pairs : ndarray (distance,)
        """
        both, pairs = self._counted(slice(0, self.n_sequences), summed, 1)
        return both.sum(0), pairs.sum(0)

    def pair_sums(self, *, summed: bool) -> Iterator[tuple[slice, Counts, Counts]]:
        """Pairs of each sequence with an expert at both ends, and with any recorded.

        Yields
        ------
        block : slice
            Some of the sequences.
        both : ndarray (sequence, expert or 1, distance)
        pairs : ndarray (sequence, distance)
        """
        for block in self._blocks(1 if summed else self.n_experts):
            both, pairs = self._counted(block, summed, block.stop - block.start)
            n_parts = len(pairs) // (block.stop - block.start)
            if n_parts > 1:
                both = both.reshape(-1, n_parts, *both.shape[1:]).sum(1)
                pairs = pairs.reshape(-1, n_parts, pairs.shape[-1]).sum(1)
            yield block, both, pairs

    def residual_sums(self, *, summed: bool) -> Iterator[tuple[slice, Array, Array]]:
        """Products about the mean at each position, summed over the pairs of each sequence.

        Yields
        ------
        block : slice
        products : ndarray (sequence, expert or 1, distance)
        weight : ndarray (sequence, distance)
            What to divide by.
        """
        weight = residuals.residual_weights(
            np.ascontiguousarray(self.recorded.T), self.max_distance
        )
        for block in self._blocks(self.n_experts):
            products = residuals.residual_products(self.index[block], self.rates, self.max_distance)
            yield block, products.sum(1, keepdims=True) if summed else products, weight[block]

    def _blocks(self, n_series: int) -> Iterator[slice]:
        """Sequences whose sums are held together."""
        size = max(_BLOCK // (n_series * (self.max_distance + 1)), 1)
        for first in range(0, self.n_sequences, size):
            yield slice(first, min(first + size, self.n_sequences))

    def _counted(self, block: slice, summed: bool, n_rows: int) -> tuple[Counts, Counts]:
        """Counts of the sequences of a block, in parts: an equal number of them for each row."""
        n_sequences, n_positions = block.stop - block.start, self.index.shape[1]
        starts = np.arange(0, n_positions, planes.STRETCH)
        unit = np.empty((n_sequences, len(starts), 2), np.int64)
        unit[..., 0], unit[..., 1] = np.arange(n_sequences)[:, None], starts
        n_workers = numba.get_num_threads()
        units_of_row = n_sequences * len(starts) // n_rows
        n_parts = min(units_of_row, -(-n_workers // n_rows))
        ends = np.linspace(0, units_of_row, n_parts + 1).astype(np.int64)[1:]
        bounds = (np.arange(n_rows)[:, None] * units_of_row + ends).ravel()
        return planes.pair_counts(
            self.index[block],
            unit.reshape(-1, 2),
            np.concatenate([[0], bounds]),
            self.n_experts,
            self.max_distance,
            summed,
            min(n_workers, len(bounds)),
        )


@dataclass(frozen=True, eq=False)
class Curves:
    """Connected correlations of a layer, and what was counted for them.

    Attributes
    ----------
    value : ndarray (expert or 1, distance)
        NaN at a distance without pairs.
    resample : ndarray (resample, expert or 1, distance)
        NaN where there is one sequence.
    both : int64 ndarray (expert or 1, distance)
        Pairs with an expert at both ends.
    pairs : int64 ndarray (sequence, distance)
        Pairs with a recorded expert at both ends; of all sequences together without resamples
        about the global mean.
    occupied : int64 ndarray (sequence, expert)
        Tokens that each expert serves; of all sequences together likewise.
    """

    value: Array
    resample: Array
    both: Counts
    pairs: Counts
    occupied: Counts


def centred_curves(layer: Layer, centre: str, weights: Array, *, summed: bool) -> Curves:
    """Connected correlation of one layer, of all sequences and of resamples of them.

    Parameters
    ----------
    layer : Layer
    centre : {"global", "position", "sequence"}
    weights : ndarray (resample, sequence)
        How often each resample has each sequence.
    summed : bool
        Whether to sum over the experts.

    Returns
    -------
    Curves

    Notes
    -----
    With centre "position" the rates are those of all sequences in the resamples too.
    """
    if centre == "global" and not len(weights):
        both, pairs = layer.pair_totals(summed=summed)
        occupied = layer.occupancy[1].sum(0) if summed else both[:, 0]
        value = _about_global_mean(both[None], pairs[None], occupied[None], summed)
        return Curves(value[0], value[:0], both, pairs[None], occupied[None])
    is_alone = layer.n_sequences == 1
    rows = np.concatenate([np.ones((1, layer.n_sequences)), weights[: 0 if is_alone else None]])
    n_series, n_distances = 1 if summed else layer.n_experts, layer.max_distance + 1
    pairs = np.empty((layer.n_sequences, n_distances), np.int64)
    occupied = np.empty((layer.n_sequences, layer.n_experts), np.int64)
    if summed:
        occupied[:] = layer.occupancy[1]
    both = np.zeros((n_series, n_distances), np.int64)
    numerator = np.zeros((len(rows), n_series, n_distances))
    for block, both_of, pairs_of in layer.pair_sums(summed=summed):
        both += both_of.sum(0)
        pairs[block] = pairs_of
        if not summed:
            occupied[block] = both_of[..., 0]
        if centre == "sequence":
            chance = _chance(pairs_of[:, 0], occupied[block], summed)
            numerator += _weighted(rows[:, block], both_of - pairs_of[:, None] * chance[..., None])
        elif centre == "global":
            numerator += _weighted(rows[:, block], both_of)
    if centre == "global":
        value = _about_global_mean(numerator, rows @ pairs, rows @ occupied, summed)
    elif centre == "sequence":
        raw = ratio(numerator, np.broadcast_to((rows @ pairs)[:, None], numerator.shape))
        correction = own_mean_correction(pairs, pairs[:, 0])
        # The correction mixes distances; one without pairs stays without a value.
        value = np.nan_to_num(raw) @ correction.T + 0 * raw
    else:
        denominator = np.zeros((len(rows), n_distances))
        for block, products, weight in layer.residual_sums(summed=summed):
            numerator += _weighted(rows[:, block], products)
            denominator += rows[:, block] @ weight
        value = ratio(numerator, np.broadcast_to(denominator[:, None], numerator.shape))
    unknown = np.full((len(weights), n_series, n_distances), np.nan)
    return Curves(value[0], unknown if is_alone else value[1:], both, pairs, occupied)


def _weighted(weights: Array, sums: Any) -> Array:
    """Sums of the sequences (sequence, series, distance), each as often as it is drawn."""
    flat = sums.reshape(len(sums), -1)
    return (weights @ flat).reshape(len(weights), *sums.shape[1:])


def _about_global_mean(both: Any, pairs: Any, occupied: Any, summed: bool) -> Array:
    """Correlation about one mean for each expert, of the counts of each resample."""
    squared = (occupied / np.maximum(pairs[:, :1], 1)) ** 2
    if summed:
        squared = squared.sum(1, keepdims=True)
    return ratio(both, np.broadcast_to(pairs[:, None], both.shape)) - squared[..., None]


def _chance(tokens: Counts, occupied: Counts, summed: bool) -> Array:
    """Chance that an expert serves two different tokens of a sequence, (sequence, series)."""
    if summed:
        return chance_overlap(tokens, occupied)[:, None]
    return occupied * (occupied - 1) / np.maximum(tokens * (tokens - 1), 1)[:, None]


def bootstrap_error(curves: Curves) -> Array:
    """Standard error of each correlation, (expert or 1, distance).

    The spread of the resamples that have pairs at a distance; where there is one sequence,
    that of uncorrelated tokens, C(0) / sqrt(pairs).
    """
    resample = curves.resample
    if np.isnan(resample).all():
        return curves.value[:, :1] / np.sqrt(np.maximum(curves.pairs.sum(0), 1))
    return spread_of_known(resample)


def spread_of_known(resample: Array) -> Array:
    """Standard deviation over the resamples that have pairs, NaN of fewer than two."""
    n_known = (~np.isnan(resample)).sum(0)
    mean = np.nansum(resample, 0) / np.maximum(n_known, 1)
    squares = np.nansum((resample - mean) ** 2, 0)
    return np.where(n_known > 1, np.sqrt(squares / np.maximum(n_known - 1, 1)), np.nan)


def own_mean_correction(pairs: Counts, tokens: Counts) -> Array:
    """Matrix that undoes what the mean of its own sequence takes off the correlation.

    The mean over all pairs of different tokens holds the correlated pairs too: in a
    sequence of L tokens it exceeds the square of the true rate by the sum over j of
    2 (pairs at j) / (L (L - 1)) C(j). What is taken off C(d) is that weight of C(j), averaged
    over the sequences as C(d) is. Distances beyond a quarter of a sequence are left out: what
    is correlated over a whole text cannot be told from the text's own rate.

    Parameters
    ----------
    pairs : int64 ndarray (sequence, distance)
    tokens : int64 ndarray (sequence,)

    Returns
    -------
    ndarray (distance, distance)
    """
    share = 2 * pairs / np.maximum(tokens * (tokens - 1), 1)[:, None]
    distance = np.arange(pairs.shape[1])
    share[(distance == 0) | (4 * distance > tokens[:, None])] = 0
    taken = (pairs.T @ share) / np.maximum(pairs.sum(0), 1)[:, None]
    return np.linalg.inv(np.eye(len(distance)) - taken)
