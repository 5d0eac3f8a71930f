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


@nb.njit(cache=True, nogil=True)
def _pack(index, start, stretch, planes, tokens, n_tokens_of):
    """Planes of the experts of a stretch, and the tokens of each; the last is of all tokens.

    Bits are set beyond the stretch too, as far as the planes reach: they are where pairs end.
    """
    # Unsigned throughout: a signed index may count from the end, which takes time to rule out.
    one, low = np.uint64(1), np.uint64(7)
    all_tokens, n_words = np.uint64(planes.shape[0] - 1), np.uint64(planes.shape[1])
    planes[:] = 0
    n_tokens_of[:] = 0
    stride = np.uint64(_BYTES) * n_words
    n_listed = np.uint64(stretch)
    for i in range(min(np.uint64(64) * n_words, np.uint64(index.shape[0] - start))):
        word, bit = i >> np.uint64(6), i & np.uint64(63)
        # Where the window of the token begins, in the copy that is shifted by its place in a byte.
        after = i + one
        window = np.int32((after & low) * stride + (after >> np.uint64(3)))
        listed = np.uint64(i < n_listed)
        is_recorded = False
        row = index[np.uint64(start) + i]
        for rank in range(np.uint64(row.size)):
            expert = np.uint64(np.int64(row[rank]))
            if expert < all_tokens:
                is_recorded = True
                before = planes[expert, word]
                planes[expert, word] = before | (one << bit)
                tokens[expert, n_tokens_of[expert]] = window
                # One that a token names twice serves it once.
                n_tokens_of[expert] += listed & (~before >> bit)
        if is_recorded:
            planes[all_tokens, word] |= one << bit
            tokens[all_tokens, n_tokens_of[all_tokens]] = window
            n_tokens_of[all_tokens] += listed


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
        Expert ids; one that is out of range is left out.
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
        tokens = np.empty((n_experts + 1, stretch + GROUP), np.int32)
        n_tokens_of = np.empty(n_experts + 1, np.uint64)
        # After the copies a row of zeros: the window of no token.
        copies = np.zeros(8 * n_words + n_vectors * ROW, np.uint64)
        rows = (_BYTES * (_WAITING + ROW * np.arange(GROUP))).astype(np.int32)
        state = np.zeros((n_series + 1, n_vectors, _STATE), np.uint64)
        counts = np.zeros((n_series + 1, n_vectors * _COLUMNS), np.int64)
        for part in range(n_parts * worker // n_workers, n_parts * (worker + 1) // n_workers):
            for u in range(bounds[part], bounds[part + 1]):
                sequence, start = unit[u]
                _pack(index[sequence], start, stretch, planes, tokens, n_tokens_of)
                for e in range(n_experts + 1):
                    n = np.int64(n_tokens_of[e])
                    if n == 0:
                        continue
                    n_groups = -(-n // GROUP)
                    tokens[e, n : GROUP * n_groups] = 8 * _BYTES * n_words
                    _copy_shifted(planes[e], copies)
                    series = n_series if e == n_experts else min(e, n_series - 1)
                    _add_windows(copies, tokens[e], n_groups, state[series], rows, counts[series])
                    found = pairs[part] if e == n_experts else both[part, series]
                    found[0] += n
            for series in range(n_series):
                if both[part, series, 0]:
                    _empty(state[series], rows, counts[series], both[part, series])
            _empty(state[n_series], rows, counts[n_series], pairs[part])
    return both, pairs
