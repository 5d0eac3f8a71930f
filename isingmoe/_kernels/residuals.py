"""Products of what is left of occupancies when the mean at each position is taken off."""

import numba as nb
import numpy as np

# Tokens whose residuals stay in the nearest cache while all distances pass over them.
_BLOCK = 1024


@nb.njit(cache=True, nogil=True)
def _is_recorded(row):
    for rank in range(row.size):
        if row[rank] >= 0:
            return True
    return False


@nb.njit(cache=True, nogil=True, parallel=True)
def recorded_tokens(index):
    """Whether each token has a recorded expert.

    Parameters
    ----------
    index : int16 array (sequence, position, rank)

    Returns
    -------
    bool array (sequence, position)
    """
    n_sequences, n_positions = index.shape[:2]
    recorded = np.empty((n_sequences, n_positions), np.bool_)
    for s in nb.prange(n_sequences):
        for i in range(n_positions):
            recorded[s, i] = _is_recorded(index[s, i])
    return recorded


@nb.njit(cache=True, nogil=True, parallel=True)
def residual_weights(recorded, max_distance):
    """What a covariance is multiplied by in the mean of `residual_products`.

    The product of two residuals has the expectation of the covariance times
    1 - 1/S_i - 1/S_j + S_ij/(S_i S_j), because the rates are means over the same
    sequences; the sum of that factor is what to divide by.

    Parameters
    ----------
    recorded : bool array (position, sequence)
    max_distance : int

    Returns
    -------
    float64 array (sequence, distance)
        Sum of the factors over the pairs of each sequence.
    """
    n_positions, n_sequences = recorded.shape
    present = np.empty(n_positions)
    for i in range(n_positions):
        present[i] = recorded[i].sum()
    # By distance: no two threads write to the same place.
    weight = np.zeros((max_distance + 1, n_sequences))
    for d in nb.prange(max_distance + 1):
        for i in range(n_positions - d):
            first, second = recorded[i], recorded[i + d]
            n_both = 0
            for s in range(n_sequences):
                n_both += first[s] & second[s]
            if n_both == 0:
                continue
            a, b = present[i], present[i + d]
            factor = 1 - 1 / a - 1 / b + n_both / (a * b)
            for s in range(n_sequences):
                weight[d, s] += factor * (first[s] & second[s])
    return weight.T.copy()


@nb.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _dot(a, b):
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@nb.njit(cache=True, nogil=True)
def _add_products(value, products):
    """Add sum_i value[i] value[i + d] for every d."""
    for start in range(0, value.size, _BLOCK):
        stop = min(start + _BLOCK, value.size)
        for d in range(min(products.size, value.size - start)):
            end = min(stop, value.size - d)
            products[d] += _dot(value[start:end], value[start + d : end + d])


@nb.njit(cache=True, nogil=True, parallel=True)
def residual_products(index, rate, max_distance):
    """Products of residuals at each distance, summed over the pairs of each sequence.

    Parameters
    ----------
    index : int16 array (sequence, position, rank)
    rate : float64 array (expert, position)
        What is taken off the occupancy of an expert.
    max_distance : int

    Returns
    -------
    float64 array (sequence, expert, distance)
        A token without a recorded expert is in no pair.
    """
    n_sequences, n_positions, n_ranks = index.shape
    n_experts = rate.shape[0]
    products = np.zeros((n_sequences, n_experts, max_distance + 1))
    for unit in nb.prange(n_sequences * n_experts):
        s, e = unit // n_experts, unit % n_experts
        residual = np.zeros(n_positions)
        for i in range(n_positions):
            occupied, recorded = 0.0, False
            for rank in range(n_ranks):
                recorded |= index[s, i, rank] >= 0
                if index[s, i, rank] == e:
                    occupied = 1.0
            if recorded:
                residual[i] = occupied - rate[e, i]
        _add_products(residual, products[s, e])
    return products


@nb.njit(cache=True, nogil=True, parallel=True)
def row_products(value, max_distance):
    """Products value[i] value[i + d] summed along each row.

    Parameters
    ----------
    value : float64 array (row, position)
    max_distance : int

    Returns
    -------
    float64 array (row, distance)
    """
    products = np.zeros((value.shape[0], max_distance + 1))
    for row in nb.prange(value.shape[0]):
        _add_products(value[row], products[row])
    return products


@nb.njit(cache=True, nogil=True, parallel=True)
def rate_products(recorded, rate, max_distance):
    """Overlap of two positions at their rates, summed over the pairs of recorded tokens.

    Parameters
    ----------
    recorded : bool array (position, sequence)
    rate : float64 array (position, expert)
    max_distance : int

    Returns
    -------
    float64 array (distance,)
    """
    n_positions, n_sequences = recorded.shape
    products = np.zeros(max_distance + 1)
    for d in nb.prange(max_distance + 1):
        total = 0.0
        for i in range(n_positions - d):
            first, second = recorded[i], recorded[i + d]
            n_both = 0
            for s in range(n_sequences):
                n_both += first[s] & second[s]
            if n_both:
                total += n_both * _dot(rate[i], rate[i + d])
        products[d] = total
    return products
