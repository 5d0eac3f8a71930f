"""Local updates of chains with several labels at a site."""

import itertools

import mpmath
import numba as nb
import numpy as np
import pytest
from naive import enumerate_chain, slow_energy, state_p_value
from scipy.stats import chisquare, kstest

from isingmoe import PottsChain, power_law
from isingmoe._kernels import fields, sets
from isingmoe._kernels.random import loaded, stored
from isingmoe.algorithms import _conditionals
from isingmoe.algorithms.local import HeatBath, Metropolis

# A small chain of each kind.
CHAINS = {
    "one site": lambda normal: PottsChain(J=0.0, h=normal(5), n_sites=1, top_k=3),
    "ring": lambda normal: PottsChain(
        J=normal(4, 4), h=normal(4), n_sites=4, boundary="periodic", top_k=2
    ),
    "field of each site": lambda normal: PottsChain(
        J=normal(5, 5), h=normal(3, 5), n_sites=3, top_k=3
    ),
    "all but one": lambda normal: PottsChain(J=normal(4, 4), h=normal(4), n_sites=4, top_k=3),
    "reach 2": lambda normal: PottsChain(J=normal(2, 3, 3), n_sites=6, top_k=2, temperature=2.0),
    "power law, even ring": lambda normal: PottsChain(
        J=normal(3, 3), n_sites=6, top_k=2, boundary="periodic", decay=power_law(1.5)
    ),
}
ALGORITHMS = [
    HeatBath("checkerboard"),
    HeatBath("sequential"),
    HeatBath("random"),
    Metropolis("random"),
    Metropolis("checkerboard"),
]
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
CASES = [
    pytest.param(algorithm, kind, id=f"{algorithm} {kind}")
    for algorithm in ALGORITHMS
    for kind in CHAINS
    if algorithm != Metropolis("checkerboard") or "power law" not in kind
]


def random_chain(kind, seed=0):
    rng = np.random.default_rng(seed)
    return CHAINS[kind](lambda *shape: rng.normal(size=shape) * 0.6)


def words_of(seed):
    return np.random.default_rng(seed).integers(0, 2**64, 4, dtype=np.uint64)


def sampled(sampler, n_samples, thin=15, seed=0, n_equilibration=100):
    """Successive states (sample, site, rank), after some sweeps from a random start."""
    words = words_of(seed)
    state = sampler.start(words)
    out = np.empty((n_samples, *state.shape), state.dtype)
    sampler.advance(state, words, out[:1], n_equilibration)
    sampler.advance(state, words, out, thin)
    return out


@pytest.mark.parametrize(("algorithm", "kind"), CASES)
def test_states_against_enumeration(algorithm, kind):
    chain = random_chain(kind)
    states = sampled(algorithm.prepare_many(chain), 20_000)
    assert states.dtype == np.uint8
    assert (np.diff(states.astype(int), axis=-1) > 0).all()
    assert state_p_value(chain, states) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "kind"), CASES)
def test_p_values_are_uniform(algorithm, kind):
    chain = random_chain(kind)
    sampler = algorithm.prepare(chain)
    exact = enumerate_chain(chain)
    found = [state_p_value(chain, sampled(sampler, 2000, seed=seed), exact) for seed in range(200)]
    assert kstest(found, "uniform").pvalue > 1e-3


@every_algorithm
def test_one_call_is_many(algorithm):
    sampler = algorithm.prepare(random_chain("ring"))
    assert sampler.lanes == 1
    words, again = words_of(3), words_of(3)
    state, other = sampler.start(words), sampler.start(again)
    out, parts = np.empty((2, 6, *state.shape), state.dtype)
    sampler.advance(state, words, out, 2)
    for part in np.split(parts, 3):
        sampler.advance(other, again, part, 2)
    np.testing.assert_array_equal(out, parts)
    np.testing.assert_array_equal(words, again)


@every_algorithm
def test_strongest_couplings_and_fields(algorithm):
    """256 labels, log-weights of thousands: the strongest labels are held."""
    strong = np.isin(np.arange(256), [3, 100, 101, 255])
    chain = PottsChain(
        J=np.full((2, 256, 256), -150.0), h=np.where(strong, 500.0, -500.0), n_sites=30, top_k=4
    )
    # Metropolis has to come upon the last of them by chance: one proposal in a thousand.
    n_sweeps = 20_000 if isinstance(algorithm, Metropolis) else 1
    states = sampled(algorithm.prepare(chain), 2, n_sweeps)
    np.testing.assert_array_equal(states, np.broadcast_to(np.flatnonzero(strong), states.shape))


@every_algorithm
def test_more_labels_than_a_byte_holds(algorithm):
    states = sampled(algorithm.prepare(PottsChain(J=0.1, n_experts=300, n_sites=9, top_k=2)), 50)
    assert states.dtype == np.uint16
    assert states.max() > 255
    assert (np.diff(states.astype(int), axis=-1) > 0).all()


@pytest.mark.parametrize("algorithm", [HeatBath(), Metropolis()], ids=str)
def test_a_random_start_is_uniform(algorithm):
    sampler = algorithm.prepare(PottsChain(J=1.0, n_experts=6, n_sites=20_000, top_k=3))
    state = sampler.start(words_of(1))
    triples = list(itertools.combinations(range(6), 3))
    counts = [(state == triple).all(1).sum() for triple in triples]
    assert sum(counts) == 20_000
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("kind", CHAINS)
def test_a_sweep_at_infinite_temperature_is_uniform_from_any_start(kind):
    chain = random_chain(kind)
    hot = PottsChain(J=0.0, n_experts=chain.n_states, n_sites=5000, top_k=chain.top_k)
    state = np.tile(np.arange(chain.top_k, dtype=np.uint8), (5000, 1))
    out = np.empty((1, *state.shape), np.uint8)
    HeatBath().prepare(hot).advance(state, words_of(2), out, 1)
    held = list(itertools.combinations(range(chain.n_states), chain.top_k))
    assert chisquare([(out[0] == one).all(1).sum() for one in held]).pvalue > 1e-3


