"""Likelihood of each token given those before it, the field of its text learnt on the way."""

import numba as nb
import numpy as np

from isingmoe._kernels.inclusion import choices, inclusion
from isingmoe._kernels.kinetic import FURTHEST, log_weights


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _follow(sets, features, strength, table, axes, curvature, precision, values):
    q, k = table.shape[1], sets.shape[1]
    field, log_weight = np.zeros(q), np.empty(q)
    weight, included = np.empty((q, 1)), np.empty((q, 1))
    taken, left = np.empty((q, k + 1, 1)), np.empty((q, k + 1, 1))
    ratio, chance, flow = np.empty((k + 1, 1)), np.empty((k + 1, 1)), np.empty((k + 1, 1))
    for t in range(len(sets)):
        log_weights(features[t], strength, table, log_weight)
        log_weight += field
        top = log_weight.max()
        for b in range(q):
            weight[b, 0] = np.exp(max(log_weight[b] - top, -FURTHEST))
        choices(weight, taken, left, ratio)
        inclusion(taken, left, chance, flow, included)
        value = -k * top
        for j in range(1, k + 1):
            value -= np.log(ratio[j, 0])
        surprise = -included[:, 0]
        for m in range(k):
            value += log_weight[sets[t, m]]
            surprise[sets[t, m]] += 1
        values[t] = value
        for j in range(axes.shape[1]):
            along = 0.0
            for b in range(q):
                along += axes[b, j] * surprise[b]
            along /= precision + (t + 1) * curvature[j]
            for b in range(q):
                field[b] += axes[b, j] * along


@nb.njit(cache=True, nogil=True, parallel=True)
def filtered_log_likelihood(sets, features, edges, strength, table, axes, curvature, precision):
    """Log-likelihood of each token given those of its sequence before it.

    The field of a sequence has a Gaussian prior about zero, and is moved after every token by
    the surprise over the curvature so far: a step of Newton's method towards its mode, with
    the mean curvature of a token.

    Parameters
    ----------
    sets : int16 array (token, k)
    features : int32 array (token, feature)
        Rows of the table, among them none for the sequence.
    edges : int64 array (sequence + 1,)
        Where each sequence begins and the last one ends.
    strength : float64 array (feature,)
    table : float64 array (row, q)
    axes : float64 array (q, axis)
        Eigenvectors of the mean covariance of the experts of a token.
    curvature : float64 array (axis,)
        Its eigenvalues.
    precision : float
        Of the prior.

    Returns
    -------
    float64 array (token,)
    """
    values = np.empty(len(sets))
    for s in nb.prange(len(edges) - 1):
        first, last = edges[s], edges[s + 1]
        _follow(
            sets[first:last],
            features[first:last],
            strength,
            table,
            axes,
            curvature,
            precision,
            values[first:last],
        )
    return values
