"""Wolff and Swendsen-Wang against enumeration, exact solutions and limits."""

import numpy as np
import pytest
from naive import enumerate_chain, state_p_value
from scipy.stats import chisquare, kstest, poisson

import isingmoe as im
from isingmoe import IsingChain, PottsChain, exponential, power_law
from isingmoe._kernels.placing import draw_events, equal_pairs, room
from isingmoe.algorithms import cluster
from isingmoe.algorithms._sampler import Algorithm
from isingmoe.algorithms.cluster import SwendsenWang, Wolff

ALGORITHMS = [SwendsenWang(), Wolff(), Wolff(n_clusters=3)]
both = pytest.mark.parametrize("algorithm", ALGORITHMS[:2], ids=["sw", "wolff"])

CHAINS = {
    **{
        f"power law {alpha}, field {h}": IsingChain(
            J=0.8 / alpha**2, h=h, n_sites=12, boundary="periodic", decay=power_law(alpha)
        )
        for alpha in (1.2, 1.5, 2.0, 3.0)
        for h in (0.0, -0.1)
    },
    "odd ring": IsingChain(J=0.2, h=0.2, n_sites=9, boundary="periodic", decay=power_law(1.5)),
    "open": IsingChain(J=0.3, h=0.1, n_sites=10, decay=power_law(1.7)),
    "field of each site": IsingChain(
        J=0.3, h=np.linspace(-1, 0.7, 9), n_sites=9, decay=power_law(1.3)
    ),
    "neighbours, ring": IsingChain(J=0.6, n_sites=8, boundary="periodic"),
    "neighbours, open": IsingChain(J=0.6, h=-0.3, n_sites=8),
    "smallest ring": IsingChain(J=0.4, h=0.2, n_sites=3, boundary="periodic"),
    "exponential, ring": IsingChain(
        J=0.3, h=0.1, n_sites=8, boundary="periodic", decay=exponential(1.7)
    ),
    "exponential, open": IsingChain(J=0.3, n_sites=8, decay=exponential(0.5)),
    "array": IsingChain(J=0.4, h=0.1, n_sites=9, boundary="periodic", decay=[1, 0, 0.7]),
    "warm": IsingChain(J=1.0, h=0.4, n_sites=8, temperature=3.0, decay=power_law(2.0)),
    "q = 2": PottsChain(J=0.6, h=[0.3, -0.1], n_sites=9, decay=power_law(1.5)),
    "q = 3": PottsChain(
        J=0.5, h=[0.4, 0, -0.3], n_sites=7, boundary="periodic", decay=power_law(1.4)
    ),
    "q = 3, field of each site": PottsChain(
        J=0.7, h=np.sin(np.arange(18)).reshape(6, 3), n_sites=6, decay=power_law(2.5)
    ),
    "two labels alike, one disfavoured": PottsChain(
        J=0.9, h=[0, 0, -12.0], n_sites=7, boundary="periodic"
    ),
    "one label disfavoured at each site": PottsChain(
        J=0.9, h=-9.0 * np.eye(3)[[0, 1, 2, 0, 1, 2]], n_sites=6
    ),
    "q = 4": PottsChain(J=0.5, h=[0.5, 0, 0, -0.5], n_sites=5, decay=[1, 0.5]),
    "q = 4, no field": PottsChain(J=0.9, n_experts=4, n_sites=5, boundary="periodic"),
    "zero-sum matrix": PottsChain(J=0.9 * (np.eye(3) - 1 / 3), n_sites=6, decay=exponential(2)),
    "matrix for each distance": PottsChain(
        J=np.array([0.8, 0.3])[:, None, None] * np.eye(3) - 0.2, n_sites=6, boundary="periodic"
    ),
    "no coupling": IsingChain(J=0.0, h=0.3, n_sites=6),
    "no coupling, no field": PottsChain(J=0.0, n_experts=3, n_sites=4),
    # Where a sweep of one cluster would flip one site, and two sweeps an even number.
    "spins alone": IsingChain(J=0.0, n_sites=5),
    "one spin": IsingChain(J=1.0, n_sites=1),
    "one site": IsingChain(J=1.0, h=0.3, n_sites=1),
    "one site, no field": PottsChain(J=1.0, n_experts=3, n_sites=1, decay=power_law(1)),
    "two sites": IsingChain(J=0.7, h=-0.2, n_sites=2, decay=power_law(2.0)),
}


