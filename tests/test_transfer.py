"""The exact solution against enumeration, closed forms and limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import enumerate_chain

import isingmoe.infinite as infinite_chains
from isingmoe import IsingChain, PottsChain, rings, segments, solve, transfer
from isingmoe._windows import Windows
from isingmoe.couplings import exponential, power_law
from isingmoe.stationary import markov_chain, second_modulus


def assert_solves(chain, tolerance=1e-10):
    exact, naive = solve(chain), enumerate_chain(chain)
    q, k = chain.n_states, chain.top_k
    close = {"rtol": tolerance, "atol": tolerance}
    for name in ("log_z", "energy", "entropy", "specific_heat"):
        np.testing.assert_allclose(exact[name], naive[name], err_msg=name, **close)
    is_ising = isinstance(chain, IsingChain)
    mean = naive["mean"]
    order = mean[0] if is_ising else (q * mean.max() / k - 1) / (q - 1)
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


SIZES = {
    # (labels, labels at a site): reach, longest chain that is quick to enumerate
    (2, 1): (3, 10),
    (3, 1): (3, 7),
    (4, 1): (3, 6),
    (3, 2): (3, 7),
    (4, 2): (3, 5),
    (4, 3): (2, 6),
    (5, 2): (2, 4),
    (5, 3): (1, 4),
}


@st.composite
def chains_of_any_reach(draw):
    q, k = draw(st.sampled_from(sorted(SIZES)))
    most, longest = SIZES[q, k]
    reach = draw(st.integers(1, most))
    can_be_ring = 2 * reach < longest
    boundary = draw(st.sampled_from(["open", "periodic"] if can_be_ring else ["open"]))
    n_sites = draw(st.integers(max(3, 2 * reach + 1) if boundary == "periodic" else 1, longest))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    has_own_fields = boundary == "open" and draw(st.booleans())
    return PottsChain(
        J=rng.normal(size=(reach, q, q)),
        h=rng.normal(size=(n_sites, q) if has_own_fields else q),
        n_sites=n_sites,
        boundary=boundary,
        temperature=draw(st.floats(0.4, 4)),
        top_k=k,
    )


@given(chain=chains_of_any_reach())
@settings(max_examples=150, deadline=None)
def test_any_reach_against_enumeration(chain):
    assert_solves(chain)


@pytest.mark.parametrize("boundary", ["open", "periodic"])
@pytest.mark.parametrize("n_sites", [3, 4, 7, 8, 12])
@pytest.mark.parametrize("decay", [power_law(1.5), exponential(2.0)])
def test_couplings_between_all_sites_against_enumeration(boundary, n_sites, decay):
    if boundary == "open" and n_sites == 12:
        n_sites = 11
    assert_solves(IsingChain(J=0.7, h=0.2, n_sites=n_sites, boundary=boundary, decay=decay))


@pytest.mark.parametrize("n_sites", [1, 2, 3])
def test_a_field_for_each_site_of_a_short_ising_chain(n_sites):
    h = [0.5, -1.0, 0.3][:n_sites]
    assert_solves(IsingChain(J=-0.8, h=h, n_sites=n_sites, decay=[1.0, 0.5]))


def test_an_antiferromagnet_keeps_its_digits():
    """Squares of its transfer matrix have two nearly equal eigenvalues, which it has not."""
    assert_solves(IsingChain(J=-2.96875, h=1.0, n_sites=3, temperature=0.3125), 1e-12)


def test_the_marginal_of_several_experts_sums_to_their_number():
    exact = solve(PottsChain(J=np.arange(5.0), top_k=3, n_sites=6))
    assert exact["marginal"].dims == ("site", "expert")
    np.testing.assert_allclose(exact["marginal"].sum("expert"), 3, rtol=1e-13)
    share = exact["marginal"].mean("site").max() / 3
    np.testing.assert_allclose(exact["magnetization"], (5 * share - 1) / 4, rtol=1e-12)


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
    with pytest.raises(
        TypeError, match="chain: expected IsingChain, PottsChain or KineticChain, got float"
    ):
        solve(1.0)


@pytest.mark.parametrize("q", [2, 3, 8, 40])
@pytest.mark.parametrize("strength", [0.1, 1.0, 3.0])
def test_second_eigenvalue_without_an_eigenvalue_solver(q, strength):
    log_weight = np.random.default_rng(q).normal(size=(5, q, q)) * strength
    _, transition, stationary = markov_chain(log_weight)
    expected = np.sort(np.abs(np.linalg.eigvals(transition)), axis=-1)[:, -2]
    np.testing.assert_allclose(second_modulus(transition, stationary), expected, rtol=1e-9)


REACHING = {
    "ising": {"J": 0.4, "h": 0.2, "decay": [1.0, -0.5, 0.4]},
    "potts": {"J": np.random.default_rng(5).normal(size=(2, 3, 3)), "h": [0.1, 0.0, -0.3]},
    "sets": {"J": np.random.default_rng(6).normal(size=(4, 4)) / 2, "h": 0.0, "top_k": 2},
}


def reaching_chain(name, **more):
    return (IsingChain if name == "ising" else PottsChain)(**REACHING[name], **more)


def assert_same(one, other, rtol=1e-11, atol=1e-12):
    for field in one.__dataclass_fields__:
        a, b = getattr(one, field), getattr(other, field)
        if a is not None and b is not None:
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=field)


@pytest.mark.parametrize("name", REACHING)
def test_three_ways_round_a_ring_agree(name):
    infinite = infinite_chains.stationary_chain(Windows.of(reaching_chain(name)))
    n_sites = 2 + int(infinite.memory * (46 + np.log(64 * 1e5)))
    untracked = infinite_chains.untracked
    for n in (7, 12, n_sites):
        by_power = rings._by_power(infinite, n, n // 2)
        assert_same(rings._by_start(infinite, n, n // 2, untracked), by_power)
        if n == n_sites:
            assert_same(rings._long(infinite, n, n // 2), by_power)


@pytest.mark.parametrize("name", REACHING)
def test_any_infinite_chain_is_the_limit_of_a_long_ring(name, monkeypatch):
    infinite = solve(reaching_chain(name), max_distance=30)
    ring = reaching_chain(name, n_sites=2000, boundary="periodic")
    folded = solve(ring, max_distance=30)
    # The ring itself, and not the infinite chain in its place.
    monkeypatch.setattr(rings, "_LOST", np.inf)
    powers = solve(ring, max_distance=30)
    for other in (folded, powers):
        for variable in infinite.data_vars:
            np.testing.assert_allclose(
                other[variable], infinite[variable], rtol=1e-12, atol=1e-12, err_msg=variable
            )


@pytest.mark.parametrize("name", REACHING)
def test_many_windows_are_solved_as_few_are(name, monkeypatch):
    windows = Windows.of(reaching_chain(name))
    few = infinite_chains.stationary_chain(windows)
    monkeypatch.setattr(infinite_chains, "_FEW_WINDOWS", 1)
    monkeypatch.setattr(infinite_chains, "_N_MODES", 3)
    monkeypatch.setattr(infinite_chains, "_KRYLOV", windows.n_windows - 1)
    many = infinite_chains.stationary_chain(windows)
    np.testing.assert_allclose(many.log_eigenvalue, few.log_eigenvalue, rtol=1e-14)
    np.testing.assert_allclose(many.transition, few.transition, rtol=1e-13)
    np.testing.assert_allclose(many.stationary, few.stationary, rtol=1e-13)
    np.testing.assert_allclose(many.correlation_length, few.correlation_length, rtol=1e-10)
    monkeypatch.setattr(infinite_chains, "_MOST_WORK", 0)
    monkeypatch.setattr(infinite_chains, "leading_vector", lambda _w, start, *_: (start, False))
    squared = infinite_chains.stationary_chain(windows)
    np.testing.assert_allclose(squared.stationary, few.stationary, rtol=1e-12)


@pytest.mark.parametrize("name", REACHING)
def test_a_long_open_chain_is_folded_and_cut_without_a_trace(name, monkeypatch):
    """Against the same field given for each site, which is gone through site by site."""
    n = 1500
    chain = reaching_chain(name, n_sites=n)
    windows = Windows.of(chain)
    infinite = infinite_chains.stationary_chain(windows)
    folded = segments.solve_open(windows, infinite, n, 40)
    q = chain.n_states
    fields = {"h": np.tile(np.broadcast_to(chain.h, q), (n, 1))} if q > 2 else {"h": [0.2] * n}
    each = Windows.of(type(chain)(**(REACHING[name] | fields), n_sites=n))
    assert each.site.shape == (n, windows.n_letters)
    plain = segments.solve_open(each, None, n, 40)
    assert_same(folded, plain, atol=1e-13)
    monkeypatch.setattr(segments, "_STRETCH", 101 * windows.n_windows)
    monkeypatch.setattr(segments, "_COLUMNS", 40 * windows.n_windows)
    monkeypatch.setattr(segments, "_WORK", 1e5)
    assert_same(segments.solve_open(each, None, n, 40), plain)
    assert_same(segments.solve_open(windows, infinite, n, 40), plain, atol=1e-13)


@pytest.mark.parametrize("name", REACHING)
@pytest.mark.parametrize("boundary", ["open", "periodic"])
def test_any_susceptibility_is_the_sum_of_correlations(name, boundary):
    n = 200
    exact = solve(reaching_chain(name, n_sites=n, boundary=boundary))
    longest = n - 1 if boundary == "open" else n // 2
    exact = solve(reaching_chain(name, n_sites=n, boundary=boundary), max_distance=longest)
    d = exact["distance"].values
    pairs = np.where(d == 0, 1, 2) * (n - d) / n
    if boundary == "periodic":
        pairs = np.where((d == 0) | (2 * d == n), 1, 2)
    each = exact["correlation" if name == "ising" else "expert_correlation"].values
    total = (each.T * pairs).sum(-1)
    np.testing.assert_allclose(total, exact["susceptibility"], rtol=1e-11)


_FIRST = np.array([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280])
_SECOND = np.array([-1 / 560, 8 / 315, -1 / 5, 8 / 5, -205 / 72, 8 / 5, -1 / 5, 8 / 315, -1 / 560])


@pytest.mark.parametrize("name", REACHING)
@pytest.mark.parametrize("place", ["infinite", "open", "periodic"])
def test_energy_and_specific_heat_are_derivatives(name, place):
    """Differences of eighth order of ln Z over the inverse temperature."""
    more = {} if place == "infinite" else {"n_sites": 15, "boundary": place}
    n, step = more.get("n_sites", 1), 0.02
    beta = 1 + step * np.arange(-4, 5)
    solved = [solve(reaching_chain(name, temperature=1 / b, **more), max_distance=0) for b in beta]
    which = "log_eigenvalue" if place == "infinite" else "log_z"
    log_z = np.array([float(exact[which]) for exact in solved]) / n
    np.testing.assert_allclose(solved[4]["energy"], -(_FIRST @ log_z) / step, atol=1e-10)
    np.testing.assert_allclose(solved[4]["specific_heat"], _SECOND @ log_z / step**2, rtol=1e-8)


def test_susceptibility_is_a_derivative_at_any_reach():
    J, step = np.random.default_rng(7).normal(size=(2, 4, 4)) / 2, 0.02

    def log_eigenvalue(x):
        h = [0.1, x - 0.2, 0.0, 0.3]
        return float(solve(PottsChain(J=J, h=h, top_k=2), max_distance=0)["log_eigenvalue"])

    exact = solve(PottsChain(J=J, h=[0.1, -0.2, 0.0, 0.3], top_k=2), max_distance=0)
    values = np.array([log_eigenvalue(step * i) for i in range(-4, 5)])
    np.testing.assert_allclose(exact["marginal"][1], _FIRST @ values / step, rtol=1e-10)
    np.testing.assert_allclose(exact["susceptibility"][1], _SECOND @ values / step**2, rtol=1e-8)


@pytest.mark.parametrize("n_sites", [None, 9])
@pytest.mark.parametrize("reach", [2, 3])
def test_without_coupling_at_any_reach(n_sites, reach):
    h = np.array([0.3, -0.1, 0.0, 0.4])
    J = np.zeros((reach, 4, 4))
    exact = solve(PottsChain(J=J, h=h, n_sites=n_sites, boundary="periodic"))
    load = np.exp(h) / np.exp(h).sum()
    np.testing.assert_allclose(exact["marginal"], load, rtol=1e-13)
    np.testing.assert_allclose(exact["correlation"][1:], 0, atol=1e-15)
    np.testing.assert_allclose(exact["entropy"], -(load @ np.log(load)), rtol=1e-13)
    assert float(exact["correlation_length"]) == 0


def test_high_temperature_limit_of_sets():
    exact = solve(PottsChain(J=np.ones((3, 5, 5)), top_k=2, temperature=1e9))
    np.testing.assert_allclose(exact["entropy"], np.log(10), rtol=1e-9)
    np.testing.assert_allclose(exact["marginal"], 2 / 5, rtol=1e-8)


SHARED = ("free_energy", "energy", "specific_heat", "magnetization", "susceptibility", "marginal")


@pytest.mark.parametrize(
    ("n_sites", "boundary"), [(None, "open"), (5000, "periodic"), (60, "open"), (5000, "open")]
)
def test_4096_windows_of_which_the_bonds_reach_one_site(n_sites, boundary):
    place = {"n_sites": n_sites, "boundary": boundary}
    near = solve(IsingChain(J=0.6, h=0.1, **place), max_distance=40)
    far = solve(IsingChain(J=0.6, h=0.1, decay=np.eye(12)[0], **place), max_distance=40)
    for name in (*SHARED, "correlation", "correlation_length", "entropy"):
        np.testing.assert_allclose(far[name], near[name], rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_sites", "boundary"), [(None, "open"), (25, "periodic"), (30, "open"), (300, "open")]
)
def test_4096_windows_of_two_sites(n_sites, boundary):
    J = np.random.default_rng(0).normal(size=(64, 64))
    place = {"n_sites": n_sites, "boundary": boundary}
    near = solve(PottsChain(J=J, **place), max_distance=12)
    far = solve(PottsChain(J=np.stack([J, 0 * J]), **place), max_distance=12)
    for name in (*SHARED, "expert_correlation", "entropy"):
        np.testing.assert_allclose(far[name], near[name], rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("n_sites", "boundary"), [(None, "open"), (4, "periodic"), (5, "open")])
def test_4095_sets_of_which_ten_are_used(n_sites, boundary):
    rng = np.random.default_rng(0)
    J, h = rng.normal(size=(91, 91)), np.full(91, -400.0)
    used = [3, 17, 18, 60, 90]
    h[used] = rng.normal(size=5)
    place = {"n_sites": n_sites, "boundary": boundary, "top_k": 2}
    few = solve(PottsChain(J=J[np.ix_(used, used)], h=h[used], **place), max_distance=2)
    many = solve(PottsChain(J=J, h=h, **place), max_distance=2)
    for name in ("free_energy", "energy", "specific_heat", "correlation", "entropy"):
        np.testing.assert_allclose(many[name], few[name], rtol=1e-10, atol=1e-12, err_msg=name)
    for name in ("marginal", "susceptibility"):
        one = many[name].isel(expert=used)
        np.testing.assert_allclose(one, few[name], rtol=1e-10, atol=1e-12, err_msg=name)


def test_fields_of_many_sites_against_products_of_matrices():
    rng = np.random.default_rng(2)
    n, q = 120, 4
    J, h = rng.normal(size=(q, q)), 2 * rng.normal(size=(n, q))
    exact = solve(PottsChain(J=J, h=h, n_sites=n))
    left, right = np.zeros((n, q)), np.zeros((n, q))
    left[0] = np.exp(h[0])
    log_z = 0.0
    for i in range(1, n):
        left[i] = left[i - 1] @ np.exp(J + h[i])
        log_z += np.log(left[i].sum())
        left[i] /= left[i].sum()
    right[-1] = 1
    for i in range(n - 1, 0, -1):
        right[i - 1] = np.exp(J + h[i]) @ right[i]
        right[i - 1] /= right[i - 1].sum()
    marginal = left * right
    marginal /= marginal.sum(1, keepdims=True)
    np.testing.assert_allclose(exact["log_z"], log_z, rtol=1e-13)
    np.testing.assert_allclose(exact["marginal"], marginal, rtol=1e-11)
    assert "correlation_length" not in exact
    assert "log_eigenvalue" not in exact


def test_what_cannot_be_solved_says_what_can_be_done():
    with pytest.raises(ValueError, match=r"262144 transfer states.*HeatBath\(\)"):
        solve(PottsChain(J=np.arange(64.0), decay=[1.0, 0.5, 0.2]))
    with pytest.raises(ValueError, match="no end on an infinite chain; give n_sites"):
        solve(IsingChain(J=1.0, decay=power_law(2.0)))
    for n_sites, h in ((None, 0.0), (30, np.linspace(-499, 499, 30))):
        with pytest.raises(ValueError, match=r"range of a double.*raise the temperature"):
            solve(IsingChain(J=-150.0, h=h, decay=np.ones(8), n_sites=n_sites))


def test_a_progress_bar_for_what_takes_long_alone(monkeypatch):
    seen = []

    def track(steps, what):
        seen.append((what, len(list(steps))))
        return steps

    chain = reaching_chain("ising", n_sites=50)
    before = solve(chain, track=track)
    assert not seen
    monkeypatch.setattr(transfer, "_PATIENCE", -1.0)
    assert solve(chain, track=track).equals(before)
    assert "sites" in [what for what, _ in seen]


def test_messages_back_beyond_the_range_of_a_double():
    """Fields of e^1000 that turn at every site: the way forth is fine, the way back is not."""
    h = 500.0 * np.array([1, -1, 1, -1, 1, -1])
    chain = IsingChain(J=150, h=h, n_sites=6, decay=[1, 1, 1])
    with pytest.raises(ValueError, match=r"range of a double.*raise the temperature"):
        solve(chain)


@pytest.mark.parametrize("distance", [2.5, True, "3"])
def test_distance_is_an_integer(distance):
    with pytest.raises(TypeError, match="max_distance: expected an integer or None"):
        solve(IsingChain(J=1.0), max_distance=distance)
