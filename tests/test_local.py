"""Local updates against enumeration, the exact solution and limits."""

import numpy as np
import pytest
from naive import enumerate_chain, slow_energy, state_p_value
from scipy.stats import chi2, kstest

from isingmoe import IsingChain, PottsChain, power_law, solve
from isingmoe._kernels import fields, local, multispin
from isingmoe.algorithms import _conditionals
from isingmoe.algorithms.local import HeatBath, Metropolis

ALGORITHMS = [
    HeatBath("checkerboard"),
    HeatBath("sequential"),
    HeatBath("random"),
    Metropolis("random"),
    Metropolis("checkerboard"),
]
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)


def words_of(seed):
    return np.random.default_rng(seed).integers(0, 2**64, 4, dtype=np.uint64)


def sampled(sampler, n_samples, thin=20, seed=0, n_equilibration=100):
    """Successive states (sample, ...), after some sweeps from a random start."""
    words = words_of(seed)
    state = sampler.start(words)
    out = np.empty((n_samples, *state.shape), state.dtype)
    sampler.advance(state, words, out[:1], n_equilibration)
    sampler.advance(state, words, out, thin)
    return out


def lanes_of(sampler, n_samples, **more):
    """The same of 64 replicas, (replica, sample, site)."""
    return multispin.unpacked(sampled(sampler, n_samples, **more))


# A small chain for each kernel and each way its neighbours are found.
CHAINS = {
    "ising open": lambda normal: IsingChain(J=0.6, h=0.2, n_sites=6),
    "ising odd ring": lambda normal: IsingChain(J=-0.5, h=0.3, n_sites=5, boundary="periodic"),
    "two labels, any matrix": lambda normal: PottsChain(J=normal(2, 2), h=normal(2), n_sites=5),
    "one site": lambda normal: PottsChain(J=normal(3, 3), h=normal(3), n_sites=1),
    "one spin": lambda normal: IsingChain(J=0.7, h=0.3, n_sites=1),
    "two spins": lambda normal: IsingChain(J=0.7, h=0.3, n_sites=2),
    "potts open": lambda normal: PottsChain(J=normal(3, 3), h=normal(3), n_sites=4),
    "potts ring": lambda normal: PottsChain(
        J=normal(4, 4), h=normal(4), n_sites=4, boundary="periodic"
    ),
    "ising, field of each site": lambda normal: IsingChain(J=0.6, h=normal(6), n_sites=6),
    "potts, field of each site": lambda normal: PottsChain(
        J=normal(3, 3), h=normal(5, 3), n_sites=5
    ),
    "reach 2 ring": lambda normal: PottsChain(
        J=normal(2, 3, 3), h=normal(3), n_sites=6, boundary="periodic", temperature=1.5
    ),
    "reach 3 open": lambda normal: PottsChain(
        J=normal(3, 2, 2), h=normal(9, 2), n_sites=9, temperature=1.5
    ),
    "reach beyond the ends": lambda normal: PottsChain(J=normal(5, 3, 3), h=normal(3), n_sites=3),
    "one site of a long reach": lambda normal: PottsChain(
        J=normal(5, 3, 3), h=normal(3), n_sites=1
    ),
    "reach of zeros": lambda normal: PottsChain(J=normal(3, 3), n_sites=4, decay=[1.0, 0.0, 0.0]),
    "no coupling": lambda normal: PottsChain(J=0.0, h=normal(3), n_sites=4),
    "power law, even ring": lambda normal: PottsChain(
        J=normal(2, 2), h=normal(2), n_sites=8, boundary="periodic", decay=power_law(1.5)
    ),
    "power law, odd ring": lambda normal: IsingChain(
        J=0.3, h=0.1, n_sites=7, boundary="periodic", decay=power_law(1.5)
    ),
    "power law, open": lambda normal: PottsChain(
        J=normal(3, 3) / 2, h=normal(3), n_sites=5, decay=power_law(1.2)
    ),
}

# Those that 64 replicas share a word for.
SHARED = ["ising open", "ising odd ring", "two labels, any matrix", "one spin", "two spins"]

