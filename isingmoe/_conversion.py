"""A grown store as the file or the store that was asked for, a chunk in memory at a time."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from isingmoe._growing import dims_of, publish

__all__ = ["write_netcdf", "write_zarr"]

# Of gzip: a higher one takes longer than it saves.
_LEVEL = 4
# That compress, each a chunk of one layer.
_THREADS = min(os.cpu_count() or 1, 8)


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
    import h5py
    import zarr

    store: Any = zarr.open_consolidated(str(folder), mode="r")
    longest = _longest(store)
    # Sorted, so that the same content is the same file.
    arrays = sorted(store.arrays())
    with _Sink(file, "w+") as sink:
        with h5netcdf.File(sink, "w") as target:
            target.attrs.update({name: v for name, v in store.attrs.items() if name != leave})
            for name, array in arrays:
                _declare(target, name, array, longest)
        sink.check()
        with h5py.File(sink, "r+") as content:
            datasets: list[tuple[Any, Any]] = [(content[name], array) for name, array in arrays]
            _fill(datasets, sink, stop)


def _declare(target: Any, name: str, array: Any, longest: int) -> None:
    """Make a variable without its content."""
    dims = dims_of(array)
    sizes = {d: longest if d == "position" else n for d, n in _sizes(array).items()}
    for dim in dims:
        if dim not in target.dimensions:
            target.dimensions[dim] = sizes[dim]
    variable = target.create_variable(
        name,
        dims,
        array.dtype,
        chunks=tuple(min(c, sizes[d]) for c, d in zip(array.chunks, dims, strict=True)),
        compression="gzip",
        compression_opts=_LEVEL,
        shuffle=True,
    )
    variable.attrs.update(dict(array.attrs))


def _fill(datasets: list[tuple[Any, Any]], sink: _Sink, stop: threading.Event) -> None:
    """Write chunks in their order, a few of which are compressed at a time."""
    waiting: deque[tuple[Any, tuple[slice, ...], Future[bytes]]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        for dataset, array in datasets:
            for region in _regions(dataset.shape, dataset.chunks):
                if stop.is_set():
                    return
                packed = pool.submit(_packed, array, region, dataset.chunks)
                waiting.append((dataset, region, packed))
                if len(waiting) > _THREADS:
                    _put(*waiting.popleft())
                sink.check()
        while waiting:
            _put(*waiting.popleft())


def _packed(array: Any, region: tuple[slice, ...], chunk: tuple[int, ...]) -> bytes:
    """What HDF5's filters shuffle and gzip make of a chunk; they would do one at a time."""
    values = np.zeros(chunk, array.dtype)
    inside = tuple(slice(part.stop - part.start) for part in region)
    values[inside] = array[region]
    planes = values.reshape(-1).view(np.uint8).reshape(-1, values.itemsize)
    return zlib.compress(planes.T.tobytes(), _LEVEL)


def _put(dataset: Any, region: tuple[slice, ...], packed: Future[bytes]) -> None:
    dataset.id.write_direct_chunk(tuple(part.start for part in region), packed.result())


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
