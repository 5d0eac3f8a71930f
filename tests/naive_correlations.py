"""Slow, obvious twins of the correlations of single experts and of the baselines."""

import itertools

import numpy as np
from naive import corrected_for_own_mean, members


def pair_counts(index, n_experts, max_distance):
    """Pairs with an expert at both ends (expert, distance), and recorded pairs (distance)."""
    both = np.zeros((n_experts, max_distance + 1), int)
    pairs = np.zeros(max_distance + 1, int)
    for sequence in index:
        sets = [members(row) for row in sequence]
        for i, first in enumerate(sets):
            for d, second in enumerate(sets[i : i + max_distance + 1]):
                if first and second:
                    pairs[d] += 1
                    for expert in first & second:
                        both[expert, d] += 1
    return both, pairs


def expert_correlation(index, n_experts, max_distance, centre):
    """C_e(d) as DESIGN defines it, pair by pair, (expert, distance)."""
    known = (index >= 0).any(-1)
    rows = []
    for expert in range(n_experts):
        on = np.where((index == expert).any(-1), 1.0, 0.0)
        curve = [_of_expert(on, known, d, centre) for d in range(max_distance + 1)]
        if centre == "sequence":
            curve = corrected_for_own_mean(index, np.array(curve))
        rows.append(curve)
    return np.array(rows)


def _of_expert(on, known, d, centre):
    n_sequences, n = known.shape
    places = [
        (s, i, i + d)
        for s in range(n_sequences)
        for i in range(n - d)
        if known[s, i] and known[s, i + d]
    ]
    if not places:
        return np.nan
    if centre == "global":
        return np.mean([on[s, i] * on[s, j] for s, i, j in places]) - on[known].mean() ** 2
    if centre == "sequence":
        excess = 0.0
        for s, i, j in places:
            others = [a * b for a, b in itertools.permutations(on[s, known[s]], 2)]
            excess += on[s, i] * on[s, j] - (np.mean(others) if others else 0)
        return excess / len(places)
    total = weight = 0.0
    for s, i, j in places:
        left, right = known[:, i], known[:, j]
        total += (on[s, i] - on[left, i].mean()) * (on[s, j] - on[right, j].mean())
        both = (left & right).sum()
        weight += 1 - 1 / left.sum() - 1 / right.sum() + both / left.sum() / right.sum()
    return total / weight if weight > 1e-9 else np.nan


def exchanged(index, kind, n_experts, rng):
    """A draw of a baseline of one layer, gaps where they are."""
    moved = index.copy()
    recorded = (index >= 0).any(-1)
    if kind == "random":
        for place in np.argwhere(recorded):
            row = moved[tuple(place)]
            n = (row >= 0).sum()
            row[row >= 0] = rng.choice(n_experts, n, replace=False)
    elif kind == "shuffled":
        for s in range(len(index)):
            places = np.flatnonzero(recorded[s])
            moved[s, places] = index[s, rng.permutation(places)]
    else:
        for i in range(index.shape[1]):
            places = np.flatnonzero(recorded[:, i])
            moved[places, i] = index[rng.permutation(places), i]
    return moved
