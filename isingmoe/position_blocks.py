"""Blocks of absolute positions, and how often experts serve the tokens in them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._kernels import blocks
from isingmoe._schema import validate_structure
from isingmoe._text import about
from isingmoe.traces import check_ids, trace_name

__all__ = ["LayerBlocks", "Partition", "coordinates", "layer_blocks", "partition_of"]

Array = NDArray[np.floating]

# Blocks by default, where there are as many sequences.
_MOST_BLOCKS = 16


class Partition(NamedTuple):
    """Blocks of positions, and where in them the sequences lie.

    Attributes
    ----------
    start : int ndarray (block,)
        First position of each block.
    block_length : int
    first, length : int ndarray (sequence,)
        First place of each sequence, counted from the start of the first block, and places.
    """

    start: NDArray[np.int64]
    block_length: int
    first: NDArray[np.int64]
    length: NDArray[np.int64]

    def arguments(self, traces: xr.Dataset, place: int) -> tuple[Any, ...]:
        """What the kernels want to know of a layer.

        Raises
        ------
        ValueError
            If an id is out of range.
        """
        n_experts = int(traces.attrs["num_experts"])
        index = np.ascontiguousarray(traces["expert_index"].values[place])
        check_ids(traces, place, index)
        sizes = self.block_length, len(self.start), n_experts
        return index, self.length, self.first, *sizes


class LayerBlocks(NamedTuple):
    """Counts of one layer.

    Attributes
    ----------
    tokens : int ndarray (sequence, block)
        With a recorded expert.
    served : int ndarray (sequence, block, expert)
    """

    tokens: NDArray[np.int64]
    served: NDArray[np.int64]

    @property
    def rate(self) -> Array:
        """Share of all tokens that each expert serves, (expert,)."""
        return self.served.sum((0, 1)) / self.tokens.sum()

    @property
    def weight(self) -> Array:
        """Share of the tokens in each block, (block,)."""
        return self.tokens.sum(0) / self.tokens.sum()

    def own_rate(self) -> Array:
        """Rates in each sequence, (sequence, expert); nought where it has no token."""
        return self.served.sum(1) / np.maximum(self.tokens.sum(1), 1)[:, None]

    def surplus(self) -> Array:
        """Tokens beyond what the rates in a sequence make of a block, (sequence, block, expert)."""
        whole = self.tokens.sum(1)[:, None, None]
        # Of whole numbers as long as may be: what is nought is nought to the last digit.
        beyond = self.served * whole - self.tokens[..., None] * self.served.sum(1)[:, None]
        return beyond / np.maximum(whole, 1)


def coordinates(traces: xr.Dataset, part: Partition) -> dict[str, Any]:
    """Coordinates of what is measured in blocks."""
    return {
        "layer": traces["layer"],
        "expert": np.arange(int(traces.attrs["num_experts"])),
        "block": ("block", np.arange(len(part.start)), about("block of positions")),
        "block_start": ("block", part.start, about("first position of the block", "token")),
    }


def partition_of(
    traces: xr.Dataset, n_blocks: int | None = None, block_length: int | None = None
) -> Partition:
    """Divide the positions that traces cover into blocks of equal length.

    Raises
    ------
    TraceSchemaError
        If the Dataset is not a trace.
    TypeError, ValueError
        If both or unusable sizes of the blocks are given, or no sequence has a token.
    """
    validate_structure(traces)
    if n_blocks is not None and block_length is not None:
        raise ValueError(
            f"n_blocks, block_length: expected one of them, got {n_blocks} and {block_length}"
        )
    for name, value in (("n_blocks", n_blocks), ("block_length", block_length)):
        if value is None:
            continue
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise TypeError(f"{name}: expected an integer or None, got {value!r}")
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    length = traces["length"].values.astype(np.int64)
    if not length.any():
        raise ValueError(
            f"{trace_name(traces)}: length: expected a token in some sequence, got none"
        )
    first = np.zeros_like(length)
    if "start_position" in traces:
        first = traces["start_position"].values.astype(np.int64)
    origin = first[length > 0].min()
    first = np.where(length > 0, first - origin, 0)
    extent = int((first + length).max())
    if block_length is None:
        wanted = n_blocks or min(_MOST_BLOCKS, max(int((length > 0).sum()), 2))
        block_length = -(-extent // wanted)
        if n_blocks is None:
            block_length = 1 << (block_length - 1).bit_length()
    start = origin + np.arange(0, extent, block_length)
    return Partition(start, int(block_length), first, length)


def layer_blocks(traces: xr.Dataset, place: int, part: Partition) -> LayerBlocks:
    """Count the experts of a layer by its place, in each sequence and block.

    Raises
    ------
    ValueError
        If the layer has no token, or an id is out of range.
    """
    counts = LayerBlocks(*blocks.block_counts(*part.arguments(traces, place)))
    if not counts.tokens.any():
        raise ValueError(
            f"{trace_name(traces)}: expert_index: expected a token in layer "
            f"{int(traces['layer'][place])}, got none; leave the layer out"
        )
    return counts
