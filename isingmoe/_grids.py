"""Grids of parameters, and the Dataset that the points of one make up."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._points import Frame, Stored, frame_of
from isingmoe._text import about

__all__ = ["MAX_POINTS", "Grid", "assemble", "check_size", "without_rounding"]

MAX_POINTS = 1_000_000

_ABOUT = {
    "J": about("coupling J", "coupling"),
    "h": about("field h", "coupling"),
    "temperature": about("temperature T", "coupling"),
    "n_sites": about("number of sites", "site"),
    "n_experts": about("number of experts q"),
    "q": about("number of experts q"),
    "top_k": about("experts that a site holds"),
    "alpha": about("decay exponent α"),
    "length": about("decay length of the couplings", "site"),
}
WHOLE = ("n_sites", "n_experts", "q", "top_k")
_LARGEST_WHOLE = 1 << 53
_ROUNDING = 1e-12

# Numbered points of a grid with few axes have all their corners looked at.
_CORNERED = 8
_SAMPLED = 64


@dataclass(frozen=True)
class Grid:
    """Values of each parameter; the last one runs fastest.

    Attributes
    ----------
    values : dict of str to ndarray (n,)
    """

    values: dict[str, NDArray]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Grid:
        """Check the values of each parameter.

        Raises
        ------
        TypeError, ValueError
            If there are none, too many, or any that cannot be on an axis.
        """
        if not values:
            raise ValueError(
                "grid: expected a parameter with its values, such as J=[0.5, 1.0], got none"
            )
        check_size({name: _length(name, axis) for name, axis in values.items()})
        return cls({name: _checked(name, axis) for name, axis in values.items()})

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each parameter."""
        return tuple(map(len, self.values.values()))

    @property
    def size(self) -> int:
        """Number of points."""
        return math.prod(self.shape)

    def at(self, index: int) -> dict[str, Any]:
        """The parameters of a point, as Python's own numbers."""
        places = np.unravel_index(index, self.shape)
        return {
            name: axis[i].item()
            for (name, axis), i in zip(self.values.items(), places, strict=True)
        }

    def where(self, index: int) -> str:
        """A point in words."""
        return ", ".join(
            f"{name} = {value:.6g}" if isinstance(value, float) else f"{name} = {value}"
            for name, value in self.at(index).items()
        )

    @cached_property
    def probes(self) -> list[int]:
        """Points to try first: the corners, and some of the others."""
        probes = set(np.linspace(0, self.size - 1, min(self.size, _SAMPLED)).astype(int).tolist())
        if len(self.shape) <= _CORNERED:
            ends = [np.argsort(axis, kind="stable")[[0, -1]] for axis in self.values.values()]
            corners = np.meshgrid(*ends, indexing="ij")
            probes.update(np.ravel_multi_index(corners, self.shape).ravel().tolist())
        return sorted(probes)

    def described(self) -> dict[str, dict[str, Any]]:
        """What tells this grid from another, short enough for an attribute."""
        return {
            name: {
                "n": len(axis),
                "first": axis[0].item(),
                "last": axis[-1].item(),
                "sha256": hashlib.sha256(repr(axis.tolist()).encode()).hexdigest()[:16],
            }
            for name, axis in self.values.items()
        }


def check_size(counts: Mapping[str, int]) -> None:
    """Raise a ValueError where a grid has too many points."""
    size = math.prod(counts.values())
    if size > MAX_POINTS:
        shown = " x ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(
            f"grid: expected at most {MAX_POINTS} points, got {size} ({shown}); take fewer values"
        )


def _length(name: str, axis: Any) -> int:
    if isinstance(axis, str | bytes) or not hasattr(axis, "__len__"):
        raise TypeError(
            f"{name}: expected a list of values, got {axis!r}; a single one belongs in the chain"
        )
    try:
        return len(axis)
    except TypeError:
        raise TypeError(
            f"{name}: expected a list of values, got the single {axis!r}; put it into the chain"
        ) from None


