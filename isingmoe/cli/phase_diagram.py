"""`isingmoe phase-diagram`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import isingmoe as im
from isingmoe.cli import _sweeps as options
from isingmoe.cli._chain_options import Boundary, ChainKind, Expert, FitFile, Layer
from isingmoe.cli._options import Overwrite, emit_text


def phase_diagram(
    fit: FitFile = None,
    layer: Layer = None,
    expert: Expert = None,
    chain: ChainKind = None,
    J: options.J = None,
    h: options.Field = None,
    temperature: options.Temperature = None,
    n_sites: options.NSites = None,
    n_experts: options.NExperts = None,
    top_k: options.TopK = None,
    alpha: options.Alpha = None,
    length: options.Length = None,
    boundary: Boundary = None,
    quantity: Annotated[
        list[str] | None,
        typer.Option(
            help="What to draw; may be repeated (default: magnetization, correlation_length, "
            "susceptibility)."
        ),
    ] = None,
    algorithm: options.Algorithm = None,
    samples: options.Samples = None,
    replicas: options.Replicas = None,
    sweeps: options.Sweeps = None,
    equilibration: options.Equilibration = None,
    seed: options.Seed = 0,
    workers: options.Workers = None,
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
    from isingmoe.plotting import check_figure

    check_figure(figure, overwrite)
    grid, _ = options.run_sweep(
        fit,
        layer,
        expert,
        chain,
        boundary,
        {
            "J": J,
            "h": h,
            "temperature": temperature,
            "n_sites": n_sites,
            "n_experts": n_experts,
            "top_k": top_k,
            "alpha": alpha,
            "length": length,
        },
        algorithm,
        {
            "n_samples": samples,
            "n_replicas": replicas,
            "n_sweeps": sweeps,
            "n_equilibration": equilibration,
        },
        None,
        seed,
        workers,
        output,
        overwrite,
    )
    im.plot_phase_diagram(grid, quantity, path=figure, overwrite=overwrite)
    emit_text(f"Written: {output} and {figure}")
