"""Experts shared by two tokens at a distance, from bit sets.

A set of experts is held as a bit set of 64-bit words, so that the overlap of two
tokens is one `and` and one population count whatever the number of experts per token.
A token without a recorded expert is the empty set; it forms no pair.
"""

import numba as nb
import numpy as np

from isingmoe._kernels.bits import count_bits, lowest_bit


@nb.njit(cache=True, nogil=True, inline="always")
def _is_empty(sets, s, i):
    for w in range(sets.shape[1]):
        if sets[s, w, i] != 0:
            return False
    return True


@nb.njit(cache=True, nogil=True, inline="always")
def _add_members(counts, w, word):
    """Add one to the count of every expert in word w of a set."""
    while word != 0:
        counts[64 * w + lowest_bit(word)] += 1
        word &= word - np.uint64(1)


@nb.njit(cache=True, nogil=True, parallel=True)
def pack_sets(expert_index, n_words):
    """Bit sets of experts.

    Parameters
    ----------
    expert_index : int16 array (sequence, position, rank)
        Expert ids; negative where there is none.
    n_words : int
        64-bit words per set.

    Returns
    -------
    sets : uint64 array (sequence, word, position)
        Positions run fastest, so that the overlaps at one distance are a stream.
    lowest, highest : int
        Smallest and largest id met; one of 64 * n_words or more is left out of the sets.
    """
    n_sequences, n_positions, n_ranks = expert_index.shape
    sets = np.zeros((n_sequences, n_words, n_positions), np.uint64)
    lowest = np.zeros(n_sequences, np.int64)
    highest = np.full(n_sequences, -1, np.int64)
    for s in nb.prange(n_sequences):
        for i in range(n_positions):
            for rank in range(n_ranks):
                expert = np.int64(expert_index[s, i, rank])
                lowest[s] = min(lowest[s], expert)
                highest[s] = max(highest[s], expert)
                if 0 <= expert < 64 * n_words:
                    bit = np.uint64(1) << np.uint64(expert & 63)
                    sets[s, expert >> 6, i] |= bit
    return sets, lowest.min(), highest.max()


@nb.njit(cache=True, nogil=True, parallel=True)
def unpack_sets(sets, n_ranks):
    """Experts of bit sets, the lowest id first.

    Parameters
    ----------
    sets : uint64 array (sequence, word, position)
    n_ranks : int
        Experts of the largest set.

    Returns
    -------
    int16 array (sequence, position, rank)
        -1 where there is none.
    """
    n_sequences, n_words, n_positions = sets.shape
    index = np.full((n_sequences, n_positions, n_ranks), -1, np.int16)
    for s in nb.prange(n_sequences):
        for i in range(n_positions):
            rank = 0
            for w in range(n_words):
                word = sets[s, w, i]
                while word != 0:
                    index[s, i, rank] = 64 * w + lowest_bit(word)
                    word &= word - np.uint64(1)
                    rank += 1
    return index


@nb.njit(cache=True, nogil=True, parallel=True)
def occupancy_counts(sets, n_experts):
    """Number of tokens of each sequence that each expert serves.

    Parameters
    ----------
    sets : uint64 array (sequence, word, position)
    n_experts : int

    Returns
    -------
    tokens : int64 array (sequence,)
        Tokens with a recorded expert.
    occupied : int64 array (sequence, expert)
    """
    n_sequences, n_words, n_positions = sets.shape
    tokens = np.zeros(n_sequences, np.int64)
    occupied = np.zeros((n_sequences, n_experts), np.int64)
    for s in nb.prange(n_sequences):
        for i in range(n_positions):
            if _is_empty(sets, s, i):
                continue
            tokens[s] += 1
            for w in range(n_words):
                _add_members(occupied[s], w, sets[s, w, i])
    return tokens, occupied


@nb.njit(cache=True, nogil=True, parallel=True)
def pair_overlaps(sets, distances):
    """Overlap of the sets at each distance, summed over the pairs of each sequence.

    Parameters
    ----------
    sets : uint64 array (sequence, word, position)
    distances : int64 array (distance,)

    Returns
    -------
    pairs : int64 array (sequence, distance)
        Pairs of tokens with a recorded expert at both ends.
    overlap : int64 array (sequence, distance)
        Sum of |S_i and S_{i+d}| over those pairs.
    """
    n_sequences, n_words, n_positions = sets.shape
    pairs = np.zeros((n_sequences, distances.size), np.int64)
    overlap = np.zeros((n_sequences, distances.size), np.int64)
    for s in nb.prange(n_sequences):
        present = np.zeros(n_positions, np.int64)
        for i in range(n_positions):
            present[i] = not _is_empty(sets, s, i)
        for j in range(distances.size):
            d = distances[j]
            n = 0
            for i in range(n_positions - d):
                n += present[i] & present[i + d]
            shared = 0
            for w in range(n_words):
                row = sets[s, w]
                for i in range(n_positions - d):
                    shared += count_bits(row[i] & row[i + d])
            pairs[s, j] = n
            overlap[s, j] = shared
    return pairs, overlap


@nb.njit(cache=True, nogil=True, parallel=True)
def expert_pairs(sets, distances, n_experts, n_parts):
    """Pairs at each distance with an expert at both ends, at the left end, at the right end.

    Parameters
    ----------
    sets : uint64 array (sequence, word, position)
    distances : int64 array (distance,)
    n_experts : int
    n_parts : int
        Pieces counted in parallel.

    Returns
    -------
    pairs : int64 array (distance,)
    both, left, right : int64 array (distance, expert)
    """
    n_sequences, n_words, n_positions = sets.shape
    pairs = np.zeros((n_parts, distances.size), np.int64)
    counts = np.zeros((n_parts, distances.size, 3, n_experts), np.int64)
    for part in nb.prange(n_parts):
        for s in range(n_sequences * part // n_parts, n_sequences * (part + 1) // n_parts):
            for j in range(distances.size):
                d = distances[j]
                for i in range(n_positions - d):
                    if _is_empty(sets, s, i) or _is_empty(sets, s, i + d):
                        continue
                    pairs[part, j] += 1
                    for w in range(n_words):
                        first = sets[s, w, i]
                        second = sets[s, w, i + d]
                        _add_members(counts[part, j, 0], w, first & second)
                        _add_members(counts[part, j, 1], w, first)
                        _add_members(counts[part, j, 2], w, second)
    total = counts.sum(0)
    return pairs.sum(0), total[:, 0], total[:, 1], total[:, 2]
