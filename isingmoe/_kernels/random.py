"""Random words: xoshiro256++ (Blackman and Vigna, ACM Trans. Math. Softw. 47, 36 (2021)).

A kernel loads the four words of its replica, keeps them in registers, and stores them back
at its end. Every replica has words of its own: results do not depend on the threads.
"""

import numba as nb
import numpy as np

_SEVENTEEN = np.uint64(17)
_HALF = np.uint64(32)
_ELEVEN = np.uint64(11)
_TO_UNIT = 2.0**-53


@nb.njit(cache=True, nogil=True, inline="always")
def _rotated(x, k):
    return (x << np.uint64(k)) | (x >> np.uint64(64 - k))


@nb.njit(cache=True, nogil=True)
def loaded(words):
    """The state of a generator, from a uint64 array (4,), as a tuple."""
    return words[0], words[1], words[2], words[3]


@nb.njit(cache=True, nogil=True)
def stored(words, state):
    """Put the state of a generator back into its array."""
    words[0], words[1], words[2], words[3] = state


@nb.njit(cache=True, nogil=True, inline="always")
def next_word(state):
    """The next 64 random bits, and the state after them."""
    s0, s1, s2, s3 = state
    word = _rotated(s0 + s3, 23) + s0
    shifted = s1 << _SEVENTEEN
    s2 ^= s0
    s3 ^= s1
    s1 ^= s2
    s0 ^= s3
    s2 ^= shifted
    s3 = _rotated(s3, 45)
    return word, (s0, s1, s2, s3)


@nb.njit(cache=True, nogil=True, inline="always")
def unit(word):
    """A float64 in [0, 1) from the upper 53 bits."""
    return np.float64(word >> _ELEVEN) * _TO_UNIT


@nb.njit(cache=True, nogil=True, inline="always")
def below(word, n):
    """An integer in 0..n-1 from the upper 32 bits; no value is off by more than n / 2^32."""
    return np.int64(((word >> _HALF) * np.uint64(n)) >> _HALF)


@nb.njit(cache=True, nogil=True)
def random_labels(labels, words, n_labels):
    """Fill an array (site,) with labels drawn uniformly from 0..n_labels-1."""
    state = loaded(words)
    for i in range(labels.size):
        word, state = next_word(state)
        labels[i] = below(word, n_labels)
    stored(words, state)
