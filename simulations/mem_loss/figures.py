"""Figures: a training on its way, and where it ends."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from arms import LABELS
from matplotlib.figure import Figure
from trained_models.intervals import interval, over_layers

__all__ = ["end_figure", "way_figure"]

_COLOURS = dict(zip(LABELS, plt.get_cmap("tab10").colors, strict=False))


def way_figure(data: xr.Dataset) -> Figure:
    """Cross-entropy, load entropy and coupling over the steps of the training."""
    panels = {
        "loss_followed": "held-out cross-entropy\n(nat per token)",
        "load_entropy_followed": "entropy of the load\n(1: equal load)",
        "self_coupling_followed": "coupling of an expert to itself\nat distance 1",
    }
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
    for ax, (name, label) in zip(axes, panels.items(), strict=True):
        for arm in data["recipe"].values.tolist():
            # A layer that one set serves alone has no coupling, nor then has the mean.
            mean, half = interval(over_layers(data[name].sel(recipe=arm), skipna=False))
            step = data["step"]
            ax.plot(step, mean, ".-", color=_COLOURS[arm], label=LABELS[arm])
            ax.fill_between(step, mean - half, mean + half, color=_COLOURS[arm], alpha=0.15, lw=0)
        ax.set(xlabel="optimiser steps", ylabel=label)
        ax.set_xscale("symlog", linthresh=8)
        ax.set_xlim(0)
        ticks = [0, 10, 100, int(data["step"].max())]
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.set_xticks([], minor=True)
        ax.grid(alpha=0.3)
    axes[0].set_ylim(top=float(data["loss_followed"].max()) + 0.1)
    axes[0].set_title("the lines lie on each other", fontsize=9)
    # What stays is a tenth of what passes.
    axes[2].set_yscale("symlog", linthresh=0.3)
    axes[2].set_ylim(-0.15, 4)
    axes[2].minorticks_off()
    axes[2].set_yticks([0, 0.1, 0.2, 0.3, 1, 3], ["0", "0.1", "0.2", "0.3", "1", "3"])
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9
    )
    figure.suptitle(
        "Mean over layers; bands are 95 % intervals over seeds (Student's t)", fontsize=10
    )
    return figure


def end_figure(data: xr.Dataset) -> Figure:
    """Coupling of each layer, and perplexity against the entropy of the load."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    arms = data["recipe"].values.tolist()
    layers = data["layer"].values
    for place, arm in enumerate(arms):
        mean, half = interval(data["self_coupling"].sel(recipe=arm))
        shift = (place - (len(arms) - 1) / 2) * 0.11
        left.errorbar(
            layers + shift, mean, half, fmt="o", color=_COLOURS[arm], label=LABELS[arm], capsize=2
        )
        one = data.sel(recipe=arm)
        missing = 1 - one["load_entropy"].mean("layer")
        right.plot(missing, one["perplexity"], ".", color=_COLOURS[arm], ms=5)
        right.plot(missing.mean(), one["perplexity"].mean(), "o", color=_COLOURS[arm], ms=8)
    left.axhline(0, color="0.5", lw=0.8)
    left.set(xlabel="layer", ylabel="coupling of an expert to itself\nat distance 1")
    left.set_xticks(np.asarray(layers))
    left.legend(fontsize=8)
    right.set(xlabel="1 - entropy of the load, mean over layers", ylabel="held-out perplexity")
    right.set_xscale("log")
    right.set_title("dots: seeds; circles: their mean", fontsize=9)
    for ax in (left, right):
        ax.grid(alpha=0.3)
    left.set_title("bars: 95 % intervals over seeds", fontsize=9)
    return figure
