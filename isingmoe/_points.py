"""Finished points of a sweep: a Dataset as bytes, and the folder that keeps them.

A folder holds `manifest.json`, which says what sweep it belongs to, and one log for each
process that computes. A point is one record with a checksum, after another of its warnings
where there were any, appended by one write: what a killed process leaves is a run of whole
records, and at worst the beginning of one more, which is not read.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import struct
import uuid
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from isingmoe._storage import unwritable, write_dataset

__all__ = ["Frame", "PointFolder", "PointLog", "Stored", "encode", "frame_of"]

_KINDS = "biufU"
_MANIFEST = "manifest.json"
_LOG_SUFFIX = ".points"
_PART = ".manifest-"

# Of a record: its tag, the number of the frame or of the point, the size of the content, and
# the checksum of all that with the content.
_HEAD = struct.Struct("<4sQQ")
_SUM = struct.Struct("<I")
_NUMBER = struct.Struct("<Q")
_FRAME, _POINT, _HEARD = b"fram", b"poin", b"warn"

# Windows would translate line ends.
_BINARY = getattr(os, "O_BINARY", 0)


class Stored(NamedTuple):
    """A Dataset as bytes: what points have in common, and what is their own.

    Attributes
    ----------
    frame : bytes
    data : bytes
    heard : tuple of (str, str)
        Warnings while it was computed: the full name of the category, and the text.
    """

    frame: bytes
    data: bytes
    heard: tuple[tuple[str, str], ...] = ()


class Frame(NamedTuple):
    """What the bytes of a point mean.

    Attributes
    ----------
    variables : dict
        Dims, attributes and whether it is a coordinate, by the name of the variable.
    dtype : dtype
        Of a point: a field for each variable that is not an index.
    index : dict
        Values of the coordinates that label a dimension.
    attributes : dict
        Of the Dataset.
    """

    variables: dict[str, tuple[tuple[str, ...], dict[str, Any], bool]]
    dtype: np.dtype
    index: dict[str, np.ndarray]
    attributes: dict[str, Any]


def encode(dataset: xr.Dataset) -> Stored:
    """A Dataset as bytes.

    Raises
    ------
    TypeError
        If a variable or an attribute is something that a file cannot hold.
    """
    variables, index, data = [], [], []
    for name, variable in dataset.variables.items():
        values = np.asarray(variable.values)
        if values.dtype.kind == "O" and all(isinstance(item, str) for item in values.flat):
            values = values.astype(str)
        if values.dtype.kind not in _KINDS:
            raise TypeError(
                f"variable {name}: expected numbers or text, got {values.dtype}; drop or "
                "convert it in the verb"
            )
        values = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<")))
        is_index = variable.dims == (name,)
        variables.append(
            {
                "name": name,
                "dims": variable.dims,
                "dtype": values.dtype.str,
                "shape": variable.shape,
                "attributes": _plain(variable.attrs, f"variable {name}: "),
                "coordinate": name in dataset.coords,
                "index": is_index,
            }
        )
        (index if is_index else data).append(values.tobytes())
    text = json.dumps(
        {"variables": variables, "attributes": _plain(dataset.attrs, "")}, allow_nan=True
    ).encode()
    return Stored(_NUMBER.pack(len(text)) + text + b"".join(index), b"".join(data))


def _plain(attributes: dict[Any, Any], where: str) -> dict[str, Any]:
    return {str(name): _plain_value(value, f"{where}{name}") for name, value in attributes.items()}


def _plain_value(value: Any, where: str) -> Any:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "iufU":
        return value.tolist()
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, list | tuple):
        return [_plain_value(item, where) for item in value]
    raise TypeError(
        f"attribute {where}: expected text or numbers, got {type(value).__name__}; a file cannot "
        "hold it"
    )


@lru_cache(maxsize=1024)
def frame_of(frame: bytes) -> Frame:
    """What a frame says."""
    (size,) = _NUMBER.unpack_from(frame)
    start = _NUMBER.size + size
    content = json.loads(frame[_NUMBER.size : start])
    variables, fields, index = {}, [], {}
    for entry in content["variables"]:
        name, shape = entry["name"], tuple(entry["shape"])
        dtype = np.dtype(entry["dtype"])
        variables[name] = (tuple(entry["dims"]), entry["attributes"], entry["coordinate"])
        if entry["index"]:
            index[name] = np.frombuffer(frame, dtype, shape[0], start)
            start += index[name].nbytes
        else:
            fields.append((name, dtype, shape))
    return Frame(variables, np.dtype(fields), index, content["attributes"])


class PointLog:
    """Appends points to a file of its own in the folder; made at the first of them."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{uuid.uuid4().hex}{_LOG_SUFFIX}"
        self._file: int | None = None
        self._frames: dict[bytes, int] = {}

    def add(self, index: int, stored: Stored) -> None:
        """Store one point."""
        if self._file is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | _BINARY
            self._file = os.open(self._path, flags, 0o666)
        records = b""
        if stored.frame not in self._frames:
            self._frames[stored.frame] = len(self._frames)
            records = _record(_FRAME, self._frames[stored.frame], stored.frame)
        if stored.heard:
            records += _record(_HEARD, index, json.dumps(stored.heard).encode())
        content = _NUMBER.pack(self._frames[stored.frame]) + stored.data
        rest = memoryview(records + _record(_POINT, index, content))
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _record(tag: bytes, number: int, content: bytes) -> bytes:
    head = _HEAD.pack(tag, number, len(content))
    return head + _SUM.pack(zlib.crc32(content, zlib.crc32(head))) + content


