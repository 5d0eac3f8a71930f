"""Prediction beside measurement."""

import numpy as np
import pytest
import xarray as xr
from naive import simulate_markov

import isingmoe as im
from isingmoe.forward import draw
from isingmoe.prediction import predicted_correlation
from isingmoe.stationary import markov_chain


@pytest.fixture(scope="module")
def traces():
    """Three layers simulated from nearest-neighbour Potts chains."""
    rng = np.random.default_rng(0)
    layers = []
    for strength in (0.0, 1.0, 2.0):
        transition = markov_chain(strength * np.eye(5) + rng.normal(size=5) / 2)[1]
        layers.append(simulate_markov(transition, 60, 300, rng))
    return im.traces_from_arrays(np.stack(layers)[..., None], num_experts=5, layer=[0, 4, 9])


@pytest.fixture(scope="module")
def comparison(traces):
    return im.compare(im.fit(traces), traces, max_distance=20)


@pytest.mark.parametrize(
    "kind",
    [
        {"chain": "potts"},
        {"chain": "potts", "coupling": "uniform", "estimator": im.Pseudolikelihood()},
        {"chain": "kinetic"},
    ],
    ids=["potts", "pseudolikelihood", "kinetic"],
)
def test_prediction_is_that_of_solve(traces, kind):
    fit = im.fit(traces, **kind)
    found = predicted_correlation(fit, 15)
    assert not found["predicted_error"].any()
    for layer in (0, 4, 9):
        exact = im.solve(fit.chain(layer), max_distance=15)["correlation"]
        np.testing.assert_allclose(found["predicted"].sel(layer=layer), exact, atol=1e-13)


def test_prediction_of_ising_chains_sums_over_experts(traces):
    fit = im.fit(traces, chain="ising")
    predicted = predicted_correlation(fit, 6)["predicted"]
    total = sum(im.solve(fit.chain(9, e), max_distance=6)["correlation"].values for e in range(5))
    # An occupancy is (1 + spin) / 2.
    np.testing.assert_allclose(predicted.sel(layer=9), total / 4, atol=1e-13)


@pytest.fixture(scope="module")
def sets():
    """Two layers of kinetic chains of sets, coupled to the two tokens before."""
    rng = np.random.default_rng(1)
    layers = []
    for seed, strength in enumerate((0.4, 0.8)):
        J = np.stack([strength * np.eye(6), 0.3 * rng.normal(size=(6, 6))])
        layers.append(draw(im.KineticChain(J=J, top_k=2), 40, 250, n_burn=50, seed=seed))
    return im.traces_from_arrays(np.stack(layers), num_experts=6, ranked=False, layer=[2, 5])


@pytest.mark.parametrize("field", ["expert", "position+sequence"])
def test_kinetic_chains_of_sets_predict_their_own_data(sets, field):
    fit = im.fit(sets, coupling="full", reach=2, field=field)
    data = im.compare(fit, sets, max_distance=12, centres=["global"], parts=(), n_folds=2).data
    measured = data.sel(centre="global")
    error = np.hypot(measured["measured_error"], data["predicted_error"])
    z = ((measured["measured"] - data["predicted"]) / error).values[:, 1:]
    assert np.abs(z).max() < 4.5
    np.testing.assert_allclose(data["predicted_length"], fit.layer_length())
    assert (data["held_out_bits"] < data["held_out_bits_load"] - 0.05).all()
    assert (data["held_out_bits"] > data["bits_per_token"]).all()


def test_a_chain_of_many_states_is_simulated():
    """10^3 windows of two of five experts: by simulation that of the transfer matrix."""
    J = np.random.default_rng(2).normal(size=(3, 5, 5)) / 3
    index = draw(im.KineticChain(J=J, top_k=2), 20, 200, n_burn=50, seed=3)
    traces = im.traces_from_arrays(index[None], num_experts=5, ranked=False)
    fit = im.fit(traces, coupling="diagonal", reach=3, uncertainty="none")
    found = predicted_correlation(fit, 6)
    exact = im.solve(fit.chain(0), max_distance=6)["correlation"]
    z = (found["predicted"] - exact).values / found["predicted_error"].values
    assert np.abs(z).max() < 4
    assert (found["predicted_error"] < 0.01 * exact[0]).all()