def words(seed):
    return np.random.SeedSequence(seed).generate_state(4, np.uint64)


def sampled(algorithm, chain, seed, n_samples, n_sweeps):
    """Labels (sample, site) and events of each, past the first hundred sweeps."""
    sampler = algorithm.prepare(chain)
    generator = words(seed)
    state = sampler.start(generator)
    sampler.advance(state, generator, np.empty((1, *state.shape), state.dtype), 100)
    out = np.empty((n_samples, *state.shape), state.dtype)
    return out, sampler.advance(state, generator, out, n_sweeps), sampler


def bond_log_weight(chain, states):
    site = chain.site[np.arange(chain.n_sites) % len(chain.site), states].sum(1)
    return -chain.energy(states) / chain.temperature - site


@pytest.fixture
def small_tables(monkeypatch):
    """Far distances in chains that can be enumerated, and bins whose rates differ a lot."""
    monkeypatch.setattr(cluster, "_N_NEAR", 2)
    monkeypatch.setattr(cluster, "_SLACK", 0.8)


class TestAgainstEnumeration:
    @both
    @pytest.mark.parametrize("name", CHAINS)
    def test_states_and_events(self, name, algorithm):
        chain = CHAINS[name]
        n_samples = max(20_000, 20 * chain.n_states**chain.n_sites)
        states, events, sampler = sampled(algorithm, chain, 1, n_samples, 30)
        assert state_p_value(chain, states) > 1e-3
        # Given the state the events have Poisson's law with a mean that the state fixes.
        mean = bond_log_weight(chain, states) - sampler.offset
        excess = events - mean
        for moment in (excess, excess**2 - mean):
            assert abs(moment.sum()) <= 4 * np.sqrt((moment**2).sum()) + 1e-9

    @pytest.mark.parametrize("name", ["open", "q = 4", "no coupling"])
    def test_many_clusters_of_a_sweep(self, name):
        chain = CHAINS[name]
        states, _, _ = sampled(Wolff(n_clusters=20), chain, 14, 20_000, 2)
        assert state_p_value(chain, states) > 1e-3

    @both
    @pytest.mark.parametrize("boundary", ["open", "periodic"])
    @pytest.mark.parametrize("alpha", [1.2, 3.0])
    @pytest.mark.usefixtures("small_tables")
    def test_far_distances(self, algorithm, boundary, alpha):
        chain = IsingChain(J=0.2, h=0.1, n_sites=11, boundary=boundary, decay=power_law(alpha))
        states, events, sampler = sampled(algorithm, chain, 2, 20_000, 30)
        assert len(sampler.tables.keep) > 1
        assert state_p_value(chain, states) > 1e-3
        excess = events - bond_log_weight(chain, states) + sampler.offset
        assert abs(excess.mean()) < 4 * excess.std() / np.sqrt(len(excess))

    @both
    def test_energy_from_the_events(self, algorithm):
        chain = IsingChain(J=0.3, n_sites=12, boundary="periodic", decay=power_law(1.5))
        exact = enumerate_chain(chain)
        _, events, sampler = sampled(algorithm, chain, 3, 100_000, 10)
        error = events.std() / np.sqrt(len(events))
        mean = -(events.mean() + sampler.offset) / 12
        assert abs(mean - exact["energy"]) < 4 * error / 12
        # The events have Poisson's variance above that of the energy.
        variance = events.var() - events.mean()
        scatter = ((events - events.mean()) ** 2).std() / np.sqrt(len(events))
        assert abs(variance - 12 * exact["specific_heat"]) < 4 * scatter

    @pytest.mark.slow
    @both
    @pytest.mark.parametrize(
        "chain",
        [
            IsingChain(J=0.8 / alpha**2, h=h, n_sites=8, boundary=boundary, decay=power_law(alpha))
            for alpha in (1.2, 2.0, 3.0)
            for h, boundary in ((0.0, "periodic"), (0.1, "open"))
        ]
        + [CHAINS[name] for name in ("field of each site", "array", "q = 3", "q = 4", "two sites")],
        ids=repr,
    )
    def test_p_values_are_uniform(self, chain, algorithm):
        p = [
            state_p_value(chain, sampled(algorithm, chain, (7, seed), 5000, 40)[0])
            for seed in range(200)
        ]
        assert kstest(p, "uniform").pvalue > 1e-3


