"""Two columns of whole numbers, layer and expert, out of a CSV file of millions of lines."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isingmoe._text import plain
from isingmoe.readers.lines import csv_integers, numbered_lines

__all__ = ["Activations", "is_header", "read_activations"]

_CHUNK = 1 << 21
_LARGEST = int(np.iinfo(np.int16).max)


@dataclass(frozen=True)
class Activations:
    """Lines of a file.

    Attributes
    ----------
    path : Path
    layer, expert : int16 ndarray (row,)
    line : int64 ndarray (row,), optional
        Numbers of the lines; where there is none, they follow one another from `first_line`.
    first_line : int
    """

    path: Path
    layer: NDArray[Any]
    expert: NDArray[Any]
    line: NDArray[np.int64] | None
    first_line: int

    def where(self, row: int) -> str:
        """What an error calls a row."""
        number = self.first_line + row if self.line is None else int(self.line[row])
        return f"{self.path}: line {number}"


def is_header(line: str) -> bool:
    """Whether a line names the columns."""
    return [name.strip().lower() for name in line.split(",")] == ["layer", "expert"]


def read_activations(path: Path) -> Activations:
    """Read a file.

    Raises
    ------
    ValueError
        With the line that is not of two whole numbers that can be a layer and an expert.
    """
    number, first = next(numbered_lines(path))
    if len(first.split(",")) != 2:
        raise ValueError(
            f"{path}: line {number}: expected layer,expert, got {plain(first, 60)!r}; a table with "
            "other columns is read with --format table"
        )
    header = is_header(first)
    try:
        # Numbers too large for a float do not become whole numbers of another value.
        with np.errstate(invalid="raise"):
            parts = list(_quickly(path, number - 1 + header))
        lines = None
    except (ValueError, OverflowError, FloatingPointError):
        # What is wrong, or blank, is found line by line.
        blocks = list(csv_integers(path))
        parts = [(values[:, 0], values[:, 1]) for _, values in blocks]
        lines = np.concatenate([numbers for numbers, _ in blocks]) if blocks else None
    if not parts:
        raise ValueError(f"{path}: expected lines of layer,expert, got none; trace again")
    found = Activations(
        path,
        np.concatenate([layer for layer, _ in parts]),
        np.concatenate([expert for _, expert in parts]),
        lines,
        number + header,
    )
    return replace(
        found,
        layer=_narrow(found, "layer", found.layer),
        expert=_narrow(found, "expert", found.expert),
    )


def _quickly(path: Path, skipped: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """The columns in chunks, where every line is as it should be.

    Raises
    ------
    ValueError, OverflowError, FloatingPointError
        Where one is not.
    """
    chunks = pd.read_csv(
        path,
        header=None,
        names=["layer", "expert"],
        dtype=np.int64,
        skiprows=skipped,
        skip_blank_lines=False,
        na_filter=False,
        quoting=csv.QUOTE_NONE,
        encoding="utf-8-sig",
        chunksize=_CHUNK,
    )
    with chunks:
        for chunk in chunks:
            columns = [chunk[name].to_numpy() for name in ("layer", "expert")]
            if all(-1 <= column.min() <= column.max() <= _LARGEST for column in columns):
                columns = [column.astype(np.int16) for column in columns]
            yield columns[0], columns[1]


def _narrow(found: Activations, name: str, values: NDArray[Any]) -> NDArray[np.int16]:
    bad = (values < 0) | (values > _LARGEST)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{found.where(row)}: {name}: expected 0 to {_LARGEST}, got {values[row]}; mend the "
            "line"
        )
    return values.astype(np.int16)
