"""Figures of sweeps: maps over two parameters, curves over one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import Locator, LogLocator, MaxNLocator
from numpy.typing import NDArray

from isingmoe._grids import without_rounding
from isingmoe._text import plain
from isingmoe.plotting.saving import save_figure
from isingmoe.plotting.style import BLACK, BLUE, GREEN, GREY, ORANGE, shown

__all__ = ["plot_phase_diagram", "quantities"]

_PHASE_QUANTITIES = ("magnetization", "correlation_length", "susceptibility")
_LINES = ("o-", "s--", "^:")
_FAMILY = (BLUE, ORANGE, GREEN, BLACK, GREY)
# A parameter with so few values labels curves.
_FEW = 5
# Points are marked on curves with fewer.
_MARKED = 30
# Below it a sign, and a difference, is rounding.
_ROUNDING = 1e-8
# Colours go so far from the median, in factors.
_SPAN = 1e6


def plot_phase_diagram(
    grid: xr.Dataset,
    quantity: str | Sequence[str] | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    axes: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Quantities over the parameters of a sweep: curves over one, maps over two.

    Parameters
    ----------
    grid : Dataset
        Of `sweep`; of more than two parameters some have to be selected.
    quantity : str or sequence of str, optional
        Names of variables, a panel each. By default the magnetization, the correlation
        length and the susceptibility, which is summed over experts where they differ.
    path : path, optional
        Where the figure is written as well.
    overwrite : bool
        Whether an existing file may be replaced.
    axes : ndarray of Axes, optional
        Where to draw, one for each quantity; a new figure by default.

    Returns
    -------
    ndarray of Axes
        A parameter with few values, or with text, makes a family of curves instead of a map.
        Colours and curves are logarithmic where the values span more than three decades.
        Cells of a map that have no colour are grey: where a quantity is infinite or not
        known, and where it is 0 on a logarithmic scale; the title says which. What rounding
        has left of a zero is drawn as zero.

    Raises
    ------
    ValueError
        If there is no such quantity, it does not depend on one or two parameters, or the
        axes are not as many.
    OSError
        If the file cannot be written.
    """
    panels = quantities(grid, quantity)
    places = _new_axes(grid, len(panels)) if axes is None else axes.ravel()
    if len(places) != len(panels):
        raise ValueError(f"axes: expected {len(panels)}, got {len(places)}")
    for ax, values in zip(places, panels, strict=True):
        title = _labelled(str(values.name).replace("_", " "), values)
        if values.ndim == 2 and min(values.shape) > _FEW and not any(map(_is_text, _axes(values))):
            grey = _draw_map(ax, values)
            title += f"; grey: {grey}" if grey else ""
        else:
            _draw_curves(ax, values, _error(grid, values))
        ax.set_title(title, fontsize=10)
    if path is not None:
        save_figure(places, path, overwrite=overwrite)
    return places


