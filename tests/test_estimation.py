"""Maximum likelihood from pair counts: closed forms, the dual, and derivatives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import (
    conditional_log_likelihood,
    pair_counts,
    reversible_transition,
    simulate_markov,
)
from scipy.optimize import check_grad
from scipy.stats import chi2, norm

from isingmoe._kernels.counting import pair_histogram
from isingmoe._newton import LogLinear
from isingmoe.couplings import zero_sum
from isingmoe.estimation import estimate, estimate_ising, n_parameters
from isingmoe.parameters import COUPLINGS
from isingmoe.stationary import markov_chain


def random_counts(seed, q, n=3000):
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.full(q, 0.8), size=q)
    return rng.poisson(n / q * transition) + 0.5


@given(
    seed=st.integers(0, 2**32),
    q=st.integers(1, 70),
    n_sequences=st.integers(1, 6),
    n_positions=st.integers(1, 50),
    n_parts=st.integers(1, 9),
)
@settings(max_examples=100, deadline=None)
def test_pair_histogram_counts_pairs(seed, q, n_sequences, n_positions, n_parts):
    states = (
        np.random.default_rng(seed).integers(-1, q, (n_sequences, n_positions)).astype(np.int16)
    )
    counted = pair_histogram(states, q, n_parts)
    np.testing.assert_array_equal(counted[1:-1, 1:-1], pair_counts(states, q))
    assert counted.sum() == n_sequences * (n_positions - 1)
    assert not counted[-1].any()


def test_pair_histogram_sets_states_out_of_range_apart():
    states = np.array([[0, 1, 5, 1, -7, 0]], np.int16)
    counted = pair_histogram(states, 2, 2)
    assert counted[-1].sum() == 2
    assert counted[:, -1].sum() == 2
    np.testing.assert_array_equal(counted[1:-1, 1:-1], [[0, 1], [0, 0]])


@given(seed=st.integers(0, 2**32), q=st.integers(2, 12))
@settings(max_examples=40, deadline=None)
def test_full_coupling_is_the_empirical_transition_matrix(seed, q):
    counts = random_counts(seed, q) + 0.5
    found = estimate(counts, "full", "expert", 100)
    empirical = counts / counts.sum(1, keepdims=True)
    np.testing.assert_allclose(found.transition, empirical, atol=1e-10)
    # And the couplings and fields give it back through the transfer matrix.
    np.testing.assert_allclose(markov_chain(found.J + found.h)[1], empirical, atol=1e-10)


@given(seed=st.integers(0, 2**32), q=st.integers(2, 8))
@settings(max_examples=25, deadline=None)
def test_symmetric_coupling_is_the_reversible_estimate(seed, q):
    counts = random_counts(seed, q) + 0.5
    found = estimate(counts, "symmetric", "expert", 100)
    np.testing.assert_allclose(found.transition, reversible_transition(counts), atol=1e-8)
    np.testing.assert_allclose(found.J, found.J.T, atol=1e-14)
    np.testing.assert_allclose(markov_chain(found.J + found.h)[1], found.transition, atol=1e-10)
    assert found.converged


@pytest.mark.parametrize("field", ["none", "expert"])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_gauge_and_likelihood_of_every_family(coupling, field):
    q = 5
    counts = random_counts(1, q)
    found = estimate(counts, coupling, field, 200)
    np.testing.assert_allclose(found.J.sum(0), 0, atol=1e-10)
    np.testing.assert_allclose(found.J.sum(1), 0, atol=1e-10)
    assert found.h.sum() == pytest.approx(0, abs=1e-10)
    assert found.converged
    np.testing.assert_allclose(markov_chain(found.J + found.h)[1], found.transition, atol=1e-9)
    if field == "none" and coupling != "diagonal":
        np.testing.assert_allclose(found.h, 0, atol=1e-9)
    if field == "none" and coupling == "diagonal":
        # The gauge puts the diagonal's own mean weight into a field.
        family = LogLinear(coupling, field, q)
        J_alone = family.log_weight(family.maximise(counts, 200)[0])
        np.testing.assert_allclose(J_alone, np.diag(np.diag(J_alone)), atol=1e-12)
        np.testing.assert_allclose(found.h, zero_sum(J_alone)[1], atol=1e-9)


@pytest.mark.parametrize("field", ["none", "expert"])
@pytest.mark.parametrize("coupling", ["uniform", "diagonal", "symmetric", "full"])
def test_no_direction_raises_the_likelihood(coupling, field):
    """The maximum is one: every member of the family nearby is worse."""
    q, rng = 4, np.random.default_rng(0)
    counts = random_counts(2, q)
    found = estimate(counts, coupling, field, 200)
    family = LogLinear(coupling, field, q)
    best = (counts * np.log(found.transition)).sum()
    parameters = family.maximise(counts, 200)[0]
    assert family.likelihood(parameters, counts)[0] == pytest.approx(best, abs=1e-8)
    for _ in range(20):
        step = rng.normal(size=len(parameters)) * 10.0 ** rng.uniform(-3, 0)
        assert family.likelihood(parameters + step, counts)[0] < best


def test_families_are_nested():
    counts = random_counts(3, 6)
    scores = [
        (counts * np.log(estimate(counts, coupling, "expert", 200).transition)).sum()
        for coupling in COUPLINGS
    ]
    assert scores == sorted(scores)
    assert [n_parameters(c, "expert", 6) for c in COUPLINGS] == [5, 6, 11, 20, 30]


@pytest.mark.parametrize("field", ["none", "expert"])
@pytest.mark.parametrize("coupling", ["uniform", "diagonal", "symmetric", "full"])
def test_gradient_and_information_against_differences(coupling, field):
    q, rng = 4, np.random.default_rng(5)
    counts = random_counts(4, q)
    family = LogLinear(coupling, field, q)
    at = rng.normal(size=len(family.basis())) / 2

    def value(x):
        return family.likelihood(x, counts)[0] / counts.sum()

    def gradient(x):
        return family.likelihood(x, counts)[1] / counts.sum()

    assert check_grad(value, gradient, at) < 1e-6
    step = 1e-5
    numeric = np.array(
        [(gradient(at + step * e) - gradient(at - step * e)) / (2 * step) for e in np.eye(len(at))]
    )
    np.testing.assert_allclose(family.information(at, counts) / counts.sum(), -numeric, atol=1e-8)


@pytest.mark.parametrize("coupling", ["symmetric", "full"])
def test_closed_forms_agree_with_the_general_method(coupling):
    """Couplings, fields and all their errors, from two derivations."""
    from isingmoe.estimation import _iterative

    counts = random_counts(6, 5)
    special = estimate(counts, coupling, "expert", 200)
    general = _iterative(counts, coupling, "expert", 200)
    for name in ("J", "h", "J_error", "h_error", "self_coupling", "self_coupling_error"):
        np.testing.assert_allclose(
            getattr(special, name), getattr(general, name), rtol=1e-7, atol=1e-9, err_msg=name
        )


def test_likelihood_of_counts_is_that_of_whole_sequences():
    """Against the weight of each configuration and of everything that may follow it."""
    rng = np.random.default_rng(7)
    J, h = zero_sum(rng.normal(size=(3, 3)), rng.normal(size=3))
    transition = markov_chain(J + h)[1]
    sequences = simulate_markov(transition, 5, 40, rng)
    counts = pair_counts(sequences, 3)
    expected = conditional_log_likelihood(sequences, J, h)
    assert (counts * np.log(transition)).sum() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("coupling", ["none", "uniform", "diagonal", "symmetric", "full"])
def test_parameters_of_simulated_chains_are_recovered(coupling):
    """z-scores of J and h over 50 draws are standard normal: chi-square of each parameter."""
    q, n_draws = 4, 50
    rng = np.random.default_rng(11)
    J = {
        "none": np.zeros((q, q)),
        "uniform": 0.8 * np.eye(q),
        "diagonal": np.diag([0.9, 0.1, -0.5, 1.2]),
        "symmetric": (lambda m: m + m.T)(rng.normal(size=(q, q)) / 2),
        "full": rng.normal(size=(q, q)) / 1.5,
    }[coupling]
    true_J, true_h = zero_sum(J, rng.normal(size=q) / 2)
    transition = markov_chain(true_J + true_h)[1]
    z_J, z_h, z_self = [], [], []
    for _ in range(n_draws):
        states = simulate_markov(transition, 20, 1000, rng)
        counts = pair_histogram(states, q, 1)[1:-1, 1:-1] + 0.5
        found = estimate(counts, coupling, "expert", 100)
        z_h.append((found.h - true_h) / found.h_error)
        if coupling != "none":
            z_J.append((found.J - true_J) / found.J_error)
            share = counts.sum(1) / counts.sum()
            true_self = q / (q - 1) * (share @ np.diag(true_J))
            z_self.append((found.self_coupling - true_self) / found.self_coupling_error)
    for z in (z_h, z_J, z_self):
        if z:
            squares = (np.array(z) ** 2).sum(0).ravel()
            # One test for each parameter, at a level that allows for their number.
            level = 0.001 / squares.size
            assert (squares < chi2.ppf(1 - level / 2, n_draws)).all()
            assert (squares > chi2.ppf(level / 2, n_draws)).all()


@pytest.mark.parametrize("coupling", ["uniform", "diagonal", "symmetric", "full"])
def test_two_states_have_one_coupling(coupling):
    counts = random_counts(8, 2)
    found = estimate(counts, coupling, "expert", 100)
    reference = estimate(counts, "full", "expert", 100)
    np.testing.assert_allclose(found.J, reference.J, atol=1e-10)
    assert n_parameters(coupling, "expert", 2) == 2


def test_ising_is_potts_with_two_states():
    counts = np.array([random_counts(seed, 2) for seed in range(3)])
    ising = estimate_ising(counts, "diagonal", "expert", 100)
    for e in range(3):
        potts = estimate(counts[e], "full", "expert", 100)
        # Potts J delta(a, b) in the zero-sum gauge has +-J/2, and Ising J is half of Potts J.
        assert ising.J[e] == pytest.approx(potts.J[1, 1])
        assert ising.self_coupling == pytest.approx(ising.J.mean())
        assert ising.h[e] == pytest.approx(potts.h[1])


@pytest.mark.parametrize("field", ["none", "expert"])
@pytest.mark.parametrize("coupling", ["none", "uniform", "diagonal"])
def test_ising_families_maximise_their_likelihood(coupling, field):
    counts = np.array([random_counts(seed, 2, 400) for seed in range(4)])
    found = estimate_ising(counts, coupling, field, 100)
    spin = np.array([-1.0, 1.0])

    def score(J, h):
        log_weight = J[:, None, None] * np.outer(spin, spin) + h[:, None, None] * spin
        return (counts * np.log(markov_chain(log_weight)[1])).sum()

    best = score(found.J, found.h)
    np.testing.assert_allclose(best, (counts * np.log(found.transition)).sum(), rtol=1e-12)
    rng = np.random.default_rng(0)
    for _ in range(30):
        scale = 10.0 ** rng.uniform(-3, -1)
        J = rng.normal(size=4) * (coupling != "none")
        J = np.full(4, J[0]) if coupling == "uniform" else J
        h = rng.normal(size=4) * (field != "none")
        assert score(found.J + scale * J, found.h + scale * h) <= best


def test_ising_uniform_errors_against_differences():
    counts = np.array([random_counts(seed, 2, 400) for seed in range(3)])
    found = estimate_ising(counts, "uniform", "expert", 100)
    spin = np.array([-1.0, 1.0])

    def score(x):
        log_weight = x[0] * np.outer(spin, spin) + x[1:, None, None] * spin
        return (counts * np.log(markov_chain(log_weight)[1])).sum()

    at, step = np.concatenate([found.J[:1], found.h]), 1e-4
    eye = step * np.eye(4)
    hessian = np.array(
        [
            [
                (score(at + a + b) - score(at + a - b) - score(at - a + b) + score(at - a - b))
                / (4 * step**2)
                for b in eye
            ]
            for a in eye
        ]
    )
    error = np.sqrt(np.diag(np.linalg.inv(-hessian)))
    np.testing.assert_allclose(found.J_error[0], error[0], rtol=1e-4)
    np.testing.assert_allclose(found.h_error, error[1:], rtol=1e-4)


@pytest.mark.slow
def test_intervals_cover():
    """68 and 95 % intervals of 4 000 couplings cover as often as they say."""
    q, rng = 5, np.random.default_rng(12)
    J, h = zero_sum(rng.normal(size=(q, q)) / 2, rng.normal(size=q) / 2)
    transition = markov_chain(J + h)[1]
    z = []
    for _ in range(400):
        states = simulate_markov(transition, 10, 1000, rng)
        counts = pair_histogram(states, q, 1)[1:-1, 1:-1] + 0.5
        found = estimate(counts, "full", "expert", 100)
        z.append(((found.J - J) / found.J_error).ravel())
    z = np.abs(np.array(z))
    for level in (0.68, 0.95):
        covered = (z < norm.ppf(0.5 + level / 2)).mean()
        assert covered == pytest.approx(level, abs=0.02)
