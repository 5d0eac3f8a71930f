"""`isingmoe example`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import isingmoe as im
from isingmoe.cli._options import Overwrite, emit_text


def example(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write.")] = Path(
        "traces.nc"
    ),
    overwrite: Overwrite = False,
) -> None:
    """Write the bundled trace: a small OLMoE-architecture model on unseen speeches.

    Example: isingmoe example -o traces.nc
    """
    from isingmoe._storage import check_output

    check_output(output, overwrite)
    traces = im.example_traces()
    im.save_traces(traces, output, overwrite=overwrite)
    sizes = traces.sizes
    emit_text(
        f"Written: {output} ({sizes['layer']} layers, {sizes['sequence']} sequences, "
        f"{int(traces['length'].sum())} tokens, {traces.attrs['num_experts']} experts, "
        f"top-{traces.attrs['top_k']})"
    )
    emit_text(f"Next: isingmoe fit {output}")