def test_scores_of_kinetic_chains_on_other_traces(sets):
    """Layers apart: a chain scores its own layer best, and says whose tokens it has seen."""
    fit = im.fit(sets, field="sequence")
    scored, same = im.inference.score(fit, sets)
    assert same
    np.testing.assert_allclose(scored["bits_per_token"], fit.data["bits_per_token"], rtol=1e-9)
    swapped = sets.assign(expert_index=sets["expert_index"].copy(data=sets["expert_index"][::-1]))
    other, same = im.inference.score(fit, swapped)
    assert not same
    assert (other["bits_per_token"] > scored["bits_per_token"][::-1].values + 0.01).all()
    text = str(im.compare(fit, swapped, max_distance=3, parts=()))
    assert "was not fitted to" in text


def test_a_chain_predicts_its_own_data(comparison):
    data = comparison.data
    for centre in ("global", "position", "sequence"):
        row = data.sel(centre=centre)
        z = ((row["measured"] - row["predicted"]) / row["measured_error"]).values[:, 1:]
        assert np.abs(z).max() < 4.5
    strong = data.sel(layer=9, centre="global")
    # The slowest of several modes against one exponential through all of them.
    assert 0.8 < (strong["correlation_length"] / strong["predicted_length"]).item() < 1.05


# What has no value somewhere: of a law without the parameter, of the chain over itself, at
# distance 0, of blocks too few to fit.
_PARTIAL = ("law_", "length_ratio", "discrepancy_curve", "coarse_", "window_")


def test_nothing_is_missing(comparison):
    assert not comparison.absent
    for name, variable in comparison.data.items():
        if not name.startswith(_PARTIAL):
            assert not variable.isnull().any(), name
        assert {"long_name", "units"} <= set(variable.attrs), name


def test_parts_hold_what_the_functions_give(traces, comparison):
    fit = im.fit(traces)
    alone = {
        "laws": im.decay_laws(im.correlation(traces, max_distance=20)),
        "goodness": im.goodness_of_fit(fit, traces, max_distance=20),
        "ck": im.chapman_kolmogorov(traces),
        "activation": im.activation(traces),
    }
    for name, expected in alone.items():
        found = comparison.part(name)
        assert set(found.data_vars) == set(expected.data_vars)
        for variable in expected.data_vars:
            np.testing.assert_array_equal(found[variable], expected[variable])
    assert set(comparison.part("mem").data_vars) > {"mem_state", "block_kl", "free_energy"}
    data = comparison.data
    np.testing.assert_allclose(
        data["expert_measured"].sum("expert"), data["measured"].sel(centre="global"), atol=1e-14
    )
    np.testing.assert_allclose(data["expert_predicted"].sum("expert"), data["predicted"])
    assert np.abs(data["expert_z"].values[..., 1:]).max() < 5.5


def test_z_is_measured_less_predicted(comparison):
    data = comparison.data
    error = np.hypot(data["measured_error"], data["predicted_spread"])
    np.testing.assert_allclose(
        data["z"], ((data["measured"] - data["predicted"]) / error).transpose(*data["z"].dims)
    )


def test_parts_are_chosen(traces):
    fit = im.fit(traces)
    few = im.compare(fit, traces, parts=["mem", "laws"], max_distance=8, n_folds=0)
    assert few.data.attrs["parts"] == "laws,mem"
    assert few.part("goodness") is None
    assert few.part("laws") is not None
    assert "Chapman" not in str(few)
    with pytest.raises(ValueError, match=r"parts: expected some of overlap, experts, .* got spice"):
        im.compare(fit, traces, parts=["spice"])
    with pytest.raises(ValueError, match="parts: expected some of"):
        few.part("spice")


def test_a_part_that_cannot_be_measured_says_why(sets):
    fit = im.fit(sets, coupling="diagonal")
    found = im.compare(fit, sets, parts=["ck", "mem"], max_distance=4, n_folds=0)
    assert found.part("ck") is None
    assert "ranked: expected 1" in found.absent["ck"]
    assert "Left out: no Chapman-Kolmogorov test" in str(found)
    assert found.part("mem") is not None


