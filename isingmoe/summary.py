"""What a trace holds, on one screen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from isingmoe import _provenance
from isingmoe._schema import alike, per_layer, validate_structure
from isingmoe._text import about, number, plain, render, report
from isingmoe.equilibrium import load_balance
from isingmoe.neighbours import near_distances, neighbour_overlap, overlap_columns
from isingmoe.traces import Track, trace_name

__all__ = ["TraceInfo", "info"]


@dataclass(frozen=True)
class TraceInfo:
    """Shapes of a trace, and its load and overlaps per layer.

    Attributes
    ----------
    data : Dataset
        What `load_balance` and `neighbour_overlap` measure, and `missing_fraction`
        (layer), the share of tokens inside the sequences without a recorded expert;
        `num_experts` and `top_k` (layer) where layers differ.
    """

    data: xr.Dataset

    def __str__(self) -> str:
        data, a = self.data, self.data.attrs
        order = "ranked by weight" if a["ranked"] else "in no order: no primary expert"
        facts = [
            f"{plain(a['name'])}: {plain(a['model'])}",
            f"{data.sizes['layer']} layers, {_span(data, 'num_experts')} experts, "
            f"top-{_span(data, 'top_k')}, "
            f"{order}; variables {plain(a['variables'])}",
            f"{a['n_sequences']} sequences of {a['shortest']} to {a['longest']} tokens, "
            f"{a['n_tokens']} tokens",
        ]
        facts += [
            f"{key}: {plain(a[key], 130)}" for key in ("router", "text", "source") if key in a
        ]
        columns, note = overlap_columns(data)
        columns |= {
            name: data[variable].values.tolist()
            for name, variable in (("E", "num_experts"), ("k", "top_k"))
            if variable in data
        }
        entropy = data["load_entropy"].values / np.log(per_layer(data, "num_experts"))
        columns |= {
            "H / ln E": [number(v, 4) for v in entropy],
            "missing": [f"{100 * v:.2f} %" for v in data["missing_fraction"].values],
        }
        notes = [note, "H: entropy of the load over all ranks, bias corrected."]
        return render(*report("\n".join(facts), columns, notes))


def info(
    traces: xr.Dataset,
    *,
    n_shuffles: int = 20,
    seed: int = 0,
    track: Track | None = None,
) -> TraceInfo:
    """Sum up a trace.

    Parameters
    ----------
    traces : Dataset
    n_shuffles : int
        Random orders of the tokens of each sequence, for the spread of the baseline.
    seed : int
    track : callable, optional
        Wraps the iteration over layers, for a progress bar.

    Returns
    -------
    TraceInfo

    Raises
    ------
    TraceSchemaError
        If the Dataset is not a trace.
    ValueError
        If no sequence has two tokens.
    """
    validate_structure(traces)
    distances = near_distances(traces)
    parts = [
        xr.merge(
            [
                load_balance(group),
                neighbour_overlap(
                    group, distances=distances, n_shuffles=n_shuffles, seed=seed, track=track
                ),
            ],
            combine_attrs="override",
        )
        for group in _agreeing(traces)
    ]
    data = parts[0]
    if len(parts) > 1:
        data = xr.concat(parts, "layer", join="outer", combine_attrs="override")
        data = data.sel(layer=traces["layer"])
    data = data.assign({n: traces[n] for n in ("num_experts", "top_k") if n in traces})
    length = traces["length"].values
    inside = np.arange(traces.sizes["position"]) < length[:, None]
    absent = (traces["expert_index"] < 0).all("rank").values & inside
    data["missing_fraction"] = (
        "layer",
        absent.sum((1, 2)) / max(inside.sum(), 1),
        about("share of tokens without a recorded expert"),
    )
    attrs: dict[str, Any] = {
        **{k: v for k, v in traces.attrs.items() if k not in ("conventions", "provenance")},
        "name": trace_name(traces),
        "variables": ", ".join(map(str, traces.data_vars)),
        "n_sequences": traces.sizes["sequence"],
        "n_tokens": int(length.sum()),
        "shortest": int(length.min()),
        "longest": int(length.max()),
    }
    attrs["provenance"] = _provenance.record(
        "info", {"n_shuffles": n_shuffles}, inputs=_provenance.describe(traces), seed=seed
    )
    data.attrs = attrs
    return TraceInfo(data)


def _agreeing(traces: xr.Dataset) -> list[xr.Dataset]:
    """Layers of the same numbers of experts together, each in the order of the trace."""
    sizes = [*zip(*(per_layer(traces, n).tolist() for n in ("num_experts", "top_k")), strict=True)]
    places = {size: [i for i, other in enumerate(sizes) if other == size] for size in sizes}
    return [alike(traces.isel(layer=of_size)) for of_size in places.values()]


def _span(data: xr.Dataset, name: str) -> str:
    """A number of all layers, or the smallest and the largest."""
    values = per_layer(data, name)
    low, high = values.min(), values.max()
    return str(high) if low == high else f"{low} to {high}"
