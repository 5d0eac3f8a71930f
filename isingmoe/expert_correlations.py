"""Connected correlation of every expert along the text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe import _provenance
from isingmoe._schema import alike
from isingmoe._text import about
from isingmoe.centrings import (
    Layer,
    bootstrap_error,
    centred_curves,
    check_centre,
    distances,
    resampling_weights,
)
from isingmoe.traces import Track, each_layer

__all__ = ["expert_correlation"]

Array = NDArray[np.floating]


def expert_correlation(
    traces: xr.Dataset,
    *,
    primary: bool | None = None,
    centre: str = "global",
    max_distance: int = 64,
    n_resamples: int = 200,
    seed: int = 0,
    track: Track | None = None,
) -> xr.Dataset:
    """Connected correlation of the occupancy of every expert along the text.

    Parameters
    ----------
    traces : Dataset
    primary : bool, optional
        Of the primary expert alone or of the whole set; by default the primary expert
        where the trace is ranked.
    centre : {"global", "position", "sequence"}
        The mean that is taken off, as in `correlation`.
    max_distance : int
        Largest distance; less where the sequences are shorter.
    n_resamples : int
        Bootstrap resamples of the sequences; 0 for none, and no errors.
    seed : int
    track : callable, optional
        Wraps the iteration over layers, for a progress bar.

    Returns
    -------
    Dataset
        `correlation`, C_e(d), and its `correlation_error` (layer, expert, distance), whose sum
        over experts is that of `correlation`; `n_both` (layer, expert, distance), pairs of
        tokens that the expert serves both of, and `n_pairs` (layer, distance), pairs of
        tokens, both exact; `n_served` (layer, expert), tokens of the expert, and `n_tokens`
        (layer).

    Raises
    ------
    ValueError
        If an argument is out of range or no sequence has two tokens.
    TraceSchemaError
        If the Dataset is not a trace.

    Notes
    -----
    Errors are the spread over resamples of the sequences; of one sequence, those of
    uncorrelated tokens, C_e(0) / sqrt(pairs). A distance without pairs is NaN.

    Pairs are counted on bit planes, one bit for a token: under every token of an expert lies the
    window of the tokens after it, and windows are added up in columns by carry-save adders
    [1]_. The time goes with the tokens times k and the distances, whatever the number of experts.

    References
    ----------
    .. [1] W. Muła, N. Kurz and D. Lemire, Comput. J. 61, 111 (2018).
    """
    traces = alike(traces)
    check_centre(traces, centre)
    if max_distance < 1:
        raise ValueError(f"max_distance: expected at least 1, got {max_distance}")
    if n_resamples < 0 or n_resamples == 1:
        raise ValueError(f"n_resamples: expected 0 or at least 2 for a spread, got {n_resamples}")
    if primary is None:
        primary = bool(traces.attrs["ranked"])
    distance = distances(traces, max_distance)
    weights = resampling_weights(traces.sizes["sequence"], n_resamples, seed)
    rows = [
        _layer_rows(Layer.of(traces, place, int(distance[-1]), primary=primary), centre, weights)
        for place in each_layer(traces, track)
    ]
    arguments = {
        "primary": primary,
        "centre": centre,
        "max_distance": max_distance,
        "n_resamples": n_resamples,
    }
    return xr.Dataset(
        {
            name: (
                ("layer", *dims),
                np.array([getattr(row, name) for row in rows]),
                about(meaning),
            )
            for name, (dims, meaning) in _VARIABLES.items()
            if n_resamples or name != "correlation_error"
        },
        coords={
            "layer": traces["layer"],
            "distance": ("distance", distance, about("distance", "token")),
        },
        attrs={
            "centre": centre,
            "states": "primary expert" if primary else "expert set",
            "provenance": _provenance.record(
                "expert_correlation", arguments, inputs=_provenance.describe(traces), seed=seed
            ),
        },
    )


_VARIABLES = {
    "correlation": (("expert", "distance"), "connected correlation of the expert"),
    "correlation_error": (
        ("expert", "distance"),
        "standard error of the connected correlation of the expert",
    ),
    "n_both": (("expert", "distance"), "pairs of tokens that the expert serves both of"),
    "n_pairs": (("distance",), "pairs of tokens"),
    "n_served": (("expert",), "tokens that the expert serves"),
    "n_tokens": ((), "tokens with a recorded expert"),
}


@dataclass(frozen=True)
class _LayerRows:
    """The variables of one layer, by their names."""

    correlation: Array
    correlation_error: Array
    n_both: NDArray[np.int64]
    n_pairs: NDArray[np.int64]
    n_served: NDArray[np.int64]
    n_tokens: int


def _layer_rows(layer: Layer, centre: str, weights: Array) -> _LayerRows:
    curves = centred_curves(layer, centre, weights, summed=False)
    n_pairs = curves.pairs.sum(0)
    return _LayerRows(
        curves.value,
        bootstrap_error(curves),
        curves.both,
        n_pairs,
        curves.occupied.sum(0),
        int(n_pairs[0]),
    )
