"""Rows of several sequences that take turns: seen by the overlap at a lag of their number."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._kernels import overlaps
from isingmoe.errors import InterleavedTraceWarning
from isingmoe.neighbours import chance_overlap, shuffled_sets
from isingmoe.traces import pack_layer, trace_name

__all__ = ["interleaved_lag", "warn_if_interleaved"]

_LARGEST_LAG = 64
# Enough to tell; more would only take longer.
_MOST_LAYERS, _MOST_TOKENS, _N_SHUFFLES = 8, 1 << 13, 19
# How far the overlap at a lag must exceed that of neighbours: against the spread of the same
# difference in random order, the largest over the lags, and against the excess of the others.
_SPREADS, _FACTOR = 6.0, 2.0


def interleaved_lag(traces: xr.Dataset) -> int | None:
    """The lag at which tokens share far more experts than neighbours do.

    Parameters
    ----------
    traces : Dataset

    Returns
    -------
    int or None
        None where there is none: neighbours share as many, or not so many fewer.

    Notes
    -----
    Tokens of one text share more experts the nearer they are, and those of different texts as
    many as their loads make of them. If b sequences take turns, the excess over chance is at
    lag b what it would be at lag 1, and at the other lags up to 2b about none. The null is a
    random order of the tokens of each sequence, the same in all layers: the largest overlap
    at lags from 2 to 64 less that at lag 1, over 19 orders. A lag is far above if its
    difference exceeds their mean by 6 of their spreads, and its excess over chance is more
    than twice that of every other lag up to twice as large; and if so it is, against lag 1, in
    sequences with more than half of the tokens. So neither a slow decay nor some texts that
    repeat themselves are taken for it. One that repeats itself from its beginning to its end
    cannot be told from sequences that take turns.
    """
    longest = int(traces["length"].max())
    lags = np.arange(1, min(_LARGEST_LAG, longest // 4) + 1)
    if len(lags) < 2:
        return None
    kept = _some(traces)
    packed = [pack_layer(kept, place, primary=False) for place in range(kept.sizes["layer"])]
    counted = [_counted(sets, lags, int(kept.attrs["num_experts"])) for sets in packed]
    chance = np.sum([_mean(pairs, expected) for pairs, _, expected in counted], 0)
    excess = np.sum([_mean(pairs, shared) for pairs, shared, _ in counted], 0) - chance
    best = 1 + int(np.argmax(excess[1:]))
    others = np.delete(excess[: 2 * best + 1], best)
    if excess[best] <= _FACTOR * max(*others, 0.0):
        return None
    # In how many of the sequences, each against chance in itself.
    surplus = np.sum([(shared - by) / np.maximum(pairs, 1) for pairs, shared, by in counted], 0)
    length = kept["length"].values
    if length[surplus[:, best] > surplus[:, 0]].sum() <= length.sum() / 2:
        return None
    rng = np.random.default_rng(0)
    null = []
    for _ in range(_N_SHUFFLES):
        key = rng.random(packed[0].shape[::2])
        orders = (shuffled_sets(sets, np.asarray(sets.any(1)), key) for sets in packed)
        shuffled = np.sum([_mean(*overlaps.pair_overlaps(sets, lags)) for sets in orders], 0)
        null.append((shuffled - chance)[1:].max() - (shuffled - chance)[0])
    is_far = excess[best] - excess[0] > np.mean(null) + _SPREADS * np.std(null, ddof=1)
    return int(lags[best]) if is_far else None


def warn_if_interleaved(traces: xr.Dataset) -> None:
    """Warn where tokens share far more experts with those some rows on than with the next.

    Warns
    -----
    InterleavedTraceWarning
    """
    lag = interleaved_lag(traces)
    if lag is not None:
        warnings.warn(
            f"{trace_name(traces)}: tokens share more experts with those {lag} rows on than with "
            f"their neighbours: rows of {lag} sequences seem to take turns, or the text repeats "
            f"itself; import them as {lag} sequences (megatron: --micro-batch-size {lag}), or look "
            "at the source",
            InterleavedTraceWarning,
            stacklevel=3,
        )


def _some(traces: xr.Dataset) -> xr.Dataset:
    """Layers and sequences that are enough to tell."""
    n_layers, length = traces.sizes["layer"], traces["length"].values
    layers = np.unique(np.linspace(0, n_layers - 1, _MOST_LAYERS).round().astype(int))
    order = np.argsort(-length, kind="stable")
    n_sequences = int(np.searchsorted(np.cumsum(length[order]), _MOST_TOKENS)) + 1
    some = np.sort(order[:n_sequences])
    return traces[["expert_index", "length"]].isel(
        layer=layers, sequence=some, position=slice(_MOST_TOKENS)
    )


def _counted(
    sets: NDArray[np.uint64], lags: NDArray[np.int64], n_experts: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Pairs, experts that they share and what random order makes of it, (sequence, lag)."""
    pairs, shared = overlaps.pair_overlaps(sets, lags)
    chance = chance_overlap(*overlaps.occupancy_counts(sets, n_experts))
    return pairs, shared, pairs * chance[:, None]


def _mean(pairs: NDArray[Any], total: NDArray[Any]) -> NDArray[Any]:
    return total.sum(0) / np.maximum(pairs.sum(0), 1)
