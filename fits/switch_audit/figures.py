"""Figures: what is dropped where, who serves what is left, and what limits change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from arms import ARMS, LABELS
from limits import independent, name_of
from matplotlib.figure import Figure
from trained_models.intervals import interval

if TYPE_CHECKING:
    from trained_models.store import Store

__all__ = ["dropped_figure", "limit_figure", "rate_figure"]

_KINDS = {
    "chosen": ("o", -0.27, "chosen by the router"),
    "thinned": ("^", -0.09, "chosen, holes of another text"),
    "unordered": ("v", 0.09, "chosen, as many holes of each expert anywhere"),
    "received": ("s", 0.27, "received by the experts"),
}
_COLOURS = dict(zip(LABELS, plt.get_cmap("tab10").colors, strict=False))


def dropped_figure(data: xr.Dataset, store: Store) -> Figure:
    """Share of dropped tokens over position, of each layer, as trained and as chance has it."""
    stacks, layers = data["stack"].values.tolist(), data["layer"].values.tolist()
    figure, axes = plt.subplots(
        len(layers),
        len(stacks),
        figsize=(9, 2.6 * len(layers) + 0.6),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for row, layer in zip(axes, layers, strict=True):
        for ax, stack in zip(row, stacks, strict=True):
            for arm in ARMS[1:]:
                values = data["dropped_at"].sel(run=name_of(arm, arm), stack=stack, layer=layer)
                mean, half = interval(values)
                place, colour = np.arange(len(mean)), _COLOURS[arm.name]
                ax.plot(place, mean, color=colour, label=LABELS[arm.name])
                ax.fill_between(place, mean - half, mean + half, color=colour, alpha=0.15, lw=0)
                chance = independent(arm, store)
                ax.plot(
                    place, chance, "--", color=colour, lw=1, label=f"{LABELS[arm.name]}, by chance"
                )
            ax.set_title(f"{stack}, layer {layer}", fontsize=10)
            ax.set_ylim(0, 1)
            ax.grid(alpha=0.3)
    for ax in axes[-1]:
        ax.set_xlabel("position")
    for ax in axes[:, 0]:
        ax.set_ylabel("share of tokens dropped")
    axes[0, 0].legend(fontsize=8, loc="upper left")
    figure.suptitle(
        "Trained and run with a capacity; bands are 95 % intervals over seeds.\n"
        "By chance: tokens that choose independently, experts alike",
        fontsize=10,
    )
    return figure


def rate_figure(data: xr.Dataset) -> Figure:
    """Tokens that each expert serves over position, of a layer of one model without a limit."""
    free, tight = ARMS[0], ARMS[-1]
    stacks = data["stack"].values.tolist()
    figure, axes = plt.subplots(
        len(stacks), 3, figsize=(11, 5.6), sharex=True, sharey=True, layout="constrained"
    )
    panels = {
        "trained and run without a limit": (free, free, "received"),
        "the same model, run with factor 1": (free, tight, "received"),
        "trained and run with factor 1": (tight, tight, "received"),
    }
    last = data["layer"].values[-1]
    for row, stack in zip(axes, stacks, strict=True):
        for ax, (title, (trained, run, which)) in zip(row, panels.items(), strict=True):
            one = data.sel(run=name_of(trained, run), which=which, stack=stack, layer=last)
            one = one.isel(seed=0)
            # Rates are of the tokens that were served; here of all.
            served = one["rate"] * one["block_tokens"] / one["block_tokens"].max()
            ax.stackplot(one["block_start"], served, colors=plt.get_cmap("tab10").colors, lw=0)
            ax.set_ylim(0, 1)
            ax.set_xlim(0, float(one["block_start"][-1]))
            ax.set_xticks(one["block_start"][::4])
            ax.set_title(f"{stack}: {title}", fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel("first position of a block (tokens)")
    for ax in axes[:, 0]:
        ax.set_ylabel("share of all tokens")
    figure.suptitle(
        f"What each expert (a colour) serves in layer {last}, one seed; white: dropped",
        fontsize=10,
    )
    return figure


def limit_figure(data: xr.Dataset) -> Figure:
    """Coupling, drift and stability of each run, of what is chosen and what is received."""
    panels = {
        "self_coupling": "coupling of an expert to itself",
        "drift_bits": "information of the position\n(bits per token)",
        "stability": "dispersion of rates over position\n(1: tokens in random order)",
    }
    figure, axes = plt.subplots(1, 3, figsize=(12.5, 4), layout="constrained")
    names = data["run"].values.tolist()
    for ax, (name, label) in zip(axes, panels.items(), strict=True):
        for which, (marker, shift, told) in _KINDS.items():
            values = data[name].sel(which=which).mean(("stack", "layer"))
            mean, half = interval(values)
            ax.errorbar(
                mean,
                np.arange(len(names)) + shift,
                xerr=half,
                fmt=marker,
                ms=5,
                capsize=2,
                label=told,
            )
        ax.set_xlabel(label)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_yticks(
            range(len(names)),
            [] if ax is not axes[0] else [name.replace("; ", "\n") for name in names],
        )
        ax.grid(alpha=0.3)
    axes[2].axvline(1, color="0.5", lw=0.8)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8
    )
    figure.suptitle("Mean over the layers of both stacks, 95 % intervals over seeds", fontsize=10)
    return figure
