"""`isingmoe generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import isingmoe as im
from isingmoe.cli._options import Output, Overwrite, Seed, check_target, emit_text


def generate(
    fit: Annotated[Path, typer.Argument(metavar="FIT", help="fit.nc, from isingmoe fit")],
    output: Output = None,
    sequences: Annotated[int, typer.Option(min=1, help="Sequences to draw.")] = 100,
    length: Annotated[int, typer.Option(min=1, help="Tokens of each.")] = 512,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw traces from the chains of a fit: exact samples, a trace like any other.

    Writes generated.nc, or what -o says.

    Example: isingmoe generate fit.nc --sequences 200 --length 1024 -o synthetic.nc
    """
    from isingmoe._text import track

    target = check_target(output or Path("generated.nc"), overwrite, fit)
    traces = im.generate(
        im.open_fit(fit),
        n_sequences=sequences,
        length=length,
        seed=seed,
        track=lambda layers: track(layers, "generate"),
    )
    im.save_traces(traces, target, overwrite=overwrite)
    emit_text(
        f"Written: {target} ({traces.sizes['layer']} layers, {sequences} sequences of {length} "
        f"tokens)"
    )
    emit_text(f"Next: isingmoe fit {target}")
