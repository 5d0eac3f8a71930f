"""Counts of neighbouring states."""

import numba as nb
import numpy as np


@nb.njit(cache=True, nogil=True, inline="always")
def _bin(state, top):
    """Histogram row of a state: -1 is row 0, anything out of range is row `top`.

    Unsigned, because numba looks at the sign of every signed index.
    """
    return min(np.uint64(np.uint16(state + 1)), top)


@nb.njit(cache=True, nogil=True)
def _count_run(run, top, counts):
    """Add the neighbouring pairs of one run of states to four interleaved histograms."""
    width = top + np.uint64(1)
    one, two, three, four = counts[0], counts[1], counts[2], counts[3]
    n_pairs = run.size - 1
    previous = _bin(run[0], top) * width
    i = 1
    # Equal neighbours hit one cell again and again. Four histograms keep an increment
    # from waiting for the store of the one before it.
    while i + 3 <= n_pairs:
        b1 = _bin(run[i], top)
        b2 = _bin(run[i + 1], top)
        b3 = _bin(run[i + 2], top)
        b4 = _bin(run[i + 3], top)
        one[previous + b1] += 1
        two[b1 * width + b2] += 1
        three[b2 * width + b3] += 1
        four[b3 * width + b4] += 1
        previous = b4 * width
        i += 4
    while i <= n_pairs:
        b1 = _bin(run[i], top)
        one[previous + b1] += 1
        previous = b1 * width
        i += 1


@nb.njit(cache=True, nogil=True, parallel=True)
def pair_histogram(states, n_states, n_parts):
    """Count neighbouring states, the missing and the out-of-range ones apart.

    Parameters
    ----------
    states : int16 array (sequence, position)
        States 0..n_states-1; -1 where there is none.
    n_states : int
    n_parts : int
        Pieces counted in parallel.

    Returns
    -------
    int64 array (n_states + 2, n_states + 2)
        Row and column 0 hold the pairs with a missing state, row and column
        n_states + 1 those with a state out of range.
    """
    n_sequences, n_positions = states.shape
    top = np.uint64(n_states + 1)
    width = n_states + 2
    counts = np.zeros((n_parts, 4, width * width), np.uint32)
    total = n_sequences * n_positions
    for part in nb.prange(n_parts):
        start = total * part // n_parts
        stop = total * (part + 1) // n_parts
        while start < stop:
            row, column = divmod(start, n_positions)
            end = min(n_positions, column + stop - start)
            # The pair that straddles two parts belongs to the part of its first state.
            _count_run(states[row, column : min(end + 1, n_positions)], top, counts[part])
            start += end - column
    result = np.zeros(width * width, np.int64)
    for part in range(n_parts):
        for lane in range(4):
            result += counts[part, lane]
    return result.reshape(width, width)
