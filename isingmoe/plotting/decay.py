"""The decay of correlations with distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from isingmoe._text import plain
from isingmoe.plotting.style import BLACK, CENTRE_STYLES, GREY

if TYPE_CHECKING:
    from isingmoe.comparison import Comparison

__all__ = ["plot_decay"]


def plot_decay(comparison: Comparison, layer: int, *, ax: Axes | None = None) -> Axes:
    """Correlation of one layer against distance: predicted, measured and shuffled.

    Parameters
    ----------
    comparison : Comparison
    layer : int
        The model's own number.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there is no such layer.
    """
    known = comparison.data["layer"].values.tolist()
    if layer not in known:
        raise ValueError(f"layer: expected one of {known}, got {layer}")
    if ax is None:
        ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")[1]
    data = comparison.data.sel(layer=layer)
    distance = data["distance"].values[1:]
    errors, lowest = [], []
    for centre in data["centre"].values:
        row = data.sel(centre=centre)
        scale = float(row["measured"][0])
        if scale <= 0:
            continue
        value = row["measured"].values[1:] / scale
        error = row["measured_error"].values[1:] / scale
        colour, marker, label = CENTRE_STYLES[str(centre)]
        ax.errorbar(
            distance,
            value,
            yerr=error,
            fmt=marker,
            fillstyle="none" if centre == "position" else "full",
            ms=4,
            lw=0.9,
            color=colour,
            label=label,
        )
        errors.append(np.median(error))
        lowest.append((value - error).min())
        if centre == "global":
            ax.plot(
                distance,
                data["shuffled"].values[1:] / scale,
                "--",
                color=GREY,
                lw=1.2,
                label="tokens of each text in random order",
            )
    length = float(data["predicted_length"])
    predicted = data["predicted"].values / float(data["predicted"][0])
    ax.plot(distance, predicted[1:], color=BLACK, lw=1.6, label=f"chain, ξ = {length:.2f} tokens")
    ax.axhline(0, color=GREY, lw=0.6)
    bottom = min(lowest, default=1e-3)
    if bottom > 0:
        ax.set_yscale("log")
        ax.set_ylim(bottom / 2, 1)
    else:
        # Logarithmic above the errors, linear among them: no point goes for its sign.
        ax.set_yscale("symlog", linthresh=2 * max(errors, default=1e-3), linscale=0.7)
        ax.set_ylim(1.5 * bottom, 1)
    ax.set_xlim(0, distance[-1] + 1)
    ax.set_xlabel("distance d (tokens)")
    ax.set_ylabel("correlation C(d) / C(0)")
    ax.set_title(f"{plain(comparison.data.attrs['model'], 50)}, layer {layer}", fontsize=10)
    ax.legend(fontsize=8, frameon=False, loc="upper right")
    return ax
