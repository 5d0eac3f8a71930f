"""The bars of a bit budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from isingmoe._text import plain
from isingmoe.plotting.style import BLACK, BLUE, GREEN, GREY

if TYPE_CHECKING:
    from isingmoe.budgets import Budget

__all__ = ["plot_budget"]

# Of Okabe and Ito too, in the order of the nesting.
_SHARES = {
    "load": ("#999999", "load"),
    "position": ("#CC79A7", "position"),
    "topic": (GREEN, "topic"),
    "neighbour": (BLUE, "token before"),
    "memory": ("#56B4E9", "memory beyond"),
    "token": ("#E69F00", "token id"),
    "left": ("#EEEEEE", "left"),
}


def plot_budget(budget: Budget) -> Figure:
    """Stacked bars over depth: how many of the bits of routing each step explains.

    Parameters
    ----------
    budget : Budget

    Returns
    -------
    Figure
    """
    data = budget.data
    layers = [str(layer) for layer in data["layer"].values]
    width = max(6.4, 1.6 + 0.32 * len(layers))
    figure, ax = plt.subplots(figsize=(width, 4.6), layout="constrained")
    top = np.zeros(len(layers))
    lowest = np.zeros(len(layers))
    for share in data["share"].values.tolist():
        row = data.sel(share=share)
        bits, error = row["bits"].values, row["bits_error"].values
        colour, label = _SHARES[share]
        # A step that loses bits goes below zero, so that no bar hides another.
        start = np.where(bits >= 0, top, lowest)
        ax.bar(layers, bits, bottom=start, color=colour, label=label, width=0.85)
        if share != "left":
            ax.errorbar(layers, start + bits, yerr=error, fmt="none", ecolor=BLACK, lw=0.7)
        top, lowest = top + np.maximum(bits, 0), lowest + np.minimum(bits, 0)
    ax.axhline(0, color=GREY, lw=0.6)
    ax.set_xlabel("layer")
    ax.set_ylabel("bits per token, held out")
    ax.set_title(
        f"{plain(data.attrs['model'], 50)}: of {float(data['bits_uniform'][0]):.1f} bits of a "
        "token's experts",
        fontsize=10,
    )
    handles, names = ax.get_legend_handles_labels()
    loc: Any = "outside center right"
    figure.legend(handles[::-1], names[::-1], fontsize=8, frameon=False, loc=loc)
    return figure
