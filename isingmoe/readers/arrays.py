"""NumPy archives: the experts of all tokens in one array, and where each sequence starts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._text import plain
from isingmoe.readers.archives import archive_names, opened, starts_as_archive
from isingmoe.readers.cutting import check_cut, tokens_to_a_sequence
from isingmoe.readers.options import layer_numbers, needed, order_of_ranks
from isingmoe.readers.rows import check_ids, known_layers, named_fields
from isingmoe.recorded import Recording, assemble

__all__ = ["CANNOT_KNOW", "DESCRIPTION", "NAME", "looks_like", "read"]

NAME = "npz"
DESCRIPTION = "NumPy archive of the experts of all tokens"
CANNOT_KNOW = (
    "the number of experts; the order of ranks without weights; where sequences start without "
    "offsets or lengths; the numbers of the layers without an array of them; which axis is that "
    "of the layers, where nothing else tells"
)
_FIELDS = {
    name: name
    for name in (
        "expert_index",
        "offsets",
        "lengths",
        "gate_weight",
        "token_id",
        "start_position",
        "layer",
    )
}
_AXES = {
    "token,layer,rank": (0, 1, 2),
    "layer,token,rank": (1, 0, 2),
}


def looks_like(path: Path) -> bool:
    """Whether it is an archive with an array of the experts under the name by default.

    Or what is left of an archive, of which that can no longer be told.
    """
    names = archive_names(path)
    return starts_as_archive(path) if names is None else f"{_FIELDS['expert_index']}.npy" in names


def read(
    source: Path,
    *,
    num_experts: int | None = None,
    ranked: bool | None = None,
    axes: str | None = None,
    fields: Mapping[str, str] | None = None,
    layers: Sequence[int] | None = None,
    single_sequence: bool | None = None,
    sequence_length: int | None = None,
    model: str = "unnamed",
) -> xr.Dataset:
    """Read the traces of an archive.

    Parameters
    ----------
    source : Path
    num_experts : int
        Number of routed experts, E.
    ranked : bool
        Whether the ranks are in the order of the weights. With weights, by default, they are
        put into that order.
    axes : {"token,layer,rank", "layer,token,rank"}, optional
        Of `expert_index` and `gate_weight`; by default found by the number of tokens, asked
        for where both axes have it.
    fields : mapping of str, optional
        What the archive calls `expert_index`, `offsets` (sequence + 1) or `lengths`
        (sequence), and, where it has them, `gate_weight`, `token_id` (token),
        `start_position` (sequence) and `layer` (layer), where it is not that.
    layers : sequence of int, optional
        Numbers of the layers, where the archive has no `layer`.
    single_sequence : bool, optional
        All tokens are of one sequence, where there are neither offsets nor lengths.
    sequence_length : int, optional
        Every so many tokens are one.
    model : str

    Returns
    -------
    Dataset
        Traces. What is -1 there has no expert.

    Raises
    ------
    ValueError
        If an option is missing, or an array is not as it should be; with its name.
    """
    check_cut(single_sequence, sequence_length, source)
    arrays = _loaded(source, named_fields(fields, _FIELDS, source), set(fields or {}))
    index = arrays["expert_index"]
    if index.ndim != 3:
        raise ValueError(
            f"{source}: expert_index: expected 3 axes, those of tokens, layers and ranks, got "
            f"{index.ndim}; isingmoe.traces_from_arrays takes (layer, sequence, position, rank)"
        )
    if not index.size:
        raise ValueError(f"{source}: expert_index: expected tokens, got shape {index.shape}")
    order = _order(index, arrays, axes, source)
    index = index.transpose(order)
    n_tokens, n_layers, _ = index.shape
    starts = _starts(arrays, n_tokens, single_sequence, sequence_length, source)
    experts: int = needed(
        num_experts,
        "num_experts",
        "the number of routed experts",
        source,
        f"its largest id is {index.max()}",
    )
    weight = arrays.get("gate_weight")
    if weight is None:
        ranked = order_of_ranks(ranked, index.shape[2], source)
    else:
        _check_shape("gate_weight", weight, arrays["expert_index"].shape, source)
        weight = weight.transpose(order)
    for name, length in (
        ("token_id", n_tokens),
        ("start_position", len(starts) - 1),
        ("layer", n_layers),
    ):
        if name in arrays:
            _check_shape(name, arrays[name], (length,), source)
    _check_range("token_id", arrays, -1, source)
    _check_range("start_position", arrays, 0, source)
    check_ids(
        index.reshape(-1, index.shape[-1]),
        experts,
        lambda row: f"{source}: token {row // n_layers}, layer {row % n_layers}",
    )
    return assemble(
        _recordings(index, weight, starts, arrays),
        layers=_layers(arrays, layers, n_layers, source),
        num_experts=experts,
        ranked=True if ranked is None else ranked,
        model=model,
        attributes={},
        where=str(source),
    )


def _loaded(source: Path, names: dict[str, str], required: set[str]) -> dict[str, NDArray[Any]]:
    """The arrays of the archive that are known, by what the parts are called here."""
    if not starts_as_archive(source):
        raise ValueError(
            f"{source}: expected a NumPy archive (.npz), got another kind of file; check the name"
        )
    arrays = {}
    try:
        with opened(source) as archive:
            for part, name in names.items():
                if name in archive:
                    arrays[part] = archive[name]
                elif part in required or part == "expert_index":
                    raise ValueError(
                        f"{source}: {part}: expected an array {name!r}, got "
                        f"{', '.join(archive)}; name it, on the command line --field {part}=NAME"
                    )
    except ValueError as error:
        text = str(error)
        known = text if text.startswith(f"{source}: ") else f"{source}: {plain(error, 300)}"
        raise ValueError(known) from None
    for part, array in arrays.items():
        kinds = "iuf" if part == "gate_weight" else "iu"
        if array.dtype.kind not in kinds:
            expected = "numbers" if part == "gate_weight" else "whole numbers"
            raise ValueError(
                f"{source}: {part}: expected {expected}, got dtype {array.dtype}; convert it"
            )
    return arrays


def _order(
    index: NDArray[Any], arrays: dict[str, NDArray[Any]], axes: str | None, source: Path
) -> tuple[int, int, int]:
    """Which axes of the array are those of the tokens, layers and ranks."""
    if axes is not None:
        if axes not in _AXES:
            raise ValueError(
                f"{source}: axes: expected {' or '.join(_AXES)}, got {axes!r}; correct it"
            )
        return _AXES[axes]
    n_tokens = _n_tokens(arrays)
    n_layers = len(arrays["layer"]) if "layer" in arrays else None
    fitting = [
        order
        for order in _AXES.values()
        if index.shape[order[0]] == (index.shape[order[0]] if n_tokens is None else n_tokens)
        and index.shape[order[1]] == (index.shape[order[1]] if n_layers is None else n_layers)
    ]
    if not fitting:
        raise ValueError(
            f"{source}: expert_index: expected an axis of {n_tokens} tokens"
            f"{'' if n_layers is None else f' and one of {n_layers} layers'}, as the other arrays "
            f"say, got shape {index.shape}; correct one of them"
        )
    if len(fitting) > 1:
        needed(None, "axes", " or ".join(_AXES), source, f"its shape is {index.shape}")
    return fitting[0]


def _n_tokens(arrays: dict[str, NDArray[Any]]) -> int | None:
    """How many tokens the arrays beside the experts are of."""
    for name, count in (("offsets", _last), ("lengths", np.sum), ("token_id", len)):
        if name in arrays:
            return int(count(arrays[name]))
    return None


def _last(array: NDArray[Any]) -> int:
    return int(array.flat[-1]) if array.size else 0


def _starts(
    arrays: dict[str, NDArray[Any]],
    n_tokens: int,
    single_sequence: bool | None,
    sequence_length: int | None,
    source: Path,
) -> NDArray[np.int64]:
    """The first token of each sequence, and the end of the last."""
    if "offsets" not in arrays and "lengths" not in arrays:
        size = tokens_to_a_sequence(
            n_tokens,
            single_sequence,
            sequence_length,
            source,
            "name the array of offsets or lengths, on the command line --field offsets=NAME, or ",
        )
        return np.arange(0, n_tokens + 1, size)
    if single_sequence or sequence_length is not None:
        raise ValueError(
            f"{source}: {'single_sequence' if single_sequence else 'sequence_length'}: expected "
            "none, since the file says where sequences start; leave the option out"
        )
    name = "offsets" if "offsets" in arrays else "lengths"
    values = arrays[name]
    if values.ndim != 1:
        raise ValueError(f"{source}: {name}: expected one axis, got shape {values.shape}")
    starts = values.astype(np.int64)
    if name == "lengths":
        starts = np.concatenate([[0], np.cumsum(starts)])
    lengths = np.diff(starts)
    if (lengths < 0).any():
        place = int((lengths < 0).argmax())
        raise ValueError(
            f"{source}: {name}: expected no sequence of fewer than 0 tokens, got {lengths[place]} "
            f"at sequence {place}; correct the array"
        )
    if not len(lengths) or starts[0] != 0 or starts[-1] != n_tokens:
        ends = f"{starts[0]} to {starts[-1]}" if len(starts) else "nothing"
        raise ValueError(
            f"{source}: {name}: expected sequences from token 0 to {n_tokens}, the tokens of "
            f"expert_index, got {ends}; correct one of them"
        )
    return starts


def _check_shape(name: str, array: NDArray[Any], shape: tuple[int, ...], source: Path) -> None:
    if array.shape != shape:
        raise ValueError(
            f"{source}: {name}: expected shape {shape}, got {array.shape}; correct or drop it"
        )


def _check_range(name: str, arrays: dict[str, NDArray[Any]], smallest: int, source: Path) -> None:
    if name not in arrays:
        return
    values, largest = arrays[name], np.iinfo(np.int32).max
    bad = (values < smallest) | (values > largest)
    if bad.any():
        place = int(bad.argmax())
        raise ValueError(
            f"{source}: {name}: expected {smallest} to {largest}, got {values[place]} at index "
            f"{place}; correct it"
        )


def _layers(
    arrays: dict[str, NDArray[Any]], layers: Sequence[int] | None, n_layers: int, source: Path
) -> list[int]:
    if "layer" not in arrays:
        return known_layers(layers, n_layers, source)
    if layers is not None:
        raise ValueError(
            f"{source}: layers: expected none, since the file has them, got {list(layers)}; leave "
            "the option out"
        )
    return layer_numbers(arrays["layer"].tolist(), n_layers, source)


def _recordings(
    index: NDArray[Any],
    weight: NDArray[Any] | None,
    starts: NDArray[np.int64],
    arrays: dict[str, NDArray[Any]],
) -> list[Recording]:
    token, position = arrays.get("token_id"), arrays.get("start_position")
    return [
        Recording(
            index[start:end],
            gate_weight=None if weight is None else weight[start:end],
            token_id=None if token is None else token[start:end],
            start_position=0 if position is None else int(position[place]),
        )
        for place, (start, end) in enumerate(itertools.pairwise(starts.tolist()))
    ]
