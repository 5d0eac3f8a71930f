"""Archives (zip), which may be broken in many ways."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from isingmoe._text import plain

__all__ = ["BROKEN", "archive_names", "opened", "starts_as_archive"]

_SIGNATURE = b"PK\x03\x04"
# What reading an archive raises where it is damaged, or stored as cannot be read here.
BROKEN = (
    OSError,
    EOFError,
    RuntimeError,
    UnicodeDecodeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def archive_names(path: Path) -> list[str] | None:
    """Names of the files in an archive; None where it is none that can be read."""
    if not starts_as_archive(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except BROKEN:
        return None


def starts_as_archive(path: Path) -> bool:
    """Whether a file begins as an archive does, whole or not."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(_SIGNATURE)) == _SIGNATURE


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The arrays of an archive of NumPy's, read as they are asked for.

    Raises
    ------
    ValueError
        If it cannot be read; also for an array that is asked for.
    """
    try:
        # NumPy leaves a broken file open that it has opened itself.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            yield archive
    except BROKEN as error:
        raise ValueError(
            f"{path}: cannot be read, probably truncated ({plain(error, 120)}); copy or write it "
            "again"
        ) from None
