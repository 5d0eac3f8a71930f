"""Router traces: opening, saving, and the states that each chain needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from importlib import resources
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe import _provenance
from isingmoe._kernels import overlaps
from isingmoe._schema import CONVENTIONS, VARIABLES, trace_name, validate
from isingmoe._storage import read_dataset, write_dataset
from isingmoe._text import about

__all__ = [
    "Track",
    "check_ids",
    "each_layer",
    "example_traces",
    "expert_set",
    "idle_experts",
    "occupancy",
    "open_traces",
    "pack_layer",
    "primary_expert",
    "save_traces",
    "select_layers",
    "trace_name",
    "traces_from_arrays",
    "validate",
]

Track = Callable[[Iterable[int]], Iterable[int]]


def open_traces(path: str | os.PathLike[str], *, logits: bool = False) -> xr.Dataset:
    """Read router traces and check them.

    Parameters
    ----------
    path : path
        `traces.nc` (NetCDF-4) or `traces.zarr`.
    logits : bool
        Whether to load `router_logit` too, the one variable that can be far larger than
        all others together.

    Returns
    -------
    Dataset
        In memory; docs/traces.md lists the variables.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, ValueError
        If the file cannot be read.
    TraceSchemaError
        If it is not a trace; with everything that is wrong.
    """
    drop = () if logits else ("router_logit",)
    return validate(read_dataset(path, drop), str(path))


def save_traces(
    traces: xr.Dataset, path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Check traces and write them, compressed, one layer to a chunk.

    Parameters
    ----------
    traces : Dataset
    path : path
        NetCDF-4, or Zarr where the name ends in `.zarr`.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    TraceSchemaError
        If the Dataset is not a trace.
    OSError
        If the file exists or cannot be written.
    """
    write_dataset(validate(traces), path, overwrite=overwrite)


def example_traces() -> xr.Dataset:
    """Router traces of a small OLMoE-architecture model on unseen public-domain speeches.

    Returns
    -------
    Dataset
        4 layers, 16 experts, top-2; what it is stands in its attributes, how it was made in
        fits/example_model.
    """
    file = resources.files("isingmoe") / "data" / "example_traces.nc"
    with resources.as_file(file) as path:
        return open_traces(path)


def traces_from_arrays(
    expert_index: Any,
    *,
    num_experts: Any,
    length: Any = None,
    layer: Any = None,
    ranked: bool = True,
    model: str = "unnamed",
    **variables: Any,
) -> xr.Dataset:
    """Make traces of plain arrays.

    Parameters
    ----------
    expert_index : array_like of int (layer, sequence, position, rank)
        Expert ids, -1 where there is none.
    num_experts : int, or array_like of int (layer,)
        Number of routed experts, E; where layers differ, of each.
    length : array_like of int (sequence,), optional
        Tokens in each sequence; all positions by default.
    layer : array_like of int (layer,), optional
        The model's layer numbers; 0, 1, .. by default.
    ranked : bool
        Whether rank 0 has the largest weight.
    model : str
    **variables : array_like
        Other variables of the schema by name, such as `gate_weight` and `token_id`, and
        `top_k` (layer,) where layers differ.

    Returns
    -------
    Dataset

    Raises
    ------
    TraceSchemaError
        If the result is not a trace.
    TypeError
        If a variable is not in the schema.
    """
    index = np.asarray(expert_index)
    if index.ndim != 4:
        raise ValueError(
            f"expert_index: expected 4 dims (layer, sequence, position, rank), got {index.ndim}"
        )
    given = {
        "expert_index": index,
        "length": np.full(index.shape[1], index.shape[2]) if length is None else length,
        "layer": np.arange(index.shape[0]) if layer is None else layer,
        **variables,
    }
    declared = {variable.name: variable for variable in VARIABLES}
    experts = np.asarray(num_experts)
    if experts.ndim:
        given["num_experts"] = experts
    data = {}
    for name, values in given.items():
        if name not in declared:
            raise TypeError(f"{name}: expected one of {', '.join(declared)}")
        variable = declared[name]
        array = np.asarray(values)
        if array.dtype.name not in variable.dtypes and array.dtype.kind == "i":
            array = _as_declared(name, array, variable.dtypes[0])
        attributes = about(variable.long_name, variable.units)
        data[name] = (variable.dims, array, attributes)
    attrs = {
        "conventions": CONVENTIONS,
        "model": model,
        "num_experts": int(experts.max()),
        "top_k": int(index.shape[3]),
        "ranked": int(ranked),
        "provenance": _provenance.record("traces_from_arrays", {"variables": sorted(given)}),
    }
    coords = {"layer": data.pop("layer")}
    return validate(xr.Dataset(data, coords=coords, attrs=attrs))


def _as_declared(name: str, array: NDArray[Any], dtype: str) -> NDArray[Any]:
    converted = array.astype(dtype)
    wrapped = converted != array
    if wrapped.any():
        limits = np.iinfo(dtype)
        raise ValueError(
            f"{name}: expected {limits.min} to {limits.max}, what {dtype} holds, "
            f"got {array[wrapped][0]}"
        )
    return converted


def each_layer(traces: xr.Dataset, track: Track | None) -> Iterable[int]:
    """Places of the layers, with a progress bar if there is one to wrap them."""
    places = range(traces.sizes["layer"])
    return places if track is None else track(places)


