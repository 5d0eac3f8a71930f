"""Sweeps of local updates: one label after another, from what its neighbours say.

Every kernel takes `state` (site,), advanced in place, the words of its replica, `out`
(sample, site) for the state after every `n_sweeps` sweeps, the tables, and last the number
of sublattices: the sites i with i mod n_sublattices = 0 come first, then those with 1 and so
on. With one the order is sequential; 0 stands for a random site at every step.
"""

import numba as nb
import numpy as np

from isingmoe._kernels.alias import alias_columns
from isingmoe._kernels.fields import drawn, field_counts, label_fields, swap_gain
from isingmoe._kernels.random import loaded, next_word, stored, unit

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_SIX = np.uint64(6)
_ALIAS = np.uint64(0xFF)
_EIGHT = np.uint64(8)
_LOW_32 = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


@nb.njit(cache=True, nogil=True, inline="always")
def split(word, n):
    """An integer in 0..n-1, n < 2^32, and 64 bits of the fraction beside it.

    The two halves of the product n word (D. Lemire, ACM Trans. Model. Comput. Simul. 29, 3
    (2019)).
    """
    factor = np.uint64(n)
    upper = (word >> _HALF) * factor + (((word & _LOW_32) * factor) >> _HALF)
    return np.int64(upper >> _HALF), word * factor


@nb.njit(cache=True, nogil=True, inline="always")
def visited(step, n, n_sublattices, rng):
    """The site to update: the one whose turn it is, or a random one."""
    if n_sublattices:
        return np.uint64(step), rng
    word, rng = next_word(rng)
    site, _ = split(word, n)
    return np.uint64(site), rng


@nb.njit(cache=True, nogil=True, inline="always")
def _neighbours(state, i, periodic, absent):
    """Labels left and right of a site; `absent` past an open end."""
    last = np.uint64(state.size) - _ONE
    if i > _ZERO:
        left = np.uint64(state[i - _ONE])
    else:
        left = np.uint64(state[last]) if periodic else absent
    if i < last:
        right = np.uint64(state[i + _ONE])
    else:
        right = np.uint64(state[_ZERO]) if periodic else absent
    return left, right


@nb.njit(cache=True, nogil=True)
def two_state_sweeps(state, words, out, n_sweeps, threshold, periodic, n_sublattices):
    """Heat bath or Metropolis of two labels and nearest neighbours.

    Parameters
    ----------
    state, words, out, n_sweeps, n_sublattices
        As above.
    threshold : uint64 array (18,)
        At 6 left + 2 right + own: 2^64 times the probability that the new label is 1. A
        left or right of 2 stands past an open end.
    periodic : bool
    """
    n = state.size
    stride = max(n_sublattices, 1)
    rng = loaded(words)
    for t in range(out.shape[0]):
        for _ in range(n_sweeps):
            for first in range(stride):
                for step in range(first, n, stride):
                    i, rng = visited(step, n, n_sublattices, rng)
                    left, right = _neighbours(state, i, periodic, _TWO)
                    word, rng = next_word(rng)
                    around = left * _SIX + right * _TWO + np.uint64(state[i])
                    state[i] = word < threshold[around]
        out[t] = state
    stored(words, rng)


@nb.njit(cache=True, nogil=True)
def alias_sweeps(state, words, out, n_sweeps, entry, q, periodic, n_sublattices):
    """Heat bath of nearest neighbours from a table of all conditional distributions.

    Parameters
    ----------
    state, words, out, n_sweeps, n_sublattices
        As above.
    entry : uint64 array ((q + 1)^2 q,)
        Of `alias_entries`, at ((q + 1) left + right) q + label. A left or right of q stands
        past an open end.
    q : int
    periodic : bool
    """
    n = state.size
    stride = max(n_sublattices, 1)
    width = np.uint64(q)
    rng = loaded(words)
    for t in range(out.shape[0]):
        for _ in range(n_sweeps):
            for first in range(stride):
                for step in range(first, n, stride):
                    i, rng = visited(step, n, n_sublattices, rng)
                    left, right = _neighbours(state, i, periodic, width)
                    word, rng = next_word(rng)
                    label, fraction = split(word, q)
                    around = left * (width + _ONE) + right
                    kept = entry[around * width + np.uint64(label)]
                    state[i] = label if fraction < kept else np.int64(kept & _ALIAS)
        out[t] = state
    stored(words, rng)


@nb.njit(cache=True, nogil=True)
def alias_entries(weight):
    """Alias tables of many distributions, a word for each label.

    Parameters
    ----------
    weight : float64 array (distribution, q)
        Not negative, q of at most 256; no row is all zero.

    Returns
    -------
    uint64 array (distribution, q)
        Of a label drawn uniformly and 64 random bits: the label stands where the bits are
        below its entry, and else gives way to the one in the entry's lower 8 bits.
    """
    entry = np.empty(weight.shape, np.uint64)
    for d in range(len(weight)):
        share, other = alias_columns(weight[d], weight.shape[1])
        for a in range(len(share)):
            stands = ~_ALIAS if other[a] == a else np.uint64(share[a] * 2.0**56) << _EIGHT
            entry[d, a] = stands | np.uint64(other[a])
    return entry


@nb.njit(cache=True, nogil=True)
def heat_bath_sweeps(state, words, out, n_sweeps, model, n_sublattices):
    """Heat bath of any reach: a label drawn from its weights given all others.

    `model` is that of `_kernels.fields`.
    """
    n = state.size
    site, forward, backward, strength, periodic = model
    q = site.shape[1]
    members = state.reshape((n, 1))
    weight = np.empty(q)
    counts = field_counts(model, 1)
    stride = max(n_sublattices, 1)
    rng = loaded(words)
    for t in range(out.shape[0]):
        for _ in range(n_sweeps):
            for first in range(stride):
                for step in range(first, n, stride):
                    at, rng = visited(step, n, n_sublattices, rng)
                    i = np.int64(at)
                    word, rng = next_word(rng)
                    if q == 2:
                        gain = swap_gain(
                            members, i, 0, 1, site, forward, backward, strength, periodic
                        )
                        state[i] = unit(word) < 1 / (1 + np.exp(-gain))
                        continue
                    label_fields(
                        weight, counts, members, i, site, forward, backward, strength, periodic
                    )
                    state[i] = drawn(weight, unit(word))
        out[t] = state
    stored(words, rng)


@nb.njit(cache=True, nogil=True)
def metropolis_sweeps(state, words, out, n_sweeps, model, n_sublattices):
    """Metropolis of any reach: any label proposed, the present one too.

    `model` is that of `_kernels.fields`. A move that costs nothing is made with probability
    1 - 1/q, never with certainty: no order of the sites can carry domain walls along.
    """
    n = state.size
    site, forward, backward, strength, periodic = model
    q = site.shape[1]
    members = state.reshape((n, 1))
    stride = max(n_sublattices, 1)
    rng = loaded(words)
    for t in range(out.shape[0]):
        for _ in range(n_sweeps):
            for first in range(stride):
                for step in range(first, n, stride):
                    at, rng = visited(step, n, n_sublattices, rng)
                    i = np.int64(at)
                    word, rng = next_word(rng)
                    label, fraction = split(word, q)
                    present = np.int64(state[i])
                    if label != present:
                        gain = swap_gain(
                            members, i, present, label, site, forward, backward, strength, periodic
                        )
                        if gain >= 0 or unit(fraction) < np.exp(gain):
                            state[i] = label
        out[t] = state
    stored(words, rng)
