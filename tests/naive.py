"""Slow, obvious twins of what the package does fast."""

import itertools
from collections import Counter

import numpy as np


def enumerate_chain(chain):
    """Everything about a small finite chain, by summing over all its configurations."""
    n, q, temperature = chain.n_sites, chain.n_states, chain.temperature
    states = np.array(list(itertools.product(range(q), repeat=n)))
    energy = slow_energy(chain, states)
    log_weight = -energy / temperature
    log_z = log_weight.max() + np.log(np.exp(log_weight - log_weight.max()).sum())
    p = np.exp(log_weight - log_z)
    value = chain.observable[:, states]
    mean = (value * p[:, None]).sum(1)
    total = value.sum(2)
    covariance = []
    periodic = chain.boundary == "periodic"
    for d in range((n // 2 if periodic else n - 1) + 1):
        pairs = [(i, (i + d) % n) for i in range(n) if periodic or i + d < n]
        covariance.append(
            np.mean(
                [
                    (value[:, :, i] * value[:, :, j] * p).sum(1) - mean[:, i] * mean[:, j]
                    for i, j in pairs
                ],
                axis=0,
            )
        )
    mean_energy = (p * energy).sum()
    marginal = np.array([[p[states[:, i] == a].sum() for a in range(q)] for i in range(n)])
    return {
        "log_z": log_z,
        "energy": mean_energy / n,
        "entropy": -(p * np.log(p)).sum() / n,
        "specific_heat": ((p * energy**2).sum() - mean_energy**2) / n / temperature**2,
        "mean": mean.mean(1),
        "susceptibility": ((total**2 * p).sum(1) - (total * p).sum(1) ** 2) / n / temperature,
        "marginal": marginal,
        "covariance": np.array(covariance),
    }


def weights_of(chain):
    """What each pair of neighbours and each site add to minus the energy, entry by entry."""
    q = chain.n_states
    J, h = np.asarray(chain.J, float), np.asarray(chain.h, float)

    def bond(a, b):
        if q == 2 and hasattr(chain, "spin"):
            return float(J) * (2 * a - 1) * (2 * b - 1)
        if J.ndim == 2:
            return J[a, b]
        return (J if J.ndim == 0 else J[a]) * (a == b)

    def site(a):
        if hasattr(chain, "spin"):
            return float(h) * (2 * a - 1)
        return h if h.ndim == 0 else h[a]

    pairs = np.array([[bond(a, b) for b in range(q)] for a in range(q)])
    return pairs, np.array([site(a) for a in range(q)])


def slow_energy(chain, states):
    """Energy of configurations (..., site), bond by bond."""
    pair, site = weights_of(chain)
    states = np.asarray(states)
    n = states.shape[-1]
    bonds = [(i, i + 1) for i in range(n - 1)]
    if chain.boundary == "periodic":
        bonds.append((n - 1, 0))
    total = sum(site[states[..., i]] for i in range(n))
    for i, j in bonds:
        total = total + pair[states[..., i], states[..., j]]
    return -total


def pair_counts(states, q):
    """Neighbouring pairs of states, one by one; none across a -1 or a sequence's end."""
    counts = np.zeros((q, q), int)
    for row in states:
        for a, b in itertools.pairwise(row):
            if a >= 0 and b >= 0:
                counts[a, b] += 1
    return counts


def members(row):
    """The set of experts of a token."""
    return {int(e) for e in row if e >= 0}


def overlap_sums(index, d):
    """Pairs at a distance and the experts they share, for each sequence of one layer."""
    pairs, shared = [], []
    for sequence in index:
        sets = [members(row) for row in sequence]
        both = [(a, b) for a, b in zip(sets, sets[d:], strict=False) if a and b]
        pairs.append(len(both))
        shared.append(sum(len(a & b) for a, b in both))
    return np.array(pairs), np.array(shared)


def correlation(index, d, n_experts, centre):
    """C(d) of one layer as DESIGN defines it, expert by expert and pair by pair."""
    occupied = np.zeros((*index.shape[:2], n_experts))
    present = np.zeros(index.shape[:2], bool)
    for s, i in np.ndindex(*index.shape[:2]):
        for expert in members(index[s, i]):
            occupied[s, i, expert] = 1
        present[s, i] = bool(members(index[s, i]))
    n_sequences, n_positions = present.shape
    places = [
        (s, i)
        for s in range(n_sequences)
        for i in range(n_positions - d)
        if present[s, i] and present[s, i + d]
    ]
    if centre == "global":
        mean = occupied[present].mean(0)
        return np.mean([occupied[s, i] @ occupied[s, i + d] for s, i in places]) - mean @ mean
    if centre == "sequence":
        excess = 0.0
        for s, i in places:
            tokens = occupied[s, present[s]]
            others = [a @ b for a, b in itertools.permutations(tokens, 2)]
            excess += occupied[s, i] @ occupied[s, i + d] - (np.mean(others) if others else 0)
        return excess / len(places)
    rate = np.array(
        [
            occupied[present[:, i], i].mean(0) if present[:, i].any() else np.zeros(n_experts)
            for i in range(n_positions)
        ]
    )
    at = present.sum(0)
    total = weight = 0.0
    for s, i in places:
        both = sum(present[r, i] and present[r, i + d] for r in range(n_sequences))
        weight += 1 - 1 / at[i] - 1 / at[i + d] + both / at[i] / at[i + d]
        total += (occupied[s, i] - rate[i]) @ (occupied[s, i + d] - rate[i + d])
    return total / weight if weight > 1e-9 else np.nan


def corrected_for_own_mean(index, curve):
    """Undo what centring each sequence on its own mean takes off C(d), by iteration."""
    present = np.array([[bool(members(row)) for row in sequence] for sequence in index])
    tokens = present.sum(1)
    known = np.isfinite(curve)
    curve = np.where(known, curve, 0.0)
    result = curve.copy()
    for _ in range(200):
        taken = []
        for d in range(len(curve)):
            total = weight = 0.0
            for s, row in enumerate(present):
                pairs = {j: (row[: len(row) - j] & row[j:]).sum() for j in range(len(curve))}
                bias = sum(
                    2 * pairs[j] / (tokens[s] * (tokens[s] - 1)) * result[j]
                    for j in range(1, len(curve))
                    if tokens[s] > 1 and 4 * j <= tokens[s]
                )
                total += pairs[d] * bias
                weight += pairs[d]
            taken.append(total / weight if weight else 0.0)
        result = curve + taken
    return np.where(known, result, np.nan)


def reversible_transition(counts, n_iterations=20_000):
    """Reversible transition matrix of largest likelihood, by its fixed point.

    G. R. Bowman et al., J. Chem. Phys. 131, 124101 (2009): no derivative, no dual.
    """
    counts = np.asarray(counts, float)
    x = counts + counts.T
    for _ in range(n_iterations):
        row = x.sum(1)
        leaving = counts.sum(1)
        q = leaving / row
        new = (counts + counts.T) / (q[:, None] + q[None, :])
        if np.abs(new - x).max() < 1e-15 * new.max():
            break
        x = new / new.sum() * counts.sum()
    return x / x.sum(1, keepdims=True)


def conditional_log_likelihood(sequences, J, h):
    """Log-likelihood of whole sequences given their first states, from a long ring.

    P(s_2..s_n | s_1) of the infinite chain: the weight of the configuration times the
    weight of everything that may follow it, over the same without s_2..s_n.
    """
    transfer = np.exp(J + h)
    scale = np.abs(np.linalg.eigvals(transfer)).max()
    ahead = np.linalg.matrix_power(transfer / scale, 4096).sum(1)
    total = 0.0
    for s in sequences:
        weight = sum(np.log(transfer[a, b] / scale) for a, b in itertools.pairwise(s))
        total += weight + np.log(ahead[s[-1]]) - np.log(ahead[s[0]])
    return total


def simulate_markov(transition, n_sequences, length, rng, start=None):
    """Sequences of a Markov chain, one step after another."""
    q = len(transition)
    if start is None:
        start = np.linalg.matrix_power(transition, 1 << 20)[0]
    cumulative = transition.cumsum(1)
    states = np.empty((n_sequences, length), np.int16)
    states[:, 0] = rng.choice(q, size=n_sequences, p=start / start.sum())
    for i in range(1, length):
        u = rng.random(n_sequences)[:, None] * cumulative[states[:, i - 1], -1:]
        states[:, i] = (u > cumulative[states[:, i - 1]]).sum(1)
    return states


def load(index, n_experts):
    """Share of the assignments of one layer that each expert has."""
    counts = Counter(int(e) for e in index.ravel() if e >= 0)
    return np.array([counts[e] for e in range(n_experts)]) / sum(counts.values())