# Those whose couplings reach half the chain or further.
REACHING = [kind for kind in CHAINS if "power law" in kind or "beyond" in kind]


def random_chain(kind, seed=0):
    rng = np.random.default_rng(seed)
    return CHAINS[kind](lambda *shape: rng.normal(size=shape) * 0.7)


CASES = [
    pytest.param(algorithm, kind, id=f"{algorithm} {kind}")
    for algorithm in ALGORITHMS
    for kind in CHAINS
    if algorithm != Metropolis("checkerboard") or kind not in REACHING
]


@pytest.mark.parametrize(("algorithm", "kind"), CASES)
def test_states_against_enumeration(algorithm, kind):
    chain = random_chain(kind)
    states = sampled(algorithm.prepare(chain), 20_000)
    assert states.dtype == np.uint8
    assert state_p_value(chain, states) > 1e-3


@every_algorithm
@pytest.mark.parametrize("kind", SHARED)
def test_lanes_against_enumeration(algorithm, kind):
    chain = random_chain(kind)
    states = lanes_of(algorithm.prepare_many(chain), 400)
    assert states.shape == (64, 400, chain.n_sites)
    assert state_p_value(chain, states.reshape(-1, chain.n_sites)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "kind"), CASES)
def test_p_values_are_uniform(algorithm, kind):
    chain = random_chain(kind)
    sampler = algorithm.prepare(chain)
    exact = enumerate_chain(chain)
    found = [state_p_value(chain, sampled(sampler, 2000, seed=seed), exact) for seed in range(200)]
    assert kstest(found, "uniform").pvalue > 1e-3


@pytest.mark.slow
@every_algorithm
@pytest.mark.parametrize("kind", SHARED)
def test_p_values_of_lanes_are_uniform(algorithm, kind):
    chain = random_chain(kind)
    sampler = algorithm.prepare_many(chain)
    exact = enumerate_chain(chain)
    found = [
        state_p_value(chain, lanes_of(sampler, 40, seed=seed).reshape(-1, chain.n_sites), exact)
        for seed in range(200)
    ]
    assert kstest(found, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("algorithm", [HeatBath(), Metropolis("checkerboard")], ids=str)
def test_lanes_are_independent(algorithm):
    sampler = algorithm.prepare_many(IsingChain(J=0.4, n_sites=64, boundary="periodic"))
    spins = 2.0 * lanes_of(sampler, 2000, thin=10) - 1
    correlation = np.corrcoef(spins.sum(-1))[np.triu_indices(64, 1)]
    # Each is normal with a variance of one over the number of samples.
    assert chi2.sf((correlation**2).sum() * 2000, len(correlation)) > 1e-3
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)


@every_algorithm
@pytest.mark.parametrize("boundary", ["open", "periodic"])
def test_equal_neighbours_from_a_random_start(algorithm, boundary):
    """Where moves that cost nothing are always made, in order, this stays near 0.5."""
    chain = IsingChain(J=np.log(3) / 2, n_sites=40_000, boundary=boundary)
    one = sampled(algorithm.prepare(chain), 1, 100, n_equilibration=1)[0]
    many = lanes_of(algorithm.prepare_many(chain), 1, thin=100, n_equilibration=1)[:, 0]
    for states in (one[None], many):
        equal = states[:, 1:] == states[:, :-1]
        assert equal.mean() == pytest.approx(0.75, abs=4.5 * np.sqrt(3 / 16 / equal.size))


@every_algorithm
@pytest.mark.parametrize("q", [3, 64])
def test_energy_from_a_random_start(algorithm, q):
    chain = PottsChain(J=2.5, n_experts=q, n_sites=4000, boundary="periodic")
    exact = solve(chain)
    states = sampled(algorithm.prepare(chain), 50, 20, n_equilibration=2000)
    energy = chain.energy(states) / chain.n_sites
    error = np.sqrt(float(exact["specific_heat"]) / chain.n_sites)
    # Samples may be correlated: taken for ten independent ones.
    assert energy.mean() == pytest.approx(float(exact["energy"]), abs=4 * error / np.sqrt(10))


