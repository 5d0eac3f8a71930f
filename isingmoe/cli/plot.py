"""`isingmoe plot`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import isingmoe as im
from isingmoe.cli._options import Overwrite, check_drawing, draw, emit_text

Kind = Literal[
    "decay", "layers", "lengths", "coupling", "rates", "budget", "probe", "mem", "blocks", "ck"
]

# Of single layers; the others are over the depth of the model.
_OF_LAYERS = ("decay", "coupling", "rates", "blocks", "ck")
# The parts of a comparison that figures may be drawn from.
_IN_COMPARISON = {"rates": "activation", "mem": "mem", "blocks": "blocks", "ck": "ck"}


@dataclass(frozen=True)
class _Wanted:
    """What was asked for."""

    kind: Kind
    file: Path
    layer: int | None
    fit: Path | None
    seed: int


def plot(
    kind: Annotated[
        Kind,
        typer.Argument(
            metavar="KIND",
            help="decay, lengths or layers of a comparison.nc; coupling of a fit.nc; budget of a "
            "budget.nc; probe of a probe.nc; rates, mem, blocks or ck of traces.nc or of a "
            "comparison.nc.",
        ),
    ],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What it is drawn from, as KIND says.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to draw (.png, .pdf, .svg).")
    ] = Path("figure.png"),
    layer: Annotated[
        int | None,
        typer.Option(
            help="Layer by the model's own number, of decay, coupling, rates, blocks and ck "
            "(default: the only one)."
        ),
    ] = None,
    fit: Annotated[
        Path | None, typer.Option(metavar="FIT", help="A chain beside the data, of mem and blocks.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn at random.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw one figure.

    Example: isingmoe plot decay comparison.nc --layer 11 -o decay.png

    Example: isingmoe plot coupling fit.nc --layer 11 -o coupling.svg

    Example: isingmoe plot rates traces.nc --layer 11 -o rates.pdf
    """
    if layer is not None and kind not in _OF_LAYERS:
        raise typer.BadParameter(f"--layer: {kind} is drawn over all layers; leave it out")
    if fit is not None and kind not in ("mem", "blocks"):
        raise typer.BadParameter(f"--fit: expected mem or blocks, got {kind}; leave it out")
    check_drawing(output, overwrite)
    plotted = _figure(_Wanted(kind, file, layer, fit, seed))
    draw(plotted, output, overwrite)
    emit_text(f"Written: {output}")


def _figure(wanted: _Wanted) -> Callable[[], Any]:
    """What draws the figure, all that it needs read and computed."""
    kind, file, layer = wanted.kind, wanted.file, wanted.layer
    if kind == "coupling":
        chain = im.open_fit(file)
        return lambda: im.plot_coupling(chain, layer)
    if kind == "budget":
        budget = im.open_budget(file)
        return lambda: im.plot_budget(budget)
    if kind == "probe":
        probe = im.open_probe(file)
        return lambda: im.plot_probe(probe)
    if kind in ("decay", "lengths", "layers"):
        comparison = im.open_comparison(file)
        if kind == "decay":
            return lambda: im.plot_decay(comparison, layer)
        plot = im.plot_lengths if kind == "lengths" else im.plot_layers
        return lambda: plot(comparison)
    data = _measured(wanted)
    if kind == "mem":
        return lambda: im.plot_mem(data)
    plots = {"rates": im.plot_rates, "blocks": im.plot_block_sizes, "ck": im.plot_ck}
    return lambda: plots[kind](data, layer)


def _measured(wanted: _Wanted) -> Any:
    """What a comparison holds of the kind, or what is measured on the traces."""
    from isingmoe._storage import read_dataset
    from isingmoe._text import track
    from isingmoe.comparison import CONVENTIONS
    from isingmoe.traces import select_layers

    kind = wanted.kind
    if read_dataset(wanted.file, ("router_logit",)).attrs.get("conventions") == CONVENTIONS:
        comparison = im.open_comparison(wanted.file)
        if comparison.part(_IN_COMPARISON[kind]) is None:
            raise ValueError(
                f"{wanted.file}: {kind}: the comparison has none; give the traces themselves"
            )
        return comparison.data
    layers = None if wanted.layer is None else [wanted.layer]
    traces = select_layers(im.open_traces(wanted.file), layers)
    fit = None if wanted.fit is None else im.open_fit(wanted.fit)
    if fit is not None and layers is not None:
        fit = im.Fit(fit.data.sel(layer=layers))
    tracked: dict[str, Any] = {"track": lambda items: track(items, kind)}
    if kind == "rates":
        return im.activation(traces, **tracked)
    tracked["seed"] = wanted.seed
    if kind == "ck":
        return im.chapman_kolmogorov(traces, **tracked)
    return (im.mem if kind == "mem" else im.block_sizes)(traces, fit, **tracked)
