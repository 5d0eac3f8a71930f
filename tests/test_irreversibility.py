"""Entropy production of routing, against chains of which it is known."""

import numpy as np
import pytest
import xarray as xr

import isingmoe as im
from isingmoe.forward import draw

BARE = im.MaximumLikelihood(l2=0)
CYCLE = np.roll(np.eye(3), 1, axis=1)


def of_chain(chain, n_sequences=30, length=150, seed=0):
    index = draw(chain, n_sequences, length, n_burn=50, seed=seed)
    return im.traces_from_arrays(index[None], num_experts=chain.n_states, ranked=False, layer=[5])


def measured(chain, seed=0, **options):
    """Entropy production, its error, and that in sample, of a trace of the chain."""
    size = {name: options.pop(name) for name in ("n_sequences", "length") if name in options}
    data = im.irreversibility(of_chain(chain, seed=seed, **size), **options).isel(layer=0)
    names = ("entropy_production", "entropy_production_error", "entropy_production_in_sample")
    return [float(data[name]) for name in names]


def random_chain(seed, q, k, reach=1, scale=1.0):
    rng = np.random.default_rng(seed)
    return im.KineticChain(
        J=scale * rng.normal(size=(reach, q, q)), h=rng.normal(size=q) / 2, top_k=k
    )


DRIVEN = {
    "cycle of three": (im.KineticChain(J=1.5 * CYCLE), {}),
    "one of five": (random_chain(0, 5, 1), {}),
    "two of five": (random_chain(1, 5, 2), {}),
    "three of five": (random_chain(2, 5, 3, scale=1.5), {}),
    "two of five, two distances": (random_chain(3, 5, 2, 2, 0.7), {"reach": 2}),
}


@pytest.mark.parametrize("case", DRIVEN)
def test_driven_chains_against_the_exact_rate(case):
    chain, options = DRIVEN[case]
    exact = float(im.solve(chain)["entropy_production"])
    found = np.array([measured(chain, seed, **options) for seed in range(3)])
    z = (found[:, 0] - exact) / found[:, 1]
    assert np.abs(z).max() < 3.5
    assert (found[:, 1] < 0.25 * exact).all()
    np.testing.assert_allclose(found[:, 2], exact, rtol=0.4)


def test_errors_are_the_spread_of_estimates():
    """Also what a text does to the chain that the others are read with."""
    chain = random_chain(1, 5, 2)
    found = np.array(
        [measured(chain, seed, n_sequences=15, length=80, coupling="full") for seed in range(30)]
    )
    exact = float(im.solve(chain)["entropy_production"])
    z = (found[:, 0] - exact) / found[:, 1]
    assert 0.7 < np.sqrt((z**2).mean()) < 1.35


@pytest.mark.parametrize("k", [1, 2])
def test_a_symmetric_coupling_is_reversible(k):
    rng = np.random.default_rng(k)
    J = rng.normal(size=(5, 5))
    chain = im.KineticChain(J=(J + J.T) / 2, h=rng.normal(size=5) / 2, top_k=k)
    found = np.array([measured(chain, seed, n_sequences=15, length=100) for seed in range(4)])
    assert (np.abs(found[:, 0]) < 3 * found[:, 1]).all()
    assert (found[:, 1] < 0.02).all()


def test_a_symmetric_fit_of_one_expert_shows_none():
    """Whatever the data: what is left is of the first and the last tokens."""
    value, error, in_sample = measured(DRIVEN["cycle of three"][0], coupling="symmetric")
    assert abs(value) < 3 * error < 1e-3
    assert abs(in_sample) < 1e-3


@pytest.mark.parametrize("k", [1, 2])
def test_in_sample_is_too_large_and_held_out_is_not(k):
    """Without couplings: by twice the number of antisymmetric couplings over the tokens."""
    q, n = 6, 12
    chain = im.KineticChain(J=np.zeros((q, q)), top_k=k)
    found = np.array(
        [
            measured(chain, seed, n_sequences=n, length=40, estimator=BARE, n_folds=3)
            for seed in range(20)
        ]
    )
    bias = (q - 1) * (q - 2) / (n * 39)
    assert (found[:, 2] > 0).all()
    assert found[:, 2].mean() == pytest.approx(bias, rel=0.35)
    alone = found[:, 0].mean() / (found[:, 0].std() / np.sqrt(20))
    assert abs(alone) < 3
    assert abs(found[:, 0].mean()) < 0.5 * bias