def _records(log: Path) -> Iterator[tuple[bytes, int, bytes]]:
    """The whole records at the beginning of a log."""
    with log.open("rb") as stream:
        while len(start := stream.read(_HEAD.size + _SUM.size)) == _HEAD.size + _SUM.size:
            tag, number, size = _HEAD.unpack_from(start)
            (expected,) = _SUM.unpack_from(start, _HEAD.size)
            # A size that is damaged could be anything.
            if size > os.fstat(stream.fileno()).st_size:
                return
            content = stream.read(size)
            found = zlib.crc32(content, zlib.crc32(start[: _HEAD.size]))
            if len(content) < size or found != expected:
                return
            yield tag, number, content


class PointFolder:
    """The folder beside a target that keeps the finished points until all are.

    Parameters
    ----------
    target : Path
        The file that the sweep will write.
    """

    def __init__(self, target: Path) -> None:
        self.path = target.parent / f"{target.name}.points"
        self._target = target
        self._lock: int | None = None
        self._ours: str | None = None

    def manifest(self) -> str | None:
        """What the folder says of its sweep; None where there is none."""
        try:
            return (self.path / _MANIFEST).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def take(self) -> None:
        """Make the folder, or take the one that is there, so that no other process does.

        Raises
        ------
        BlockingIOError
            If another process is at work in it.
        OSError
            If it cannot be made.
        """
        while True:
            try:
                self.path.mkdir(exist_ok=True)
            except OSError as error:
                raise unwritable(self._target, error) from error
            try:
                self._hold()
            except FileNotFoundError:
                continue
            # Who had it before may have removed it while we waited for the lock.
            if self._lock is None or self._is_the_one():
                return
            os.close(self._lock)
            self._lock = None

    def _hold(self) -> None:
        try:
            import fcntl
        except ImportError:
            return
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = None
            raise BlockingIOError(
                f"{self.path}: another process is computing a sweep here; wait for it, or name "
                "another path"
            ) from None
        except OSError:
            # A file system without locks.
            os.close(self._lock)
            self._lock = None

    def _is_the_one(self) -> bool:
        """Whether the folder under our name is the one that we hold."""
        try:
            return self._lock is None or os.path.samestat(os.fstat(self._lock), self.path.stat())
        except FileNotFoundError:
            return False

    def begin(self, manifest: str) -> None:
        """Say what sweep the folder, which was taken, belongs to."""
        if self.manifest() is None:
            part = self.path / f"{_PART}{uuid.uuid4().hex}"
            part.write_text(manifest, encoding="utf-8")
            part.replace(self.path / _MANIFEST)
        self._ours = manifest

    def is_ours(self) -> bool:
        """Whether the folder is still the one that was taken, for the sweep that was begun."""
        return self._is_the_one() and self.manifest() == self._ours

    def check(self) -> None:
        """Raise an OSError where something else has taken the place of this sweep."""
        if not self.is_ours():
            raise OSError(
                f"{self.path}: was removed or replaced while the sweep was computed; run it again"
            )

    def release(self) -> None:
        """Let another process have the folder; an empty one goes."""
        if self._is_the_one():
            with contextlib.suppress(OSError):
                self.path.rmdir()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def finished(self) -> set[int]:
        """Numbers of the points that are stored."""
        logs = self.path.glob(f"*{_LOG_SUFFIX}")
        return {number for log in logs for tag, number, _ in _records(log) if tag == _POINT}

    def read(self) -> dict[int, Stored]:
        """All points that are stored, by their numbers."""
        points: dict[int, Stored] = {}
        for log in sorted(self.path.glob(f"*{_LOG_SUFFIX}")):
            frames: dict[int, bytes] = {}
            heard: dict[int, Any] = {}
            for tag, number, content in _records(log):
                if tag == _FRAME:
                    frames[number] = content
                elif tag == _HEARD:
                    heard[number] = tuple(map(tuple, json.loads(content)))
                elif tag == _POINT:
                    (frame,) = _NUMBER.unpack_from(content)
                    data = content[_NUMBER.size :]
                    points[number] = Stored(frames[frame], data, heard.pop(number, ()))
        return points

    def publish(self, dataset: xr.Dataset) -> None:
        """Write the result where it belongs, replacing what is there; all else goes.

        It is written in the folder and then moved: whatever ends that leaves no half file
        outside.

        Raises
        ------
        OSError
            If the folder is not ours any more, or the file cannot be written.
        """
        self.check()
        self._clear_parts()
        part = write_dataset(dataset, self.path / self._target.name)
        if self._target.is_dir() and not self._target.is_symlink():
            shutil.rmtree(self._target)
        part.replace(self._target)
        self.clear()

    def _clear_parts(self) -> None:
        name = self._target.name
        for part in (self.path / name, *self.path.glob(f".{glob.escape(name)}.*")):
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete what is ours; the manifest last, as without it nothing here is read."""
        self._clear_parts()
        for pattern in (f"*{_LOG_SUFFIX}", f"{_PART}*", _MANIFEST):
            for file in self.path.glob(pattern):
                file.unlink(missing_ok=True)

    def discard(self, manifest: str) -> None:
        """Delete what a sweep has left behind, if this is its folder and nobody is at work."""
        if self.manifest() != manifest:
            return
        with contextlib.suppress(OSError):
            self.take()
            try:
                if self.manifest() == manifest:
                    self.clear()
            finally:
                self.release()
