"""Figures: accuracies by layer, and by the wavelength of the position encoding."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from trained_models.intervals import interval

__all__ = ["accuracy_figure", "band_figure"]

_INPUTS = {
    "hidden_state": "router input",
    "router_logit": "router logits",
    "expert_index": "choice alone",
}


def accuracy_figure(data: xr.Dataset) -> Figure:
    """A row for each target, a column for each input; sequences held out."""
    targets, inputs = data["target"].values.tolist(), data["input"].values.tolist()
    figure, axes = plt.subplots(
        len(targets),
        len(inputs),
        figsize=(4.3 * len(inputs), 2.9 * len(targets)),
        sharex=True,
        sharey="row",
        layout="constrained",
        squeeze=False,
    )
    for row, target in zip(axes, targets, strict=True):
        for ax, name in zip(row, inputs, strict=True):
            _draw_models(ax, data.sel(target=target, input=name, split="sequence"))
        row[0].set_ylabel(f"{target}\naccuracy")
    for top, bottom, name in zip(axes[0], axes[-1], inputs, strict=True):
        top.set_title(_INPUTS[name], fontsize=10)
        bottom.set_xlabel("layer")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(
        "Windows held out. Bars: 95 % intervals over seeds; dashes: shifted labels",
        fontsize=10,
    )
    return figure


def _draw_models(ax: Axes, data: xr.Dataset) -> None:
    names = data["subject"].values.tolist()
    for place, name in enumerate(names):
        one = data.sel(subject=name)
        mean, half = interval(one["accuracy"])
        layer = data["layer"].values + (place - (len(names) - 1) / 2) * 0.11
        label = one["label"].item()
        ax.errorbar(layer, mean, half, fmt="o", ms=4, color=f"C{place}", capsize=2, label=label)
        shifted = one["control_accuracy"].sel(control="shifted").mean("seed")
        ax.plot(layer, shifted, "_", color=f"C{place}", ms=9)
    ax.set_xticks(np.asarray(data["layer"].values))
    ax.grid(alpha=0.3)


def band_figure(data: xr.Dataset) -> Figure:
    """Blocks told inside each band of the rotary encoding, mean over layers, sequences held out."""
    targets = [name for name in data["target"].values.tolist() if name != "parity"]
    figure, axes = plt.subplots(
        1, len(targets), figsize=(5.6 * len(targets), 3.8), layout="constrained", squeeze=False
    )
    turned = [
        name
        for name in data["subject"].values.tolist()
        if data["band_accuracy"].sel(subject=name).notnull().any()
    ]
    for ax, target in zip(axes.flat, targets, strict=True):
        for place, name in enumerate(turned):
            one = data.sel(subject=name, target=target, split="sequence")
            mean, half = interval(one["band_accuracy"].mean("layer"))
            shift = 1.06 ** (place - (len(turned) - 1) / 2)
            label, colour = one["label"].item(), f"C{place}"
            x = data["wavelength"] * shift
            ax.errorbar(x, mean, half, fmt="o-", ms=4, lw=0.8, color=colour, capsize=2, label=label)
            ax.axhline(
                float(one["random_accuracy"].mean(["layer", "seed"])), color=colour, ls="--", lw=0.8
            )
        ax.set_xscale("log")
        ax.set_title(target, fontsize=10)
        ax.set_xlabel("wavelength (tokens)")
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("accuracy inside the band")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(
        "Windows held out, mean over layers\nbars: 95 % intervals over seeds; "
        "dashed: random subspaces",
        fontsize=10,
    )
    return figure