def _checked(name: str, axis: Any) -> NDArray:
    try:
        values = np.array(axis)
    except ValueError:
        values = np.empty((0, 0))
    if values.ndim != 1:
        raise ValueError(
            f"{name}: expected a list of numbers, got shape {np.shape(values)}; for a parameter of "
            "each expert give a function of the grid's values in place of the chain"
        )
    if not len(values):
        raise ValueError(f"{name}: expected at least one value, got an empty list")
    if values.dtype.kind not in "iufU" or (name in _ABOUT and values.dtype.kind == "U"):
        raise TypeError(f"{name}: expected numbers, got {axis!r:.100}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"{name}: expected finite numbers, got {values[place]} at place {place}")
    if name in WHOLE:
        odd = (values != np.rint(values)) | (np.abs(values) > _LARGEST_WHOLE)
        if odd.any():
            raise ValueError(f"{name}: expected whole numbers, got {values[odd][0]}; round them")
        values = values.astype(np.int64)
    elif name in _ABOUT:
        values = values.astype(float)
    different, count = np.unique(values, return_counts=True)
    if len(different) < len(values):
        raise ValueError(
            f"{name}: expected different values, got {different[count > 1][0]} more than once"
        )
    return values


def assemble(grid: Grid, points: Mapping[int, Stored]) -> xr.Dataset:
    """One Dataset over the grid from all its points.

    Variables of different sizes are padded at their ends with NaN, and text with nothing;
    those with a coordinate are aligned by it.

    Raises
    ------
    ValueError
        If a variable has different dims at different points, or the name of a parameter.
    """
    groups: dict[bytes, list[int]] = {}
    for index in range(grid.size):
        groups.setdefault(points[index].frame, []).append(index)
    frames = {frame: frame_of(frame) for frame in groups}
    _check_names(grid, frames, groups)
    labels, sizes = _common(list(frames.values()))
    everywhere = _filled_everywhere(list(frames.values()), sizes)
    declared = _declared(list(frames.values()))
    arrays = {}
    for name, (dims, dtype, _, _) in declared.items():
        shape = (grid.size, *(sizes[dim] for dim in dims))
        if name in everywhere:
            arrays[name] = np.empty(shape, dtype)
        elif dtype.kind == "U":
            arrays[name] = np.full(shape, "", dtype)
        else:
            arrays[name] = np.full(shape, np.nan, np.result_type(dtype, np.float16))
    for frame, indices in groups.items():
        _fill(arrays, frames[frame], indices, points, labels)
    variables: dict[str, Any] = {
        name: ((*grid.values, *dims), arrays[name].reshape(*grid.shape, *arrays[name].shape[1:]), a)
        for name, (dims, _, a, _) in declared.items()
    }
    variables |= {dim: ((dim,), *labelled) for dim, labelled in labels.items()}
    variables |= {
        name: ((name,), axis, _ABOUT.get(name, about(name))) for name, axis in grid.values.items()
    }
    result = xr.Dataset(variables).set_coords(
        [name for name, entry in declared.items() if entry[3]]
    )
    shared = [frame.attributes for frame in frames.values()]
    result.attrs = {
        key: value for key, value in shared[0].items() if all(a.get(key) == value for a in shared)
    }
    return result


def without_rounding(values: xr.DataArray) -> xr.DataArray:
    """A quantity over a grid, with 0 in place of what rounding errors have left of it.

    Below 1e-12 of what is natural: 1 where there are no units. Where there are, tiny values
    are as exact as any, except among others of both signs, which are sums that cancel.
    """
    if values.dtype.kind != "f":
        return values
    size = np.abs(values.values)
    scale = 1.0
    if values.attrs.get("units", "1") != "1":
        mixed = bool((values < 0).any() and (values > 0).any())
        scale = min(1.0, np.max(size, where=np.isfinite(size), initial=0.0)) if mixed else 0.0
    return values.copy(data=np.where(size < _ROUNDING * scale, 0.0, values.values))


def _check_names(
    grid: Grid, frames: Mapping[bytes, Frame], groups: Mapping[bytes, list[int]]
) -> None:
    for key, frame in frames.items():
        where = grid.where(groups[key][0])
        for name in (
            *frame.variables,
            *(d for dims, _, _ in frame.variables.values() for d in dims),
        ):
            if name in grid.values:
                raise ValueError(
                    f"{name}: expected another name for the parameter, as the result has "
                    f"a variable or dim {name} at {where}"
                )


def _declared(frames: list[Frame]) -> dict[str, tuple[tuple[str, ...], np.dtype, Any, bool]]:
    """Dims, dtype and attributes of every variable that is not an index."""
    declared: dict[str, tuple[tuple[str, ...], np.dtype, Any, bool]] = {}
    for frame in frames:
        for name, (dims, attributes, is_coordinate) in frame.variables.items():
            if name in frame.index:
                continue
            dtype = frame.dtype[name].base
            if name in declared:
                known, other, attributes, is_coordinate = declared[name]
                if known != dims:
                    raise ValueError(
                        f"{name}: expected the same dims at all points, got ({', '.join(known)}) "
                        f"and ({', '.join(dims)}); leave it out with drop_dims, or sweep apart"
                    )
                dtype = np.result_type(dtype, other)
            declared[name] = (dims, dtype, attributes, is_coordinate)
    return declared


def _common(frames: list[Frame]) -> tuple[dict[str, tuple[NDArray, Any]], dict[str, int]]:
    """Labels of the dims that have them, and the size of every dim, over all points."""
    labels: dict[str, tuple[NDArray, Any]] = {}
    sizes: dict[str, int] = {}
    for frame in frames:
        for name, values in frame.index.items():
            if name not in labels:
                labels[name] = (values, frame.variables[name][1])
            elif not np.array_equal(labels[name][0], values):
                if len(np.unique(values)) < len(values):
                    raise ValueError(f"{name}: expected different labels, got one twice")
                labels[name] = (np.union1d(labels[name][0], values), labels[name][1])
    for frame in frames:
        for dim, size in _sizes(frame).items():
            if dim in labels and dim not in frame.index:
                raise ValueError(f"{dim}: expected labels at all points or at none")
            sizes[dim] = len(labels[dim][0]) if dim in labels else max(sizes.get(dim, 0), size)
    return labels, sizes


def _sizes(frame: Frame) -> dict[str, int]:
    sizes = {name: len(values) for name, values in frame.index.items()}
    for name, (dims, _, _) in frame.variables.items():
        if name not in frame.index:
            sizes.update(zip(dims, frame.dtype[name].shape, strict=True))
    return sizes


def _filled_everywhere(frames: list[Frame], sizes: Mapping[str, int]) -> set[str]:
    """Variables that need no padding."""
    return {
        name
        for name in frames[0].variables
        if all(
            name in frame.variables
            and all(_sizes(frame)[dim] == sizes[dim] for dim in frame.variables[name][0])
            for frame in frames
        )
    }


def _fill(
    arrays: Mapping[str, NDArray],
    frame: Frame,
    indices: list[int],
    points: Mapping[int, Stored],
    labels: Mapping[str, tuple[NDArray, Any]],
) -> None:
    """Put the points that share a frame into their places."""
    if not frame.dtype.itemsize:
        return
    table = np.frombuffer(b"".join(points[i].data for i in indices), frame.dtype)
    for name in frame.dtype.names or ():
        places = []
        for dim, size in zip(frame.variables[name][0], frame.dtype[name].shape, strict=True):
            place = np.arange(size)
            if dim in labels and not np.array_equal(labels[dim][0], frame.index[dim]):
                place = np.searchsorted(labels[dim][0], frame.index[dim])
            places.append(place)
        arrays[name][np.ix_(indices, *places)] = table[name]
