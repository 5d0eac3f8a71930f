"""The figures of the study."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any colour vision.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7")
MARKERS = ("o", "s", "^", "D", "v")
GREY = "#888888"
# Longer than any text; drawn with an arrow.
CEILING = 2e4
FLOOR = 0.15


def decimation(data: xr.Dataset) -> Figure:
    """Flow of coupling and field, and the length of what is left."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    doublings = np.flatnonzero(np.isclose(np.log2(data["factor"]) % 1, 0))
    for field in range(data.sizes["start_field"]):
        x = np.tanh(data["flow_J"][field].values)
        y = np.tanh(data["flow_h"][field].values)
        left.plot(x, y, color=COLOURS[1], lw=1.2)
        left.plot(x[doublings], y[doublings], "o", ms=3.2, color=COLOURS[1])
        middle = len(x) // 3
        left.annotate(
            "",
            (x[middle + 1], y[middle + 1]),
            (x[middle], y[middle]),
            arrowprops={"arrowstyle": "-|>", "color": COLOURS[1]},
        )
    left.plot(1, 0, "*", ms=13, color=COLOURS[2], label="T = 0, h = 0: the critical point")
    left.axvline(0, color="black", lw=3, label="independent sites: stable fixed points")
    left.set_xlim(-0.02, 1.03)
    left.set_ylim(-1.05, 1.05)
    left.set_xlabel("tanh(J/T)")
    left.set_ylabel("tanh(h/T)")
    left.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=2, frameon=False)
    left.set_title("Ising chain, every second site kept at each dot", fontsize=10.5)

    block = data["block"].values
    for i, name in enumerate(data["chain"].values):
        row = data.sel(chain=name)
        right.plot(
            block,
            row["correlation_length"],
            MARKERS[i],
            color=COLOURS[i + 1],
            mfc="none",
            ms=6,
            label=str(name),
        )
        right.plot(block, float(row["whole_length"]) / block, color=COLOURS[i + 1], lw=1)
    logarithmic(right)
    right.set_xlabel("one site in b kept, b")
    right.set_ylabel("correlation length ξ (sites left)")
    right.legend(fontsize=8.5, frameon=False, title="lines: ξ of the whole chain / b")
    return figure


def logarithmic(ax: Axes) -> None:
    """Block size on an axis of base two, length on one of base ten."""
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


ROWS = (
    ("fitted_length", "global", "fit of the decay"),
    ("second_moment_length", "global", "second moment, with lag 0"),
    ("fitted_length", "text", "fit of the decay,\nmean of each text taken off"),
)


def lengths(chains: xr.Dataset, text: xr.Dataset, exact: xr.Dataset) -> Figure:
    """Correlation length in tokens against block size, for every kind of text."""
    groups = [*dict.fromkeys(chains["group"].values.tolist()), str(text["group"].values[0])]
    figure = Figure(figsize=(12.5, 11.5), layout="constrained")
    axes = figure.subplots(len(ROWS), len(groups), sharex=True, sharey=True)
    for row, (name, centre, title) in enumerate(ROWS):
        for column, group in enumerate(groups):
            ax = axes[row, column]
            data = text if group in text["group"].values else chains
            block = np.array([1.0, 128.0])
            ax.plot(block, block, "--", color=GREY, lw=1)
            ax.annotate("ξ = b", (76, 36), color=GREY, fontsize=9)
            for place, kind in enumerate(data["kind"].values[data["group"].values == group]):
                points(ax, data.sel(kind=kind, centre=centre), name, place)
            if column == 0:
                place = chains["label"].values.tolist().index("Ising")
                ax.plot(exact["block"], exact[name], color=COLOURS[place], lw=1)
                ax.set_ylabel(f"{title}\nξ (tokens)")
            if row == 0:
                ax.set_title(group, fontsize=11)
                ax.legend(fontsize=8.5, frameon=False, loc="lower right")
            if row == len(ROWS) - 1:
                ax.set_xlabel("tokens in a block, b")
            logarithmic(ax)
            ax.set_ylim(FLOOR, 3 * CEILING)
    return figure


def points(ax: Axes, row: xr.Dataset, name: str, place: int) -> None:
    """Lengths of one kind with their intervals; arrows where nothing decays."""
    block = row["block"].values * 1.06 ** (place - 1.5)
    value, low, high = (row[name + end].values for end in ("", "_low", "_high"))
    shown = np.clip(value, FLOOR, CEILING)
    low = np.clip(np.minimum(low, shown), FLOOR, CEILING)
    high = np.clip(np.maximum(high, shown), FLOOR, CEILING)
    colour = COLOURS[place]
    ax.errorbar(
        block,
        shown,
        yerr=(shown - low, high - shown),
        fmt=f"{MARKERS[place]}",
        ms=4.5,
        lw=1,
        capsize=2,
        color=colour,
        mfc="white",
        label=str(row["label"].values),
    )
    beyond = high >= CEILING
    ax.plot(block[beyond], np.full(beyond.sum(), 1.25 * CEILING), "^", ms=4, color=colour)


def curves(chains: xr.Dataset, text: xr.Dataset) -> Figure:
    """Correlation of block rates over distance in tokens, where above two errors."""
    wanted = [(chains, k) for k in ("ising", "drift", "disorder", "above")]
    wanted += [(text, kind) for kind in text["kind"].values if kind != "shuffled"]
    figure = Figure(figsize=(12.5, 6.2), layout="constrained")
    axes = figure.subplots(2, 4, sharex="row", sharey=True)
    for ax, (data, kind) in zip(axes.flat, wanted, strict=True):
        row = data.sel(kind=kind, centre="global")
        sizes = [b for b in (1, 4, 16, 64) if b in row["block"].values]
        for i, b in enumerate(sizes):
            one = row.sel(block=b)
            lag = one["lag"].values[1:]
            scale = float(one["correlation"][0])
            value = one["correlation"].values[1:] / scale
            error = one["correlation_error"].values[1:] / scale
            # One run of lags, from the first that is seen to the next that is not.
            above = value > 2 * error
            begun = above.cumsum() > 0
            seen = begun & ((begun & ~above).cumsum() == 0)
            ax.errorbar(
                b * lag[seen],
                value[seen],
                yerr=error[seen],
                fmt=f"{MARKERS[i]}-",
                ms=4,
                lw=1,
                capsize=1.5,
                color=COLOURS[i],
                mfc="white",
                label=f"b = {b}",
            )
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_ylim(1e-3, 1.2)
        ax.set_title(str(row["label"].values), fontsize=10.5)
    for ax in axes[:, 0]:
        ax.set_ylabel("C(d) / C(0) of block rates")
    for ax in axes[-1]:
        ax.set_xlabel("distance (tokens)")
    for ax in axes[0]:
        ax.set_xlabel("distance (tokens)")
    axes[0, 0].legend(fontsize=8.5, frameon=False, loc="upper right")
    return figure
