"""The kinetic chain: parameters, exact solution, entropy production and samples."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import enumerate_kinetic, state_p_value, stationary_kinetic
from scipy.stats import kstest

from isingmoe import Exact, HeatBath, KineticChain, PottsChain, simulate, solve, sweep
from isingmoe._kernels import forward as kernels
from isingmoe._seeds import generators
from isingmoe.forward import draw, stationary_correlation

SIZES = [(3, 1, 1), (3, 2, 1), (4, 1, 2), (4, 2, 1), (4, 2, 2), (5, 2, 1), (3, 1, 3), (5, 4, 2)]


def random_chain(seed, q, k, reach, n_sites=None, by_site=False, scale=1.0):
    rng = np.random.default_rng(seed)
    return KineticChain(
        J=rng.normal(scale=scale, size=(reach, q, q)),
        h=rng.normal(size=(n_sites, q) if by_site else q),
        top_k=k,
        n_sites=n_sites,
        temperature=rng.uniform(0.6, 2),
    )


class TestInfinite:
    @pytest.mark.parametrize(("q", "k", "reach"), SIZES)
    def test_against_enumeration(self, q, k, reach):
        chain = random_chain(q + 10 * reach, q, k, reach)
        exact, naive = solve(chain, max_distance=6), stationary_kinetic(chain, reach, 6)
        for name in ("marginal", "entropy", "entropy_production"):
            np.testing.assert_allclose(exact[name], naive[name], rtol=1e-10, err_msg=name)
        np.testing.assert_allclose(exact["expert_correlation"], naive["covariance"], atol=1e-12)
        np.testing.assert_allclose(exact["correlation"], naive["covariance"].sum(1), atol=1e-12)
        modes = np.sort(np.abs(np.linalg.eigvals(naive["matrix"])))[::-1]
        found = np.abs(exact["eigenvalue"] + 1j * exact["eigenvalue_imag"])
        np.testing.assert_allclose(found[:3], modes[:3], rtol=1e-6)
        np.testing.assert_allclose(exact["correlation_length"], -1 / np.log(modes[1]), rtol=1e-6)
        largest = naive["marginal"].max() / k
        np.testing.assert_allclose(exact["magnetization"], (q * largest - 1) / (q - 1), rtol=1e-10)
        assert not {"energy", "free_energy", "specific_heat", "susceptibility"} & set(exact)

    @given(seed=st.integers(0, 10**6), q=st.integers(2, 6))
    @settings(max_examples=30, deadline=None)
    def test_one_expert_is_a_potts_chain(self, seed, q):
        """J and h of the Potts chain whose transition matrix has the rows of a softmax."""
        chain = random_chain(seed, q, 1, 1)
        log_weight = (chain.J[0] + chain.h) / chain.temperature
        log_chance = log_weight - np.log(np.exp(log_weight).sum(1, keepdims=True))
        potts, kinetic = solve(PottsChain(J=log_chance)), solve(chain)
        for name in ("entropy", "marginal", "correlation", "magnetization", "correlation_length"):
            np.testing.assert_allclose(kinetic[name], potts[name], rtol=1e-8, atol=1e-13)

    @pytest.mark.parametrize("q", [2, 5])
    def test_entropy_production_in_closed_form(self, q):
        """Sum of pi P ln(P_ab / P_ba), and of what pairs gain by their direction."""
        chain = random_chain(q, q, 1, 1)
        naive = stationary_kinetic(chain, 1, 0)
        flow = naive["law"][:, None] * naive["matrix"]
        J = chain.J[0] / chain.temperature
        by_pairs = ((J - J.T) * flow).sum()
        by_chances = (flow * np.log(naive["matrix"] / naive["matrix"].T)).sum()
        found = float(solve(chain)["entropy_production"])
        np.testing.assert_allclose([by_pairs, by_chances], found, rtol=1e-9, atol=1e-15)
        # Two states have no cycle.
        assert (found > 1e-3) == (q > 2)

    @pytest.mark.parametrize("k", [1, 2])
    def test_symmetric_couplings_are_reversible(self, k):
        rng = np.random.default_rng(k)
        J = rng.normal(size=(5, 5))
        exact = solve(KineticChain(J=J + J.T, h=rng.normal(size=5), top_k=k))
        assert float(exact["entropy_production"]) == 0
        np.testing.assert_array_equal(exact["eigenvalue_imag"], 0)

    def test_symmetric_couplings_of_further_reach_are_not(self):
        rng = np.random.default_rng(3)
        J = rng.normal(size=(2, 4, 4))
        chain = KineticChain(J=J + J.swapaxes(1, 2), h=rng.normal(size=4))
        naive = stationary_kinetic(chain, 2, 0)
        assert naive["entropy_production"] > 1e-4
        found = solve(chain)["entropy_production"]
        np.testing.assert_allclose(found, naive["entropy_production"], rtol=1e-9)

    def test_a_cycle_that_hardly_ever_stops(self):
        """J on the next expert alone: P = e^J / (e^J + q - 1), production J (P - P / e^J)."""
        q, J = 5, 20.0
        exact = solve(KineticChain(J=J * np.roll(np.eye(q), 1, axis=1)))
        chance = np.exp(J) / (np.exp(J) + q - 1)
        np.testing.assert_allclose(
            exact["entropy_production"], J * chance * (1 - np.exp(-J)), rtol=1e-12
        )
        np.testing.assert_allclose(exact["marginal"], 1 / q, rtol=1e-12)

    def test_a_state_that_is_hardly_ever_left(self):
        """Two states of chances e^-60 to leave, three times as many of one as of the other."""
        J = np.array([[60.0, 0.0], [np.log(3.0), 60.0]])
        exact = solve(KineticChain(J=J))
        np.testing.assert_allclose(exact["marginal"], [0.75, 0.25], rtol=1e-12)

    def test_without_couplings(self):
        h = np.array([0.5, -1.0, 0.2, 0.0])
        exact = solve(KineticChain(J=0.0, h=h, top_k=1), max_distance=3)
        p = np.exp(h) / np.exp(h).sum()
        np.testing.assert_allclose(exact["marginal"], p, rtol=1e-13)
        np.testing.assert_allclose(exact["entropy"], -(p * np.log(p)).sum(), rtol=1e-13)
        np.testing.assert_allclose(exact["correlation"], [1 - (p**2).sum(), 0, 0, 0], atol=1e-15)
        assert float(exact["entropy_production"]) == 0
        assert float(exact["correlation_length"]) == 0

    @pytest.mark.parametrize("n_sites", [None, 1, 4])
    def test_all_experts(self, n_sites):
        chain = KineticChain(J=np.arange(18.0).reshape(2, 3, 3), top_k=3, n_sites=n_sites)
        exact = solve(chain, max_distance=0 if n_sites == 1 else 2)
        np.testing.assert_array_equal(exact["marginal"], np.ones(exact["marginal"].shape))
        np.testing.assert_allclose(exact["correlation"], 0, atol=1e-15)
        np.testing.assert_allclose(exact["entropy"], 0, atol=1e-15)

    def test_many_windows_by_iteration_and_by_elimination(self, monkeypatch):
        from isingmoe import markov

        chain = random_chain(8, 5, 2, 3)
        many = solve(chain, max_distance=4)
        monkeypatch.setattr(markov, "_FEW_WINDOWS", 1000)
        few = solve(chain, max_distance=4)
        assert many.sizes["mode"] < 1000
        for name in ("marginal", "entropy", "entropy_production", "correlation"):
            np.testing.assert_allclose(many[name], few[name], rtol=1e-10)

    def test_too_many_windows(self):
        text = r"chain: 635376 transfer states, .*sample it with simulate\(chain, Exact\(\)\)"
        with pytest.raises(ValueError, match=text):
            solve(KineticChain(J=1.0, n_experts=64, top_k=4))


class TestFinite:
    @pytest.mark.parametrize("by_site", [False, True])
    @pytest.mark.parametrize("n_sites", [1, 2, 3, 5])
    @pytest.mark.parametrize(("q", "k", "reach"), SIZES[:-1])
    def test_against_enumeration(self, q, k, reach, n_sites, by_site):
        if k > 1 and n_sites == 5:
            n_sites = 4
        chain = random_chain(n_sites, q, k, reach, n_sites, by_site)
        exact, naive = solve(chain), enumerate_kinetic(chain)
        assert exact["marginal"].dims == ("site", "expert")
        for name in ("marginal", "entropy"):
            np.testing.assert_allclose(exact[name], naive[name], rtol=1e-11, err_msg=name)
        np.testing.assert_allclose(exact["expert_correlation"], naive["covariance"], atol=1e-13)
        np.testing.assert_allclose(exact["correlation"], naive["covariance"].sum(1), atol=1e-13)
        assert "entropy_production" not in exact
        assert ("correlation_length" in exact) == (chain.site.shape[0] == 1)

    @pytest.mark.parametrize("reach", [1, 2])
    def test_columns_in_groups_and_sites_in_stretches(self, reach, monkeypatch):
        from isingmoe import markov

        for by_site in (False, True):
            chain = random_chain(1, 4, 1, reach, 40, by_site)
            whole = solve(chain)
            with monkeypatch.context() as patch:
                patch.setattr(markov, "_COLUMNS", 700)
                patch.setattr(markov, "_STRETCH", 50)
                parts = solve(chain)
            for name in ("marginal", "entropy", "expert_correlation"):
                np.testing.assert_allclose(parts[name], whole[name], rtol=1e-9, atol=1e-16)

    @pytest.mark.parametrize("n_sites", [30, 1000])
    def test_one_field_is_the_same_field_at_each_site(self, n_sites):
        one = random_chain(2, 4, 2, 2, n_sites)
        each = KineticChain(
            J=one.J,
            h=np.tile(one.h, (n_sites, 1)),
            top_k=2,
            n_sites=n_sites,
            temperature=one.temperature,
        )
        one, each = solve(one, max_distance=20), solve(each, max_distance=20)
        for name in ("marginal", "entropy", "expert_correlation"):
            np.testing.assert_allclose(one[name], each[name], rtol=1e-10, atol=1e-15)

    def test_a_long_one_is_the_infinite_one(self):
        chain = random_chain(4, 4, 2, 2)
        infinite = solve(chain, max_distance=20)
        n = 10**6
        finite = KineticChain(
            J=chain.J, h=chain.h, top_k=2, n_sites=n, temperature=chain.temperature
        )
        finite = solve(finite, max_distance=20)
        for name in ("marginal", "entropy", "correlation"):
            found = finite[name][n // 2] if name == "marginal" else finite[name]
            np.testing.assert_allclose(found, infinite[name], rtol=3e-4, atol=1e-7)
        np.testing.assert_allclose(finite["marginal"][-1], infinite["marginal"], rtol=1e-12)


class TestLikelihood:
    @pytest.mark.parametrize("by_site", [False, True])
    @pytest.mark.parametrize(("q", "k", "reach"), SIZES[:-1])
    def test_against_enumeration(self, q, k, reach, by_site):
        chain = random_chain(1, q, k, reach, 3, by_site)
        naive = enumerate_kinetic(chain)
        states = naive["states"] if k > 1 else naive["states"][..., 0]
        found = chain.log_likelihood(states)
        np.testing.assert_allclose(found, np.log(naive["probability"]), atol=1e-12)
        assert chain.log_likelihood(states[0]).shape == ()
        backwards = states[..., ::-1] if k > 1 else states
        np.testing.assert_allclose(chain.log_likelihood(backwards), found, atol=1e-13)

    def test_of_weights_beyond_the_range_of_a_double(self):
        chain = KineticChain(J=0.0, h=[0, -400.0, -450.0, 400.0], top_k=2, n_sites=1)
        found = chain.log_likelihood([[[0, 3]], [[1, 2]]])
        np.testing.assert_allclose(found, [0, -1250.0], atol=1e-10)

    def test_mean_is_minus_the_entropy(self):
        chain = random_chain(5, 4, 2, 1, 3)
        naive = enumerate_kinetic(chain)
        mean = naive["probability"] @ chain.log_likelihood(naive["states"])
        np.testing.assert_allclose(-mean / 3, solve(chain)["entropy"], rtol=1e-12)


def p_value(chain, sets, exact=None):
    """Chance of a worse histogram of whole sequences, (sample, site, rank)."""
    samples = sets if chain.top_k > 1 else sets[..., 0]
    return state_p_value(chain, samples, exact or enumerate_kinetic(chain))


class TestDraws:
    @pytest.mark.parametrize("by_site", [False, True])
    @pytest.mark.parametrize(("q", "k", "reach"), [*SIZES[:-1], (5, 4, 1), (4, 3, 2)])
    def test_sequences_follow_their_law(self, q, k, reach, by_site):
        chain = random_chain(q, q, k, reach, 3, by_site)
        sets = draw(chain, 20_000, 3, seed=q + k)
        assert sets.dtype == np.int16
        assert (np.diff(sets, axis=-1) > 0).all()
        assert p_value(chain, sets) > 1e-3

    def test_the_chances_of_worse_histograms_are_uniform(self):
        chain = random_chain(1, 4, 2, 2, 2)
        exact = enumerate_kinetic(chain)
        values = [p_value(chain, draw(chain, 2000, 2, seed=seed), exact) for seed in range(80)]
        assert kstest(values, "uniform").pvalue > 1e-3

    @pytest.mark.parametrize(
        ("k", "h", "is_exact"),
        [
            (1, [0, 480, 480.7, -300, 480.2], True),
            (2, [0, 480, 480.7, -300, 480.2], True),
            (2, [500, 0, 0.3, -0.5, 0.8], False),
            (4, [500, 0, 0.3, -0.5, 0.8], False),
            (3, [0, -499, 499, -500, -498.5], False),
            (4, [480, 481, -99.5, -100, -100.5], False),
        ],
    )
    def test_weights_beyond_the_range_of_a_double(self, k, h, is_exact):
        """By sums where they are exact, and by their ratios where they are not."""
        J = np.zeros((5, 5))
        J[0, :3] = 1, -1, 0.5
        chain = KineticChain(J=J, h=h, top_k=k, n_sites=2)
        assert p_value(chain, draw(chain, 20_000, 2, seed=k)) > 1e-3
        weight, sums = np.empty((5, 8)), np.zeros((6, k + 1, 8))
        sums[:, 0] = 1
        kernels._weigh(np.tile(chain.site, (8, 1)), weight, np.empty(8))
        kernels._sums(weight, sums)
        assert kernels._is_exact(sums, 3) == is_exact

    def test_all_experts(self):
        chain = KineticChain(J=np.arange(9.0).reshape(3, 3), h=[0, 300.0, -300], top_k=3)
        np.testing.assert_array_equal(draw(chain, 9, 5), np.tile([0, 1, 2], (9, 5, 1)))

    def test_many_labels(self):
        """More than the sums of all sets can count in a double."""
        chain = KineticChain(J=0.0, h=np.linspace(-1, 1, 1200), top_k=600)
        sets = draw(chain, 4, 3)
        assert (np.diff(sets, axis=-1) > 0).all()
        assert 600 < sets.mean() < 800

    def test_without_couplings(self):
        h = np.log([0.5, 0.3, 0.2])
        words = generators(0, 8000)
        out = np.empty((8000, 1, 1), np.int16)
        nothing, one = np.empty((0, 3, 3)), np.zeros((1, 3))
        kernels.draw_sequences(nothing, h[None], np.zeros((1, 1), int), one, 1, 2, words, out)
        counts = np.bincount(out.ravel())
        assert np.abs(counts / 8000 - [0.5, 0.3, 0.2]).max() < 4 * np.sqrt(0.25 / 8000)

    def test_neither_threads_nor_other_sequences_matter(self, many_threads):
        chain = random_chain(6, 6, 2, 2)
        many = draw(chain, 100, 30, n_burn=5, seed=3)
        np.testing.assert_array_equal(draw(chain, 37, 30, n_burn=5, seed=3), many[:37])
        numba.set_num_threads(1)
        np.testing.assert_array_equal(draw(chain, 100, 30, n_burn=5, seed=3), many)
        assert (draw(chain, 100, 30, n_burn=5, seed=4) != many).any()

    def test_what_is_discarded_comes_before(self):
        chain = random_chain(6, 6, 2, 2)
        whole = draw(chain, 20, 30, seed=3)
        np.testing.assert_array_equal(draw(chain, 20, 20, n_burn=10, seed=3), whole[:, 10:])

    def test_a_field_of_each_sequence(self):
        chain = random_chain(7, 5, 2, 1, 4)
        more = np.random.default_rng(0).normal(size=(20, 5))
        found = draw(chain, 20, 4, by_sequence=more, seed=1)
        for s in range(20):
            shifted = KineticChain(
                J=chain.J,
                h=chain.h + more[s] * chain.temperature,
                top_k=2,
                temperature=chain.temperature,
            )
            np.testing.assert_array_equal(draw(shifted, 20, 4, seed=1)[s], found[s])

    def test_bad_arguments_are_named(self):
        chain = KineticChain(J=1.0, n_experts=3, n_sites=4)
        with pytest.raises(ValueError, match="length: expected 4, that of the chain, got 5"):
            draw(chain, 2, 5)
        with pytest.raises(ValueError, match=r"by_sequence: expected shape \(2, 3\), got \(3,\)"):
            draw(chain, 2, 4, by_sequence=np.zeros(3))
        with pytest.raises(ValueError, match="n_sites: expected None, the infinite chain, got 4"):
            stationary_correlation(chain, 3)


class TestSamples:
    @pytest.mark.parametrize(("q", "k", "reach", "n"), [(5, 2, 1, 9), (4, 1, 2, 12), (3, 2, 3, 5)])
    def test_against_the_exact_solution(self, q, k, reach, n):
        chain = random_chain(q, q, k, reach, n)
        samples = simulate(chain, Exact(), n_samples=4000, n_replicas=4, seed=2, keep_states=True)
        exact = solve(chain)
        for name in ("marginal", "correlation", "magnetization"):
            z = (samples[name] - exact[name]) / samples[f"{name}_error"]
            assert np.abs(z).max() < 4, name
        assert samples["state"].dims == ("replica", "sample", "site", "rank")[: 3 + (k > 1)]
        assert not {"energy", "specific_heat", "susceptibility", "energy_drift"} & set(samples)
        assert all(samples[name].attrs["long_name"] for name in samples)

    def test_the_errors_are_right(self):
        chain = random_chain(1, 4, 2, 1, 6)
        exact = solve(chain)
        z = []
        for seed in range(20):
            samples = simulate(chain, Exact(), n_samples=200, n_replicas=4, seed=seed)
            for name in ("correlation", "marginal"):
                z.append((samples[name] - exact[name]) / samples[f"{name}_error"])
        assert 0.85 < np.sqrt(np.mean([(x.values**2).mean() for x in z])) < 1.15

    def test_states_are_sequences(self):
        chain = random_chain(2, 4, 2, 1, 3)
        samples = simulate(chain, Exact(), n_samples=5000, n_replicas=4, seed=1, keep_states=True)
        states = samples["state"].values.reshape(-1, 3, 2)
        assert p_value(chain, states) > 1e-3
        again = simulate(
            chain, Exact(), n_samples=5000, n_replicas=4, seed=1, keep_states=True, n_threads=1
        )
        np.testing.assert_array_equal(again["state"], samples["state"])

    def test_other_algorithms_and_infinite_chains(self):
        chain = KineticChain(J=1.0, n_experts=3, n_sites=4)
        text = r"algorithm: expected Exact\(\) for a kinetic chain, got HeatBath\("
        with pytest.raises(ValueError, match=text):
            simulate(chain, HeatBath())
        with pytest.raises(ValueError, match="n_sites: expected a finite chain to sample"):
            simulate(KineticChain(J=1.0, n_experts=3), Exact())

    def test_more_windows_than_are_solved(self):
        chain = KineticChain(J=2.0, n_experts=64, top_k=8, n_sites=16)
        samples = simulate(chain, Exact(), n_samples=100, n_replicas=2, seed=1)
        assert float(samples["correlation"][1]) > 10 * float(samples["correlation_error"][1])

    def test_a_sweep(self):
        grid = sweep(solve, KineticChain(J=1.0, n_experts=4, top_k=2), J=[0.0, 1.0, 2.0])
        assert (np.diff(grid["correlation_length"]) > 0).all()


class TestStationaryCorrelation:
    @pytest.mark.parametrize(("q", "k", "reach"), [(4, 1, 1), (5, 2, 1), (4, 2, 2)])
    def test_against_the_exact_solution(self, q, k, reach):
        chain = random_chain(q, q, k, reach)
        exact = solve(chain, max_distance=10)
        runs = [stationary_correlation(chain, 10, 64_000, seed) for seed in range(12)]
        summed = [(run.curve - exact["correlation"].values) / run.error for run in runs]
        of_expert = [
            (run.expert_curve - exact["expert_correlation"].values.T) / run.expert_error
            for run in runs
        ]
        for z in (summed, of_expert):
            assert np.abs(z).max() < 5
            assert np.abs(np.mean(z, 0)).max() < 4.5 / np.sqrt(12)
            assert 0.7 < np.sqrt(np.mean(np.square(z))) < 1.3
        np.testing.assert_allclose(runs[0].expert_curve.sum(0), runs[0].curve, atol=1e-12)

    def test_of_the_same_seed_is_the_same(self):
        chain = random_chain(1, 8, 3, 1)
        first, second = (stationary_correlation(chain, 4, 10_000, 5) for _ in range(2))
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"J": np.zeros((3, 3)), "top_k": 4}, "top_k: expected 1 to 3 of 3 experts for each site"),
        ({"J": np.zeros((3, 3)), "top_k": 0}, "top_k: expected 1 to 3 of 3 experts"),
        ({"J": 1.0}, "n_experts: expected the number of states, got None"),
        ({"J": np.zeros((2, 3))}, r"J: expected a number, \(3,\), \(3, 3\) or \(reach, 3, 3\)"),
        ({"J": np.eye(3), "h": np.zeros(4)}, "expected one number of states, got J of 3, h of 4"),
        ({"J": np.eye(3), "h": np.zeros((5, 3))}, "one field for all sites of an infinite chain"),
        (
            {"J": np.eye(3), "h": np.zeros((5, 3)), "n_sites": 4},
            r"h: expected \(n_sites, q\) with n_sites = 4, got shape \(5, 3\)",
        ),
        ({"J": np.eye(3), "n_sites": 0}, "n_sites: expected at least 1"),
        ({"J": np.eye(3), "temperature": 0}, "temperature: expected a positive number, got 0"),
        ({"J": 200.0, "n_experts": 3}, r"J: expected \|J\| / temperature of at most 150"),
        ({"J": np.nan, "n_experts": 3}, "J: expected finite numbers"),
    ],
)
def test_bad_parameters_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        KineticChain(**arguments)


def test_chains_are_values():
    chain = KineticChain(J=[1.0, 2.0, 0.5], n_sites=4)
    assert chain == KineticChain(J=[1.0, 2.0, 0.5], n_sites=4)
    assert chain != KineticChain(J=[1.0, 2.0, 0.4], n_sites=4)
    assert chain != PottsChain(J=[1.0, 2.0, 0.5], n_sites=4)
    assert "n_sites=4" in repr(chain)
    assert not hasattr(chain, "energy")
    with pytest.raises(ValueError, match="read-only"):
        chain.J[0] = 2
    with pytest.raises(TypeError, match="boundary"):
        KineticChain(J=chain.J, boundary="periodic")


def test_bad_states_are_named():
    chain = KineticChain(J=1.0, n_experts=4, top_k=2, n_sites=2)
    with pytest.raises(ValueError, match="state: expected 2 different labels for each site"):
        chain.log_likelihood([[0, 0], [1, 2]])
    with pytest.raises(ValueError, match="state: expected 2 sites, got 1"):
        chain.log_likelihood([[0, 1]])
