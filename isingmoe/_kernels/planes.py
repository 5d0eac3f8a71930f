"""Pairs of tokens at a distance that an expert serves both of, counted from bit planes.

A plane holds one bit for every token of a stretch of a sequence: whether the expert serves it.
Where bit i is set, the bits after it are the tokens at distance 1, 2, .. that the expert serves
too; C_e(d) is the sum of these windows of the plane, column by column. Only the tokens of an
expert cost anything, and 256 distances of 16 tokens are added at once. Past the end of a
sequence and at tokens without a recorded expert the bits are zero, so that no pair is counted
there.
"""

import numba as nb
import numpy as np

from isingmoe._kernels.adders import GROUP, LEVELS, ROW, add_counters, add_rows
from isingmoe._kernels.bits import count_bits, lowest_bit

STRETCH = 8192
"""Tokens whose planes are held at a time."""

_COLUMNS = 64 * ROW
# A state: counters of two levels, the carries that wait for the second, the carry of that, and
# how many carries wait.
_WAITING = 2 * LEVELS * ROW
_CARRY = _WAITING + GROUP * ROW
_N_WAITING = _CARRY + ROW
_STATE = _N_WAITING + 1
_WORTH = GROUP * GROUP
_BYTES = 8


@nb.njit(cache=True, nogil=True, inline="always")
def _exchange(block, width, mask):
    """One step of the transposition: blocks of bits beside the diagonal change places."""
    for first in range(0, 64, 2 * width):
        for row in range(first, first + width):
            different = ((block[row] >> np.uint64(width)) ^ block[row + width]) & mask
            block[row + width] ^= different
            block[row] ^= different << np.uint64(width)


@nb.njit(cache=True, nogil=True)
def _transpose(block):
    """Transpose 64 words as a matrix of bits (Warren, Hacker's Delight (2012), section 7-3)."""
    _exchange(block, 32, np.uint64(0x00000000FFFFFFFF))
    _exchange(block, 16, np.uint64(0x0000FFFF0000FFFF))
    _exchange(block, 8, np.uint64(0x00FF00FF00FF00FF))
    _exchange(block, 4, np.uint64(0x0F0F0F0F0F0F0F0F))
    _exchange(block, 2, np.uint64(0x3333333333333333))
    _exchange(block, 1, np.uint64(0x5555555555555555))


@nb.njit(cache=True, nogil=True)
def _pack(index, start, planes, block):
    """Planes of the experts from a token on, as far as they reach; the last is of all tokens."""
    n_experts, n_words = planes.shape[0] - 1, planes.shape[1]
    for word in range(n_words):
        first = start + 64 * word
        n_tokens = max(min(64, index.shape[0] - first), 0)
        recorded = np.uint64(0)
        for least in range(0, n_experts, 64):
            for i in range(n_tokens):
                # An unsigned index cannot count from the end, which takes time to rule out.
                token, experts = np.uint64(first + i), np.uint64(0)
                for rank in range(index.shape[1]):
                    bit = np.uint64(np.int64(index[token, np.uint64(rank)]) - least)
                    experts |= np.uint64(bit < 64) << (bit & np.uint64(63))
                block[i] = experts
                recorded |= np.uint64(experts != 0) << np.uint64(i)
            block[n_tokens:] = 0
            _transpose(block)
            for expert in range(least, min(least + 64, n_experts)):
                planes[expert, word] = block[expert - least]
        planes[n_experts, word] = recorded


@nb.njit(cache=True, nogil=True)
def _list_windows(plane, n_words, begin, window):
    """Where the window of each token of a plane begins in its copies; returns how many."""
    n = np.uint64(0)
    for word in range(n_words):
        bits, at = plane[word], n
        n += np.uint64(count_bits(bits))
        # More are written than there are, and overwritten: fewer branches to guess.
        for _ in range(4):
            window[at] = begin[np.uint64(lowest_bit(bits))] + np.int32(_BYTES * word)
            bits &= bits - np.uint64(1)
            at += np.uint64(1)
        while bits != 0:
            for _ in range(8):
                window[at] = begin[np.uint64(lowest_bit(bits))] + np.int32(_BYTES * word)
                bits &= bits - np.uint64(1)
                at += np.uint64(1)
    return np.int64(n)


@nb.njit(cache=True, nogil=True)
def _copy_shifted(plane, copies):
    """Eight copies of a plane, shifted by 0 to 7 bits: a window begins at a byte of one."""
    n = plane.size
    copies[:n] = plane
    for shift in range(1, 8):
        copy = copies[shift * n : (shift + 1) * n]
        right, left = np.uint64(shift), np.uint64(64 - shift)
        for w in range(n - 1):
            copy[w] = (plane[w] >> right) | (plane[w + 1] << left)
        copy[n - 1] = plane[n - 1] >> right


