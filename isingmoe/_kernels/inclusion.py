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
def inclusion(taken, left, chance, included):
    """Chance of each label to be in the set.

    Parameters
    ----------
    taken, left : float64 array (q, k + 1, token)
        Of `choices`.
    chance : float64 array (k + 1, token)
        Scratch: the chance that j labels are still to be taken.
    included : float64 array (q, token)
        Overwritten.
    """
    n_labels, width = included.shape
    k = len(chance) - 1
    chance[:] = 0
    chance[k] = 1
    included[:] = 0
    for b in range(n_labels):
        into = included[b]
        for j in range(1, k + 1):
            here, fewer, t, rest = chance[j], chance[j - 1], taken[b, j], left[b, j]
            for token in range(width):
                flow = here[token] * t[token]
                into[token] += flow
                fewer[token] += flow
                here[token] *= rest[token]


@nb.njit(cache=True, nogil=True)
def joint_inclusion(b, taken, left, chance, after, joint):
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
    after : float64 array (k + 1, token)
        Scratch.
    joint : float64 array (q, token)
        Overwritten from b on, at b with the chance of b alone.
    """
    n_labels, width = len(taken), chance.shape[1]
    k = len(chance) - 1
    # What is still to be taken by those that have taken this one.
    after[:] = 0
    single = joint[b]
    single[:] = 0
    for j in range(1, k + 1):
        here, fewer, t, rest = chance[j], chance[j - 1], taken[b, j], left[b, j]
        into = after[j - 1]
        for token in range(width):
            flow = here[token] * t[token]
            into[token] = flow
            single[token] += flow
            fewer[token] += flow
            here[token] *= rest[token]
    for c in range(b + 1, n_labels):
        both = joint[c]
        both[:] = 0
        for j in range(1, k):
            here, fewer, t, rest = after[j], after[j - 1], taken[c, j], left[c, j]
            for token in range(width):
                flow = here[token] * t[token]
                both[token] += flow
                fewer[token] += flow
                here[token] *= rest[token]
