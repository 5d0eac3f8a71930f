"""Likelihood of sets of experts, its gradient and its curvature.

Every token has some features, each a row of one table of log-weights: the experts of the
tokens before it at each distance, its place in the text, the text it is in. The log-weight of
an expert at a token is the sum of its column over the token's rows. Tokens are taken in
blocks, which fill vector registers; parts of all tokens are taken in parallel and summed in
their order.
"""

import numba as nb
import numpy as np

from isingmoe._kernels.fields import exponentiate
from isingmoe._kernels.inclusion import choices, inclusion, joint_inclusion

_BLOCK = 16
# A weight smaller than the largest by this factor, in logarithms, is taken for this small.
_FURTHEST = 300.0
# Elements of the covariances that are held at once.
_COVARIANCES = 1 << 19
# Pieces of those tokens taken in parallel, each with scratch space of its own.
_PARTS = 8


@nb.njit(cache=True, nogil=True)
def _log_weights(features, table, out):
    """Log-weights of the experts at one token."""
    out[:] = 0
    for f in range(features.size):
        row = table[features[f]]
        for b in range(out.size):
            out[b] += row[b]


@nb.njit(cache=True, nogil=True)
def _scratch(q, k):
    """Arrays for a block of tokens: of the log-weights, `_weigh`, `choices` and `inclusion`."""
    log_weight, top, weight = np.empty((_BLOCK, q)), np.empty(_BLOCK), np.empty((q, _BLOCK))
    taken, left = np.empty((q, k + 1, _BLOCK)), np.empty((q, k + 1, _BLOCK))
    ratio, chance = np.empty((k + 1, _BLOCK)), np.empty((k + 1, _BLOCK))
    return log_weight, top, weight, taken, left, ratio, chance


@nb.njit(cache=True, nogil=True)
def _weigh(features, table, start, n, log_weight, top, weight):
    """Weights (q, token) of a block of tokens over the largest of each, whose log is `top`."""
    for t in range(_BLOCK):
        # The last token fills what is left of the last block.
        row = log_weight[t]
        _log_weights(features[start + min(t, n - 1)], table, row)
        top[t] = row.max()
        for b in range(row.size):
            weight[b, t] = row[b] - top[t]
    for b in range(len(weight)):
        exponentiate(weight[b], 0.0, _FURTHEST)


@nb.njit(cache=True, nogil=True)
def _part(sets, features, table, values, slope):
    """Log-likelihood of some tokens, its gradient added to `slope`."""
    q, k = table.shape[1], sets.shape[1]
    log_weight, top, weight, taken, left, ratio, chance = _scratch(q, k)
    included = np.empty((q, _BLOCK))
    for start in range(0, len(sets), _BLOCK):
        n = min(_BLOCK, len(sets) - start)
        _weigh(features, table, start, n, log_weight, top, weight)
        choices(weight, taken, left, ratio)
        inclusion(taken, left, chance, included)
        for t in range(n):
            row, members = log_weight[t], sets[start + t]
            value = -k * top[t]
            for m in range(k):
                value += row[members[m]]
            for j in range(1, k + 1):
                value -= np.log(ratio[j, t])
            values[start + t] = value
            for b in range(q):
                row[b] = -included[b, t]
            for m in range(k):
                row[members[m]] += 1
            for f in range(features.shape[1]):
                into = slope[features[start + t, f]]
                for b in range(q):
                    into[b] += row[b]


@nb.njit(cache=True, nogil=True, parallel=True)
def log_likelihood(sets, features, table, n_parts):
    """Log-likelihood of each token, and the gradient of their sum.

    Parameters
    ----------
    sets : int16 array (token, k)
        Experts of every token.
    features : int32 array (token, feature)
        Rows of the table.
    table : float64 array (row, q)
    n_parts : int
        Pieces taken in parallel; the gradient depends on it by rounding alone.

    Returns
    -------
    values : float64 array (token,)
    slope : float64 array (row, q)
        Derivative of the sum by the table.
    """
    m = len(sets)
    values = np.empty(m)
    slopes = np.zeros((n_parts, table.shape[0], table.shape[1]))
    for part in nb.prange(n_parts):
        start, stop = m * part // n_parts, m * (part + 1) // n_parts
        _part(sets[start:stop], features[start:stop], table, values[start:stop], slopes[part])
    return values, slopes.sum(0)


@nb.njit(cache=True, nogil=True)
def _covariances(features, table, k, covariance):
    """Covariance of the experts at each of some tokens, (token, q, q)."""
    q = table.shape[1]
    log_weight, top, weight, taken, left, ratio, chance = _scratch(q, k)
    after = np.empty((k + 1, _BLOCK))
    joint = np.empty((q, q, _BLOCK))
    for start in range(0, len(features), _BLOCK):
        n = min(_BLOCK, len(features) - start)
        _weigh(features, table, start, n, log_weight, top, weight)
        choices(weight, taken, left, ratio)
        joint_inclusion(taken, left, chance, after, joint)
        for b in range(q):
            for c in range(q):
                for t in range(n):
                    both = joint[b, c, t] - joint[b, b, t] * joint[c, c, t]
                    covariance[start + t, b, c] = both


@nb.njit(cache=True, nogil=True)
def _add(into, matrix):
    for b in range(len(matrix)):
        row, more = into[b], matrix[b]
        for c in range(row.size):
            row[c] += more[c]


@nb.njit(cache=True, nogil=True)
def _by_row(features, n_rows):
    """Tokens that have each row, one row after the other, and where each row begins."""
    begin = np.zeros(n_rows + 2, np.int64)
    for t in range(len(features)):
        for f in range(features.shape[1]):
            begin[min(features[t, f], n_rows) + 1] += 1
    begin = np.cumsum(begin)
    place = begin.copy()
    token = np.empty(features.size, np.int64)
    for t in range(len(features)):
        for f in range(features.shape[1]):
            row = min(features[t, f], n_rows)
            token[place[row]] = t
            place[row] += 1
    return token, begin


@nb.njit(cache=True, nogil=True, parallel=True)
def information(features, table, k, n_rows):
    """Observed information of the first rows of the table: minus the second derivatives.

    Parameters
    ----------
    features : int32 array (token, feature)
        Rising for each token.
    table : float64 array (row, q)
    k : int
        Experts of a token.
    n_rows : int
        Rows that count.

    Returns
    -------
    float64 array (row, row, q, q)
        At [f, g, b, c] that of table[f, b] and table[g, c].

    Notes
    -----
    Covariances of a run of tokens are kept in the cache, and added up row by row: token by
    token they would be added all over the result, which does not fit there.
    """
    q = table.shape[1]
    run = max(_COVARIANCES // (q * q), 1)
    covariance = np.empty((run, q, q))
    result = np.zeros((n_rows, n_rows, q, q))
    for start in range(0, len(features), run):
        stop = min(start + run, len(features))
        for part in nb.prange(_PARTS):
            first = start + (stop - start) * part // _PARTS
            last = start + (stop - start) * (part + 1) // _PARTS
            _covariances(features[first:last], table, k, covariance[first - start : last - start])
        token, begin = _by_row(features[start:stop], n_rows)
        for f in nb.prange(n_rows):
            for at in range(begin[f], begin[f + 1]):
                t = token[at]
                for g in range(features.shape[1]):
                    row = features[start + t, g]
                    if f <= row < n_rows:
                        _add(result[f, row], covariance[t])
    for f in range(n_rows):
        for g in range(f):
            result[f, g] = result[g, f].T
    return result
