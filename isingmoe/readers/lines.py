"""Records out of text files, each with its place for an error."""

from __future__ import annotations

import codecs
import collections
import functools
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isingmoe._text import plain
from isingmoe.readers.nested import loads

__all__ = [
    "csv_integers",
    "files_of",
    "first_json",
    "json_lines",
    "json_values",
    "numbered_lines",
]

_BLOCK = 1 << 16
# Bytes that are looked at to tell a format, more where a record does not end in them.
_HEADS = (1 << 12, 1 << 20, 1 << 26)


def files_of(source: Path, suffixes: Sequence[str]) -> list[Path]:
    """A file, or those of a folder with one of the suffixes, in the order of their numbers.

    Raises
    ------
    ValueError
        If the folder has none.
    """
    if not source.is_dir():
        return [source]
    files = [file for file in source.iterdir() if file.suffix in suffixes and file.is_file()]
    if not files:
        raise ValueError(
            f"{source}: expected files that end in {', '.join(suffixes)}, got none; name a file"
        )
    return sorted(files, key=lambda file: _by_number(file.name))


def _by_number(name: str) -> list[tuple[int, str]]:
    """What puts `a2` before `a10`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 file that are not blank, and their numbers from 1.

    Raises
    ------
    ValueError
        If the file is empty, or a line is not UTF-8.
    """
    found = False
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                raise ValueError(
                    f"{path}: line {number}: expected UTF-8 text, got other bytes; name another "
                    "--format, or write the file again"
                ) from None
            if line:
                found = True
                yield number, line
    if not found:
        raise ValueError(f"{path}: empty file; expected records, write it again")


