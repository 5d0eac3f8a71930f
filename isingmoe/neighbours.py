"""Experts that tokens at a distance share, and what chance gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe import _provenance
from isingmoe._kernels import overlaps
from isingmoe._schema import alike
from isingmoe._text import about, number
from isingmoe.traces import Track, each_layer, pack_layer, trace_name

__all__ = [
    "chance_overlap",
    "near_distances",
    "neighbour_overlap",
    "overlap_columns",
    "ratio",
]

Array = NDArray[np.floating]


def neighbour_overlap(
    traces: xr.Dataset,
    *,
    distances: Iterable[int] = (1,),
    n_shuffles: int = 20,
    seed: int = 0,
    track: Track | None = None,
) -> xr.Dataset:
    """Share of experts that tokens at a distance have in common, and what chance gives.

    Parameters
    ----------
    traces : Dataset
    distances : iterable of int
    n_shuffles : int
        Random orders of the tokens inside each sequence, for the spread of the baseline.
    seed : int
    track : callable, optional
        Wraps the iteration over layers, for a progress bar.

    Returns
    -------
    Dataset
        Per layer and distance: `overlap`, the mean number of common experts over k;
        `overlap_shuffled`, its exact expectation with the recorded tokens of each sequence
        in random order, gaps where they were; `overlap_spread` over the shuffles and
        `overlap_z`; for ranked traces `repeat`, the probability that the primary expert is
        the same, with `repeat_shuffled`, `repeat_spread` and `repeat_z`.

    Raises
    ------
    ValueError
        If no sequence is longer than the largest distance, or there are fewer than two
        shuffles.
    TraceSchemaError
        If the Dataset is not a trace.
    """
    traces = alike(traces)
    distance = np.array(sorted(distances), np.int64)
    longest = int(traces["length"].max())
    if not distance.size or distance[0] < 1 or distance[-1] >= longest:
        raise ValueError(
            f"{trace_name(traces)}: distances: expected 1 to {longest - 1} in sequences of at most "
            f"{longest} tokens, got {distance.tolist()}"
        )
    if n_shuffles < 2:
        raise ValueError(f"n_shuffles: expected at least 2 for a spread, got {n_shuffles}")
    rng = np.random.default_rng(seed)
    keys = [rng.random(traces["expert_index"].shape[1:3]) for _ in range(n_shuffles)]
    kinds = {"overlap": False}
    if traces.attrs["ranked"] or traces.attrs["top_k"] == 1:
        kinds["repeat"] = True
    n_experts, k = int(traces.attrs["num_experts"]), int(traces.attrs["top_k"])
    parts = ("", "_shuffled", "_spread", "_z")
    rows: dict[str, list[Array]] = {kind + part: [] for kind in kinds for part in parts}
    for layer in each_layer(traces, track):
        for kind, primary in kinds.items():
            sets = pack_layer(traces, layer, primary=primary)
            share = 1 if primary else k
            measured, expected = _overlap_and_chance(sets, n_experts, distance)
            recorded = np.asarray(sets.any(1))
            shuffled = [_mean_overlap(shuffled_sets(sets, recorded, key), distance) for key in keys]
            spread = np.std(shuffled, axis=0, ddof=1)
            # Where every order gives the same overlap there is nothing to be unlikely.
            z = np.where(spread > 0, (measured - expected) / np.maximum(spread, 1e-300), 0.0)
            for part, value in zip(
                parts, (measured / share, expected / share, spread / share, z), strict=True
            ):
                rows[kind + part].append(value)
    meaning = {
        "overlap": "share of experts two tokens have in common",
        "repeat": "probability that two tokens have the same primary expert",
        "_shuffled": ", expected with the tokens of each sequence in random order",
        "_spread": ", spread over random orders",
        "_z": ", excess over random order in units of its spread",
    }
    return xr.Dataset(
        {
            kind + part: (
                ("layer", "distance"),
                np.array(rows[kind + part]),
                about(meaning[kind] + meaning.get(part, "")),
            )
            for kind in kinds
            for part in parts
        },
        coords={
            "layer": traces["layer"],
            "distance": ("distance", distance, about("distance", "token")),
        },
        attrs={
            "provenance": _provenance.record(
                "neighbour_overlap",
                {"distances": distance.tolist(), "n_shuffles": n_shuffles},
                inputs=_provenance.describe(traces),
                seed=seed,
            )
        },
    )


def near_distances(traces: xr.Dataset) -> list[int]:
    """Distances 1, 2, 4, 8, 16, as far as the longest sequence has them.

    Raises
    ------
    ValueError
        If no sequence has two tokens.
    """
    longest = int(traces["length"].max())
    if longest < 2:
        raise ValueError(
            f"{trace_name(traces)}: length: expected a sequence of at least two tokens, "
            f"got {longest}; a chain needs longer sequences"
        )
    return [d for d in (1, 2, 4, 8, 16) if d < longest]


def overlap_columns(
    data: xr.Dataset, dim: str = "distance"
) -> tuple[dict[str, Sequence[Any]], str]:
    """Columns of a table of what `neighbour_overlap` measured, and a note below it.

    Parameters
    ----------
    data : Dataset
    dim : str
        Name of the dimension of distances.
    """
    nearest = data.isel({dim: 0})
    columns: dict[str, Sequence[Any]] = {"layer": data["layer"].values.tolist()}
    for kind, name, z in (("overlap", "overlap", "z"), ("repeat", "primary repeats", "z ")):
        if kind not in data:
            continue
        chance = zip(
            nearest[f"{kind}_shuffled"].values, nearest[f"{kind}_spread"].values, strict=True
        )
        columns |= {
            name: [number(v, 4) for v in nearest[kind].values],
            "shuffled" + (" " if kind == "repeat" else ""): [
                f"{number(v, 4)} ({number(e, 4)})" for v, e in chance
            ],
            z: [f"{v:+.1f}" for v in nearest[f"{kind}_z"].values],
        }
    excess = (data["overlap"] - data["overlap_shuffled"]).transpose("layer", dim)
    columns[f"excess overlap at d = {', '.join(map(str, data[dim].values))}"] = [
        " ".join(f"{v:+.4f}" for v in row) for row in excess.values
    ]
    note = (
        f"At d = {data[dim].values[0]}. overlap: share of experts that two tokens have in common; "
        "shuffled: expected with the tokens of each text in random order (spread)."
    )
    return columns, note


def shuffled_sets(
    sets: NDArray[np.uint64], recorded: NDArray[np.bool_], key: Array
) -> NDArray[np.uint64]:
    """Recorded tokens of each sequence in the order of their keys; gaps stay where they are.

    Parameters
    ----------
    sets : uint64 ndarray (sequence, word, position)
    recorded : bool ndarray (sequence, position)
    key : ndarray (sequence, position)
        Between 0 and 1.
    """
    order = np.argsort(np.where(recorded, key, 2.0), axis=1)
    place = np.argsort(~recorded, axis=1, kind="stable")
    result = np.empty_like(sets)
    moved = np.take_along_axis(sets, order[:, None], 2)
    np.put_along_axis(result, place[:, None], moved, 2)
    return result


def _mean_overlap(sets: NDArray[np.uint64], distance: NDArray[np.int64]) -> Array:
    pairs, shared = overlaps.pair_overlaps(sets, distance)
    return shared.sum(0) / np.maximum(pairs.sum(0), 1)


def _overlap_and_chance(
    sets: NDArray[np.uint64], n_experts: int, distance: NDArray[np.int64]
) -> tuple[Array, Array]:
    pairs, shared = overlaps.pair_overlaps(sets, distance)
    tokens, occupied = overlaps.occupancy_counts(sets, n_experts)
    n = np.maximum(pairs.sum(0), 1)
    by_chance = pairs * chance_overlap(tokens, occupied)[:, None]
    return shared.sum(0) / n, by_chance.sum(0) / n


def chance_overlap(tokens: NDArray[np.int64], occupied: NDArray[np.int64]) -> Array:
    """Mean overlap of two different tokens of each sequence, in whatever order they stand."""
    return (occupied * (occupied - 1)).sum(1) / np.maximum(tokens * (tokens - 1), 1)


def ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Array:
    """Quotient, NaN where there is no pair."""
    nothing = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=nothing, where=denominator > 1e-9)
