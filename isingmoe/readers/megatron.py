"""Router traces of Megatron-Core: a record for each step, block and layer, one file to a rank.

The rows of a micro-batch are those of its tokens as they lie in memory, position by position:
with b sequences row r is position r // b of sequence r % b.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe.readers.interleaving import interleaved_lag
from isingmoe.readers.lines import files_of, first_json
from isingmoe.readers.megatron_processes import PROCESSES, along_positions, joined
from isingmoe.readers.megatron_records import FIELDS, Batch, Reading
from isingmoe.readers.options import layer_numbers, needed
from isingmoe.recorded import Recording, assemble

__all__ = ["CANNOT_KNOW", "DESCRIPTION", "NAME", "looks_like", "read"]

NAME = "megatron"
DESCRIPTION = "router trace of Megatron-Core"
CANNOT_KNOW = (
    "the number of sequences in a micro-batch, whose rows take turns; the number of experts, "
    "where there are no logits; where texts start inside a sequence; whether the ranks are in "
    "the order of the weights; how the parts of several processes belong together; that layers "
    "are of several chunks of a virtual pipeline, which count them alike; whether tokens were "
    "dropped for capacity"
)
_STEPS = ("new", "continued")
# Rows that are looked at to say how many sequences there seem to be.
_LOOKED_AT = 1 << 14


def looks_like(path: Path) -> bool:
    """Whether the first record has the names of the trace's."""
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
        return bool(files) and looks_like(files[0])
    first = first_json(path)
    return isinstance(first, dict) and set(FIELDS) <= set(first)


def read(
    source: Path,
    *,
    micro_batch_size: int | None = None,
    num_experts: int | None = None,
    ranked: bool | None = None,
    block: str | None = None,
    steps: str | None = None,
    processes: str | None = None,
    layers: Sequence[int] | None = None,
    logits: bool = False,
    model: str | None = None,
) -> xr.Dataset:
    """Read the trace of a process, or a folder of those of several.

    Parameters
    ----------
    source : Path
        `router_trace_rank0.jsonl`, or the folder it is in.
    micro_batch_size : int
        Sequences in a micro-batch.
    num_experts : int
        Number of routed experts, E; not needed where the logits say it.
    ranked : bool
        Whether the experts of a token are in the order of their weights.
    block : str, optional
        Which stack of layers, "decoder" or "mtp", where there are several.
    steps : {"new", "continued"}, optional
        Whether the next step has new sequences, as in training, or one token more of each, as
        in decoding; asked for where a step has one position.
    processes : {"data", "positions", "layers"}, optional
        What several processes each have: sequences of their own, a part of the positions of
        each (sequence parallelism), or layers of their own (pipeline parallelism). Each stage
        of a pipeline counts its layers from 0: they go on from those of the files before.
    layers : sequence of int, optional
        The model's numbers of the layers, file by file; by default those in the records.
    logits : bool
        Whether to read the router logits beside the records, `logits_rank0.bin`.
    model : str, optional

    Returns
    -------
    Dataset
        Traces, with `router_logit` in float32 if asked for.

    Raises
    ------
    ValueError
        If an option is missing, or a record is not as it should be; with file and line.
    """
    where = str(source)
    for name, value, known in (("steps", steps, _STEPS), ("processes", processes, PROCESSES)):
        if value is not None and value not in known:
            raise ValueError(f"{where}: {name}: expected one of {', '.join(known)}, got {value!r}")
    files = files_of(source, (".jsonl",))
    if len(files) > 1:
        needed(
            processes,
            "processes",
            f"how {len(files)} files belong together, one of {', '.join(PROCESSES)}",
            where,
        )
    size = needed(
        micro_batch_size,
        "micro_batch_size",
        "the number of sequences in a micro-batch",
        where,
        "" if micro_batch_size else _seeming(num_experts, block, files[0]),
    )
    if size < 1:
        raise ValueError(f"{where}: micro_batch_size: expected at least 1, got {size}")
    reading = Reading(num_experts, block, logits, ranked, where)
    of_files = [list(reading.batches(file)) for file in files]
    batches = joined(of_files, processes, where, renumbered=layers is not None)
    numbers = batches[0].layers
    return assemble(
        _sequences(batches, size, steps),
        layers=numbers if layers is None else layer_numbers(layers, len(numbers), where),
        num_experts=reading.n_experts,
        ranked=bool(reading.ranked),
        model=model or "unnamed",
        attributes={},
        where=where,
    )


def _seeming(num_experts: int | None, block: str | None, file: Path) -> str:
    """How many sequences the rows seem to be of, as far as one can tell."""
    reading = Reading(num_experts, block, logits=False, ranked=False, source=file)
    if reading.n_experts < 1:
        return ""
    rows: list[NDArray[np.int16]] = []
    layers: tuple[int, ...] = ()
    for batch in reading.batches(file):
        if layers and (batch.layers != layers or batch.ids.shape[1:] != rows[0].shape[1:]):
            break
        layers = batch.layers
        rows.append(batch.ids)
        if sum(map(len, rows)) >= _LOOKED_AT:
            break
    traces = assemble(
        [Recording(ids) for ids in rows],
        layers=layers,
        num_experts=reading.n_experts,
        ranked=False,
        model="",
        attributes={},
        where=str(file),
    )
    lag = interleaved_lag(traces)
    return f"the rows look like those of {lag} sequences" if lag else ""


def _sequences(batches: list[Batch], size: int, steps: str | None) -> Iterator[Recording]:
    """The sequences of micro-batches, one after another or each going on with the last."""
    going: list[Batch] = []

    def ended() -> Iterator[Recording]:
        if going:
            whole = along_positions(going)
            for s in range(size):
                logits = None if whole.logits is None else whole.logits[s::size]
                yield Recording(whole.ids[s::size], router_logit=logits)

    for batch in batches:
        if len(batch.ids) % size:
            raise ValueError(
                f"{batch.where}: num_tokens: expected a multiple of micro_batch_size = {size}, "
                f"got {len(batch.ids)}"
            )
        n_positions = len(batch.ids) // size
        if n_positions == 1:
            needed(
                steps,
                "steps",
                "whether a step has 'new' sequences, or sequences are 'continued' by it",
                batch.where,
                "it has one position",
            )
        if steps != "continued" or n_positions > 1:
            yield from ended()
            going = []
        going.append(batch)
    yield from ended()
