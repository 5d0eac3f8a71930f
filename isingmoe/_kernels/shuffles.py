"""Tokens exchanged and experts drawn anew, for baselines."""

import numba as nb
import numpy as np

from isingmoe._kernels.random import below, loaded, next_word, stored


@nb.njit(cache=True, nogil=True, parallel=True)
def reordered(index, recorded, order):
    """Recorded tokens of each row in another order; the others stay where they are.

    Parameters
    ----------
    index : int16 array (row, place, rank)
    recorded : bool array (row, place)
    order : int32 array (row, place)
        A permutation of the places of each row. Those that are not recorded are passed over,
        so that a random one gives the recorded tokens in random order.

    Returns
    -------
    int16 array (row, place, rank)
    """
    n_rows, n_places = recorded.shape
    moved = np.empty_like(index)
    for row in nb.prange(n_rows):
        following = 0
        for place in range(n_places):
            origin = place
            if recorded[row, place]:
                while not recorded[row, order[row, following]]:
                    following += 1
                origin = order[row, following]
                following += 1
            for rank in range(index.shape[2]):
                moved[row, place, rank] = index[row, origin, rank]
    return moved


@nb.njit(cache=True, nogil=True)
def _holds(row, expert):
    for rank in range(row.size):
        if row[rank] == expert:
            return True
    return False


@nb.njit(cache=True, nogil=True)
def _draw_experts(index, n_experts, words, drawn):
    """Experts for the tokens of a sequence."""
    state = loaded(words)
    for i in range(index.shape[0]):
        row = drawn[i]
        largest = n_experts
        for rank in range(row.size):
            largest -= index[i, rank] >= 0
        for rank in range(row.size):
            if index[i, rank] < 0:
                continue
            word, state = next_word(state)
            expert = below(word, largest + 1)
            row[rank] = largest if _holds(row, expert) else expert
            largest += 1
    stored(words, state)


@nb.njit(cache=True, nogil=True, parallel=True)
def random_experts(index, n_experts, words):
    """As many different experts for every token as it has, all sets being equally likely.

    Parameters
    ----------
    index : int16 array (sequence, position, rank)
    n_experts : int
    words : uint64 array (sequence, 4)
        A generator for each sequence, advanced in place.

    Returns
    -------
    int16 array (sequence, position, rank)
        -1 where `index` has none. The order of the ranks means nothing.

    Notes
    -----
    Floyd's algorithm: J. Bentley and B. Floyd, Commun. ACM 30, 754 (1987).
    """
    drawn = np.full(index.shape, -1, np.int16)
    for s in nb.prange(index.shape[0]):
        _draw_experts(index[s], n_experts, words[s], drawn[s])
    return drawn
