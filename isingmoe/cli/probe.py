"""`isingmoe probe`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import isingmoe as im
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

if TYPE_CHECKING:
    import xarray as xr


def probe(
    traces: TraceFile,
    output: Output = None,
    hidden: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Hidden states (default: traces.hidden beside traces.nc)."
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="[hidden_state|router_logit|expert_index]",
            help="What is read; may be repeated (default: all there are).",
        ),
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="[parity|block]",
            help="What is told; may be repeated (default: both).",
        ),
    ] = None,
    block_length: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Positions of a block; may be repeated (default: 128)."),
    ] = None,
    splits: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            metavar="[token|sequence]",
            help="What is held out; may be repeated (default: both).",
        ),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 3,
    shuffles: Annotated[
        int, typer.Option(min=0, help="Repetitions of each control; 0 for none.")
    ] = 10,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens that are probed.")] = 20_000,
    rope: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Also probe bands of its rotary encoding: a name, a folder, or what "
            "save_subspaces wrote (.nc).",
        ),
    ] = None,
    bands: Annotated[
        int | None, typer.Option(min=1, help="Bands of --rope (default: at most 16).")
    ] = None,
    layer: Layers = None,
    figure: Annotated[
        Path | None, typer.Option(help="Also draw the accuracies (.png, .pdf, .svg).")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Tell where tokens stand from what their routers see.

    Linear probes of the parity and the block of a token's position, beside controls that say
    nothing of it. Writes probe.nc beside traces.nc, NAME.probe.nc beside NAME.nc.

    Example: isingmoe probe traces.nc --block-length 128 --figure probe.png
    """
    from isingmoe._text import track
    from isingmoe.probing import DIMS
    from isingmoe.traces import select_layers

    target = check_target(output or beside(traces, "probe"), overwrite, traces)
    check_drawing(figure, overwrite)
    if bands is not None and rope is None:
        raise typer.BadParameter("--bands: expected with --rope; leave it out")
    known = select_layers(im.open_traces(traces), layer)
    with ExitStack() as opened:
        if inputs is None or "router_logit" in inputs:
            known = _with_logits(known, traces, opened)
        result = im.probe(
            known,
            hidden=hidden,
            inputs=inputs,
            targets=targets or ("parity", "block"),
            block_length=block_length or 128,
            splits=splits,
            n_folds=folds,
            n_shuffles=shuffles,
            max_tokens=max_tokens,
            subspaces=None if rope is None else _subspaces(rope, known, hidden, bands),
            seed=seed,
            track=lambda items: track(items, "probe"),
        )
    result.save(target, overwrite=overwrite)
    draw(lambda: im.plot_probe(result), figure, overwrite)
    if json:
        emit_json(result.data, DIMS, probe=str(target))
        return
    emit_text(result)
    shown = f" and {figure}" if figure is not None else ""
    emit_text(f"\nWritten: {target}{shown}")


def _with_logits(traces: xr.Dataset, path: Path, opened: ExitStack) -> xr.Dataset:
    """The traces with the router logits of their file, if it has some, read as they are used."""
    from isingmoe.appending import open_as_used

    whole = opened.enter_context(open_as_used(path))
    if "router_logit" not in whole:
        return traces
    return traces.assign(router_logit=whole["router_logit"].sel(layer=traces["layer"]))


def _subspaces(
    rope: str, traces: xr.Dataset, hidden: Path | None, n_bands: int | None
) -> xr.Dataset:
    """Subspaces of a file, or those of a model's layers."""
    from isingmoe.probe_inputs import Inputs

    # Before a model is loaded for nothing.
    Inputs(traces, hidden, ["hidden_state"])
    if Path(rope).suffix in (".nc", ".zarr"):
        if n_bands is not None:
            raise ValueError(f"{rope}: bands: expected with a model, got a file that has its own")
        return im.open_subspaces(rope)
    layers = traces["layer"].values.tolist()
    return im.rope_subspaces(rope, layer=layers, n_bands=n_bands, device="cpu")
