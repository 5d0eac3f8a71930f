"""The figures of the study over depth: what routing is made of, couplings, and token ids."""

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
    figure, ax = plt.subplots(figsize=(9.6, 4.6), layout="constrained")
    im.plot_budget(im.Budget(data), ax=ax)
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
    above.set_title(f"{data.attrs['model']}\ncoupling of an expert to itself", fontsize=10)
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


def identity_figure(data: xr.Dataset) -> Figure:
    """Overlap of occurrences of one id, and of neighbours, by layer."""
    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(6.4, 5.6), layout="constrained")
    layer = data["layer"].values
    labels = {
        "three ids": "same id, and the two before it",
        "two ids": "same id, and the one before it",
        "the id": "same id after another token",
        "no id": "any token",
    }
    curves = [(above, "same_id", {"alike": key}, label) for key, label in labels.items()]
    curves += [
        (below, "neighbours", {"which": "data"}, "as they are"),
        (below, "neighbours", {"which": "replaced"}, "replaced by others of their ids"),
    ]
    for place, name, chosen, label in curves:
        error = 1.96 * data[f"{name}_error"].sel(chosen).values
        value = data[name].sel(chosen).values
        place.errorbar(layer, value, yerr=error, fmt="o-", ms=3, lw=1, label=label)
    above.set_title(f"{data.attrs['model']}\nshare of experts in common", fontsize=10)
    above.set_ylabel("tokens of\ndifferent texts")
    below.set_ylabel("neighbours\nin a text")
    below.set_xlabel("layer")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    for place in (above, below):
        place.set_ylim(0, None)
        place.legend(fontsize=8, frameon=False, ncols=2)
    plt.close(figure)
    return figure
