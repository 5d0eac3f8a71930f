"""Batches of tokens in lines that come layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isingmoe.readers.activations import Activations

__all__ = ["Batches", "find_batches"]


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
