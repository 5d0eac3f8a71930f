"""Figures: attention and coupling at each distance."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from arms import labels_of
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from trained_models.intervals import interval

__all__ = ["correlation_figure", "distance_figure", "scatter_figure"]

# Windows from light to dark, falls in warm colours, and all before in black.
_COLOURS = {
    "window-0": "#b5b5b5",
    "window-1": "#9ecae1",
    "window-4": "#4292c6",
    "window-16": "#08306b",
    "power-law-1": "#fdae6b",
    "alibi": "#238b45",
    "olmoe": "#000000",
}


def distance_figure(data: xr.Dataset, more: xr.Dataset) -> Figure:
    """Attention, coupling, and what the context adds to it, for each layer."""
    layers = data["layer"].values.tolist()
    figure, axes = plt.subplots(
        3,
        len(layers),
        figsize=(3.4 * len(layers), 9),
        layout="constrained",
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    last = int(data["distance"][-1])
    rows = {
        "mean attention weight": data["attention"].sel(lag=slice(1, last)),
        "strength of the coupling": data["strength"].sel(kind="data"),
        "strength added by context": more["strength"],
    }
    for row, (label, values) in zip(axes, rows.items(), strict=True):
        for ax, layer in zip(row, layers, strict=True):
            _lines(ax, values.sel(layer=layer))
        row[0].set_ylabel(label)
    for ax in axes[0]:
        ax.set_yscale("symlog", linthresh=1e-3)
        ax.set_ylim(-2e-4, 1.2)
    for ax, layer in zip(axes[0], layers, strict=True):
        ax.set_title(f"layer {layer}", fontsize=10)
    for ax in axes[1]:
        ax.set_yscale("log")
    for ax in axes[2]:
        ax.axhline(0, color="0.5", lw=0.8)
    figure.supxlabel("distance (tokens)", fontsize=10)
    _legend(figure, axes[0, 0])
    figure.suptitle("Bars are 95 % intervals over seeds (Student's t)", fontsize=10)
    return figure


def scatter_figure(data: xr.Dataset, more: xr.Dataset) -> Figure:
    """What the context adds against the attention, a point for each arm, seed and distance."""
    layers = data["layer"].values.tolist()
    attention = data["attention"].sel(lag=data["distance"].values).rename(lag="distance")
    figure, axes = plt.subplots(
        1,
        len(layers),
        figsize=(3.4 * len(layers), 3.8),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for ax, layer in zip(axes[0], layers, strict=True):
        for name, label in labels_of(data).items():
            where = {"recipe": name, "layer": layer}
            x = attention.sel(where).values.ravel()
            y = more["strength"].sel(where).values.ravel()
            ax.plot(x, y, ".", ms=5, color=_COLOURS[name], label=label, alpha=0.8)
        ax.set_xscale("symlog", linthresh=1e-3)
        ax.set_yscale("symlog", linthresh=0.01)
        ax.axhline(0, color="0.5", lw=0.8)
        ax.set_title(f"layer {layer}", fontsize=10)
        ax.grid(alpha=0.3)
    # Of the shared axis: a limit that is set in one panel would hide what others have beyond it.
    axes[0, 0].set_xlim(-2e-4, 1.3 * float(attention.max()))
    axes[0, 0].set_ylabel("strength added by context")
    figure.supxlabel("mean attention weight at that distance", fontsize=10)
    _legend(figure, axes[0, 0])
    return figure


def correlation_figure(data: xr.Dataset) -> Figure:
    """Measured correlation to larger distances, of the data and of exchanged tokens."""
    figure, axes = plt.subplots(
        1, 2, figsize=(12.5, 4.2), layout="constrained", sharex=True, sharey=True
    )
    titles = {"data": "the models' tokens", "exchanged": "experts exchanged between equal ids"}
    curve = data["correlation"].mean("layer").isel(lag=slice(1, None))
    for ax, (kind, title) in zip(axes, titles.items(), strict=True):
        _lines(ax, curve.sel(kind=kind), "lag")
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(plt.FuncFormatter(lambda x, _: f"{x:g}"))
        ax.set_yscale("symlog", linthresh=0.003)
        ax.axhline(0, color="0.5", lw=0.8)
        ax.set_title(title, fontsize=10)
    axes[0].set_ylabel("C(d) / C(0) about the mean of each window")
    _legend(figure, axes[0])
    figure.supxlabel("distance (tokens)", fontsize=10)
    return figure


def _legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8.5, title="attends to")


def _lines(ax: Axes, values: xr.DataArray, dim: str | None = None) -> None:
    """A line for each arm, values (recipe, seed, distance)."""
    along = dim or next(str(name) for name in values.dims if name not in ("recipe", "seed"))
    places = values[along].values
    labels = labels_of(values)
    for place, (name, label) in enumerate(labels.items()):
        mean, half = interval(values.sel(recipe=name))
        if len(places) > 16:
            ax.plot(places, mean, color=_COLOURS[name], lw=1.2, label=label)
            ax.fill_between(
                places, mean - half, mean + half, color=_COLOURS[name], alpha=0.12, lw=0
            )
            continue
        shift = (place - (len(labels) - 1) / 2) * 0.05
        half = half.where(np.isfinite(half), 0)
        ax.errorbar(
            places + shift,
            mean,
            half,
            fmt=".-",
            ms=4,
            lw=1,
            capsize=1.5,
            elinewidth=0.7,
            color=_COLOURS[name],
            label=label,
        )
    ax.grid(alpha=0.3)
