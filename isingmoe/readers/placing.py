"""Rows of tokens, in any order, put in their places."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isingmoe.recorded import Recording

__all__ = ["Rows", "recordings"]

_MOST_RANKS = 1024


@dataclass(frozen=True)
class Rows:
    """What is known of tokens in layers, a row for each, or for each rank of each.

    Attributes
    ----------
    expert : int ndarray (row, rank)
        -1 where there is none. One column where `rank` is there.
    weight : float32 ndarray (row, rank), optional
    sequence : int ndarray (row,), optional
        Numbers from 0 in the order in which they are to be kept.
    position : int64 ndarray (row,), optional
        By default the rows of a sequence and layer are in the order of the tokens.
    layer : int ndarray (row,), optional
        By default there is one layer.
    rank : int64 ndarray (row,), optional
    token_id : int64 ndarray (row,), optional
    where : callable
        From the number of a row to what an error calls it, as `FILE: line 7`.
    source : str
        The file.
    """

    expert: NDArray[Any]
    where: Callable[[int], str]
    source: str
    weight: NDArray[Any] | None = None
    sequence: NDArray[Any] | None = None
    position: NDArray[Any] | None = None
    layer: NDArray[Any] | None = None
    rank: NDArray[Any] | None = None
    token_id: NDArray[Any] | None = None


def recordings(
    rows: Rows,
    sequence: NDArray[Any],
    position: NDArray[np.int64],
    place: NDArray[np.int64],
    n_layers: int,
) -> Iterator[Recording]:
    """Each sequence, its rows in their places.

    Parameters
    ----------
    rows : Rows
    sequence : int ndarray (row,)
        From 0, none left out.
    position : int64 ndarray (row,)
    place : int64 ndarray (row,)
        Which of the layers.
    n_layers : int

    Yields
    ------
    Recording
        From the first position that has a row to the last; -1 where there is none.

    Raises
    ------
    ValueError
        With the place of a row that contradicts another, or is far from all others.
    """
    _check_range(rows, "position", rows.position, np.iinfo(np.int32).max)
    _check_range(rows, "rank", rows.rank, _MOST_RANKS - 1)
    n_ranks = rows.expert.shape[1] if rows.rank is None else int(rows.rank.max()) + 1
    order = np.argsort(sequence, kind="stable")
    ends = np.cumsum(np.bincount(sequence))
    for mine in np.split(order, ends[:-1]):
        yield _placed(rows, mine, position[mine], place[mine], n_layers, n_ranks)


def _check_range(rows: Rows, name: str, values: NDArray[Any] | None, largest: int) -> None:
    if values is None:
        return
    bad = (values < 0) | (values > largest)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{rows.where(row)}: {name}: expected 0 to {largest}, got {values[row]}; mend it"
        )


def _placed(
    rows: Rows,
    mine: NDArray[np.int64],
    position: NDArray[np.int64],
    place: NDArray[np.int64],
    n_layers: int,
    n_ranks: int,
) -> Recording:
    """One sequence, that of the rows `mine`, whose positions and places are given."""
    start = int(position.min()) if rows.position is not None else 0
    n_tokens = int(position.max()) - start + 1
    if n_tokens > (1 << 20) + 100 * len(mine):
        row = int(position.argmax())
        raise ValueError(
            f"{rows.where(int(mine[row]))}: position: expected near the {len(mine)} others of its "
            f"sequence, which starts at {start}, got {position[row]}; mend it"
        )
    token = position - start
    cell = token * n_layers + place
    rank = None if rows.rank is None else rows.rank[mine]
    _check_single(rows, mine, cell if rank is None else cell * n_ranks + rank)
    shape = (n_tokens * n_layers, n_ranks)
    at: Any = cell if rank is None else (cell, rank)
    expert = np.full(shape, -1, np.int16)
    expert[at] = rows.expert[mine] if rank is None else rows.expert[mine, 0]
    if rank is not None:
        _check_different(rows, mine, cell, expert)
    weight = None
    if rows.weight is not None:
        weight = np.full(shape, np.nan, np.float32)
        weight[at] = rows.weight[mine] if rank is None else rows.weight[mine, 0]
        weight = weight.reshape(n_tokens, n_layers, n_ranks)
    return Recording(
        expert.reshape(n_tokens, n_layers, n_ranks),
        gate_weight=weight,
        token_id=_token_ids(rows, mine, token, n_tokens),
        start_position=start,
    )


def _check_single(rows: Rows, mine: NDArray[np.int64], cell: NDArray[np.int64]) -> None:
    """Raise where two rows are of one token, layer and rank."""
    if (np.diff(cell) > 0).all():
        return
    order = np.argsort(cell, kind="stable")
    again = cell[order][1:] == cell[order][:-1]
    if again.any():
        row = int(mine[order[1:][again]].min())
        parts = "sequence, position and layer" + ("" if rows.rank is None else ", and rank")
        raise ValueError(
            f"{rows.where(row)}: expected each token once, got this {parts} a second time; drop "
            "the row, or name the field that tells the two apart"
        )


def _check_different(
    rows: Rows, mine: NDArray[np.int64], cell: NDArray[np.int64], expert: NDArray[np.int16]
) -> None:
    """Raise where one token has an expert in two ranks."""
    in_order = np.sort(expert, axis=-1)
    twice = (in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)
    if twice.any():
        bad = int(twice.any(-1).argmax())
        found = in_order[bad, 1:][twice[bad]][0]
        row = mine[(cell == bad) & (rows.expert[mine, 0] == found)][1]
        raise ValueError(
            f"{rows.where(int(row))}: expert: expected different experts for one token, got "
            f"{found} twice; correct the ids"
        )


def _token_ids(
    rows: Rows, mine: NDArray[np.int64], token: NDArray[np.int64], n_tokens: int
) -> NDArray[np.int32] | None:
    if rows.token_id is None:
        return None
    given = rows.token_id[mine]
    wrong = (given < -1) | (given > np.iinfo(np.int32).max)
    what = "-1 to 2147483647"
    if not wrong.any():
        ids = np.full(n_tokens, -1, np.int32)
        ids[token] = given
        wrong, what = ids[token] != given, "the same in every row of a token"
        if not wrong.any():
            return ids
    row = int(wrong.argmax())
    raise ValueError(
        f"{rows.where(int(mine[row]))}: token_id: expected {what}, got {given[row]}; mend it"
    )