@every_algorithm
@pytest.mark.parametrize(("J", "equal"), [(150.0, True), (-150.0, False)])
def test_strongest_coupling(algorithm, J, equal):
    """Bonds that cost energy move and meet, and never appear."""
    chain = IsingChain(J=J, n_sites=101)
    one = sampled(algorithm.prepare(chain), 3, 50)[None]
    many = lanes_of(algorithm.prepare_many(chain), 3, thin=50)
    for states in (one, many):
        broken = ((states[..., 1:] == states[..., :-1]) != equal).sum(-1)
        assert broken.mean() < 10
        assert (broken[:, 1:] <= broken[:, :-1]).all()
    assert (broken[:, -1] < broken[:, 0]).any()


@every_algorithm
def test_strongest_field(algorithm):
    for chain in (
        IsingChain(J=-150.0, h=500.0, n_sites=20),
        PottsChain(J=-150.0, h=np.eye(5)[1] * 500, n_sites=20, boundary="periodic"),
        PottsChain(J=np.full((3, 5, 5), 150.0), h=np.tile(np.eye(5)[1] * 500, (20, 1)), n_sites=20),
    ):
        assert (sampled(algorithm.prepare(chain), 2) == 1).all()
    many = algorithm.prepare_many(IsingChain(J=-150.0, h=500.0, n_sites=20))
    assert (lanes_of(many, 2) == 1).all()


@every_algorithm
def test_potts_of_two_labels_is_ising(algorithm):
    ising, potts = IsingChain(J=0.5, n_sites=50), PottsChain(J=1.0, n_experts=2, n_sites=50)
    for prepare in (algorithm.prepare, algorithm.prepare_many):
        np.testing.assert_array_equal(sampled(prepare(ising), 3), sampled(prepare(potts), 3))


@every_algorithm
@pytest.mark.parametrize("kind", ["ising open", "potts ring", "reach 2 ring"])
def test_one_call_is_many(algorithm, kind):
    chain = random_chain(kind)
    for sampler in (algorithm.prepare(chain), algorithm.prepare_many(chain)):
        words, again = words_of(3), words_of(3)
        state, other = sampler.start(words), sampler.start(again)
        out, parts = np.empty((2, 6, *state.shape), state.dtype)
        sampler.advance(state, words, out, 2)
        for part in np.split(parts, 3):
            sampler.advance(other, again, part, 2)
        np.testing.assert_array_equal(out, parts)
        np.testing.assert_array_equal(state, out[-1])
        np.testing.assert_array_equal(words, again)


@pytest.mark.parametrize("kind", CHAINS)
def test_which_chains_share_words(kind):
    chain = random_chain(kind)
    for algorithm in (HeatBath(), Metropolis()):
        assert algorithm.prepare_many(chain).lanes == (64 if kind in SHARED else 1)
        assert algorithm.prepare(chain).lanes == 1


