"""Archives (zip), which may be broken in many ways."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

__all__ = ["BROKEN", "archive_names", "starts_as_archive"]

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
