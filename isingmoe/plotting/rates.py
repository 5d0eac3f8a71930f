"""Where along the text each expert is at work."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from isingmoe.plotting.style import DIVERGING, known_layer, new_axes, shown

__all__ = ["plot_rates"]

# Rates are coloured up to so many times their mean, and down to none.
_FURTHEST = 1.0
# Share of false discoveries among the experts that are marked.
_LEVEL = 0.05
# With more experts not every one has its number written.
_MOST_NAMES = 16


def plot_rates(activation: xr.Dataset, layer: int | None = None, *, ax: Axes | None = None) -> Axes:
    """Map of the rates of one layer over experts and positions.

    Parameters
    ----------
    activation : Dataset
        Of `activation`.
    layer : int, optional
        The model's own number; not needed where there is one.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        Colours are rates over the expert's own mean. A dot at the right edge marks an expert
        whose rate is not uniform, at a false discovery rate of 5 %. An expert or block without
        tokens has no colour.

    Raises
    ------
    ValueError
        If there is no such layer.
    """
    layer = known_layer(activation["layer"].values, layer)
    ax = new_axes(4.8, 4.2) if ax is None else ax
    row = activation.sel(layer=layer)
    rate = row["rate"].transpose("expert", "block").values
    tokens = row["block_tokens"].values
    served = tokens[tokens > 0].sum()
    mean = np.where(tokens > 0, np.nan_to_num(rate) * tokens, 0).sum(1) / max(served, 1)
    known = (mean[:, None] > 0) & (tokens > 0)
    beyond = np.divide(rate, mean[:, None], out=np.full(rate.shape, np.nan), where=known) - 1
    start = row["block_start"].values
    width = int(start[1] - start[0]) if len(start) > 1 else 1
    n = len(rate)
    image = ax.imshow(
        np.ma.masked_invalid(beyond),
        cmap=DIVERGING,
        vmin=-_FURTHEST,
        vmax=_FURTHEST,
        interpolation="none",
        aspect="auto",
        extent=(start[0], start[-1] + width, n - 0.5, -0.5),
    )
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.05, extend="max")
    bar.set_ticks([-1, -0.5, 0, 0.5, 1], labels=["0", "½", "1", "1½", "2"])
    bar.set_label("rate over the expert's mean", fontsize=9)
    moving = np.flatnonzero(row["uniformity_q_value"].values <= _LEVEL)
    # An empty line would lie in the corner of the figure, and take the room of its axes.
    if moving.size:
        ax.plot(
            np.full(len(moving), 1.018),
            moving,
            "o",
            ms=2.6,
            color="black",
            transform=ax.get_yaxis_transform(),
            clip_on=False,
        )
    places = np.arange(n)[:: -(-n // _MOST_NAMES)]
    names = row["expert"].values
    ax.set_yticks(places, [str(names[place]) for place in places], fontsize=6.5)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel("position in the text (tokens)")
    ax.set_ylabel("expert")
    model = shown(activation.attrs["model"], 54) + "\n" if "model" in activation.attrs else ""
    ax.set_title(f"{model}layer {layer}", fontsize=9)
    return ax
