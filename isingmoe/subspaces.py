"""Subspaces of the router's input, one for each band of frequencies of the position encoding."""

from __future__ import annotations

import os

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._storage import read_content, write_dataset

__all__ = [
    "CONVENTIONS",
    "basis_of",
    "checked_subspaces",
    "open_subspaces",
    "random_basis",
    "save_subspaces",
]

CONVENTIONS = "isingmoe-subspaces-1"
_DIMS = {"basis": ("layer", "band", "direction", "feature"), "wavelength": ("band",)}


def open_subspaces(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read subspaces that `save_subspaces` wrote.

    Parameters
    ----------
    path : path

    Returns
    -------
    Dataset
        As `rope_subspaces` makes it.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, ValueError
        If the file cannot be read or holds something else.
    """
    data = read_content(
        path,
        conventions=CONVENTIONS,
        variables=("layer", *_DIMS),
        attributes=("model",),
        remedy="make some with isingmoe.rope_subspaces",
    )
    return checked_subspaces(data)


def save_subspaces(
    subspaces: xr.Dataset, path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write subspaces, so that the model is not needed again.

    Parameters
    ----------
    subspaces : Dataset
        As `rope_subspaces` makes it.
    path : path
        NetCDF-4, or Zarr where the name ends in `.zarr`.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    ValueError
        If a variable or a dim is missing.
    OSError
        If the file exists or cannot be written.
    """
    write_dataset(checked_subspaces(subspaces), path, overwrite=overwrite)


def checked_subspaces(subspaces: xr.Dataset) -> xr.Dataset:
    """Subspaces with the variables and dims that a probe reads.

    Raises
    ------
    ValueError
        If one is missing or not finite.
    """
    name = _name(subspaces)
    for variable, dims in _DIMS.items():
        if variable not in subspaces:
            raise ValueError(f"{name}: {variable}: missing; make some with isingmoe.rope_subspaces")
        found = subspaces[variable]
        if found.dims != dims or not all(found.shape):
            raise ValueError(
                f"{name}: {variable}: expected dims ({', '.join(dims)}), none of them empty, got "
                f"({', '.join(map(str, found.dims))}) of {found.shape}; make some with "
                "isingmoe.rope_subspaces"
            )
        if found.dtype.kind != "f" or not np.isfinite(found.values).all():
            raise ValueError(f"{name}: {variable}: expected finite floats, got others")
    if "layer" not in subspaces.coords:
        raise ValueError(f"{name}: layer: missing; name the model's layers")
    return subspaces


def basis_of(subspaces: xr.Dataset, layer: int, n_features: int) -> NDArray[np.float32]:
    """The directions of every band of a layer, float32 (band, direction, feature).

    Raises
    ------
    ValueError
        If the layer is not there, or is of another width.
    """
    known = subspaces["layer"].values.tolist()
    if layer not in known:
        raise ValueError(
            f"{_name(subspaces)}: layer: expected layer {layer} of the traces, got "
            f"{', '.join(map(str, known))}; choose layers with --layer (traces.sel(layer=..))"
        )
    if subspaces.sizes["feature"] != n_features:
        raise ValueError(
            f"{_name(subspaces)}: feature: expected {n_features}, the width of the hidden states "
            f"of layer {layer}, got {subspaces.sizes['feature']}; name the model they are of"
        )
    return subspaces["basis"].values[known.index(layer)].astype(np.float32)


def random_basis(
    n_directions: int, n_features: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Orthonormal directions without any preference, float32 (direction, feature)."""
    columns, _ = np.linalg.qr(rng.normal(size=(n_features, n_directions)))
    return columns.T.astype(np.float32)


def _name(subspaces: xr.Dataset) -> str:
    return str(subspaces.encoding.get("source", "subspaces"))
