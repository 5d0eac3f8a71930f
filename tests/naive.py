"""Slow, obvious twins of what the package does fast."""

import itertools
import math
from collections import Counter

import mpmath
import numpy as np
from scipy.special import entr, logsumexp
from scipy.stats import chisquare


def configurations(chain):
    """Every configuration of a small chain, (configuration, site, rank)."""
    sets = list(itertools.combinations(range(chain.n_states), chain.top_k))
    return np.array(list(itertools.product(sets, repeat=chain.n_sites)))


def enumerate_chain(chain):
    """Everything about a small finite chain, by summing over all its configurations."""
    n, q, temperature = chain.n_sites, chain.n_states, chain.temperature
    states = configurations(chain)
    energy = slow_energy(chain, states)
    log_weight = -energy / temperature
    log_z = log_weight.max() + np.log(np.exp(log_weight - log_weight.max()).sum())
    p = np.exp(log_weight - log_z)
    value = chain.observable[:, states].sum(-1)
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
    held = (states[..., None] == np.arange(q)).any(2)
    return {
        "states": states,
        "probability": p,
        "log_z": log_z,
        "energy": mean_energy / n,
        "entropy": -(p * np.log(p)).sum() / n,
        "specific_heat": ((p * energy**2).sum() - mean_energy**2) / n / temperature**2,
        "mean": mean.mean(1),
        "susceptibility": ((total**2 * p).sum(1) - (total * p).sum(1) ** 2) / n / temperature,
        "marginal": (p[:, None, None] * held).sum(0),
        "covariance": np.array(covariance),
    }


def bond_weights(chain, r):
    """What a pair of labels r sites apart adds to minus the energy, entry by entry."""
    q, J = chain.n_states, np.asarray(chain.J, float)
    if J.ndim == 3:
        return J[r - 1] if r <= len(J) else np.zeros((q, q))
    if chain.decay is None:
        factor = 1.0 if r == 1 else 0.0
    elif hasattr(chain.decay, "alpha"):
        factor = 1 / r**chain.decay.alpha
    elif hasattr(chain.decay, "length"):
        factor = np.exp(-(r - 1) / chain.decay.length)
    else:
        factor = chain.decay[r - 1] if r <= len(chain.decay) else 0.0

    def bond(a, b):
        if hasattr(chain, "spin"):
            return float(J) * (2 * a - 1) * (2 * b - 1)
        if J.ndim == 2:
            return J[a, b]
        return (J if J.ndim == 0 else J[a]) * (a == b)

    return factor * np.array([[bond(a, b) for b in range(q)] for a in range(q)])


def site_weights(chain, i):
    """What a label at site i adds to minus the energy."""
    h = np.asarray(chain.h, float)
    if hasattr(chain, "spin"):
        return (h if h.ndim == 0 else h[i]) * np.array([-1.0, 1.0])
    return np.broadcast_to(h[i] if h.ndim == 2 else h, chain.n_states)


def slow_energy(chain, states):
    """Energy of configurations (..., site[, rank]), pair by pair, each at its shorter way."""
    states = np.asarray(states)
    if chain.top_k == 1 and states.shape[-1] == chain.n_sites and states.ndim < 3:
        states = states[..., None]
    n = states.shape[-2]
    ranks = range(chain.top_k)
    total = sum(site_weights(chain, i)[states[..., i, a]] for i in range(n) for a in ranks)
    for i, j in itertools.combinations(range(n), 2):
        r = j - i
        if chain.boundary == "periodic" and 2 * r >= n:
            weights = bond_weights(chain, n - r).T
            if 2 * r == n:
                weights = (weights + weights.T) / 2
        else:
            weights = bond_weights(chain, r)
        for a, b in itertools.product(ranks, ranks):
            total = total + weights[states[..., i, a], states[..., j, b]]
    return -total


