"""What the commands share: options, names of output files, JSON."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isingmoe._text import printable

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Folds",
    "Json",
    "Layers",
    "MaxDistance",
    "Output",
    "Overwrite",
    "Resamples",
    "Seed",
    "Simulations",
    "TraceFile",
    "beside",
    "check_drawing",
    "check_target",
    "draw",
    "emit_json",
    "emit_text",
    "emit_traces",
    "typed_command",
]

TraceFile = Annotated[Path, typer.Argument(metavar="TRACES", help="traces.nc or traces.zarr")]
Layers = Annotated[
    list[int] | None,
    typer.Option(
        "--layer", help="A layer by the model's own number; may be repeated (default: all)"
    ),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Where to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
MaxDistance = Annotated[int, typer.Option(min=1, help="Largest distance of C(d), in tokens.")]
Resamples = Annotated[int, typer.Option(min=2, help="Bootstrap resamples of the sequences.")]
Simulations = Annotated[
    int | None,
    typer.Option(min=2, help="Data sets simulated for p-values (default: 99; 19 if kinetic)."),
]
Folds = Annotated[int, typer.Option(min=0, help="Folds of the held-out score; 0 for none.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of bootstrap, shuffles and folds.")]


def beside(traces: Path, kind: str) -> Path:
    """Default output: `fit.nc` for `traces.nc`, `NAME.fit.nc` for `NAME.nc`.

    In the trace's folder, or in the current one where that cannot be written to.
    """
    name = f"{kind}.nc" if traces.stem == "traces" else f"{traces.stem}.{kind}.nc"
    folder = traces.parent if os.access(traces.parent, os.W_OK) else Path()
    return folder / name


def check_target(path: Path, overwrite: bool, *inputs: Path) -> Path:
    """A path that can be written to and is not read by the same command.

    Raises
    ------
    ValueError
        If it is one of the inputs, or ends in neither .nc nor .zarr.
    OSError
        As `check_output` does.
    """
    from isingmoe._storage import check_output, check_suffix

    if path.resolve() in [file.resolve() for file in inputs]:
        raise ValueError(f"{path}: is read, and cannot be written to; name another output")
    check_output(path, overwrite)
    return check_suffix(path)


def check_drawing(path: Path | None, overwrite: bool) -> None:
    """Raise where a figure that is asked for cannot be written, before anything is computed."""
    if path is not None:
        _plotting().check_figure(path, overwrite)


def draw(plot: Callable[[], Any], path: Path | None, overwrite: bool) -> None:
    """Draw a figure where one is asked for, with a function that gives it or its axes."""
    if path is not None:
        _plotting().save_figure(plot(), path, overwrite=overwrite)


def _plotting() -> Any:
    """The module of the figures, without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from isingmoe import plotting

    return plotting


def typed_command() -> str:
    """The command as it was typed, for whoever reads what it made."""
    return shlex.join(["isingmoe", *sys.argv[1:]])


def emit_text(text: object) -> None:
    """Print a report."""
    typer.echo(printable(str(text)))


def emit_traces(traces: xr.Dataset, path: Path) -> None:
    """Say what was written: the shapes of the traces, and the order of their ranks."""
    sizes, attrs, length = traces.sizes, traces.attrs, traces["length"].values
    order = "ranked by weight" if attrs["ranked"] else "ranks in no order"
    emit_text(
        f"Written: {path} ({sizes['layer']} layers, {sizes['sequence']} sequences of "
        f"{length.min()} to {length.max()} tokens, {length.sum()} in all; "
        f"{attrs['num_experts']} experts, top-{attrs['top_k']}, {order})"
    )


def emit_json(dataset: xr.Dataset, dims: tuple[str, ...], **more: Any) -> None:
    """Print the variables over the given dims, and the attributes, as one JSON object."""
    small = [
        name for name, variable in dataset.variables.items() if set(variable.dims) <= set(dims)
    ]
    content = {
        "attributes": {k: v for k, v in dataset.attrs.items() if k != "provenance"},
        "dims": {name: list(dataset[name].dims) for name in small if dataset[name].dims},
        "data": {name: dataset[name].values.tolist() for name in small},
        **more,
    }
    typer.echo(json.dumps(_finite(content), default=lambda value: value.item()))


def _finite(value: Any) -> Any:
    """JSON has neither infinity nor NaN: null stands for them."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
