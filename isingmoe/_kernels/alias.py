"""Alias tables: an index drawn from any distribution by two random numbers."""

import numba as nb
import numpy as np


@nb.njit(cache=True, nogil=True)
def alias_columns(weight, n_columns):
    """Columns of an alias table.

    Parameters
    ----------
    weight : float64 array (index,)
        Not negative, with a positive sum.
    n_columns : int
        At least as many as there are weights; the others have none.

    Returns
    -------
    share : float64 array (n_columns,)
        Chance that a column drawn uniformly stands for its own index, 0 to 1.
    other : int64 array (n_columns,)
        The index that it else stands for; its own where the share is one.

    References
    ----------
    A. J. Walker, ACM Trans. Math. Softw. 3, 253 (1977);
    M. D. Vose, IEEE Trans. Softw. Eng. 17, 972 (1991).
    """
    share = np.zeros(n_columns)
    share[: len(weight)] = weight * (n_columns / weight.sum())
    other = np.arange(n_columns)
    small = np.empty(n_columns, np.int64)
    large = np.empty(n_columns, np.int64)
    n_small = n_large = 0
    for i in range(n_columns):
        if share[i] < 1:
            small[n_small] = i
            n_small += 1
        else:
            large[n_large] = i
            n_large += 1
    while n_small and n_large:
        n_small -= 1
        less, more = small[n_small], large[n_large - 1]
        other[less] = more
        share[more] -= 1 - share[less]
        if share[more] < 1:
            n_large -= 1
            small[n_small] = more
            n_small += 1
    # What is left over has a share of one but for rounding.
    for i in range(n_columns):
        if other[i] == i:
            share[i] = 1
    return share, other
