"""The kinetic chain: parameters, exact solution, entropy production and samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import enumerate_kinetic, stationary_kinetic

from isingmoe import KineticChain, PottsChain, solve

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
