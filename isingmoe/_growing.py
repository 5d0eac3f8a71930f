"""A Zarr store that grows along its sequences, one commit at a time.

The chunks of new sequences are written first, each to a file that is renamed into place. One
replacement of the root's metadata, which holds the shapes of all variables, then shows the
sequences in all of them at once. A process killed at any moment leaves what the last
replacement showed: a chunk that is not full is written again as it grows, always with the
sequences that it held.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._storage import replace_whole

if sys.platform != "win32":
    import fcntl

__all__ = [
    "UNFINISHED",
    "GrowingStore",
    "build_store",
    "check_zarr",
    "dims_of",
    "discard_unfinished",
    "publish",
    "remove_leftovers",
]

# The attribute of a store that is to grow: what it belongs to.
UNFINISHED = "unfinished"
# The first zarr that writes files whole.
_OLDEST = "3.1.3"
# Of files that zarr has not renamed yet.
_TEMPORARY = "*.partial"
_SEQUENCE = "sequence"


def check_zarr(where: Path) -> None:
    """Raise an ImportError where zarr is missing, or would leave half files."""
    remedy = "install it with `pip install 'isingmoe[capture]'`"
    try:
        import zarr
    except ImportError:
        raise ImportError(f"{where}: a trace that grows needs zarr; {remedy}") from None
    from packaging.version import Version

    if Version(zarr.__version__) < Version(_OLDEST):
        raise ImportError(
            f"{where}: a trace that grows needs zarr {_OLDEST} or newer, got {zarr.__version__}; "
            f"{remedy}"
        )


def build_store(folder: Path, empty: xr.Dataset, rows: int) -> None:
    """Make a store of a Dataset without sequences.

    Parameters
    ----------
    folder : Path
        Replaced where it exists.
    empty : Dataset
        Its dimension `sequence` has size 0; its attribute `unfinished` says what it belongs to.
    rows : int
        Sequences in a chunk; a chunk holds one layer, and all of the other dimensions.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    encoding = {
        name: _encoding(variable, rows)
        for name, variable in empty.variables.items()
        if _SEQUENCE in variable.dims
    }

    def write(part: Path) -> None:
        with _quiet():
            empty.to_zarr(part, mode="w", zarr_format=3, consolidated=True, encoding=encoding)

    replace_whole(folder, write)