def test_further_reach_sees_no_less():
    """A chain of two distances, seen by chains of one and of two."""
    chain = random_chain(3, 5, 2, 2, 0.7)
    exact = float(im.solve(chain)["entropy_production"])
    near, far = (measured(chain, reach=reach)[0] for reach in (1, 2))
    assert near < far
    assert near < exact


@pytest.mark.parametrize(
    "options",
    [
        {"field": "position+sequence", "position": im.Blocks(2)},
        {"reach": 3, "decay": "exponential"},
        {"coupling": "none"},
        {"coupling": "none", "field": "none"},
        {"estimator": im.MaximumLikelihood(l2=5.0)},
    ],
    ids=lambda options: "-".join(options),
)
def test_every_kind_of_chain_has_a_rate(options):
    data = im.irreversibility(of_chain(random_chain(1, 5, 2), 12, 60), n_folds=2, **options)
    for name, variable in data.items():
        assert np.isfinite(variable).all(), name
        assert {"long_name", "units"} <= set(variable.attrs)
        assert variable.attrs["units"] == "nat/token"
    value, error = (float(data[f"entropy_production{end}"][0]) for end in ("", "_error"))
    if options.get("coupling") == "none":
        # Without memory there is no direction.
        assert abs(value) <= 3 * error < 0.01
    else:
        assert value > 2 * error > 0


def test_a_load_that_drifts_is_not_a_direction():
    """A field over the text acts on its reversal at the same places."""
    drift = 1.5 * np.outer(np.cos(np.pi * np.arange(150) / 150), [1, -1, 0.5, -0.5, 0])
    chain = im.KineticChain(J=np.zeros((5, 5)), h=drift, top_k=2, n_sites=150)
    index = draw(chain, 30, 150, seed=1)
    traces = im.traces_from_arrays(index[None], num_experts=5, ranked=False)
    data = im.irreversibility(traces, field="position").isel(layer=0)
    assert abs(data["entropy_production"]) < 3 * data["entropy_production_error"]
    assert data["entropy_production_error"] < 0.01


def test_text_read_backwards_shows_the_same_rate():
    traces = of_chain(random_chain(0, 5, 1))
    back = traces.assign(
        expert_index=traces["expert_index"].copy(data=traces["expert_index"].values[:, :, ::-1])
    )
    ahead, behind = (im.irreversibility(t)["entropy_production"].item() for t in (traces, back))
    assert behind == pytest.approx(ahead, rel=0.15)


def test_layers_seeds_and_provenance():
    traces = of_chain(random_chain(1, 4, 2), 8, 50)
    first, second, other = (im.irreversibility(traces, n_folds=2, seed=s) for s in (1, 1, 2))
    xr.testing.assert_identical(first, second)
    assert not first.equals(other)
    assert first["layer"].values.tolist() == [5]
    assert first.attrs["chain"] == "kinetic"
    assert '"verb": "irreversibility"' in first.attrs["provenance"]


def test_what_cannot_be_held_out_is_refused():
    traces = of_chain(random_chain(1, 4, 2), 6, 30)
    with pytest.raises(ValueError, match="at least two sequences and two folds, got 1 and 5"):
        im.irreversibility(traces.isel(sequence=[0]))
    with pytest.raises(ValueError, match="position: expected field='position' beside it"):
        im.irreversibility(traces, position=im.Cosines(2))
    with pytest.raises(ValueError, match="coupling: expected one of none, uniform"):
        im.irreversibility(traces, coupling="weak")
    late = im.MaximumLikelihood(max_iterations=1)
    with pytest.raises(im.ConvergenceError, match=r"no convergence in layers \[5\] after 1 iter"):
        im.irreversibility(traces, estimator=late)
