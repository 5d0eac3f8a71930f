"""`isingmoe report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

import isingmoe as im
from isingmoe.cli._groups import spread
from isingmoe.cli._kind_options import KindOptions
from isingmoe.cli._options import (
    Layers,
    MaxDistance,
    Overwrite,
    Resamples,
    TraceFile,
    emit_text,
    typed_command,
)


@spread
def report(
    traces: TraceFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the page.")] = Path(
        "report.html"
    ),
    fit: Annotated[
        Path | None,
        typer.Option(metavar="FIT", help="fit.nc, from isingmoe fit (default: a fit is made)."),
    ] = None,
    budget: Annotated[
        Path | None,
        typer.Option(metavar="BUDGET", help="budget.nc, from isingmoe budget, to be drawn too."),
    ] = None,
    chain: Annotated[
        Literal["kinetic", "potts"] | None,
        typer.Option(
            help="Fitted without --fit (default: potts of the primary expert; kinetic with "
            "diagonal couplings where there is none)."
        ),
    ] = None,
    kind: KindOptions = KindOptions(),  # noqa: B008 -- spread takes it for the options' defaults
    layer: Layers = None,
    max_distance: MaxDistance = 64,
    resamples: Resamples = 200,
    simulations: Annotated[
        int | None,
        typer.Option(min=2, help="Data sets simulated for p-values (default: 39; 19 if kinetic)."),
    ] = None,
    folds: Annotated[int, typer.Option(min=0, help="Folds of the held-out score; 0 for none.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is random.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write all that is found on a trace on one page that opens anywhere.

    Example: isingmoe report traces.nc -o report.html
    """
    from isingmoe._text import track
    from isingmoe.reports import check_page
    from isingmoe.traces import select_layers

    check_page(output, overwrite)
    if fit is not None and (chain is not None or kind != KindOptions()):
        raise typer.BadParameter("--fit: the chain is that of the fit; leave out its options")
    opened = select_layers(im.open_traces(traces), layer)
    known = None if fit is None else im.open_fit(fit)
    if known is None and (chain is not None or kind != KindOptions()):
        estimator = im.MaximumLikelihood(l2=kind.penalty(), max_iterations=kind.max_iterations)
        known = im.fit(
            opened,
            chain=chain,
            **kind.settings(),
            estimator=estimator,
            seed=seed,
            track=lambda layers: track(layers, "fit"),
        )
    page = im.report(
        opened,
        known,
        budget=None if budget is None else im.open_budget(budget),
        max_distance=max_distance,
        n_resamples=resamples,
        n_simulations=simulations,
        n_folds=folds,
        seed=seed,
        command=typed_command(),
        track=track,
    )
    page.save(output, overwrite=overwrite)
    emit_text(f"Written: {output}")
