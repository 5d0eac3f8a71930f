"""`isingmoe solve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import isingmoe as im
from isingmoe.cli._chain_options import ChainOptions
from isingmoe.cli._groups import spread
from isingmoe.cli._options import (
    Json,
    Output,
    Overwrite,
    check_target,
    emit_json,
    emit_text,
)

if TYPE_CHECKING:
    import xarray as xr


@spread
def solve(
    model: ChainOptions,
    max_distance: Annotated[
        int | None,
        typer.Option(min=0, help="Largest distance of C(d) (default: 128, or the chain's)."),
    ] = None,
    output: Output = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Solve a chain exactly: thermodynamics, marginals, correlations.

    Example: isingmoe solve --chain ising --J 0.6 --h 0.1 --n-sites 256 --boundary periodic

    Example: isingmoe solve --chain potts --n-experts 5 --top-k 2 --J 0.4 --n-sites 100

    Example: isingmoe solve fit.nc --layer 7
    """
    from isingmoe._storage import write_dataset
    from isingmoe._text import track

    if output is not None:
        check_target(output, overwrite, *model.inputs)
    exact = im.solve(model.make(), max_distance=max_distance, track=track)
    if output is not None:
        write_dataset(exact, output, overwrite=overwrite)
    if json:
        emit_json(exact, ("distance", "expert", "state", "mode"))
        return
    emit_text(_text(exact))
    if output is not None:
        emit_text(f"\nWritten: {output}")


def _text(exact: xr.Dataset) -> str:
    """The scalars of a solution with their units, and the first correlations."""
    from isingmoe._text import plain, render, report

    scalars = [name for name, variable in exact.data_vars.items() if not variable.dims]
    columns = {
        "quantity": scalars,
        "value": [f"{float(exact[name]):.10g}" for name in scalars],
        "unit": [exact[name].attrs["units"] for name in scalars],
    }
    shown = exact["correlation"].values[:9]
    decay = "C(d), d = 0..{}: {}".format(len(shown) - 1, "  ".join(f"{v:.6g}" for v in shown))
    return render(*report(plain(exact.attrs["chain"], 140), columns, [decay]))