def json_lines(path: Path, arrays: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """Values of a JSONL file, one to a line.

    Parameters
    ----------
    path : Path
    arrays : sequence of str
        Fields whose lists of whole numbers may be arrays.

    Yields
    ------
    where : str
        `FILE: line 7`, for an error.
    value : object

    Raises
    ------
    ValueError
        If the file is empty, or a line is not JSON.
    """
    for number, line in numbered_lines(path):
        where = f"{path}: line {number}"
        yield where, _parsed(line, where, arrays)


def json_values(path: Path, arrays: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """Values of a JSONL file, or of a JSON file: the items of its list, or the one value.

    Parameters
    ----------
    path : Path
    arrays : sequence of str
        Fields whose lists of whole numbers may be arrays.

    Yields
    ------
    where : str
        `FILE: line 7`, or `FILE: item 3`, or `FILE` where there is one value.
    value : object

    Raises
    ------
    ValueError
        If the file is neither, or empty.
    """
    lines = numbered_lines(path)
    (number, line), following = next(lines), next(lines, None)
    first = _tried(line, arrays)
    is_whole = isinstance(first, list) and following is None
    if not is_whole and _of_lines(first, line, following):
        where = f"{path}: line {number}"
        yield where, _parsed(line, where, arrays) if first is None else first
        for number, line in itertools.chain([following] if following else [], lines):
            where = f"{path}: line {number}"
            yield where, _parsed(line, where, arrays)
        return
    whole = first if is_whole else _whole(path, arrays)
    if isinstance(whole, list):
        for place, value in enumerate(whole):
            yield f"{path}: item {place}", value
    else:
        yield str(path), whole


def _of_lines(first: Any, line: str, following: tuple[int, str] | None) -> bool:
    """Whether a file is JSONL, the first line of which may be broken."""
    if first is not None:
        return isinstance(first, dict | list)
    return (
        following is not None
        and line[0] == following[1][0]
        and isinstance(_tried(following[1]), {"{": dict, "[": list}.get(line[0], ()))
    )


def _whole(path: Path, arrays: Sequence[str]) -> Any:
    try:
        return loads(path.read_text("utf-8-sig"), arrays)
    except UnicodeDecodeError:
        # Names the line.
        collections.deque(numbered_lines(path), maxlen=0)
        raise
    except RecursionError:
        raise ValueError(f"{path}: expected JSON or JSONL, got it nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: line {error.lineno}: expected JSON or JSONL, got none ({error.msg} at column "
            f"{error.colno}); mend it"
        ) from None


def first_json(path: Path) -> Any:
    """An outline of the first record of a JSONL or JSON file, to tell formats.

    Lists hold their first item alone, and texts are cut. None where the file is neither, or the
    record is too long to be looked at.
    """
    if not path.is_file():
        return None
    stat = path.stat()
    return _first_json(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(1)
def _first_json(path: Path, *_: int) -> Any:
    with path.open("rb") as stream:
        begin = stream.read(_HEADS[0]).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
        for size in _HEADS if begin in (b"{", b"[") else ():
            stream.seek(0)
            head = stream.read(size)
            is_all = len(head) < size
            text = head.decode("utf-8-sig", "ignore").lstrip()
            found = _first_item(text) if begin == b"[" else _first_object(text, is_all)
            if found is not None or is_all:
                return _outline(found)
    return None


def _first_item(text: str) -> Any:
    """The first item of a list that a text begins with, which may end before the list does."""
    try:
        return json.JSONDecoder().raw_decode(text[1:].lstrip())[0]
    except (ValueError, RecursionError):
        return None


def _first_object(text: str, is_all: bool) -> Any:
    """The first object of JSONL, the first line of which may be broken, or of JSON."""
    lines = text.split("\n", 2)
    # The last of them may have been cut.
    for line in lines[:2] if is_all else lines[:-1][:2]:
        found = _tried(line.strip())
        if isinstance(found, dict):
            return found
    return _tried(text) if is_all else None


def _outline(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _outline(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_outline(part) for part in value[:1]]
    return value[:40] if isinstance(value, str) else value


def csv_integers(
    path: Path, columns: Sequence[str] | None = None, *, delimiter: str = ","
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Whole numbers of a CSV file, block by block.

    Parameters
    ----------
    path : Path
    columns : sequence of str, optional
        Those to read, by the names in the first line, which is then a header; without it
        all columns, and a first line that is not of numbers is passed over.
    delimiter : str

    Yields
    ------
    numbers : int ndarray (row,)
        Numbers of the lines, from 1.
    values : int64 ndarray (row, column)

    Raises
    ------
    ValueError
        With the line, where a column is missing or an entry is no whole number.
    """
    lines = numbered_lines(path)
    number, first = next(lines)
    names = [name.strip() for name in first.split(delimiter)]
    chosen = None
    if columns is not None:
        missing = [name for name in columns if name not in names]
        if missing:
            raise ValueError(
                f"{path}: line {number}: expected a header with {', '.join(columns)}, got "
                f"{plain(first, 60)!r}"
            )
        chosen = [names.index(name) for name in columns]
    elif all(_is_whole(name) for name in names):
        lines = itertools.chain([(number, first)], lines)
    while block := list(itertools.islice(lines, _BLOCK)):
        numbers = np.array([number for number, _ in block])
        try:
            values = np.loadtxt(
                [line for _, line in block],
                dtype=np.int64,
                delimiter=delimiter,
                usecols=chosen,
                ndmin=2,
                comments=None,
            )
        except (ValueError, OverflowError):
            values = None
        if values is None or values.shape[1] != (len(chosen) if chosen else len(names)):
            raise _csv_fault(path, block, delimiter, len(names), chosen)
        yield numbers, values


def _csv_fault(
    path: Path,
    block: list[tuple[int, str]],
    delimiter: str,
    n_columns: int,
    chosen: list[int] | None,
) -> ValueError:
    """The error of the first line that is not as it should be."""
    for number, line in block:
        entries = line.split(delimiter)
        where = f"{path}: line {number}"
        if len(entries) != n_columns:
            return ValueError(
                f"{where}: expected {n_columns} entries, got {plain(line, 60)!r}; mend the line"
            )
        for place in chosen or range(n_columns):
            if not _is_whole(entries[place]):
                return ValueError(
                    f"{where}: expected whole numbers, got {plain(entries[place], 60)!r}; "
                    "mend the line"
                )
    return ValueError(f"{path}: line {block[0][0]}: expected {n_columns} whole numbers")


def _is_whole(text: str) -> bool:
    digits = text.strip().removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 19


def _tried(text: str, arrays: Sequence[str] = ()) -> Any:
    """A value out of JSON, None where there is none."""
    try:
        return loads(text, arrays)
    except (ValueError, RecursionError):
        return None


def _parsed(text: str, where: str, arrays: Sequence[str] = ()) -> Any:
    try:
        return loads(text, arrays)
    except RecursionError:
        raise ValueError(f"{where}: expected JSON, got it nested too deeply") from None
    except ValueError as error:
        raise ValueError(
            f"{where}: expected JSON, got {plain(text, 40)!r} ({error}); mend or drop it"
        ) from None