class TestEvents:
    """The number of events on every pair, on a state of equal labels, by Poisson's law."""

    def pairs(self, rate, n_sites, is_ring, n_rounds):
        """The round, the left and the right site of every event."""
        tables = cluster._tables(rate, n_sites)
        row = np.uint64(len(tables.counts) - 1)
        labels, events = np.zeros(n_sites, np.uint8), room(tables)
        state = tuple(words(5))
        found = []
        for each in range(n_rounds):
            for first in range(0, n_sites, 1 << int(row)):
                state = tuple(map(np.uint64, state))
                n, _, state = draw_events(row, events, tables, state)
                n = equal_pairs(labels, np.uint64(first), np.uint64(n), events, is_ring)
                found.append(
                    (np.full(n, each), events.place[:n].copy(), events.distance[:n].copy())
                )
        return [np.concatenate(column).astype(np.int64) for column in zip(*found, strict=True)]

    @pytest.mark.parametrize("is_ring", [False, True])
    @pytest.mark.parametrize("n_near", [2, 4, 16])
    def test_every_pair(self, monkeypatch, n_near, is_ring):
        monkeypatch.setattr(cluster, "_N_NEAR", n_near)
        monkeypatch.setattr(cluster, "_SLACK", 0.7)
        n = 20
        rate = np.r_[0.5, 0, np.arange(3.0, 10) ** -0.7, 0]
        each, left, right = self.pairs(rate, n, is_ring, 3000)
        count = np.zeros((n, n), int)
        np.add.at(count, (left, right), 1)
        total = np.bincount(each, minlength=3000)
        expected = np.zeros((n, n))
        for i in range(n):
            for r in range(1, len(rate) + 1):
                if is_ring or i + r < n:
                    expected[i, (i + r) % n] += rate[r - 1] * 3000
        z = (count - expected)[expected > 0] / np.sqrt(expected[expected > 0])
        assert not count[expected == 0].any()
        assert abs((z**2).sum() - z.size) < 4 * np.sqrt(2 * z.size)
        mean = expected.sum() / 3000
        values = np.arange(int(mean - 3 * mean**0.5), int(mean + 3 * mean**0.5))
        inside = [(total == v).sum() for v in values]
        chance = poisson.pmf(values, mean)
        observed = np.append(inside, len(total) - np.sum(inside))
        assert chisquare(observed, np.append(chance, 1 - chance.sum()) * 3000).pvalue > 1e-3

    @pytest.mark.parametrize("alpha", [1.1, 1.5, 2.5])
    def test_every_distance_of_a_long_chain(self, alpha):
        n = 3000
        rate = 2 * np.arange(1.0, n) ** -alpha
        _, left, right = self.pairs(rate, n, is_ring=False, n_rounds=200)
        by_distance = np.bincount(right - left, minlength=n)[1:]
        expected = 200 * rate * (n - np.arange(1, n))
        # Bins of about a thousand events, so that every stretch of distances is tested.
        edge = np.searchsorted(np.cumsum(expected), np.arange(0, expected.sum(), 1000))
        edge = np.unique(edge)
        found = np.add.reduceat(by_distance, edge)
        mean = np.add.reduceat(expected, edge)
        z2 = (found - mean) ** 2 / mean
        assert abs(z2.sum() - z2.size) < 4 * np.sqrt(2 * z2.size)

    def test_tables_do_not_grow_with_the_reach(self):
        sizes = []
        for n in (1 << 12, 1 << 20):
            tables = cluster._tables(0.4 * np.arange(1.0, n / 2 + 1) ** -1.5, n)
            sizes.append(sum(table.nbytes for table in tables[:3]))
        assert max(sizes) < 1 << 16

    def test_block_holds_what_is_drawn(self):
        for mean in (0.0, 1e-6, 0.3, 40.0, 5000.0):
            counts = cluster._counts(mean, 1 << 20)
            most = mean * 2 ** (len(counts) - 1)
            assert poisson.sf(counts.shape[1] - 1, most) < 1e-15


