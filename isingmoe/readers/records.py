"""JSONL with a record for each token, or for each token and layer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe.readers.lines import first_json, json_lines
from isingmoe.readers.parsing import Table, parsed
from isingmoe.readers.placing import Rows
from isingmoe.readers.rows import known_layers, named_fields, rows_to_traces

__all__ = ["CANNOT_KNOW", "DESCRIPTION", "NAME", "looks_like", "read"]

NAME = "jsonl"
DESCRIPTION = "JSONL with a record for each token, or for each token and layer"
CANNOT_KNOW = (
    "the number of experts; the order of ranks without weights; where sequences start and which "
    "layers there are, without fields that say it; tokens dropped, without positions, or before "
    "the first and after the last record of a sequence"
)
_FIELDS = {
    "sequence": "sequence",
    "position": "position",
    "layer": "layer",
    "experts": "experts",
    "weights": "weights",
    "token_id": "token_id",
}


def looks_like(path: Path) -> bool:
    """Whether the first record has a list of experts under the name by default."""
    record = first_json(path)
    return isinstance(record, dict) and isinstance(record.get(_FIELDS["experts"]), list)


def read(
    source: Path,
    *,
    num_experts: int | None = None,
    ranked: bool | None = None,
    fields: Mapping[str, str] | None = None,
    layers: Sequence[int] | None = None,
    single_sequence: bool | None = None,
    sequence_length: int | None = None,
    model: str = "unnamed",
) -> xr.Dataset:
    """Read the traces of a file.

    Parameters
    ----------
    source : Path
    num_experts : int
        Number of routed experts, E.
    ranked : bool
        Whether the experts of a record are in the order of their weights. With weights, by
        default, they are put into that order.
    fields : mapping of str, optional
        What the file calls `sequence`, `position`, `layer`, `experts`, `weights` and
        `token_id`, where it is not that. All but the experts may be missing.
    layers : sequence of int, optional
        Numbers of the layers, where the records have no such field.
    single_sequence : bool, optional
        All tokens are of one sequence, where the records do not say it.
    sequence_length : int, optional
        Every so many tokens are one.
    model : str

    Returns
    -------
    Dataset
        Traces. Tokens are placed by their positions, whatever the order of the lines; what
        lacks a record is -1.

    Raises
    ------
    ValueError
        If an option is missing, or a record is not as it should be; with the line.

    Notes
    -----
    Experts are a list of ids; where the records have no layer, a list of these, one for each
    layer. An empty list or null is a token without experts.
    """
    if source.is_dir():
        raise ValueError(f"{source}: expected a file, got a folder; name a file in it")
    names = named_fields(fields, _FIELDS, source)
    table = parsed(json_lines(source), names, set(fields or {}), source)
    return rows_to_traces(
        _rows(table, source, layers),
        num_experts=num_experts,
        ranked=ranked,
        layers=None if table.n_layers else layers,
        single_sequence=single_sequence,
        sequence_length=sequence_length,
        model=model,
        kind="field",
    )


def _rows(table: Table, source: Path, layers: Sequence[int] | None) -> Rows:
    """A row for each record, or for each record and layer where the records hold all layers."""
    repeats = table.n_layers or 1

    def where(row: int) -> str:
        return next(itertools.islice(json_lines(source), row // repeats, None))[0]

    def spread(values: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        return values if values is None or repeats == 1 else np.repeat(values, repeats)

    layer = table.layer
    if table.n_layers:
        numbers = known_layers(layers, table.n_layers, source)
        layer = np.tile(np.array(numbers), len(table.expert) // table.n_layers)
    return Rows(
        expert=table.expert,
        where=where,
        source=str(source),
        weight=table.weight,
        sequence=spread(table.sequence),
        position=spread(table.position),
        layer=layer,
        token_id=spread(table.token_id),
    )
