"""Slow, obvious twins of the goodness of fit and of the Chapman-Kolmogorov test."""

import itertools

import numpy as np


def sets_of(index):
    """Tokens of a layer (sequence, position, rank) as sets; None where nothing is recorded."""
    return [
        [frozenset(int(e) for e in token if e >= 0) or None for token in sequence]
        for sequence in index
    ]


def correlation(index, n_experts, max_distance):
    """C(d) about one mean for each expert, pair by pair; NaN without pairs."""
    sequences = sets_of(index)
    tokens = [token for sequence in sequences for token in sequence if token]
    rate = [sum(e in token for token in tokens) / len(tokens) for e in range(n_experts)]
    curve = []
    for d in range(max_distance + 1):
        n, shared = 0, 0
        for sequence in sequences:
            for i in range(len(sequence) - d):
                if sequence[i] and sequence[i + d]:
                    n += 1
                    shared += len(sequence[i] & sequence[i + d])
        curve.append(shared / n - sum(r * r for r in rate) if n else np.nan)
    return np.array(curve)


def departures(curves):
    """Each curve less the mean of all others, over their standard deviation."""
    result = []
    for j in range(len(curves)):
        others = np.delete(curves, j, axis=0)
        result.append((curves[j] - others.mean(0)) / others.std(0, ddof=1))
    return np.array(result)


def p_value(measured, simulated):
    return (1 + sum(s >= measured for s in simulated)) / (1 + len(simulated))


def stays(states, d, q):
    """Pairs at a distance by their first state, and those of them that end in it."""
    begun, stayed = np.zeros(q, int), np.zeros(q, int)
    for row in states:
        for i in range(len(row) - d):
            a, b = row[i], row[i + d]
            if a >= 0 and b >= 0:
                begun[a] += 1
                stayed[a] += a == b
    return begun, stayed


def pair_matrix(states, q):
    """Counts of neighbours."""
    counts = np.zeros((q, q), int)
    for row in states:
        for a, b in itertools.pairwise(row):
            if a >= 0 and b >= 0:
                counts[a, b] += 1
    return counts


def persistence(states, distances, q):
    """Chance to stay at each distance, from pairs and by powers; for states that all occur."""
    counts = pair_matrix(states, q)
    transition = counts / counts.sum(1, keepdims=True)
    measured, predicted = [], []
    for d in distances:
        begun, stayed = stays(states, d, q)
        measured.append(stayed / begun)
        power = np.eye(q)
        for _ in range(d):
            power = power @ transition
        predicted.append(np.diag(power))
    return np.array(measured), np.array(predicted)


def power_law_states(rng, n_sequences, length, q, exponent, stay=0.6):
    """States that are those of a token a random distance back, P(r) as r^-exponent, or new."""
    distance = np.arange(1, length + 1)
    weight = distance**-exponent
    states = np.empty((n_sequences, length), np.int16)
    for row in states:
        row[0] = rng.integers(q)
        for i in range(1, length):
            back = rng.choice(distance[:i], p=weight[:i] / weight[:i].sum())
            row[i] = row[i - back] if rng.random() < stay else rng.integers(q)
    return states


def markov_states(rng, transition, n_sequences, length, law=None):
    """States of a Markov chain, one after the other."""
    q = len(transition)
    law = np.full(q, 1 / q) if law is None else law
    states = np.empty((n_sequences, length), np.int16)
    for row in states:
        row[0] = rng.choice(q, p=law)
        for i in range(1, length):
            row[i] = rng.choice(q, p=transition[row[i - 1]])
    return states