class TestAgainstTheExactSolution:
    @pytest.mark.parametrize(
        "algorithm", [SwendsenWang(), Wolff(n_clusters=4000)], ids=["sw", "wolff"]
    )
    def test_neighbours_from_a_random_start(self, algorithm):
        """P(equal) = 3/4 at K = ln(3)/2 and no field, where some local updates never get."""
        chain = IsingChain(J=np.log(3) / 2, n_sites=4096, boundary="periodic")
        states, events, sampler = sampled(algorithm, chain, 4, 400, 5)
        equal = (states == np.roll(states, 1, 1)).mean(1)
        assert abs(equal.mean() - 0.75) < 4 * equal.std() / 20
        energy = -(events + sampler.offset) / 4096
        assert abs(energy.mean() + np.log(3) / 4) < 4 * energy.std() / 20

    @pytest.mark.parametrize(
        "algorithm", [SwendsenWang(), Wolff(n_clusters=500)], ids=["sw", "wolff"]
    )
    def test_potts_chain_in_a_field(self, algorithm):
        h = [0.2, 0.0, -0.1, 0.1, 0.05]
        chain = PottsChain(J=1.0, h=h, n_sites=200, boundary="periodic")
        exact = im.solve(chain)
        states, events, sampler = sampled(algorithm, chain, 5, 4000, 10)
        energy = -(bond_log_weight(chain, states) + chain.site[0][states].sum(1)) / 200
        from_events = -(events + sampler.offset + chain.site[0][states].sum(1)) / 200
        for values in (energy, from_events):
            z = (values.mean() - float(exact["energy"])) / values.std() * np.sqrt(len(values))
            assert abs(z) < 4
        for a in range(5):
            share = (states == a).mean(1)
            z = (share.mean() - float(exact["marginal"][a])) / share.std() * np.sqrt(len(share))
            assert abs(z) < 4

    def test_the_two_agree_on_a_long_range_chain(self):
        """Near the transition of alpha = 1.5, with the tables as they are in use."""
        chain = IsingChain(J=0.23, n_sites=3000, boundary="periodic", decay=power_law(1.5))
        found = []
        for algorithm, n_sweeps in ((SwendsenWang(), 5), (Wolff(n_clusters=60), 1)):
            states, events, _ = sampled(algorithm, chain, 6, 4000, n_sweeps)
            m2 = (2 * states.mean(1) - 1) ** 2
            for values in (m2, events):
                blocks = values.reshape(40, -1).mean(1)
                found.append((blocks.mean(), blocks.std() / np.sqrt(39)))
        (m_sw, e_sw, m_wolff, e_wolff) = found
        assert abs(m_sw[0] - m_wolff[0]) < 4 * np.hypot(m_sw[1], m_wolff[1])
        assert abs(e_sw[0] - e_wolff[0]) < 4 * np.hypot(e_sw[1], e_wolff[1])


class TestLimits:
    @both
    @pytest.mark.parametrize("boundary", ["open", "periodic"])
    def test_strongest_coupling(self, algorithm, boundary):
        chain = IsingChain(J=150.0, n_sites=40, boundary=boundary, decay=power_law(1.5))
        states, events, sampler = sampled(algorithm, chain, 8, 400, 1)
        assert (states == states[:, :1]).all()
        assert 100 < states[:, 0].sum() < 300
        mean = bond_log_weight(chain, states[:1])[0] - sampler.offset
        assert abs(events.mean() - mean) < 4 * np.sqrt(mean / 400)

    @both
    def test_strongest_field(self, algorithm):
        chain = IsingChain(J=0.5, h=500.0, n_sites=50)
        states, _, _ = sampled(algorithm, chain, 9, 5, 1000)
        assert (states == 1).all()

    @both
    def test_more_labels_than_a_byte(self, algorithm):
        h = np.zeros(300)
        h[299] = 3.0
        chain = PottsChain(J=0.0, h=h, n_sites=20)
        states, _, _ = sampled(algorithm, chain, 10, 3000, 200)
        assert states.dtype == np.uint16
        expected = np.ones(300)
        expected[299] = np.exp(3.0)
        count = np.bincount(states.ravel(), minlength=300)
        assert chisquare(count, expected / expected.sum() * count.sum()).pvalue > 1e-3

    def test_uniform_start(self):
        sampler = SwendsenWang().prepare(PottsChain(J=1.0, n_experts=5, n_sites=10_000))
        labels = sampler.start(words(11))
        assert chisquare(np.bincount(labels, minlength=5)).pvalue > 1e-3


