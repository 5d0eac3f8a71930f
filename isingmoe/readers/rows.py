"""Traces of rows: what they do not say is asked for, and what they say is checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe.readers.cutting import check_cut, tokens_to_a_sequence
from isingmoe.readers.options import layer_numbers, needed, order_of_ranks
from isingmoe.readers.placing import Rows, recordings
from isingmoe.recorded import assemble, expert_ids

__all__ = ["check_ids", "known_layers", "named_fields", "rows_to_traces"]


def named_fields(
    fields: Mapping[str, str] | None, known: Mapping[str, str], source: object
) -> dict[str, str]:
    """What each part of a record is called in a file: as given, else as by default.

    Parameters
    ----------
    fields : mapping of str, optional
        From some of the parts to their names in the file.
    known : mapping of str
        Every part and its name by default.
    source : path

    Raises
    ------
    ValueError
        If there is no such part, or two have one name.
    """
    for part in fields or {}:
        if part not in known:
            raise ValueError(
                f"{source}: fields: expected names for some of {', '.join(known)}, got one for "
                f"{part!r}"
            )
    names = {**known, **(fields or {})}
    for part in fields or {}:
        other = next((o for o in names if o != part and names[o] == names[part]), None)
        if other is not None:
            raise ValueError(
                f"{source}: fields: expected different names, got {names[part]!r} for {other} "
                f"and {part}"
            )
    return names


def check_ids(ids: NDArray[Any], num_experts: int, where: Callable[[int], str]) -> None:
    """Raise for the first row whose ids are out of range or not all different.

    Parameters
    ----------
    ids : int ndarray (row, rank)
    num_experts : int
    where : callable
        From the number of a row to what an error calls it.

    Raises
    ------
    ValueError
    """
    in_order = np.sort(ids, axis=-1)
    bad = (in_order[:, 0] < -1) | (in_order[:, -1] >= num_experts)
    bad |= ((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)).any(-1)
    if bad.any():
        row = int(bad.argmax())
        expert_ids(ids[row], num_experts=num_experts, where=where(row), name="expert")


def known_layers(layers: Sequence[int] | None, found: int, source: object) -> list[int]:
    """The model's numbers of the `found` layers of a file that does not say them.

    Raises
    ------
    ValueError
        If they are not given, there are more or fewer, or one is twice there.
    """
    what = "the model's numbers of its layers with experts, as 0-23"
    given = needed(layers, "layers", what, source, f"it has {found} of them")
    return layer_numbers(given, found, source)


def rows_to_traces(
    rows: Rows,
    *,
    num_experts: int | None,
    ranked: bool | None,
    layers: Sequence[int] | None,
    single_sequence: bool | None,
    sequence_length: int | None,
    model: str,
    kind: str,
) -> xr.Dataset:
    """Traces of rows.

    Parameters
    ----------
    rows : Rows
    num_experts : int, optional
        Asked for if not given.
    ranked : bool, optional
        Asked for where there are no weights.
    layers : sequence of int, optional
        Number of the layer, where the rows do not say it.
    single_sequence, sequence_length : bool, int, optional
        Where the sequences start, asked for where the rows do not say it.
    model : str
    kind : {"field", "column"}
        What the file has a part of the rows in.

    Raises
    ------
    ValueError
        If something is missing, or a row cannot be; with its place.
    """
    if not len(rows.expert):
        raise ValueError(f"{rows.source}: expected tokens, got none; the trace would be empty")
    largest = int(rows.expert.max())
    n_experts: int = needed(
        num_experts,
        "num_experts",
        "the number of routed experts",
        rows.source,
        f"its largest id is {largest}" if largest >= 0 else "",
    )
    if rows.weight is None:
        n_ranks = rows.expert.shape[1] if rows.rank is None else int(rows.rank.max()) + 1
        ranked = order_of_ranks(ranked, n_ranks, rows.source)
    else:
        unweighted = ((rows.expert >= 0) & ~np.isfinite(rows.weight)).any(-1)
        if unweighted.any():
            raise ValueError(
                f"{rows.where(int(unweighted.argmax()))}: weight: expected one for each expert, "
                "got none; mend the row"
            )
    check_ids(rows.expert, n_experts, rows.where)
    if rows.layer is None:
        numbers = known_layers(layers, 1, rows.source)
        place = np.zeros(len(rows.expert), np.int64)
    elif layers is not None:
        raise ValueError(
            f"{rows.source}: layers: expected none, since the file has them, got "
            f"{list(layers)}; leave the option out"
        )
    else:
        found, place = np.unique(rows.layer, return_inverse=True)
        numbers = found.tolist()
    sequence, position = _in_sequences(rows, place, numbers, single_sequence, sequence_length, kind)
    return assemble(
        recordings(rows, sequence, position, place, len(numbers)),
        layers=numbers,
        num_experts=n_experts,
        ranked=True if ranked is None else ranked,
        model=model,
        attributes={},
        where=rows.source,
    )


def _naming(part: str, kind: str) -> str:
    """How the user can say where a part of the rows is."""
    return (
        f"name the {kind} that says it, as fields {part}=NAME, on the command "
        f"line --field {part}=NAME"
    )


def _in_sequences(
    rows: Rows,
    place: NDArray[np.int64],
    numbers: list[int],
    single_sequence: bool | None,
    sequence_length: int | None,
    kind: str,
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The sequence of each row and its position in that."""
    check_cut(single_sequence, sequence_length, rows.source)
    sequence, position = rows.sequence, rows.position
    if sequence is not None and (single_sequence or sequence_length is not None):
        raise ValueError(
            f"{rows.source}: {'single_sequence' if single_sequence else 'sequence_length'}: "
            "expected none, since the file says the sequence of each token; leave the option out"
        )
    if position is None:
        if rows.rank is not None:
            raise ValueError(
                f"{rows.source}: position: expected in each row, since a token takes several; "
                f"{_naming('position', kind)}"
            )
        known = np.zeros(len(place), np.int64) if sequence is None else sequence
        position = _counted(rows, known, place, numbers, kind)
    if sequence is not None:
        return sequence, position
    n_tokens = int(position.max()) + 1 if rows.position is None else len(np.unique(position))
    if rows.position is None or sequence_length is None:
        size = tokens_to_a_sequence(
            n_tokens,
            single_sequence,
            sequence_length,
            rows.source,
            f"{_naming('sequence', kind)}, or ",
        )
        if rows.position is not None:
            return np.zeros(len(place), np.int64), position
    else:
        size = sequence_length
    return np.unique(position // size, return_inverse=True)[1], position % size


def _counted(
    rows: Rows,
    sequence: NDArray[Any],
    place: NDArray[np.int64],
    numbers: list[int],
    kind: str,
) -> NDArray[np.int64]:
    """Positions by the order of the rows in each sequence and layer."""
    group = sequence.astype(np.int64) * len(numbers) + place
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group, minlength=(int(sequence.max()) + 1) * len(numbers))
    by_layer = counts.reshape(-1, len(numbers))
    uneven = by_layer != by_layer[:, :1]
    if uneven.any():
        row, column = np.unravel_index(int(uneven.argmax()), uneven.shape)
        last = int(np.flatnonzero(sequence == row)[-1])
        raise ValueError(
            f"{rows.where(last)}: position: expected as many rows in every layer of a sequence, "
            f"got {by_layer[row, column]} in layer {numbers[column]} and {by_layer[row, 0]} in "
            f"layer {numbers[0]} of the sequence that ends here, and no positions to tell which "
            f"are missing; {_naming('position', kind)}"
        )
    starts = np.cumsum(counts) - counts
    position = np.empty(len(group), np.int64)
    position[order] = np.arange(len(group)) - np.repeat(starts, counts)
    return position
