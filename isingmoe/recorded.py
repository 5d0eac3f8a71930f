"""What was recorded of one sequence, and how many of them become traces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from isingmoe._schema import CONVENTIONS, VARIABLES, validate
from isingmoe._text import about

__all__ = ["Recording", "assemble", "expert_ids"]

_MOST = int(np.iinfo(np.int16).max) + 1
_DECLARED = {variable.name: variable for variable in VARIABLES}


@dataclass(frozen=True)
class Recording:
    """The experts of one sequence.

    Attributes
    ----------
    expert_index : int ndarray (token, layer, rank)
        -1 where there is none.
    gate_weight : float ndarray (token, layer, rank), optional
    router_logit : float ndarray (token, layer, expert), optional
        Kept in float16 where it is that, else in float32.
    token_id : int ndarray (token,), optional
    start_position : int
        Absolute position of the first token.
    """

    expert_index: NDArray[Any]
    gate_weight: NDArray[Any] | None = None
    router_logit: NDArray[Any] | None = None
    token_id: NDArray[Any] | None = None
    start_position: int = 0


def expert_ids(
    values: ArrayLike, *, num_experts: int, where: str, name: str = "expert_index"
) -> NDArray[np.int16]:
    """Ids of experts that can be: whole, of -1 to `num_experts` - 1, different for one token.

    Parameters
    ----------
    values : array_like of int (..., rank)
    num_experts : int
    where : str
        What to call the place in an error, as `FILE: line 7`.
    name : str
        What the place calls the ids.

    Returns
    -------
    int16 ndarray

    Raises
    ------
    ValueError
        In one line, with the first offending id.
    """
    if not 1 <= num_experts <= _MOST:
        raise ValueError(
            f"{where}: num_experts: expected 1 to {_MOST}, what int16 ids can name, got "
            f"{num_experts}"
        )
    try:
        ids = np.asarray(values)
    except ValueError:
        raise ValueError(
            f"{where}: {name}: expected as many entries in each row, got a ragged array; "
            "mend or drop it"
        ) from None
    if ids.dtype.kind not in "iu" and ids.size:
        raise ValueError(f"{where}: {name}: expected whole numbers, got {_example(ids)}; mend it")
    bad = (ids < -1) | (ids >= num_experts) if ids.size else np.zeros(ids.shape, bool)
    if bad.any():
        raise ValueError(
            f"{where}: {name}: expected ids of 0 to {num_experts - 1}, or -1 for none, got "
            f"{ids[bad][0]}; correct num_experts or the ids"
        )
    ids = ids.astype(np.int16)
    in_order = np.sort(ids, axis=-1)
    twice = np.asarray((in_order[..., 1:] == in_order[..., :-1]) & (in_order[..., 1:] >= 0))
    if twice.any():
        raise ValueError(
            f"{where}: {name}: expected different experts for one token, got "
            f"{in_order[..., 1:][twice][0]} twice; correct the ids"
        )
    return ids


def assemble(
    recordings: Iterable[Recording],
    *,
    layers: Sequence[int],
    num_experts: int | Sequence[int],
    ranked: bool,
    model: str,
    attributes: Mapping[str, str],
    where: str,
    top_k: int | Sequence[int] | None = None,
) -> xr.Dataset:
    """Make traces of recordings.

    Parameters
    ----------
    recordings : iterable of Recording
        In the order of the sequences; each is packed as it comes.
    layers : sequence of int
        The model's own layer numbers.
    num_experts : int, or sequence of int (layer,)
        Number of routed experts, E.
    ranked : bool
        Whether the order of the ranks is that of the weights. Where there are weights, the
        ranks are put into it.
    model : str
    attributes : mapping of str
        Others of the schema: `router`, `text`, `source`, `licence`, `provenance`, and more.
    where : str
        What to call the traces in an error: the file that they come from.
    top_k : int or sequence of int (layer,), optional
        Experts per token, k. By default, where some layer fills every rank, the ranks that
        each layer fills; else all of them.

    Returns
    -------
    Dataset
        Traces, short sequences padded with -1 (NaN for weights and logits). Where the
        layers differ, the variables `num_experts` and `top_k` say in what. `start_position`
        is there where one is not 0.

    Raises
    ------
    ValueError
        If the recordings do not fit each other or the layers, or there are none.
    TraceSchemaError
        If the result is not a trace.
    """
    n_layers = len(layers)
    packed = [
        _packed(recording, n_layers, ranked, f"{where}: sequence {place}")
        for place, recording in enumerate(recordings)
    ]
    if not packed:
        raise ValueError(f"{where}: expected sequences, got none; the trace would be empty")
    _check_alike(packed, where)
    length = np.array([len(r.expert_index) for r in packed])
    variables: dict[str, Any] = {"length": length.astype(np.int32)}
    for name, nothing in (("expert_index", -1), ("gate_weight", np.nan), ("router_logit", np.nan)):
        parts = [getattr(r, name) for r in packed]
        if parts[0] is not None:
            variables[name] = _padded(parts, length.max(), nothing)
    tokens = [r.token_id for r in packed if r.token_id is not None]
    if tokens:
        ids = np.full((len(packed), length.max()), -1, np.int32)
        for row, of_sequence in zip(ids, tokens, strict=True):
            row[: len(of_sequence)] = of_sequence
        variables["token_id"] = ids
    start = np.array([r.start_position for r in packed], np.int32)
    if start.any():
        variables["start_position"] = start
    index = variables["expert_index"]
    experts = _each_layer("num_experts", num_experts, n_layers, where)
    ranks = _ranks_of(index) if top_k is None else _each_layer("top_k", top_k, n_layers, where)
    for name, values in (("num_experts", experts), ("top_k", ranks)):
        if (values != values[0]).any():
            variables[name] = values.astype(np.int32)
    attrs = {
        "conventions": CONVENTIONS,
        "model": model,
        "num_experts": int(experts.max()),
        "top_k": int(ranks.max()),
        "ranked": int(ranked),
        **attributes,
    }
    data = {
        name: (_DECLARED[name].dims, values, _about(name)) for name, values in variables.items()
    }
    coords = {"layer": ("layer", np.asarray(layers, np.int64), _about("layer"))}
    return validate(xr.Dataset(data, coords=coords, attrs=attrs), where)


def _about(name: str) -> dict[str, str]:
    return about(_DECLARED[name].long_name, _DECLARED[name].units)


def _packed(recording: Recording, n_layers: int, ranked: bool, where: str) -> Recording:
    """A recording in the schema's dtypes, its ranks in the order of the weights."""
    index = np.asarray(recording.expert_index)
    if index.ndim != 3 or index.shape[1] != n_layers:
        raise ValueError(
            f"{where}: expert_index: expected shape (token, {n_layers} layers, rank), "
            f"got {index.shape}"
        )
    limits = np.iinfo(np.int16)
    if index.size and not limits.min <= index.min() <= index.max() <= limits.max:
        raise ValueError(
            f"{where}: expert_index: expected ids of -1 to {limits.max}, got "
            f"{index.max() if index.max() > limits.max else index.min()}; correct the ids"
        )
    index = index.astype(np.int16)
    weight, logit, token = recording.gate_weight, recording.router_logit, recording.token_id
    if weight is not None:
        weight = np.asarray(weight, np.float32)
        _check_shape("gate_weight", weight, index.shape, where)
        weight = np.where(index < 0, np.float32(np.nan), weight)
        fall = (weight[..., :-1] >= weight[..., 1:]) | (index[..., 1:] < 0)
        if ranked and not fall.all():
            # What is missing comes last: NaN is sorted to the end.
            order = np.argsort(-weight, axis=-1, kind="stable")
            index = np.take_along_axis(index, order, -1)
            weight = np.take_along_axis(weight, order, -1)
    if logit is not None:
        logit = np.asarray(logit)
        logit = logit if logit.dtype == np.float16 else logit.astype(np.float32)
        _check_shape("router_logit", logit, (*index.shape[:2], logit.shape[-1]), where)
    if token is not None:
        token = np.asarray(token, np.int32)
        _check_shape("token_id", token, index.shape[:1], where)
    return Recording(index, weight, logit, token, recording.start_position)


