"""Accuracies of position probes over depth, and against the wavelength of the encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from isingmoe.plotting.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    YELLOW,
    legend_below,
    shown,
    written,
)

if TYPE_CHECKING:
    from isingmoe.probing import Probe

__all__ = ["plot_probe"]

_INPUTS = {
    "hidden_state": (BLUE, "router input"),
    "router_logit": (GREEN, "router logits"),
    "expert_index": (ORANGE, "choice of experts"),
}
_SPLITS = {"token": ("s", "none", "tokens held out"), "sequence": ("o", None, "texts held out")}
_LAYERS = (BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW)
# Of more layers, one curve each would be a thicket: those at equal distances are drawn.
_MOST_LAYERS = len(_LAYERS)


def plot_probe(probe: Probe, *, axes: NDArray[Any] | None = None) -> NDArray[Any]:
    """Accuracy of each target over layers and, where bands were probed, over their wavelength.

    Parameters
    ----------
    probe : Probe
    axes : ndarray of Axes, optional
        One for each target, and as many again where there are bands, in any shape; a new
        figure by default.

    Returns
    -------
    ndarray of Axes
        Points are accuracies with their 95 % intervals, filled where whole sequences were held
        out. The grey bar behind a point is where 95 % of accuracies lie that shifted labels
        have, the short line the commonest class. Against the wavelength, dashed lines and bands
        are of random subspaces, in the colour of their layer.

    Raises
    ------
    ValueError
        If there is another number of axes.
    """
    data = probe.data
    targets = data["target"].values.tolist()
    n_rows = 2 if "band_accuracy" in data else 1
    if axes is None:
        width = max(4.6, 1.8 + 0.5 * data.sizes["layer"])
        size = (width * len(targets), 3.9 * n_rows)
        figure, panels = plt.subplots(
            n_rows, len(targets), figsize=size, layout="constrained", squeeze=False
        )
        figure.suptitle(f"{shown(data.attrs['model'])}: position told by a probe", fontsize=11)
    else:
        panels = axes
    if panels.size != n_rows * len(targets):
        raise ValueError(f"axes: expected {n_rows * len(targets)}, got {panels.size}")
    for ax, target in zip(panels.flat[: len(targets)], targets, strict=True):
        _draw_layers(ax, data.sel(target=target))
    for ax, target in zip(panels.flat[len(targets) :], targets, strict=False):
        _draw_bands(ax, data.sel(target=target))
    return panels


def _draw_layers(ax: Axes, data: xr.Dataset) -> None:
    inputs, splits = data["input"].values.tolist(), data["split"].values.tolist()
    # A bar that ends at the frame looks as if it went on.
    ax.use_sticky_edges = False
    place = np.arange(data.sizes["layer"])
    n = len(inputs) * len(splits)
    step = 0.8 / n
    for number in range(n):
        source, split = inputs[number // len(splits)], splits[number % len(splits)]
        colour, label = _INPUTS[source]
        marker, face, held_out = _SPLITS[split]
        one = data.sel(input=source, split=split)
        x = place + (number - (n - 1) / 2) * step
        control = one.sel(control="shifted")
        told = ("95 % of shifted labels", "commonest class") if number == 0 else ("_", "_")
        ax.bar(
            x,
            (control["control_high"] - control["control_low"]).values,
            bottom=control["control_low"].values,
            width=0.86 * step,
            color="#DDDDDD",
            label=told[0],
        )
        ax.hlines(
            one["majority"].values,
            x - step / 2,
            x + step / 2,
            color=BLACK,
            lw=0.8,
            label=told[1],
        )
        value = one["accuracy"].values
        ends = np.stack([value - one["accuracy_low"].values, one["accuracy_high"].values - value])
        ax.errorbar(
            x,
            value,
            yerr=np.nan_to_num(ends),
            fmt=marker,
            ms=4.5,
            mfc=colour if face is None else "white",
            color=colour,
            lw=1,
            label=f"{label}, {held_out}",
        )
    every = -(-len(place) // 16)
    names = [str(layer) for layer in data["layer"].values[::every]]
    ax.set_xticks(place[::every], names)
    ax.set_xlim(-0.6, len(place) - 0.4)
    ax.set_xlabel("layer")
    ax.set_ylabel("accuracy, held out")
    ax.set_title(_titled(data), fontsize=10)
    legend_below(ax, columns=2)


def _draw_bands(ax: Axes, data: xr.Dataset) -> None:
    split = data["split"].values.tolist()[-1]
    data = data.sel(split=split)
    every = -(-data.sizes["layer"] // _MOST_LAYERS)
    wavelength = data["wavelength"].values
    for place, layer in enumerate(data["layer"].values[::every].tolist()):
        one, colour = data.sel(layer=layer), _LAYERS[place]
        if np.isfinite(one["random_accuracy"]):
            ends = float(one["random_low"]), float(one["random_high"])
            ax.axhspan(*ends, color=colour, alpha=0.12, lw=0)
            ax.axhline(float(one["random_accuracy"]), color=colour, lw=0.8, ls="--")
        ax.errorbar(
            wavelength,
            one["band_accuracy"].values,
            yerr=np.nan_to_num(one["band_accuracy_error"].values),
            fmt="o-",
            ms=3.5,
            lw=1,
            color=colour,
            label=f"layer {layer}",
        )
    if data.attrs["n_shuffles"]:
        ax.plot([], [], "--", color=GREY, lw=0.8, label="random subspaces, 95 %")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(written))
    ax.set_xlabel("wavelength of the band (tokens)")
    ax.set_ylabel("accuracy from one band")
    held_out = _SPLITS[split][2]
    ax.set_title(f"{_titled(data)}, {held_out}", fontsize=10)
    legend_below(ax, columns=3)


def _titled(data: xr.Dataset) -> str:
    n_classes = data["n_classes"].values
    several = f"{n_classes.min()}" + (
        f" to {n_classes.max()}" if n_classes.min() < n_classes.max() else ""
    )
    length = int(data["block_length"])
    name = f"blocks of {length}" if length else "parity"
    return f"{name}, {several} classes"
