"""Tables with named columns: CSV and Parquet, a row for each token and layer or each rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._text import plain
from isingmoe.readers.columns import (
    Column,
    csv_columns,
    list_columns,
    parquet_columns,
    read_csv,
    read_parquet,
)
from isingmoe.readers.placing import Rows
from isingmoe.readers.rows import named_fields, rows_to_traces

__all__ = ["CANNOT_KNOW", "DESCRIPTION", "NAME", "looks_like", "read"]

NAME = "table"
DESCRIPTION = "table with a row for each token and layer, or for each rank of these"
CANNOT_KNOW = (
    "the number of experts; the order of ranks without weights; where sequences start and which "
    "layer it is, without columns that say it; tokens dropped, without positions, or before the "
    "first and after the last row of a sequence"
)
_FIELDS = {
    name: name for name in ("sequence", "position", "layer", "rank", "expert", "weight", "token_id")
}
_PARQUET = b"PAR1"


def looks_like(path: Path) -> bool:
    """Whether it is Parquet, or CSV with columns of experts under the names by default."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        start = stream.read(4096)
    if start.startswith(_PARQUET):
        return True
    header = start.split(b"\n")[0].decode("utf-8-sig", "replace").strip()
    names = [name.strip().strip('"') for name in header.split(_delimiter(path, None))]
    return len(names) > 2 and bool({"expert", "expert_0"} & set(names))


def read(
    source: Path,
    *,
    num_experts: int | None = None,
    ranked: bool | None = None,
    fields: Mapping[str, str] | None = None,
    layers: Sequence[int] | None = None,
    single_sequence: bool | None = None,
    sequence_length: int | None = None,
    delimiter: str | None = None,
    model: str = "unnamed",
) -> xr.Dataset:
    """Read the traces of a table.

    Parameters
    ----------
    source : Path
        Parquet, or CSV with the names of the columns in the first line.
    num_experts : int
        Number of routed experts, E.
    ranked : bool
        Whether the ranks are in the order of the weights. With weights, by default, they are
        put into that order.
    fields : mapping of str, optional
        What the table calls `sequence`, `position`, `layer`, `rank`, `expert`, `weight` and
        `token_id`, where it is not that. All but the experts may be missing.
    layers : sequence of int, optional
        Number of the layer, where the table has no such column.
    single_sequence : bool, optional
        All tokens are of one sequence, where the table does not say it.
    sequence_length : int, optional
        Every so many tokens are one.
    delimiter : str, optional
        Between the entries of a CSV file; by default a comma, in a file `.tsv` a tab.
    model : str

    Returns
    -------
    Dataset
        Traces. Tokens are placed by their positions, whatever the order of the rows; what
        lacks a row is -1.

    Raises
    ------
    ValueError
        If an option is missing, or a row is not as it should be; with the line of a CSV file,
        or the row, from 0, of a Parquet file.
    ImportError
        If a Parquet file is given and pyarrow is not installed.

    Notes
    -----
    Either every row is of one rank, with the columns `rank` and `expert` (and `weight`), or it
    has all of them, in columns `expert_0`, `expert_1`, .. (and `weight_0`, ..), or, of a Parquet
    file, in a column `expert` or `experts` (and `weight` or `weights`) of lists. An empty entry
    or -1 is a rank without an expert, an empty list or null a token without.
    """
    if source.is_dir():
        raise ValueError(f"{source}: expected a file, got a folder; name a file in it")
    names = named_fields(fields, _FIELDS, source)
    with source.open("rb") as stream:
        parquet = stream.read(4) == _PARQUET
    separator = _delimiter(source, delimiter)
    if len(separator) != 1 or separator in '"\r\n':
        raise ValueError(
            f"{source}: delimiter: expected one character between entries, got {separator!r}"
        )
    found = parquet_columns(source) if parquet else csv_columns(source, separator)
    lists = list_columns(source) if parquet else set()
    columns = _chosen(found, names, set(fields or {}), lists, source)
    values = read_parquet(source, columns) if parquet else read_csv(source, separator, columns)
    wide = [column.name for column in columns if column.part == "expert"]
    weights = [column.name for column in columns if column.part == "weight"]
    expert, weight = _ranks_of(values, wide), _ranks_of(values, weights) if weights else None
    if weight is not None and set(wide) <= lists:
        weight = _as_many(weight, expert, source)
    single = {column.part: values[column.name] for column in columns}
    rows = Rows(
        expert=expert,
        where=lambda row: f"{source}: row {row}" if parquet else f"{source}: line {row + 2}",
        source=str(source),
        weight=weight,
        sequence=single.get("sequence"),
        position=single.get("position"),
        layer=single.get("layer"),
        rank=single.get("rank"),
        token_id=single.get("token_id"),
    )
    return rows_to_traces(
        rows,
        num_experts=num_experts,
        ranked=ranked,
        layers=layers,
        single_sequence=single_sequence,
        sequence_length=sequence_length,
        model=model,
        kind="column",
    )


