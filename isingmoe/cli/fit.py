"""`isingmoe fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

import isingmoe as im
from isingmoe.cli._options import (
    Folds,
    Json,
    Layers,
    MaxDistance,
    Output,
    Overwrite,
    Resamples,
    Seed,
    TraceFile,
    beside,
    check_target,
    emit_json,
    emit_text,
)


def fit(
    traces: TraceFile,
    output: Output = None,
    chain: Annotated[
        Literal["potts", "ising"] | None,
        typer.Option(
            help="Of the primary expert, or of each expert on or off (default: potts where ranked)."
        ),
    ] = None,
    coupling: Annotated[
        Literal["none", "uniform", "diagonal", "symmetric", "full"] | None,
        typer.Option(help="Of neighbouring states (default: full; diagonal for ising)."),
    ] = None,
    field: Annotated[
        Literal["none", "expert"], typer.Option(help="Whether experts differ in their field.")
    ] = "expert",
    pseudocount: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Added to the pair counts on average (default: by evidence; 0.5 for ising).",
        ),
    ] = None,
    max_iterations: Annotated[
        int, typer.Option(min=1, help="Limit of a fit without a closed form.")
    ] = 200,
    layer: Layers = None,
    figure: Annotated[
        Path | None, typer.Option(help="Also draw the summary over layers (.png, .pdf, .svg).")
    ] = None,
    max_distance: MaxDistance = 64,
    resamples: Resamples = 200,
    folds: Folds = 5,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Fit a chain to every layer, and show what it predicts beside what is measured.

    Writes fit.nc beside traces.nc, NAME.fit.nc beside NAME.nc.

    Example: isingmoe fit traces.nc --coupling symmetric --figure layers.png
    """
    from isingmoe._text import track
    from isingmoe.traces import select_layers

    target = check_target(output or beside(traces, "fit"), overwrite, traces)
    if figure is not None:
        from isingmoe.plotting import check_figure

        check_figure(figure, overwrite)
    opened = select_layers(im.open_traces(traces), layer)
    result = im.fit(
        opened,
        chain=chain,
        coupling=coupling,
        field=field,
        estimator=im.MaximumLikelihood(pseudocount=pseudocount, max_iterations=max_iterations),
        track=lambda layers: track(layers, "fit"),
    )
    comparison = im.compare(
        result,
        opened,
        centres=("global", "sequence"),
        max_distance=max_distance,
        n_resamples=resamples,
        n_shuffles=0,
        n_folds=folds,
        seed=seed,
        track=track,
    )
    result.save(target, overwrite=overwrite)
    if figure is not None:
        _draw(comparison, figure, overwrite)
    if json:
        fitted = result.data[["J", "J_error", "h", "h_error"]]
        emit_json(
            comparison.data.merge(fitted, join="exact", compat="no_conflicts"),
            ("layer", "centre", "distance", "expert", "next_expert"),
            fit=str(target),
        )
        return
    emit_text(comparison)
    shown = f" and {figure}" if figure is not None else ""
    emit_text(f"\nWritten: {target}{shown}")
    emit_text(f"Next: isingmoe compare {target} {traces} -o comparison.nc")


def _draw(comparison: im.Comparison, path: Path, overwrite: bool) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from isingmoe.plotting import save_figure

    save_figure(im.plot_layers(comparison), path, overwrite=overwrite)
