"""What is measured on traces: overlaps, connected correlations and their decay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe import _provenance
from isingmoe._schema import alike
from isingmoe._text import about
from isingmoe.centrings import (
    CENTRES,
    Layer,
    bootstrap_error,
    centred_curves,
    check_centre,
    distances,
    resampling_weights,
)
from isingmoe.decay import length_variables
from isingmoe.neighbours import chance_overlap
from isingmoe.traces import Track, each_layer

__all__ = [
    "CENTRES",
    "centred_correlation",
    "correlation",
    "resampling_weights",
]

Array = NDArray[np.floating]


def correlation(
    traces: xr.Dataset,
    *,
    primary: bool | None = None,
    centre: str = "global",
    max_distance: int = 64,
    n_resamples: int = 200,
    seed: int = 0,
    track: Track | None = None,
) -> xr.Dataset:
    """Connected correlation of the experts' occupancy along the text.

    Parameters
    ----------
    traces : Dataset
    primary : bool, optional
        Of the primary expert alone or of the whole set; by default the primary expert
        where the trace is ranked.
    centre : {"global", "position", "sequence"}
        The mean that is taken off: one for each expert; that at each position over the
        sequences; that of each sequence. The second is corrected for the finite number of
        sequences. The third is corrected for the finite length: it takes off the mean over
        all pairs of different tokens of the sequence, less what their correlation up to
        `max_distance` and a quarter of the sequence adds to that mean.
    max_distance : int
        Largest distance; less where the sequences are shorter.
    n_resamples : int
        Bootstrap resamples of the sequences.
    seed : int
    track : callable, optional
        Wraps the iteration over layers, for a progress bar.

    Returns
    -------
    Dataset
        Per layer: `correlation` C(d) summed over experts and its `correlation_error`,
        `shuffled`, the expectation of C(d) about the global mean with the tokens of each
        sequence in random order, `overlap` (mean number of experts shared at a distance)
        and `n_pairs` (layer, distance); `correlation_length` by a fit of the decay and
        `second_moment_length`, each with `_low` and `_high` of a 95 % interval, and
        `n_fitted` and `n_moment`, the number of distances that each used. `resample` (layer,
        resample, distance) holds the bootstrap curves.

    Raises
    ------
    ValueError
        If an argument is out of range or no sequence has two tokens.

    Notes
    -----
    Bootstrap over sequences: tokens of a text are not independent. With centre "position"
    the rates are held fixed at those of the whole trace. One sequence cannot be resampled:
    the errors are then those of uncorrelated tokens, C(0) / sqrt(pairs), and there are no
    intervals. A distance without pairs is NaN.
    """
    traces = alike(traces)
    check_centre(traces, centre)
    if max_distance < 1 or n_resamples < 2:
        raise ValueError(
            "max_distance, n_resamples: expected at least 1 and 2, "
            f"got {max_distance} and {n_resamples}"
        )
    if primary is None:
        primary = bool(traces.attrs["ranked"])
    distance = distances(traces, max_distance)
    n_sequences = traces.sizes["sequence"]
    weights = resampling_weights(n_sequences, n_resamples, seed)
    rows = [
        _layer_correlation(
            Layer.of(traces, place, int(distance[-1]), primary=primary), centre, weights
        )
        for place in each_layer(traces, track)
    ]
    curve, error, resample = (
        np.array([getattr(row, name) for row in rows]) for name in ("curve", "error", "resample")
    )
    result = xr.Dataset(
        {
            "correlation": (("layer", "distance"), curve, about("connected correlation")),
            "correlation_error": (
                ("layer", "distance"),
                error,
                about("standard error of the connected correlation"),
            ),
            "overlap": (
                ("layer", "distance"),
                np.array([row.overlap for row in rows]),
                about("mean number of experts shared by two tokens"),
            ),
            "shuffled": (
                ("layer", "distance"),
                np.array([row.shuffled for row in rows]),
                about("correlation expected with the tokens of each sequence in random order"),
            ),
            "n_pairs": (
                ("layer", "distance"),
                np.array([row.n_pairs for row in rows]),
                about("pairs of tokens"),
            ),
            "resample": (
                ("layer", "resample", "distance"),
                resample,
                about("connected correlation in a bootstrap resample"),
            ),
        },
        coords={
            "layer": traces["layer"],
            "distance": ("distance", distance, about("distance", "token")),
        },
        attrs={
            "centre": centre,
            "states": "primary expert" if primary else "expert set",
            "n_sequences": n_sequences,
            "provenance": _provenance.record(
                "correlation",
                {
                    "primary": primary,
                    "centre": centre,
                    "max_distance": max_distance,
                    "n_resamples": n_resamples,
                },
                inputs=_provenance.describe(traces),
                seed=seed,
            ),
        },
    )
    return result.assign(length_variables(curve, error, resample, n_sequences))


def centred_correlation(
    sets: NDArray[np.uint64], n_experts: int, distance: NDArray[np.int64], centre: str
) -> Array:
    """C(d) of bit sets (sequence, word, position) about a mean, as `correlation` has it."""
    layer = Layer.of_sets(sets, n_experts, max(int(distance[-1]), 1))
    curves = centred_curves(layer, centre, np.empty((0, len(sets))), summed=True)
    return curves.value[0, distance]


@dataclass(frozen=True)
class _LayerCurve:
    curve: Array
    error: Array
    overlap: Array
    shuffled: Array
    n_pairs: NDArray[np.int64]
    resample: Array


def _layer_correlation(layer: Layer, centre: str, weights: Array) -> _LayerCurve:
    curves = centred_curves(layer, centre, weights, summed=True)
    pairs, tokens, occupied = curves.pairs, curves.pairs[:, 0], curves.occupied
    n_pairs = pairs.sum(0)
    overlap = curves.both[0] / np.maximum(n_pairs, 1)
    by_chance = pairs * chance_overlap(tokens, occupied)[:, None]
    load = occupied.sum(0) / max(tokens.sum(), 1)
    shuffled = by_chance.sum(0) / np.maximum(n_pairs, 1) - (load**2).sum()
    shuffled[0] = overlap[0] - (load**2).sum()
    return _LayerCurve(
        curves.value[0],
        bootstrap_error(curves)[0],
        overlap,
        shuffled,
        n_pairs,
        curves.resample[:, 0],
    )