def select_layers(traces: xr.Dataset, layer: list[int] | None) -> xr.Dataset:
    """The given layers, by the model's own numbers; all of them for None.

    Raises
    ------
    ValueError
        If a layer is not in the trace, naming those that are.
    """
    if not layer:
        return traces
    known = traces["layer"].values.tolist()
    unknown = [number for number in layer if number not in known]
    if unknown:
        raise ValueError(
            f"{trace_name(traces)}: layer: expected some of {_ranges(known)}, "
            f"got {_ranges(unknown)}"
        )
    if len(set(layer)) < len(layer):
        raise ValueError(
            f"{trace_name(traces)}: layer: expected different numbers, "
            f"got {', '.join(map(str, layer))}"
        )
    return traces.sel(layer=list(layer))


def _ranges(numbers: list[int]) -> str:
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}..{numbers[-1]}"
    return ", ".join(map(str, numbers))


def primary_expert(traces: xr.Dataset) -> xr.DataArray:
    """The expert of the largest weight, the state of a Potts chain.

    Parameters
    ----------
    traces : Dataset

    Returns
    -------
    DataArray of int16 (layer, sequence, position)
        -1 where there is none. A view, not a copy.

    Raises
    ------
    ValueError
        If the ranks are in no order.
    """
    if not traces.attrs["ranked"] and traces.attrs["top_k"] > 1:
        raise ValueError(
            f"{trace_name(traces)}: ranked: expected 1 for a primary expert, got 0 (the order of "
            "the ranks means nothing); use chain='ising'"
        )
    return traces["expert_index"].isel(rank=0)


def expert_set(traces: xr.Dataset) -> xr.DataArray:
    """The set of experts of each token, the state of a top-k chain.

    Parameters
    ----------
    traces : Dataset

    Returns
    -------
    DataArray of int16 (layer, sequence, position, rank)
        Ids in rising order, so that equal sets are equal rows; -1 where there is none.
    """
    index = traces["expert_index"]
    return index.copy(data=np.sort(index.values, axis=-1))


def check_ids(traces: xr.Dataset, place: int, index: NDArray[np.integer]) -> None:
    """Raise a ValueError where ids of a layer, by its place, are none of its experts."""
    n_experts = int(traces.attrs["num_experts"])
    if index.size and (index.max() >= n_experts or index.min() < -1):
        raise ValueError(
            f"{trace_name(traces)}: expert_index: expected ids of -1 to {n_experts - 1}, got "
            f"others in layer {int(traces['layer'][place])}; isingmoe.validate names the first"
        )


def pack_layer(
    traces: xr.Dataset,
    place: int,
    *,
    primary: bool,
    sequences: NDArray[np.int64] | slice | None = None,
) -> NDArray[np.uint64]:
    """Bit sets of a layer by its place: all experts of a token, or the primary one.

    Parameters
    ----------
    traces : Dataset
    place : int
    primary : bool
    sequences : int ndarray or slice, optional
        Those to pack; all of them by default.

    Returns
    -------
    uint64 ndarray (sequence, word, position)

    Raises
    ------
    ValueError
        If an id is out of range.
    """
    n_experts = int(traces.attrs["num_experts"])
    index = traces["expert_index"].values[place]
    if primary:
        index = primary_expert(traces).values[place][..., None]
    if sequences is not None:
        index = index[sequences]
    # One memory layout means one compiled kernel.
    packed = overlaps.pack_sets(np.ascontiguousarray(index), -(-n_experts // 64))
    sets, lowest, highest = packed
    if lowest < -1 or highest >= n_experts:
        raise ValueError(
            f"{trace_name(traces)}: expert_index: expected ids of -1 to {n_experts - 1}, got "
            f"{lowest if lowest < -1 else highest}; isingmoe.validate names the first"
        )
    return sets


def occupancy(traces: xr.Dataset) -> xr.DataArray:
    """Whether each expert serves each token, the states of E Ising chains.

    Parameters
    ----------
    traces : Dataset

    Returns
    -------
    DataArray of int8 (layer, sequence, position, expert)
        1 on, 0 off, -1 where the token has no recorded expert.
    """
    index = traces["expert_index"].values
    n_experts = int(traces.attrs["num_experts"])
    on = np.zeros((*index.shape[:3], n_experts + 1), np.int8)
    # The column past the last expert takes the missing ranks.
    np.put_along_axis(on, np.where(index < 0, n_experts, index).astype(np.int64), 1, -1)
    on = on[..., :n_experts]
    on[(index < 0).all(-1)] = -1
    return xr.DataArray(
        on,
        dims=("layer", "sequence", "position", "expert"),
        coords={"layer": traces["layer"]},
        attrs=about("occupancy of the expert"),
    )


def idle_experts(traces: xr.Dataset) -> list[tuple[str, str]]:
    """Experts of a layer that no token has, or every token.

    Returns
    -------
    list of tuple
        What is the matter, and with which experts of which layers; empty if with none.
    """
    n_experts = int(traces.attrs["num_experts"])
    found: dict[str, list[str]] = {
        "experts that are never chosen": [],
        "experts of every token": [],
    }
    for place, layer in enumerate(traces["layer"].values.tolist()):
        index = traces["expert_index"].values[place]
        whole = index[(index >= 0).all(-1)]
        served = np.bincount(whole.ravel(), minlength=n_experts)
        masks = (served == 0, served == len(whole))
        for names, mask in zip(found.values(), masks, strict=True):
            if mask.any():
                names.append(f"{_ranges(np.flatnonzero(mask).tolist())} in layer {layer}")
    return [(what, _few(names)) for what, names in found.items() if names]


def _few(names: list[str], most: int = 4) -> str:
    rest = len(names) - most
    return "; ".join(names[:most]) + (f"; and in {rest} more layers" if rest > 0 else "")
