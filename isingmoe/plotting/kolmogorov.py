"""The Chapman-Kolmogorov test, drawn."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from isingmoe.plotting.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    YELLOW,
    known_layer,
    legend_below,
    new_axes,
)

__all__ = ["plot_ck"]

_FAMILY = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY)
_MARKERS = "os^Dv<"


def plot_ck(ck: xr.Dataset, layer: int | None = None, *, ax: Axes | None = None) -> Axes:
    """Persistence of every expert: estimated at a distance against that of the steps between.

    Parameters
    ----------
    ck : Dataset
        Of `chapman_kolmogorov`.
    layer : int, optional
        The model's own number; not needed where there is one.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        A point for each expert and distance, with 95 % of its error; a chain without memory
        beyond its neighbour has them on the diagonal.

    Raises
    ------
    ValueError
        If there is no such layer.
    """
    layer = known_layer(ck["layer"].values, layer)
    ax = new_axes(4.8, 4.2) if ax is None else ax
    row = ck.sel(layer=layer)
    # Of a single step both are the same by construction.
    distances = [d for d in row["ck_distance"].values.tolist() if d > 1]
    few = np.unique(np.linspace(0, len(distances) - 1, min(len(distances), 6)).round().astype(int))
    top = 0.0
    for place, number in enumerate(few):
        at = row.sel(ck_distance=distances[number])
        x, y = at["persistence_predicted"].values, at["persistence"].values
        error = at["persistence_error"].values
        known = np.isfinite(x) & np.isfinite(y)
        if not known.any():
            continue
        ax.errorbar(
            x[known],
            y[known],
            yerr=1.96 * np.nan_to_num(error[known]),
            fmt=_MARKERS[place],
            ms=3,
            lw=0.6,
            alpha=0.85,
            color=_FAMILY[place],
            label=f"d = {distances[number]}",
        )
        top = max(top, float(x[known].max()), float(y[known].max()))
    top = 1.08 * top or 1.0
    ax.plot([0, top], [0, top], color=GREY, lw=0.9, zorder=0)
    ax.set(xlim=(0, top), ylim=(0, top))
    ax.set_xlabel("P(return after d), of d single steps")
    ax.set_ylabel("P(return after d), estimated")
    p = float(row["ck_p_value"])
    ax.set_title(f"layer {layer}, Chapman-Kolmogorov p = {p:.3g}", fontsize=10)
    legend_below(ax, columns=6)
    return ax