class TestSampler:
    @both
    @pytest.mark.parametrize("h", [0.0, 0.2])
    def test_one_call_or_many(self, algorithm, h):
        chain = IsingChain(J=0.2, h=h, n_sites=300, boundary="periodic", decay=power_law(1.5))
        sampler = algorithm.prepare(chain)
        one, many = words(12), words(12)
        state, again = sampler.start(one), sampler.start(many)
        out, rows = np.empty((6, 300), np.uint8), np.empty((6, 300), np.uint8)
        events = sampler.advance(state, one, out, 4)
        parts = [
            sampler.advance(again, many, rows[a:b], 4) for a, b in ((0, 1), (1, 1), (1, 4), (4, 6))
        ]
        np.testing.assert_array_equal(out, rows)
        np.testing.assert_array_equal(events, np.concatenate(parts))
        np.testing.assert_array_equal(state, again)
        np.testing.assert_array_equal(one, many)

    @both
    def test_sweeps_between_samples_are_like_any(self, algorithm):
        chain = PottsChain(J=0.4, n_experts=3, n_sites=100, decay=power_law(1.5))
        sampler = algorithm.prepare(chain)
        one, two = words(13), words(13)
        state, again = sampler.start(one), sampler.start(two)
        out, thinned = np.empty((1, 100), np.uint8), np.empty((1, 100), np.uint8)
        sampler.advance(state, one, out, 1)
        sampler.advance(again, two, thinned, 1)
        np.testing.assert_array_equal(out, thinned)
        assert events_differ_from_zero(sampler, state, one)

    def test_contract(self):
        chain = IsingChain(J=0.2, n_sites=10)
        for algorithm in ALGORITHMS:
            assert isinstance(algorithm, Algorithm)
            sampler = algorithm.prepare(chain)
            assert sampler.lanes == 1
            assert not sampler.is_independent
        assert Wolff(n_clusters=2) == Wolff(n_clusters=2) != Wolff()


def events_differ_from_zero(sampler, state, generator):
    return sampler.advance(state, generator, np.empty((5, len(state)), state.dtype), 1).all()


class TestErrors:
    @both
    @pytest.mark.parametrize(
        ("chain", "message"),
        [
            (IsingChain(J=-0.3, n_sites=8), r"^J: expected a ferromagnetic.*got -0.6.*HeatBath"),
            (PottsChain(J=-1.0, n_experts=3, n_sites=8), r"^J: expected a ferromagnetic.*HeatBath"),
            (IsingChain(J=0.3, n_sites=8, decay=[1, -0.5]), r"^J: .*distance 2; use HeatBath"),
            (
                PottsChain(J=[1.0, 2.0], n_sites=8),
                r"^J: expected one coupling for all pairs of equal labels.*use HeatBath",
            ),
            (
                PottsChain(J=[[1.0, 0.1, 0], [0, 1, 0], [0, 0, 1]], n_sites=8),
                r"^J: expected one coupling.*use HeatBath",
            ),
            (
                PottsChain(J=0.5, n_experts=4, top_k=2, n_sites=8),
                r"^top_k: expected 1 for .*, got 2; use HeatBath",
            ),
            (IsingChain(J=0.5), r"^n_sites: expected a number.*got None.*give n_sites"),
            (
                IsingChain(J=0.5, decay=power_law(2.0)),
                r"^n_sites: expected a number.*got None.*give n_sites",
            ),
            (
                IsingChain(J=100.0, n_sites=100_000, decay=power_law(0.1)),
                r"^J: expected couplings.*at most 65536.*raise the temperature",
            ),
        ],
    )
    def test_chains_that_cannot_be_sampled(self, algorithm, chain, message):
        with pytest.raises(ValueError, match=message) as error:
            algorithm.prepare(chain)
        assert type(algorithm).__name__ in str(error.value)
        assert "\n" not in str(error.value)

    def test_number_of_clusters(self):
        with pytest.raises(ValueError, match="n_clusters: expected at least 1, got 0"):
            Wolff(n_clusters=0)
        for wrong in (1.5, True, None):
            with pytest.raises(TypeError, match="n_clusters: expected an integer"):
                Wolff(n_clusters=wrong)
