"""Traces drawn from fits: they have its load and correlations, and give its couplings back."""

import json

import numpy as np
import pytest
import xarray as xr

import isingmoe as im
from isingmoe.forward import draw
from isingmoe.prediction import predicted_correlation

BARE = im.MaximumLikelihood(l2=0)


def traces_of(chain, n_sequences=40, length=200, seed=0, **options):
    index = draw(chain, n_sequences, length, n_burn=50, seed=seed, **options)
    return im.traces_from_arrays(
        index[None], num_experts=chain.n_states, ranked=False, layer=[5], model="drawn"
    )


def random_chain(seed, q=5, k=2, reach=1, scale=0.7):
    rng = np.random.default_rng(seed)
    return im.KineticChain(
        J=scale * rng.normal(size=(reach, q, q)), h=rng.normal(size=q) / 2, top_k=k
    )


def rates(traces, part):
    """Chance of each expert at some positions, and its error over sequences."""
    on = im.occupancy(traces).values[0, :, part].mean(1)
    return on.mean(0), on.std(0, ddof=1) / np.sqrt(len(on))


def assert_alike(one, other, part=slice(None)):
    (first, error), (second, more) = rates(one, part), rates(other, part)
    z = (first - second) / np.hypot(error, more)
    assert np.abs(z).max() < 4


@pytest.mark.parametrize(("k", "reach"), [(1, 1), (2, 1), (2, 2), (3, 1)])
def test_load_correlations_and_couplings_of_kinetic_chains(k, reach):
    chain = random_chain(k + reach, k=k, reach=reach)
    options = {"chain": "kinetic", "reach": reach, "estimator": BARE}
    fit = im.fit(traces_of(chain), **options)
    again = im.generate(fit, n_sequences=60, length=300, seed=1)
    assert again.sizes == {"layer": 1, "sequence": 60, "position": 300, "rank": k}
    measured = im.correlation(again, max_distance=8, n_resamples=100)
    predicted = predicted_correlation(fit, 8)["predicted"]
    z = (measured["correlation"] - predicted).values / measured["correlation_error"].values
    assert np.abs(z).max() < 4
    on, error = rates(again, slice(None))
    exact = im.solve(fit.chain(5))["marginal"].values
    assert np.abs((on - exact) / error).max() < 4
    refit = im.fit(again, **options).data
    for name in ("J", "h"):
        z = (refit[name] - fit.data[name]).values / refit[f"{name}_error"].values
        assert np.abs(z).max() < 4.5, name
        assert np.sqrt((z**2).mean()) < 1.8, name


def test_decays_and_layers():
    """Two layers of different chains, drawn apart and each as its own."""
    index = np.stack([draw(random_chain(s), 30, 150, n_burn=50, seed=s) for s in (1, 2)])
    traces = im.traces_from_arrays(index, num_experts=5, ranked=False, layer=[2, 9])
    options = {"coupling": "diagonal", "reach": 3, "decay": "exponential"}
    fit = im.fit(traces, **options)
    again = im.generate(fit, n_sequences=60, length=200)
    assert again["layer"].values.tolist() == [2, 9]
    refit = im.fit(again, **options).data
    z = (refit["self_coupling"] - fit.data["self_coupling"]) / refit["self_coupling_error"]
    assert (np.abs(z) < 4).all()
    alone = im.generate(im.Fit(fit.data.isel(layer=[0])), n_sequences=60, length=200)
    xr.testing.assert_identical(alone["expert_index"][0], again["expert_index"][0])


def test_fields_over_the_text():
    """Rates at the beginning and at the end, also of texts of other lengths."""
    drift = 1.5 * np.outer(np.cos(np.pi * np.arange(200) / 200), [1, -1, 0.5, -0.5, 0])
    traces = traces_of(im.KineticChain(J=0.5 * np.eye(5), h=drift, top_k=2, n_sites=200))
    fit = im.fit(traces, field="position", coupling="diagonal")
    again = im.generate(fit, n_sequences=50, length=200)
    for part in (slice(0, 40), slice(80, 120), slice(160, 200)):
        assert_alike(traces, again, part)
    first, last = (rates(again, part)[0] for part in (slice(0, 40), slice(160, 200)))
    assert np.abs(first - last).max() > 0.3
    # The text is as long as it was: half as many tokens are its first half.
    assert_alike(traces, im.generate(fit, n_sequences=50, length=100), slice(80, 100))
    # After its end the field stays.
    late = im.generate(fit, n_sequences=50, length=300)
    assert_alike(again, late, slice(160, 200))
    assert np.abs(rates(late, slice(260, 300))[0] - last).max() < 0.15


