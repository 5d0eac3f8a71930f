"""Columns of numbers out of CSV and Parquet files of millions of rows."""

from __future__ import annotations

import collections
import csv
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isingmoe._text import plain
from isingmoe.readers.lines import numbered_lines

__all__ = ["Column", "csv_columns", "list_columns", "parquet_columns", "read_csv", "read_parquet"]

_CHUNK = 1 << 19
_LARGEST = int(np.iinfo(np.int32).max)


class Column(NamedTuple):
    """A column and what it says, as "expert"."""

    part: str
    name: str


def csv_columns(path: Path, delimiter: str) -> list[str]:
    """Names of the columns of a CSV file.

    Raises
    ------
    ValueError
        If two have one name.
    """
    # Whether it is text at all.
    next(numbered_lines(path))
    with path.open("rb") as stream:
        first = stream.readline().decode("utf-8-sig").rstrip("\r\n")
    try:
        names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
    except csv.Error as error:
        raise ValueError(f"{path}: line 1: expected names of columns ({error}); mend it") from None
    _check_different(names, path)
    return names


def parquet_columns(path: Path) -> list[str]:
    """Names of the columns of a Parquet file.

    Raises
    ------
    ValueError
        If it cannot be read, or two have one name.
    ImportError
        If pyarrow is not installed.
    """
    names = list(_parquet(path).schema_arrow.names)
    _check_different(names, path)
    return names


def list_columns(path: Path) -> set[str]:
    """Names of the columns of a Parquet file that hold a list in each row."""
    from pyarrow import types

    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    schema = _parquet(path).schema_arrow
    return {part.name for part in schema if any(is_list(part.type) for is_list in lists)}


def _check_different(names: list[str], path: Path) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{path}: expected columns of different names, got {twice!r} twice")


def read_csv(path: Path, delimiter: str, columns: list[Column]) -> dict[str, NDArray[Any]]:
    """Columns of a CSV file whose first line is a header.

    Returns
    -------
    dict of ndarray (row,)
        By name: float32 of weights, int64 of the others; sequences as numbers from 0 in the
        order of their first rows. -1 and NaN where an expert or weight is not there.

    Raises
    ------
    ValueError
        With the line that is not as it should be.
    """
    header = csv_columns(path, delimiter)
    whole = True

    def chunks() -> Iterator[pd.DataFrame]:
        nonlocal whole
        reader = pd.read_csv(
            path,
            sep=delimiter,
            header=None,
            names=header,
            skiprows=1,
            index_col=False,
            dtype={c.name: "str" for c in columns if c.part == "sequence"},
            skip_blank_lines=False,
            encoding="utf-8-sig",
            low_memory=False,
            chunksize=_CHUNK,
        )
        with reader:
            for chunk in reader:
                # The last column shows whether a line ends too early.
                whole = whole and not chunk[header[-1]].isna().any()
                yield chunk

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            found = _collected(chunks(), columns, lambda row: f"{path}: line {row + 2}", path)
    except UnicodeDecodeError:
        # Names the line.
        collections.deque(numbered_lines(path), maxlen=0)
        raise
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        _check_lines(path, delimiter, len(header))
        raise ValueError(f"{path}: {' '.join(str(error).split())}; mend the file") from None
    except ValueError:
        # Entries that are in the wrong column, where the line has too few, come first.
        _check_lines(path, delimiter, len(header))
        raise
    if not whole:
        _check_lines(path, delimiter, len(header))
    return found


def _check_lines(path: Path, delimiter: str, n_columns: int) -> None:
    """Raise for the first line that has not as many entries as the header."""
    for number, entries in _csv_lines(path, delimiter):
        if len(entries) != n_columns:
            raise ValueError(
                f"{path}: line {number}: expected {n_columns} entries, as in the first line, got "
                f"{len(entries)}; mend the line"
            )


