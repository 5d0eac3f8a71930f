"""`isingmoe fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

import isingmoe as im
from isingmoe.cli._groups import spread
from isingmoe.cli._kind_options import KindOptions
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
    check_drawing,
    check_target,
    draw,
    emit_json,
    emit_text,
    typed_command,
)


@spread
def fit(
    traces: TraceFile,
    output: Output = None,
    chain: Annotated[
        Literal["kinetic", "potts", "ising", "topk"] | None,
        typer.Option(
            help="kinetic: the set of experts given the sets before (default where a token has "
            "several). potts: of the primary expert (default where it has one). ising: each "
            "expert on or off. topk: sets at equilibrium, by pseudolikelihood."
        ),
    ] = None,
    kind: KindOptions = KindOptions(),  # noqa: B008 -- spread takes it for the options' defaults
    pseudolikelihood: Annotated[
        bool,
        typer.Option(
            "--pseudolikelihood", help="Fit a potts chain of any reach by its pseudolikelihood."
        ),
    ] = False,
    pseudocount: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Of potts and ising chains: added to the pair counts on average (default: by "
            "evidence; 0.5 for ising).",
        ),
    ] = None,
    uncertainty: Annotated[
        Literal["sandwich", "information", "bootstrap", "none"] | None,
        typer.Option(
            help="What standard errors are taken from (default: sandwich over sequences; "
            "information of a single one)."
        ),
    ] = None,
    layer: Layers = None,
    figure: Annotated[
        Path | None, typer.Option(help="Also draw the summary over layers (.png, .pdf, .svg).")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Also write all that is found on one page (.html): isingmoe report."),
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

    Example: isingmoe fit traces.nc --field position+sequence --reach 4 --figure layers.png
    """
    from isingmoe._text import track
    from isingmoe.traces import select_layers

    target = check_target(output or beside(traces, "fit"), overwrite, traces)
    check_drawing(figure, overwrite)
    if report is not None:
        from isingmoe.reports import check_page

        check_page(report, overwrite)
    opened = select_layers(im.open_traces(traces), layer)
    is_told = chain is not None or pseudolikelihood
    result = im.fit(
        opened,
        chain="potts" if pseudolikelihood and chain is None else chain,
        **kind.settings(),
        estimator=_estimator(chain, kind, pseudolikelihood, pseudocount),
        uncertainty=uncertainty,
        n_resamples=resamples,
        seed=seed,
        track=lambda layers: track(layers, "fit"),
    )
    if not is_told and result.data.attrs["chain"] == "kinetic":
        typer.echo(
            f"isingmoe: {result.data.attrs['top_k']} experts to a token: kinetic chains of whole "
            "sets; --chain names another",
            err=True,
        )
    comparison = im.compare(
        result,
        opened,
        centres=("global", "sequence"),
        max_distance=max_distance,
        n_resamples=resamples,
        parts=(),
        n_folds=folds,
        seed=seed,
        track=track,
    )
    result.save(target, overwrite=overwrite)
    draw(lambda: im.plot_layers(comparison), figure, overwrite)
    if report is not None:
        page = im.report(
            opened,
            result,
            max_distance=max_distance,
            n_resamples=resamples,
            n_folds=folds,
            seed=seed,
            command=typed_command(),
            track=track,
        )
        page.save(report, overwrite=overwrite)
    if json:
        fitted = result.data[["J", "J_error", "h", "h_error"]]
        if "distance" in fitted.dims:
            # The distances of C(d) are others.
            fitted = fitted.rename(distance="coupling_distance")
        emit_json(
            comparison.data.merge(fitted, join="exact", compat="no_conflicts"),
            ("layer", "centre", "distance", "coupling_distance", "expert", "next_expert"),
            fit=str(target),
        )
        return
    emit_text(comparison)
    written = [str(path) for path in (target, figure, report) if path is not None]
    emit_text(f"\nWritten: {' and '.join(written)}")
    emit_text(f"Next: isingmoe compare {target} {traces} -o comparison.nc")


def _estimator(
    chain: str | None, kind: KindOptions, pseudolikelihood: bool, pseudocount: float | None
) -> im.MaximumLikelihood | im.Pseudolikelihood:
    if pseudolikelihood or chain == "topk":
        if pseudocount is not None:
            raise ValueError("pseudocount: a pseudolikelihood has none; use --l2")
        return im.Pseudolikelihood(l2=kind.penalty(), max_iterations=kind.max_iterations)
    if pseudocount is not None and chain == "kinetic":
        raise ValueError("pseudocount: kinetic chains have none; use --l2")
    if kind.l2 is not None and chain in ("potts", "ising"):
        raise ValueError(f"l2: {chain} chains have none; use --pseudocount")
    return im.MaximumLikelihood(
        pseudocount=pseudocount, l2=kind.penalty(), max_iterations=kind.max_iterations
    )
