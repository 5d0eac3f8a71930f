"""Figures: rates over position, and how many bits of the choice they are."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import isingmoe as im

__all__ = ["bits_figure", "rates_figure"]


def rates_figure(data: xr.Dataset) -> Figure:
    """The layer that drifts most of each kind of model, first seed."""
    subjects = data["subject"].values.tolist()
    columns = min(len(subjects), 3)
    rows = -(-len(subjects) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.4 * columns, 3.3 * rows), layout="constrained", squeeze=False
    )
    for ax, name in zip(axes.flat, subjects, strict=False):
        one = data.sel(subject=name, seed=0).dropna("block", how="all", subset=["block_tokens"])
        layer = int(one["layer_drift_bits"].idxmax("layer"))
        im.plot_rates(one, layer, ax=ax)
        ax.set_title(f"{one['label'].item()}, layer {layer}", fontsize=9)
    for ax in axes.flat[len(subjects) :]:
        ax.set_axis_off()
    figure.suptitle(
        "Rate over the expert's mean, in the layer of the largest drift; dots: false discovery "
        "rate below 5 %.\nRows of full colours alone are of experts that hardly any token goes to",
        fontsize=10,
    )
    return figure


def bits_figure(data: xr.Dataset) -> Figure:
    """Information between position and choice, of the whole text and after its first tokens."""
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 4.4), sharey=True, layout="constrained")
    names = data["subject"].values.tolist()
    titles = ("whole text", "after the first tokens")
    for ax, suffix, title in zip(axes, ("", "_later"), titles, strict=True):
        for place, name in enumerate(names):
            one = data.sel(subject=name)
            layer = data["layer"].values + (place - (len(names) - 1) / 2) * 0.11
            colour, bits = f"C{place}", 1000 * one[f"layer_drift_bits{suffix}"]
            ax.plot(layer, bits.mean("seed"), "o", color=colour, label=one["label"].item())
            for seed in data["seed"].values:
                ax.plot(layer, bits.sel(seed=seed), ".", color=colour, ms=4)
            null = 1000 * one[f"layer_drift_bits_null{suffix}"].mean("seed")
            ax.plot(layer, null, "_", color=colour, ms=9)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("layer")
        ax.set_xticks(np.asarray(data["layer"].values))
        ax.grid(alpha=0.3)
        ax.set_yscale("symlog", linthresh=0.1)
    axes[0].set_ylabel("information between block and choice\n(millibit per assignment)")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9
    )
    figure.suptitle(
        "Circles: mean over seeds; dots: seeds; dashes: 95 % quantile without drift", fontsize=10
    )
    return figure
