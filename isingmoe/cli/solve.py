"""`isingmoe solve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import isingmoe as im
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


def solve(
    fit: Annotated[
        Path | None,
        typer.Argument(metavar="[FIT]", help="fit.nc; or give --chain and its parameters"),
    ] = None,
    layer: Annotated[int | None, typer.Option(help="Which layer of the fit.")] = None,
    expert: Annotated[
        int | None, typer.Option(help="Which expert of a fit with Ising chains.")
    ] = None,
    chain: Annotated[
        Literal["ising", "potts"] | None, typer.Option(help="Without a fit (default: ising).")
    ] = None,
    J: Annotated[float | None, typer.Option("--J", help="Coupling of neighbours.")] = None,
    h: Annotated[float, typer.Option("--h", help="Field.")] = 0.0,
    n_experts: Annotated[int | None, typer.Option(help="States of a Potts chain.")] = None,
    n_sites: Annotated[int | None, typer.Option(help="Sites (default: infinite).")] = None,
    boundary: Annotated[
        Literal["open", "periodic"] | None,
        typer.Option(help="What joins the ends (default: open; periodic for a fit)."),
    ] = None,
    temperature: Annotated[float, typer.Option(help="In units of J.")] = 1.0,
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

    Example: isingmoe solve fit.nc --layer 7
    """
    from dataclasses import replace

    from isingmoe._storage import write_dataset

    if output is not None:
        check_target(output, overwrite, *([] if fit is None else [fit]))
    ends = boundary or ("open" if fit is None else "periodic")
    if fit is None and (layer is not None or expert is not None):
        raise typer.BadParameter("--layer and --expert need a fit")
    if fit is not None:
        if layer is None or (J, h, n_experts) != (None, 0.0, None) or chain is not None:
            raise typer.BadParameter("a fit needs --layer, and no --J, --h, --chain, --n-experts")
        chosen = im.open_fit(fit).chain(layer, expert)
        chosen = replace(chosen, n_sites=n_sites, boundary=ends, temperature=temperature)
    elif J is None:
        raise typer.BadParameter("give a fit, or --J")
    elif chain in (None, "ising"):
        chosen = im.IsingChain(J=J, h=h, n_sites=n_sites, boundary=ends, temperature=temperature)
    else:
        chosen = im.PottsChain(
            J=J,
            h=h,
            n_experts=n_experts,
            n_sites=n_sites,
            boundary=ends,
            temperature=temperature,
        )
    exact = im.solve(chosen, max_distance=max_distance)
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
