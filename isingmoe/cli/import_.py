"""`isingmoe import`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import isingmoe as im
from isingmoe.cli._groups import spread
from isingmoe.cli._options import Overwrite, check_target, emit_text, emit_traces


def _panel(name: str) -> dict[str, Any]:
    return {"rich_help_panel": name}


_MODEL = _panel("What the files may not say of the model")
_SEQUENCES = _panel("What the files may not say of the sequences")
_PLAIN = _panel("Names and axes of plain formats")


@dataclass(frozen=True)
class ModelOptions:
    """What files may not say of the model."""

    num_experts: Annotated[
        int | None, typer.Option(min=1, help="Number of routed experts, E.", **_MODEL)
    ] = None
    top_k: Annotated[int | None, typer.Option(min=1, help="Experts per token, k.", **_MODEL)] = None
    layers: Annotated[
        str | None,
        typer.Option(
            help="The model's numbers of its layers with experts: 0-23, or 1,3,5.", **_MODEL
        ),
    ] = None
    num_layers: Annotated[
        int | None,
        typer.Option(min=1, help="Layers of the arrays, with experts or without.", **_MODEL),
    ] = None
    ranked: Annotated[
        bool | None,
        typer.Option(
            "--ranked/--unranked",
            help="Whether the experts of a token are in the order of their weights.",
            show_default=False,
            **_MODEL,
        ),
    ] = None
    model: Annotated[str | None, typer.Option(help="Name of the model.", **_MODEL)] = None


@dataclass(frozen=True)
class SequenceOptions:
    """What files may not say of the sequences."""

    micro_batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Sequences whose rows take turns (megatron).", **_SEQUENCES),
    ] = None
    single_sequence: Annotated[
        bool | None,
        typer.Option(
            "--single-sequence",
            help="All tokens of a file are of one sequence.",
            show_default=False,
            **_SEQUENCES,
        ),
    ] = None
    sequence_length: Annotated[
        int | None, typer.Option(min=1, help="Every so many tokens are one.", **_SEQUENCES)
    ] = None
    start_position: Annotated[
        int | None,
        typer.Option(min=0, help="Position of the first row (vllm, sglang).", **_SEQUENCES),
    ] = None
    requests: Annotated[
        Literal["one", "many"] | None,
        typer.Option(help="How many ran at a time (sglang's recorder).", **_SEQUENCES),
    ] = None
    steps: Annotated[
        Literal["new", "continued"] | None,
        typer.Option(help="Whether the next step has new sequences (megatron).", **_SEQUENCES),
    ] = None
    processes: Annotated[
        Literal["data", "positions", "layers"] | None,
        typer.Option(help="What several processes each have (megatron).", **_SEQUENCES),
    ] = None
    block: Annotated[
        str | None, typer.Option(help="Stack of layers to read (megatron).", **_SEQUENCES)
    ] = None
    logits: Annotated[
        bool | None,
        typer.Option(
            "--logits", help="Router logits too (megatron).", show_default=False, **_SEQUENCES
        ),
    ] = None


@dataclass(frozen=True)
class PlainOptions:
    """Names and axes of formats that are of no engine."""

    field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART=NAME",
            help="What the file calls a part of a record; may be repeated.",
            **_PLAIN,
        ),
    ] = None
    axes: Annotated[
        str | None,
        typer.Option(help="token,layer,rank or layer,token,rank (npz).", **_PLAIN),
    ] = None
    delimiter: Annotated[
        str | None, typer.Option(help="Between the entries of a CSV file (table).", **_PLAIN)
    ] = None


@spread
def import_(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A file, or a folder of files of one format.")
    ],
    of_model: ModelOptions,
    of_sequences: SequenceOptions,
    plain: PlainOptions,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write.")] = Path(
        "traces.nc"
    ),
    format: Annotated[  # noqa: A002
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="vllm, sglang, megatron, llama.cpp, npz, jsonl or table (default: by the content)",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make traces of what a serving or training engine has written.

    What the files do not say is asked for, by the name of the option, and never guessed.

    Example: isingmoe import answers.jsonl --num-experts 128 --layers 0-47 --ranked -o traces.nc
    """
    from isingmoe.readers import detected_format, reader_of

    target = check_target(output, overwrite, source)
    options = {
        field.name: getattr(group, field.name)
        for group in (of_model, of_sequences, plain)
        for field in fields(group)
    }
    options["layers"] = typed_layers(options["layers"])
    options["fields"] = _names(options.pop("field"))
    name = format or detected_format(source)
    traces = im.import_traces(source, format=name, **options)
    im.save_traces(traces, target, overwrite=overwrite)
    emit_traces(traces, target)
    reader = reader_of(name)
    emit_text(f"Read as {name}: {reader.DESCRIPTION}. Such files do not say {reader.CANNOT_KNOW}.")
    emit_text(f"Next: isingmoe info {target}")


def typed_layers(text: str | None) -> list[int] | None:
    """Layer numbers as they are typed: 0-23, or 1,3,5."""
    if text is None:
        return None
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = (end.strip() for end in part.partition("-"))
        last = last or first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise ValueError(f"--layers: expected numbers such as 0-23 or 1,3,5, got {text!r}")
        numbers += range(int(first), int(last) + 1)
    return numbers


def _names(pairs: list[str] | None) -> dict[str, str] | None:
    """What a file calls the parts of a record, as it is typed: PART=NAME."""
    if not pairs:
        return None
    names = {}
    for pair in pairs:
        part, sign, name = pair.partition("=")
        if not (part and sign and name):
            raise ValueError(f"--field: expected PART=NAME, got {pair!r}")
        names[part] = name
    return names
