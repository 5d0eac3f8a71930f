"""The summary of a comparison over depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from isingmoe._text import plain
from isingmoe.plotting.style import BLACK, BLUE, CENTRE_STYLES, GREY

if TYPE_CHECKING:
    from isingmoe.comparison import Comparison

__all__ = ["plot_layers"]


def plot_layers(comparison: Comparison) -> Figure:
    """Summary over depth: self-coupling, correlation lengths, load and bits per token.

    Parameters
    ----------
    comparison : Comparison

    Returns
    -------
    Figure
        Four panels.
    """
    data = comparison.data
    layer = data["layer"].values
    figure, axes = plt.subplots(2, 2, figsize=(9.6, 6.4), sharex=True, layout="constrained")
    figure.suptitle(
        f"{plain(data.attrs['model'], 60)}: {data.attrs['chain']} chain, "
        f"coupling {data.attrs['coupling']}",
        fontsize=11,
    )
    coupling, length, load, bits = axes.flat
    coupling.errorbar(
        layer,
        data["self_coupling"],
        yerr=data["self_coupling_error"],
        fmt="o-",
        ms=4,
        color=BLUE,
    )
    coupling.axhline(0, color=GREY, lw=0.8)
    coupling.set_ylabel("self-coupling J")

    length.plot(layer, data["predicted_length"], "o-", ms=4, color=BLACK, label="chain")
    for centre in data["centre"].values:
        row = data.sel(centre=centre)
        colour, marker, label = CENTRE_STYLES[str(centre)]
        value = row["correlation_length"].values
        value = np.where(np.isfinite(value), value, 0)
        shown = value > 0
        low = np.maximum(row["correlation_length_low"].values, 1e-2)
        high = row["correlation_length_high"].values
        # An upper end at infinity, or an interval that is not known, is drawn as it can be.
        high = np.where(np.isfinite(high), high, np.where(np.isnan(high), value, 3 * value))
        low = np.where(np.isnan(low), value, low)
        length.errorbar(
            layer[shown],
            value[shown],
            yerr=(np.clip(value - low, 0, None)[shown], np.clip(high - value, 0, None)[shown]),
            fmt=f"{marker}-",
            ms=3.5,
            lw=0.9,
            color=colour,
            label=label,
        )
    length.set_yscale("log")
    length.set_ylabel("correlation length ξ (tokens)")
    # Room above the error bars, and a ground of its own where they reach into it.
    low, high = length.get_ylim()
    length.set_ylim(low, high * (high / low) ** 0.35)
    legend = length.legend(fontsize=7.5, loc="upper left", framealpha=1, edgecolor="0.8")
    legend.set_zorder(10)

    load.plot(layer, data["kl"], "o-", ms=4, color=BLUE, label="KL of the load from uniform")
    load.plot(layer, data["kl_null"], "--", color=GREY, label="95 % of a uniform router")
    load.set_ylabel("KL (nat)")
    load.legend(fontsize=8, frameon=False)

    held_out = "held_out_bits" in data
    score = data["held_out_bits" if held_out else "bits_per_token"]
    reference = data["held_out_bits_load" if held_out else "bits_load"]
    bits.plot(layer, data["bits_uniform"] - reference, "s-", ms=4, color=GREY, label="load")
    bits.plot(layer, data["bits_uniform"] - score, "o-", ms=4, color=BLUE, label="load + chain")
    bits.axhline(0, color=GREY, lw=0.8)
    bits.set_ylabel(f"bits/token below uniform{' (held out)' if held_out else ''}")
    bits.legend(fontsize=8, frameon=False)
    for ax in axes[1]:
        ax.set_xlabel("layer")
    for ax in axes.flat:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