def _new_axes(grid: xr.Dataset, n: int) -> NDArray[Any]:
    """As many axes of a new figure."""
    n_columns = 2 if n == 4 else min(n, 3)
    n_rows = -(-n // n_columns)
    figure, axes = plt.subplots(
        n_rows,
        n_columns,
        figsize=(0.6 + 3.9 * n_columns, 0.4 + 3.4 * n_rows),
        layout="constrained",
        squeeze=False,
    )
    if "chain" in grid.attrs:
        figure.suptitle(shown(grid.attrs["chain"], 40 * n_columns), fontsize=10)
    for ax in axes.flat[n:]:
        ax.set_visible(False)
    return axes.ravel()[:n]


def quantities(grid: xr.Dataset, quantity: str | Sequence[str] | None = None) -> list[xr.DataArray]:
    """What is drawn of a sweep, a panel each.

    Raises
    ------
    ValueError
        If there is no such quantity, or it does not depend on one or two parameters.
    """
    if quantity is None:
        names = [name for name in _PHASE_QUANTITIES if name in grid]
    else:
        names = [quantity] if isinstance(quantity, str) else list(quantity)
    if not names:
        raise ValueError("quantity: expected at least one, got none; name variables of the grid")
    return [_over_parameters(grid, name) for name in names]


def _over_parameters(grid: xr.Dataset, name: str) -> xr.DataArray:
    """A quantity that depends on nothing but one or two parameters."""
    if name not in grid.data_vars:
        known = ", ".join(str(n) for n in grid.data_vars)
        raise ValueError(f"quantity: expected one of {plain(known, 300)}; got {plain(name)!r}")
    values = grid[name]
    if "expert" in values.dims and name == "susceptibility":
        values = values.sum("expert", keep_attrs=True)
    others = [str(dim) for dim in values.dims if dim not in grid.coords]
    if others or values.ndim not in (1, 2):
        raise ValueError(
            f"quantity: expected one over one or two parameters, got {name} over "
            f"{', '.join(map(str, values.dims)) or 'none'}; select or average the others first"
        )
    return without_rounding(values.sortby(list(values.dims)))


def _error(grid: xr.Dataset, values: xr.DataArray) -> xr.DataArray | None:
    """Standard error of a quantity, where there is one of the same shape."""
    error = grid.get(f"{values.name}_error")
    if error is None or set(error.dims) != set(values.dims):
        return None
    return error.sortby(list(values.dims))


def _axes(values: xr.DataArray) -> list[xr.DataArray]:
    return [values[dim] for dim in values.dims]


def _is_text(axis: xr.DataArray) -> bool:
    return axis.dtype.kind not in "iuf"


def _draw_map(ax: Axes, values: xr.DataArray) -> str:
    """Draw colours; returns what grey cells are, if there are any."""
    x, y = _axes(values)
    table = np.ma.masked_invalid(values.values.T)
    norm, colours, levels = _colours(table)
    mesh = ax.pcolormesh(x, y, table, norm=norm, cmap=colours, shading="nearest", rasterized=True)
    ax.set_facecolor("0.85")
    low, high = norm.vmin or 0, norm.vmax or 0
    over = bool((table > high).any()), bool(((table < low) & (table > 0)).any())
    extend = {(True, True): "both", (True, False): "max", (False, True): "min"}.get(over, "neither")
    bar = ax.figure.colorbar(mesh, ax=ax, extend=extend)
    if len(levels):
        lines = ax.contour(x, y, table, levels=levels, colors=GREY, linewidths=0.7)
        bar.add_lines(lines)
    ax.set(
        xlabel=_axis_label(x),
        ylabel=_axis_label(y),
        xscale="log" if _is_geometric(x.values) else "linear",
        yscale="log" if _is_geometric(y.values) else "linear",
    )
    found = {
        "infinite": np.isinf(values.values).any(),
        "unknown": np.isnan(values.values).any(),
        "0": isinstance(norm, LogNorm) and (values.values == 0).any(),
    }
    return " or ".join(name for name, there in found.items() if there)


def _colours(table: np.ma.MaskedArray) -> tuple[Normalize, str, np.ndarray]:
    """Norm, colours and the levels of contour lines for the values of a map."""
    known = table.compressed()
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    size = max(abs(low), abs(high))
    if size < _ROUNDING:
        return Normalize(0, 1), "viridis", np.empty(0)
    if _spans_decades(known):
        middle = float(np.median(known[known > 0]))
        ends = (max(known[known > 0].min(), middle / _SPAN), min(high, middle * _SPAN))
        return LogNorm(*ends), "viridis", _between(LogLocator(), low, ends)
    if low < -_ROUNDING * size and high > _ROUNDING * size:
        ends = (-size, size)
        return Normalize(*ends), "RdBu_r", _between(MaxNLocator(6), low, ends)
    return Normalize(low, high), "viridis", _between(MaxNLocator(6), low, (low, high))


def _between(locator: Locator, low: float, ends: tuple[float, float]) -> np.ndarray:
    """Levels inside the values and the colours."""
    levels = np.asarray(locator.tick_values(*ends))
    return levels[(levels > max(low, ends[0])) & (levels < ends[1])]


def _draw_curves(ax: Axes, values: xr.DataArray, error: xr.DataArray | None) -> None:
    long = max(values.dims, key=lambda dim: (not _is_text(values[dim]), values.sizes[dim]))
    families = [dim for dim in values.dims if dim != long]
    x = values[long]
    is_log = _spans_decades(values.values[np.isfinite(values.values)])
    if is_log:
        # A zero would be drawn far below the frame.
        values = values.where(values > 0)
    for i in range(values.sizes[families[0]] if families else 1):
        at = {families[0]: i} if families else {}
        curve = values.isel(at)
        label = f"{families[0]} = {_value(values[families[0]][i])}" if families else None
        ax.errorbar(
            x,
            curve,
            yerr=None if error is None else error.isel(at),
            fmt=_LINES[i // len(_FAMILY) % len(_LINES)],
            ms=3 if len(x) < _MARKED or error is not None else 0,
            lw=1.4,
            color=_FAMILY[i % len(_FAMILY)],
            label=label,
        )
    if _is_geometric(x.values):
        ax.set_xscale("log")
    if is_log:
        ax.set_yscale("log")
    ax.set_xlabel(_axis_label(x))
    ax.grid(alpha=0.25, lw=0.5)
    if families:
        ax.legend(fontsize=8, frameon=False)


def _value(value: xr.DataArray) -> str:
    return str(value.item()) if _is_text(value) else f"{value.item():.4g}"


def _labelled(name: object, values: xr.DataArray) -> str:
    units = values.attrs.get("units", "1")
    return str(name) if units == "1" or str(units) in str(name) else f"{name} ({units})"


def _axis_label(values: xr.DataArray) -> str:
    return _labelled(values.attrs.get("long_name", values.name), values)


def _is_geometric(values: np.ndarray) -> bool:
    """Whether values are spaced by factors rather than by steps."""
    if len(values) < 3 or values.dtype.kind not in "iuf":
        return False
    if values.min() <= 0 or values.max() < 10 * values.min():
        return False
    steps, factors = np.diff(values), np.diff(np.log(values))
    return bool(np.ptp(factors) / abs(factors.mean()) < np.ptp(steps) / abs(steps.mean()))


def _spans_decades(values: np.ndarray) -> bool:
    """Whether values without a sign span more than three decades."""
    if not len(values) or values.min() < 0 or values.max() <= 0:
        return False
    return values.max() > 1e3 * values[values > 0].min()
