"""`isingmoe phase-diagram`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import isingmoe as im
from isingmoe.cli._groups import spread
from isingmoe.cli._options import Overwrite, emit_text
from isingmoe.cli._sweeps import SweepOptions

if TYPE_CHECKING:
    import xarray as xr


@spread
def phase_diagram(
    chains: SweepOptions,
    quantity: Annotated[
        list[str] | None,
        typer.Option(
            help="What to draw; may be repeated (default: magnetization, correlation_length, "
            "susceptibility)."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the grid.")] = Path(
        "phase_diagram.nc"
    ),
    figure: Annotated[Path, typer.Option(help="Where to draw (.png, .pdf, .svg).")] = Path(
        "phase_diagram.png"
    ),
    overwrite: Overwrite = False,
) -> None:
    """Draw quantities over one or two parameters of a chain: curves, or maps.

    The grid is kept: with another --quantity and --figure it is drawn without computing.

    Example: isingmoe phase-diagram --J 0:2:41 --h -1:1:41 -o ising.nc --figure ising.png
    """
    import matplotlib

    matplotlib.use("Agg")
    from isingmoe.phase_diagrams import quantities
    from isingmoe.plotting import check_figure

    def check(first: xr.Dataset, axes: list[str]) -> None:
        if len(axes) > 2:
            raise typer.BadParameter(
                f"one or two parameters can be drawn, got {', '.join(axes)}; give one value to "
                "the others, or use isingmoe sweep"
            )
        quantities(first, quantity)

    check_figure(figure, overwrite)
    grid, _ = chains.run(output, overwrite, check=check)
    im.plot_phase_diagram(grid, quantity, path=figure, overwrite=overwrite)
    emit_text(f"Written: {output} and {figure}")
