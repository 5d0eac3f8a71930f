"""Records of Megatron-Core's router trace, and the micro-batches that they are of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isingmoe._text import plain
from isingmoe.readers.lines import json_lines
from isingmoe.readers.nested import array_of
from isingmoe.readers.options import needed, order_of_ranks
from isingmoe.recorded import expert_ids

__all__ = ["FIELDS", "Batch", "Reading", "beside", "logits_beside"]

FIELDS = ("step", "layer", "num_tokens", "topk", "top_indices")


@dataclass(frozen=True)
class Batch:
    """A micro-batch in all layers of a process: (row, layer, rank), (row, layer, expert)."""

    where: str
    step: int
    layers: tuple[int, ...]
    ids: NDArray[np.int16]
    logits: NDArray[np.float32] | None


@dataclass(frozen=True)
class Row:
    """A record: ids (row, rank) of a layer, not yet checked."""

    where: str
    step: int
    layer: int
    ids: NDArray[Any]
    logit: NDArray[np.float32] | None


class Reading:
    """The batches of files, and what their records have in common.

    Parameters
    ----------
    num_experts : int, optional
        By default what the first record with logits says.
    block : str, optional
        The stack of layers that is read.
    logits : bool
        Whether those are read too.
    ranked : bool, optional
        Asked for where the first record has several experts to a token.
    source : path
        What is read, for an error.
    """

    def __init__(
        self,
        num_experts: int | None,
        block: str | None,
        logits: bool,
        ranked: bool | None,
        source: object,
    ) -> None:
        self.n_experts = num_experts or 0
        self.ranked: bool | None = None
        self._asked, self._source = ranked, source
        self._block, self._wants_logits = block, logits
        self._blocks: set[str] = set()
        self._beside: dict[Path, NDArray[np.uint16]] = {}

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
        for where, record in json_lines(file, ("top_indices",)):
            row = self._row(record, where, file)
            if row is None:
                continue
            if row.step != step:
                yield from self._of_step(layers, where)
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
        yield from self._of_step(layers, str(file))

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
            self.n_experts = _logit_shape(record, where)[1]
        n_experts = needed(
            self.n_experts or None, "num_experts", "the number of routed experts", where
        )
        shape = (numbers["num_tokens"], numbers["topk"])
        try:
            ids = array_of(record["top_indices"])
        except ValueError:
            ids = None
        if ids is None or ids.dtype.kind not in "iu":
            # Says what is wrong, unless there is nothing in it.
            ids = expert_ids(
                record["top_indices"], num_experts=n_experts, where=where, name="top_indices"
            )
        if ids.shape != shape and not (ids.size == 0 and 0 in shape):
            raise ValueError(
                f"{where}: top_indices: expected shape {shape}, num_tokens and topk, got "
                f"{ids.shape}"
            )
        if self.ranked is None:
            self.ranked = order_of_ranks(self._asked, shape[1], self._source)
        return Row(where, numbers["step"], numbers["layer"], ids.reshape(shape), logit)

    def _logits(self, record: dict[str, Any], where: str, file: Path) -> NDArray[np.float32]:
        try:
            rank, offset, n_bytes = (
                int(record[name]) for name in ("rank", "logit_offset", "logit_bytes")
            )
        except (KeyError, TypeError, ValueError):
            raise ValueError(_no_logits(where)) from None
        n_tokens, n_experts = _logit_shape(record, where)
        beside = file.parent / f"logits_rank{rank}.bin"
        if n_tokens != record["num_tokens"] or n_bytes != 2 * n_tokens * n_experts:
            raise ValueError(
                f"{where}: logit_shape: expected {record['num_tokens']} tokens and 2 bytes for "
                f"each of their experts, got {[n_tokens, n_experts]} and {n_bytes} bytes"
            )
        if offset < 0 or offset % 2:
            raise ValueError(
                f"{where}: logit_offset: expected an even number from 0 up, got {offset}"
            )
        if beside not in self._beside:
            self._beside[beside] = _mapped(beside, where)
        half = self._beside[beside][offset // 2 : (offset + n_bytes) // 2]
        if len(half) < n_bytes // 2:
            raise ValueError(
                f"{beside}: expected {n_bytes} bytes from {offset} on, for {where}, got "
                f"{2 * len(half)}; it has been cut"
            )
        # bfloat16 is the upper half of float32.
        whole = half.astype(np.uint32) << np.uint32(16)
        return whole.view(np.float32).reshape(n_tokens, n_experts)

    def _of_step(self, layers: dict[int, list[Row]], where: str) -> Iterator[Batch]:
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
                f"{counts[fewest]} of layer {fewest} and {max(counts.values())} of others; the "
                "file has been cut"
            )
        for rows in zip(*(layers[number] for number in numbers), strict=True):
            first = rows[0]
            for row in rows:
                if len(row.ids) != len(first.ids):
                    raise ValueError(
                        f"{row.where}: num_tokens: expected {len(first.ids)} as in layer "
                        f"{first.layer}, got {len(row.ids)}"
                    )
            logits = [(row.where, row.logit[:, None]) for row in rows if row.logit is not None]
            yield Batch(first.where, first.step, numbers, self._ids_of(rows), logits_beside(logits))

    def _ids_of(self, rows: Sequence[Row]) -> NDArray[np.int16]:
        """The ids of the layers of a micro-batch, checked."""
        whole = beside([row.ids[:, None] for row in rows])
        try:
            return self._checked(whole, rows[0])
        except ValueError:
            # Names the line.
            for row in rows:
                self._checked(row.ids, row)
            raise

    def _checked(self, ids: NDArray[Any], row: Row) -> NDArray[np.int16]:
        return expert_ids(ids, num_experts=self.n_experts, where=row.where, name="top_indices")


def _logit_shape(record: dict[str, Any], where: str) -> tuple[int, int]:
    shape = record.get("logit_shape")
    if (
        not isinstance(shape, list)
        or len(shape) != 2
        or any(type(size) is not int or size < 0 for size in shape)
    ):
        raise ValueError(_no_logits(where))
    return shape[0], shape[1]


def _no_logits(where: str) -> str:
    return (
        f"{where}: expected rank, logit_offset, logit_bytes and logit_shape [tokens, experts], "
        "for the logits; record with --moe-routing-trace-capture-logits, or leave --logits out "
        "and give num_experts (--num-experts)"
    )


def _mapped(path: Path, where: str) -> NDArray[np.uint16]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {where} says that it has logits")
    n = path.stat().st_size // 2
    return np.memmap(path, "<u2", "r", shape=(n,)) if n else np.zeros(0, np.uint16)


def beside(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Layers (row, layer, rank) beside each other, those of fewer ranks padded with -1."""
    ranks = [part.shape[2] for part in parts]
    if len(set(ranks)) == 1:
        return np.concatenate(parts, 1)
    n_layers = sum(part.shape[1] for part in parts)
    whole = np.full((len(parts[0]), n_layers, max(ranks)), -1, np.result_type(*parts))
    done = 0
    for part in parts:
        whole[:, done : done + part.shape[1], : part.shape[2]] = part
        done += part.shape[1]
    return whole


def logits_beside(
    parts: Sequence[tuple[str, NDArray[np.float32]]],
) -> NDArray[np.float32] | None:
    """Logits (row, layer, expert) of layers, each with its place, beside each other."""
    for where, part in parts:
        if part.shape[2] != parts[0][1].shape[2]:
            raise ValueError(
                f"{where}: logit_shape: expected {parts[0][1].shape[2]} experts as in the layers "
                f"before, got {part.shape[2]}; leave --logits out"
            )
    return np.concatenate([part for _, part in parts], 1) if parts else None
