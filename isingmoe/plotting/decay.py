"""The decay of correlations with distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from isingmoe.plotting.style import (
    BLACK,
    CENTRE_STYLES,
    GREEN,
    GREY,
    PURPLE,
    YELLOW,
    known_layer,
    legend_below,
    new_axes,
    shown,
    written,
)

if TYPE_CHECKING:
    from isingmoe.comparison import Comparison

__all__ = ["plot_decay"]

Array = NDArray[np.floating]

# Half widths of the bands, in standard errors: 95 % of a Gaussian.
_WIDE = 1.96
# Of baselines: colour, label.
_BASELINES = {
    "random": (YELLOW, "uniform router"),
    "shuffled": (GREY, "tokens of each text in random order"),
    "position-shuffled": (PURPLE, "texts exchanged at each position"),
}


def plot_decay(
    comparison: Comparison, layer: int | None = None, *, laws: int = 1, ax: Axes | None = None
) -> Axes:
    """Correlation of one layer against distance, on log axes.

    Parameters
    ----------
    comparison : Comparison
    layer : int, optional
        The model's own number; not needed where there is one.
    laws : int
        How many of the fitted decay laws are drawn, the likeliest first.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        C(d) / C(0) with bands of 95 %: measured about each mean, predicted by the chain,
        and of the baselines. A triangle on the floor stands for a value below it, or below
        zero, which a logarithm cannot show.

    Raises
    ------
    ValueError
        If there is no such layer.
    """
    layer = known_layer(comparison.data["layer"].values, layer)
    ax = new_axes(4.8, 4.4) if ax is None else ax
    data = comparison.data.sel(layer=layer)
    distance = data["distance"].values[1:]
    curves = _measured(data)
    floor = _floor(curves)
    scale = float(data["measured"].sel(centre="global")[0])
    if scale > 0:
        _draw_baselines(ax, data, distance, scale, floor)
    for centre, (value, error) in curves.items():
        colour, marker, label = CENTRE_STYLES[centre]
        _draw_curve(ax, distance, value, error, floor, color=colour, marker=marker, label=label)
    _draw_prediction(ax, data, distance, floor)
    if "law_curve" in data and scale > 0:
        _draw_laws(ax, data, distance, scale, laws)
    ax.set(xscale="log", yscale="log", xlim=(0.93, distance[-1] * 1.08), ylim=(floor, 1.0))
    ax.xaxis.set_major_locator(LogLocator(base=2, numticks=12))
    ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(written)
    ax.yaxis.set_major_formatter(written)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_minor_locator(LogLocator(base=2, subs=()))
    ax.set_xlabel("distance d (tokens)")
    ax.set_ylabel("correlation C(d) / C(0)")
    ax.set_title(f"{shown(comparison.data.attrs['model'], 44)}, layer {layer}", fontsize=10)
    legend_below(ax, columns=1)
    return ax


def _measured(data: xr.Dataset) -> dict[str, tuple[Array, Array]]:
    """Values and standard errors from d = 1 on over C(0), by centre; not of a frozen layer."""
    curves = {}
    for centre in map(str, data["centre"].values):
        row = data.sel(centre=centre)
        scale = float(row["measured"][0])
        if scale > 0:
            value = row["measured"].values[1:] / scale
            curves[centre] = value, np.nan_to_num(row["measured_error"].values[1:] / scale)
    return curves


def _floor(curves: dict[str, tuple[Array, Array]]) -> float:
    """The lowest value that is shown: below the errors there is nothing to see."""
    if not curves:
        return 1e-3
    value = np.concatenate([v for v, _ in curves.values()])
    error = np.concatenate([e for _, e in curves.values()])
    noise = 0.3 * float(np.nanmedian(error))
    positive = value[value > 0]
    lowest = float(positive.min()) if positive.size else noise
    return float(np.clip(max(lowest / 1.5, noise), 1e-6, 0.3))


def _draw_curve(
    ax: Axes, distance: Any, value: Array, error: Array, floor: float, **look: Any
) -> None:
    seen = value > floor
    colour, marker = look["color"], look["marker"]
    low, high = value - _WIDE * error, value + _WIDE * error
    ax.fill_between(
        distance,
        np.maximum(low, floor),
        np.maximum(high, floor),
        where=(high > floor).tolist(),
        color=colour,
        alpha=0.16,
        lw=0,
    )
    ax.plot(
        distance, np.where(seen, value, np.nan), ms=3.4, lw=0.9, markevery=_spaced(distance), **look
    )
    lost = ~seen & ~np.isnan(value)
    if lost.any():
        ax.plot(
            distance[lost],
            np.full(lost.sum(), floor * 1.06),
            ls="none",
            marker="v",
            ms=3,
            mfc="none",
            mec=colour,
            mew=0.7,
            clip_on=False,
            label="_" + marker,
        )


def _spaced(distance: Any) -> list[int]:
    """Places of the distances that are marked: about as far apart as the axis has them."""
    wanted = np.unique(np.geomspace(1, len(distance), 24).round().astype(int))
    return (wanted - 1).tolist()


def _draw_prediction(ax: Axes, data: xr.Dataset, distance: Any, floor: float) -> None:
    scale = float(data["predicted"][0])
    if not scale > 0:
        return
    value = data["predicted"].values[1:] / scale
    if "predicted_spread" in data:
        wide = _WIDE * np.nan_to_num(data["predicted_spread"].values[1:] / scale)
        ax.fill_between(
            distance,
            np.maximum(value - wide, floor),
            np.maximum(value + wide, floor),
            color=BLACK,
            alpha=0.16,
            lw=0,
        )
    length = float(data["predicted_length"])
    label = f"chain, ξ = {length:.2f} tokens"
    ax.plot(distance, np.where(value > 0, value, np.nan), color=BLACK, lw=1.6, label=label)


def _draw_baselines(ax: Axes, data: xr.Dataset, distance: Any, scale: float, floor: float) -> None:
    if "baseline" not in data:
        value = data["shuffled"].values[1:] / scale
        colour, label = _BASELINES["shuffled"]
        ax.plot(distance, np.where(value > floor, value, np.nan), "--", color=colour, label=label)
        return
    for kind in map(str, data["kind"].values):
        row = data.sel(kind=kind)
        value = row["baseline"].values[1:] / scale
        wide = _WIDE * np.nan_to_num(row["baseline_spread"].values[1:] / scale)
        colour, label = _BASELINES[kind]
        top = value + wide
        if not (top > floor).any():
            continue
        ax.fill_between(
            distance,
            np.maximum(value - wide, floor),
            np.maximum(top, floor),
            where=(top > floor).tolist(),
            color=colour,
            alpha=0.25,
            lw=0,
            label=None if (value > floor).any() else label,
        )
        if (value > floor).any():
            seen = np.where(value > floor, value, np.nan)
            ax.plot(distance, seen, "--", color=colour, lw=1.1, label=label)


def _draw_laws(ax: Axes, data: xr.Dataset, distance: Any, scale: float, laws: int) -> None:
    weight = np.nan_to_num(data["law_weight"].values, nan=-1.0)
    for place in np.argsort(-weight, kind="stable")[:laws]:
        if weight[place] < 0:
            continue
        row = data.isel(law=place)
        value = row["law_curve"].values[1:] / scale
        inside = (distance >= int(data["law_first"])) & (distance <= int(data["law_last"]))
        ax.plot(
            distance,
            np.where(inside & (value > 0), value, np.nan),
            ls=(0, (4, 1.5)),
            color=GREEN if place == weight.argmax() else GREY,
            lw=1.4,
            label=f"{row['law'].item()} law, weight {weight[place]:.2f}",
        )
