"""Records of Megatron-Core's router trace, and the micro-batches that they are of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isingmoe._text import plain
from isingmoe.readers.lines import json_lines
from isingmoe.readers.options import needed
from isingmoe.recorded import expert_ids

__all__ = ["FIELDS", "PROCESSES", "Batch", "Reading", "along_positions", "joined"]

FIELDS = ("step", "layer", "num_tokens", "topk", "top_indices")
PROCESSES = ("data", "positions", "layers")


@dataclass(frozen=True)
class Batch:
    """A micro-batch in all layers of a process: (row, layer, rank), (row, layer, expert)."""

    where: str
    layers: tuple[int, ...]
    ids: NDArray[np.int16]
    logits: NDArray[np.float32] | None


@dataclass(frozen=True)
class Row:
    """A record: ids (row, rank) of a layer."""

    where: str
    step: int
    layer: int
    ids: NDArray[np.int16]
    logit: NDArray[np.float32] | None


class Reading:
    """The batches of files, and what their records have in common."""

    def __init__(self, num_experts: int | None, block: str | None, logits: bool) -> None:
        self.n_experts = num_experts or 0
        self._block, self._wants_logits = block, logits
        self._blocks: set[str] = set()

    def batches(self, file: Path) -> Iterator[Batch]:
        """Micro-batches in the order of the steps.

        Raises
        ------
        ValueError
            If a record is not as it should be, or a layer is missing from a step.
        """
        step: int | None = None
        done: set[int] = set()
        layers: dict[int, list[Row]] = {}
        for where, record in json_lines(file):
            row = self._row(record, where, file)
            if row is None:
                continue
            if row.step != step:
                yield from _of_step(layers, where)
                layers = {}
                if row.step in done:
                    raise ValueError(
                        f"{where}: step: expected the records of a step together, got {row.step} "
                        "again; sort the file"
                    )
                step = row.step
                done.add(step)
            layers.setdefault(row.layer, []).append(row)
        if not layers:
            raise ValueError(
                f"{file}: block: expected records of {self._block!r}, got those of "
                f"{', '.join(sorted(self._blocks))}"
            )
        yield from _of_step(layers, str(file))

    def _row(self, record: Any, where: str, file: Path) -> Row | None:
        """A record, None where it is of another block."""
        missing = [f for f in FIELDS if not isinstance(record, dict) or f not in record]
        if missing:
            raise ValueError(
                f"{where}: {', '.join(missing)}: missing; expected a record of a layer"
            )
        block = str(record.get("block", "decoder"))
        if "mtp_idx" in record:
            block = f"mtp{record['mtp_idx']}" if record["mtp_idx"] else "mtp"
        self._blocks.add(block)
        if self._block is None and len(self._blocks) > 1:
            needed(
                None,
                "block",
                f"one of {', '.join(sorted(self._blocks))}",
                where,
                "there are layers of several",
            )
        if self._block is not None and block != self._block:
            return None
        numbers = {name: record[name] for name in ("step", "layer", "num_tokens", "topk")}
        for name, value in numbers.items():
            if type(value) is not int or value < 0:
                raise ValueError(
                    f"{where}: {name}: expected a whole number, got {plain(value, 30)!r}"
                )
        logit = self._logits(record, where, file) if self._wants_logits else None
        if not self.n_experts and "logit_shape" in record:
            self.n_experts = int(np.ravel(record["logit_shape"])[-1])
        n_experts = needed(
            self.n_experts or None, "num_experts", "the number of routed experts", where
        )
        ids = expert_ids(
            record["top_indices"], num_experts=n_experts, where=where, name="top_indices"
        )
        shape = (numbers["num_tokens"], numbers["topk"])
        if ids.shape != shape and not (ids.size == 0 and 0 in shape):
            raise ValueError(
                f"{where}: top_indices: expected shape {shape}, num_tokens and topk, got "
                f"{ids.shape}"
            )
        return Row(where, numbers["step"], numbers["layer"], ids.reshape(shape), logit)

    def _logits(self, record: dict[str, Any], where: str, file: Path) -> NDArray[np.float32]:
        try:
            rank, offset, n_bytes = (
                int(record[name]) for name in ("rank", "logit_offset", "logit_bytes")
            )
            n_tokens, n_experts = map(int, record["logit_shape"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{where}: expected rank, logit_offset, logit_bytes and logit_shape [tokens, "
                "experts], for the logits; record with --moe-routing-trace-capture-logits, or "
                "leave --logits out"
            ) from None
        beside = file.parent / f"logits_rank{rank}.bin"
        if not beside.is_file():
            raise FileNotFoundError(f"{beside}: no such file; {where} says that it has logits")
        if n_tokens != record["num_tokens"] or n_bytes != 2 * n_tokens * n_experts:
            raise ValueError(
                f"{where}: logit_shape: expected {record['num_tokens']} tokens and 2 bytes for "
                f"each of their experts, got {[n_tokens, n_experts]} and {n_bytes} bytes"
            )
        with beside.open("rb") as stream:
            stream.seek(max(offset, 0))
            content = stream.read(n_bytes)
        if len(content) < n_bytes or offset < 0:
            raise ValueError(
                f"{beside}: expected {n_bytes} bytes from {offset} on, for {where}, got "
                f"{len(content)}; it has been cut"
            )
        # bfloat16 is the upper half of float32.
        half = np.frombuffer(content, "<u2").astype(np.uint32) << np.uint32(16)
        return half.view(np.float32).reshape(n_tokens, n_experts)


def _of_step(layers: dict[int, list[Row]], where: str) -> Iterator[Batch]:
    """The micro-batches of a step: the first records of all layers, the second, and so on."""
    if not layers:
        return
    numbers = tuple(sorted(layers))
    counts = {layer: len(rows) for layer, rows in layers.items()}
    if len(set(counts.values())) > 1:
        fewest = min(counts, key=lambda layer: counts[layer])
        step = layers[fewest][0].step
        raise ValueError(
            f"{where}: step {step}: expected as many records of each layer, got "
            f"{counts[fewest]} of layer {fewest} and {max(counts.values())} of others; the file "
            "has been cut"
        )
    for rows in zip(*(layers[number] for number in numbers), strict=True):
        first = rows[0]
        for row in rows:
            if len(row.ids) != len(first.ids):
                raise ValueError(
                    f"{row.where}: num_tokens: expected {len(first.ids)} as in layer "
                    f"{first.layer}, got {len(row.ids)}"
                )
        logits = [row.logit for row in rows if row.logit is not None]
        yield Batch(
            first.where,
            numbers,
            _beside([row.ids[:, None] for row in rows]),
            np.stack(logits, 1) if logits else None,
        )


def _beside(parts: list[NDArray[np.int16]]) -> NDArray[np.int16]:
    """Layers (row, layer, rank) beside each other, those of fewer ranks padded with -1."""
    k = max(part.shape[2] for part in parts)
    return np.concatenate(
        [
            np.pad(part, ((0, 0), (0, 0), (0, k - part.shape[2])), constant_values=-1)
            for part in parts
        ],
        1,
    )


def joined(of_processes: list[list[Batch]], processes: str | None, where: str) -> list[Batch]:
    """The micro-batches of all processes."""
    if processes in (None, "data") or len(of_processes) == 1:
        batches = [batch for of_one in of_processes for batch in of_one]
    else:
        counts = sorted({len(of_one) for of_one in of_processes})
        if len(counts) > 1:
            raise ValueError(
                f"{where}: processes: expected as many micro-batches in each file, got "
                f"{counts[0]} to {counts[-1]}"
            )
        join = along_positions if processes == "positions" else _along_layers
        batches = [join(list(parts)) for parts in zip(*of_processes, strict=True)]
    for batch in batches:
        if batch.layers != batches[0].layers:
            raise ValueError(
                f"{batch.where}: layer: expected the layers {batches[0].layers} of the first "
                f"micro-batch, got {batch.layers}"
            )
    return batches


def along_positions(parts: list[Batch]) -> Batch:
    """Micro-batches one after another: the rows of the first, then those of the second."""
    logits = [part.logits for part in parts if part.logits is not None]
    return Batch(
        parts[0].where,
        parts[0].layers,
        np.concatenate([part.ids for part in parts]),
        np.concatenate(logits) if logits else None,
    )


def _along_layers(parts: list[Batch]) -> Batch:
    """Layers of the same tokens beside each other."""
    layers = [number for part in parts for number in part.layers]
    rows = {len(part.ids) for part in parts}
    if len(set(layers)) < len(layers) or len(rows) > 1:
        raise ValueError(
            f"{parts[-1].where}: processes: expected different layers of the same tokens in each "
            f"file, got layers {layers} and {sorted(rows)} tokens"
        )
    order = np.argsort(layers)
    logits = [part.logits for part in parts if part.logits is not None]
    return Batch(
        parts[0].where,
        tuple(sorted(layers)),
        _beside([part.ids for part in parts])[:, order],
        np.concatenate(logits, 1)[:, order] if logits else None,
    )
