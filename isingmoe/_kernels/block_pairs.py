"""Pairs of tokens in two blocks at a lag, and at a distance inside one block.

Everything but the chance is counted in integers. A token without a recorded expert is the
empty set; it counts for nothing.
"""

import numba as nb
import numpy as np

from isingmoe._kernels.bits import count_bits

_ONE = np.uint64(1)


@nb.njit(cache=True, nogil=True)
def block_sums(sets, length, block_lengths, windows, fewest, n_lags, n_experts):
    """Sums over the whole blocks of every sequence, for several lengths of block.

    Parameters
    ----------
    sets : uint64 array (sequence, word, position)
    length : int64 array (sequence,)
        Tokens of each sequence.
    block_lengths, windows : int64 array (block_length,)
        Tokens in a block, and the largest distance of pairs inside it; 0 for none.
    fewest : int
        A sequence of fewer whole blocks is left out of all but `pairs`, `excess` and `share`.
    n_lags, n_experts : int

    Returns
    -------
    tokens : int64 array (sequence, block_length)
        Recorded tokens in the blocks.
    occupied : int64 array (sequence, block_length, expert)
        How many of these each expert serves.
    weight, product : int64 array (sequence, block_length, lag)
        Pairs of recorded tokens, one in each of two blocks at the lag 0 to `n_lags`, and the
        experts that they share, summed: of blocks with x of n tokens at an expert, n n' and
        x x'. At lag 0 a token is paired with itself too.
    pairs : int64 array (sequence, block_length, distance)
        Pairs of recorded tokens at a distance inside one block; at 0 the tokens themselves.
    excess : float64 array (sequence, block_length, distance)
        Experts they share, less what the tokens of their block would in random order.
    share : float64 array (block_length, distance, distance)
        [d, j] is the sum over blocks of n tokens of pairs at d, times pairs at j over
        n (n - 1) / 2; 0 at j = 0 and beyond a quarter of n.
    """
    n_sequences, _, n_positions = sets.shape
    n_lengths, furthest = len(block_lengths), windows.max()
    tokens = np.zeros((n_sequences, n_lengths), np.int64)
    occupied = np.zeros((n_sequences, n_lengths, n_experts), np.int64)
    weight = np.zeros((n_sequences, n_lengths, n_lags + 1), np.int64)
    product = np.zeros((n_sequences, n_lengths, n_lags + 1), np.int64)
    pairs = np.zeros((n_sequences, n_lengths, furthest + 1), np.int64)
    excess = np.zeros((n_sequences, n_lengths, furthest + 1))
    share = np.zeros((n_lengths, furthest + 1, furthest + 1))
    reach = max(furthest, n_lags)
    pair_sum = np.zeros((reach + 1, n_positions + 1), np.int64)
    shared_sum = np.zeros((reach + 1, n_positions + 1), np.int64)
    counts = np.zeros((n_positions // block_lengths.min(), n_experts), np.int32)
    for s in range(n_sequences):
        _running_sums(sets[s], length[s], pair_sum, shared_sum)
        for j in range(n_lengths):
            b, within = block_lengths[j], windows[j]
            n = length[s] // b
            if n == 0 or (n < fewest and within == 0):
                continue
            _count(sets[s], n, b, counts)
            if n >= fewest:
                tokens[s, j] = pair_sum[0, n * b]
                for t in range(n):
                    occupied[s, j] += counts[t]
                if b == 1:
                    last = min(n_lags, n - 1)
                    weight[s, j, : last + 1] = pair_sum[: last + 1, n]
                    product[s, j, : last + 1] = shared_sum[: last + 1, n]
                else:
                    _products(counts, pair_sum[0], n, b, weight[s, j], product[s, j])
            if within > 0:
                sums = (pairs[s, j], excess[s, j], share[j])
                _windows(counts, pair_sum, shared_sum, n, b, within, *sums)
    return tokens, occupied, weight, product, pairs, excess, share


@nb.njit(cache=True, nogil=True)
def _running_sums(sets, length, pair_sum, shared_sum):
    """Pairs of recorded tokens at each distance, and experts they share, before a position.

    A pair stands at the position of its first token.
    """
    n_words = sets.shape[0]
    recorded = np.zeros(length, np.int64)
    for w in range(n_words):
        for i in range(length):
            recorded[i] |= sets[w, i] != 0
    shared = np.empty(length, np.int64)
    for d in range(min(len(pair_sum), length)):
        n_pairs = length - d
        shared[:] = 0
        for w in range(n_words):
            row = sets[w]
            for i in range(n_pairs):
                shared[i] += count_bits(row[i] & row[i + d])
        n, m = 0, 0
        for i in range(n_pairs):
            n += recorded[i] & recorded[i + d]
            m += shared[i]
            pair_sum[d, i + 1] = n
            shared_sum[d, i + 1] = m
        pair_sum[d, n_pairs + 1 : length + 1] = n
        shared_sum[d, n_pairs + 1 : length + 1] = m


@nb.njit(cache=True, nogil=True)
def _count(sets, n, b, counts):
    """Tokens that each expert serves in each of n blocks."""
    counts[:n] = 0
    for w in range(sets.shape[0]):
        for t in range(n):
            for i in range(t * b, (t + 1) * b):
                word = sets[w, i]
                while word != 0:
                    lowest = word & (~word + _ONE)
                    counts[t, 64 * w + count_bits(lowest - _ONE)] += 1
                    word ^= lowest


@nb.njit(cache=True, nogil=True)
def _products(counts, recorded, n, b, weight, product):
    """Pairs of tokens of two blocks, and experts they share, summed at each lag."""
    for lag in range(min(len(weight), n)):
        for t in range(n - lag):
            first = recorded[(t + 1) * b] - recorded[t * b]
            second = recorded[(t + lag + 1) * b] - recorded[(t + lag) * b]
            weight[lag] += first * second
            total = np.int64(0)
            for e in range(counts.shape[1]):
                total += np.int64(counts[t, e]) * np.int64(counts[t + lag, e])
            product[lag] += total


@nb.njit(cache=True, nogil=True)
def _windows(counts, pair_sum, shared_sum, n, b, within, pairs, excess, share):
    """Overlaps at each distance inside each block, about their mean in random order."""
    here = np.empty(within + 1, np.int64)
    n_whole = 0
    for t in range(n):
        start = t * b
        recorded = pair_sum[0, start + b] - pair_sum[0, start]
        by_chance = np.int64(0)
        for e in range(counts.shape[1]):
            x = np.int64(counts[t, e])
            by_chance += x * (x - 1)
        chance = by_chance / max(recorded * (recorded - 1), 1)
        for d in range(within + 1):
            end = start + b - d
            here[d] = pair_sum[d, end] - pair_sum[d, start]
            pairs[d] += here[d]
            excess[d] += shared_sum[d, end] - shared_sum[d, start] - here[d] * chance
        if recorded == b:
            n_whole += 1
        else:
            _add_share(here, recorded, 1, share)
    # Of windows without gaps the pairs are known.
    for d in range(within + 1):
        here[d] = b - d
    _add_share(here, b, n_whole, share)


@nb.njit(cache=True, nogil=True)
def _add_share(here, recorded, times, share):
    last = min(len(here) - 1, recorded // 4)
    for d in range(len(here)):
        for j in range(1, last + 1):
            share[d, j] += times * here[d] * (2 * here[j] / (recorded * (recorded - 1)))