def test_report_has_a_row_for_each_layer(comparison):
    text = str(comparison)
    assert "potts chain, coupling full" in text
    assert "held-out sequences (5 folds)" in text
    assert all(f"\n     {layer}  " in text for layer in (0, 4, 9))
    assert "primary repeats" in text


def test_a_comparison_is_a_file_and_back(comparison, tmp_path):
    comparison.save(tmp_path / "comparison.nc")
    again = im.open_comparison(tmp_path / "comparison.nc")
    xr.testing.assert_identical(comparison.data, again.data)
    assert str(again) == str(comparison)


def test_one_sequence_has_no_held_out_score(traces):
    one = traces.isel(sequence=[0])
    comparison = im.compare(im.fit(one), one, max_distance=5)
    assert "held_out_bits" not in comparison.data
    assert "position" not in comparison.data["centre"]
    assert "in sample" in str(comparison)


def test_centres_are_checked(traces):
    fit = im.fit(traces)
    only = im.compare(fit, traces, max_distance=5, centres=["global"], parts=(), n_folds=0)
    assert "within texts" not in str(only)
    for centres in ([], "sequence", ["global", "mean"]):
        with pytest.raises(ValueError, match="centres: expected 'global' and any of"):
            im.compare(fit, traces, centres=centres)


def test_same_seed_same_numbers(traces):
    fit = im.fit(traces)
    first, second, other = (im.compare(fit, traces, max_distance=5, seed=s) for s in (1, 1, 2))
    xr.testing.assert_identical(first.data, second.data)
    assert not first.data["measured_error"].equals(other.data["measured_error"])


def test_figures_are_drawn(comparison, tmp_path):
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from isingmoe.plotting import save_figure

    ax = im.plot_decay(comparison, 9)
    assert "layer 9" in ax.get_title()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert any("chain" in label for label in labels)
    assert sum("measured" in label for label in labels) == 3
    axes = im.plot_layers(comparison)
    assert axes.shape == (2, 2)
    save_figure(axes, tmp_path / "layers.png")
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="expected an ending of"):
        save_figure(axes, tmp_path / "layers.xyz")
    with pytest.raises(ValueError, match=r"expected one of \[0, 4, 9\], got 1"):
        im.plot_decay(comparison, 1)
    plt.close("all")


def test_traces_of_another_model_are_refused(traces):
    fit = im.fit(traces)
    with pytest.raises(ValueError, match="another model"):
        im.compare(fit, traces.assign_attrs(num_experts=6))
    with pytest.raises(ValueError, match=r"the fit has \[9\], the traces do not"):
        im.compare(fit, traces.sel(layer=[0, 4]))


def test_files_of_another_kind_are_refused(comparison, tmp_path):
    comparison.save(tmp_path / "comparison.nc")
    with pytest.raises(ValueError, match="make a fit with `isingmoe fit`"):
        im.open_fit(tmp_path / "comparison.nc")


def test_simulations_are_checked_before_anything_is_measured(traces):
    with pytest.raises(ValueError, match="n_simulations: expected an integer of at least 2, got 1"):
        im.compare(im.fit(traces), traces, n_simulations=1)


def test_a_comparison_without_parts_is_read(traces, tmp_path):
    """Of a file that says nothing of its parts."""
    found = im.compare(im.fit(traces), traces, parts=(), max_distance=4, n_folds=0)
    del found.data.attrs["absent"]
    found.save(tmp_path / "c.nc")
    again = im.open_comparison(tmp_path / "c.nc")
    assert again.absent == {}
    assert "Left out" not in str(again)


def test_a_fit_without_errors_of_its_curves_is_refused(traces, tmp_path):
    data = im.fit(traces).data.drop_vars(["correlation_error", "expert_correlation_error"])
    im.Fit(data).save(tmp_path / "old.nc")
    with pytest.raises(ValueError, match=r"old.nc: correlation_error, .*: missing; make a fit"):
        im.open_fit(tmp_path / "old.nc")
