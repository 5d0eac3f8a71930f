"""Slow, obvious twins of what is measured against position."""

import itertools
import math

import numpy as np


def tokens_of(traces, place):
    """(sequence, absolute position, experts) of every token of a layer that has any."""
    start = traces["start_position"].values if "start_position" in traces else None
    for s, n in enumerate(traces["length"].values):
        for i in range(int(n)):
            experts = [int(e) for e in traces["expert_index"].values[place, s, i] if e >= 0]
            if experts:
                yield s, i + (0 if start is None else int(start[s])), experts


def counts(traces, place, block_length):
    """Tokens (sequence, block) and those that each expert serves, in dictionaries."""
    start = traces["start_position"].values if "start_position" in traces else None
    length = traces["length"].values
    begin = np.zeros(len(length), int) if start is None else start
    origin = min(int(b) for b, n in zip(begin, length, strict=True) if n)
    tokens, served = {}, {}
    for s, position, experts in tokens_of(traces, place):
        block = (position - origin) // block_length
        tokens[s, block] = tokens.get((s, block), 0) + 1
        for e in experts:
            served[s, block, e] = served.get((s, block, e), 0) + 1
    end = max(int(b) + int(n) for b, n in zip(begin, length, strict=True) if n)
    return tokens, served, math.ceil((end - origin) / block_length), origin


def rates(traces, place, block_length):
    """Rate and its error over sequences, (expert, block)."""
    tokens, served, n_blocks, _ = counts(traces, place, block_length)
    n_experts, n_sequences = int(traces.attrs["num_experts"]), traces.sizes["sequence"]
    rate, error = np.full((2, n_experts, n_blocks), np.nan)
    for e, b in itertools.product(range(n_experts), range(n_blocks)):
        pairs = [
            (served.get((s, b, e), 0), tokens[s, b]) for s in range(n_sequences) if (s, b) in tokens
        ]
        n = sum(t for _, t in pairs)
        if n == 0:
            continue
        rate[e, b] = sum(c for c, _ in pairs) / n
        if len(pairs) > 1:
            squares = sum((c - t * rate[e, b]) ** 2 for c, t in pairs)
            error[e, b] = math.sqrt(squares * len(pairs) / (len(pairs) - 1)) / n
    return rate, error


def surplus(traces, place, block_length):
    """Tokens of an expert in a block beyond its rate in the sequence: (sequence, expert, block)."""
    tokens, served, n_blocks, _ = counts(traces, place, block_length)
    n_experts, n_sequences = int(traces.attrs["num_experts"]), traces.sizes["sequence"]
    result = np.zeros((n_sequences, n_experts, n_blocks))
    whole = np.zeros(n_blocks)
    for s in range(n_sequences):
        n = sum(tokens.get((s, b), 0) for b in range(n_blocks))
        for b in range(n_blocks):
            whole[b] += tokens.get((s, b), 0)
        for e in range(n_experts if n else 0):
            own = sum(served.get((s, b, e), 0) for b in range(n_blocks)) / n
            for b in range(n_blocks):
                result[s, e, b] = served.get((s, b, e), 0) - tokens.get((s, b), 0) * own
    compared = [s for s in range(n_sequences) if sum((s, b) in tokens for b in range(n_blocks)) > 1]
    return result, whole, compared


def scatter(vectors):
    """Square of the sum of vectors, its mean without a mean, and its degrees of freedom.

    tr C^2 by products of pairs, solved for the products that the common mean takes off.
    """
    n, size = vectors.shape
    total = vectors.sum(0)
    centred = vectors - total / n
    trace = sum(float(v @ v) for v in centred) / (n - 1)
    if n == 2:
        return float(total @ total), n * trace, 1.0
    squares = sum(
        float(centred[s] @ centred[t]) ** 2
        for s, t in itertools.product(range(n), repeat=2)
        if s != t
    ) / (n * (n - 1))
    weight = (1 - 1 / n) ** 2 + 1 / n**2 - 2 / (n**2 * (n - 1))
    square = (squares - trace**2 / n**2) / weight
    if trace == 0:
        return float(total @ total), 0.0, np.nan
    ratio = min(max(square / trace**2, 1 / size), 1)
    freedom = 1 / min(ratio + 2 / n**2, 1)
    return float(total @ total), n * trace, freedom


def information(rate, weight):
    """Bits that a block says of whether an expert serves, from the joint distribution."""
    total = 0.0
    whole = sum(w * r for w, r in zip(weight, rate, strict=True))
    for w, r in zip(weight, rate, strict=True):
        for p, q in ((r, whole), (1 - r, 1 - whole)):
            if w > 0 and p > 0:
                total += w * p * math.log2(p / q)
    return total


def dispersion(traces, place, block_length):
    """Sum over experts and blocks of the squared surplus over the tokens and the rate."""
    part, whole, _ = surplus(traces, place, block_length)
    _, served, n_blocks, _ = counts(traces, place, block_length)
    total = 0.0
    for e in range(part.shape[1]):
        rate = sum(n for (_, _, other), n in served.items() if other == e) / whole.sum()
        for b in range(n_blocks):
            if whole[b] and rate:
                total += part[:, e, b].sum() ** 2 / (whole[b] * rate)
    return total


def mean_shuffled_dispersion(traces, block_length):
    """Mean of the dispersion over every order of the tokens of every sequence."""
    index = traces["expert_index"].values
    length = traces["length"].values.astype(int)
    orders = [list(itertools.permutations(range(n))) for n in length]
    values = []
    for chosen in itertools.product(*orders):
        moved = index.copy()
        for s, order in enumerate(chosen):
            moved[0, s, : length[s]] = index[0, s, list(order)]
        shuffled = traces.assign(expert_index=traces["expert_index"].copy(data=moved))
        values.append(dispersion(shuffled, 0, block_length))
    return np.mean(values)


def load_numbers(served, n_tokens, k):
    """Entropy and distance from uniform of a load, both corrected, from counts."""
    total = sum(served)
    entropy = -sum(c / total * math.log(c / total) for c in served if c)
    bias = (sum(c > 0 for c in served) - k) / (2 * k * n_tokens)
    return entropy + bias, math.log(len(served)) - entropy - bias


def kinetic_reading(chain, index):
    """Energy and free energy of a token of a kinetic chain, sum over all sets."""
    q, k = chain.n_states, chain.top_k
    sets = list(itertools.combinations(range(q), k))
    J, h = np.asarray(chain.J).reshape(-1, q, q)[0], np.asarray(chain.h)
    energy, free_energy = [], []
    for sequence in index:
        for before, token in itertools.pairwise(sequence):
            theta = h + sum(J[a] for a in before)
            weights = [sum(theta[b] for b in labels) for labels in sets]
            energy.append(-sum(theta[b] for b in token))
            free_energy.append(-math.log(sum(math.exp(w) for w in weights)))
    return np.mean(energy), np.mean(free_energy)
