"""Sets of k labels drawn with weights: which labels are in, for many tokens at once.

The weight of a set is the product of those of its members, and the chances follow from the
elementary symmetric polynomials e_j of the weights. Labels are taken or left one after the
other: with j still to be taken, label b is with the chance w_b / (r + w_b), r the ratio
e_j / e_{j-1} of the labels after b. Going back, r_j of one more label is
r_{j-1} (r_j + w) / (r_{j-1} + w). Every term is positive: nothing cancels, and no number
leaves the range of a double while the weights are in it (X.-H. Chen, A. P. Dempster and
J. S. Liu, Biometrika 81, 457 (1994)).

The last axis of every array is the token.
"""

import numba as nb


@nb.njit(cache=True, nogil=True, error_model="numpy")
def choices(weight, taken, left, ratio):
    """Chances to take and to leave each label.

    Parameters
    ----------
    weight : float64 array (q, token)
        Positive.
    taken, left : float64 array (q, k + 1, token)
        Overwritten with the chances at [b, j], j labels still to be taken; those at
        j = 0 are not.
    ratio : float64 array (k + 1, token)
        Overwritten with e_j / e_{j-1} of all weights at j; what is at j = 0 has no meaning.
    """
    n_labels, width = weight.shape
    k = len(ratio) - 1
    ratio[:] = 0
    for b in range(n_labels - 1, -1, -1):
        w = weight[b]
        for j in range(1, k + 1):
            r, t, rest = ratio[j], taken[b, j], left[b, j]
            for token in range(width):
                both = r[token] + w[token]
                share = 1 / both
                t[token] = w[token] * share
                rest[token] = r[token] * share
                r[token] = both
        for j in range(2, k + 1):
            r, rest = ratio[j], left[b, j - 1]
            for token in range(width):
                r[token] *= rest[token]


@nb.njit(cache=True, nogil=True)
def _decide(chance, taken, left, flow, into):
    """Take or leave one label.

    Parameters
    ----------
    chance, taken, left : float64 array (j * token,)
        From j = 1 on: the chance that so many are still to be taken, moved on to the next
        label, and those of `choices`. Loops over all of it are long enough for vectors.
    flow : float64 array ((j + 1) * token,)
        Overwritten with the chance to take the label with so many to be taken; the last one
        is zero.
    into : float64 array (token,)
        Overwritten with the chance to take it.
    """
    for i in range(chance.size):
        flow[i] = chance[i] * taken[i]
    more = flow[into.size :]
    for i in range(chance.size):
        chance[i] = chance[i] * left[i] + more[i]
    into[:] = 0
    for start in range(0, chance.size, into.size):
        row = flow[start : start + into.size]
        for token in range(into.size):
            into[token] += row[token]


@nb.njit(cache=True, nogil=True)
def inclusion(taken, left, chance, flow, included):
    """Chance of each label to be in the set.

    Parameters
    ----------
    taken, left : float64 array (q, k + 1, token)
        Of `choices`.
    chance, flow : float64 array (k + 1, token)
        Scratch.
    included : float64 array (q, token)
        Overwritten.
    """
    n_labels, width = included.shape
    k = len(chance) - 1
    chance[:] = 0
    chance[k] = 1
    flow[k] = 0
    here, flows = chance.reshape(-1)[width:], flow.reshape(-1)
    for b in range(n_labels):
        t, rest = taken[b].reshape(-1), left[b].reshape(-1)
        _decide(here, t[width:], rest[width:], flows, included[b])


@nb.njit(cache=True, nogil=True)
def joint_inclusion(b, taken, left, chance, flow, after, joint):
    """Chance of a label to be in the set, by itself and together with each later label.

    To be called for b = 0, 1, .. in turn, with the same `chance`.

    Parameters
    ----------
    b : int
        The label.
    taken, left : float64 array (q, k + 1, token)
        Of `choices`.
    chance : float64 array (k + 1, token)
        That so many labels are still to be taken at b; moved on to b + 1. Before the first
        label it is one for k of them.
    flow, after : float64 array (k + 1, token)
        Scratch.
    joint : float64 array (q, token)
        Overwritten from b on, at b with the chance of b alone.
    """
    n_labels, width = joint.shape
    k = len(chance) - 1
    flow[k] = 0
    flows, several = flow.reshape(-1), k * width
    t, rest = taken[b].reshape(-1), left[b].reshape(-1)
    _decide(chance.reshape(-1)[width:], t[width:], rest[width:], flows, joint[b])
    # What is still to be taken by those that have taken this one.
    here = after.reshape(-1)[width:several]
    here[:] = flows[width:several]
    flow[k - 1] = 0
    for c in range(b + 1, n_labels):
        t, rest = taken[c].reshape(-1), left[c].reshape(-1)
        _decide(here, t[width:several], rest[width:several], flows, joint[c])