@nb.njit(cache=True, nogil=True)
def _add_windows(copies, window, n_groups, state, rows, counts):
    """Add groups of 16 windows to the counters; full ones go on to the counts."""
    for v in range(state.shape[0]):
        counters = state[v]
        n_waiting = np.int64(counters[_N_WAITING])
        for group in range(n_groups):
            waiting = _WAITING + ROW * n_waiting
            add_rows(copies, window, GROUP * group, _BYTES * ROW * v, counters, 0, waiting)
            n_waiting += 1
            if n_waiting == GROUP:
                add_rows(counters, rows, 0, 0, counters, LEVELS * ROW, _CARRY)
                add_counters(counters, _CARRY, _WORTH, counts[v * _COLUMNS :], _COLUMNS)
                n_waiting = 0
        counters[_N_WAITING] = n_waiting


@nb.njit(cache=True, nogil=True)
def _empty(state, rows, counts, found):
    """Add all that was counted to `found`, and leave the counters and counts at zero."""
    for v in range(state.shape[0]):
        first = v * _COLUMNS
        n_columns = min(64 * -(-(found.size - 1 - first) // 64), _COLUMNS)
        counters, columns = state[v], counts[first:]
        n_waiting = np.int64(counters[_N_WAITING])
        if n_waiting:
            counters[_WAITING + ROW * n_waiting : _CARRY] = 0
            add_rows(counters, rows, 0, 0, counters, LEVELS * ROW, _CARRY)
            add_counters(counters, _CARRY, _WORTH, columns, n_columns)
        for level in range(2 * LEVELS):
            add_counters(counters, ROW * level, 1 << level, columns, n_columns)
    for d in range(1, found.size):
        found[d] += counts[d - 1]
    state[:] = 0
    counts[:] = 0


@nb.njit(cache=True, nogil=True, parallel=True)
def pair_counts(index, unit, bounds, n_experts, max_distance, is_summed, n_workers):
    """Pairs of tokens at each distance with an expert at both ends.

    Parameters
    ----------
    index : int16 array (sequence, position, rank)
        Expert ids below `n_experts`; negative where there is none.
    unit : int64 array (unit, 2)
        Sequence and first position of each stretch of at most STRETCH tokens. Pairs belong to
        the stretch of their first token.
    bounds : int64 array (part + 1,)
        The units of each part.
    n_experts : int
    max_distance : int
        At least 1.
    is_summed : bool
        Whether to sum over the experts.
    n_workers : int
        Groups of parts that are counted in parallel.

    Returns
    -------
    both : int64 array (part, expert or 1, distance)
    pairs : int64 array (part, distance)
        Pairs with a recorded expert at both ends.
    """
    n_parts, n_series = bounds.size - 1, 1 if is_summed else n_experts
    both = np.zeros((n_parts, n_series, max_distance + 1), np.int64)
    pairs = np.zeros((n_parts, max_distance + 1), np.int64)
    n_vectors = -(-max_distance // _COLUMNS)
    stretch = min(STRETCH, 64 * -(-index.shape[1] // 64))
    n_words = stretch // 64 + n_vectors * ROW + 1
    for worker in nb.prange(n_workers):
        planes = np.empty((n_experts + 1, n_words), np.uint64)
        block = np.empty(64, np.uint64)
        window = np.empty(stretch + GROUP, np.int32)
        # After the copies a row of zeros: the window of no token.
        copies = np.zeros(8 * n_words + n_vectors * ROW, np.uint64)
        # Where the bits after each bit begin: a byte of the copy that is shifted by the rest.
        after = np.arange(1, 66)
        begin = ((after & 7) * _BYTES * n_words + (after >> 3)).astype(np.int32)
        rows = (_BYTES * (_WAITING + ROW * np.arange(GROUP))).astype(np.int32)
        state = np.zeros((n_series + 1, n_vectors, _STATE), np.uint64)
        counts = np.zeros((n_series + 1, n_vectors * _COLUMNS), np.int64)
        for part in range(n_parts * worker // n_workers, n_parts * (worker + 1) // n_workers):
            for u in range(bounds[part], bounds[part + 1]):
                sequence, start = unit[u]
                _pack(index[sequence], start, planes, block)
                for e in range(n_experts + 1):
                    n = _list_windows(planes[e], stretch // 64, begin, window)
                    if n == 0:
                        continue
                    n_groups = -(-n // GROUP)
                    window[n : GROUP * n_groups] = 8 * _BYTES * n_words
                    _copy_shifted(planes[e], copies)
                    series = n_series if e == n_experts else min(e, n_series - 1)
                    _add_windows(copies, window, n_groups, state[series], rows, counts[series])
                    found = pairs[part] if e == n_experts else both[part, series]
                    found[0] += n
            for series in range(n_series):
                if both[part, series, 0]:
                    _empty(state[series], rows, counts[series], both[part, series])
            _empty(state[n_series], rows, counts[n_series], pairs[part])
    return both, pairs
