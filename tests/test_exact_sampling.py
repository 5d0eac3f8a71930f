"""Exact samples: their tables, and the chains that a table alone would not do."""

import numpy as np
import pytest
from naive import configurations, state_p_value

from isingmoe import Exact, IsingChain, PottsChain, power_law, solve
from isingmoe._kernels.exact_sampling import alias_tables, returns
from isingmoe.algorithms import exact


def drawn(chain, n_samples, seed):
    sampler = Exact().prepare(chain)
    words = np.random.SeedSequence(seed).generate_state(4, np.uint64)
    state = sampler.start(words)
    out = np.empty((n_samples, *state.shape), state.dtype)
    assert sampler.advance(state, words, out, 1) is None
    np.testing.assert_array_equal(state, out[-1])
    return out


@pytest.mark.parametrize("q", [2, 3, 8, 64, 300])
def test_alias_tables_hold_the_distribution(q):
    rng = np.random.default_rng(q)
    p = rng.dirichlet(np.full(q, 0.3), size=4)
    p[0] = np.eye(q)[q // 2]
    p[1] = 1 / q
    threshold, alias = alias_tables(p)
    kept = (threshold.astype(float) + 1) / 2**32
    found = kept / q
    for x in range(4):
        np.add.at(found[x], alias[x], (1 - kept[x]) / q)
    # Each column is right to 2^-32 of itself.
    np.testing.assert_allclose(found, p, atol=q * 2.0**-32)


def test_chance_to_return():
    """Of windows of two letters, against the power of the whole matrix."""
    rng = np.random.default_rng(0)
    transition = rng.dirichlet(np.ones(3), size=9)
    whole = np.zeros((9, 9))
    for x in range(9):
        for b in range(3):
            whole[x, x % 3 * 3 + b] = transition[x, b]
    expected = np.diag(np.linalg.matrix_power(whole, 7))
    np.testing.assert_allclose(returns(transition, 7), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "chain",
    [
        IsingChain(J=0.4, h=0.1, n_sites=9, boundary="periodic", decay=power_law(1.5)),
        IsingChain(J=-0.8, n_sites=9, boundary="periodic", decay=[1, 0.5]),
        PottsChain(J=2.0, n_experts=4, n_sites=6, boundary="periodic"),
        PottsChain(
            J=np.arange(9.0).reshape(3, 3) / 4, h=np.arange(18.0).reshape(6, 3) / 9, n_sites=6
        ),
        PottsChain(J=0.7, n_experts=4, top_k=2, h=[0, 0.5, 1, -1], n_sites=5, boundary="periodic"),
        PottsChain(J=1.0, n_experts=3, n_sites=1),
        IsingChain(J=1.0, h=0.2, n_sites=2),
    ],
    ids=lambda chain: f"{chain.boundary}-{chain.n_states}-{chain.n_sites}",
)
def test_states_come_as_often_as_they_should(chain):
    assert state_p_value(chain, drawn(chain, 40_000, seed=3)) > 1e-3


def test_a_ring_with_many_windows_and_long_memory():
    """1024 windows, and a ring too short to be taken for infinite."""
    chain = IsingChain(J=0.5, h=0.02, n_sites=24, boundary="periodic", decay=0.5 ** np.arange(10))
    state = drawn(chain, 20_000, seed=1)
    spin = 2.0 * state - 1
    known = solve(chain)
    mean, error = spin.mean(), spin.mean(1).std() / np.sqrt(20_000)
    assert abs(mean - float(known["magnetization"])) < 4 * error
    energy = chain.energy(state) / 24
    assert abs(energy.mean() - float(known["energy"])) < 4 * energy.std() / np.sqrt(20_000)


def test_far_from_the_ends_and_at_them():
    """Marginals of every site of a long open chain whose ends are felt."""
    chain = PottsChain(J=1.5, h=[0.6, 0, 0], n_sites=200)
    state = drawn(chain, 20_000, seed=5)
    marginal = solve(chain)["marginal"].values
    found = (state[..., None] == np.arange(3)).mean(0)
    z = (found - marginal) / np.sqrt(marginal * (1 - marginal) / 20_000)
    assert np.abs(z).max() < 4.7
    assert (z**2).mean() == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("J", [50.0, -50.0])
@pytest.mark.parametrize("boundary", ["open", "periodic"])
def test_strong_coupling(J, boundary):
    state = drawn(IsingChain(J=J, n_sites=100, boundary=boundary), 400, seed=2)
    equal = state[:, 1:] == state[:, :-1]
    assert equal.all() if J > 0 else not equal.any()
    assert 0.4 < state[:, 0].mean() < 0.6


def test_strong_fields():
    """h/T of 500 at one end and -500 at the other, against bonds of 100."""
    h = np.linspace(-500, 500, 30)
    state = drawn(IsingChain(J=100.0, h=h, n_sites=30), 50, seed=2)
    assert (state == (h > 0)).all()


def test_weights_beyond_the_range_of_a_double():
    """Where the weights of a site differ by e^1000, only the ground state is drawn."""
    h = 400.0 * np.array([1, 1, 1, -1, -1, -1])
    chain = IsingChain(J=150, h=h, n_sites=6, decay=[1, 1, 1])
    state = drawn(chain, 20, seed=1)
    assert (chain.energy(state) == chain.energy(configurations(chain)[..., 0]).min()).all()


@pytest.mark.parametrize("reach", [1, 2])
def test_draws_by_logarithms(reach, monkeypatch):
    """What is done beyond the range of a double, where it can be compared."""
    monkeypatch.setattr(exact, "_SMALLEST", np.inf)
    rng = np.random.default_rng(4)
    J = rng.normal(size=(reach, 3, 3))
    chain = PottsChain(J=J, h=rng.normal(size=(6, 3)), n_sites=6)
    assert Exact().prepare(chain)._is_wide
    assert state_p_value(chain, drawn(chain, 40_000, seed=3)) > 1e-3


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="give n_sites"):
        Exact().prepare(IsingChain(J=1))
    too_large = PottsChain(J=0.1, n_experts=64, top_k=8, n_sites=4)
    with pytest.raises(ValueError, match=r"sample it with simulate\(chain, HeatBath\(\)\)"):
        Exact().prepare(too_large)
