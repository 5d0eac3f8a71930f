"""The trace schema, declared once: it serves validation, writing and the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._kernels import checking
from isingmoe.errors import TraceSchemaError

__all__ = [
    "ATTRIBUTES",
    "CONVENTIONS",
    "VARIABLES",
    "Attribute",
    "Variable",
    "alike",
    "per_layer",
    "trace_name",
    "validate",
    "validate_structure",
]

CONVENTIONS = "isingmoe-traces-1"


@dataclass(frozen=True)
class Variable:
    """A variable or coordinate of a trace."""

    name: str
    dims: tuple[str, ...]
    dtypes: tuple[str, ...]
    required: bool
    long_name: str
    units: str = "1"


@dataclass(frozen=True)
class Attribute:
    """An attribute of a trace."""

    name: str
    kind: type
    required: bool
    meaning: str


_MAX_EXPERTS = int(np.iinfo(np.int16).max) + 1
_TOKEN_DIMS = ("layer", "sequence", "position")

VARIABLES = (
    Variable("layer", ("layer",), ("int16", "int32", "int64"), True, "the model's layer number"),
    Variable(
        "expert_index",
        (*_TOKEN_DIMS, "rank"),
        ("int16",),
        True,
        "experts the token was routed to; -1 past the end and where none was recorded",
    ),
    Variable("length", ("sequence",), ("int32",), True, "tokens in the sequence", "token"),
    Variable(
        "gate_weight",
        (*_TOKEN_DIMS, "rank"),
        ("float32",),
        False,
        "weight given to the expert by the router",
    ),
    Variable(
        "router_logit",
        (*_TOKEN_DIMS, "expert"),
        ("float16", "float32"),
        False,
        "router logit of every expert",
    ),
    Variable("token_id", ("sequence", "position"), ("int32",), False, "token id; -1 past the end"),
    Variable(
        "start_position",
        ("sequence",),
        ("int32",),
        False,
        "absolute position of the first recorded token; 0 if absent",
        "token",
    ),
    Variable(
        "num_experts",
        ("layer",),
        ("int32",),
        False,
        "number of routed experts of the layer, where layers differ",
    ),
    Variable(
        "top_k",
        ("layer",),
        ("int32",),
        False,
        "experts per token of the layer, where layers differ; -1 in the ranks past it",
    ),
)

_OF_LAYERS = ("num_experts", "top_k")

ATTRIBUTES = (
    Attribute("conventions", str, True, f"'{CONVENTIONS}'"),
    Attribute("model", str, True, "name of the model"),
    Attribute("num_experts", int, True, "number of routed experts, E; the largest of the layers"),
    Attribute("top_k", int, True, "experts per token, k; the largest of the layers"),
    Attribute("ranked", int, True, "1: rank 0 has the largest weight; 0: the order means nothing"),
    Attribute("router", str, False, "the selection rule"),
    Attribute("text", str, False, "what the model read or wrote"),
    Attribute("source", str, False, "where the trace comes from"),
    Attribute("licence", str, False, "of the trace and its text"),
    Attribute("provenance", str, False, "what made the file, as JSON"),
)


def validate(traces: xr.Dataset, where: str | None = None) -> xr.Dataset:
    """Check that a Dataset is a trace.

    Parameters
    ----------
    traces : Dataset
    where : str, optional
        What to call it in the error; the file it came from by default.

    Returns
    -------
    Dataset
        The same Dataset.

    Raises
    ------
    TraceSchemaError
        With every fault found: the variable, the dims or dtype expected and got, and the
        first offending index.
    """
    validate_structure(traces, where)
    # The values can be read only where the shapes are right.
    faults = list(_value_faults(traces))
    if faults:
        raise TraceSchemaError(where or trace_name(traces), faults)
    return traces


def validate_structure(traces: xr.Dataset, where: str | None = None) -> None:
    """Check the attributes, dims, dtypes and lengths of a trace, but not its other values.

    Raises
    ------
    TraceSchemaError
        With every fault found.
    """
    faults = [*_attribute_faults(traces), *_variable_faults(traces)]
    faults = faults or [*_length_faults(traces), *_layer_faults(traces)]
    if faults:
        raise TraceSchemaError(where or trace_name(traces), faults)


def per_layer(traces: xr.Dataset, name: str) -> NDArray[np.int64]:
    """`num_experts` or `top_k` of each layer, int64 (layer,)."""
    if name in traces.variables:
        return traces[name].values.astype(np.int64)
    return np.full(traces.sizes["layer"], int(traces.attrs[name]), np.int64)


def alike(traces: xr.Dataset) -> xr.Dataset:
    """Traces of layers that agree in E and k, the attributes and ranks trimmed to theirs.

    Parameters
    ----------
    traces : Dataset

    Returns
    -------
    Dataset
        The same one, where no variable says that layers differ.

    Raises
    ------
    TraceSchemaError
        If the Dataset is not a trace, as `validate_structure` finds it.
    ValueError
        If the layers differ.
    """
    validate_structure(traces)
    told = [name for name in _OF_LAYERS if name in traces.variables]
    for name in told:
        values, layers = traces[name].values, traces["layer"].values
        if (values != values[0]).any():
            groups = [f"{v} in {_few(layers[values == v])}" for v in np.unique(values)]
            raise ValueError(
                f"{trace_name(traces)}: {name}: expected the same in all layers, got "
                f"{', '.join(groups)}; choose layers that agree, with --layer "
                f"(traces.sel(layer=[{layers[0]}]))"
            )
    if not told:
        return traces
    own = {name: int(per_layer(traces, name)[0]) for name in _OF_LAYERS}
    sizes = {"rank": own["top_k"], "expert": own["num_experts"]}
    kept = traces.drop_vars(told)
    return kept.isel({d: slice(n) for d, n in sizes.items() if d in kept.dims}).assign_attrs(own)


def _few(layers: NDArray[np.integer]) -> str:
    shown = ", ".join(map(str, layers[:4]))
    return f"layer {shown}" + (f" and {len(layers) - 4} more" if len(layers) > 4 else "")


def trace_name(traces: xr.Dataset) -> str:
    """The file that traces came from, to name it in a message."""
    return str(traces.encoding.get("source", "traces"))


def _attribute_faults(traces: xr.Dataset) -> Iterator[str]:
    for attribute in ATTRIBUTES:
        if attribute.name not in traces.attrs:
            if attribute.required:
                yield f"attribute {attribute.name}: missing; expected {attribute.meaning}"
            continue
        value = traces.attrs[attribute.name]
        kinds = (int, np.integer) if attribute.kind is int else (str,)
        if not isinstance(value, kinds) or isinstance(value, bool | np.bool_):
            yield (
                f"attribute {attribute.name}: expected {attribute.kind.__name__}, "
                f"got {type(value).__name__}"
            )
        elif attribute.name == "conventions" and value != CONVENTIONS:
            yield f"attribute conventions: expected {CONVENTIONS!r}, got {str(value)[:60]!r}"
        elif attribute.name == "ranked" and value not in (0, 1):
            yield f"attribute ranked: expected 0 or 1, got {value}"
        elif attribute.name in ("num_experts", "top_k") and int(value) < 1:
            yield f"attribute {attribute.name}: expected at least 1, got {value}"
        elif attribute.name == "num_experts" and int(value) > _MAX_EXPERTS:
            yield (
                f"attribute num_experts: expected at most {_MAX_EXPERTS}, what int16 ids can "
                f"name, got {value}"
            )


def _variable_faults(traces: xr.Dataset) -> Iterator[str]:
    for variable in VARIABLES:
        if variable.name not in traces.variables:
            if variable.required:
                yield f"{variable.name}: missing; expected dims {_listed(variable.dims)}"
            continue
        found = traces[variable.name]
        if found.dims != variable.dims:
            yield (
                f"{variable.name}: expected dims {_listed(variable.dims)}, "
                f"got {_listed(found.dims)}; {_dims_remedy(variable, found.dims)}"
            )
        if found.dtype.name not in variable.dtypes:
            yield (
                f"{variable.name}: expected dtype {' or '.join(variable.dtypes)}, "
                f"got {found.dtype.name}; convert it with astype"
            )
    for dim in ("layer", "sequence", "position", "rank"):
        if traces.sizes.get(dim) == 0:
            yield f"dimension {dim}: expected at least 1, got 0; the trace is empty"
    ranks, top_k = traces.sizes.get("rank"), traces.attrs.get("top_k")
    if ranks is not None and isinstance(top_k, int | np.integer) and ranks != top_k:
        yield (
            f"attribute top_k: expected {ranks}, the size of dimension rank of expert_index, "
            f"got {top_k}"
        )
    experts, num_experts = traces.sizes.get("expert"), traces.attrs.get("num_experts")
    known = isinstance(num_experts, int | np.integer)
    if known and experts is not None and "router_logit" in traces and experts != num_experts:
        yield f"router_logit: expected {num_experts} experts, got {experts}"


def _length_faults(traces: xr.Dataset) -> Iterator[str]:
    length = traces["length"].values
    n_positions = traces.sizes["position"]
    bad = np.flatnonzero((length < 0) | (length > n_positions))
    if bad.size:
        yield (
            f"length: expected 0 to {n_positions}, the size of dimension position, "
            f"got {length[bad[0]]} at sequence {bad[0]}; correct it or pad the positions"
        )


def _layer_faults(traces: xr.Dataset) -> Iterator[str]:
    for name in _OF_LAYERS:
        if name not in traces.variables:
            continue
        values, most = traces[name].values, int(traces.attrs[name])
        bad = np.flatnonzero((values < 1) | (values > most))
        if bad.size:
            yield (
                f"{name}: expected 1 to {most}, the attribute {name}, got {values[bad[0]]} at "
                f"layer {bad[0]}; correct the one or the other"
            )


def _dims_remedy(variable: Variable, found: tuple[object, ...]) -> str:
    if found == tuple(dim for dim in variable.dims if dim != "layer"):
        return "select layers with a list, as traces.sel(layer=[7])"
    return "transpose or rename them"


def _value_faults(traces: xr.Dataset) -> Iterator[str]:
    layers = traces["layer"].values
    if len(np.unique(layers)) < len(layers):
        yield f"layer: expected different numbers, got {layers.tolist()}"
    yield from _id_faults(traces, traces["length"].values)
    if "gate_weight" in traces:
        yield from _weight_faults(traces)


def _id_faults(traces: xr.Dataset, length: np.ndarray) -> Iterator[str]:
    num_experts, top_k = (per_layer(traces, name) for name in _OF_LAYERS)
    index, dims = traces["expert_index"].values, traces["expert_index"].dims
    explained = {
        checking.OUT_OF_RANGE: "expected ids below num_experts = {experts}, got {id}",
        checking.BELOW_MINUS_ONE: "expected ids from 0 up, or -1 for none, got {id}",
        checking.PAST_THE_END: "expected -1 past the sequence's length, got {id}",
        checking.DUPLICATE: "expected different experts for one token, got {id} twice",
        checking.PAST_THE_RANK: "expected -1 past top_k = {ranks} of the layer, got {id}",
    }
    remedy = {
        checking.OUT_OF_RANGE: "; correct num_experts or the ids",
        checking.DUPLICATE: "; keep one, and -1 for the other",
    }
    for fault, place in enumerate(checking.find_id_faults(index, length, num_experts, top_k)):
        layer = place[0]
        if layer >= 0:
            text = explained[fault].format(
                id=index[tuple(place)], experts=num_experts[layer], ranks=top_k[layer]
            )
            where = f"first at index {_listed_index(dims, place)}"
            yield f"expert_index: {text}, {where}{remedy.get(fault, '')}"


def _weight_faults(traces: xr.Dataset) -> Iterator[str]:
    weight = traces["gate_weight"].values
    used = traces["expert_index"].values >= 0
    bad = used & ~np.isfinite(weight)
    dims = traces["gate_weight"].dims
    if bad.any():
        first = np.unravel_index(int(bad.argmax()), bad.shape)
        yield (
            f"gate_weight: expected finite weights, got {weight[first]} in {int(bad.sum())} "
            f"places, first at index {_listed_index(dims, first)}; drop the variable, or capture "
            "again"
        )
    elif traces.attrs["ranked"]:
        rising = (weight[..., 1:] > weight[..., :-1]) & used[..., 1:] & used[..., :-1]
        if rising.any():
            first = np.unravel_index(int(rising.argmax()), rising.shape)
            yield (
                "gate_weight: expected falling weights along rank where ranked = 1, got a rise "
                f"after index {_listed_index(dims, first)}; set ranked to 0 or sort the ranks"
            )


def _listed(dims: tuple[object, ...]) -> str:
    return f"({', '.join(map(str, dims))})"


def _listed_index(dims: Iterable[object], place: Iterable[object]) -> str:
    return ", ".join(f"{dim} {i}" for dim, i in zip(dims, place, strict=True))
