"""Figures of comparisons, and how figures are written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from isingmoe._storage import check_output, replace_whole
from isingmoe._text import plain

if TYPE_CHECKING:
    from isingmoe.budgets import Budget
    from isingmoe.comparison import Comparison

__all__ = ["check_figure", "plot_budget", "plot_decay", "plot_layers", "save_figure"]

# Okabe and Ito's colours, told apart with any colour vision.
BLACK, BLUE, ORANGE, GREEN, GREY = "#000000", "#0072B2", "#D55E00", "#009E73", "#888888"
_CENTRES = {
    "global": (BLUE, "o", "measured, about the global mean"),
    "position": (GREEN, "s", "measured, about the mean at each position"),
    "sequence": (ORANGE, "^", "measured, within texts"),
}

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
        colour, marker, label = _CENTRES[str(centre)]
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


def plot_layers(comparison: Comparison) -> Figure:
    """Summary over depth: self-coupling, correlation lengths, load and bits per token.

    Parameters
    ----------
    comparison : Comparison

    Returns
    -------
    Figure
        Four panels.
    """
    data = comparison.data
    layer = data["layer"].values
    figure, axes = plt.subplots(2, 2, figsize=(9.6, 6.4), sharex=True, layout="constrained")
    figure.suptitle(
        f"{plain(data.attrs['model'], 60)}: {data.attrs['chain']} chain, "
        f"coupling {data.attrs['coupling']}",
        fontsize=11,
    )
    coupling, length, load, bits = axes.flat
    coupling.errorbar(
        layer,
        data["self_coupling"],
        yerr=data["self_coupling_error"],
        fmt="o-",
        ms=4,
        color=BLUE,
    )
    coupling.axhline(0, color=GREY, lw=0.8)
    coupling.set_ylabel("self-coupling J")

    length.plot(layer, data["predicted_length"], "o-", ms=4, color=BLACK, label="chain")
    for centre in data["centre"].values:
        row = data.sel(centre=centre)
        colour, marker, label = _CENTRES[str(centre)]
        value = row["correlation_length"].values
        value = np.where(np.isfinite(value), value, 0)
        shown = value > 0
        low = np.maximum(row["correlation_length_low"].values, 1e-2)
        high = row["correlation_length_high"].values
        # An upper end at infinity, or an interval that is not known, is drawn as it can be.
        high = np.where(np.isfinite(high), high, np.where(np.isnan(high), value, 3 * value))
        low = np.where(np.isnan(low), value, low)
        length.errorbar(
            layer[shown],
            value[shown],
            yerr=(np.clip(value - low, 0, None)[shown], np.clip(high - value, 0, None)[shown]),
            fmt=f"{marker}-",
            ms=3.5,
            lw=0.9,
            color=colour,
            label=label,
        )
    length.set_yscale("log")
    length.set_ylabel("correlation length ξ (tokens)")
    # Room above the error bars, and a ground of its own where they reach into it.
    low, high = length.get_ylim()
    length.set_ylim(low, high * (high / low) ** 0.35)
    legend = length.legend(fontsize=7.5, loc="upper left", framealpha=1, edgecolor="0.8")
    legend.set_zorder(10)

    load.plot(layer, data["kl"], "o-", ms=4, color=BLUE, label="KL of the load from uniform")
    load.plot(layer, data["kl_null"], "--", color=GREY, label="95 % of a uniform router")
    load.set_ylabel("KL (nat)")
    load.legend(fontsize=8, frameon=False)

    held_out = "held_out_bits" in data
    score = data["held_out_bits" if held_out else "bits_per_token"]
    reference = data["held_out_bits_load" if held_out else "bits_load"]
    bits.plot(layer, data["bits_uniform"] - reference, "s-", ms=4, color=GREY, label="load")
    bits.plot(layer, data["bits_uniform"] - score, "o-", ms=4, color=BLUE, label="load + chain")
    bits.axhline(0, color=GREY, lw=0.8)
    bits.set_ylabel(f"bits/token below uniform{' (held out)' if held_out else ''}")
    bits.legend(fontsize=8, frameon=False)
    for ax in axes[1]:
        ax.set_xlabel("layer")
    for ax in axes.flat:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


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


def check_figure(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """A path that a figure can be written to.

    Raises
    ------
    OSError
        As `save_figure` does.
    ValueError
        If the ending is not a format that matplotlib knows.
    """
    path = check_output(path, overwrite)
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise ValueError(f"{path}: expected an ending of {', '.join(sorted(known))}")
    return path


def save_figure(figure: Figure, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a figure; the ending of the name says in which format.

    Raises
    ------
    OSError
        If the file exists and `overwrite` is false, or it cannot be written.
    ValueError
        If the ending is not a format that matplotlib knows.
    """
    path = check_figure(path, overwrite)
    return replace_whole(path, lambda part: figure.savefig(part, dpi=160))
