"""How often a chain of single states is where it was, some distance on.

States are int16 (sequence, position), -1 where there is none; a pair with a -1 is no pair.
"""

import numba as nb
import numpy as np

from isingmoe._kernels.bits import count_bits

_WORD = 64
_ONE = np.uint64(1)


@nb.njit(cache=True, nogil=True, inline="always")
def _ahead(words, skip, right, left):
    """64 bits from a place on: of one word the upper ones, of the next the lower ones."""
    # In two steps, as a shift by 64 bits is undefined.
    return (words[skip] >> right) | ((words[skip + 1] << left) << _ONE)


@nb.njit(cache=True, nogil=True)
def equal_apart(states, n_planes, n_distances):
    """Pairs at each distance, and how many of them are of equal states.

    Parameters
    ----------
    states : int16 array (sequence, position)
    n_planes : int
        Bits of a state.
    n_distances : int
        Distances 0 to n_distances - 1.

    Returns
    -------
    pairs, equal : int64 array (distance,)

    Notes
    -----
    Each bit of the states is packed into words, 64 positions to a word, and so is whether
    there is a state at all: 64 pairs are compared at once.
    """
    n_sequences, n_positions = states.shape
    pairs = np.zeros(n_distances, np.int64)
    equal = np.zeros(n_distances, np.int64)
    n_words = (n_positions + _WORD - 1) // _WORD
    width = n_words + n_distances // _WORD + 2
    plane = np.zeros((n_planes, width), np.uint64)
    known = np.zeros(width, np.uint64)
    for s in range(n_sequences):
        plane[:, :n_words] = 0
        known[:n_words] = 0
        n_used = 0
        for i in range(n_positions):
            state = np.int64(states[s, i])
            if state < 0:
                continue
            w, shift = i // _WORD, np.uint64(i % _WORD)
            known[w] |= _ONE << shift
            n_used = w + 1
            bits = np.uint64(state)
            for p in range(n_planes):
                plane[p, w] |= ((bits >> np.uint64(p)) & _ONE) << shift
        for d in range(n_distances):
            skip = d // _WORD
            right = np.uint64(d % _WORD)
            left = np.uint64(_WORD - 1 - d % _WORD)
            n, m = 0, 0
            for w in range(n_used - skip):
                both = known[w] & _ahead(known, w + skip, right, left)
                different = np.uint64(0)
                for p in range(n_planes):
                    different |= plane[p, w] ^ _ahead(plane[p], w + skip, right, left)
                n += count_bits(both)
                m += count_bits(both & ~different)
            pairs[d] += n
            equal[d] += m
    return pairs, equal


@nb.njit(cache=True, nogil=True)
def stays(states, distances, n_states):
    """Pairs at each distance that begin with each state, and those that end with it too.

    Parameters
    ----------
    states : int16 array (sequence, position)
    distances : int64 array (distance,)
    n_states : int

    Returns
    -------
    begun, stayed : int64 array (sequence, distance, state)
    """
    n_sequences, n_positions = states.shape
    shape = (n_sequences, distances.size, n_states)
    begun, stayed = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for s in range(n_sequences):
        row = states[s]
        for j in range(distances.size):
            d = distances[j]
            first, same = begun[s, j], stayed[s, j]
            for i in range(n_positions - d):
                a, b = row[i], row[i + d]
                if a >= 0 and b >= 0:
                    first[a] += 1
                    same[a] += a == b
    return begun, stayed
