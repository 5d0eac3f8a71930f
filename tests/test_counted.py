"""Standard errors of chains that are fitted to pair counts."""

import numpy as np
import pytest
from naive import pair_counts, simulate_markov

import isingmoe as im
from isingmoe.couplings import zero_sum
from isingmoe.stationary import markov_chain

REPORTED = ("J", "h", "self_coupling", "J_spread", "correlation_length", "marginal")
BARE = im.MaximumLikelihood(pseudocount=0)


def states_of(q=4, *, n_sequences=60, length=150, seed=0, spread=0.0):
    """Sequences of one chain, each with a field of its own about that of the chain."""
    rng = np.random.default_rng(seed)
    J = 0.5 * rng.normal(size=(q, q))
    fields = spread * rng.normal(size=(n_sequences, q))
    rows = [simulate_markov(markov_chain(J + field)[1], 1, length, rng)[0] for field in fields]
    return np.array(rows, np.int16)


def traces_of(states):
    return im.traces_from_arrays(states[None, :, :, None], num_experts=int(states.max()) + 1)


def slow_sandwich(states, q):
    """Errors of J and h: each sequence moves the logarithms of the transition matrix."""
    total = pair_counts(states, q)
    moves = []
    for row in states:
        own = pair_counts(row[None], q)
        moves.append(own / total - own.sum(1, keepdims=True) / total.sum(1, keepdims=True))
    J, h = zero_sum(np.array(moves))
    n = len(states)
    return [np.sqrt(n / (n - 1) * (move**2).sum(0)) for move in (J, h)]


def test_sandwich_of_the_full_coupling():
    states = states_of(spread=0.5)
    fit = im.fit(traces_of(states), estimator=BARE).data.isel(layer=0)
    J_error, h_error = slow_sandwich(states, 4)
    np.testing.assert_allclose(fit["J_error"], J_error, rtol=0.04)
    np.testing.assert_allclose(fit["h_error"], h_error, rtol=0.04)


def test_sandwich_sees_that_texts_differ_and_information_does_not():
    for spread, low, high in ((0.0, 0.8, 1.25), (1.0, 2.0, 20.0)):
        traces = traces_of(states_of(spread=spread, seed=1))
        errors = [
            im.fit(traces, uncertainty=kind, n_resamples=300).data["marginal_error"].mean().item()
            for kind in ("sandwich", "information")
        ]
        assert low < errors[0] / errors[1] < high


@pytest.mark.parametrize("kind", ["sandwich", "information"])
def test_what_a_text_says_twice(kind):
    """A text and its copy count once for the sandwich, and twice for the information."""
    states = states_of(seed=2)
    gap = np.full((len(states), 1), -1, np.int16)
    twice = np.concatenate([states, gap, states], 1)
    once, again = (
        im.fit(traces_of(s), estimator=BARE, uncertainty=kind).data["J_error"]
        for s in (states, twice)
    )
    factor = 1 if kind == "sandwich" else 2**-0.5
    np.testing.assert_allclose(again, factor * once, rtol=1e-9)


@pytest.mark.parametrize(
    ("chain", "coupling"),
    [
        *(("potts", coupling) for coupling in ("none", "uniform", "diagonal", "full")),
        *(("ising", coupling) for coupling in ("none", "uniform", "diagonal")),
    ],
)
def test_bootstrap_agrees_with_the_sandwich(chain, coupling):
    traces = traces_of(states_of(spread=0.7, seed=3))
    one, other = (
        im.fit(traces, chain=chain, coupling=coupling, uncertainty=kind, n_resamples=200).data
        for kind in ("sandwich", "bootstrap")
    )
    for name in REPORTED:
        ratio = one[f"{name}_error"] / other[f"{name}_error"].where(other[f"{name}_error"] > 0, 1)
        assert ratio.shape == one[name].shape
        if coupling == "none" and name not in ("h", "marginal"):
            assert (ratio == 0).all(), name
        elif not (coupling == "uniform" and name == "J_spread" and chain == "ising"):
            assert (ratio > 0.65).all(), name
            assert (ratio < 1.5).all(), name


def test_length_and_marginal_of_two_states_by_the_information():
    """Two independent binomial rates: their variances give all that follows from them."""
    up, down, n = 0.1, 0.3, 40_000
    rng = np.random.default_rng(4)
    states = simulate_markov(np.array([[1 - up, up], [down, 1 - down]]), 20, n // 20, rng)
    fit = im.fit(
        traces_of(states.astype(np.int16)), uncertainty="information", n_resamples=3000
    ).data.isel(layer=0)
    share = down / (up + down)
    variance = [up * (1 - up) / (n * share), down * (1 - down) / (n * (1 - share))]
    marginal = np.array([down, -up]) / (up + down) ** 2
    stay = 1 - up - down
    length = 1 / (stay * np.log(stay) ** 2)
    expected = [np.sqrt(marginal**2 @ variance), length * np.sqrt(np.sum(variance))]
    assert fit["marginal_error"].values == pytest.approx(expected[0], rel=0.06)
    assert fit["correlation_length_error"].item() == pytest.approx(expected[1], rel=0.06)


def test_experts_of_an_ising_layer_share_what_they_know():
    """One J of all experts: they are not independent, which only the sandwich knows."""
    q, n = 4, 100
    spread = []
    for seed in range(n):
        rng = np.random.default_rng(seed)
        transition = 0.6 * np.eye(q) + 0.4 / q
        states = simulate_markov(transition, 20, 120, rng).astype(np.int16)
        fit = im.fit(traces_of(states), chain="ising", coupling="uniform").data
        spread.append([fit["self_coupling"].item(), fit["self_coupling_error"].item()])
    value, error = np.array(spread).T
    assert error.mean() == pytest.approx(value.std(), rel=0.15)


def test_no_errors_are_asked_for():
    fit = im.fit(traces_of(states_of()), uncertainty="none").data
    assert all(np.isnan(fit[f"{name}_error"]).all() for name in REPORTED)
    assert all(np.isfinite(fit[name]).all() for name in REPORTED)


def test_one_sequence_has_all_the_pairs():
    states = states_of(n_sequences=3)
    states[1:] = -1
    states[1:, 0] = 2
    with pytest.raises(ValueError, match="'sandwich' compares sequences, and one alone has pairs"):
        im.fit(traces_of(states))


def test_a_pair_that_one_sequence_has_alone():
    states = np.tile(np.array([0, 1, 1, 0, 0], np.int16), (12, 4))
    traces = im.traces_from_arrays(
        np.where(np.arange(20) == 10 * (np.arange(12)[:, None] == 3), 2, states)[None, :, :, None],
        num_experts=3,
    )
    for estimator in (BARE, im.MaximumLikelihood()):
        data = im.fit(traces, chain="potts", coupling="none", estimator=estimator).data
        assert np.isfinite(data["h_error"]).all()
        assert data["h_error"].sel(expert=2).item() > data["h_error"].sel(expert=0).item()
