"""Observed information of the table of log-weights: sums of covariances over tokens.

The information of two rows of the table is the sum, over the tokens that have both, of the
covariance matrices of their experts. Only pairs of rows f <= g and pairs of experts b <= c are
kept. Covariances of a run of tokens are held in tiles of few columns that fit in the cache,
and the sum of a pair of rows in a tile stays in the first level of it while its tokens are
added.
"""

import numba as nb
import numpy as np

from isingmoe._kernels.kinetic import PARTS, covariances, scratch_of, variances

# Tokens of a run, and columns of a tile.
_RUN, _WIDTH = 512, 32
# Pieces of a run taken in parallel, each with scratch space of its own.
_PARTS = 4


@nb.njit(cache=True, nogil=True)
def _by_pair(features, strength, n_rows):
    """Tokens that have each pair of rows, their weights, and where each pair begins."""
    n_pairs = n_rows * (n_rows + 1) // 2
    begin = np.zeros(n_pairs + 1, np.int64)
    token, weight = np.empty(0, np.int32), np.empty(0)
    for filling in range(2):
        if filling:
            total = 0
            for pair in range(n_pairs + 1):
                here = begin[pair]
                begin[pair] = total
                total += here
            token, weight = np.empty(total, np.int32), np.empty(total)
        for t in range(len(features)):
            for j in range(features.shape[1]):
                g = features[t, j]
                if g >= n_rows:
                    continue
                for i in range(features.shape[1]):
                    f = features[t, i]
                    if f <= g:
                        pair = g * (g + 1) // 2 + f
                        if filling:
                            token[begin[pair]] = t
                            weight[begin[pair]] = strength[i] * strength[j]
                        begin[pair] += 1
    # Every beginning has moved to the next one.
    begin[1:] = begin[:-1].copy()
    begin[0] = 0
    return token, weight, begin


@nb.njit(cache=True, nogil=True)
def _add_tile(token, weight, begin, tile, into):
    for pair in range(len(into)):
        total = into[pair]
        for at in range(begin[pair], begin[pair + 1]):
            row, w = tile[token[at]], weight[at]
            for column in range(total.size):
                total[column] += w * row[column]


@nb.njit(cache=True, nogil=True)
def _moments(features, strength, table, k, whole, scratch, moments):
    """Covariances or variances of the experts at some tokens, in tiles."""
    if whole:
        included = np.empty((len(features), table.shape[1]))
        covariances(features, strength, table, k, scratch, included, moments)
    else:
        variances(features, strength, table, k, scratch, moments)


@nb.njit(cache=True, nogil=True, parallel=True)
def information(features, strength, weight, table, k, n_rows, whole):
    """Observed information of the first rows of the table: minus the second derivatives.

    Parameters
    ----------
    features : int32 array (token, feature)
        A row that a token has twice acts with both strengths.
    strength : float64 array (feature,)
    weight : float64 array (token,)
        How often each token counts; empty where each counts once.
    table : float64 array (row, q)
    k : int
        Experts of a token.
    n_rows : int
        Rows that count.
    whole : bool
        Whether of all pairs of experts, or of each with itself alone.

    Returns
    -------
    float64 array (tile, pair of rows, width)
        For rows f <= g at g (g + 1) / 2 + f: for each expert b that of table[f, b] and
        table[g, b], or for the pairs of experts b <= c, one row of b after the other, that of
        table[f, b] and table[g, c], and of table[f, c] and table[g, b].
    """
    q = table.shape[1]
    n_columns = q * (q + 1) // 2 if whole else q
    n_tiles = -(-n_columns // _WIDTH)
    result = np.zeros((n_tiles, n_rows * (n_rows + 1) // 2, _WIDTH))
    moments = np.empty((n_tiles, _RUN, _WIDTH))
    scratch = [scratch_of(q, k) for _ in range(_PARTS)]
    for start in range(0, len(features), _RUN):
        n = min(_RUN, len(features) - start)
        for part in nb.prange(_PARTS):
            first, last = n * part // _PARTS, n * (part + 1) // _PARTS
            some = features[start + first : start + last]
            _moments(some, strength, table, k, whole, scratch[part], moments[:, first:last])
            if weight.size:
                for t in range(first, last):
                    moments[:, t] *= weight[start + t]
        token, product, begin = _by_pair(features[start : start + n], strength, n_rows)
        for tile in nb.prange(n_tiles):
            _add_tile(token, product, begin, moments[tile], result[tile])
    return result


@nb.njit(cache=True, nogil=True)
def _add_rows(features, strength, table, k, whole, scratch, into):
    n_rows, n_columns = len(into) - 1, into.shape[1]
    moments = np.empty((1, min(_RUN, max(len(features), 1)), n_columns))
    for start in range(0, len(features), _RUN):
        n = min(_RUN, len(features) - start)
        some = features[start : start + n]
        _moments(some, strength, table, k, whole, scratch, moments[:, :n])
        for t in range(n):
            own = moments[0, t]
            for f in range(features.shape[1] + 1):
                at = some[t, f] if f < features.shape[1] else n_rows
                if at < n_rows or f == features.shape[1]:
                    row, s = into[at], strength[f] if at < n_rows else 1.0
                    for column in range(n_columns):
                        row[column] += s * own[column]


@nb.njit(cache=True, nogil=True, parallel=True)
def row_information(features, edges, strength, table, k, n_rows, whole):
    """The same summed over runs of tokens: of those with each of the first rows, and of all.

    Parameters
    ----------
    features : int32 array (token, feature)
    edges : int64 array (run + 1,)
        Where each run begins and the last one ends.
    strength, table, k, n_rows, whole
        As for `information`.

    Returns
    -------
    float64 array (run, n_rows + 1, expert or pair of experts)
        The last row is that of all tokens.
    """
    q = table.shape[1]
    n_columns = q * (q + 1) // 2 if whole else q
    n_runs = len(edges) - 1
    result = np.zeros((n_runs, n_rows + 1, n_columns))
    n_parts = min(n_runs, PARTS)
    for part in nb.prange(n_parts):
        scratch = scratch_of(q, k)
        for run in range(n_runs * part // n_parts, n_runs * (part + 1) // n_parts):
            some = features[edges[run] : edges[run + 1]]
            _add_rows(some, strength, table, k, whole, scratch, result[run])
    return result
