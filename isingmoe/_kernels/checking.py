"""One pass over the expert ids of a trace, looking for what must not be there."""

import numba as nb
import numpy as np

OUT_OF_RANGE, BELOW_MINUS_ONE, PAST_THE_END, DUPLICATE, PAST_THE_RANK = range(5)
N_FAULTS = 5


@nb.njit(cache=True, nogil=True)
def find_id_faults(expert_index, length, num_experts, top_k):
    """First offending place of each kind of fault.

    Parameters
    ----------
    expert_index : integer array (layer, sequence, position, rank)
    length : integer array (sequence,)
    num_experts, top_k : integer array (layer,)

    Returns
    -------
    int64 array (5, 4)
        For out of range, below -1, past the end, duplicate and past the layer's ranks:
        layer, sequence, position and rank of the first; -1 where there is none.
    """
    n_layers, n_sequences, n_positions, n_ranks = expert_index.shape
    first = np.full((N_FAULTS, 4), -1, np.int64)
    for layer in range(n_layers):
        for s in range(n_sequences):
            for i in range(n_positions):
                for rank in range(n_ranks):
                    expert = expert_index[layer, s, i, rank]
                    if expert == -1:
                        continue
                    fault = -1
                    if expert < -1:
                        fault = BELOW_MINUS_ONE
                    elif expert >= num_experts[layer]:
                        fault = OUT_OF_RANGE
                    elif i >= length[s]:
                        fault = PAST_THE_END
                    elif rank >= top_k[layer]:
                        fault = PAST_THE_RANK
                    else:
                        for other in range(rank):
                            if expert_index[layer, s, i, other] == expert:
                                fault = DUPLICATE
                    if fault >= 0 and first[fault, 0] < 0:
                        first[fault, 0] = layer
                        first[fault, 1] = s
                        first[fault, 2] = i
                        first[fault, 3] = rank
    return first
