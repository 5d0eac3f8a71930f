"""Correlation lengths against the length of the block."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import NDArray

from isingmoe.plotting.style import BLACK, BLUE, GREEN, GREY, ORANGE, new_axes, shown, written

__all__ = ["plot_block_sizes"]

# Colour, marker and label of every source; the data first.
_STYLES = {
    "measured": (BLUE, "o", "measured"),
    "chain": (BLACK, "", "drawn from the fitted chain"),
    "shuffled": (ORANGE, "^", "order lost: texts that differ"),
    "position-shuffled": (GREEN, "s", "neighbours lost: drift over the position"),
    "random": (GREY, "x", "random router"),
}
_KINDS = {
    "coarse": "ξ of the rates in blocks (tokens)",
    "window": "ξ inside windows (tokens)",
    "share": "share of the correlation of neighbouring blocks",
}
_VALUES = {"coarse": "coarse_length", "window": "window_length", "share": "coarse_length"}
# A baseline with less of the measured correlation than this is left out.
_LITTLE = 0.05
# Of the shares, beyond which a point stands on the edge.
_LOWEST, _HIGHEST = -0.15, 1.5


def plot_block_sizes(
    data: xr.Dataset, layer: int, *, kind: str = "coarse", ax: Axes | None = None
) -> Axes:
    """Correlation length of one layer against the length of the block, for each source.

    Parameters
    ----------
    data : Dataset
        Of `block_sizes`.
    layer : int
        The model's own number.
    kind : {"coarse", "window", "share"}
        Length of the rates in blocks, or inside windows; or what each source has of the
        correlation of neighbouring blocks.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        Lengths are on logarithmic axes with their 95 % intervals, a band for the chain. One
        without end stands on the upper edge, one that is not seen on the lower. A baseline
        stands where it is seen and has a twentieth of the measured correlation or more.

    Raises
    ------
    ValueError
        If there is no such layer or kind.
    """
    known = data["layer"].values.tolist()
    if layer not in known:
        raise ValueError(f"layer: expected one of {known}, got {layer}")
    if kind not in _KINDS:
        raise ValueError(f"kind: expected one of {', '.join(_KINDS)}, got {kind!r}")
    if ax is None:
        ax = new_axes(5.6, 4.4)
    row = data.sel(layer=layer)
    if kind == "share":
        _draw_shares(ax, row)
    else:
        _draw_lengths(ax, row, kind)
    ax.set_xscale("log", base=2)
    measured = row[_VALUES[kind]].sel(source="measured")
    b = row["block_length"].values
    known = b[measured.notnull().values]
    ax.set_xticks(b, [str(n) for n in b])
    ax.set_xlim(*(known[[0, -1]] if known.size else b[[0, -1]]) * np.array([0.8, 1.25]))
    ax.minorticks_off()
    ax.set_xlabel("block length b (tokens)")
    ax.set_ylabel(_KINDS[kind])
    ax.set_title(f"{shown(data.attrs.get('model', ''), 50)}, layer {layer}", fontsize=10)
    ax.legend(fontsize=7.5, frameon=False, loc="upper left", ncols=2)
    return ax


def _draw_shares(ax: Axes, row: xr.Dataset) -> None:
    b = row["block_length"].values
    for source in row["source"].values.tolist():
        colour, marker, label = _STYLES[source]
        value = np.clip(row["coarse_share"].sel(source=source).values, _LOWEST, _HIGHEST)
        ax.plot(b, value, f"{marker}-", color=colour, ms=4, lw=1.2, label=label)
    ax.axhline(0, color=GREY, lw=0.6)
    ax.set_yscale("linear")
    # The legend has the room above.
    ax.set_ylim(_LOWEST, _HIGHEST + 0.6)


def _draw_lengths(ax: Axes, row: xr.Dataset, kind: str) -> None:
    b = row["block_length"].values
    bottom, top = _limits(row, kind)
    for source in row["source"].values.tolist():
        part = row.sel(source=source)
        value, low, high = (
            _on_axes(part[f"{kind}_length{end}"].values, bottom, top)
            for end in ("", "_low", "_high")
        )
        colour, marker, label = _STYLES[source]
        if source == "measured":
            error = np.nan_to_num([np.maximum(value - low, 0), np.maximum(high - value, 0)])
            style = {"ms": 4.5, "lw": 1.4, "color": colour, "label": label, "zorder": 3}
            ax.errorbar(b, value, yerr=error, fmt=f"{marker}-", clip_on=False, **style)
        elif source == "chain":
            ax.fill_between(b, low, high, color=colour, alpha=0.15, lw=0)
            ax.plot(b, value, "-", color=colour, lw=1.4, label=label)
        elif (matters := _matters(row, source, kind)).any():
            shown = np.where(matters, value, np.nan)
            ax.plot(b, shown, marker, color=colour, ms=4, label=label, clip_on=False)
    if kind == "coarse" and "coarse_length_exact" in row:
        exact = _on_axes(row["coarse_length_exact"].values, bottom, top)
        ax.plot(b, exact, ":", color=BLUE, lw=1.2, label="the chain, exactly")
    ax.plot(b, np.where(b <= top, b, np.nan), "--", color=GREY, lw=0.7, zorder=0, label="ξ = b")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(written)
    # The legend has the room above the edge.
    ax.set_ylim(bottom, top * (top / bottom) ** 0.3)


def _matters(row: xr.Dataset, source: str, kind: str) -> NDArray[np.bool_]:
    """Where a source has a length, and not of next to nothing."""
    curve = row[f"{kind}_correlation"]
    first = abs(curve.isel({curve.dims[-1]: 1}))
    some = first.sel(source=source) > _LITTLE * first.sel(source="measured")
    return ((row[f"{kind}_n_fitted"].sel(source=source) > 0) & some).values


def _limits(row: xr.Dataset, kind: str) -> tuple[float, float]:
    """Lowest and highest length that is drawn where it is."""
    known = [name for name in ("measured", "chain") if name in row["source"].values]
    part = row.sel(source=known)
    values = np.concatenate([part[f"{kind}_length{end}"].values.ravel() for end in ("", "_high")])
    seen = values[np.isfinite(values) & (values > 0)]
    if not seen.size:
        return 0.1, 10.0
    bottom = max(seen.min() / 2, 0.05)
    return bottom, max(2 * np.quantile(seen, 0.95), 10 * bottom)


def _on_axes(value: NDArray, bottom: float, top: float) -> NDArray:
    """Lengths as they can be drawn: zero and infinity on the edges."""
    return np.where(np.isnan(value), np.nan, np.clip(value, bottom, top))
