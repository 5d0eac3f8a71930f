"""Datasets in and out of files: clear errors on the way in, whole files on the way out."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from isingmoe._provenance import fingerprint

__all__ = [
    "Saved",
    "check_output",
    "check_suffix",
    "read_content",
    "read_dataset",
    "replace_whole",
    "unwritable",
    "write_dataset",
]

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NETCDF3_SIGNATURE = b"CDF"


def read_dataset(path: str | os.PathLike[str], drop: tuple[str, ...] = ()) -> xr.Dataset:
    """Load a NetCDF-4 file or a Zarr store into memory.

    Parameters
    ----------
    path : path
        A file, or a folder whose name ends in `.zarr`.
    drop : tuple of str
        Variables to leave behind.

    Returns
    -------
    Dataset
        Integers as they are stored, not decoded to floats. `encoding` holds the file's
        name (`source`) and `sha256`.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    ValueError
        If the file is empty, truncated or of another kind.
    ImportError
        If a Zarr store is given and zarr is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; check the name")
    dataset = _read_zarr(path, drop) if path.is_dir() else _read_netcdf(path, drop)
    dataset.encoding.update(source=str(path), sha256=fingerprint(path))
    return dataset


def read_content(
    path: str | os.PathLike[str],
    *,
    conventions: str,
    variables: Iterable[str],
    attributes: Iterable[str],
    remedy: str,
) -> xr.Dataset:
    """Load a file of ours, as `read_dataset` does.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, ValueError, ImportError
        As `read_dataset`; also where a file is not what it should be, or has lost a part of it.
    """
    dataset = read_dataset(path)
    found = str(dataset.attrs.get("conventions", "none"))[:100]
    if found != conventions:
        raise ValueError(
            f"{path}: attribute conventions: expected {conventions!r}, got {found!r}; {remedy}"
        )
    missing = [name for name in variables if name not in dataset.variables]
    missing += [f"attribute {name}" for name in attributes if name not in dataset.attrs]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)}: missing; {remedy}")
    return dataset


def _read_netcdf(path: Path, drop: tuple[str, ...]) -> xr.Dataset:
    with path.open("rb") as stream:
        start = stream.read(len(_HDF5_SIGNATURE))
    if not start:
        raise ValueError(f"{path}: empty file; expected NetCDF-4, write it again")
    if start.startswith(_NETCDF3_SIGNATURE):
        raise ValueError(
            f"{path}: expected NetCDF-4, got NetCDF-3; convert it with `nccopy -k nc4`"
        )
    if start != _HDF5_SIGNATURE:
        raise ValueError(f"{path}: expected NetCDF-4, got another kind of file; check the name")
    try:
        with xr.open_dataset(
            path, engine="h5netcdf", mask_and_scale=False, drop_variables=drop
        ) as dataset:
            return dataset.load()
    except (OSError, KeyError, RuntimeError) as error:
        detail = str(error).splitlines()[0]
        raise ValueError(
            f"{path}: cannot be read, probably truncated ({detail}); copy or write it again"
        ) from error


def _read_zarr(path: Path, drop: tuple[str, ...]) -> xr.Dataset:
    if path.suffix != ".zarr":
        raise IsADirectoryError(
            f"{path}: expected a NetCDF file or a .zarr store, got a directory; name a file in it"
        )
    try:
        import zarr
    except ImportError:
        raise ImportError(
            f"{path}: Zarr stores need zarr; install it with `pip install 'isingmoe[scale]'`"
        ) from None
    try:
        with warnings.catch_warnings():
            # Of a variable without its description; whoever needs it will miss it.
            warnings.simplefilter("ignore", UserWarning)
            # Of a store that grows, only the root's metadata has the same sequences everywhere.
            root = zarr.open_group(str(path), mode="r").metadata
            with xr.open_zarr(
                path,
                chunks=None,
                mask_and_scale=False,
                drop_variables=drop,
                consolidated=root.consolidated_metadata is not None,
            ) as dataset:
                return dataset.load()
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        detail = " ".join(str(error).split())
        raise ValueError(
            f"{path}: cannot be read as a Zarr store ({detail}); copy or write it again"
        ) from error


