"""Traces out of the files of serving and training engines: one module for each format.

A module of a format has

- `NAME`, what `format` and `--format` call it;
- `DESCRIPTION`, what writes it, in a line;
- `CANNOT_KNOW`, what the files do not say;
- `looks_like(path)`, whether a file or folder that exists is in the format, by its content
  and without reading all of it; never an error;
- `read(source, **options)`, the traces, whose keyword parameters are the format's options.
"""

from __future__ import annotations

import importlib
import inspect
import os
from pathlib import Path
from typing import Any, Protocol

import xarray as xr

from isingmoe import _provenance
from isingmoe.readers.interleaving import warn_if_interleaved
from isingmoe.readers.ranking import check_ranked

__all__ = ["FORMATS", "Reader", "detected_format", "import_traces", "reader_of"]

FORMATS = {
    "vllm": "isingmoe.readers.vllm",
    "sglang": "isingmoe.readers.sglang",
    "megatron": "isingmoe.readers.megatron",
    "llama.cpp": "isingmoe.readers.llama_cpp",
    "npz": "isingmoe.readers.arrays",
    "jsonl": "isingmoe.readers.records",
    "table": "isingmoe.readers.tables",
}
# Of no engine: a file that one of the others knows as its own is not theirs.
_PLAIN = ("npz", "jsonl", "table")


class Reader(Protocol):
    """A module that reads one format."""

    NAME: str
    DESCRIPTION: str
    CANNOT_KNOW: str

    def looks_like(self, path: Path) -> bool:
        """Whether a file or folder is in the format."""
        ...

    def read(self, source: Path, **options: Any) -> xr.Dataset:
        """The traces of a file or folder."""
        ...


def reader_of(format: str) -> Reader:  # noqa: A002
    """The reader of a format.

    Raises
    ------
    ValueError
        If there is none of that name, listing those that there are.
    """
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    module: Any = importlib.import_module(FORMATS[format])
    return module


def import_traces(
    source: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002
    **options: Any,
) -> xr.Dataset:
    """Read the expert choices that a serving or training engine has written.

    Parameters
    ----------
    source : path
        A file, or a folder of files of one format.
    format : {"vllm", "sglang", "megatron", "llama.cpp", "npz", "jsonl", "table"}, optional
        By default the one that the content is of.
    **options
        What the format asks for, such as `num_experts`, `layers` and `micro_batch_size`;
        docs/import.md lists them. None counts as not given.

    Returns
    -------
    Dataset
        Traces; docs/traces.md lists the variables.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the format cannot be told, an option is missing that the files do not make up
        for, or a record is not as the format says; with the file and the line.
    TypeError
        If an option is not one of the format's.
    ImportError
        If the format needs an extra that is not installed, with the line that installs it.

    Warns
    -----
    InterleavedTraceWarning
        Where the rows of several sequences seem to take turns.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; check the name")
    name = format or detected_format(path)
    reader = reader_of(name)
    given = {key: value for key, value in options.items() if value is not None}
    known = [
        parameter.name
        for parameter in inspect.signature(reader.read).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    for key in given:
        if key not in known:
            raise TypeError(
                f"{path}: {key}: not an option of format {name}; expected some of "
                f"{', '.join(known)}"
            )
    traces = reader.read(path, **given)
    check_ranked(traces, path)
    traces.attrs.setdefault("source", f"{path.name}, {reader.DESCRIPTION}")
    traces.attrs["provenance"] = _provenance.record(
        "import_traces",
        {"format": name, **given},
        inputs={"file": path.name, "sha256": _provenance.fingerprint(path)},
    )
    traces.encoding["source"] = str(path)
    warn_if_interleaved(traces)
    return traces


def detected_format(source: str | os.PathLike[str]) -> str:
    """The format of a file or folder by its content.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is none of them, or cannot be told from several.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; check the name")
    if path.is_file() and not path.stat().st_size:
        raise ValueError(f"{path}: empty file; expected records, write it again")
    found = [name for name in FORMATS if reader_of(name).looks_like(path)]
    found = [name for name in found if name not in _PLAIN] or found
    if len(found) == 1:
        return found[0]
    got = f"what may be {' or '.join(found)}" if found else "none that is known by its content"
    raise ValueError(
        f"{path}: format: expected one of {', '.join(FORMATS)}, got {got}; say which, with --format"
    )
