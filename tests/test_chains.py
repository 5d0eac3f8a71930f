"""Parameters, energies and gauges of the chains."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import enumerate_chain, slow_energy

from isingmoe import IsingChain, PottsChain, exponential, power_law
from isingmoe.chains import Chain
from isingmoe.couplings import zero_sum


def random_potts(rng, n_sites, boundary, q):
    return PottsChain(
        J=rng.normal(size=(q, q)),
        h=rng.normal(size=q),
        n_sites=n_sites,
        boundary=boundary,
        temperature=rng.uniform(0.3, 3),
    )


@given(
    seed=st.integers(0, 10**6), q=st.integers(2, 5), boundary=st.sampled_from(["open", "periodic"])
)
@settings(max_examples=50, deadline=None)
def test_energy_is_the_sum_of_its_terms(seed, q, boundary):
    rng = np.random.default_rng(seed)
    chain = random_potts(rng, 6, boundary, q)
    states = rng.integers(0, q, (4, 6))
    expected = [slow_energy(chain, s) for s in states]
    np.testing.assert_allclose(chain.energy(states), expected, atol=1e-12)


@pytest.mark.parametrize("boundary", ["open", "periodic"])
@pytest.mark.parametrize("n_sites", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("decay", [None, power_law(0.7), exponential(1.5), [1, -0.4, 0.2]])
@pytest.mark.parametrize("top_k", [1, 2])
def test_energy_of_any_reach(boundary, n_sites, decay, top_k):
    """Pair by pair at the shorter way round, the antipode of an even ring once."""
    if boundary == "periodic" and (n_sites < 3 or (isinstance(decay, list) and n_sites < 7)):
        pytest.skip("no such ring")
    rng = np.random.default_rng(n_sites)
    site_dependent = boundary == "open" and n_sites > 2
    chain = PottsChain(
        J=rng.normal(size=(4, 4)),
        h=rng.normal(size=(n_sites, 4) if site_dependent else 4),
        n_sites=n_sites,
        boundary=boundary,
        decay=decay,
        top_k=top_k,
    )
    sets = rng.random((20, n_sites, 4)).argsort(-1)[..., :top_k]
    states = sets if top_k > 1 else sets[..., 0]
    np.testing.assert_allclose(chain.energy(states), slow_energy(chain, sets), atol=1e-12)


def test_a_coupling_for_each_distance():
    rng = np.random.default_rng(0)
    J = rng.normal(size=(3, 2, 2))
    for boundary in ("open", "periodic"):
        chain = PottsChain(J=J, n_sites=8, boundary=boundary)
        states = rng.integers(0, 2, (9, 8))
        np.testing.assert_allclose(chain.energy(states), slow_energy(chain, states), atol=1e-12)


def test_a_ring_needs_room_for_its_reach():
    with pytest.raises(ValueError, match="expected a reach below n_sites / 2 on a ring of 6"):
        IsingChain(J=1, n_sites=6, boundary="periodic", decay=[1, 0.5, 0.2])
    with pytest.raises(ValueError, match="has no end on an infinite chain; give n_sites"):
        _ = IsingChain(J=1, decay=power_law(2)).strength


@pytest.mark.parametrize("wrong", [0, -1, np.inf, np.nan])
def test_a_decay_is_positive(wrong):
    with pytest.raises(ValueError, match="alpha: expected a positive number"):
        power_law(wrong)
    with pytest.raises(ValueError, match="length: expected a positive number"):
        exponential(wrong)


def test_ising_energy_of_all_up_and_of_a_domain_wall():
    chain = IsingChain(J=2.0, h=0.5, n_sites=4)
    assert chain.energy([1, 1, 1, 1]) == pytest.approx(-3 * 2 - 4 * 0.5)
    assert chain.energy([0, 0, 1, 1]) == pytest.approx(-2 + 2 - 2)


def test_positive_coupling_favours_equal_neighbours():
    for chain in (
        IsingChain(J=1.0, n_sites=2),
        PottsChain(J=1.0, n_experts=3, n_sites=2),
        PottsChain(J=np.eye(3), n_sites=2),
    ):
        assert chain.energy([1, 1]) < chain.energy([0, 1])


@pytest.mark.parametrize("boundary", ["open", "periodic"])
def test_potts_with_two_states_is_ising_with_half_the_coupling(boundary):
    kwargs = {"n_sites": 5, "boundary": boundary, "temperature": 0.7}
    potts = enumerate_chain(PottsChain(J=1.3, h=[-0.2, 0.2], **kwargs))
    ising = enumerate_chain(IsingChain(J=0.65, h=0.2, **kwargs))
    np.testing.assert_allclose(potts["marginal"], ising["marginal"], atol=1e-13)
    assert potts["specific_heat"] == pytest.approx(ising["specific_heat"])


@pytest.mark.parametrize("J", [0.7, [0.7, -0.2, 0.1], np.arange(9.0).reshape(3, 3)])
def test_scalar_vector_and_matrix_couplings(J):
    bond = PottsChain(J=J, n_experts=3).bond[0]
    expected = J if np.ndim(J) == 2 else np.diag(np.broadcast_to(J, 3))
    np.testing.assert_array_equal(bond, expected)


@given(seed=st.integers(0, 10**6), q=st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_zero_sum_gauge_leaves_a_ring_as_it_was(seed, q):
    rng = np.random.default_rng(seed)
    chain = random_potts(rng, 4, "periodic", q)
    J, h = zero_sum(chain.J, chain.h)
    np.testing.assert_allclose(J.sum(0), 0, atol=1e-12)
    np.testing.assert_allclose(J.sum(1), 0, atol=1e-12)
    assert h.sum() == pytest.approx(0, abs=1e-12)
    gauged = PottsChain(J=J, h=h, n_sites=4, boundary="periodic", temperature=chain.temperature)
    before, after = enumerate_chain(chain), enumerate_chain(gauged)
    np.testing.assert_allclose(before["marginal"], after["marginal"], atol=1e-12)
    np.testing.assert_allclose(before["covariance"], after["covariance"], atol=1e-12)


def test_chains_are_values():
    assert IsingChain(J=1) == IsingChain(J=1.0)
    assert IsingChain(J=1) != IsingChain(J=1, h=0.1)
    assert IsingChain(J=1) != PottsChain(J=1, n_experts=2)
    assert PottsChain(J=[1, 2, 3]) == PottsChain(J=[1, 2, 3])
    assert PottsChain(J=[1, 2, 3]) != PottsChain(J=[1, 2, 4])
    assert "n_sites=None" in repr(IsingChain(J=1))
    assert isinstance(IsingChain(J=1), Chain)


def test_parameters_cannot_be_changed():
    J = np.eye(3)
    chain = PottsChain(J=J)
    J[0, 0] = 5
    assert chain.J[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        chain.J[0, 0] = 5
    with pytest.raises(AttributeError):
        chain.h = 3


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (
            IsingChain,
            {"J": 1, "temperature": -1},
            "temperature: expected a positive number, got -1",
        ),
        (
            IsingChain,
            {"J": 1, "temperature": np.nan},
            "temperature: expected finite numbers, got nan",
        ),
        (IsingChain, {"J": np.nan}, "J: expected finite numbers, got nan"),
        (IsingChain, {"J": 1e308}, r"J: expected \|J\| / temperature of at most 150"),
        (PottsChain, {"J": [0, 1], "h": 1, "temperature": 1e-300}, "raise the temperature"),
        (IsingChain, {"J": "strong"}, "J: expected numbers, got 'strong'"),
        (IsingChain, {"J": "1.5"}, "J: expected numbers, got '1.5'"),
        (IsingChain, {"J": True}, "J: expected numbers, got True"),
        (IsingChain, {"J": 1, "temperature": "2"}, "temperature: expected numbers, got '2'"),
        (PottsChain, {"J": np.zeros((0, 3, 3))}, r"\(reach, 3, 3\), got shape \(0, 3, 3\)"),
        (IsingChain, {"J": 1, "n_sites": 2**53 + 1}, r"n_sites: expected at most 2\^53"),
        (IsingChain, {"J": [1, 2]}, r"J: expected a number, got shape \(2,\)"),
        (IsingChain, {"J": 1, "n_sites": 0}, "n_sites: expected at least 1"),
        (
            IsingChain,
            {"J": 1, "n_sites": 2, "boundary": "periodic"},
            "n_sites: expected at least 3",
        ),
        (IsingChain, {"J": 1, "n_sites": 2.5}, "n_sites: expected an integer or None"),
        (
            IsingChain,
            {"J": 1, "boundary": "ring"},
            "boundary: expected 'open' or 'periodic', got 'ring'",
        ),
        (PottsChain, {"J": 1}, "n_experts: expected the number of states, got None"),
        (PottsChain, {"J": 1, "n_experts": 1}, "n_experts: expected at least 2, got 1"),
        (
            PottsChain,
            {"J": [1, 2], "h": [1, 2, 3]},
            "expected one number of states, got J of 2, h of 3",
        ),
        (
            PottsChain,
            {"J": np.ones((2, 3))},
            r"J: expected a number, \(3,\), \(3, 3\) or \(reach, 3, 3\), got shape \(2, 3\)",
        ),
        (PottsChain, {"J": 1, "h": np.ones((4, 3))}, "h: expected one field for all"),
    ],
)
def test_bad_parameters_are_named(kind, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        kind(**arguments)


def test_numbers_are_kept_as_doubles():
    chain = IsingChain(J=np.float32(0.3), temperature=np.float16(1.1), n_sites=4)
    assert type(chain.temperature) is float
    assert chain.bond[0, 0, 0] == float(np.float32(0.3)) / float(np.float16(1.1))


def test_bad_states_are_named():
    with pytest.raises(TypeError, match="state: expected integers, got float64"):
        IsingChain(J=1.0, n_sites=3).energy([0.0, 1.0, 1.0])
    chain = IsingChain(J=1, n_sites=3)
    with pytest.raises(ValueError, match="expected 3 sites, got 2"):
        chain.energy([0, 1])
    with pytest.raises(ValueError, match=r"expected labels 0\.\.1, got 0\.\.2"):
        chain.energy([0, 1, 2])
