"""Sweeps of local updates where a site holds a set of labels.

`state` is (site, rank) with the labels of each site sorted, `out` (sample, site, rank); the
rest is as for the updates of single labels.
"""

import numba as nb
import numpy as np

from isingmoe._kernels.fields import exponentiate, field_counts, label_fields, swap_gain
from isingmoe._kernels.local import split, visited
from isingmoe._kernels.random import loaded, next_word, stored, unit

# A label that lies this far from the k-th strongest in log-weight is in or out of the set
# with a probability that no double can tell from one.
_FURTHEST = 300.0


@nb.njit(cache=True, nogil=True)
def random_sets(state, words, q):
    """Fill a state with sets drawn uniformly."""
    n, k = state.shape
    rng = loaded(words)
    for i in range(n):
        m = 0
        for b in range(q):
            word, rng = next_word(rng)
            rest, _ = split(word, q - b)
            if rest < k - m:
                state[i, m] = b
                m += 1
            if m == k:
                break
    stored(words, rng)


@nb.njit(cache=True, nogil=True)
def set_weights(field, k):
    """Weights of labels, from their log-weights, in place.

    Those of sets of `k` are unchanged but for a common factor; the k-th largest weight is
    one, and none is out of e^-300 to e^300.
    """
    strongest = np.full(k, -np.inf)
    for b in range(field.size):
        if field[b] > strongest[k - 1]:
            m = k - 1
            while m > 0 and strongest[m - 1] < field[b]:
                strongest[m] = strongest[m - 1]
                m -= 1
            strongest[m] = field[b]
    exponentiate(field, strongest[k - 1], _FURTHEST)


# No weight is zero, so that the loop need not look before it divides.
@nb.njit(cache=True, nogil=True, error_model="numpy")
def symmetric_ratios(weight, ratio):
    """Ratios of elementary symmetric polynomials of the last weights.

    Parameters
    ----------
    weight : float64 array (q,)
        Of `set_weights`.
    ratio : float64 array (q + 1, k + 1)
        Overwritten with e_m / e_{m-1} of weight[j:] at [j, m]; zero where fewer than m are
        left.

    Notes
    -----
    From e_m(j) = e_m(j + 1) + w_j e_{m-1}(j + 1), divided by the same with m - 1. All terms
    are positive: nothing cancels, and nothing leaves the range of a double.
    """
    q, k = weight.size, ratio.shape[1] - 1
    ratio[q] = 0
    for j in range(q - 1, -1, -1):
        w = weight[j]
        ratio[j, 1] = ratio[j + 1, 1] + w
        for m in range(2, k + 1):
            fewer = ratio[j + 1, m - 1]
            ratio[j, m] = (ratio[j + 1, m] + w) * fewer / (fewer + w)


@nb.njit(cache=True, nogil=True)
def draw_set(members, weight, ratio, rng):
    """Draw a set of k labels with probability in proportion to the product of its weights.

    Parameters
    ----------
    members : integer array (k,)
        Overwritten with the labels, sorted.
    weight : float64 array (q,)
        Of `set_weights`.
    ratio : float64 array (q + 1, k + 1)
        Of `symmetric_ratios`.
    rng : tuple

    Returns
    -------
    tuple
        The generator after it.

    References
    ----------
    X.-H. Chen, A. P. Dempster and J. S. Liu, Biometrika 81, 457 (1994).
    """
    k = members.size
    m = 0
    for b in range(weight.size):
        word, rng = next_word(rng)
        if unit(word) * (ratio[b + 1, k - m] + weight[b]) < weight[b]:
            members[m] = b
            m += 1
            if m == k:
                break
    return rng


@nb.njit(cache=True, nogil=True)
def heat_bath_set_sweeps(state, words, out, n_sweeps, model, n_sublattices):
    """Heat bath of sets: all members of a site drawn anew at once, given all other sites.

    `model` is that of `_kernels.fields`.
    """
    n, k = state.shape
    site, forward, backward, strength, periodic = model
    q = site.shape[1]
    weight = np.empty(q)
    ratio = np.zeros((q + 1, k + 1))
    counts = field_counts(model, k)
    stride = max(n_sublattices, 1)
    rng = loaded(words)
    for t in range(out.shape[0]):
        for _ in range(n_sweeps):
            for first in range(stride):
                for step in range(first, n, stride):
                    at, rng = visited(step, n, n_sublattices, rng)
                    i = np.int64(at)
                    label_fields(
                        weight, counts, state, i, site, forward, backward, strength, periodic
                    )
                    set_weights(weight, k)
                    symmetric_ratios(weight, ratio)
                    rng = draw_set(state[i], weight, ratio, rng)
        out[t] = state
    stored(words, rng)


@nb.njit(cache=True, nogil=True)
def metropolis_set_sweeps(state, words, out, n_sweeps, model, n_sublattices):
    """Metropolis of sets: a random member proposed to give way to a random other label.

    `model` is that of `_kernels.fields`.
    """
    n, k = state.shape
    site, forward, backward, strength, periodic = model
    q = site.shape[1]
    stride = max(n_sublattices, 1)
    rng = loaded(words)
    for t in range(out.shape[0]):
        for _ in range(n_sweeps):
            for first in range(stride):
                for step in range(first, n, stride):
                    at, rng = visited(step, n, n_sublattices, rng)
                    i = np.int64(at)
                    word, rng = next_word(rng)
                    pair, fraction = split(word, k * (q - k))
                    rank = pair % k
                    members = state[i]
                    present, new = np.int64(members[rank]), _other(members, pair // k)
                    gain = swap_gain(
                        state, i, present, new, site, forward, backward, strength, periodic
                    )
                    if gain >= 0 or unit(fraction) < np.exp(gain):
                        _replace(members, rank, new)
        out[t] = state
    stored(words, rng)


@nb.njit(cache=True, nogil=True, inline="always")
def _other(members, number):
    """The label that so many labels outside the sorted set come before."""
    for m in range(members.size):
        if members[m] <= number:
            number += 1
    return number


@nb.njit(cache=True, nogil=True, inline="always")
def _replace(members, rank, new):
    """Put a label in the place of another and keep the set sorted."""
    while rank > 0 and members[rank - 1] > new:
        members[rank] = members[rank - 1]
        rank -= 1
    while rank < members.size - 1 and members[rank + 1] < new:
        members[rank] = members[rank + 1]
        rank += 1
    members[rank] = new
