"""Perplexity by what decides, and by when it came to decide."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from arms import LABELS
from matplotlib.figure import Figure
from trained_models.intervals import interval

__all__ = ["perplexity_figure"]


def perplexity_figure(ratio: xr.DataArray) -> Figure:
    """One panel for each way, the same scale.

    Parameters
    ----------
    ratio : DataArray (way, kind, seed)
        Perplexity over that of the model's own router, of the same way and seed.
    """
    ways, kinds = ratio["way"].values.tolist(), list(LABELS)
    figure, axes = plt.subplots(
        1, len(ways), figsize=(13, 3.8), sharex=True, sharey=True, layout="constrained"
    )
    place = np.arange(len(kinds))[::-1]
    for ax, way in zip(axes, ways, strict=True):
        values = ratio.sel(way=way, kind=kinds)
        mean, half = interval(values)
        ax.errorbar(mean, place, xerr=half, fmt="o", capsize=3, color="C0", zorder=3)
        for seed in values["seed"].values:
            ax.plot(values.sel(seed=seed), place, ".", color="0.4", ms=4)
        ax.axvline(1, color="0.6", lw=0.8, ls="--")
        ax.set_title(way, fontsize=10)
        ax.grid(alpha=0.3, axis="x")
    axes[0].set_yticks(place, [LABELS[kind] for kind in kinds])
    axes[0].set_ylabel("what decides")
    figure.supxlabel(
        "held-out perplexity over that of the model's own router; bars: 95 % intervals over "
        "seeds; small dots: seeds",
        fontsize=10,
    )
    return figure
