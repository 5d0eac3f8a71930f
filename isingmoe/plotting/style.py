"""Colours, words and frames that the figures share."""

from __future__ import annotations

import functools
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from isingmoe._text import plain

__all__ = [
    "BLACK",
    "BLUE",
    "CENTRE_STYLES",
    "DIVERGING",
    "GREEN",
    "GREY",
    "LABEL_DEPTH",
    "ORANGE",
    "PURPLE",
    "SEQUENTIAL",
    "SKY",
    "YELLOW",
    "figure_of",
    "known_layer",
    "layer_axis",
    "legend_below",
    "new_axes",
    "shown",
    "written",
]

# Inches below the axes that their ticks and label take.
LABEL_DEPTH = 0.48

# Okabe and Ito's colours, told apart with any colour vision.
BLACK, BLUE, ORANGE, GREEN, GREY = "#000000", "#0072B2", "#D55E00", "#009E73", "#888888"
SKY, YELLOW, PURPLE = "#56B4E9", "#E69F00", "#CC79A7"

# Of measured correlations by the mean they are about: colour, marker, label.
CENTRE_STYLES = {
    "global": (BLUE, "o", "measured, about the global mean"),
    "position": (GREEN, "s", "measured, about the mean at each position"),
    "sequence": (ORANGE, "^", "measured, within texts"),
}


def _rgba(colour: str, alpha: float) -> tuple[float, ...]:
    return (*(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)), alpha)


# Nothing is transparent, so that a map has the ground of the page it is on.
DIVERGING = LinearSegmentedColormap.from_list(
    "isingmoe-diverging",
    [
        (0.0, _rgba(ORANGE, 1)),
        (0.5, _rgba(ORANGE, 0)),
        (0.5, _rgba(BLUE, 0)),
        (1.0, _rgba(BLUE, 1)),
    ],
)
SEQUENTIAL = LinearSegmentedColormap.from_list(
    "isingmoe-sequential", [(0.0, _rgba(BLUE, 0)), (1.0, _rgba(BLUE, 1))]
)


@functools.cache
def _drawable() -> frozenset[int]:
    """Characters that the font of the figures has."""
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return frozenset(font.get_charmap())


def shown(text: object, limit: int = 60) -> str:
    """A text from a file as a figure can show it: no formula, and no sign without a glyph."""
    line = plain(text, limit)
    known = _drawable()
    return "".join(c if ord(c) in known else "\N{REPLACEMENT CHARACTER}" for c in line).replace(
        "$", r"\$"
    )


def new_axes(width: float = 4.8, height: float = 3.9, *, is_square: bool = False) -> Axes:
    """Axes of a new figure, inches wide and high; square ones are to have equal scales."""
    layout = "compressed" if is_square else "constrained"
    return plt.subplots(figsize=(width, height), layout=layout)[1]


def figure_of(drawn: Figure | Axes | NDArray[Any]) -> Figure:
    """The figure of what a plot function returned."""
    first: Any = drawn.flat[0] if isinstance(drawn, np.ndarray) else drawn
    figure = first if isinstance(first, Figure) else first.get_figure(root=True)
    if figure is None:
        raise ValueError("figure: expected axes of a figure, got axes that were removed from it")
    return figure


def known_layer(layers: NDArray[Any], layer: int | None) -> int:
    """A layer that there is; the only one, if none is named.

    Raises
    ------
    ValueError
        If there is no such layer, or none is named where there are several.
    """
    known = layers.tolist()
    if layer is None and len(known) == 1:
        return known[0]
    if layer is None or layer not in known:
        raise ValueError(
            f"layer: expected one of {known}, got {'none' if layer is None else layer}"
        )
    return layer


def written(value: float, _: float) -> str:
    """A number on a logarithmic axis, without powers."""
    return f"{value:g}"


def layer_axis(ax: Axes) -> None:
    """Whole numbers along the depth of the model."""
    ax.set_xlabel("layer")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def legend_below(ax: Axes, columns: int = 2) -> None:
    """A legend below the axes and their label, where no curve is."""
    if ax.get_legend_handles_labels()[0]:
        scale = figure_of(ax).dpi_scale_trans
        ax.legend(
            fontsize=7.5,
            frameon=False,
            loc="upper center",
            bbox_to_anchor=(0.5, 0.0),
            bbox_transform=ax.transAxes + ScaledTranslation(0, -LABEL_DEPTH, scale),
            borderaxespad=0,
            ncols=columns,
            handlelength=1.8,
            columnspacing=1.2,
        )
