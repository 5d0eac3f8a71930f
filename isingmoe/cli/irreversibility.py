"""`isingmoe irreversibility`."""

from __future__ import annotations

from typing import Annotated

import typer

import isingmoe as im
from isingmoe.cli._groups import spread
from isingmoe.cli._kind_options import KindOptions
from isingmoe.cli._options import (
    Json,
    Layers,
    Output,
    Overwrite,
    Seed,
    TraceFile,
    check_target,
    emit_json,
    emit_text,
)


@spread
def irreversibility(
    traces: TraceFile,
    output: Output = None,
    kind: KindOptions = KindOptions(),  # noqa: B008 -- spread takes it for the options' defaults
    folds: Annotated[int, typer.Option(min=2, help="Folds of the sequences.")] = 5,
    layer: Layers = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Measure the entropy production of routing along the text, nought at equilibrium.

    Prints a table, and writes a file where -o names one.

    Example: isingmoe irreversibility traces.nc --layer 11
    """
    from isingmoe._text import number, render, report, track, with_errors
    from isingmoe.traces import select_layers

    target = None if output is None else check_target(output, overwrite, traces)
    result = im.irreversibility(
        select_layers(im.open_traces(traces), layer),
        **kind.settings(),
        estimator=im.MaximumLikelihood(l2=kind.penalty(), max_iterations=kind.max_iterations),
        n_folds=folds,
        seed=seed,
        track=lambda layers: track(layers, "irreversibility"),
    )
    if target is not None:
        from isingmoe._storage import write_dataset

        write_dataset(result, target, overwrite=overwrite)
    if json:
        emit_json(result, ("layer",))
        return
    value, error = (result[f"entropy_production{end}"].values for end in ("", "_error"))
    columns = {
        "layer": result["layer"].values,
        "entropy production": with_errors(value, error, 4),
        "over its error": [number(v, 1) for v in value / error],
        "in sample": [number(v, 4) for v in result["entropy_production_in_sample"].values],
    }
    note = (
        "nats per token, on held-out sequences, ± standard error over sequences: zero where a "
        "text and the same read backwards are routed alike"
    )
    emit_text(render(*report(f"{traces}: entropy production of kinetic chains", columns, [note])))
    if target is not None:
        emit_text(f"\nWritten: {target}")