def _check_shape(name: str, array: NDArray[Any], shape: tuple[int, ...], where: str) -> None:
    if array.shape != shape:
        raise ValueError(f"{where}: {name}: expected shape {shape}, got {array.shape}")


def _check_alike(packed: list[Recording], where: str) -> None:
    first = packed[0]
    for place, other in enumerate(packed):
        for name in ("expert_index", "gate_weight", "router_logit", "token_id"):
            one, two = getattr(first, name), getattr(other, name)
            if (one is None) != (two is None):
                has, lacks = (0, place) if two is None else (place, 0)
                raise ValueError(
                    f"{where}: {name}: expected in every sequence or in none, got it in sequence "
                    f"{has} and not in {lacks}"
                )
            if one is not None and one.shape[1:] != two.shape[1:]:
                raise ValueError(
                    f"{where}: {name}: expected shape (token, {_listed(one.shape[1:])}) as in "
                    f"sequence 0, got {two.shape} in sequence {place}"
                )


def _listed(sizes: tuple[int, ...]) -> str:
    return ", ".join(map(str, sizes))


def _padded(parts: list[NDArray[Any]], longest: int, nothing: float) -> NDArray[Any]:
    """Arrays (token, layer, x) of sequences as one (layer, sequence, position, x)."""
    _, n_layers, size = parts[0].shape
    dtype = np.result_type(*{part.dtype for part in parts})
    whole = np.full((n_layers, len(parts), longest, size), nothing, dtype)
    for place, part in enumerate(parts):
        whole[:, place, : len(part)] = part.swapaxes(0, 1)
    return whole


def _ranks_of(index: NDArray[np.int16]) -> NDArray[np.int64]:
    """The ranks that each layer fills, where one fills all of them."""
    n_ranks = index.shape[-1]
    filled = np.asarray((index >= 0).any((1, 2)))
    ranks = np.where(filled.any(-1), n_ranks - filled[:, ::-1].argmax(-1), n_ranks)
    return ranks if filled[:, -1].any() else np.full(len(index), n_ranks)


def _each_layer(
    name: str, values: int | Sequence[int], n_layers: int, where: str
) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or array.ndim > 1 or array.size not in (1, n_layers):
        raise ValueError(
            f"{where}: {name}: expected a whole number, or one for each of the {n_layers} layers, "
            f"got {values}"
        )
    return np.broadcast_to(array.astype(np.int64), n_layers)


def _example(array: NDArray[Any]) -> str:
    """One of the values that made an array something else than whole numbers."""
    flat = array.ravel().tolist()
    wrong = (v for v in flat if not str(v).lstrip("-").removesuffix(".0").isdigit())
    return repr(next(wrong, flat[0]))[:60]
