"""Correlation lengths over depth, by estimator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from isingmoe.plotting.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    SKY,
    layer_axis,
    legend_below,
    new_axes,
    shown,
    written,
)

if TYPE_CHECKING:
    from isingmoe.comparison import Comparison

__all__ = ["draw_lengths", "plot_lengths"]

Array = NDArray[np.floating]

# Below this a length is drawn as if it were this: no correlation is seen at all.
_SHORTEST = 0.05

_FITS = {
    "global": (BLUE, "o", "fit of the measured decay"),
    "position": (GREEN, "s", "the same, about the mean at each position"),
    "sequence": (ORANGE, "^", "the same, within texts"),
}


def plot_lengths(comparison: Comparison, *, ax: Axes | None = None) -> Axes:
    """Correlation length over depth by three estimators, with intervals of 95 %.

    Parameters
    ----------
    comparison : Comparison
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        An arrow stands for an interval without an upper end, or a length that is infinite.
    """
    ax = new_axes(4.8, 4.2) if ax is None else ax
    data = comparison.data
    draw_lengths(ax, _estimates(data))
    ax.set_title(f"{shown(data.attrs['model'], 50)}", fontsize=10)
    legend_below(ax, columns=1)
    return ax


def draw_lengths(
    ax: Axes, estimates: Iterator[tuple[str, str, str, NDArray, Array, Array, Array]]
) -> None:
    """Points with intervals on a logarithmic axis, beside each other where layers are alike.

    Parameters
    ----------
    ax : Axes
    estimates : iterator of (label, colour, marker, layer, value, low, high)
    """
    drawn = list(estimates)
    layers = np.unique(np.concatenate([row[3] for row in drawn]))
    step = float(np.diff(layers).min()) if len(layers) > 1 else 1.0
    ends = np.concatenate([end for row in drawn for end in (row[4], row[6])])
    top = 2 * float(np.max(ends, where=np.isfinite(ends), initial=1.0))
    for place, (label, colour, marker, layer, value, low, high) in enumerate(drawn):
        x = layer + step * 0.16 * (place - (len(drawn) - 1) / 2)
        known = ~np.isnan(value)
        y = np.clip(value, _SHORTEST, top)
        down = y - np.clip(np.where(np.isnan(low), y, low), _SHORTEST, y)
        up = np.clip(np.where(np.isnan(high), y, high), y, top) - y
        open_end = np.isinf(high) | np.isinf(value)
        ax.errorbar(
            x[known],
            y[known],
            yerr=(down[known], up[known]),
            fmt=marker,
            ms=3.4,
            lw=0.9,
            color=colour,
            label=label,
        )
        if (open_end & known).any():
            at = open_end & known
            ax.plot(
                x[at],
                np.full(at.sum(), top),
                ls="none",
                marker=10,
                ms=5,
                color=colour,
                label=f"_{label}",
            )
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(written)
    ax.yaxis.set_minor_formatter(NullFormatter())
    if len(layers) == 1:
        ax.set_xlim(layers[0] - 1, layers[0] + 1)
    layer_axis(ax)
    ax.set_ylabel("correlation length ξ (tokens)")


def _estimates(
    data: xr.Dataset,
) -> Iterator[tuple[str, str, str, NDArray, Array, Array, Array]]:
    layer = data["layer"].values
    nothing = np.full(len(layer), np.nan)

    def ends(row: xr.Dataset, name: str) -> tuple[Array, Array, Array]:
        low, high = (
            row[f"{name}_{end}"].values if f"{name}_{end}" in row else nothing
            for end in ("low", "high")
        )
        return row[name].values, low, high

    yield "transfer matrix of the chain", BLACK, "D", layer, *ends(data, "predicted_length")
    for centre in map(str, data["centre"].values):
        colour, marker, label = _FITS[centre]
        yield label, colour, marker, layer, *ends(data.sel(centre=centre), "correlation_length")
    row = data.sel(centre="global")
    yield "second moment", SKY, "v", layer, *ends(row, "second_moment_length")