def _delimiter(path: Path, given: str | None) -> str:
    return given or ("\t" if path.suffix == ".tsv" else ",")


def _ranks_of(values: dict[str, NDArray[Any]], names: list[str]) -> NDArray[Any]:
    """All ranks (row, rank), out of a column for each or of one of lists."""
    if values[names[0]].ndim == 2:
        return values[names[0]]
    return np.stack([values[name] for name in names], axis=-1)


def _as_many(
    weight: NDArray[np.float32], expert: NDArray[np.int64], source: Path
) -> NDArray[np.float32]:
    """Weights of lists of experts, which there are as many of in each row."""
    width = max(weight.shape[1], expert.shape[1])
    counts = [
        np.pad(part, ((0, 0), (0, width - part.shape[1])))
        for part in (np.isfinite(weight), expert >= 0)
    ]
    bad = (counts[0] & ~counts[1]).any(1)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{source}: row {row}: weight: expected as many as experts, "
            f"{counts[1][row].sum()}, got {counts[0][row].sum()}; mend the row"
        )
    missing = ((0, 0), (0, max(expert.shape[1] - weight.shape[1], 0)))
    return np.pad(weight, missing, constant_values=np.nan)[:, : expert.shape[1]]


def _chosen(
    found: list[str], names: dict[str, str], required: set[str], lists: set[str], source: Path
) -> list[Column]:
    """The columns to read: one for each part, or one for each rank of it, or one of lists."""
    chosen = []
    if not {names["expert"], f"{names['expert']}_0"} & set(found):
        # As JSON records call lists.
        plural = {part: f"{names[part]}s" for part in ("expert", "weight")}
        if plural["expert"] in lists:
            names = {**names, **{p: n for p, n in plural.items() if n in lists}}
    single = names["expert"] in found
    for part, name in names.items():
        if part in ("expert", "weight"):
            own = [name] if single else _ranks(found, name)
            own = own if set(own) <= set(found) else []
        elif part == "rank" and (not single or names["expert"] in lists):
            own = []
        else:
            own = [name] if name in found else []
        if not own and (part == "expert" or part in required):
            more = f", or {name}_0, {name}_1, .." if part in ("expert", "weight") else ""
            raise ValueError(
                f"{source}: {part}: expected a column {name!r}{more}, got "
                f"{plain(', '.join(found), 80)}; name it, on the command line --field {part}=NAME"
            )
        chosen += [Column(part, one) for one in own]
    counts = [sum(column.part == part for column in chosen) for part in ("expert", "weight")]
    if counts[1] not in (0, counts[0]):
        raise ValueError(
            f"{source}: weight: expected as many columns as of experts, {counts[0]}, got "
            f"{counts[1]}; mend the table or name others"
        )
    return chosen


def _ranks(found: list[str], name: str) -> list[str]:
    """Columns `name_0`, `name_1`, .. as far as they go."""
    columns = []
    while f"{name}_{len(columns)}" in found:
        columns.append(f"{name}_{len(columns)}")
    return columns
