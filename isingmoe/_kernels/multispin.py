"""Multi-spin coding: 64 chains of two labels advanced by the same bit operations."""

import numba as nb
import numpy as np

from isingmoe._kernels.local import visited
from isingmoe._kernels.random import loaded, next_word, stored

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_TWO, _THREE, _FOUR, _FIVE, _SIX, _SEVEN = (np.uint64(number) for number in range(2, 8))
_N_BITS = 64
_N_TERMS = np.uint64(8)
_N_WORDS = _N_TERMS * np.uint64(_N_BITS)
_N_SURE = 8
# Sites of which all lanes are written out before the next: their words stay in the cache.
_BLOCK = 2048


@nb.njit(cache=True, nogil=True)
def random_lanes(state, words):
    """Fill a state with random bits."""
    rng = loaded(words)
    for i in range(state.size):
        state[i], rng = next_word(rng)
    stored(words, rng)


@nb.njit(cache=True, nogil=True)
def multi_spin_sweeps(state, words, out, n_sweeps, term, uses_own, periodic, n_sublattices):
    """Heat bath or Metropolis of two labels and nearest neighbours, 64 replicas at once.

    Parameters
    ----------
    state : uint64 array (site,)
        The label of a replica in each bit; advanced in place.
    words : uint64 array (4,)
    out : uint64 array (sample, site)
        The state after every `n_sweeps` sweeps.
    n_sweeps : int
    term : uint64 array (4 * 64 * 8,)
        Of `threshold_terms`, for a site with no neighbour, with one to its right, with one
        to its left, and with both.
    uses_own : bool
        Whether the probabilities depend on the label that is there.
    periodic : bool
    n_sublattices : int
        As for the other local updates; the replicas visit the sites in the same order.

    Notes
    -----
    The new label is 1 where a random number is below the probability of 1. Both are
    compared bit by bit, the most significant first, until they differ in every replica,
    which takes 8 or 9 bits of 64. The bit of the probability depends on the labels left,
    right and present; as a function of these it is a sum without carry of products, each
    taken or not.

    References
    ----------
    R. Zorn, H. J. Herrmann and C. Rebbi, Comput. Phys. Commun. 23, 337 (1981).
    """
    n = state.size
    last = np.uint64(n) - _ONE
    stride = max(n_sublattices, 1)
    rng = loaded(words)
    for t in range(out.shape[0]):
        for _ in range(n_sweeps):
            for first in range(stride):
                for step in range(first, n, stride):
                    i, rng = visited(step, n, n_sublattices, rng)
                    start = left = right = _ZERO
                    if i > _ZERO or periodic:
                        left = state[i - _ONE if i > _ZERO else last]
                        start += _TWO * _N_WORDS
                    if i < last or periodic:
                        right = state[i + _ONE if i < last else _ZERO]
                        start += _N_WORDS
                    # One of the two is compiled without the terms that are not needed.
                    if uses_own:
                        new, rng = _drawn(term, start, left, right, state[i], True, rng)
                    else:
                        new, rng = _drawn(term, start, left, right, _ZERO, False, rng)
                    state[i] = new
        out[t] = state
    stored(words, rng)


@nb.njit(cache=True, nogil=True, inline="always")
def _drawn(term, start, left, right, own, uses_own, rng):
    """New labels, and the generator after them."""
    both = left & right
    new, undecided = _ZERO, _ALL
    at, end = start, start + _N_WORDS
    # Four times in five this decides all replicas: one branch is guessed instead of each.
    for _ in range(_N_SURE):
        word, rng = next_word(rng)
        bit = _threshold_bit(term, at, left, right, both, own, uses_own)
        new, undecided = _compared(word, bit, new, undecided)
        at += _N_TERMS
    while undecided != _ZERO and at < end:
        word, rng = next_word(rng)
        bit = _threshold_bit(term, at, left, right, both, own, uses_own)
        new, undecided = _compared(word, bit, new, undecided)
        at += _N_TERMS
    return new, rng


@nb.njit(cache=True, nogil=True, inline="always")
def _compared(word, bit, new, undecided):
    """Where the bits differ for the first time, that of the threshold is the new label."""
    differ = (word ^ bit) & undecided
    return new | (differ & bit), undecided ^ differ


@nb.njit(cache=True, nogil=True, inline="always")
def _threshold_bit(term, at, left, right, both, own, uses_own):
    bit = term[at] ^ (term[at + _ONE] & left) ^ (term[at + _TWO] & right)
    bit ^= term[at + _THREE] & both
    if uses_own:
        times = term[at + _FOUR] ^ (term[at + _FIVE] & left) ^ (term[at + _SIX] & right)
        bit ^= own & (times ^ (term[at + _SEVEN] & both))
    return bit


@nb.njit(cache=True, nogil=True)
def threshold_terms(threshold):
    """The bits of probabilities as polynomials of the labels they depend on.

    Parameters
    ----------
    threshold : uint64 array (8,)
        Probability times 2^64 at left + 2 right + 4 own.

    Returns
    -------
    uint64 array (64, 8)
        All ones where a product is taken, for each bit (the most significant first) and
        each product of labels: 1, left, right, left right, and those times own.
    """
    term = np.empty((_N_BITS, threshold.size), np.uint64)
    for level in range(_N_BITS):
        for a in range(threshold.size):
            bit = (threshold[a] >> np.uint64(_N_BITS - 1 - level)) & _ONE
            term[level, a] = _ALL if bit else _ZERO
        # From values to coefficients: the Moebius transform over the three labels.
        for half in (1, 2, 4):
            for a in range(threshold.size):
                if a & half:
                    term[level, a] ^= term[level, a - half]
    return term


@nb.njit(cache=True, nogil=True)
def unpacked(words):
    """Labels of each replica.

    Parameters
    ----------
    words : uint64 array (sample, site)

    Returns
    -------
    uint8 array (64, sample, site)
    """
    n_samples, n = words.shape
    labels = np.empty((_N_BITS, n_samples, n), np.uint8)
    byte = np.empty(_BLOCK, np.uint8)
    for t in range(n_samples):
        for start in range(0, n, _BLOCK):
            size = min(_BLOCK, n - start)
            block = words[t, start : start + size]
            for lower in range(0, _N_BITS, 8):
                for i in range(size):
                    byte[i] = (block[i] >> np.uint64(lower)) & np.uint64(0xFF)
                for lane in range(8):
                    row = labels[lower + lane, t, start : start + size]
                    for i in range(size):
                        row[i] = (byte[i] >> np.uint8(lane)) & np.uint8(1)
    return labels