def test_a_swap_gains_the_energy_difference():
    rng = np.random.default_rng(0)
    for kind in CHAINS:
        chain = random_chain(kind)
        model = _conditionals.field_model(chain)
        q, k, n = chain.n_states, chain.top_k, chain.n_sites
        state = np.sort(rng.random((n, q)).argsort(1)[:, :k])
        field = np.empty(q)
        for counts in (np.empty((2, 0)), np.empty((2, q))):
            if counts.size and len(model[1]) > 1:
                continue
            for i in range(n):
                other = next(b for b in range(q) if b not in state[i])
                changed = state.copy()
                changed[i, 0] = other
                expected = slow_energy(chain, state) - slow_energy(chain, changed)
                gain = fields.swap_gain(state, i, state[i, 0], other, *model)
                assert gain == pytest.approx(expected / chain.temperature, abs=1e-12)
                fields.label_fields(field, counts, state, i, *model)
                assert field[other] - field[state[i, 0]] == pytest.approx(gain, abs=1e-12)


def exact_inclusion(theta, k):
    """Chance of each label to be in the set, with 60 digits."""
    with mpmath.workdps(60):
        weight = [mpmath.exp(float(t) - float(max(theta))) for t in theta]

        def before(weights):
            """Elementary symmetric polynomials of the weights before each."""
            e = [mpmath.mpf(1)] + [mpmath.mpf(0)] * k
            found = [e]
            for w in weights:
                e = [e[0]] + [e[m] + w * e[m - 1] for m in range(1, k + 1)]
                found.append(e)
            return found

        left, right = before(weight), before(weight[::-1])[::-1]
        return [
            w * sum(left[b][m] * right[b + 1][k - 1 - m] for m in range(k)) / left[-1][k]
            for b, w in enumerate(weight)
        ]


def found_inclusion(theta, k):
    """The same from the probabilities that `draw_set` decides by, label after label."""
    weight = np.array(theta, float)
    sets.set_weights(weight, k)
    ratio = np.zeros((len(weight) + 1, k + 1))
    sets.symmetric_ratios(weight, ratio)
    missing = np.zeros(k + 1)
    missing[k] = 1.0
    inclusion = np.empty(len(weight))
    for b, w in enumerate(weight):
        drawn = np.zeros(k + 1)
        drawn[1:] = missing[1:] * w / (ratio[b + 1, 1:] + w)
        inclusion[b] = drawn.sum()
        missing[1:] *= ratio[b + 1, 1:] / (ratio[b + 1, 1:] + w)
        missing[:-1] += drawn[1:]
    return inclusion


@pytest.mark.parametrize(
    ("n_experts", "k", "scale"),
    [(4, 2, 1), (5, 4, 3), (16, 4, 30), (64, 8, 1), (64, 8, 300), (256, 16, 5), (128, 16, 500)],
)
def test_inclusion_probabilities(n_experts, k, scale):
    theta = np.random.default_rng(n_experts).uniform(-scale, scale, n_experts)
    exact = np.array([float(p) for p in exact_inclusion(theta, k)])
    found = found_inclusion(theta, k)
    # Below, a label is never drawn, and its weight is not kept.
    seen = exact > 1e-100
    assert seen.sum() >= k
    np.testing.assert_allclose(found[seen], exact[seen], rtol=1e-10)
    assert (found[~seen] < 1e-90).all()
    assert found.sum() == pytest.approx(k, rel=1e-12)


@pytest.mark.parametrize(
    ("theta", "expected"),
    [
        (np.zeros(6), np.full(6, 1 / 3)),
        (np.full(6, 500.0), np.full(6, 1 / 3)),
        ([500.0, -500, -500, -500, -500], [1, 0.25, 0.25, 0.25, 0.25]),
        ([-500.0, 500, 500, 500, -500], [0, 2 / 3, 2 / 3, 2 / 3, 0]),
        ([500.0, 0, 500, -500, -500], [1, 0, 1, 0, 0]),
    ],
)
def test_inclusion_at_the_extremes(theta, expected):
    np.testing.assert_allclose(found_inclusion(theta, 2), expected, rtol=1e-12, atol=1e-100)


@nb.njit
def drawn_sets(weight, ratio, words, n, k):
    rng = loaded(words)
    out = np.empty((n, k), np.uint8)
    for t in range(n):
        rng = sets.draw_set(out[t], weight, ratio, rng)
    stored(words, rng)
    return out


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_sets_are_drawn_by_their_weights(k):
    theta = np.random.default_rng(k).normal(size=6)
    weight, ratio = theta.copy(), np.zeros((7, k + 1))
    sets.set_weights(weight, k)
    sets.symmetric_ratios(weight, ratio)
    found = drawn_sets(weight, ratio, words_of(k), 50_000, k)
    held = list(itertools.combinations(range(6), k))
    probability = np.array([np.exp(theta[list(one)].sum()) for one in held])
    count = [(found == one).all(1).sum() for one in held]
    assert chisquare(count, probability / probability.sum() * 50_000).pvalue > 1e-3
