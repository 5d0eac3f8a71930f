"""Likelihood of sets of experts, its gradient, and the covariances of experts.

Every token has some features, each a row of one table of log-weights: the experts of the
tokens before it at each distance, its place in the text, the text it is in. The log-weight of
an expert at a token is the sum of its column over the token's rows, each times the strength
of its feature. Tokens are taken in blocks, which fill vector registers; parts of all tokens
are taken in parallel and summed in their order.
"""

import numba as nb
import numpy as np

from isingmoe._kernels.fields import exponentiate
from isingmoe._kernels.inclusion import choices, inclusion, joint_inclusion

# Tokens of a block, and bytes of what is kept of it that stay in the second level of cache.
_LONGEST, _SHORTEST, _HELD = 64, 16, 1 << 20
# Pieces of many runs taken in parallel.
PARTS = 64
# A weight smaller than the largest by this factor, in logarithms, is taken for this small.
FURTHEST = 300.0


@nb.njit(cache=True, nogil=True)
def log_weights(features, strength, table, out):
    """Log-weights of the experts at one token."""
    out[:] = 0
    for f in range(features.size):
        row, s = table[features[f]], strength[f]
        for b in range(out.size):
            out[b] += s * row[b]


@nb.njit(cache=True, nogil=True)
def scratch_of(q, k):
    """Arrays for a block of tokens, to be made once for all the blocks of a thread."""
    width = _LONGEST
    while width > _SHORTEST and 16 * q * (k + 1) * width > _HELD:
        width //= 2
    by_label, choice = np.empty((3, q, width)), np.empty((2, q, k + 1, width))
    return np.empty((width, q)), np.empty(width), by_label, choice, np.empty((4, k + 1, width))


@nb.njit(cache=True, nogil=True)
def _weigh(features, strength, table, start, n, log_weight, top, weight):
    """Weights (q, token) of a block of tokens over the largest of each, whose log is `top`."""
    for t in range(len(log_weight)):
        # The last token fills what is left of the last block.
        row = log_weight[t]
        log_weights(features[start + min(t, n - 1)], strength, table, row)
        top[t] = row.max()
        for b in range(row.size):
            weight[b, t] = row[b] - top[t]
    for b in range(len(weight)):
        exponentiate(weight[b], 0.0, FURTHEST)


@nb.njit(cache=True, nogil=True)
def _part(sets, features, strength, times, table, scratch, values, slope, last):
    """Log-likelihood of some tokens, its gradient added to `slope`, later rows to the last."""
    q, k = table.shape[1], sets.shape[1]
    log_weight, top, by_label, choice, by_number = scratch
    weight, included = by_label[0], by_label[1]
    taken, left = choice[0], choice[1]
    ratio, chance, flow = by_number[0], by_number[1], by_number[2]
    width = len(top)
    for start in range(0, len(sets), width):
        n = min(width, len(sets) - start)
        _weigh(features, strength, table, start, n, log_weight, top, weight)
        choices(weight, taken, left, ratio)
        inclusion(taken, left, chance, flow, included)
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
            if times.size:
                for b in range(q):
                    row[b] *= times[start + t]
            for f in range(features.shape[1]):
                into, s = slope[min(features[start + t, f], last)], strength[f]
                for b in range(q):
                    into[b] += s * row[b]


@nb.njit(cache=True, nogil=True, parallel=True)
def log_likelihood(sets, features, strength, weight, table, n_parts):
    """Log-likelihood of each token, and the gradient of their sum.

    Parameters
    ----------
    sets : int16 array (token, k)
        Experts of every token.
    features : int32 array (token, feature)
        Rows of the table.
    strength : float64 array (feature,)
        What each of them is multiplied with.
    weight : float64 array (token,)
        How often each token counts; empty where each counts once.
    table : float64 array (row, q)
    n_parts : int
        Pieces taken in parallel; the gradient depends on it by rounding alone.

    Returns
    -------
    values : float64 array (token,)
        Of each token once.
    slope : float64 array (row, q)
        Derivative of the sum by the table.
    """
    m = len(sets)
    values = np.empty(m)
    slopes = np.zeros((n_parts, table.shape[0], table.shape[1]))
    for part in nb.prange(n_parts):
        start, stop = m * part // n_parts, m * (part + 1) // n_parts
        _part(
            sets[start:stop],
            features[start:stop],
            strength,
            weight[start:stop],
            table,
            scratch_of(table.shape[1], sets.shape[1]),
            values[start:stop],
            slopes[part],
            len(table) - 1,
        )
    return values, slopes.sum(0)


