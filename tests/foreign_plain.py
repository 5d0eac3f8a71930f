"""Writers of the plain foreign formats, each from its description and not from its reader."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

__all__ = [
    "Sequence1",
    "each_sequence",
    "table_rows",
    "write_arrays",
    "write_moe_trace",
    "write_records",
    "write_table",
]


@dataclass(frozen=True)
class Sequence1:
    """One sequence of a trace, token by token."""

    experts: NDArray[np.int16]  # (token, layer, rank)
    weights: NDArray[np.float32] | None
    token_id: NDArray[np.int32] | None
    start: int

    def tokens(self) -> range:
        return range(len(self.experts))


def each_sequence(traces: xr.Dataset) -> Iterator[Sequence1]:
    index = traces["expert_index"].values
    for i, n in enumerate(traces["length"].values):
        yield Sequence1(
            experts=index[:, i, :n].swapaxes(0, 1),
            weights=_cut(traces, "gate_weight", lambda w, i=i, n=n: w[:, i, :n].swapaxes(0, 1)),
            token_id=_cut(traces, "token_id", lambda t, i=i, n=n: t[i, :n]),
            start=int(_cut(traces, "start_position", lambda s, i=i: s[i]) or 0),
        )


def _cut(traces: xr.Dataset, name: str, cut: Any) -> Any:
    return cut(traces[name].values) if name in traces else None


def write_moe_trace(
    traces: xr.Dataset,
    path: Path,
    *,
    batches: Iterable[Sequence[int]],
    outputs_only: bool = False,
    header: bool = False,
) -> None:
    """What llama.cpp's moe-trace writes: `layer,expert`, a line for each routed activation.

    The tensor of a layer comes as one block for each batch of tokens: the ids of its first
    token in falling order, then those of the second. `batches`: the sizes of the batches of
    each sequence. `outputs_only`: the last layer is computed for the last token of a batch
    alone, as where logits are asked for that one only.
    """
    layers = traces["layer"].values.tolist()
    with path.open("w", newline="") as stream:
        if header:
            stream.write("layer,expert\n")
        for sequence, sizes in zip(each_sequence(traces), batches, strict=True):
            assert sum(sizes) == len(sequence.experts)
            done = 0
            for size in sizes:
                for place, layer in enumerate(layers):
                    first = size - 1 if outputs_only and layer == layers[-1] else 0
                    for token in range(done + first, done + size):
                        for expert in sequence.experts[token, place].tolist():
                            stream.write(f"{layer},{expert}\n")
                done += size


def write_records(
    traces: xr.Dataset,
    path: Path,
    *,
    names: dict[str, str],
    by_layer: bool,
    omit_gaps: bool = False,
    shuffle: int | None = None,
) -> None:
    """A JSON object on each line, for each token or for each token and layer.

    `names`: what each field is called; a field without a name is left out. A token without
    experts has the list [] or, with `omit_gaps` and by layer, no line. `shuffle`: a seed for
    the order of the lines.
    """
    lines = []
    for number, sequence in enumerate(each_sequence(traces)):
        for token in sequence.tokens():
            shared = {"sequence": f"s{number}", "position": sequence.start + token}
            if sequence.token_id is not None:
                shared["token_id"] = int(sequence.token_id[token])
            if not by_layer:
                used = [_used(sequence, token, place) for place in range(traces.sizes["layer"])]
                experts, weights = [e for e, _ in used], [w for _, w in used]
                lines.append({**shared, "experts": experts, "weights": weights})
                continue
            for place, layer in enumerate(traces["layer"].values.tolist()):
                experts, weights = _used(sequence, token, place)
                if experts or not omit_gaps:
                    lines.append({**shared, "layer": layer, "experts": experts, "weights": weights})
    if shuffle is not None:
        np.random.default_rng(shuffle).shuffle(lines)
    with path.open("w") as stream:
        for line in lines:
            named = {names[key]: value for key, value in line.items() if key in names}
            stream.write(json.dumps(named) + "\n")


def _used(sequence: Sequence1, token: int, place: int) -> tuple[list[int], list[float]]:
    """The experts of a token in a layer and their weights, without the ranks that have none."""
    experts = sequence.experts[token, place]
    weights = [] if sequence.weights is None else sequence.weights[token, place][experts >= 0]
    return experts[experts >= 0].tolist(), [float(weight) for weight in weights]


def write_arrays(
    traces: xr.Dataset,
    path: Path,
    *,
    axes: tuple[str, str, str] = ("token", "layer", "rank"),
    offsets: bool = True,
    compressed: bool = False,
) -> None:
    """All tokens of all sequences behind one another, and where each sequence starts."""
    sequences = list(each_sequence(traces))
    order = [("token", "layer", "rank").index(axis) for axis in axes]
    lengths = [len(sequence.experts) for sequence in sequences]
    arrays: dict[str, Any] = {
        "expert_index": np.concatenate([s.experts for s in sequences]).transpose(order),
        "layer": traces["layer"].values,
    }
    if "gate_weight" in traces:
        joined = np.concatenate([s.weights for s in sequences if s.weights is not None])
        arrays["gate_weight"] = joined.transpose(order)
    if "token_id" in traces:
        arrays["token_id"] = np.concatenate(
            [s.token_id for s in sequences if s.token_id is not None]
        )
    if "start_position" in traces:
        arrays["start_position"] = traces["start_position"].values
    if offsets:
        arrays["offsets"] = np.concatenate([[0], np.cumsum(lengths)])
    else:
        arrays["lengths"] = np.array(lengths)
    (np.savez_compressed if compressed else np.savez)(path, **arrays)


def table_rows(traces: xr.Dataset, *, wide: bool) -> list[dict[str, Any]]:
    """Rows of a table: one for each rank, or one for each token and layer with rank columns.

    A rank without an expert has no row where another rank of its token has one.
    """
    rows = []
    for number, sequence in enumerate(each_sequence(traces)):
        for token in sequence.tokens():
            for place, layer in enumerate(traces["layer"].values.tolist()):
                row: dict[str, Any] = {
                    "sequence": number,
                    "position": sequence.start + token,
                    "layer": layer,
                }
                if sequence.token_id is not None:
                    row["token_id"] = int(sequence.token_id[token])
                experts = sequence.experts[token, place].tolist()
                weights = None if sequence.weights is None else sequence.weights[token, place]
                if wide:
                    row |= {f"expert_{rank}": expert for rank, expert in enumerate(experts)}
                    if weights is not None:
                        row |= {f"weight_{rank}": float(w) for rank, w in enumerate(weights)}
                    rows.append(row)
                    continue
                for rank, expert in enumerate(experts):
                    if expert >= 0 or (rank == 0 and max(experts) < 0):
                        one = {"rank": rank, "expert": expert}
                        if weights is not None:
                            one["weight"] = float(weights[rank])
                        rows.append(row | one)
    return rows


def write_table(rows: list[dict[str, Any]], path: Path, *, delimiter: str = ",") -> None:
    """The rows as CSV."""
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
