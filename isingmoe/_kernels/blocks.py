"""How often experts serve the tokens of each block of positions, as read and in random order."""

import numba as nb
import numpy as np

from isingmoe._kernels.random import below, loaded, next_word


@nb.njit(cache=True, nogil=True, inline="always")
def _add(tokens, into):
    """Count the experts of a token, and whether it has any."""
    held = 0
    for rank in range(tokens.size):
        if tokens[rank] >= 0:
            into[tokens[rank]] += 1
            held = 1
    return held


@nb.njit(cache=True, nogil=True)
def block_counts(index, length, first, block_length, n_blocks, n_experts):
    """Tokens of each sequence that each expert serves in each block of positions.

    Parameters
    ----------
    index : int16 array (sequence, position, rank)
        Expert ids below `n_experts`; negative where there is none.
    length : int64 array (sequence,)
    first : int64 array (sequence,)
        Position of the first token, counted from the start of the first block.
    block_length, n_blocks, n_experts : int

    Returns
    -------
    tokens : int64 array (sequence, block)
        Tokens with a recorded expert.
    served : int64 array (sequence, block, expert)
    """
    n_sequences = len(index)
    tokens = np.zeros((n_sequences, n_blocks), np.int64)
    served = np.zeros((n_sequences, n_blocks, n_experts), np.int64)
    for s in range(n_sequences):
        for i in range(length[s]):
            block = (first[s] + i) // block_length
            tokens[s, block] += _add(index[s, i], served[s, block])
    return tokens, served


@nb.njit(cache=True, nogil=True)
def _recorded(index, length, n_experts):
    """Experts of the tokens that have any, one sequence after the other, and where each begins.

    A rank without an expert has the number `n_experts`.
    """
    n_sequences, n_positions, n_ranks = index.shape
    members = np.empty((n_sequences * n_positions, n_ranks), np.int16)
    edges = np.zeros(n_sequences + 1, np.int64)
    n = 0
    for s in range(n_sequences):
        for i in range(length[s]):
            held = False
            for rank in range(n_ranks):
                expert = index[s, i, rank]
                held |= expert >= 0
                members[n, rank] = expert if expert >= 0 else n_experts
            n += held
        edges[s + 1] = n
    return members[:n], edges


@nb.njit(cache=True, nogil=True)
def _shuffle(members, edges, tokens, state, order, counts):
    """Count the experts in each block once, the tokens of every sequence in random order."""
    for s in range(len(tokens)):
        start = edges[s]
        n = edges[s + 1] - start
        for i in range(n):
            order[i] = i
        i = 0
        for block in range(tokens.shape[1]):
            into = counts[block]
            for _ in range(tokens[s, block]):
                word, state = next_word(state)
                other = i + below(word, n - i)
                token = order[other]
                order[other] = order[i]
                i += 1
                row = members[start + token]
                for rank in range(row.size):
                    into[row[rank]] += 1


@nb.njit(cache=True, nogil=True, parallel=True)
def shuffled_counts(index, length, tokens, n_experts, words):
    """Tokens that each expert serves in each block, those of every sequence in random order.

    Parameters
    ----------
    index, length, n_experts
        As for `block_counts`.
    tokens : int64 array (sequence, block)
        Of `block_counts`: gaps stay where they are.
    words : uint64 array (shuffle, 4)
        A generator for each shuffle.

    Returns
    -------
    int64 array (shuffle, block, expert)
        Summed over the sequences.
    """
    members, edges = _recorded(index, length, n_experts)
    # The last column takes the ranks without an expert.
    counts = np.zeros((len(words), tokens.shape[1], n_experts + 1), np.int64)
    longest = index.shape[1]
    for r in nb.prange(len(words)):
        order = np.empty(longest, np.int32)
        _shuffle(members, edges, tokens, loaded(words[r]), order, counts[r])
    return counts[:, :, :n_experts]


@nb.njit(cache=True, nogil=True)
def uniform_counts(n_tokens, n_experts, k, words):
    """Tokens that each expert serves of a router without preference.

    Parameters
    ----------
    n_tokens, n_experts, k : int
        Every token has k different experts, all sets alike likely.
    words : uint64 array (draw, 4)
        A generator for each draw.

    Returns
    -------
    int64 array (draw, expert)
    """
    counts = np.zeros((len(words), n_experts), np.int64)
    for r in range(len(words)):
        state = loaded(words[r])
        label = np.arange(n_experts)
        for _ in range(n_tokens):
            for i in range(k):
                word, state = next_word(state)
                other = i + below(word, n_experts - i)
                label[i], label[other] = label[other], label[i]
                counts[r, label[i]] += 1
    return counts