def check_output(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """A path that can be written to.

    Raises
    ------
    FileExistsError
        If it exists and `overwrite` is false.
    OSError
        If it is a folder that is no Zarr store, or its folder does not exist or cannot be
        written to.
    """
    path = Path(path)
    if path.is_dir() and not (path.suffix == ".zarr" and _is_store(path)):
        raise IsADirectoryError(f"{path}: is a folder; name a file in it")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: exists and is kept; say --overwrite, or another name")
    folder = path.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{path}: no folder {folder}; make it first")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{path}: folder {folder} cannot be written to; name another")
    return path


def check_suffix(path: Path) -> Path:
    """A path whose name says in which format it is.

    Raises
    ------
    ValueError
        If it ends in neither .nc nor .zarr.
    """
    if path.suffix not in (".nc", ".zarr"):
        raise ValueError(f"{path}: expected a name that ends in .nc or .zarr")
    return path


def _is_store(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("zarr.json", ".zgroup"))


def write_dataset(
    dataset: xr.Dataset, path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write a Dataset as compressed NetCDF-4, or as Zarr where the name ends in `.zarr`.

    Parameters
    ----------
    dataset : Dataset
    path : path
    overwrite : bool
        Whether an existing file may be replaced.

    Returns
    -------
    Path
        Where it is.

    Raises
    ------
    OSError
        As `check_output` does.

    Notes
    -----
    The file appears under its name only when it is whole.
    """
    path = check_output(path, overwrite)
    if path.suffix == ".zarr":
        stored = {
            name: _store_encoding(variable)
            for name, variable in dataset.variables.items()
            if variable.dtype.kind in "iuf"
        }
        return replace_whole(
            path,
            lambda part: dataset.to_zarr(part, mode="w", consolidated=False, encoding=stored),
        )
    encoding = {
        name: {
            "zlib": True,
            "complevel": 6,
            "shuffle": True,
            "_FillValue": None,
            "chunksizes": _chunks(variable),
        }
        for name, variable in dataset.variables.items()
        if variable.ndim and variable.dtype.kind in "iuf"
    }
    return replace_whole(
        path, lambda part: dataset.to_netcdf(part, engine="h5netcdf", encoding=encoding)
    )


def _chunks(variable: xr.Variable) -> tuple[int, ...]:
    """One layer to a chunk, which is how traces are read."""
    return tuple(1 if dim == "layer" else max(size, 1) for dim, size in variable.sizes.items())


def _store_encoding(variable: xr.Variable) -> dict[str, Any]:
    encoding: dict[str, Any] = {"_FillValue": None, "write_empty_chunks": True}
    if variable.ndim:
        encoding["chunks"] = _chunks(variable)
    if variable.dtype.kind == "i":
        # A chunk that is lost is read as this: an id and a length that cannot be.
        encoding["fill_value"] = int(np.iinfo(variable.dtype).min)
    return encoding


def replace_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Write under a temporary name beside the target, then move it into place.

    Raises
    ------
    OSError
        If that cannot be done; it names the target.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        part = folder / path.name
        write(part)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        part.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def unwritable(path: Path, error: OSError) -> OSError:
    """The error for a target whose temporary file or folder cannot be made or written."""
    reason = error.strerror or " ".join(str(error).split())
    text = f"{path}: cannot be written ({reason}); name another folder"
    return type(error)(text) if isinstance(error, PermissionError) else OSError(text)


class Saved:
    """What holds a Dataset and is written as it.

    Attributes
    ----------
    data : Dataset
    """

    data: xr.Dataset

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write it as NetCDF-4.

        Raises
        ------
        OSError
            If the file exists and `overwrite` is false, or it cannot be written.
        """
        write_dataset(self.data, path, overwrite=overwrite)
