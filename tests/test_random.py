"""The generator against the published one."""

import numba as nb
import numpy as np

from isingmoe._kernels.random import below, loaded, next_word, stored, unit


@nb.njit
def drawn(words, n):
    state = loaded(words)
    out = np.empty(n, np.uint64)
    for i in range(n):
        out[i], state = next_word(state)
    stored(words, state)
    return out


def test_first_words_are_those_of_the_reference():
    """Of xoshiro256plusplus.c with the state 1, 2, 3, 4."""
    expected = [41943041, 58720359, 3588806011781223, 3591011842654386, 9228616714210784205]
    words = np.array([1, 2, 3, 4], np.uint64)
    assert drawn(words, 3).tolist() == expected[:3]
    assert drawn(words, 2).tolist() == expected[3:]


def test_numbers_from_a_word():
    assert unit(np.uint64(0)) == 0
    assert unit(np.uint64(2**64 - 1)) == 1 - 2.0**-53
    assert [below(np.uint64(i << 61), 8) for i in range(8)] == list(range(8))
