"""A grown store as the file or the store that was asked for, a chunk in memory at a time."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from isingmoe._growing import dims_of, publish

__all__ = ["write_netcdf", "write_zarr"]

# Of gzip: a higher one takes longer than it saves.
_LEVEL = 4


def write_netcdf(folder: Path, file: Path, leave: str) -> None:
    """Write a store as NetCDF-4, positions past the longest sequence left out.

    Parameters
    ----------
    folder : Path
        A consolidated Zarr store.
    file : Path
        To be made.
    leave : str
        An attribute that stays behind.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    stop = threading.Event()
    # Neither a failed write nor an interrupt may reach HDF5 in the middle of a call: it would
    # crash. Interrupts come to the main thread alone.
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(_write_netcdf, folder, file, leave, stop)
        try:
            written.result()
        finally:
            stop.set()


def _write_netcdf(folder: Path, file: Path, leave: str, stop: threading.Event) -> None:
    import h5netcdf
    import zarr

    store: Any = zarr.open_consolidated(str(folder), mode="r")
    longest = _longest(store)
    with _Sink(file, "w+") as sink, h5netcdf.File(sink, "w") as target:
        target.attrs.update({name: v for name, v in store.attrs.items() if name != leave})
        # Sorted, so that the same content is the same file.
        for name, array in sorted(store.arrays()):
            dims = dims_of(array)
            sizes = {d: longest if d == "position" else n for d, n in _sizes(array).items()}
            for dim in dims:
                if dim not in target.dimensions:
                    target.dimensions[dim] = sizes[dim]
            chunks = tuple(min(c, sizes[d]) for c, d in zip(array.chunks, dims, strict=True))
            variable = target.create_variable(
                name,
                dims,
                array.dtype,
                chunks=chunks,
                compression="gzip",
                compression_opts=_LEVEL,
                shuffle=True,
            )
            variable.attrs.update(dict(array.attrs))
            for region in _regions(tuple(sizes.values()), chunks):
                if stop.is_set():
                    return
                variable[region] = array[region]
                sink.check()


class _Sink(io.FileIO):
    """A file that lets HDF5 believe that every write succeeded.

    What comes after the first error is lost; `check` and the end of the context raise it.
    """

    _error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write all of it."""
        view = memoryview(data).cast("B")
        size = len(view)
        while view and self._error is None:
            view = view[self._attempt(super().write, view) :]
        return size

    def truncate(self, size: int | None = None, /) -> int:
        """Cut or extend the file."""
        return self._attempt(super().truncate, size)

    def _attempt(self, function: Callable[[Any], int], argument: Any) -> int:
        try:
            return function(argument)
        except OSError as error:
            self._error = error
            return 0

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error

    def __exit__(self, *told: Any) -> None:
        super().__exit__(*told)
        self.check()


def write_zarr(folder: Path, target: Path, leave: str) -> None:
    """Write a store as another, positions past the longest sequence left out.

    Files are linked where that is possible: those of a store are replaced, never changed.

    Parameters
    ----------
    folder : Path
        A consolidated Zarr store.
    target : Path
        To be made.
    leave : str
        An attribute that stays behind.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    import zarr

    shutil.copytree(folder, target, copy_function=_link)
    shown: Any = zarr.open_consolidated(str(folder), mode="r")
    store: Any = zarr.open_group(str(target), mode="r+", use_consolidated=False)
    longest = _longest(shown)
    for _, array in store.arrays():
        sizes = _sizes(array)
        if "position" in sizes:
            array.resize(tuple(longest if d == "position" else n for d, n in sizes.items()))
    del store.attrs[leave]
    publish(target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Not every file system has links.
        shutil.copy2(source, target)


def _longest(store: Any) -> int:
    """Tokens of the longest sequence; a dimension of no size would be no trace."""
    return max(int(store["length"][:].max()), 1)


def _sizes(array: Any) -> dict[str, int]:
    return dict(zip(dims_of(array), array.shape, strict=True))


def _regions(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """The places of the chunks."""
    yield from itertools.product(
        *(
            [slice(start, min(start + step, size)) for start in range(0, size, step)]
            for size, step in zip(shape, chunks, strict=True)
        )
    )
