"""`isingmoe compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import isingmoe as im
from isingmoe.cli._options import (
    Folds,
    Json,
    MaxDistance,
    Output,
    Overwrite,
    Resamples,
    Seed,
    Simulations,
    TraceFile,
    beside,
    check_target,
    emit_json,
    emit_text,
)

_DIMS = (
    *("layer", "centre", "distance", "expert", "overlap_distance", "estimator", "law", "parameter"),
    *("kind", "source", "block_length", "block", "ck_distance"),
)


def compare(
    fit: Annotated[Path, typer.Argument(metavar="FIT", help="fit.nc, from isingmoe fit")],
    traces: TraceFile,
    output: Output = None,
    max_distance: MaxDistance = 64,
    resamples: Resamples = 200,
    shuffles: Annotated[
        int, typer.Option(min=2, help="Traces drawn for the spread of each baseline.")
    ] = 20,
    simulations: Simulations = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure these alone beside C(d), may be repeated: overlap, experts, baselines, "
            "laws, goodness, ck, blocks, activation, mem (default: all)."
        ),
    ] = None,
    folds: Folds = 5,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compare a fit with traces, and say whether the chain can be what routes the tokens.

    Decay of correlations with its laws and lengths, goodness of fit, size of blocks, rates over
    position, equilibrium of the load. Writes comparison.nc beside traces.nc, NAME.comparison.nc
    beside NAME.nc.

    Example: isingmoe compare fit.nc traces.nc --max-distance 128
    """
    from isingmoe._text import track

    target = check_target(output or beside(traces, "comparison"), overwrite, fit, traces)
    result = im.compare(
        im.open_fit(fit),
        im.open_traces(traces),
        max_distance=max_distance,
        n_resamples=resamples,
        **({"parts": part} if part else {}),
        n_shuffles=shuffles,
        n_simulations=simulations,
        n_folds=folds,
        seed=seed,
        track=track,
    )
    result.save(target, overwrite=overwrite)
    if json:
        emit_json(
            result.data,
            _DIMS,
            comparison=str(target),
        )
        return
    emit_text(result)
    first = int(result.data["layer"][0])
    emit_text(f"\nWritten: {target}")
    emit_text(f"Next: isingmoe plot decay {target} --layer {first} -o decay.png")