def state_p_value(chain, samples, exact=None):
    """Chance of a worse histogram of independent samples (sample, site[, rank]) of a chain.

    Pearson's chi-square over groups of configurations expected at least ten times. `exact`
    is what `enumerate_chain` says of the chain, where that is known already.
    """
    exact = exact or enumerate_chain(chain)
    k = chain.top_k
    code = (1 << np.arange(chain.n_states)) if k > 1 else np.arange(chain.n_states)
    base = 1 << chain.n_states if k > 1 else chain.n_states

    def number(states):
        digit = code[states].sum(-1) if k > 1 else states
        return digit @ (base ** np.arange(chain.n_sites))

    states = exact["states"] if k > 1 else exact["states"][..., 0]
    known = number(states)
    order = known.argsort()
    found = np.searchsorted(known[order], number(np.asarray(samples, np.int64)))
    count = np.zeros(len(known))
    np.add.at(count, order[found], 1)
    expected = exact["probability"] * len(samples)
    # By falling probability, a new group begins wherever ten are expected in the last one.
    falling = expected.argsort(kind="stable")[::-1]
    group, groups, inside = np.empty(len(known), int), 0, 0.0
    for place in falling:
        group[place] = groups
        inside += expected[place]
        if inside >= 10:
            groups, inside = groups + 1, 0.0
    if inside and groups:
        group[group == groups] = groups - 1
    observed = np.bincount(group, count)
    predicted = np.bincount(group, expected)
    return chisquare(observed, predicted).pvalue


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


def enumerate_sets(log_weight, k):
    """Sets of k labels: members (set, q), the log of their summed weight, their chances."""
    q = len(log_weight)
    sets = list(itertools.combinations(range(q), k))
    member = np.zeros((len(sets), q))
    for place, labels in enumerate(sets):
        member[place, list(labels)] = 1
    weight = member @ log_weight
    log_z = logsumexp(weight)
    return member, log_z, np.exp(weight - log_z)


def slow_inclusion(log_weight, k, labels):
    """Log e_k and chance of some labels to be in the set, with sixty digits."""
    with mpmath.workdps(60):
        weight = [mpmath.exp(mpmath.mpf(float(x))) for x in log_weight]

        def polynomials(weights):
            e = [mpmath.mpf(1)] + [mpmath.mpf(0)] * k
            for w in weights:
                for j in range(k, 0, -1):
                    e[j] += w * e[j - 1]
            return e

        whole = polynomials(weight)[k]
        chance = []
        for b in labels:
            others = polynomials(weight[:b] + weight[b + 1 :])
            chance.append(float(weight[b] * others[k - 1] / whole))
        return float(mpmath.log(whole)), np.array(chance)


def next_sets(chain, before, i):
    """Sets that may follow the sets before, nearest last, at site i, and their chances."""
    J = np.atleast_3d(np.asarray(chain.J, float))
    J = J.reshape(-1, *J.shape[-2:]) if np.ndim(chain.J) == 3 else np.asarray(chain.J)[None]
    log_weight = np.array(site_weights(chain, i), float)
    for r, members_before in enumerate(reversed(before), 1):
        for a in members_before if r <= len(J) else ():
            log_weight += J[r - 1][a]
    sets = list(itertools.combinations(range(chain.n_states), chain.top_k))
    weight = np.array([log_weight[list(labels)].sum() for labels in sets]) / chain.temperature
    return sets, np.exp(weight - logsumexp(weight))


def enumerate_kinetic(chain):
    """Everything about a short kinetic chain, by summing over all its sequences."""
    n, q = chain.n_sites, chain.n_states
    paths = {(): 1.0}
    for i in range(n):
        paths = {
            (*path, labels): p * step
            for path, p in paths.items()
            for labels, step in zip(*next_sets(chain, path, i), strict=True)
        }
    p = np.array(list(paths.values()))
    states = np.array(list(paths))
    held = (states[..., None] == np.arange(q)).any(2).astype(float)
    mean = np.einsum("c,cie->ie", p, held)
    both = np.einsum("c,cie,cje->ije", p, held, held) - mean[:, None] * mean[None]
    covariance = [np.mean([both[i, i + d] for i in range(n - d)], axis=0) for d in range(n)]
    return {
        "states": states,
        "probability": p,
        "marginal": mean,
        "entropy": entr(p).sum() / n,
        "covariance": np.array(covariance),
    }


