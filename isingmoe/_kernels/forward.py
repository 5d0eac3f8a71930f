"""Sequences of sets of labels, each set drawn given those before it.

The weight of a set is the product of the weights of its members. Let e_j(b) be the sum of the
weights of all sets of j of the labels from b on,

    e_j(b) = e_j(b + 1) + w_b e_{j-1}(b + 1).

With j members still to be drawn, all of them from label b on, the next one is x or beyond
with the chance e_j(x) / e_j(b): one random number for each member, and no division.

Several sequences go on side by side, to fill vector registers.
"""

import numba as nb
import numpy as np

from isingmoe._kernels.fields import exponentiate
from isingmoe._kernels.random import loaded, next_word, stored, unit
from isingmoe._kernels.sets import draw_set, set_weights, symmetric_ratios

_LANES = 8
# Weights are taken down to e^-700 of the largest, which is one. What falls out of the range of
# a double adds nothing to an e_k larger than any other e_j by this factor.
_FURTHEST = 700.0
_SMALLEST = 1e-200


@nb.njit(cache=True, nogil=True, inline="always")
def _add(field, row):
    for b in range(field.size):
        field[b] += row[b]


@nb.njit(cache=True, nogil=True)
def _weigh(field, weight, top):
    """Weights (q, lane) over the largest of each lane, from log-weights (lane, q)."""
    q = len(weight)
    for b in range(q):
        row = weight[b]
        for lane in range(_LANES):
            row[lane] = field[lane, b]
    top[:] = weight[0]
    for b in range(1, q):
        row = weight[b]
        for lane in range(_LANES):
            top[lane] = max(top[lane], row[lane])
    for b in range(q):
        row = weight[b]
        for lane in range(_LANES):
            row[lane] -= top[lane]
    exponentiate(weight.ravel(), 0.0, _FURTHEST)


@nb.njit(cache=True, nogil=True)
def _sums(weight, sums):
    """The e_j(b), (q + 1, k + 1, lane); those of j = 0 and of b = q are there."""
    k = sums.shape[1] - 1
    for b in range(len(weight) - 1, -1, -1):
        w, here, after = weight[b], sums[b], sums[b + 1]
        for j in range(1, k + 1):
            into, without, fewer = here[j], after[j], after[j - 1]
            for lane in range(_LANES):
                into[lane] = without[lane] + w[lane] * fewer[lane]


@nb.njit(cache=True, nogil=True)
def _is_exact(sums, lane):
    """Whether no sum that matters has left the range of a double."""
    k = sums.shape[1] - 1
    largest = 1.0
    for j in range(1, k + 1):
        largest = max(largest, sums[0, j, lane])
    # Of numbers that are none, every comparison is false.
    return sums[0, k, lane] > _SMALLEST * largest and largest < np.inf


@nb.njit(cache=True, nogil=True)
def _draw(members, sums, lane, random):
    """Draw a set by its sums; returns the generator after it."""
    k = members.size
    b = 0
    for m in range(k):
        j = k - m
        word, random = next_word(random)
        bound = unit(word) * sums[b, j, lane]
        # With too few labels left the sum is zero, and the last possible label is taken.
        while sums[b + 1, j, lane] > bound:
            b += 1
        members[m] = b
        b += 1
    return random


@nb.njit(cache=True, nogil=True)
def _draw_side_by_side(coupling, by_position, block, by_sequence, n_burn, words, out):
    """Draw at most `_LANES` sequences, each with words of its own or all with the same."""
    n, length, k = out.shape
    reach, q, _ = coupling.shape
    if length == 0:
        return
    field, weight, top = np.zeros((_LANES, q)), np.empty((q, _LANES)), np.empty(_LANES)
    sums = np.zeros((q + 1, k + 1, _LANES))
    sums[:, 0] = 1
    ratio = np.zeros((q + 1, k + 1))
    # The last sets of each sequence, one in the place of that `reach` before it.
    before = np.zeros((max(reach, 1), n, k), np.int64)
    for t in range(n_burn + length):
        i = max(t - n_burn, 0)
        for lane in range(n):
            row = field[lane]
            row[:] = by_position[block[lane % len(block), i]]
            _add(row, by_sequence[lane % len(by_sequence)])
            for r in range(1, min(reach, t) + 1):
                for m in range(k):
                    _add(row, coupling[r - 1, before[(t - r) % reach, lane, m]])
        _weigh(field, weight, top)
        _sums(weight, sums)
        for lane in range(n):
            members = before[t % max(reach, 1), lane]
            mine = words[lane % len(words)]
            random = loaded(mine)
            if _is_exact(sums, lane):
                random = _draw(members, sums, lane, random)
            else:
                set_weights(field[lane], k)
                symmetric_ratios(field[lane], ratio)
                random = draw_set(members, field[lane], ratio, random)
            stored(mine, random)
            if t >= n_burn:
                for m in range(k):
                    out[lane, i, m] = members[m]


@nb.njit(cache=True, nogil=True, parallel=True)
def draw_sequences(coupling, by_position, block, by_sequence, k, n_burn, words, out):
    """Draw sequences from nothing before them, many at once.

    Parameters
    ----------
    coupling : float64 array (reach, q, q)
        Log-weight of a label (last) for each member of the set at each distance before it;
        the reach may be 0.
    by_position : float64 array (block, q)
        Log-weight of each label by itself.
    block : int64 array (1 or sequence, position)
        Row of `by_position` for each position.
    by_sequence : float64 array (1 or sequence, q)
        What is added to it in each sequence.
    k : int
        Members of a set, at most q.
    n_burn : int
        Sets drawn and discarded before, with the log-weights of position 0.
    words : uint64 array (sequence, 4)
        A generator for each sequence, advanced in place.
    out : int16 array (sequence, position, k)
        Filled in; the members of each set rise.
    """
    n = len(out)
    for part in nb.prange((n + _LANES - 1) // _LANES):
        start, stop = part * _LANES, min((part + 1) * _LANES, n)
        mine = by_sequence if len(by_sequence) == 1 else by_sequence[start:stop]
        own = block if len(block) == 1 else block[start:stop]
        _draw_side_by_side(
            coupling, by_position, own, mine, n_burn, words[start:stop], out[start:stop]
        )


@nb.njit(cache=True, nogil=True)
def draw_in_turn(coupling, by_position, block, words, out):
    """Draw sequences with one generator; as `draw_sequences`, but in this thread alone.

    Parameters
    ----------
    coupling, by_position
    block : int64 array (1, position)
    words : uint64 array (1, 4)
    out : integer array (sequence, position, k)
    """
    none = np.zeros((1, by_position.shape[1]))
    for start in range(0, len(out), _LANES):
        _draw_side_by_side(
            coupling, by_position, block, none, 0, words, out[start : start + _LANES]
        )
