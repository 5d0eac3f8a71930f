"""The study's two figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure


def loss_figure(curve: xr.Dataset, perplexity: Mapping[str, float]) -> Figure:
    """Draw training and held-out loss over steps, with the baselines' held-out loss as lines."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve["step"], curve["train_loss"], "o-", ms=3, label="model, training speeches")
    axes.plot(curve["step"], curve["held_out_loss"], "s-", ms=3, label="model, held-out speeches")
    for name, style in {"unigram": ":", "bigram": "--"}.items():
        label = f"{name}, held-out speeches"
        axes.axhline(np.log(perplexity[name]), color="0.3", ls=style, lw=1, label=label)
    axes.set(xlabel="optimiser steps", ylabel="cross-entropy (nat per token)")
    axes.legend()
    return figure


def routing_figure(overlap: xr.Dataset, load: np.ndarray) -> Figure:
    """Draw the overlap of neighbouring expert sets beside shuffles, and every expert's load.

    Parameters
    ----------
    overlap : Dataset, dims (layer,)
        From `isingmoe.neighbour_overlap`.
    load : ndarray, shape (layer, expert)
        In units of the uniform load 1/E.
    """
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    layers = overlap["layer"].values
    left.plot(layers, overlap["overlap"], "o", label="in the text's order")
    left.errorbar(
        layers,
        overlap["overlap_shuffled"],
        yerr=10 * overlap["overlap_spread"],
        fmt="x",
        color="0.3",
        capsize=4,
        label="shuffled (bars: 10 standard deviations)",
    )
    left.set(xlabel="layer", ylabel="share of experts in common\nwith the next token")
    left.set_xticks(layers)
    left.set_ylim(bottom=0, top=1.3 * float(overlap["overlap"].max()))
    left.legend(loc="upper left")

    image = right.imshow(load, aspect="auto", cmap="cividis", vmin=0)
    right.set(xlabel="expert", ylabel="layer")
    right.set_yticks(range(len(layers)), layers)
    figure.colorbar(image, ax=right, label="load, in units of the uniform load 1/E")
    return figure
