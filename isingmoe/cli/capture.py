"""`isingmoe capture`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import isingmoe as im
from isingmoe.cli._capture_options import (
    CutOptions,
    EndpointOptions,
    ModelOptions,
    RecordOptions,
    TextOptions,
)
from isingmoe.cli._groups import changed, spread
from isingmoe.cli._options import Overwrite, check_target, emit_text, emit_traces

if TYPE_CHECKING:
    import xarray as xr


@spread
def capture(
    of_texts: TextOptions,
    cut: CutOptions,
    recorded: RecordOptions,
    of_model: ModelOptions,
    asked: EndpointOptions,
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="A name on the Hugging Face hub, or a folder."),
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="More texts: what --text *.txt leaves here."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write (.nc or .zarr).")
    ] = Path("traces.nc"),
    overwrite: Overwrite = False,
) -> None:
    """Run texts through a model, and record which experts each token really used.

    A capture that was interrupted or killed goes on when the same command is given again.

    Example: isingmoe capture allenai/OLMoE-1B-7B-0924 --text book.txt -o traces.nc
    """
    from isingmoe.appending import partial_store

    target = check_target(output, overwrite or partial_store(output).exists())
    if asked.endpoint is not None:
        if ignored := changed(recorded) + changed(of_model):
            raise ValueError(
                f"{', '.join(ignored)}: of a model that runs here; leave out with --endpoint"
            )
        # Without a model to name, the first place is that of a text.
        more = [Path(name) for name in (model, *(files or [])) if name is not None]
        _ask(asked, cut, of_texts.sources(more), target, overwrite)
        return
    if model is None:
        raise ValueError(
            "MODEL: expected a name or a folder, or --endpoint with a server, got none"
        )
    if ignored := changed(asked):
        raise ValueError(
            f"{', '.join(ignored)}: of a server; name one with --endpoint, or leave out"
        )
    started = time.monotonic()
    made = im.capture(
        model,
        of_texts.sources(files or []),
        output=target,
        overwrite=overwrite,
        record=recorded.names(),
        **cut.settings(),
        **of_model.settings(),
    )
    seconds = time.monotonic() - started
    for traces in made.values() if isinstance(made, dict) else [made]:
        with traces:
            _told(traces, target.with_name(Path(traces.encoding["source"]).name))
    emit_text(f"\nIn {seconds:.1f} s, with the loading of the model.")


def _ask(
    asked: EndpointOptions, cut: CutOptions, sources: list[object], target: Path, overwrite: bool
) -> None:
    from isingmoe._progress import shown
    from isingmoe.appending import open_as_used

    with shown() as tell:
        path = asked.capture(cut).write(sources, target, overwrite=overwrite, progress=tell)
    with open_as_used(path) as traces:
        _told(traces, path)


def _told(traces: xr.Dataset, path: Path) -> None:
    emit_traces(traces, path)
    emit_text(f"Next: isingmoe fit {path}")
