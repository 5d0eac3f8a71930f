"""Traces made from traces: windows, and baselines with some structure destroyed."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe import _provenance
from isingmoe._schema import VARIABLES, per_layer
from isingmoe._text import about

__all__ = ["BASELINES", "baseline", "windows"]

BASELINES = ("random", "shuffled", "position-shuffled")


def windows(traces: xr.Dataset, length: int, *, stride: int | None = None) -> xr.Dataset:
    """Cut sequences into windows of equal length.

    Parameters
    ----------
    traces : Dataset
    length : int
        Tokens in a window. What is left at the end of a sequence is dropped.
    stride : int, optional
        Tokens from one window to the next; `length` by default, so that none overlap.

    Returns
    -------
    Dataset
        Traces whose sequences are the windows, with `start_position`, and `window_of`
        (sequence), the index of the sequence each was cut from.

    Raises
    ------
    ValueError
        If no sequence is long enough.
    """
    stride = length if stride is None else stride
    if length < 1 or stride < 1:
        raise ValueError(f"length, stride: expected at least 1, got {length} and {stride}")
    starts = [np.arange(0, n - length + 1, stride) for n in traces["length"].values]
    origin = np.repeat(np.arange(len(starts)), [len(s) for s in starts])
    start = np.concatenate(starts)
    if not start.size:
        longest = int(traces["length"].max())
        raise ValueError(f"length: expected at most {longest}, the longest sequence, got {length}")
    position = start[:, None] + np.arange(length)
    cut = _gather(traces, origin[:, None], position, owner=origin)
    first = traces["start_position"].values[origin] if "start_position" in traces else 0
    cut["length"] = ("sequence", np.full(len(start), length, np.int32), traces["length"].attrs)
    declared = next(v for v in VARIABLES if v.name == "start_position")
    cut["start_position"] = (
        "sequence",
        (first + start).astype(np.int32),
        about(declared.long_name, declared.units),
    )
    owner = about("index of the sequence it was cut from")
    provenance = _provenance.record(
        "windows", {"length": length, "stride": stride}, inputs=_provenance.describe(traces)
    )
    return cut.assign(window_of=("sequence", origin, owner)).assign_attrs(provenance=provenance)


def baseline(traces: xr.Dataset, kind: str, *, seed: int = 0) -> xr.Dataset:
    """Traces with some of their structure destroyed.

    Parameters
    ----------
    traces : Dataset
    kind : {"random", "shuffled", "position-shuffled"}
        random: every token gets k experts of a uniform router. shuffled: the tokens of
        each sequence in random order, so that the load of every sequence stays and the
        order goes. position-shuffled: the tokens at each position of the sequences
        (counted from their first recorded token) exchanged between them, so that the rates
        over position stay and the neighbours go.
    seed : int

    Returns
    -------
    Dataset
        Traces of the same shape. A token keeps its experts in all layers together.

    Raises
    ------
    ValueError
        If the kind is unknown.
    """
    rng = np.random.default_rng(seed)
    inside = np.arange(traces.sizes["position"]) < traces["length"].values[:, None]
    if kind == "random":
        result = _random_router(traces, rng)
    elif kind == "shuffled":
        result = _gather(traces, np.arange(len(inside))[:, None], _within_sequences(inside, rng))
    elif kind == "position-shuffled":
        result = _gather(traces, _across_sequences(inside, rng), np.arange(inside.shape[1]))
    else:
        raise ValueError(f"kind: expected one of {', '.join(BASELINES)}, got {kind!r}")
    provenance = _provenance.record(
        "baseline", {"kind": kind}, inputs=_provenance.describe(traces), seed=seed
    )
    result = result.assign_attrs(provenance=provenance)
    # What it was made from is in the provenance; it is no longer that file.
    result.encoding = {}
    return result


def _within_sequences(inside: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """A random order of the positions of each sequence; those past its end stay."""
    keys = np.where(inside, rng.random(inside.shape), 1.0 + np.arange(inside.shape[1]))
    return np.argsort(keys, axis=1)


def _across_sequences(inside: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    origin = np.repeat(np.arange(inside.shape[0])[:, None], inside.shape[1], axis=1)
    for position in range(inside.shape[1]):
        present = np.flatnonzero(inside[:, position])
        origin[present, position] = rng.permutation(present)
    return origin


def _random_router(traces: xr.Dataset, rng: np.random.Generator) -> xr.Dataset:
    index = traces["expert_index"]
    sizes = (per_layer(traces, name).tolist() for name in ("num_experts", "top_k"))
    drawn = np.full_like(index.values, -1)
    for layer, (n_experts, k) in enumerate(zip(*sizes, strict=True)):
        keys = rng.random((*index.shape[1:3], n_experts), dtype=np.float32)
        best = np.argpartition(keys, k - 1, axis=-1)[..., :k]
        drawn[layer, ..., :k] = rng.permuted(best, axis=-1)
    drawn[index.values < 0] = -1
    kept = [name for name, variable in traces.data_vars.items() if variable.dims == ("layer",)]
    kept += [name for name in ("length", "token_id", "start_position") if name in traces]
    return traces[kept].assign(expert_index=index.copy(data=drawn))


def _gather(traces: xr.Dataset, sequence: Any, position: Any, owner: Any = None) -> xr.Dataset:
    """Tokens taken from the given sequences and positions, arrays (sequence, position).

    What belongs to a whole sequence comes from the sequences `owner`, the same ones by default.
    """
    sequence, position = np.broadcast_arrays(sequence, position)
    owner = slice(None) if owner is None else owner
    variables = {}
    for name, variable in traces.data_vars.items():
        dims = variable.dims
        if dims[:3] == ("layer", "sequence", "position"):
            variables[name] = (dims, variable.values[:, sequence, position], variable.attrs)
        elif dims[:2] == ("sequence", "position"):
            variables[name] = (dims, variable.values[sequence, position], variable.attrs)
        elif dims == ("sequence",):
            variables[name] = (dims, variable.values[owner].copy(), variable.attrs)
        elif dims == ("layer",):
            variables[name] = variable
    return xr.Dataset(variables, coords={"layer": traces["layer"]}, attrs=traces.attrs)
