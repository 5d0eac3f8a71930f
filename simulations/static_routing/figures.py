"""Perplexity by what decides, and by when it came to decide."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from arms import LABELS
from matplotlib.figure import Figure
from small_models.intervals import interval

__all__ = ["perplexity_figure"]


def perplexity_figure(data: xr.Dataset) -> Figure:
    """One panel for each way, the same scale."""
    ways, kinds = data["way"].values.tolist(), list(LABELS)
    figure, axes = plt.subplots(
        1, len(ways), figsize=(13, 3.8), sharex=True, sharey=True, layout="constrained"
    )
    place = np.arange(len(kinds))[::-1]
    for ax, way in zip(np.atleast_1d(axes), ways, strict=True):
        values = data["perplexity"].sel(way=way).sel(kind=kinds)
        mean, half = interval(values)
        ax.errorbar(mean, place, xerr=half, fmt="o", capsize=3, color="C0")
        ax.axvline(float(mean.sel(kind="dynamic")), color="0.6", lw=0.8, ls="--")
        ax.set_title(way, fontsize=10)
        ax.grid(alpha=0.3, axis="x")
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(plt.FuncFormatter(lambda x, _: f"{x:g}"))
        ax.xaxis.set_minor_formatter(plt.FuncFormatter(lambda x, _: f"{x:g}"))
        ax.tick_params(axis="x", which="minor", labelsize=7)
    axes[0].set_yticks(place, [LABELS[kind] for kind in kinds])
    axes[0].set_ylabel("what decides")
    figure.supxlabel("held-out perplexity; bars are 95 % intervals over seeds", fontsize=10)
    return figure
