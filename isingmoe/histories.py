"""One layer of a trace as a regression problem: sets of experts, and what came before them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe.traces import trace_name

__all__ = ["Histories", "histories"]


@dataclass(frozen=True)
class Histories:
    """Tokens that are predicted, with what their log-weights depend on.

    A table of log-weights (row, expert) holds, one after the other, a row for every expert
    at each distance before a token, one for every block of positions, and one for every
    sequence if asked for.

    Attributes
    ----------
    sets : int16 ndarray (token, rank)
        Experts of each token.
    features : int32 ndarray (token, feature)
        Rows of the table that act on it, rising.
    sequence : int32 ndarray (token,)
        Index of the sequence it is in, rising.
    n_experts, reach, n_blocks, n_sequences : int
        The layout of the table; no sequence has a row where `n_sequences` is 0.
    """

    sets: NDArray[np.int16]
    features: NDArray[np.int32]
    sequence: NDArray[np.int32]
    n_experts: int
    reach: int
    n_blocks: int
    n_sequences: int = 0

    @property
    def top_k(self) -> int:
        """Experts of a token."""
        return self.sets.shape[1]

    @property
    def n_couplings(self) -> int:
        """Rows of the table that are couplings."""
        return self.reach * self.n_experts

    @property
    def n_rows(self) -> int:
        """Rows of the table."""
        return self.n_couplings + self.n_blocks + self.n_sequences

    def of(self, chosen: NDArray[np.bool_]) -> Histories:
        """Some of the tokens."""
        return Histories(
            self.sets[chosen],
            self.features[chosen],
            self.sequence[chosen],
            self.n_experts,
            self.reach,
            self.n_blocks,
            self.n_sequences,
        )


def histories(
    traces: xr.Dataset,
    place: int,
    reach: int,
    *,
    n_blocks: int = 1,
    by_sequence: bool = False,
    n_before: int | None = None,
) -> Histories:
    """Tokens of a layer by its place, each with those before it.

    Parameters
    ----------
    traces : Dataset
    place : int
    reach : int
        Distances at which experts are coupled; 0 for none.
    n_blocks : int
        Blocks of equal length that positions are divided into.
    by_sequence : bool
        Whether every sequence has a row of its own.
    n_before : int, optional
        Tokens that must have been recorded before one that is predicted; `reach` by
        default. Models of different reach predict the same tokens with one value for all.

    Returns
    -------
    Histories

    Raises
    ------
    ValueError
        If no token has as many before it, or an id is out of range.
    """
    n_before = reach if n_before is None else n_before
    n_experts = int(traces.attrs["num_experts"])
    index = traces["expert_index"].values[place]
    length = traces["length"].values
    layer = int(traces["layer"].values[place])
    if index.size and (index.max() >= n_experts or index.min() < -1):
        raise ValueError(
            f"{trace_name(traces)}: expert_index: expected ids of -1 to {n_experts - 1}, got "
            f"others in layer {layer}; isingmoe.validate names the first"
        )
    known = (index >= 0).all(2) & (np.arange(index.shape[1]) < length[:, None])
    predicted = known.copy()
    for r in range(1, n_before + 1):
        predicted[:, :r] = False
        predicted[:, r:] &= known[:, :-r]
    sequence, position = np.nonzero(predicted)
    if not len(sequence):
        raise ValueError(
            f"{trace_name(traces)}: expert_index: expected {n_before + 1} neighbouring tokens in "
            f"some sequence of layer {layer}, got none; use a smaller reach or longer sequences"
        )
    top_k = index.shape[2]
    features = np.empty((len(sequence), reach * top_k + 1 + by_sequence), np.int32)
    for r in range(1, reach + 1):
        before = np.sort(index[sequence, position - r], 1)
        features[:, (r - 1) * top_k : r * top_k] = before + (r - 1) * n_experts
    start = traces["start_position"].values if "start_position" in traces else np.zeros_like(length)
    at = position + start[sequence]
    block = at.astype(np.int64) * n_blocks // int((start + length).max())
    features[:, reach * top_k] = reach * n_experts + block
    if by_sequence:
        features[:, -1] = reach * n_experts + n_blocks + sequence
    return Histories(
        np.sort(index[sequence, position], 1),
        features,
        sequence.astype(np.int32),
        n_experts,
        reach,
        n_blocks,
        len(length) if by_sequence else 0,
    )
