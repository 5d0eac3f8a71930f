"""`isingmoe sweep`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from isingmoe.cli._groups import spread
from isingmoe.cli._options import Json, Output, Overwrite, emit_json, emit_text
from isingmoe.cli._sweeps import SweepOptions

if TYPE_CHECKING:
    import xarray as xr

# Rows of the table on the terminal; the file has them all.
_ROWS = 24
_WIDTH = 170

# Of a quantity: shown with it, or not at all.
_BESIDE = ("_error", "_autocorrelation_time")


@spread
def sweep(
    grid: SweepOptions,
    max_distance: Annotated[
        int | None, typer.Option(min=0, help="Largest distance of C(d).")
    ] = None,
    output: Output = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Solve or sample a chain at every point of a grid.

    With --output, a sweep that was ended goes on when the same command is given again.

    Example: isingmoe sweep --chain ising --J 0:2:41 --h 0,0.1 --n-sites 256 -o grid.nc

    Example: isingmoe sweep fit.nc --layer 7 --temperature 0.5:2:31 -o grid.nc
    """
    result, axes = grid.run(output, overwrite, max_distance)
    if json:
        emit_json(
            result, (*axes, "distance", "expert", "state", "mode"), output=output and str(output)
        )
        return
    emit_text(_text(result, axes))
    if output is not None:
        emit_text(f"\nWritten: {output}")


def _text(grid: xr.Dataset, axes: list[str]) -> str:
    """The scalars at the first points, each with its error where it has one."""
    import numpy as np

    from isingmoe._text import plain, render, report

    shape = [grid.sizes[axis] for axis in axes]
    size = int(np.prod(shape))
    places = np.unravel_index(np.arange(min(size, _ROWS)), shape)
    columns = {
        axis: [f"{value:.6g}" for value in grid[axis].values[place]]
        for axis, place in zip(axes, places, strict=True)
    }
    left = _WIDTH - sum(_width(name, cells) for name, cells in columns.items())
    for name in map(str, grid.data_vars):
        if grid[name].dims == tuple(axes) and not name.endswith(_BESIDE):
            cells = _cells(grid, name, places)
            left -= _width(name, cells)
            if left < 0:
                break
            columns[name] = cells
    notes = [f"and {size - _ROWS} more points"] if size > _ROWS else []
    return render(*report(plain(grid.attrs["chain"], 140), columns, notes))


def _cells(grid: xr.Dataset, name: str, places: tuple[Any, ...]) -> list[str]:
    from isingmoe._grids import without_rounding

    values = without_rounding(grid[name]).values[places]
    if f"{name}_error" not in grid:
        return [f"{value + 0.0:.6g}" for value in values]
    errors = grid[f"{name}_error"].values[places]
    return [f"{v:.5g} ± {e:.1g}" for v, e in zip(values, errors, strict=True)]


def _width(name: str, cells: list[str]) -> int:
    return 2 + max(map(len, [name, *cells]))
