"""Forward messages along an open chain."""

import numba as nb
import numpy as np

_EPSILON = 4 * np.finfo(np.float64).eps


@nb.njit(cache=True, nogil=True)
def forward_messages(transfer, start, n_sites):
    """Normalised weights of the states of each site, summed over the sites before it.

    Parameters
    ----------
    transfer : float64 array (q, q)
        Non-negative weights of a bond.
    start : float64 array (q,)
        Weights of the states of the first site.
    n_sites : int

    Returns
    -------
    messages : float64 array (m, q)
        Each sums to one. Shorter than `n_sites` where a message has repeated itself: from
        there on they are all the same.
    log_scale : float64 array (m,)
        Logarithm of the weight divided out at each site.
    """
    q = start.size
    capacity = min(n_sites, 1024)
    messages = np.empty((capacity, q))
    log_scale = np.empty(capacity)
    total = start.sum()
    messages[0] = start / total
    log_scale[0] = np.log(total)
    i = 1
    while i < n_sites:
        if i == capacity:
            capacity = min(n_sites, 2 * capacity)
            longer = np.empty((capacity, q))
            longer[:i] = messages[:i]
            messages = longer
            longer_scale = np.empty(capacity)
            longer_scale[:i] = log_scale[:i]
            log_scale = longer_scale
        total = 0.0
        for b in range(q):
            weight = 0.0
            for a in range(q):
                weight += messages[i - 1, a] * transfer[a, b]
            messages[i, b] = weight
            total += weight
        log_scale[i] = np.log(total)
        settled = True
        for b in range(q):
            messages[i, b] /= total
            change = abs(messages[i, b] - messages[i - 1, b])
            if change > _EPSILON * messages[i, b]:
                settled = False
        i += 1
        if settled:
            break
    return messages[:i].copy(), log_scale[:i].copy()
