"""Experts that go on and off, each for itself: a row of bits for each sequence of each expert.

Rows are uint64 words, 64 positions to a word, padded to whole words with zeros.
"""

import numba as nb
import numpy as np

from isingmoe._kernels.bits import count_bits
from isingmoe._kernels.random import loaded, next_word, stored

_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_ONE = np.uint64(1)
_WORD = 64


@nb.njit(cache=True, nogil=True)
def _n_words(known):
    """Words of a sequence up to the last token."""
    n = known.size
    while n > 0 and known[n - 1] == 0:
        n -= 1
    return n


@nb.njit(cache=True, nogil=True)
def _draw_rows(words, first, off_to_on, on_to_on, known, rows):
    """The rows of one expert, two at a time: one has the upper halves of the random words."""
    random = loaded(words)
    change = off_to_on ^ on_to_on
    last = len(rows) - 1
    for s in range(0, len(rows), 2):
        # Of an odd number the last row is drawn twice, and its second draw stays.
        t = min(s + 1, last)
        word, random = next_word(random)
        one = np.uint64((word >> _HALF) < first)
        two = np.uint64((word & _LOW) < first)
        for w in range(max(_n_words(known[s]), _n_words(known[t]))):
            bits_one, bits_two = np.uint64(0), np.uint64(0)
            for i in range(_WORD):
                bits_one |= one << np.uint64(i)
                bits_two |= two << np.uint64(i)
                word, random = next_word(random)
                # Without a branch: which of the chances it is cannot be foreseen.
                chance_one = off_to_on ^ (change & (np.uint64(0) - one))
                chance_two = off_to_on ^ (change & (np.uint64(0) - two))
                one = np.uint64((word >> _HALF) < chance_one)
                two = np.uint64((word & _LOW) < chance_two)
            rows[s, w] = bits_one & known[s, w]
            rows[t, w] = bits_two & known[t, w]
    stored(words, random)


@nb.njit(cache=True, nogil=True, parallel=True)
def draw_on_off(words, to_on, known):
    """Draw a two-state chain for each expert.

    Parameters
    ----------
    words : uint64 array (expert, 4)
        Generators, advanced in place.
    to_on : uint64 array (expert, 3)
        Chances in units of 2^-32 that an expert is on at first, after off, and after on.
    known : uint64 array (sequence, word)
        Where tokens are recorded; the chains go on between them.

    Returns
    -------
    uint64 array (expert, sequence, word)
        Where each expert is on.
    """
    n_sequences, n_words = known.shape
    rows = np.zeros((len(to_on), n_sequences, n_words), np.uint64)
    for e in nb.prange(len(to_on)):
        _draw_rows(words[e], to_on[e, 0], to_on[e, 1], to_on[e, 2], known, rows[e])
    return rows


@nb.njit(cache=True, nogil=True, inline="always")
def _ahead(row, w, right, left):
    """64 bits from a place on: of one word the upper ones, of the next the lower ones."""
    after = row[w + 1] if w + 1 < row.size else np.uint64(0)
    # In two steps, as a shift by 64 bits is undefined.
    return (row[w] >> right) | ((after << left) << _ONE)


@nb.njit(cache=True, nogil=True)
def _count_expert(rows, known, both, near):
    right, left = _ONE, np.uint64(_WORD - 2)
    for s in range(len(rows)):
        row, n_words = rows[s], _n_words(known[s])
        for d in range(both.size):
            skip = d // _WORD
            shift = np.uint64(d % _WORD)
            back = np.uint64(_WORD - 1 - d % _WORD)
            n = 0
            for w in range(n_words - skip):
                n += count_bits(row[w] & _ahead(row, w + skip, shift, back))
            both[d] += n
        for w in range(n_words):
            near[0] += count_bits(row[w] & _ahead(known[s], w, right, left))
            near[1] += count_bits(known[s, w] & _ahead(row, w, right, left))


@nb.njit(cache=True, nogil=True, parallel=True)
def on_apart(rows, known, n_distances):
    """Pairs with an expert at both ends, and neighbours with it at one.

    Parameters
    ----------
    rows : uint64 array (expert, sequence, word)
        Where each expert is on; nowhere else than where tokens are recorded.
    known : uint64 array (sequence, word)
    n_distances : int
        Distances 0 to n_distances - 1.

    Returns
    -------
    both : int64 array (expert, distance)
    near : int64 array (expert, 2)
        Pairs of neighbours with the expert at the left, and at the right.
    """
    both = np.zeros((len(rows), n_distances), np.int64)
    near = np.zeros((len(rows), 2), np.int64)
    for e in nb.prange(len(rows)):
        _count_expert(rows[e], known, both[e], near[e])
    return both, near
