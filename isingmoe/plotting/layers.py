"""The summary of a comparison over depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import NDArray

from isingmoe.plotting.lengths import plot_lengths
from isingmoe.plotting.style import BLUE, GREY, layer_axis, legend_below, shown

if TYPE_CHECKING:
    from isingmoe.comparison import Comparison

__all__ = ["plot_layers"]


def plot_layers(comparison: Comparison, *, axes: NDArray[Any] | None = None) -> NDArray[Any]:
    """Summary over depth: self-coupling, correlation lengths, load and bits per token.

    Parameters
    ----------
    comparison : Comparison
    axes : ndarray of Axes, optional
        Four of them, in any shape; a new figure by default.

    Returns
    -------
    ndarray of Axes

    Raises
    ------
    ValueError
        If there are not four axes.
    """
    data = comparison.data
    if axes is None:
        figure, panels = plt.subplots(2, 2, figsize=(9.6, 7.6), layout="constrained")
        figure.suptitle(
            f"{shown(data.attrs['model'])}: {data.attrs['chain']} chain, "
            f"coupling {data.attrs['coupling']}",
            fontsize=11,
        )
    else:
        panels = axes
    if panels.size != 4:
        raise ValueError(f"axes: expected 4, got {panels.size}")
    coupling, length, load, bits = panels.flat
    _draw_coupling(coupling, data)
    plot_lengths(comparison, ax=length).set_title("")
    _draw_load(load, data)
    _draw_bits(bits, data)
    for ax in panels.flat:
        layer_axis(ax)
    return panels


def _draw_coupling(ax: Axes, data: xr.Dataset) -> None:
    ax.errorbar(
        data["layer"],
        data["self_coupling"],
        yerr=data["self_coupling_error"],
        fmt="o-",
        ms=4,
        color=BLUE,
    )
    ax.axhline(0, color=GREY, lw=0.8)
    ax.set_ylabel("self-coupling J")


def _draw_load(ax: Axes, data: xr.Dataset) -> None:
    layer = data["layer"]
    ax.plot(layer, data["kl"], "o-", ms=4, color=BLUE, label="KL of the load from uniform")
    ax.plot(layer, data["kl_null"], "--", color=GREY, label="95 % of a uniform router")
    ax.set_ylabel("KL (nat)")
    legend_below(ax)


def _draw_bits(ax: Axes, data: xr.Dataset) -> None:
    held_out = "held_out_bits" in data
    score = data["held_out_bits" if held_out else "bits_per_token"]
    reference = data["held_out_bits_load" if held_out else "bits_load"]
    layer, uniform = data["layer"], data["bits_uniform"]
    ax.plot(layer, uniform - reference, "s-", ms=4, color=GREY, label="load")
    ax.plot(layer, uniform - score, "o-", ms=4, color=BLUE, label="load + chain")
    ax.axhline(0, color=GREY, lw=0.8)
    ax.set_ylabel(f"bits/token below uniform{' (held out)' if held_out else ''}")
    legend_below(ax)
