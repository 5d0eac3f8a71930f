"""One layer of a trace as a regression problem: sets of experts, and what they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe.traces import check_ids, trace_name

__all__ = [
    "Grouping",
    "Histories",
    "by_sequence",
    "by_token",
    "by_value",
    "histories",
    "last_position",
    "runs",
]

Array = NDArray[Any]

# A key of a token's rows and its expert is below 2^63.
_LARGEST_KEY = 1 << 46


@dataclass(frozen=True)
class Grouping:
    """Something that tokens have in common, and a random field for each value of it.

    Attributes
    ----------
    index : int ndarray (sequence, position)
        Which of the values a token has; `size` where it has none that counts.
    size : int
    """

    index: NDArray[np.int32]
    size: int


def by_sequence(traces: xr.Dataset) -> Grouping:
    """Every sequence for itself."""
    n, longest = traces.sizes["sequence"], traces.sizes["position"]
    return Grouping(np.repeat(np.arange(n, dtype=np.int32)[:, None], longest, 1), n)


def by_token(traces: xr.Dataset) -> Grouping:
    """Every token id for itself; -1 has no field."""
    ids = traces["token_id"].values
    known, index = np.unique(ids, return_inverse=True)
    index = index.reshape(ids.shape).astype(np.int32)
    if len(known) and known[0] == -1:
        index = np.where(index == 0, len(known) - 1, index - 1)
        return Grouping(index.astype(np.int32), len(known) - 1)
    return Grouping(index, len(known))


@dataclass(frozen=True)
class Histories:
    """Tokens that are predicted, with what their log-weights depend on.

    A table of log-weights (row, expert) holds, one after the other: a row for every expert
    at each distance before a token; where both sides count, as many for those after it; one
    for every block of positions; one for every value of each grouping; and a last one, zero,
    for tokens of which a grouping says nothing.

    Attributes
    ----------
    sets : int16 ndarray (token, rank)
        Experts of each token, rising.
    features : int32 ndarray (token, feature)
        Rows of the table that act on it.
    strength : float64 ndarray (feature,)
        What each of them is multiplied with.
    sequence : int32 ndarray (token,)
        Index of the sequence it is in, rising.
    n_experts : int
    n_distances : int
        Distances with couplings of their own.
    both_sides : bool
        Whether tokens after one act on it too.
    n_blocks : int
    groups : tuple of int
        Number of values of each grouping.
    weight : float64 ndarray (token,)
        How often each token counts; empty where each counts once.
    """

    sets: NDArray[np.int16]
    features: NDArray[np.int32]
    strength: Array
    sequence: NDArray[np.int32]
    n_experts: int
    n_distances: int
    both_sides: bool
    n_blocks: int
    groups: tuple[int, ...] = ()
    weight: Array = field(default_factory=lambda: np.empty(0))

    @property
    def n_tokens(self) -> float:
        """Number of tokens, each as often as it counts."""
        return float(self.weight.sum()) if self.weight.size else len(self.sets)

    @property
    def top_k(self) -> int:
        """Experts of a token."""
        return self.sets.shape[1]

    @property
    def n_couplings(self) -> int:
        """Rows of the table that are couplings."""
        return (1 + self.both_sides) * self.n_distances * self.n_experts

    @property
    def n_fixed(self) -> int:
        """Rows of the table before those of the groupings."""
        return self.n_couplings + self.n_blocks

    @property
    def n_rows(self) -> int:
        """Rows of the table without the last one."""
        return self.n_fixed + sum(self.groups)

    def of(self, chosen: NDArray) -> Histories:
        """Some of the tokens, by a mask or by their places."""
        return replace(
            self,
            sets=self.sets[chosen],
            features=self.features[chosen],
            sequence=self.sequence[chosen],
            weight=self.weight[chosen] if self.weight.size else self.weight,
        )

    def merged(self) -> Histories:
        """Tokens that are alike in all respects as one, where that is far fewer.

        They are where a token has one expert: there are no more kinds of them than pairs of
        experts and blocks. Which sequence they are in is lost.
        """
        size = self.n_rows + 1
        columns = self.features.shape[1]
        if self.top_k > 1 or self.groups or self.weight.size or size**columns > _LARGEST_KEY:
            return self
        key = self.sets[:, 0].astype(np.int64)
        for column in self.features.T:
            key = key * size + column
        _, first, counts = np.unique(key, return_index=True, return_counts=True)
        if 2 * len(first) > len(key):
            return self
        return replace(self.of(first), weight=counts.astype(float))

    def group_of(self, which: int) -> NDArray[np.int32]:
        """Value that each token has of a grouping; the number of values for none."""
        first = self.n_fixed + sum(self.groups[:which])
        column = self.features[:, len(self.strength) - len(self.groups) + which]
        return np.minimum(column - first, self.groups[which]).astype(np.int32)


def by_value(problem: Histories, which: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Rows of tokens, value after value of a grouping, and where each value's begin.

    Returns
    -------
    features : int32 ndarray (token, feature)
        Of the tokens that have a value.
    edges : int64 ndarray (value + 1,)
    """
    value = problem.group_of(which)
    order = np.argsort(value, kind="stable")
    edges = np.searchsorted(value[order], np.arange(problem.groups[which] + 1))
    return problem.features[order[: edges[-1]]], edges


