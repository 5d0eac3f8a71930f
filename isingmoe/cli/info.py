"""`isingmoe info`."""

from __future__ import annotations

from typing import Annotated

import typer

import isingmoe as im
from isingmoe.cli._options import Json, Layers, Seed, TraceFile, emit_json, emit_text


def info(
    traces: TraceFile,
    layer: Layers = None,
    shuffles: Annotated[
        int, typer.Option(min=2, help="Random orders behind the shuffled baseline.")
    ] = 20,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Show what a trace holds: shapes, load and the overlap of neighbouring tokens.

    Example: isingmoe info traces.nc
    """
    from isingmoe._text import track
    from isingmoe.traces import select_layers

    opened = select_layers(im.open_traces(traces), layer)
    summary = im.info(
        opened, n_shuffles=shuffles, seed=seed, track=lambda layers: track(layers, "overlap")
    )
    if json:
        emit_json(summary.data, ("layer", "distance"))
    else:
        emit_text(summary)
