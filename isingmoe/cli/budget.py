"""`isingmoe budget`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

import isingmoe as im
from isingmoe.cli._kind_options import Position, position_of
from isingmoe.cli._options import (
    Json,
    Layers,
    Output,
    Overwrite,
    Seed,
    TraceFile,
    beside,
    check_drawing,
    check_target,
    draw,
    emit_json,
    emit_text,
)


def budget(
    traces: TraceFile,
    output: Output = None,
    reach: Annotated[int, typer.Option(min=1, help="Distances of the longest memory.")] = 4,
    coupling: Annotated[
        Literal["uniform", "diagonal", "symmetric", "full"],
        typer.Option(help="Of the memory."),
    ] = "full",
    position: Position = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds of the sequences.")] = 5,
    layer: Layers = None,
    figure: Annotated[
        Path | None, typer.Option(help="Also draw stacked bars over layers (.png, .pdf, .svg).")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Say how many bits of routing are load, position, topic, memory and token.

    Nested models are scored on sequences that they were not fitted to. Writes budget.nc
    beside traces.nc, NAME.budget.nc beside NAME.nc.

    Example: isingmoe budget traces.nc --reach 4 --figure budget.png
    """
    from isingmoe._text import track
    from isingmoe.traces import select_layers

    target = check_target(output or beside(traces, "budget"), overwrite, traces)
    check_drawing(figure, overwrite)
    shape = position_of(position)
    if isinstance(shape, str):
        raise ValueError("position: expected cosines:N or blocks:N, got 'cv'")
    result = im.budget(
        select_layers(im.open_traces(traces), layer),
        reach=reach,
        coupling=coupling,
        position=shape,
        n_folds=folds,
        seed=seed,
        track=lambda layers: track(layers, "budget"),
    )
    result.save(target, overwrite=overwrite)
    draw(lambda: im.plot_budget(result), figure, overwrite)
    if json:
        emit_json(result.data, ("layer", "share", "model"), budget=str(target))
        return
    emit_text(result)
    shown = f" and {figure}" if figure is not None else ""
    emit_text(f"\nWritten: {target}{shown}")
