"""The bars of a bit budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from isingmoe.plotting.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    SKY,
    YELLOW,
    legend_below,
    new_axes,
    shown,
)

if TYPE_CHECKING:
    from isingmoe.budgets import Budget

__all__ = ["plot_budget"]

# In the order of the nesting.
_SHARES = {
    "load": ("#999999", "load"),
    "position": (PURPLE, "position"),
    "topic": (GREEN, "topic"),
    "neighbour": (BLUE, "token before"),
    "chain": (BLUE, "tokens before, by the chain"),
    "memory": (SKY, "memory beyond"),
    "token": (YELLOW, "token id"),
    "left": ("#DDDDDD", "left"),
}


def plot_budget(budget: Budget, *, ax: Axes | None = None) -> Axes:
    """Stacked bars over depth: how many of the bits of routing each step explains.

    Parameters
    ----------
    budget : Budget
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        A step that loses bits goes below zero.
    """
    data = budget.data
    layers = data["layer"].values
    ax = new_axes(max(4.8, 1.6 + 0.32 * len(layers)), 4.4) if ax is None else ax
    place = np.arange(len(layers))
    top = np.zeros(len(layers))
    lowest = np.zeros(len(layers))
    for share in data["share"].values.tolist():
        row = data.sel(share=share)
        bits, error = row["bits"].values, row["bits_error"].values
        colour, label = _SHARES[share]
        # Below zero by itself, so that no bar hides another.
        start = np.where(bits >= 0, top, lowest)
        ax.bar(place, bits, bottom=start, color=colour, label=label, width=0.82)
        if share != "left":
            ax.errorbar(place, start + bits, yerr=error, fmt="none", ecolor=BLACK, lw=0.7)
        top, lowest = top + np.maximum(bits, 0), lowest + np.minimum(bits, 0)
    every = -(-len(layers) // 16)
    ax.set_xticks(place[::every], [str(layer) for layer in layers[::every]])
    ax.set_xlim(-0.7, max(len(layers) - 0.3, 1.7))
    ax.axhline(0, color=GREY, lw=0.6)
    ax.set_xlabel("layer")
    ax.set_ylabel("bits per token, held out")
    ax.set_title(
        f"{shown(data.attrs['model'], 30)}: of {float(data['bits_uniform'][0]):.1f} bits of a "
        "token's experts",
        fontsize=10,
    )
    legend_below(ax, columns=4)
    return ax
