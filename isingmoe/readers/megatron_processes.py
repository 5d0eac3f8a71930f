"""How the micro-batches of Megatron-Core's processes belong together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from isingmoe.readers.megatron_records import Batch, beside, logits_beside
from isingmoe.readers.options import needed

__all__ = ["PROCESSES", "along_positions", "joined"]

PROCESSES = ("data", "positions", "layers")
# Rows from which on it is no chance that two micro-batches are the same.
_ENOUGH = 8


def joined(
    of_processes: list[list[Batch]], processes: str | None, where: str, renumbered: bool = False
) -> list[Batch]:
    """The micro-batches of all processes.

    Parameters
    ----------
    of_processes : list of list of Batch
        In the order of the ranks.
    processes : {"data", "positions", "layers"}, optional
        What each has.
    where : str
    renumbered : bool
        Whether the numbers of the layers are given by the user.

    Raises
    ------
    ValueError
        If they do not fit each other, or tokens are there twice.
    """
    if processes in (None, "data") or len(of_processes) == 1:
        batches = [batch for of_one in of_processes for batch in of_one]
        _check_different(batches)
    else:
        counts = sorted({len(of_one) for of_one in of_processes})
        if len(counts) > 1:
            raise ValueError(
                f"{where}: processes: expected as many micro-batches in each file, got "
                f"{counts[0]} to {counts[-1]}"
            )
        batches = []
        for parts in zip(*of_processes, strict=True):
            _check_different(parts)
            if processes == "positions":
                batches.append(along_positions(list(parts)))
            else:
                batches.append(_along_layers(list(parts), renumbered))
        _check_different(batches)
    for batch in batches:
        if batch.layers != batches[0].layers:
            raise ValueError(
                f"{batch.where}: layer: expected the layers {batches[0].layers} of the first "
                f"micro-batch, got {batch.layers}"
            )
    return batches


def _check_different(batches: Iterable[Batch]) -> None:
    """Raise where two micro-batches of a step have the same experts in all layers."""
    seen: dict[tuple[int, bytes], Batch] = {}
    for batch in batches:
        if len(batch.ids) < _ENOUGH:
            continue
        content = np.ascontiguousarray(batch.ids)
        key = batch.step, hashlib.blake2b(content.data, digest_size=16).digest()
        other = seen.setdefault(key, batch)
        if other is not batch:
            raise ValueError(
                f"{batch.where}: step {batch.step}: expected other tokens than from {other.where} "
                "on, got the same experts in all layers; layers that are computed again to save "
                "memory, and ranks that share their tokens, record them twice: trace without "
                "recomputing (--recompute-granularity), and name one file of such ranks"
            )


def along_positions(parts: list[Batch]) -> Batch:
    """Micro-batches one after another: the rows of the first, then those of the second."""
    logits = [part.logits for part in parts if part.logits is not None]
    return Batch(
        parts[0].where,
        parts[0].step,
        parts[0].layers,
        np.concatenate([part.ids for part in parts]),
        np.concatenate(logits) if logits else None,
    )


def _along_layers(parts: list[Batch], renumbered: bool) -> Batch:
    """Layers of the same tokens beside each other."""
    rows = {len(part.ids) for part in parts}
    if len(rows) > 1:
        raise ValueError(
            f"{parts[-1].where}: processes: expected layers of the same tokens in each file, got "
            f"{sorted(rows)} tokens"
        )
    layers = _numbers(parts, renumbered)
    order = np.argsort(layers)
    logits = logits_beside([(p.where, p.logits) for p in parts if p.logits is not None])
    return Batch(
        parts[0].where,
        parts[0].step,
        tuple(sorted(layers)),
        beside([part.ids for part in parts])[:, order],
        None if logits is None else logits[:, order],
    )


def _numbers(parts: list[Batch], renumbered: bool) -> list[int]:
    """The model's numbers of the layers of pipeline stages, each of which counts from 0."""
    as_told = [number for part in parts for number in part.layers]
    if renumbered:
        return list(range(len(as_told)))
    if len(set(as_told)) == len(as_told):
        return as_told
    layers: list[int] = []
    before = 0
    for part in parts:
        first, last = (part.layers[0] if not before else 0), part.layers[-1]
        if part.layers != tuple(range(first, last + 1)):
            # The last layers of a stage may be without experts too.
            needed(
                None,
                "layers",
                f"the model's numbers of these {len(as_told)} layers, file by file",
                part.where,
                f"the files count them from 0, each its own, and this one has {part.layers}",
            )
        layers += [before + number for number in part.layers]
        before += last + 1
    return layers
