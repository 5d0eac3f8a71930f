"""The load of every layer on a dial from collapse to maximum entropy."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from isingmoe.plotting.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    layer_axis,
    legend_below,
    new_axes,
    shown,
)

__all__ = ["plot_mem"]

# Colour, marker and label of the verdicts.
_STATES = {
    "equilibrium": (GREEN, "o", "at equilibrium"),
    "imbalanced": (BLUE, "s", "imbalanced"),
    "collapsed": (ORANGE, "X", "collapsed"),
    "undecided": (GREY, "D", "too few texts to tell"),
}


def plot_mem(mem: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Experts in effect of every layer, between one and the maximum-entropy equilibrium.

    Parameters
    ----------
    mem : Dataset
        Of `mem`.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        The exponential of the load's entropy over the number of experts: 1 at equilibrium.
        A line from each layer spans its blocks of positions; a dotted one is below 95 % of
        uniform routers.
    """
    ax = new_axes(4.8, 3.9) if ax is None else ax
    layer, n_experts = mem["layer"].values, mem.sizes["expert"]
    share = mem["effective_experts"].values / n_experts
    states = mem["mem_state"].values.astype(str)
    ax.axhline(1, color=GREEN, lw=1.2, label="maximum-entropy equilibrium")
    # A distance from uniform of kl leaves exp(-kl) of the experts in effect.
    null = np.exp(-mem["kl_null"].values)
    ax.plot(layer, np.clip(null, 0, 1), ":", color=GREY, lw=1, label="95 % of uniform routers")
    blocks = mem["block_effective_experts"].transpose("layer", "block").values / n_experts
    known = np.isfinite(blocks).any(1)
    if known.any():
        low, high = np.nanmin(blocks[known], 1), np.nanmax(blocks[known], 1)
        ax.vlines(layer[known], low, high, color=GREY, lw=2.5, alpha=0.45, label="over position")
    for state, (colour, marker, label) in _STATES.items():
        here = states == state
        if here.any():
            ax.plot(layer[here], share[here], marker, ms=5, color=colour, label=label)
    if len(layer) == 1:
        ax.set_xlim(layer[0] - 1, layer[0] + 1)
    ax.set_ylim(0, 1.05)
    layer_axis(ax)
    ax.set_ylabel("experts in effect, exp(H) / E")
    if "model" in mem.attrs:
        ax.set_title(shown(mem.attrs["model"], 50), fontsize=10)
    legend_below(ax, columns=2)
    return ax
