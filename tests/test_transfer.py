"""The exact solution against enumeration, closed forms and limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import enumerate_chain

from isingmoe import IsingChain, PottsChain, solve
from isingmoe.stationary import markov_chain, second_modulus


def assert_solves(chain, tolerance=1e-10):
    exact, naive = solve(chain), enumerate_chain(chain)
    q = chain.n_states
    close = {"rtol": tolerance, "atol": tolerance}
    for name in ("log_z", "energy", "entropy", "specific_heat"):
        np.testing.assert_allclose(exact[name], naive[name], err_msg=name, **close)
    is_ising = isinstance(chain, IsingChain)
    mean = naive["mean"]
    order = mean[0] if is_ising else (q * mean.max() - 1) / (q - 1)
    np.testing.assert_allclose(exact["magnetization"], order, **close)
    susceptibility = naive["susceptibility"]
    np.testing.assert_allclose(
        exact["susceptibility"], susceptibility[0] if is_ising else susceptibility, **close
    )
    free_energy = -chain.temperature * naive["log_z"] / chain.n_sites
    np.testing.assert_allclose(exact["free_energy"], free_energy, **close)
    marginal = exact["marginal"].values
    np.testing.assert_allclose(
        np.broadcast_to(marginal, naive["marginal"].shape), naive["marginal"], **close
    )
    np.testing.assert_allclose(exact["correlation"], naive["covariance"].sum(1), **close)
    if not is_ising:
        np.testing.assert_allclose(exact["expert_correlation"], naive["covariance"], **close)


@st.composite
def chains(draw):
    boundary = draw(st.sampled_from(["open", "periodic"]))
    q = draw(st.integers(2, 5))
    n_sites = draw(st.integers(3 if boundary == "periodic" else 1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return PottsChain(
        J=rng.normal(scale=1.5, size=(q, q)),
        h=rng.normal(size=q),
        n_sites=n_sites,
        boundary=boundary,
        temperature=draw(st.floats(0.2, 5)),
    )


@given(chain=chains())
@settings(max_examples=200, deadline=None)
def test_potts_against_enumeration(chain):
    assert_solves(chain)


@pytest.mark.parametrize("n_sites", range(1, 9))
@pytest.mark.parametrize("q", [2, 3, 4, 5])
def test_every_length_against_enumeration(n_sites, q):
    rng = np.random.default_rng(100 * q + n_sites)
    for boundary in ("open", "periodic"):
        if boundary == "periodic" and n_sites < 3:
            continue
        J, h = rng.normal(size=(q, q)), rng.normal(size=q)
        assert_solves(PottsChain(J=J, h=h, n_sites=n_sites, boundary=boundary, temperature=0.8))


@given(
    J=st.floats(-3, 3),
    h=st.floats(-2, 2),
    temperature=st.floats(0.3, 4),
    n_sites=st.integers(3, 9),
    boundary=st.sampled_from(["open", "periodic"]),
)
@settings(max_examples=100, deadline=None)
def test_ising_against_enumeration(J, h, temperature, n_sites, boundary):
    assert_solves(IsingChain(J=J, h=h, temperature=temperature, n_sites=n_sites, boundary=boundary))


@given(K=st.floats(-4, 4), h=st.floats(-2, 2), n_sites=st.integers(3, 10**6))
@settings(max_examples=100, deadline=None)
def test_ising_ring_closed_form(K, h, n_sites):
    """Eigenvalues e^K cosh h +- sqrt(e^2K sinh^2 h + e^-2K); Baxter (1982), eq. 2.1.9."""
    exact = solve(IsingChain(J=K, h=h, n_sites=n_sites, boundary="periodic"), max_distance=1)
    root = np.sqrt(np.exp(2 * K) * np.sinh(h) ** 2 + np.exp(-2 * K))
    plus = np.exp(K) * np.cosh(h) + root
    ratio = (np.exp(K) * np.cosh(h) - root) / plus
    # For an even ring and |ratio| near one the second term matters.
    second = np.sign(ratio) ** n_sites * np.exp(n_sites * np.log(max(abs(ratio), 1e-300)))
    log_z = n_sites * np.log(plus) + np.log1p(second)
    np.testing.assert_allclose(exact["log_z"], log_z, rtol=1e-12)


@pytest.mark.parametrize("K", [-2.0, -0.3, 0.1, 0.6, 2.0, 5.0])
def test_ising_without_field(K):
    """C(d) = tanh(K)^d, xi = -1 / ln tanh K, chi T = e^2K, c = K^2 / cosh^2 K."""
    exact = solve(IsingChain(J=2 * K, temperature=2.0), max_distance=40)
    d = np.arange(41)
    np.testing.assert_allclose(exact["correlation"], np.tanh(K) ** d, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(exact["correlation_length"], -1 / np.log(np.tanh(abs(K))), rtol=1e-9)
    np.testing.assert_allclose(exact["susceptibility"] * 2, np.exp(2 * K), rtol=1e-12)
    np.testing.assert_allclose(exact["specific_heat"], (K / np.cosh(K)) ** 2, rtol=1e-12)
    np.testing.assert_allclose(exact["energy"], -2 * K * np.tanh(K), rtol=1e-12)
    np.testing.assert_allclose(exact["free_energy"], -2 * np.log(2 * np.cosh(K)), rtol=1e-12)
    assert abs(float(exact["magnetization"])) < 1e-12


@pytest.mark.parametrize("n_sites", [3, 10, 1000])
def test_open_ising_without_field(n_sites):
    """log Z = n ln 2 + (n - 1) ln cosh K, and C(d) = tanh^d K between any two sites."""
    K = 0.8
    exact = solve(IsingChain(J=K, n_sites=n_sites))
    log_z = n_sites * np.log(2) + (n_sites - 1) * np.log(np.cosh(K))
    np.testing.assert_allclose(exact["log_z"], log_z, rtol=1e-13)
    np.testing.assert_allclose(
        exact["correlation"], np.tanh(K) ** exact["distance"], rtol=1e-12, atol=1e-14
    )


def test_magnetization_in_a_field():
    """sinh h / sqrt(sinh^2 h + e^-4K); Baxter (1982), eq. 2.2.16."""
    K, h = 0.7, 0.25
    exact = solve(IsingChain(J=K, h=h))
    expected = np.sinh(h) / np.sqrt(np.sinh(h) ** 2 + np.exp(-4 * K))
    np.testing.assert_allclose(exact["magnetization"], expected, rtol=1e-13)


@pytest.mark.parametrize("q", [2, 3, 8, 64])
def test_potts_without_field(q):
    """Eigenvalues e^K + q - 1 and e^K - 1 (q - 1 times); Wu (1982), section I.C."""
    K = 1.7
    exact = solve(PottsChain(J=K, n_experts=q), max_distance=10)
    x = (np.exp(K) - 1) / (np.exp(K) + q - 1)
    np.testing.assert_allclose(exact["correlation_length"], -1 / np.log(x), rtol=1e-12)
    np.testing.assert_allclose(exact["correlation"], (1 - 1 / q) * x ** np.arange(11), rtol=1e-11)
    np.testing.assert_allclose(exact["log_eigenvalue"], np.log(np.exp(K) + q - 1), rtol=1e-14)
    np.testing.assert_allclose(exact["eigenvalue"][1:], x, rtol=1e-12)
    np.testing.assert_allclose(exact["magnetization"], 0, atol=1e-12)


@pytest.mark.parametrize("boundary", ["open", "periodic"])
@pytest.mark.parametrize("K", [50.0, -50.0])
@pytest.mark.parametrize("h", [0.0, 0.3])
def test_a_million_sites_at_strong_coupling(boundary, K, h):
    exact = solve(IsingChain(J=K, h=h, n_sites=10**6, boundary=boundary), max_distance=1)
    with_precision = _mpmath_log_z(K, h, 10**6, boundary)
    np.testing.assert_allclose(float(exact["log_z"]), with_precision, rtol=1e-9)
    for name in exact.data_vars:
        assert np.isfinite(exact[name]).all() or name == "correlation_length"


def test_a_million_sites_of_a_strong_potts_chain():
    rng = np.random.default_rng(3)
    J = rng.uniform(-50, 50, (6, 6))
    exact = solve(PottsChain(J=J, n_sites=10**6, boundary="periodic"), max_distance=1)
    np.testing.assert_allclose(float(exact["log_z"]), _mpmath_log_z_matrix(J, 10**6), rtol=1e-9)


def _mpmath_log_z(K, h, n, boundary):
    import mpmath

    with mpmath.workdps(60):
        K, h = mpmath.mpf(K), mpmath.mpf(h)
        root = mpmath.sqrt(mpmath.exp(2 * K) * mpmath.sinh(h) ** 2 + mpmath.exp(-2 * K))
        plus, minus = mpmath.exp(K) * mpmath.cosh(h) + root, mpmath.exp(K) * mpmath.cosh(h) - root
        if boundary == "periodic":
            return float(n * mpmath.log(plus) + mpmath.log(1 + (minus / plus) ** n))
        # Symmetric transfer matrix with half the field at each end.
        T = mpmath.matrix(
            [[mpmath.exp(K - h), mpmath.exp(-K)], [mpmath.exp(-K), mpmath.exp(K + h)]]
        )
        end = mpmath.matrix([mpmath.exp(-h / 2), mpmath.exp(h / 2)])
        E, Q = mpmath.eigsy(T)
        overlap = [sum(end[i] * Q[i, k] for i in range(2)) ** 2 for k in range(2)]
        top = max(E, key=abs)
        total = sum(o * (e / top) ** (n - 1) for o, e in zip(overlap, E, strict=True))
        return float((n - 1) * mpmath.log(abs(top)) + mpmath.log(abs(total)))


def _mpmath_log_z_matrix(J, n):
    import mpmath

    with mpmath.workdps(60):
        E = mpmath.eig(mpmath.matrix(J).apply(mpmath.exp), left=False, right=False)
        top = max(E, key=abs)
        total = sum((e / top) ** n for e in E)
        return float(mpmath.re(n * mpmath.log(top) + mpmath.log(total)))


@pytest.mark.parametrize("q", [2, 5])
def test_infinite_chain_is_the_limit_of_a_long_ring(q):
    rng = np.random.default_rng(q)
    J, h = rng.normal(size=(q, q)), rng.normal(size=q)
    infinite = solve(PottsChain(J=J, h=h), max_distance=20)
    ring = solve(PottsChain(J=J, h=h, n_sites=2000, boundary="periodic"), max_distance=20)
    for name in (
        "free_energy",
        "energy",
        "entropy",
        "specific_heat",
        "magnetization",
        "susceptibility",
        "marginal",
        "correlation",
        "expert_correlation",
    ):
        np.testing.assert_allclose(infinite[name], ring[name], rtol=1e-11, atol=1e-13, err_msg=name)


def test_middle_of_a_long_open_chain_is_the_infinite_chain():
    rng = np.random.default_rng(0)
    J, h = rng.normal(size=(4, 4)), rng.normal(size=4)
    infinite = solve(PottsChain(J=J, h=h))
    long = solve(PottsChain(J=J, h=h, n_sites=5000))
    np.testing.assert_allclose(long["marginal"][2500], infinite["marginal"], rtol=1e-12)
    short = solve(PottsChain(J=J, h=h, n_sites=400), max_distance=100)
    # The compressed bulk of the long chain and the plain short one have the same ends.
    np.testing.assert_allclose(long["marginal"][:50], short["marginal"][:50], rtol=1e-12)
    np.testing.assert_allclose(long["marginal"][-50:], short["marginal"][-50:], rtol=1e-12)


@pytest.mark.parametrize("n_sites", [300, 3000])
def test_susceptibility_is_the_sum_of_correlations(n_sites):
    """Checks the correlations of the compressed bulk against the derivative of log Z."""
    rng = np.random.default_rng(1)
    J, h = rng.normal(size=(3, 3)), rng.normal(size=3)
    exact = solve(PottsChain(J=J, h=h, n_sites=n_sites), max_distance=n_sites - 1)
    pairs = n_sites - exact["distance"].values
    weight = np.where(exact["distance"] == 0, 1, 2) * pairs / n_sites
    total = (exact["expert_correlation"].values * weight[:, None]).sum(0)
    np.testing.assert_allclose(total, exact["susceptibility"], rtol=1e-9)


def test_derivatives_against_finite_differences():
    rng = np.random.default_rng(4)
    J, h = rng.normal(size=(3, 3)), rng.normal(size=3)

    def free_energy(temperature, field):
        chain = PottsChain(J=J, h=field, temperature=temperature, n_sites=50)
        return float(solve(chain, max_distance=0)["free_energy"])

    exact = solve(PottsChain(J=J, h=h, temperature=0.9, n_sites=50))
    step = 1e-3
    first = (free_energy(0.9 + step, h) - free_energy(0.9 - step, h)) / (2 * step)
    np.testing.assert_allclose(exact["entropy"], -first, rtol=1e-5)
    second = (
        free_energy(0.9 + step, h) - 2 * free_energy(0.9, h) + free_energy(0.9 - step, h)
    ) / step**2
    np.testing.assert_allclose(exact["specific_heat"], -0.9 * second, rtol=1e-4)
    bump = step * np.eye(3)[1]
    curvature = (
        free_energy(0.9, h + bump) - 2 * free_energy(0.9, h) + free_energy(0.9, h - bump)
    ) / step**2
    np.testing.assert_allclose(exact["susceptibility"][1], -curvature, rtol=1e-4)


@pytest.mark.parametrize("n_sites", [None, 7])
def test_without_coupling(n_sites):
    h = np.array([0.3, -0.1, 0.0])
    exact = solve(PottsChain(J=0.0, h=h, n_sites=n_sites))
    load = np.exp(h) / np.exp(h).sum()
    np.testing.assert_allclose(np.atleast_2d(exact["marginal"])[0], load, rtol=1e-13)
    np.testing.assert_allclose(exact["correlation"][1:], 0, atol=1e-15)
    assert float(exact["correlation_length"]) == 0


def test_high_temperature_limit():
    exact = solve(PottsChain(J=np.diag([1.0, 2.0, 3.0]), temperature=1e9))
    np.testing.assert_allclose(exact["entropy"], np.log(3), rtol=1e-9)
    np.testing.assert_allclose(exact["marginal"], 1 / 3, rtol=1e-8)


def test_what_solve_returns():
    exact = solve(PottsChain(J=1.0, n_experts=4, n_sites=10))
    assert set(exact.data_vars) == {
        "log_z",
        "free_energy",
        "energy",
        "entropy",
        "specific_heat",
        "magnetization",
        "susceptibility",
        "marginal",
        "correlation",
        "expert_correlation",
        "correlation_length",
        "eigenvalue",
        "eigenvalue_imag",
        "log_eigenvalue",
    }
    for variable in exact.data_vars.values():
        assert {"long_name", "units"} <= set(variable.attrs)
    assert "log_z" not in solve(IsingChain(J=1.0))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="max_distance: expected 0 to 4 on this chain, got 5"):
        solve(IsingChain(J=1, n_sites=5), max_distance=5)
    with pytest.raises(ValueError, match="max_distance: expected 0 to 2"):
        solve(IsingChain(J=1, n_sites=5, boundary="periodic"), max_distance=3)
    with pytest.raises(TypeError, match="chain: expected IsingChain or PottsChain, got float"):
        solve(1.0)


@pytest.mark.parametrize("q", [2, 3, 8, 40])
@pytest.mark.parametrize("strength", [0.1, 1.0, 3.0])
def test_second_eigenvalue_without_an_eigenvalue_solver(q, strength):
    log_weight = np.random.default_rng(q).normal(size=(5, q, q)) * strength
    _, transition, stationary = markov_chain(log_weight)
    expected = np.sort(np.abs(np.linalg.eigvals(transition)), axis=-1)[:, -2]
    np.testing.assert_allclose(second_modulus(transition, stationary), expected, rtol=1e-9)
