"""Slow, obvious twins of what is measured on blocks of tokens."""

import itertools

import numpy as np
from naive import corrected_for_own_mean, members
from naive import correlation as naive_correlation


def blocks_of(index, length, b):
    """Sets of the tokens of each whole block, of each sequence of one layer."""
    return [
        [[members(index[s, t * b + i]) for i in range(b)] for t in range(n // b)]
        for s, n in enumerate(length)
    ]


def coarse_curve(index, length, n_experts, b, n_lags, fewest=4):
    """Correlation of block rates: every pair of tokens, one in each block, one by one."""
    sequences = [blocks for blocks in blocks_of(index, length, b) if len(blocks) >= fewest]
    tokens = [s for blocks in sequences for block in blocks for s in block if s]
    rate = [sum(e in s for s in tokens) / max(len(tokens), 1) for e in range(n_experts)]
    curve = []
    for lag in range(n_lags + 1):
        shared = [
            len(first & second)
            for blocks in sequences
            for one, other in zip(blocks, blocks[lag:], strict=False)
            for first, second in itertools.product(one, other)
            if first and second
        ]
        curve.append(np.mean(shared) - np.square(rate).sum() if shared else np.nan)
    return np.array(curve)


def rate_curve(index, length, n_experts, b, n_lags, fewest=4):
    """The same without gaps, as one would write it down: covariances of rates, summed."""
    rates = [
        [[np.mean([e in s for s in block]) for e in range(n_experts)] for block in blocks]
        for blocks in blocks_of(index, length, b)
        if len(blocks) >= fewest
    ]
    mean = np.mean([rate for blocks in rates for rate in blocks], axis=0)
    return np.array(
        [
            np.mean(
                [
                    np.dot(one, other)
                    for blocks in rates
                    for one, other in zip(blocks, blocks[lag:], strict=False)
                ]
            )
            - mean @ mean
            for lag in range(n_lags + 1)
        ]
    )


def window_curve(index, length, n_experts, b, max_distance):
    """Correlation inside windows of b tokens, each about its own mean, corrected for it."""
    cut = [index[s, t * b : (t + 1) * b] for s, n in enumerate(length) for t in range(n // b)]
    cut = np.array(cut)
    recorded = [[bool(members(row)) for row in window] for window in cut]
    curve = [
        naive_correlation(cut, d, n_experts, "sequence")
        if any(a and c for row in recorded for a, c in zip(row, row[d:], strict=False))
        else np.nan
        for d in range(max_distance + 1)
    ]
    return corrected_for_own_mean(cut, np.array(curve))


def eigenvalue_curve(transition, b, n_lags):
    """Correlation of block rates of a Markov chain at the lags from 1, by its eigenvalues.

    The sums over the tokens of two blocks are geometric series.
    """
    values, right = np.linalg.eig(transition)
    left = np.linalg.inv(right)
    order = np.abs(values - 1).argsort()
    stationary = left[order[0]].real / left[order[0]].real.sum()
    curve = np.zeros(n_lags)
    for j in order[1:]:
        w = (stationary * right[:, j] * left[j]).sum()
        series = (1 - values[j] ** b) / (b * (1 - values[j]))
        curve += [
            (w * values[j] ** (b * (m - 1) + 1) * series**2).real for m in range(1, n_lags + 1)
        ]
    return curve
