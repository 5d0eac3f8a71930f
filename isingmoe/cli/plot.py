"""`isingmoe plot`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import isingmoe as im
from isingmoe.cli._options import Overwrite, check_drawing, draw, emit_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(
    comparison: Annotated[
        Path, typer.Argument(metavar="COMPARISON", help="comparison.nc, from isingmoe compare")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to draw (.png, .pdf, .svg).")
    ] = Path("figure.png"),
    layer: Annotated[
        int | None,
        typer.Option(help="Correlation decay of this layer (default: summary over all layers)."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw the decay of one layer, or the summary over depth.

    Example: isingmoe plot comparison.nc --layer 11 -o decay.png
    """
    check_drawing(output, overwrite)
    opened = im.open_comparison(comparison)
    draw(
        lambda: im.plot_layers(opened) if layer is None else _decay_figure(opened, layer),
        output,
        overwrite,
    )
    emit_text(f"Written: {output}")


def _decay_figure(comparison: im.Comparison, layer: int) -> Figure:
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    im.plot_decay(comparison, layer, ax=ax)
    return figure
