"""Which tokens are probed, what is asked of them, and labels that say nothing of position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._numbers import check_integer
from isingmoe.traces import trace_name

__all__ = [
    "Target",
    "Tokens",
    "chosen_tokens",
    "few_arrangements",
    "shifted",
    "shuffled",
    "targets_of",
    "well_held",
]

# Sequences, not tokens, are what is independent: so many are kept, if there are as many, and
# where they hold too many tokens each gives a part of its own.
_LEAST_SEQUENCES = 30

Labels = NDArray[np.int64]


class Tokens(NamedTuple):
    """Tokens in the order of their sequences and positions.

    Attributes
    ----------
    sequence, place : int ndarray (token,)
        Where the token is in the arrays of the traces.
    position : int ndarray (token,)
        Absolute, in its text.
    """

    sequence: NDArray[np.int64]
    place: NDArray[np.int64]
    position: NDArray[np.int64]

    def among(self, kept: NDArray[np.bool_]) -> Tokens:
        """Some of them."""
        return Tokens(*(values[kept] for values in self))

    def parts(self) -> list[slice]:
        """Where each sequence is among the tokens."""
        return _runs(self.sequence)


@dataclass(frozen=True)
class Target:
    """What is asked of a token.

    Attributes
    ----------
    block_length : int
        Positions of a block; 0 for the parity of the position.
    """

    block_length: int

    @property
    def name(self) -> str:
        """In tables and files."""
        return f"block {self.block_length}" if self.block_length else "parity"

    def labels(self, position: NDArray[np.int64]) -> Labels:
        """The class of each token, (token,)."""
        return position // self.block_length if self.block_length else position % 2


def targets_of(names: Sequence[str], block_length: int | Sequence[int]) -> list[Target]:
    """The targets that are named, blocks once for each length.

    Raises
    ------
    TypeError, ValueError
        If one is unknown, named twice, or a length is no positive integer.
    """
    lengths = [block_length] if isinstance(block_length, int | np.integer) else [*block_length]
    for length in lengths:
        check_integer("block_length", length, 1)
    found = []
    for name in names:
        if name not in ("parity", "block"):
            raise ValueError(f"targets: expected some of parity, block, got {name!r}")
        found += [Target(0)] if name == "parity" else [Target(int(n)) for n in lengths]
    if not found or len(set(found)) < len(found):
        named = ", ".join(target.name for target in found) or "none"
        raise ValueError(f"targets: expected different ones, at least one, got {named}")
    return found


def chosen_tokens(traces: xr.Dataset, max_tokens: int, rng: np.random.Generator) -> Tokens:
    """Whole sequences at random until there are enough tokens; parts of them, where few do.

    Parameters
    ----------
    traces : Dataset
    max_tokens : int
        No more are drawn, but for the rounding of pairs: where 30 sequences hold more, pairs
        of neighbouring tokens are kept of each, at equal distances.
    rng : Generator

    Returns
    -------
    Tokens

    Raises
    ------
    ValueError
        If no sequence has a token.
    """
    length = traces["length"].values.astype(np.int64)
    held = rng.permutation(np.flatnonzero(length))
    if not held.size:
        raise ValueError(
            f"{trace_name(traces)}: length: expected a token in some sequence, got none"
        )
    n_whole = int(np.searchsorted(np.cumsum(length[held]), max_tokens, side="right"))
    held = np.sort(held[: max(n_whole, min(_LEAST_SEQUENCES, len(held)))])
    start = np.zeros_like(length)
    if "start_position" in traces:
        start = traces["start_position"].values.astype(np.int64)
    sequence = np.repeat(held, length[held])
    place = np.concatenate([np.arange(n) for n in length[held]])
    tokens = Tokens(sequence, place, start[sequence] + place)
    every = -(-len(sequence) // max_tokens)
    # Pairs, so that both parities are kept alike; from another one on in each sequence.
    first = rng.integers(every, size=len(length))[sequence]
    return tokens.among((tokens.position // 2 + first) % every == 0)


def well_held(
    labels: Labels, sequence: NDArray[np.int64], n_folds: int, by_sequence: bool
) -> NDArray[np.bool_]:
    """Tokens whose class as many tokens have as there are folds, and as many sequences.

    Returns
    -------
    bool ndarray (token,)
    """
    if not labels.size:
        return np.zeros(0, bool)
    units = labels
    if by_sequence:
        units = np.unique(np.stack([labels, sequence]), axis=1)[0]
    enough = np.bincount(units) >= n_folds
    return enough[labels]


def shuffled(labels: Labels, tokens: Tokens, by_sequence: bool, rng: np.random.Generator) -> Labels:
    """Labels among all tokens at random, or among those of each sequence."""
    if not by_sequence:
        return rng.permutation(labels)
    result = labels.copy()
    for part in tokens.parts():
        result[part] = rng.permutation(labels[part])
    return result


def shifted(target: Target, labels: Labels, tokens: Tokens, rng: np.random.Generator) -> Labels:
    """Labels moved along each sequence, in a circle, by so much of its own.

    Blocks are moved by whole blocks, parities by nought or one: what is left is each label as
    often as before, in runs as long as before, at places that differ between the sequences.
    """
    result = labels.copy()
    for part in tokens.parts():
        own = labels[part]
        result[part] = np.roll(own, -int(rng.choice(_shifts(target, own))))
    return result


def few_arrangements(target: Target, labels: Labels, tokens: Tokens) -> float:
    """The share of all shifts that one of them is; those that only rename classes are one."""
    numbers = [len(_shifts(target, labels[part])) for part in tokens.parts()]
    return float(np.exp(np.log(max(numbers)) - np.log(numbers).sum()))


def _shifts(target: Target, own: Labels) -> NDArray[np.int64]:
    """By how many tokens the labels of a sequence may be moved."""
    if target.block_length:
        return np.array([run.start for run in _runs(own)])
    return np.arange(min(len(own), 2))


def _runs(values: NDArray[Any]) -> list[slice]:
    """Where values that follow each other are equal."""
    ends = [*(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