def stationary_kinetic(chain, reach, longest):
    """The infinite kinetic chain from the matrix between its windows, path by path."""
    sets = list(itertools.combinations(range(chain.n_states), chain.top_k))
    windows = list(itertools.product(sets, repeat=reach))
    place = {window: x for x, window in enumerate(windows)}
    matrix = np.zeros((len(windows),) * 2)
    for window, x in place.items():
        for labels, chance in zip(*next_sets(chain, window, 0), strict=True):
            matrix[x, place[(*window[1:], labels)]] = chance
    law = np.linalg.matrix_power(matrix, 1 << 14)[0]
    law /= law.sum()
    held = np.array([[b in window[-1] for b in range(chain.n_states)] for window in windows]) * 1.0
    mean = law @ held
    covariance, ahead = [], held
    for _ in range(longest + 1):
        covariance.append((law[:, None] * held * ahead).sum(0) - mean**2)
        ahead = matrix @ ahead
    entropy = produced = 0.0
    for x, y in np.argwhere(matrix > 0):
        path = (*windows[x], windows[y][-1])
        backward = path[::-1]
        reverse = matrix[place[backward[:-1]], place[backward[1:]]]
        entropy -= law[x] * matrix[x, y] * np.log(matrix[x, y])
        produced += law[x] * matrix[x, y] * np.log(matrix[x, y] / reverse)
    return {
        "matrix": matrix,
        "law": law,
        "marginal": mean,
        "covariance": np.array(covariance),
        "entropy": entropy,
        "entropy_production": produced,
    }


def ranked(experts, weights):
    """Experts of one token by falling weight: [(expert, weight)], each once, none of weight 0."""
    kept = []
    for expert, weight in sorted(
        zip(experts, weights, strict=True), key=lambda pair: -pair[1] if pair[0] >= 0 else 0
    ):
        if expert < 0 or weight == 0:
            continue
        if expert in [one for one, _ in kept]:
            kept = [(one, w + weight if one == expert else w) for one, w in kept]
        else:
            kept.append((expert, weight))
    return sorted(kept, key=lambda pair: -pair[1])


def _set_field(law, before, i):
    """Log-weights of the experts of token i, given the sets before it."""
    field = [float(h) for h in law.field[min(i * len(law.field) // law.end, len(law.field) - 1)]]
    for r, coupling in enumerate(law.coupling, 1):
        if i - r >= 0:
            for a in before[i - r]:
                for b in range(len(field)):
                    field[b] += coupling[a, b]
    return field


def _best(field, k):
    return sorted(range(len(field)), key=lambda e: (-field[e], e))[:k]


def likely_sets(law, index):
    """The most probable set of each token, given the sets (sequence, position, rank) before."""
    return np.array(
        [
            [_best(_set_field(law, row, i), law.top_k) for i in range(len(row))]
            for row in index.tolist()
        ]
    )


def likely_run(law, length):
    """The sequence in which each set is the most probable one behind those before."""
    made = []
    for i in range(length):
        made.append(_best(_set_field(law, made, i), law.top_k))
    return np.array(made)


def inclusion_rates(law, index):
    """Chance of each expert in each token's set, by all sets, given those before."""
    q = law.field.shape[1]
    rates = np.zeros((*index.shape[:2], q))
    sets = list(itertools.combinations(range(q), law.top_k))
    for s, row in enumerate(index.tolist()):
        for i in range(len(row)):
            field = _set_field(law, row, i)
            weights = [math.exp(sum(field[e] for e in one)) for one in sets]
            for one, weight in zip(sets, weights, strict=True):
                for e in one:
                    rates[s, i, e] += weight / sum(weights)
    return rates