@nb.njit(cache=True, nogil=True, parallel=True)
def run_slopes(sets, features, edges, strength, table, n_rows):
    """Gradient of the log-likelihood of runs of tokens, by the first rows of the table.

    Parameters
    ----------
    sets, features, strength, table
        As for `log_likelihood`.
    edges : int64 array (run + 1,)
        Where each run begins and the last one ends.
    n_rows : int
        Rows that count.

    Returns
    -------
    float64 array (run, n_rows, q)
    """
    n_runs = len(edges) - 1
    slopes = np.zeros((n_runs, n_rows + 1, table.shape[1]))
    n_parts = min(n_runs, PARTS)
    for part in nb.prange(n_parts):
        scratch = scratch_of(table.shape[1], sets.shape[1])
        for run in range(n_runs * part // n_parts, n_runs * (part + 1) // n_parts):
            first, last = edges[run], edges[run + 1]
            values = np.empty(last - first)
            _part(
                sets[first:last],
                features[first:last],
                strength,
                np.empty(0),
                table,
                scratch,
                values,
                slopes[run],
                n_rows,
            )
    return slopes[:, :n_rows]


@nb.njit(cache=True, nogil=True)
def covariances(features, strength, table, k, scratch, included, covariance):
    """Chances of the experts and covariances of pairs of them at some tokens.

    Parameters
    ----------
    features : int32 array (token, feature)
    strength : float64 array (feature,)
    table : float64 array (row, q)
    k : int
        Experts of a token.
    scratch : tuple of arrays
        Of `scratch_of`.
    included : float64 array (token, q)
        Overwritten.
    covariance : float64 array (tile, token, width)
        Overwritten with the pairs (b, c), b <= c, one row of b after the other; what is
        left of the last tile is zero.
    """
    q = table.shape[1]
    log_weight, top, by_label, choice, by_number = scratch
    weight, rate, joint = by_label[0], by_label[1], by_label[2]
    taken, left = choice[0], choice[1]
    ratio, chance, flow, after = by_number[0], by_number[1], by_number[2], by_number[3]
    block = len(top)
    n_tiles, _, width = covariance.shape
    for start in range(0, len(features), block):
        n = min(block, len(features) - start)
        _weigh(features, strength, table, start, n, log_weight, top, weight)
        choices(weight, taken, left, ratio)
        inclusion(taken, left, chance, flow, rate)
        for t in range(n):
            for b in range(q):
                included[start + t, b] = rate[b, t]
        chance[:] = 0
        chance[k] = 1
        place = 0
        for b in range(q):
            joint_inclusion(b, taken, left, chance, flow, after, joint)
            for t in range(n):
                own, own_rate = included[start + t], rate[b, t]
                tile, column = divmod(place, width)
                into = covariance[tile, start + t]
                for c in range(b, q):
                    if column == width:
                        tile, column = tile + 1, 0
                        into = covariance[tile, start + t]
                    into[column] = joint[c, t] - own_rate * own[c]
                    column += 1
            place += q - b
        for t in range(n):
            covariance[n_tiles - 1, start + t, place - (n_tiles - 1) * width :] = 0


@nb.njit(cache=True, nogil=True)
def variances(features, strength, table, k, scratch, variance):
    """Variances of the experts at some tokens.

    Parameters
    ----------
    features, strength, table, k, scratch
        As for `covariances`.
    variance : float64 array (tile, token, width)
        Overwritten; what is left of the last tile is zero.
    """
    q = table.shape[1]
    log_weight, top, by_label, choice, by_number = scratch
    weight, rate = by_label[0], by_label[1]
    taken, left = choice[0], choice[1]
    ratio, chance, flow = by_number[0], by_number[1], by_number[2]
    block, width = len(top), variance.shape[2]
    for start in range(0, len(features), block):
        n = min(block, len(features) - start)
        _weigh(features, strength, table, start, n, log_weight, top, weight)
        choices(weight, taken, left, ratio)
        inclusion(taken, left, chance, flow, rate)
        for t in range(n):
            for tile in range(len(variance)):
                into = variance[tile, start + t]
                for column in range(width):
                    b = tile * width + column
                    # Sums of rounded chances may exceed one in the last digit.
                    into[column] = max(rate[b, t] * (1 - rate[b, t]), 0.0) if b < q else 0.0
