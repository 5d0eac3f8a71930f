"""The number of experts to a token, by which lines never name one twice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isingmoe.readers.activations import Activations
from isingmoe.readers.batches import Batches
from isingmoe.readers.options import needed
from isingmoe.recorded import expert_ids

__all__ = ["check_strides", "find_top_k"]

# Repeats expected by chance where none being there is no chance: exp(-14) is 1e-6.
_SURE = 14.0
# A share of them that routers exceed, who repeat themselves more than a uniform one.
_FEW = 0.2
_BLOCK = 1 << 20


def find_top_k(
    files: Sequence[tuple[Activations, Batches]], num_experts: int, top_k: int | None, source: Path
) -> int:
    """Experts of a token: the most lines in a row that always differ, of those that can be.

    Parameters
    ----------
    files : sequence of (Activations, Batches)
        Of one model.
    num_experts : int
    top_k : int, optional
        What the user says.
    source : Path

    Raises
    ------
    ValueError
        If the lines cannot be of so many experts to a token, or do not tell.
    """
    if top_k is not None and not 1 <= top_k <= num_experts:
        raise ValueError(f"{source}: top_k: expected 1 to {num_experts}, got {top_k}")
    given = top_k or _counted(files, num_experts, source)
    for found, batches in files:
        _check_groups(found, batches, num_experts, given)
    return given


def _counted(files: Sequence[tuple[Activations, Batches]], num_experts: int, source: Path) -> int:
    """The experts to a token that the lines allow, where they allow nothing else."""
    common = int(np.gcd.reduce(np.concatenate([batches.size for _, batches in files])))
    parts = [_but_last(found, batches) for found, batches in files]
    n_rows = sum(map(len, parts))
    largest, sure = 1, True
    for size in range(min(common, num_experts), 1, -1):
        if common % size:
            continue
        share = _share_repeating(size, num_experts)
        # The start of a long file is enough where most of its groups repeat experts.
        start = parts[0][: _BLOCK // size * size]
        if _repeats(start, size)[0] > max(_FEW * share * (_BLOCK // size), _SURE):
            continue
        repeats = [_repeats(part, size) for part in parts]
        count = sum(number for number, _ in repeats)
        expected = share * (n_rows // size)
        if not count:
            largest, sure = size, expected >= _SURE
            break
        if count < _FEW * expected:
            place = next(place for place, (number, _) in enumerate(repeats) if number)
            found, batches = files[place]
            row = int(_rows_but_last(found, batches)[repeats[place][1]])
            raise ValueError(
                f"{found.where(row)}: expected {size} different experts for one token from here "
                f"on, got {found.expert[row : row + size].tolist()}; mend the line or, if that is "
                "not the number of experts to a token, give top_k, on the command line --top-k"
            )
    n_batches = sum(len(batches.first) for _, batches in files)
    alone = n_batches == 1 and largest == common
    if largest > 1 and (not sure or alone or 2 * largest > max(num_experts, 2)):
        needed(
            None,
            "top_k",
            "the number of experts to a token",
            source,
            f"its lines allow {largest}, and too few tokens to be sure",
        )
    return largest


def _rows_but_last(found: Activations, batches: Batches) -> NDArray[np.intp]:
    """The rows of all layers but the last, if there is another.

    The last one may be left out for some tokens, and is where a file is cut short.
    """
    n_layers = len(batches.layers)
    return np.flatnonzero((found.layer != batches.layers[-1]) | (n_layers == 1))


def _but_last(found: Activations, batches: Batches) -> NDArray[np.int16]:
    if len(batches.layers) == 1:
        return found.expert
    return found.expert[found.layer != batches.layers[-1]]


def _share_repeating(size: int, num_experts: int) -> float:
    """The least share of groups that name an expert twice where they are of several tokens.

    That of a uniform router: others repeat themselves more.
    """
    return min(
        -math.expm1(_log_different(part, size // part, num_experts))
        for part in range(1, size)
        if size % part == 0
    )


def _check_groups(found: Activations, batches: Batches, num_experts: int, top_k: int) -> None:
    """Raise where the lines of a layer in a batch are not of whole tokens."""
    last = batches.first + batches.size * (len(batches.layers) - 1)
    for size, at, place in ((batches.size, batches.first, 0), (batches.last_size, last, -1)):
        odd = size % top_k != 0
        if odd.any():
            batch = int(odd.argmax())
            raise ValueError(
                f"{found.where(int(at[batch]))}: layer {batches.layers[place]}: expected lines of "
                f"{top_k} experts to each token from here on, got {size[batch]} lines; a line is "
                "missing, the file was cut short, or top_k is another"
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
