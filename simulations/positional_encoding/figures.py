"""Figures: rates over the position, and what of it is in routing."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from arms import LABELS
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from trained_models.intervals import interval

__all__ = ["position_figure", "rate_figure"]

_COLOURS = dict(zip(LABELS, plt.get_cmap("tab10").colors, strict=False))


def rate_figure(data: xr.Dataset) -> Figure:
    """Rate of every expert over the position, over its mean: first and last layer of one seed."""
    layers = data["layer"].values[[0, -1]].tolist()
    figure, axes = plt.subplots(
        2, len(LABELS), figsize=(14, 5.6), layout="constrained", sharex=True, sharey=True
    )
    one = data.isel(seed=0)
    start = data["block_start"].values
    for row, layer in zip(axes, layers, strict=True):
        for ax, (name, label) in zip(row, LABELS.items(), strict=True):
            rate = one["rate"].sel(recipe=name, layer=layer).transpose("block", "expert")
            ax.plot(start, rate / rate.mean("block"), lw=1)
            ax.axhline(1, color="0.5", lw=0.8)
            ax.grid(alpha=0.3)
            if ax in axes[0]:
                ax.set_title(label, fontsize=10)
        row[0].set_ylabel(f"layer {layer}\nrate of an expert / its mean")
    figure.supxlabel("first position of a block (tokens)", fontsize=10)
    figure.suptitle("Each line is an expert; seed 0, without intervals", fontsize=10)
    return figure


def position_figure(data: xr.Dataset) -> Figure:
    """Drift, probes and couplings of each layer."""
    figure, axes = plt.subplots(2, 3, figsize=(15.5, 7.6), layout="constrained", sharex=True)
    _points(axes[0, 0], 1000 * data["drift_bits"])
    null = 1000 * data["drift_bits_null"].mean(("recipe", "seed"))
    where = data["layer"].values
    axes[0, 0].hlines(
        null, where - 0.4, where + 0.4, color="0.5", lw=1, ls="--", label="95 % without drift"
    )
    axes[0, 0].set_title("drift of the rates", fontsize=10)
    axes[0, 0].set_ylabel("information of an expert on the position\n(millibit per assignment)")
    axes[0, 0].set_yscale("symlog", linthresh=1)
    ticks = [-0.5, 0, 0.5, 1, 2, 5]
    axes[0, 0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes[1, 0].set_title("coupling", fontsize=10)
    _points(axes[1, 0], data["self_coupling"])
    axes[1, 0].set_ylabel("coupling of an expert to itself\nat distance 1")
    titles = {"hidden_state": "from the router's input", "expert_index": "from the choice"}
    targets = sorted(data["target"].values.tolist(), key=lambda name: name == "parity")
    for row, target in zip(axes[:, 1:], targets, strict=True):
        for ax, (read, title) in zip(row, titles.items(), strict=True):
            one = data.sel(input=read, target=target)
            _points(ax, one["accuracy"])
            shifted = one.sel(control="shifted")
            ax.fill_between(
                data["layer"],
                shifted["control_low"].mean(("recipe", "seed")),
                shifted["control_high"].mean(("recipe", "seed")),
                color="0.5",
                alpha=0.25,
                lw=0,
                label="95 % of shifted labels",
            )
            ax.set_title(f"{target} {title}", fontsize=10)
            ax.set_ylabel("accuracy, windows held out")
    known = {}
    for ax in axes[0, :2]:
        handles, labels = ax.get_legend_handles_labels()
        known |= dict(zip(labels, handles, strict=True))
    figure.legend(known.values(), known.keys(), loc="outside right center", fontsize=8.5)
    figure.supxlabel("layer", fontsize=10)
    figure.suptitle("Bars are 95 % intervals over seeds (Student's t)", fontsize=10)
    return figure


def _points(ax: Axes, values: xr.DataArray) -> None:
    """A point for each encoding and layer, values (recipe, seed, layer)."""
    layers = values["layer"].values
    for place, (name, label) in enumerate(LABELS.items()):
        mean, half = interval(values.sel(recipe=name))
        shift = (place - (len(LABELS) - 1) / 2) * 0.12
        ax.errorbar(
            layers + shift,
            mean,
            half.where(np.isfinite(half), 0),
            fmt="o",
            ms=4,
            capsize=2,
            color=_COLOURS[name],
            label=label,
        )
    ax.set_xticks(layers)
    ax.grid(alpha=0.3)
