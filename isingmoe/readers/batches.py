"""Batches of tokens in lines that come layer by layer, and the experts to a token."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isingmoe.readers.activations import Activations
from isingmoe.readers.options import needed
from isingmoe.recorded import expert_ids

__all__ = ["Batches", "check_strides", "find_batches", "find_top_k"]

# Collisions expected by chance where none being there is no chance: exp(-14) is 1e-6.
_SURE = 14.0
# A share of them that real routers, who repeat themselves, exceed.
_FEW = 0.2
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Batches:
    """Where the batches of a file are.

    Attributes
    ----------
    layers : int ndarray (layer,)
    first : int64 ndarray (batch,)
        The first row of each.
    size : int64 ndarray (batch,)
        Rows of each layer but the last.
    last_size : int64 ndarray (batch,)
        Rows of the last layer, which may be computed for fewer tokens.
    """

    layers: NDArray[np.int16]
    first: NDArray[np.int64]
    size: NDArray[np.int64]
    last_size: NDArray[np.int64]


def find_batches(found: Activations) -> Batches:
    """Batches by the layers, which rise from the first to the last within each.

    Raises
    ------
    ValueError
        With the line where a layer is missing, or has not the rows of the others.
    """
    start = np.concatenate([[0], np.flatnonzero(np.diff(found.layer)) + 1])
    size = np.diff(start, append=len(found.layer))
    layers, place = np.unique(found.layer[start], return_inverse=True)
    opens = np.concatenate([[True], place[1:] <= place[:-1]])
    opening = np.flatnonzero(opens)
    within = np.arange(len(place)) - opening[np.cumsum(opens) - 1]
    skips = place != within
    runs = np.diff(opening, append=len(place))
    # Two layers or more: the last one may be left out of a batch as a whole.
    short = runs < max(len(layers) - 1, 1)
    if skips.any() or short.any():
        raise ValueError(_out_of_order(found, start, layers, place, within, opening, skips, short))
    first_size = np.repeat(size[opening], runs)
    last = (place == len(layers) - 1) & (within > 0)
    uneven = np.where(last, size > first_size, size != first_size)
    if uneven.any():
        run = int(uneven.argmax())
        raise ValueError(
            f"{found.where(int(start[run]))}: layer {layers[place[run]]}: expected "
            f"{first_size[run]} lines from here on, as of layer {layers[0]} in this batch, got "
            f"{size[run]}; a line is missing or there twice, or the file was cut short: drop the "
            "batch"
        )
    last_size = np.zeros(len(opening), np.int64)
    last_size[np.cumsum(opens)[place == len(layers) - 1] - 1] = size[place == len(layers) - 1]
    return Batches(layers, start[opening], size[opening], last_size)


def _out_of_order(
    found: Activations,
    start: NDArray[np.int64],
    layers: NDArray[np.int16],
    place: NDArray[np.int64],
    within: NDArray[np.int64],
    opening: NDArray[np.int64],
    skips: NDArray[np.bool_],
    short: NDArray[np.bool_],
) -> str:
    """What is wrong where the layers of a batch are not all there, one after another."""
    skip = int(skips.argmax()) if skips.any() else len(place)
    early = int(short.argmax()) if short.any() else len(opening)
    after = np.append(opening, len(place))[1:]
    end = int(after[early]) if early < len(opening) else len(place) + 1
    if end == len(place) and skip >= end:
        return (
            f"{found.where(int(start[opening[early]]))}: expected layers {layers[0]} to "
            f"{layers[-1]} from here on, got the end of the file after layer {layers[place[-1]]}; "
            "it was cut short: drop the lines from here on"
        )
    run = min(skip, end)
    wanted = layers[within[run]] if run == skip else layers[place[run - 1] + 1]
    return (
        f"{found.where(int(start[run]))}: layer: expected {wanted}, as in other batches, got "
        f"{layers[place[run]]}; lines are missing or in another order: drop the batch"
    )


def find_top_k(found: Activations, batches: Batches, num_experts: int, top_k: int | None) -> int:
    """Experts of a token: the most lines in a row that always differ, of those that can be.

    Parameters
    ----------
    found : Activations
    batches : Batches
    num_experts : int
    top_k : int, optional
        What the user says.

    Raises
    ------
    ValueError
        If the lines cannot be of `top_k` experts to a token, or do not tell.
    """
    sizes = np.concatenate([batches.size, batches.last_size])
    common = int(np.gcd.reduce(sizes))
    if top_k is not None:
        _check_top_k(found, batches, num_experts, top_k)
        return top_k
    most = 1
    for size in range(min(common, num_experts), 1, -1):
        if common % size:
            continue
        share = min(
            -math.expm1(_log_different(part, size // part, num_experts))
            for part in range(1, size)
            if size % part == 0
        )
        # The start of a long file is enough where most of its groups repeat experts.
        repeats, row = _repeats(found.expert[: _BLOCK // size * size], size)
        if repeats > max(_FEW * share * (_BLOCK // size), _SURE):
            continue
        repeats, row = _repeats(found.expert, size)
        expected = share * (len(found.expert) // size)
        if repeats == 0:
            most = size if expected >= _SURE else -size
            break
        if repeats < _FEW * expected:
            raise ValueError(
                f"{found.where(row)}: expected {size} different experts for one token from here "
                f"on, got {found.expert[row : row + size].tolist()}; mend the line or, if that is "
                "not the number of experts to a token, give top_k, on the command line --top-k"
            )
    alone = len(batches.first) == 1 and abs(most) == common and most != 1
    if most < 0 or 2 * most > max(num_experts, 2) or alone:
        needed(
            None,
            "top_k",
            "the number of experts to a token",
            found.path,
            f"its lines allow {abs(most)}, and too few tokens to be sure",
        )
    return most


def _check_top_k(found: Activations, batches: Batches, num_experts: int, top_k: int) -> None:
    if not 1 <= top_k <= num_experts:
        raise ValueError(f"{found.path}: top_k: expected 1 to {num_experts}, got {top_k}")
    for size, at in (
        (batches.size, batches.first),
        (batches.last_size, batches.first + batches.size * (len(batches.layers) - 1)),
    ):
        odd = size % top_k != 0
        if odd.any():
            batch = int(odd.argmax())
            raise ValueError(
                f"{found.where(int(at[batch]))}: top_k: expected a divisor of {size[batch]}, the "
                f"lines of a layer from here on, got {top_k}"
            )
    repeats, row = _repeats(found.expert, top_k)
    if repeats:
        expert_ids(
            found.expert[row : row + top_k],
            num_experts=num_experts,
            where=found.where(row),
            name="expert",
        )


def check_strides(found: Activations, batches: Batches, num_experts: int, top_k: int) -> None:
    """Raise where the ids of a batch were read without their stride.

    The ids of a batch are the first columns of the experts in order, one row for each token.
    A tracer that takes that for a contiguous array writes the whole first rows: all experts,
    none of them twice, before any is named again.
    """
    n_layers = len(batches.layers)
    log_chance = 0.0
    first = None
    for batch in np.flatnonzero(batches.size >= 2 * top_k):
        size, start = int(batches.size[batch]), int(batches.first[batch])
        length = min(size, num_experts)
        for place in range(n_layers):
            if place == n_layers - 1 and batches.last_size[batch] < size:
                continue
            row = start + place * size
            if len(np.unique(found.expert[row : row + length])) < length:
                return
            first = row if first is None else first
            log_chance += _log_different(top_k, length // top_k, num_experts)
    if first is not None and log_chance < -_SURE:
        raise ValueError(
            f"{found.where(first)}: expected some experts chosen by several tokens of a batch, got "
            "none in any batch or layer, as where a tracer reads the ids of a batch without their "
            "stride: only the first token of each batch is right; trace again, with a tool that "
            "minds it or with batches of one token (--ubatch-size 1)"
        )


def _log_different(top_k: int, n_tokens: int, num_experts: int) -> float:
    """Logarithm of the chance that tokens of a uniform router share no expert."""
    if top_k * n_tokens > num_experts:
        return -math.inf
    total = math.log(math.comb(num_experts, top_k))
    return sum(
        math.log(math.comb(num_experts - token * top_k, top_k)) - total for token in range(n_tokens)
    )


def _repeats(expert: NDArray[np.int16], size: int) -> tuple[int, int]:
    """Groups of so many rows with an expert twice, and the first row of the first of them."""
    count, first = 0, -1
    step = max(_BLOCK // size, 1) * size
    for start in range(0, len(expert), step):
        groups = np.sort(expert[start : start + step].reshape(-1, size), axis=-1)
        bad = np.asarray((groups[:, 1:] == groups[:, :-1]).any(-1))
        if bad.any() and not count:
            first = start + int(bad.argmax()) * size
        count += int(bad.sum())
    return count, first