def _csv_lines(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Entries of each line, and its number."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter)
        try:
            for entries in reader:
                yield reader.line_num, entries
        except csv.Error as error:
            raise ValueError(
                f"{path}: line {reader.line_num}: expected entries ({error}); mend it"
            ) from None


def read_parquet(path: Path, columns: list[Column]) -> dict[str, NDArray[Any]]:
    """Columns of a Parquet file, as `read_csv` gives those of a CSV file.

    Lists of experts and weights become arrays (row, rank), as wide as the longest.

    Raises
    ------
    ValueError
        With the row, from 0, that is not as it should be.
    ImportError
        If pyarrow is not installed.
    """
    names = [column.name for column in columns]
    chunks = _parquet_chunks(path, names)
    return _collected(chunks, columns, lambda row: f"{path}: row {row}", path)


def _parquet_chunks(path: Path, names: list[str]) -> Iterator[pd.DataFrame]:
    file = _parquet(path)
    from pyarrow import ArrowException

    done = 0
    try:
        for batch in file.iter_batches(batch_size=_CHUNK, columns=names):
            # One by one: what pandas left in the file beside the columns does not matter.
            columns = {name: batch.column(name).to_pandas() for name in names}
            yield pd.DataFrame(columns).set_index(pd.RangeIndex(done, done + len(batch)))
            done += len(batch)
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise _broken(path, error) from None


def _parquet(path: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ImportError(
            f"{path}: Parquet files need pyarrow; install it with `pip install pyarrow`"
        ) from None
    try:
        return parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise _broken(path, error) from None


def _broken(path: Path, error: Exception) -> ValueError:
    detail = plain(error, 120)
    return ValueError(f"{path}: cannot be read as Parquet ({detail}); copy or write it again")


def _collected(
    chunks: Iterator[pd.DataFrame],
    columns: list[Column],
    where: Callable[[int], str],
    path: Path,
) -> dict[str, NDArray[Any]]:
    """The columns of all chunks, as numbers."""
    parts: dict[str, list[NDArray[Any]]] = {column.name: [] for column in columns}
    known: dict[Any, int] = {}
    of_part = [column.part for column in columns]
    alone = {part for part in ("expert", "weight") if of_part.count(part) == 1}
    for chunk in chunks:
        for column in columns:
            values: Any = chunk[column.name]
            if column.part == "sequence":
                numbers, bad = _codes(values, known)
                expected = "a number or a text"
            elif column.part in alone and _are_lists(values):
                numbers, bad = _of_lists(values, column.part)
                expected = f"a list of {'' if column.part == 'weight' else 'whole '}numbers"
            else:
                numbers, bad = _numbers(values, column.part)
                expected = "a number" if column.part == "weight" else "a whole number"
            if bad.any():
                place = int(bad.argmax())
                value = values.iloc[place]
                got = "none" if np.ndim(value) == 0 and pd.isna(value) else repr(plain(value, 40))
                raise ValueError(
                    f"{where(int(chunk.index[place]))}: {column.name}: expected {expected}, got "
                    f"{got}; mend the row"
                )
            parts[column.name].append(numbers)
    if not parts[columns[0].name]:
        raise ValueError(f"{path}: expected rows, got none; the trace would be empty")
    return {name: _joined(found) for name, found in parts.items()}


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    if parts[0].ndim == 1:
        return np.concatenate(parts)
    width = max(part.shape[1] for part in parts)
    nothing = np.nan if parts[0].dtype.kind == "f" else -1
    pads = [((0, 0), (0, width - part.shape[1])) for part in parts]
    return np.concatenate(
        [np.pad(p, pad, constant_values=nothing) for p, pad in zip(parts, pads, strict=True)]
    )


def _are_lists(values: pd.Series) -> bool:
    return values.dtype == object and any(isinstance(value, np.ndarray) for value in values)


def _of_lists(values: pd.Series, part: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """A column of lists as numbers (row, rank), and which rows are none that can be."""
    lists = [value if isinstance(value, np.ndarray) else np.zeros(0) for value in values]
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    flat, wrong = _numbers(pd.Series(np.concatenate(lists)), part)
    row = np.repeat(np.arange(len(lists)), lengths)
    bad = np.zeros(len(lists), bool)
    bad[row[wrong]] = True
    whole = np.full((len(lists), max(int(lengths.max()), 1)), np.nan if part == "weight" else -1)
    whole[row, np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)] = flat
    return whole.astype(flat.dtype), bad


def _codes(values: pd.Series, known: dict[Any, int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Sequences as numbers in the order of their first rows, and which are missing."""
    try:
        codes, different = pd.factorize(values)
    except TypeError:
        return np.zeros(len(values), np.int64), np.ones(len(values), bool)
    numbers = [known.setdefault(value, len(known)) for value in different]
    return np.array([*numbers, -1], np.int64)[codes], codes < 0


def _numbers(values: pd.Series, part: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """A column as numbers, and which entries are none that can be."""
    missing = values.isna().to_numpy()
    if values.dtype.kind in "iuf":
        numbers = values.to_numpy()
    elif values.dtype.kind == "b":
        return np.zeros(len(values)), np.ones(len(values), bool)
    else:
        try:
            numeric: Any = pd.to_numeric(values, errors="coerce")
        except (TypeError, ValueError):
            return np.zeros(len(values)), np.ones(len(values), bool)
        numbers = numeric.to_numpy(float)
    if part == "weight":
        # False of NaN too.
        bad = ~(np.abs(numbers) <= float(np.finfo(np.float32).max)) & ~missing
        return np.where(bad, np.nan, numbers).astype(np.float32), bad
    if part == "expert":
        numbers = np.where(missing, -1, numbers)
    bad = ~((np.abs(numbers) <= _LARGEST) & (numbers == np.floor(numbers)))
    return np.where(bad, -1, numbers).astype(np.int64), bad
