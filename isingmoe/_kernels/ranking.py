"""Ranks of recorded experts, put into the order of their weights."""

import numba as nb
import numpy as np

TOO_LARGE, NOT_FINITE = range(2)


@nb.njit(cache=True, nogil=True)
def rank_experts(expert_index, gate_weight, start, stop, num_experts):
    """Rank the experts of every token by falling weight, in place.

    An expert of weight 0 becomes none. One that stands twice keeps its larger place, with both
    weights. Equal weights keep their order. What is none comes last.

    Parameters
    ----------
    expert_index : int16 array (sequence, position, layer, rank)
        -1 for none.
    gate_weight : float32 array (sequence, position, layer, rank)
        Of no size where there are no weights: the order stays then.
    start, stop : int64 array (sequence,)
        Positions to look at.
    num_experts : int64 array (layer,)

    Returns
    -------
    int64 array (2, 4)
        First id that is too large, and first weight that is not finite: sequence, position,
        layer and rank as they were; -1 where there is none.
    """
    n_sequences, _, n_layers, n_ranks = expert_index.shape
    weighted = gate_weight.size > 0
    faults = np.full((2, 4), -1, np.int64)
    for s in range(n_sequences):
        for i in range(start[s], stop[s]):
            for layer in range(n_layers):
                ids = expert_index[s, i, layer]
                for rank in range(n_ranks):
                    fault = -1
                    if ids[rank] >= num_experts[layer]:
                        fault = TOO_LARGE
                    elif (
                        weighted
                        and ids[rank] >= 0
                        and not np.isfinite(gate_weight[s, i, layer, rank])
                    ):
                        fault = NOT_FINITE
                    if fault >= 0 and faults[fault, 0] < 0:
                        faults[fault, 0] = s
                        faults[fault, 1] = i
                        faults[fault, 2] = layer
                        faults[fault, 3] = rank
                if weighted:
                    _sort(ids, gate_weight[s, i, layer])
                    if _merge(ids, gate_weight[s, i, layer]):
                        _sort(ids, gate_weight[s, i, layer])
                else:
                    _drop(ids)
    return faults


@nb.njit(cache=True, nogil=True, inline="always")
def _sort(ids, weights):
    """Sort by insertion: there are few, and mostly they are in order."""
    for rank in range(ids.size):
        expert, weight = ids[rank], weights[rank]
        if expert < 0 or weight == 0:
            expert, weight = np.int16(-1), np.float32(np.nan)
        place = rank
        if expert >= 0:
            while place > 0 and (ids[place - 1] < 0 or weights[place - 1] < weight):
                ids[place], weights[place] = ids[place - 1], weights[place - 1]
                place -= 1
        ids[place], weights[place] = expert, weight


@nb.njit(cache=True, nogil=True, inline="always")
def _merge(ids, weights):
    merged = False
    for later in range(1, ids.size):
        for earlier in range(later):
            if ids[later] >= 0 and ids[earlier] == ids[later]:
                ids[later] = -1
                weights[earlier] += weights[later]
                merged = True
                break
    return merged


@nb.njit(cache=True, nogil=True, inline="always")
def _drop(ids):
    for later in range(1, ids.size):
        for earlier in range(later):
            if ids[later] >= 0 and ids[earlier] == ids[later]:
                ids[later] = -1