def _encoding(variable: xr.Variable, rows: int) -> dict[str, Any]:
    """Quick compression; a chunk that is lost is read as what cannot be."""
    from zarr.codecs import BloscCodec

    dtype = variable.dtype
    nothing = np.iinfo(dtype).min if dtype.kind == "i" else np.nan
    sizes = {**variable.sizes, _SEQUENCE: rows}
    return {
        "chunks": tuple(1 if dim == "layer" else sizes[dim] for dim in variable.dims),
        "compressors": BloscCodec(
            cname="zstd", clevel=1, shuffle="shuffle", typesize=dtype.itemsize
        ),
        "fill_value": dtype.type(nothing),
        "_FillValue": None,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep zarr from saying that version 3 of the format does not name consolidated metadata.

    A reader that does not know it finds the metadata of each variable.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        yield


def publish(folder: Path) -> None:
    """Show the variables as they are now, all at once."""
    import zarr

    with _quiet():
        zarr.consolidate_metadata(str(folder))


class GrowingStore:
    """A store opened to grow, by one process at a time.

    Opening cuts it back to what was committed and removes what killed writers left in it.

    Parameters
    ----------
    folder : Path

    Attributes
    ----------
    folder : Path
    attributes : dict
    fixed : dict of ndarray
        Variables that do not grow.
    growing : dict of dtype
        Of the variables that do.
    sizes : dict of int
        Size of each dimension; of `sequence`, in a chunk.
    n_sequences : int
        Committed.
    n_appended : int
        Committed, or held in memory until the next commit.

    Raises
    ------
    OSError
        If another process holds it, or it cannot be written.
    ValueError
        If it is no such store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = _locked(folder)
        try:
            self._recover()
        except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
            self.close()
            detail = " ".join(str(error).split())
            raise ValueError(
                f"{folder}: expected a trace that is being captured, got another folder or a "
                f"damaged one ({detail}); remove it, or say --overwrite"
            ) from error
        except BaseException:
            self.close()
            raise

    def _recover(self) -> None:
        import zarr

        shown: Any = zarr.open_consolidated(str(self.folder), mode="r")
        self.attributes = dict(shown.attrs)
        if UNFINISHED not in self.attributes:
            raise ValueError(f"no attribute {UNFINISHED}")
        for file in self.folder.rglob(_TEMPORARY):
            file.unlink()
        own: Any = zarr.open_group(str(self.folder), mode="r+", use_consolidated=False)
        self._arrays = {name: own[name] for name, _ in shown.arrays()}
        for name, array in shown.arrays():
            if self._arrays[name].shape != array.shape:
                self._arrays[name].resize(array.shape)
        self._dims = {name: dims_of(array) for name, array in shown.arrays()}
        growing = [name for name, dims in self._dims.items() if _SEQUENCE in dims]
        self.fixed = {n: a[...] for n, a in shown.arrays() if n not in growing}
        self.growing = {name: self._arrays[name].dtype for name in growing}
        self.sizes: dict[str, int] = {}
        for name in growing:
            self.sizes |= zip(self._dims[name], self._arrays[name].shape, strict=True)
        self.n_sequences = self.n_appended = self.sizes[_SEQUENCE]
        self.sizes[_SEQUENCE] = rows = int(self._arrays["length"].chunks[0])
        # The chunk that is not full, and behind it whatever an earlier one held.
        self._chunk = {
            name: np.empty([self.sizes[dim] for dim in self._dims[name]], dtype)
            for name, dtype in self.growing.items()
        }
        held = self.n_sequences % rows
        for name, chunk in self._chunk.items():
            last = self._at(name, sequence=slice(self.n_sequences - held, None))
            chunk[self._at(name, sequence=slice(held))] = shown[name][last]

    def _at(self, name: str, **ranges: slice) -> tuple[slice, ...]:
        """An index of a variable by its dims."""
        return tuple(ranges.get(dim, slice(None)) for dim in self._dims[name])

    def append(self, batch: xr.Dataset) -> None:
        """Take sequences, and commit wherever a chunk is full.

        Parameters
        ----------
        batch : Dataset
            All growing variables, with as many positions as they need.

        Raises
        ------
        OSError
            If a full chunk cannot be written. `n_appended` counts those that were taken.
        """
        done, n, rows = 0, batch.sizes[_SEQUENCE], self.sizes[_SEQUENCE]
        while done < n:
            row = self.n_appended % rows
            if row == 0:
                # One that could not be written before.
                self.commit()
            taken = min(rows - row, n - done)
            for name in self.growing:
                values = batch[name].values[self._at(name, sequence=slice(done, done + taken))]
                self._place(name, slice(row, row + taken), values, batch.sizes["position"])
            self.n_appended += taken
            done += taken
        if self.n_appended % rows == 0:
            self.commit()

    def _place(self, name: str, rows: slice, values: NDArray[Any], n_positions: int) -> None:
        chunk = self._chunk[name]
        chunk[self._at(name, sequence=rows, position=slice(n_positions))] = values
        if "position" in self._dims[name]:
            rest = self._at(name, sequence=rows, position=slice(n_positions, None))
            chunk[rest] = -1 if chunk.dtype.kind == "i" else np.nan

    def commit(self) -> None:
        """Write what is held, and show it.

        Raises
        ------
        OSError
            If it cannot be written; it is held and not shown then.
        """
        n = self.n_appended
        if n == self.n_sequences:
            return
        try:
            self._write(n)
        except OSError as error:
            reason = error.strerror or " ".join(str(error).split())
            raise OSError(
                f"{self.folder}: cannot be written ({reason}); make room, and go on with the "
                f"{self.n_sequences} sequences that are kept there"
            ) from error
        self.n_sequences = n

    def _write(self, n: int) -> None:
        held = (n - 1) % self.sizes[_SEQUENCE] + 1
        for name, chunk in self._chunk.items():
            array = self._arrays[name]
            sizes = dict(zip(self._dims[name], array.shape, strict=True))
            array.resize(tuple((sizes | {_SEQUENCE: n}).values()))
            whole = self._at(name, sequence=slice(n - held, n))
            array[whole] = chunk[self._at(name, sequence=slice(held))]
        publish(self.folder)

    def discard(self) -> None:
        """Remove it."""
        _discard(self.folder)

    def close(self) -> None:
        """Let other processes have it."""
        _unlock(self._lock)
        self._lock = None


def dims_of(array: Any) -> tuple[str, ...]:
    """The dims of a Zarr array."""
    return tuple(array.metadata.dimension_names)


def _locked(folder: Path) -> int | None:
    """A lock that ends with the process, where the system has such locks for folders."""
    if sys.platform == "win32":
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if not isinstance(error, BlockingIOError):
            return None
        raise BlockingIOError(
            f"{folder}: is being written by another process; wait for it, or name another output"
        ) from None
    return descriptor


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def discard_unfinished(folder: Path) -> None:
    """Remove a store, unless a process is writing it.

    Raises
    ------
    BlockingIOError
        If one is.
    """
    lock = _locked(folder)
    try:
        _discard(folder)
    finally:
        _unlock(lock)


def _discard(folder: Path) -> None:
    """Whoever is killed meanwhile leaves no half of it under its name."""
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    folder.replace(aside / folder.name)
    shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary folders that killed writers of a file left beside it."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.????????"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
