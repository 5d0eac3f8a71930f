"""What is measured on traces: overlaps, connected correlations and their decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe import _provenance
from isingmoe._kernels import overlaps
from isingmoe._schema import validate_structure
from isingmoe._text import about
from isingmoe.decay import length_variables
from isingmoe.neighbours import chance_overlap, ratio
from isingmoe.traces import Track, each_layer, pack_layer, trace_name

__all__ = [
    "CENTRES",
    "centred_correlation",
    "correlation",
    "resampling_weights",
]

Array = NDArray[np.floating]

CENTRES = ("global", "position", "sequence")


def resampling_weights(n_sequences: int, n_resamples: int, seed: int) -> Array:
    """How often each sequence is drawn in each bootstrap resample, (resample, sequence)."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, n_sequences, (n_resamples, n_sequences), dtype=np.int32)
    # One bin for each resample and sequence: faster than as many multinomial draws.
    place = drawn + n_sequences * np.arange(n_resamples)[:, None]
    counts = np.bincount(place.ravel(), minlength=place.size)
    return counts.reshape(place.shape).astype(float)


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
    if centre not in CENTRES:
        raise ValueError(f"centre: expected one of {', '.join(CENTRES)}, got {centre!r}")
    if max_distance < 1 or n_resamples < 2:
        raise ValueError(
            "max_distance, n_resamples: expected at least 1 and 2, "
            f"got {max_distance} and {n_resamples}"
        )
    validate_structure(traces)
    if primary is None:
        primary = bool(traces.attrs["ranked"])
    n_sequences = traces.sizes["sequence"]
    if centre == "position" and n_sequences < 2:
        raise ValueError("centre: 'position' needs at least two sequences, got one")
    longest = int(traces["length"].max())
    if longest < 2:
        raise ValueError(
            f"{trace_name(traces)}: length: expected a sequence of at least two tokens, "
            f"got {longest}"
        )
    distance = np.arange(min(max_distance, longest - 1) + 1)
    weights = resampling_weights(n_sequences, n_resamples, seed)
    rows = [
        _layer_correlation(
            pack_layer(traces, layer, primary=primary),
            int(traces.attrs["num_experts"]),
            distance,
            centre,
            weights,
        )
        for layer in each_layer(traces, track)
    ]
    curve = np.array([row.curve for row in rows])
    resample = np.array([row.resample for row in rows])
    error = _bootstrap_error(curve, resample, np.array([row.n_pairs for row in rows]))
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
    none = np.empty((0, len(sets)))
    return _layer_correlation(sets, n_experts, distance, centre, none).curve


def _bootstrap_error(curve: Array, resample: Array, n_pairs: NDArray[np.int64]) -> Array:
    """Spread of the resamples that have pairs at a distance, (layer, distance)."""
    if np.isnan(resample).all():
        return curve[:, :1] / np.sqrt(np.maximum(n_pairs, 1))
    n_known = (~np.isnan(resample)).sum(1)
    mean = np.nansum(resample, 1) / np.maximum(n_known, 1)
    squares = np.nansum((resample - mean[:, None]) ** 2, 1)
    return np.where(n_known > 1, np.sqrt(squares / np.maximum(n_known - 1, 1)), np.nan)


@dataclass(frozen=True)
class _LayerCurve:
    curve: Array
    overlap: Array
    shuffled: Array
    n_pairs: NDArray[np.int64]
    resample: Array


def _layer_correlation(
    sets: NDArray[np.uint64], n_experts: int, distance: Any, centre: str, weights: Array
) -> _LayerCurve:
    pairs, shared = overlaps.pair_overlaps(sets, distance)
    n_pairs = pairs.sum(0)
    overlap = shared.sum(0) / np.maximum(n_pairs, 1)
    everything = np.ones((1, len(pairs)))
    tokens, occupied = overlaps.occupancy_counts(sets, n_experts)
    by_chance = pairs * chance_overlap(tokens, occupied)[:, None]
    load = occupied.sum(0) / max(tokens.sum(), 1)
    shuffled = by_chance.sum(0) / np.maximum(n_pairs, 1) - (load**2).sum()
    shuffled[0] = overlap[0] - (load**2).sum()
    if centre == "global":

        def curves(w: Array) -> Array:
            rate = (w @ occupied) / np.maximum(w @ tokens, 1)[:, None]
            return ratio(w @ shared, w @ pairs) - (rate**2).sum(1)[:, None]

    elif centre == "sequence":
        excess = shared - by_chance
        correction = np.linalg.inv(np.eye(len(distance)) - _own_mean_share(pairs, tokens))

        def curves(w: Array) -> Array:
            raw = ratio(w @ excess, w @ pairs)
            # The correction mixes distances; one without pairs stays without a value.
            return np.nan_to_num(raw) @ correction.T + 0 * raw

    else:
        rate, present = _rates_over_position(sets, n_experts)
        weight, covariance = overlaps.position_centred(sets, distance, rate, present)

        def curves(w: Array) -> Array:
            return ratio(w @ covariance, w @ weight)

    resampled = curves(weights) if len(pairs) > 1 else np.full((len(weights), n_pairs.size), np.nan)
    return _LayerCurve(curves(everything)[0], overlap, shuffled, n_pairs, resampled)


def _own_mean_share(pairs: NDArray[np.int64], tokens: NDArray[np.int64]) -> Array:
    """How much of the correlation at each distance the mean of its own sequence takes off.

    The mean over all pairs of different tokens holds the correlated pairs too: in a
    sequence of L tokens it exceeds the square of the true rate by the sum over j of
    2 (pairs at j) / (L (L - 1)) C(j). Element [d, j] is that weight of C(j), averaged over
    the sequences as C(d) is. Distances beyond a quarter of a sequence are left out: what
    is correlated over a whole text cannot be told from the text's own rate.
    """
    share = 2 * pairs / np.maximum(tokens * (tokens - 1), 1)[:, None]
    distance = np.arange(pairs.shape[1])
    share[(distance == 0) | (4 * distance > tokens[:, None])] = 0
    return (pairs.T @ share) / np.maximum(pairs.sum(0), 1)[:, None]


def _rates_over_position(
    sets: NDArray[np.uint64], n_experts: int
) -> tuple[Array, NDArray[np.int64]]:
    """Occupancy of each expert at each position, and the sequences that have a token there."""
    # A position is to its sequences what a sequence is to its positions.
    across = np.ascontiguousarray(sets.transpose(2, 1, 0))
    present, occupied = overlaps.occupancy_counts(across, n_experts)
    return occupied / np.maximum(present, 1)[:, None], present
