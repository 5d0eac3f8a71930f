"""What fitted chains predict, and how far the prediction would move with other texts."""

import numpy as np
import pytest

import isingmoe as im
from isingmoe.forward import draw
from isingmoe.prediction import predicted_correlation
from isingmoe.stationary import markov_chain, markov_correlation

N_SETS = 60


@pytest.mark.parametrize("max_distance", [1, 2, 3, 15, 16, 17])
def test_correlation_of_markov_chains_by_powers(max_distance):
    rng = np.random.default_rng(max_distance)
    _, transition, stationary = markov_chain(rng.normal(size=(2, 3, 4, 4)))
    found = markov_correlation(transition, stationary, max_distance)
    assert found.shape == (2, 3, 4, max_distance + 1)
    for d in range(max_distance + 1):
        power = np.linalg.matrix_power(transition, d)
        returned = np.diagonal(power, axis1=-2, axis2=-1)
        np.testing.assert_allclose(found[..., d], stationary * (returned - stationary), atol=1e-13)


def test_the_tail_of_a_markov_chain_keeps_its_precision():
    """Two states: pi_a (1 - pi_a) times a power of the second eigenvalue, to the last digits."""
    _, transition, stationary = markov_chain(np.array([[0.3, 0.0], [0.0, 0.1]]))
    second = transition[0, 0] - transition[1, 0]
    found = markov_correlation(transition, stationary, 64)
    expected = stationary.prod() * second ** np.arange(65)
    np.testing.assert_allclose(found, np.stack([expected, expected]), rtol=1e-11)


def chain_of(kind):
    rng = np.random.default_rng(3)
    k = 2 if kind == "kinetic" else 1
    J = 0.5 * rng.normal(size=(5, 5)) + 0.6 * np.eye(5)
    return im.KineticChain(J=J, h=0.3 * rng.normal(size=5), top_k=k)


def traces_of(chain, seed):
    index = draw(chain, 30, 120, n_burn=50, seed=seed)
    return im.traces_from_arrays(index[None], num_experts=5, ranked=chain.top_k == 1)


@pytest.mark.parametrize("kind", ["potts", "ising", "kinetic"])
def test_experts_sum_to_the_layer(kind):
    fit = im.fit(traces_of(chain_of(kind), 0), chain=kind)
    found = predicted_correlation(fit, 80)
    np.testing.assert_allclose(found["expert_predicted"].sum("expert"), found["predicted"])
    summed, of_expert = found["predicted_spread"].values, found["expert_predicted_spread"].values
    assert (summed[:, 1] > 0).all()
    assert (of_expert[:, :, 1] > 0).all()
    # As far as fits know it; the value there stands for larger distances.
    np.testing.assert_array_equal(summed[:, 64:], summed[:, [64] * 17])


@pytest.mark.parametrize("uncertainty", ["sandwich", "information"])
@pytest.mark.parametrize("kind", ["potts", "kinetic"])
def test_the_error_is_the_spread_over_data_sets(kind, uncertainty):
    chain = chain_of(kind)
    settings = {"chain": kind, "uncertainty": uncertainty}
    if kind == "potts":
        settings["n_resamples"] = 30
    fits = [im.fit(traces_of(chain, 100 + seed), **settings) for seed in range(N_SETS)]
    for name in ("correlation", "expert_correlation"):
        found = np.array([fit.data[name].values[0, ..., 1:4] for fit in fits])
        error = np.array([fit.data[f"{name}_error"].values[0, ..., 1:4] for fit in fits])
        ratio = np.sqrt((error**2).mean(0)) / found.std(0, ddof=1)
        # The spread of 60 is known to 9 %, that of the few chains drawn adds to it.
        assert 0.7 < ratio.min() <= ratio.max() < 1.4
        exact = im.solve(chain, max_distance=3)
        name = "correlation" if name == "correlation" else "expert_correlation"
        bias = found.mean(0) - exact[name].transpose(..., "distance").values[..., 1:]
        assert np.abs(bias / error.mean(0)).max() < 0.6


def test_without_uncertainty_there_is_no_error():
    fit = im.fit(traces_of(chain_of("kinetic"), 0), uncertainty="none")
    assert fit.data["correlation_error"].isnull().all()
    assert fit.data["correlation"].notnull().all()


def test_a_chain_without_coupling_has_no_correlation():
    fit = im.fit(traces_of(chain_of("kinetic"), 0), chain="kinetic", coupling="none")
    assert not fit.data["correlation"].values[:, 1:].any()
    rate = fit.data["marginal"].values
    np.testing.assert_allclose(fit.data["correlation"][:, 0], (rate * (1 - rate)).sum(1))
