"""Columns of numbers out of JSON records, many records at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isingmoe._text import plain

__all__ = ["Table", "parsed"]

_BLOCK = 1 << 14
_LARGEST = float(np.finfo(np.float32).max)
_WHOLE = ("position", "layer", "token_id")


@dataclass(frozen=True)
class Table:
    """What records say, a row for each, or for each and its layers.

    Attributes
    ----------
    expert : int32 ndarray (row, rank)
        -1 where a list is shorter than the longest.
    n_layers : int
        Layers to a record, 0 where each is of one layer.
    weight : float32 ndarray (row, rank), optional
    sequence, position, layer, token_id : int64 ndarray (record,), optional
    """

    expert: NDArray[np.int32]
    n_layers: int
    weight: NDArray[np.float32] | None
    sequence: NDArray[np.int64] | None
    position: NDArray[np.int64] | None
    layer: NDArray[np.int64] | None
    token_id: NDArray[np.int64] | None


@dataclass
class _Form:
    """What every record of a file is like, and the sequences seen so far."""

    names: dict[str, str]
    n_layers: int
    sequences: dict[Any, int] = field(default_factory=dict)


def parsed(
    records: Iterator[tuple[str, Any]],
    names: Mapping[str, str],
    required: set[str],
    source: Path,
) -> Table:
    """Columns of records.

    Parameters
    ----------
    records : iterator of (str, object)
        Each with what an error calls it.
    names : mapping of str
        What the file calls `sequence`, `position`, `layer`, `experts`, `weights` and
        `token_id`; those that the first record has are expected in all.
    required : set of str
        Parts that must be there, besides the experts.
    source : Path

    Raises
    ------
    ValueError
        With the place of the first record that is not like the first one or not as it
        should be.
    """
    blocks: list[dict[str, NDArray[Any]]] = []
    form: _Form | None = None
    while block := list(itertools.islice(records, _BLOCK)):
        values = [record for _, record in block]
        form = form or _form(block, names, required)
        try:
            blocks.append(_columns(values, form))
        except ValueError:
            for where, record in block:
                try:
                    _columns([record], form)
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from None
            raise
    if form is None:
        raise ValueError(f"{source}: expected records, got none; the trace would be empty")

    def joined(part: str) -> Any:
        return np.concatenate([b[part] for b in blocks]) if part in form.names else None

    width = max(block["experts"].shape[1] for block in blocks)
    return Table(
        expert=_joined([block["experts"] for block in blocks], width, -1),
        n_layers=form.n_layers,
        weight=_joined([block["weights"] for block in blocks], width, np.nan)
        if "weights" in form.names
        else None,
        sequence=joined("sequence"),
        position=joined("position"),
        layer=joined("layer"),
        token_id=joined("token_id"),
    )


def _joined(parts: list[NDArray[Any]], width: int, nothing: float) -> Any:
    whole = np.full((sum(map(len, parts)), width), nothing, parts[0].dtype)
    done = 0
    for part in parts:
        whole[done : done + len(part), : part.shape[1]] = part
        done += len(part)
    return whole


def _form(block: list[tuple[str, Any]], names: Mapping[str, str], required: set[str]) -> _Form:
    """What the first record has; whether a record is of all layers."""
    where, first = block[0]
    if not isinstance(first, dict):
        raise ValueError(f"{where}: {_no_object(first)}")
    present = {part: name for part, name in names.items() if name in first}
    for part in sorted({"experts", *required}):
        if part not in present:
            raise ValueError(
                f"{where}: {part}: expected a field {names[part]!r}, got "
                f"{plain(', '.join(first), 60)}; name it, on the command line --field {part}=NAME"
            )
    n_layers = 0
    if "layer" not in present:
        lists = (r.get(names["experts"]) for _, r in block if isinstance(r, dict))
        filled = next((value for value in lists if isinstance(value, list) and value), [])
        if any(isinstance(value, list) for value in filled):
            n_layers = len(filled)
    return _Form(present, n_layers)


def _columns(records: list[Any], form: _Form) -> dict[str, NDArray[Any]]:
    """The columns of some records; where there is one, the error is of it alone."""
    for record in records:
        if not isinstance(record, dict):
            raise ValueError(_no_object(record))
    fields = {part: _field(records, part, name) for part, name in form.names.items()}
    columns: dict[str, NDArray[Any]] = {
        part: _whole(fields[part], form.names[part]) for part in _WHOLE if part in fields
    }
    if "sequence" in fields:
        columns["sequence"] = _coded(fields["sequence"], form.names["sequence"], form.sequences)
    name = form.names["experts"]
    experts = _lists(fields["experts"], name, form.n_layers)
    lengths = np.fromiter(map(len, experts), np.int64, len(experts))
    ids = _whole(list(itertools.chain.from_iterable(experts)), name).astype(np.int32)
    columns["experts"] = _padded(ids, lengths, -1)
    if "weights" in fields:
        name = form.names["weights"]
        weights = _lists(fields["weights"], name, form.n_layers)
        for ours, theirs in zip(weights, lengths.tolist(), strict=True):
            if len(ours) != theirs:
                raise ValueError(
                    f"{name}: expected as many as experts, {theirs}, got {len(ours)}; mend the "
                    "record"
                )
        real = _real(list(itertools.chain.from_iterable(weights)), name)
        columns["weights"] = _padded(real, lengths, np.nan)
    return columns


def _field(records: list[Any], part: str, name: str) -> list[Any]:
    try:
        return [record[name] for record in records]
    except KeyError:
        raise ValueError(
            f"{part}: expected a field {name!r} as in the first record, got "
            f"{plain(', '.join(records[0]), 60)}; mend or drop the record"
        ) from None


def _lists(values: Any, name: str, n_layers: int) -> list[list[Any]]:
    """Lists of one layer each; null is an empty one."""
    if n_layers:
        values = [[None] * n_layers if value is None or value == [] else value for value in values]
        for value in values:
            if not isinstance(value, list) or len(value) != n_layers:
                raise ValueError(
                    f"{name}: expected a list of {n_layers}, one for each layer, got "
                    f"{_described(value)}; mend the record"
                )
        values = list(itertools.chain.from_iterable(values))
    lists = [[] if value is None else value for value in values]
    for value in lists:
        if not isinstance(value, list):
            raise ValueError(f"{name}: expected a list, got {plain(value, 40)!r}; mend the record")
    return lists


def _described(value: Any) -> str:
    return f"{len(value)}" if isinstance(value, list) else repr(plain(value, 40))


def _padded(flat: NDArray[Any], lengths: NDArray[np.int64], nothing: float) -> NDArray[Any]:
    width = max(int(lengths.max()), 1)
    whole = np.full((len(lengths), width), nothing, flat.dtype)
    whole[np.arange(width) < lengths[:, None]] = flat
    return whole


def _whole(values: list[Any], name: str) -> NDArray[np.int64]:
    """Whole numbers of 32 bits."""
    if set(map(type, values)) <= {int}:
        largest = np.iinfo(np.int32).max
        if not values or -largest <= min(values) <= max(values) <= largest:
            return np.array(values, np.int64)
        wrong = next(v for v in values if abs(v) > largest)
    else:
        wrong = next(v for v in values if type(v) is not int)
    raise ValueError(f"{name}: expected whole numbers, got {plain(wrong, 40)!r}; mend the record")


def _real(values: list[Any], name: str) -> NDArray[np.float32]:
    """Finite numbers."""
    # False of NaN too.
    wrong = [v for v in values if type(v) not in (int, float) or not abs(v) <= _LARGEST]
    if wrong:
        raise ValueError(
            f"{name}: expected finite numbers, got {plain(wrong[0], 40)!r}; mend the record"
        )
    return np.array(values, np.float32)


def _coded(values: list[Any], name: str, known: dict[Any, int]) -> NDArray[np.int64]:
    """Sequences as numbers in the order of their first records."""
    if not set(map(type, values)) <= {int, str}:
        wrong = next(v for v in values if type(v) not in (int, str))
        raise ValueError(
            f"{name}: expected a number or a text, got {plain(wrong, 40)!r}; mend the record"
        )
    return np.array([known.setdefault(value, len(known)) for value in values], np.int64)


def _no_object(value: Any) -> str:
    return f"expected an object, got {plain(value, 40)!r}; mend or drop the record"