@pytest.mark.parametrize(("q", "dtype"), [(100, np.uint8), (300, np.uint16)])
@pytest.mark.parametrize(("algorithm", "n_sweeps"), [(HeatBath(), 100), (Metropolis(), 4000)])
def test_many_labels(q, dtype, algorithm, n_sweeps):
    """More than a table of all neighbours holds, and more than a byte."""
    chain = PottsChain(J=5.0, n_experts=q, n_sites=2000)
    states = sampled(algorithm.prepare(chain), 1, n_sweeps)[0]
    assert states.dtype == dtype
    assert states.max() < q
    exact = np.exp(5) / (np.exp(5) + q - 1)
    error = np.sqrt(exact * (1 - exact) / 1999)
    assert (states[1:] == states[:-1]).mean() == pytest.approx(exact, abs=4 * error)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HeatBath("typewriter"), "order: expected one of 'checkerboard', 'sequential'"),
        (lambda: Metropolis("sequential"), "order: expected one of 'random', 'checkerboard'"),
        (lambda: HeatBath().prepare(IsingChain(J=1.0)), "n_sites: expected a finite chain"),
        (lambda: Metropolis().prepare_many(IsingChain(J=1.0)), "n_sites: expected a finite"),
        (
            lambda: Metropolis("checkerboard").prepare(
                IsingChain(J=1.0, n_sites=50, decay=power_law(2.0))
            ),
            "order: expected 'random' where couplings reach half the chain",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", CHAINS)
def test_fields_are_energy_differences(kind):
    chain = random_chain(kind, seed=1)
    rng = np.random.default_rng(2)
    state = rng.integers(0, chain.n_states, chain.n_sites)
    model = _conditionals.field_model(chain)
    field, members = np.empty(chain.n_states), state[:, None]
    for counts in (np.empty((2, 0)), np.empty((2, chain.n_states))):
        if counts.size and len(model[1]) > 1:
            continue
        for i in range(chain.n_sites):
            fields.label_fields(field, counts, members, i, *model)
            changed = np.tile(state, (chain.n_states, 1))
            changed[:, i] = range(chain.n_states)
            expected = -slow_energy(chain, changed) / chain.temperature
            np.testing.assert_allclose(field - field[0], expected - expected[0], atol=1e-12)
            gain = fields.swap_gain(members, i, 0, chain.n_states - 1, *model)
            assert gain == pytest.approx(expected[-1] - expected[0], abs=1e-12)


def test_exponentials():
    x = np.linspace(-710, 700, 100_003)
    found = x.copy()
    fields.exponentiate(found, 5.0, 690.0)
    np.testing.assert_allclose(found, np.exp(np.clip(x - 5, -690, 690)), rtol=4e-16)


@pytest.mark.parametrize("q", [1, 2, 3, 64, 256])
def test_alias_entries_hold_the_distribution(q):
    weight = np.random.default_rng(q).dirichlet(np.full(q, 0.2), size=20) * 7
    weight[0] = np.eye(q)[0]
    entry = local.alias_entries(weight)
    kept = (entry >> np.uint64(8)) / 2.0**56
    found = kept.copy()
    for row, alias in zip(range(20), (entry & np.uint64(0xFF)).astype(int), strict=True):
        np.add.at(found[row], alias, 1 - kept[row])
    np.testing.assert_allclose(found / q, weight / weight.sum(1, keepdims=True), atol=1e-15)


def test_split_is_the_whole_product():
    for word, n in [(0, 7), (2**64 - 1, 7), (0x123456789ABCDEF0, 64), (2**63 + 12345, 2**31 - 1)]:
        integer, fraction = local.split(np.uint64(word), n)
        assert (integer, int(fraction)) == divmod(word * n, 2**64)


def test_thresholds_are_exact_at_both_ends():
    gain = np.array([-100.0, -30.0, 0.0, 30.0, 100.0])
    threshold = [int(t) for t in _conditionals.thresholds(_conditionals.drawn(gain))[:, 0]]
    rare = int(np.exp(-30) / (1 + np.exp(-30)) * 2.0**64)
    assert threshold == [0, rare, 2**63, 2**64 - 1 - rare, 2**64 - 1]
    accepted = [int(t) for t in _conditionals.thresholds(_conditionals.accepted(gain))[1]]
    rare = int(np.exp(-30) / 2 * 2.0**64)
    assert accepted == [rare, 2**63]


def test_terms_give_the_bits_of_the_thresholds():
    threshold = np.random.default_rng(0).integers(0, 2**64, 8, dtype=np.uint64)
    term = multispin.threshold_terms(threshold) & np.uint64(1)
    for place in range(8):
        taken = [product for product in range(8) if product & ~place == 0]
        bits = term[:, taken].sum(1) % 2
        assert int("".join(map(str, bits.tolist())), 2) == int(threshold[place])


@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (2, 5000)])
def test_unpacked(shape):
    words = np.random.default_rng(0).integers(0, 2**64, shape, dtype=np.uint64)
    lane = np.arange(64, dtype=np.uint64)[:, None, None]
    np.testing.assert_array_equal(multispin.unpacked(words), (words >> lane) & np.uint64(1))
