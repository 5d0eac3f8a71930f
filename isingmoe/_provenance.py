"""What made a Dataset: version, verb, arguments, seed and input, as one JSON attribute."""

from __future__ import annotations

import functools
import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from numbers import Integral
from pathlib import Path
from typing import Any

import xarray as xr

__all__ = ["describe", "fingerprint", "record", "software_version"]

_CHUNK = 1 << 20


@functools.cache
def software_version() -> str:
    """Version of the installed package."""
    try:
        return version("isingmoe")
    except PackageNotFoundError:
        return "0+unknown"


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, or of the files of a Zarr store in the order of their names.

    Files that somebody is still writing are left out.
    """
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if _is_whole(p))
    for file in files:
        if file != path:
            digest.update(file.relative_to(path).as_posix().encode())
        with file.open("rb") as stream:
            while block := stream.read(_CHUNK):
                digest.update(block)
    return digest.hexdigest()


def _is_whole(file: Path) -> bool:
    """Whether it is a file, and not one that zarr has yet to rename."""
    return file.suffix != ".partial" and file.is_file()


def describe(dataset: xr.Dataset) -> dict[str, Any]:
    """Where a Dataset came from: its file and hash, or its own provenance if it never was one."""
    if "sha256" in dataset.encoding:
        return {
            "file": Path(dataset.encoding["source"]).name,
            "sha256": dataset.encoding["sha256"],
        }
    text = dataset.attrs.get("provenance", "{}")
    try:
        return {"provenance": json.loads(text)}
    except (ValueError, RecursionError):
        return {"provenance": text}


def record(
    verb: str,
    arguments: dict[str, Any],
    *,
    inputs: dict[str, Any] | None = None,
    seed: Any = None,
) -> str:
    """The provenance attribute.

    Parameters
    ----------
    verb : str
        Name of the public function.
    arguments : dict
        What it was called with, as far as JSON can hold it.
    inputs : dict, optional
        For each input, what `describe` says of it.
    seed : int, SeedSequence or Generator, optional
        Seed of whatever was random; one that is no number is not recorded.

    Returns
    -------
    str
        JSON with sorted keys and no date: the same call leaves the same text.
    """
    entry = {"isingmoe": software_version(), "verb": verb, "arguments": arguments}
    if inputs:
        entry["input"] = inputs
    if isinstance(seed, Integral):
        entry["seed"] = int(seed)
    return json.dumps(entry, sort_keys=True, default=repr)