def test_fields_of_the_sequences():
    rng = np.random.default_rng(3)
    texts = 0.8 * rng.normal(size=(60, 5))
    traces = traces_of(im.KineticChain(J=0.4 * np.eye(5), top_k=2), 60, 150, by_sequence=texts)
    options = {"field": "position+sequence", "coupling": "uniform"}
    fit = im.fit(traces, **options)
    again = im.generate(fit, n_sequences=80, length=150)
    refit = im.fit(again, **options).data.isel(layer=0)
    row = fit.data.isel(layer=0)
    for name in ("sequence_spread", "self_coupling"):
        error = np.hypot(row[f"{name}_error"], refit[f"{name}_error"])
        assert abs(refit[name] - row[name]) < 4 * error, name
    assert refit["sequence_spread"] > 0.6
    without = im.generate(im.fit(traces, coupling="uniform"), n_sequences=80, length=150)
    spread = [im.occupancy(t).values[0].mean(1).std(0).mean() for t in (traces, again, without)]
    assert spread[1] == pytest.approx(spread[0], rel=0.15)
    assert spread[2] < 0.7 * spread[0]


@pytest.mark.parametrize("coupling", ["uniform", "symmetric", "full"])
def test_potts_chains(coupling):
    """Of sets in order the primary expert alone, and its chain."""
    index = draw(random_chain(4, k=1), 40, 200, n_burn=50, seed=0)
    second = (index + 1) % 5
    traces = im.traces_from_arrays(
        np.concatenate([index, second], 2)[None], num_experts=5, ranked=True
    )
    options = {"chain": "potts", "coupling": coupling}
    fit = im.fit(traces, **options)
    again = im.generate(fit, n_sequences=60, length=300)
    assert (again.sizes["rank"], again.attrs["top_k"], again.attrs["ranked"]) == (1, 1, 1)
    refit = im.fit(again, **options).data
    for name in ("J", "h"):
        z = (refit[name] - fit.data[name]).values / refit[f"{name}_error"].values
        assert np.abs(z).max() < 4.5, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chain": "ising"}, "got ising; Ising chains say of each expert alone whether it is on"),
        (
            {"chain": "topk"},
            r"got topk; topk chains by pseudolikelihood need simulate\(fit.chain\(layer\), Heat",
        ),
    ],
)
def test_chains_without_a_law_of_the_next_token_are_refused(options, message):
    fit = im.fit(traces_of(random_chain(1), 12, 60), uncertainty="information", **options)
    with pytest.raises(
        ValueError, match=f"expected kinetic or potts chains to draw from, {message}"
    ):
        im.generate(fit)


@pytest.mark.parametrize("name", ["n_sequences", "length"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_numbers_are_checked(name, value):
    fit = im.fit(traces_of(random_chain(1), 12, 60), uncertainty="none")
    with pytest.raises(ValueError, match=f"{name}: expected an integer of at least 1, got {value}"):
        im.generate(fit, **{name: value})


def test_same_seed_same_traces():
    fit = im.fit(traces_of(random_chain(1), 12, 60), field="sequence")
    first, second, other = (im.generate(fit, n_sequences=5, length=30, seed=s) for s in (1, 1, 2))
    xr.testing.assert_identical(first, second)
    assert not first["expert_index"].equals(other["expert_index"])
    by_sequence = np.random.SeedSequence(1)
    xr.testing.assert_equal(im.generate(fit, n_sequences=5, length=30, seed=by_sequence), first)


def test_more_sequences_begin_as_few_do():
    fit = im.fit(traces_of(random_chain(1), 12, 60))
    few, many = (im.generate(fit, n_sequences=n, length=30) for n in (3, 7))
    assert many["expert_index"][:, :3].equals(few["expert_index"])


def test_generated_traces_are_traces(tmp_path):
    fit = im.fit(traces_of(random_chain(1), 12, 60))
    fit.save(tmp_path / "fit.nc")
    traces = im.generate(im.open_fit(tmp_path / "fit.nc"), n_sequences=4, length=20, seed=3)
    im.validate(traces)
    im.save_traces(traces, tmp_path / "traces.nc")
    xr.testing.assert_equal(im.open_traces(tmp_path / "traces.nc"), traces)
    said = json.loads(traces.attrs["provenance"])
    assert (said["verb"], said["seed"]) == ("generate", 3)
    assert said["arguments"] == {"n_sequences": 4, "length": 20}
    assert said["input"]["file"] == "fit.nc"
    assert traces.attrs["model"] == "kinetic chain of drawn"
    assert (traces.attrs["ranked"], traces.attrs["top_k"]) == (0, 2)
