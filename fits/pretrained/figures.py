"""The figures of the study: what routing is made of, and the couplings, over depth."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import isingmoe as im


def depth_figure(data: xr.Dataset) -> Figure:
    """Stacked bars of the budget over the layers of one model."""
    figure = im.plot_budget(im.Budget(data))
    plt.close(figure)
    return figure


def coupling_figure(data: xr.Dataset) -> Figure:
    """Self-coupling with and without fields between texts, and entropy production, by layer."""
    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(6.4, 5.2), layout="constrained")
    layer = data["layer"].values
    for name, marker, label in (
        ("plain", "o", "one field for all texts"),
        ("between_texts", "s", "a random field for every text"),
    ):
        above.errorbar(
            layer,
            data[f"self_coupling_{name}"].values,
            yerr=1.96 * data[f"self_coupling_error_{name}"].values,
            fmt=f"{marker}-",
            ms=4,
            lw=1,
            label=label,
        )
    above.axhline(0, color="grey", lw=0.6)
    above.set_ylabel("self-coupling J")
    above.set_title(f"{data.attrs['model']}: coupling of an expert to itself", fontsize=10)
    above.legend(fontsize=8, frameon=False)
    below.errorbar(
        layer,
        data["entropy_production"].values / np.log(2),
        yerr=1.96 * data["entropy_production_error"].values / np.log(2),
        fmt="o-",
        ms=4,
        lw=1,
        color="black",
    )
    below.axhline(0, color="grey", lw=0.6)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.set_xlabel("layer")
    below.set_ylabel("entropy production\n(bits per token)")
    plt.close(figure)
    return figure