def histories(
    traces: xr.Dataset,
    place: int,
    reach: int,
    *,
    decay: Array | None = None,
    both_sides: bool = False,
    n_blocks: int = 1,
    groupings: Sequence[Grouping] = (),
    n_before: int | None = None,
    reverse: bool = False,
    longest: int | None = None,
) -> Histories:
    """Tokens of a layer by its place, each with those near it.

    Parameters
    ----------
    traces : Dataset
    place : int
    reach : int
        Distances at which experts are coupled; 0 for none.
    decay : ndarray (reach,), optional
        Strength at each distance of one coupling matrix for all; by default each distance
        has its own.
    both_sides : bool
        Whether the tokens after one act on it as well as those before.
    n_blocks : int
        Blocks of equal length that positions are divided into.
    groupings : sequence of Grouping
    n_before : int, optional
        Tokens that must have been recorded before one that is predicted; `reach` by
        default. Models of different reach predict the same tokens with one value for all.
    reverse : bool
        Read every sequence backwards. Positions stay those of the text.
    longest : int, optional
        Position at which the last block ends; by default that of the last token.

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
    check_ids(traces, place, index)
    known = (index >= 0).all(2) & (np.arange(index.shape[1]) < length[:, None])
    sides = {-1: True, 1: both_sides}
    if reverse:
        sides = {1: True, -1: both_sides}
    predicted = known.copy()
    for side, counts in sides.items():
        for r in range(1, n_before + 1) if counts else ():
            predicted &= _shifted(known, side * r)
    sequence, position = np.nonzero(predicted)
    if not len(sequence):
        needed = (1 + both_sides) * n_before + 1
        remedy = "use a smaller reach or" if n_before > 1 else "a chain needs"
        raise ValueError(
            f"{trace_name(traces)}: expert_index: expected {needed} neighbouring tokens in some "
            f"sequence of layer {layer}, got none; {remedy} longer sequences"
        )
    top_k = index.shape[2]
    n_distances = reach if decay is None else min(reach, 1)
    columns, strength, first = [], [], 0
    for side in [side for side, counts in sides.items() if counts]:
        for r in range(1, reach + 1):
            row = first + (r - 1 if decay is None else 0) * n_experts
            columns.append(np.sort(index[sequence, position + side * r], 1).astype(np.int32) + row)
            strength.append(np.full(top_k, 1.0 if decay is None else decay[r - 1]))
        first += n_distances * n_experts
    at = position + _starts(traces)[sequence]
    end = last_position(traces) if longest is None else longest
    block = np.minimum(at * n_blocks // end, n_blocks - 1)
    columns.append((first + block).astype(np.int32)[:, None])
    first += n_blocks
    last = first + sum(grouping.size for grouping in groupings)
    for grouping in groupings:
        value = grouping.index[sequence, position]
        row = np.where(value < grouping.size, first + value, last)
        columns.append(row.astype(np.int32)[:, None])
        first += grouping.size
    strength.append(np.ones(1 + len(groupings)))
    return Histories(
        np.sort(index[sequence, position], 1),
        np.concatenate(columns, 1),
        np.concatenate(strength),
        sequence.astype(np.int32),
        n_experts,
        n_distances,
        both_sides,
        n_blocks,
        tuple(grouping.size for grouping in groupings),
    )


def last_position(traces: xr.Dataset) -> int:
    """Where the last token of the longest text ends, counted from the text's start."""
    return max(int((_starts(traces) + traces["length"].values).max(initial=0)), 1)


def _starts(traces: xr.Dataset) -> NDArray[np.int64]:
    """Position in its text of the first token of every sequence."""
    if "start_position" in traces:
        return traces["start_position"].values.astype(np.int64)
    return np.zeros(traces.sizes["sequence"], np.int64)


def _shifted(known: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """Whether the token so many places on is known."""
    result = np.zeros_like(known)
    if abs(by) < known.shape[1]:
        if by < 0:
            result[:, -by:] = known[:, :by]
        else:
            result[:, :-by] = known[:, by:]
    return result


def runs(sequence: NDArray[np.int32]) -> list[tuple[int, int]]:
    """Where the tokens of each sequence begin and end."""
    edges = np.flatnonzero(np.diff(sequence)) + 1
    return list(zip(np.r_[0, edges].tolist(), np.r_[edges, len(sequence)].tolist(), strict=True))
