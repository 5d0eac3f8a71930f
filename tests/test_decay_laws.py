"""Decay laws against direct minimisation, on curves of known law and noise, and on traces."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import simulate_markov
from naive_decay import law_bins, law_chi2, law_curve, measured_curves, noisy_curves
from scipy.optimize import nnls
from scipy.stats import binomtest, kstest, norm

import isingmoe as im
from isingmoe.laws import LAWS, PARAMETERS, fit_law
from isingmoe.ranked_laws import decay_laws

D = np.arange(65.0)
TRUE = {
    "exponential": (1.0, 6.0),
    "power-law": (0.5, 0.8),
    "stretched": (1.0, 3.0, 0.6),
    "exponential+constant": (1.0, 4.0, 0.1),
    "two-exponentials": (0.7, 1.5, 0.3, 25.0),
}
OWN = {law.name: list(law.parameters) for law in LAWS}


def true_curve(name):
    return law_curve(name, TRUE[name], np.maximum(D, 0.5))


def synthetic(name, seed, *, n_sequences=100, n_resamples=200, spread=0.15, n_layers=1):
    rng = np.random.default_rng(seed)
    curves = [noisy_curves(true_curve(name), spread, n_sequences, rng) for _ in range(n_layers)]
    return measured_curves(np.array(curves), n_resamples, seed)


@given(seed=st.integers(0, 2**32), name=st.sampled_from(list(TRUE)), n=st.integers(5, 12))
@settings(max_examples=15, deadline=None)
def test_fit_against_direct_minimisation(seed, name, n):
    """Random covariance, random averages over the distances."""
    rng = np.random.default_rng(seed)
    d = D[1:]
    mean = np.zeros((n, len(d)))
    for i, members in enumerate(np.array_split(rng.permutation(len(d)), n)):
        mean[i, members] = 1 / len(members)
    mean[0] = d == 1
    root = np.tril(rng.normal(size=(n, n))) + 3 * np.eye(n)
    covariance = 1e-4 * root @ root.T
    data = mean @ law_curve(name, TRUE[name], d) + np.linalg.cholesky(covariance) @ rng.normal(
        size=n
    )
    law = LAWS[list(TRUE).index(name)]
    factor = np.linalg.cholesky(covariance)
    fit = fit_law(law, d, np.linalg.solve(factor, mean), np.linalg.solve(factor, data))
    rest = data - mean @ law_curve(name, fit.parameter, d)
    assert fit.chi2 == pytest.approx(rest @ np.linalg.solve(covariance, rest), rel=1e-6, abs=1e-9)
    np.testing.assert_allclose(fit.curve(d), law_curve(name, fit.parameter, d), rtol=1e-6)
    inside = np.isfinite(fit.covariance).all()
    slow, slow_p = law_chi2(name, d, mean, data, covariance, fit.parameter)
    far, far_p = law_chi2(name, d, mean, data, covariance, TRUE[name])
    # The slow one knows no ends of ranges, nor that two terms share their sign.
    if name == "two-exponentials":
        assert fit.parameter[0] * fit.parameter[2] >= 0
        inside = inside and slow_p[0] * slow_p[2] > 0 and far_p[0] * far_p[2] > 0
    if inside:
        assert slow == pytest.approx(fit.chi2, rel=1e-4, abs=1e-4)
        assert fit.chi2 <= far + 1e-6 * (1 + far)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_slopes_are_derivatives(law):
    p = np.array(TRUE[law.name])
    for i in range(len(p)):
        step = np.zeros(len(p))
        step[i] = 1e-6 * p[i]
        both = [law_curve(law.name, p + side * step, D[1:]) for side in (1, -1)]
        np.testing.assert_allclose(
            law.slopes(p, D[1:])[i], (both[0] - both[1]) / (2 * step[i]), rtol=1e-5, atol=1e-9
        )


def test_chi2_is_that_of_the_binned_curve():
    """The whole function beside the formulae of its description, one law."""
    measured = synthetic("power-law", 3)
    fitted = decay_laws(measured).isel(layer=0)
    nu = 1 / (1 / 99 + 1 / 199)
    assert fitted["law_freedom"].item() == pytest.approx(nu)
    bins = law_bins(list(range(1, 65)), 16)
    n = len(bins)
    assert fitted["law_bins"].item() == n == 16
    data = np.array([measured["correlation"].values[0, b].mean() for b in bins])
    drawn = np.array([measured["resample"].values[0][:, b].mean(1) for b in bins])
    mean = np.array([[(d in b) / len(b) for d in range(1, 65)] for b in bins])
    chi2, p = law_chi2("power-law", D[1:], mean, data, np.cov(drawn), TRUE["power-law"])
    row = fitted.sel(law="power-law")
    assert row["law_chi2"].item() == pytest.approx(chi2 * (nu - n - 1) / nu, rel=1e-6)
    assert row["law_aic"].item() == pytest.approx(row["law_chi2"].item() + 4)
    assert row["law_dof"].item() == n - 2
    found = row["law_parameter"].sel(parameter=["amplitude", "exponent"]).values
    np.testing.assert_allclose(found, p, rtol=1e-4)
    aic = fitted["law_aic"].values
    weight = np.exp(-(aic - aic.min()) / 2)
    np.testing.assert_allclose(fitted["law_weight"], weight / weight.sum(), rtol=1e-9)
    np.testing.assert_allclose(row["law_curve"][1:], law_curve("power-law", found, D[1:]))
    assert np.isnan(row["law_curve"][0])


@pytest.mark.parametrize("name", list(TRUE))
def test_each_law_is_recovered(name):
    """Parameters within their errors, errors that are the spread, and the law preferred."""
    fitted = decay_laws(synthetic(name, 1, n_layers=20, spread=0.1))
    own = fitted.sel(law=name)
    value = own["law_parameter"].sel(parameter=OWN[name]).values
    error = own["law_parameter_error"].sel(parameter=OWN[name]).values
    z = (value - TRUE[name]) / error
    assert (np.abs(np.nanmedian(z, 0)) < 1).all()
    assert 0.5 < np.nanstd(z) < 1.6
    others = [p for p in PARAMETERS if p not in OWN[name]]
    assert own["law_parameter"].sel(parameter=others).isnull().all()
    best = fitted["law"].values[fitted["law_weight"].values.argmax(1)]
    preferred = (best == name).mean()
    # A law with one more parameter beats a true one by chance in 16 of 100 data sets.
    assert preferred > 0.5
    np.testing.assert_allclose(fitted["law_weight"].sum("law"), 1)


@pytest.mark.parametrize("n_sequences", [30, 200])
def test_p_values_are_uniform_and_errors_have_their_reach(n_sequences):
    """Also where the covariance is poorly known."""
    fitted = decay_laws(synthetic("exponential", 5, n_layers=30, n_sequences=n_sequences))
    p = fitted["law_p_value"].sel(law="exponential").values
    assert kstest(p, "uniform").pvalue > 1e-3
    wrong = fitted["law_p_value"].sel(law="power-law").values
    assert (wrong < 1e-3).mean() > 0.9
    row = fitted.sel(law="exponential", parameter="length")
    z = (row["law_parameter"] - TRUE["exponential"][1]) / row["law_parameter_error"]
    within = int((np.abs(z) < norm.ppf(0.975)).sum())
    assert binomtest(within, z.size, 0.95).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TRUE)[:4])
def test_p_values_are_uniform_over_many(name):
    p = decay_laws(synthetic(name, 7, n_layers=600))["law_p_value"].sel(law=name).values
    assert kstest(p, "uniform").pvalue > 1e-3
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 600))


def chain_traces(xi, seed, n_sequences=100, length=300):
    kept = np.exp(-1 / xi)
    transition = kept * np.eye(4) + (1 - kept) / 4
    states = simulate_markov(transition, n_sequences, length, np.random.default_rng(seed))
    return im.traces_from_arrays(states[None, :, :, None], num_experts=4)


def test_a_markov_chain_is_exponential():
    weights, p = [], []
    for seed in range(12):
        measured = im.correlation(chain_traces(4, seed), max_distance=48, seed=seed)
        fitted = decay_laws(measured).isel(layer=0)
        weights.append(fitted["law_weight"].values)
        p.append(fitted["law_p_value"].sel(law="exponential").item())
        length = fitted.sel(law="exponential", parameter="length")
        z = (length["law_parameter"] - 4) / length["law_parameter_error"]
        assert abs(z.item()) < 4.5
    weights = np.array(weights)
    assert (weights.argmax(1) == 0).mean() > 0.4
    assert weights.mean(0).argmax() == 0
    assert (weights[:, 1] < 1e-3).all()
    assert kstest(p, "uniform").pvalue > 1e-3


@pytest.mark.shared
def test_gpt_oss_has_a_tail(shared_traces):
    traces = im.open_traces(shared_traces / "gpt-oss-20b.nc").sel(layer=[11])
    for centre in ("global", "sequence"):
        fitted = decay_laws(im.correlation(traces, centre=centre)).isel(layer=0)
        assert fitted["law_weight"].sel(law="exponential").item() < 1e-6
        assert fitted["law_p_value"].sel(law="exponential").item() < 1e-6
        tails = ["power-law", "stretched", "exponential+constant", "two-exponentials"]
        assert fitted["law_weight"].sel(law=tails).sum().item() == pytest.approx(1)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["flame-moe-290m", "mixtral-8x7b", "olmoe-1b-7b-layer0"])
def test_few_sequences_have_weights_and_no_p_value(shared_traces, name):
    traces = im.open_traces(shared_traces / f"{name}.nc").isel(layer=[0])
    fitted = decay_laws(im.correlation(traces)).isel(layer=0)
    assert fitted["law_bins"].item() == 6
    assert fitted["law_p_value"].isnull().all()
    assert fitted["law_weight"].sum().item() == pytest.approx(1)
    assert (fitted["law_chi2"] >= 0).all()


def test_one_sequence_has_curves_and_no_ranking():
    traces = chain_traces(4, 0, n_sequences=1, length=5000)
    measured = im.correlation(traces, max_distance=30)
    fitted = decay_laws(measured).isel(layer=0)
    assert fitted["law_freedom"].item() == 0
    for name in ("law_p_value", "law_weight", "law_aic", "law_parameter_error"):
        assert fitted[name].isnull().all(), name
    assert np.isfinite(fitted["law_curve"][:, 1:]).all()
    row = fitted.sel(law="exponential")
    length = row["law_parameter"].sel(parameter="length").item()
    assert length == pytest.approx(4, rel=0.3)
    bins = law_bins(list(range(1, 31)), 16)
    data = np.array([measured["correlation"].values[0, b].mean() for b in bins])
    error = measured["correlation_error"].values[0]
    variance = [(error[b] ** 2).sum() / len(b) ** 2 for b in bins]
    mean = np.array([[(d in b) / len(b) for d in range(1, 31)] for b in bins])
    chi2, _ = law_chi2("exponential", D[1:31], mean, data, np.diag(variance), (0.75, 4))
    assert row["law_chi2"].item() == pytest.approx(chi2, rel=1e-6)


def test_fewer_distances_than_parameters():
    measured = synthetic("exponential", 0).isel(distance=slice(0, 4))
    fitted = decay_laws(measured).isel(layer=0)
    assert fitted["law_chi2"].sel(law="two-exponentials").isnull()
    assert fitted["law_weight"].sel(law="two-exponentials").isnull()
    assert fitted["law_dof"].sel(law="exponential").item() == 1
    assert fitted["law_dof"].sel(law="stretched").item() == 0
    assert fitted["law_p_value"].sel(law="stretched").isnull()
    assert fitted["law_weight"].sum().item() == pytest.approx(1)
    alone = decay_laws(measured.isel(distance=slice(0, 2))).isel(layer=0)
    assert alone["law_weight"].isnull().all()
    assert alone["law_first"].item() == alone["law_last"].item() == 1


def flat_curves(level, seed):
    rng = np.random.default_rng(seed)
    return measured_curves(noisy_curves(np.full(40, level), 0.1, 60, rng)[None], 200, seed)


@pytest.mark.parametrize("level", [0.0, 0.5, -0.2])
def test_curves_without_decay(level):
    """A constant, also of no height or below nought: finite curves, and no law is refused."""
    fitted = decay_laws(flat_curves(level, 1)).isel(layer=0)
    assert np.isfinite(fitted["law_curve"].values[:, 1:]).all()
    assert (fitted["law_p_value"] > 1e-3).all()
    assert np.abs(fitted["law_curve"].values[:, 10] - level).max() < 0.1
    if level:
        row = fitted.sel(law="power-law")
        assert abs(row["law_parameter"].sel(parameter="exponent").item()) < 0.05


def test_negative_first_correlation():
    curve = np.where(D[:30] == 1, -0.3, 0.1 * np.exp(-D[:30] / 8))
    rng = np.random.default_rng(0)
    measured = measured_curves(noisy_curves(curve, 0.05, 50, rng)[None], 200, 0)
    fitted = decay_laws(measured).isel(layer=0)
    # A dip is not two lengths: no law describes it, and their p-values say so.
    assert (fitted["law_p_value"] < 1e-6).all()
    two = fitted["law_parameter"].sel(law="two-exponentials")
    assert (two.sel(parameter="amplitude") * two.sel(parameter="amplitude_2")).item() >= 0


def test_two_terms_of_one_sign_against_nonnegative_least_squares():
    """On a fine grid of both lengths, each sign in turn."""
    law, d = LAWS[-1], D[1:31]
    rng = np.random.default_rng(3)
    for curve in (
        0.5 * np.exp(-d / 3) + 0.2 * np.exp(-d / 15),
        -0.5 * np.exp(-d / 3) - 0.2 * np.exp(-d / 15),
        0.4 * np.exp(-d / 12) - 0.3 * np.exp(-d / 3),
        np.exp(-d / 5),
    ):
        data = (curve + 0.01 * rng.normal(size=len(d))) / 0.01
        fit = fit_law(law, d, np.eye(len(d)) / 0.01, data)
        short, ratio = np.meshgrid(np.geomspace(0.2, 60, 50), np.geomspace(1.25, 1000, 50))
        slow = min(
            nnls(np.exp(-d / np.array([[a], [a * b]])).T / 0.01, sign * data)[1] ** 2
            for a, b in zip(short.ravel(), ratio.ravel(), strict=True)
            for sign in (1, -1)
        )
        assert fit.parameter[0] * fit.parameter[2] >= 0
        assert fit.chi2 <= slow * (1 + 1e-9)
        assert fit.chi2 > slow - 3
        amplitude = np.diag(fit.covariance)[[0, 2]]
        assert np.isnan(amplitude[fit.linear == 0]).all()
        if np.isfinite(fit.covariance).all():
            assert (np.sign(fit.linear) == np.sign(curve[0])).all()


def test_a_dip_is_not_two_lengths():
    curve = 0.6 * np.exp(-D / 12) - 0.5 * np.exp(-D / 9.6)
    rng = np.random.default_rng(1)
    measured = measured_curves(noisy_curves(curve, 0.05, 100, rng)[None], 200, 1)
    fitted = decay_laws(measured).isel(layer=0)
    row = fitted.sel(law="two-exponentials")
    assert row["law_p_value"].item() < 1e-3
    value = row["law_parameter"]
    assert (value.sel(parameter="amplitude") * value.sel(parameter="amplitude_2")).item() >= 0


def test_ends_of_ranges_have_no_error():
    """A curve that rises: lengths at their upper ends, which are finite, and exponents at 0."""
    curve = 0.3 + 0.004 * D
    rng = np.random.default_rng(2)
    measured = measured_curves(noisy_curves(curve, 0.01, 100, rng)[None], 200, 2)
    fitted = decay_laws(measured).isel(layer=0)
    last = fitted["law_last"].item()
    length = fitted["law_parameter"].sel(parameter="length")
    longest = {"exponential": 100, "stretched": 1e4, "two-exponentials": 2000}
    for name, times in longest.items():
        assert length.sel(law=name).item() <= times * last * (1 + 1e-9)
    error = fitted["law_parameter_error"]
    assert np.isnan(error.sel(law="exponential", parameter="length"))
    for name in ("length", "exponent"):
        assert np.isnan(error.sel(law="stretched", parameter=name))
    power = fitted.sel(law="power-law", parameter="exponent")
    assert power["law_parameter"].item() == pytest.approx(0, abs=1e-4)
    assert np.isnan(power["law_parameter_error"])


@pytest.mark.parametrize("beta", [0.2, 0.6, 3.0])
def test_stretched_lengths_stay_where_they_should(beta):
    law = LAWS[2]
    lower, upper = map(np.array, law.bounds(64.0))
    ends = np.array([[lower[0], beta], [upper[0], beta]])
    low, high = np.exp(law.within(ends, lower, upper)[:, 0])
    assert low == pytest.approx(max(1e-3, 10 ** (-1 / beta)))
    assert high == pytest.approx(1e4 * 64)


def test_tokens_that_are_all_alike():
    traces = im.traces_from_arrays(np.zeros((1, 5, 30, 1), np.int16), num_experts=3)
    fitted = decay_laws(im.correlation(traces, max_distance=10)).isel(layer=0)
    for name in ("law_chi2", "law_weight", "law_first", "law_last"):
        assert fitted[name].isnull().all()
    assert fitted["law_bins"].item() == 0


def test_ragged_traces_with_gaps(make_traces):
    for seed in range(2):
        traces = make_traces(ragged=True, gaps=0.2, seed=seed, n_sequences=12, n_positions=30)
        fitted = decay_laws(im.correlation(traces, max_distance=20))
        assert fitted.sizes == {"layer": 2, "law": 5, "parameter": 6, "distance": 21}
        assert fitted["layer"].values.tolist() == [3, 7]
        assert (fitted["law_last"] <= 20).all()
        for name in fitted.data_vars:
            assert {"long_name", "units"} <= set(fitted[name].attrs)


def test_distances_bound_by_a_sum_rule():
    """About their own means, pairs of a sequence at all distances together sum to nought."""
    traces = chain_traces(1, 0, n_sequences=80, length=12)
    measured = im.correlation(traces, centre="sequence", max_distance=11)
    fitted = decay_laws(measured).isel(layer=0)
    assert np.isfinite(fitted["law_chi2"]).all()
    assert fitted["law_weight"].sum().item() == pytest.approx(1)


@pytest.mark.parametrize("n_sequences", [2, 3])
def test_two_or_three_sequences(n_sequences):
    traces = chain_traces(3, 0, n_sequences=n_sequences, length=300)
    fitted = decay_laws(im.correlation(traces, max_distance=30)).isel(layer=0)
    assert np.isfinite(fitted["law_chi2"]).all()
    assert fitted["law_p_value"].isnull().all()
    assert fitted["law_curve"].sel(law="exponential")[1].item() == pytest.approx(0.55, abs=0.15)


def test_distances_without_pairs_are_left_out():
    index = np.full((1, 40, 60, 1), -1, np.int16)
    index[:, :, ::3] = simulate_markov(0.8 * np.eye(3) + 0.2 / 3, 40, 20, np.random.default_rng(0))[
        None, :, :, None
    ]
    traces = im.traces_from_arrays(index, num_experts=3)
    fitted = decay_laws(im.correlation(traces, max_distance=40)).isel(layer=0)
    assert (fitted["law_first"].item(), fitted["law_last"].item()) == (3, 39)
    row = fitted.sel(law="exponential", parameter="length")
    expected = -3 / np.log(0.8)
    assert abs(row["law_parameter"] - expected) < 4 * row["law_parameter_error"]


def test_what_is_no_measurement_is_refused():
    with pytest.raises(TypeError, match="measured: expected a Dataset"):
        decay_laws(np.ones(3))  # pyright: ignore[reportArgumentType]
    measured = synthetic("exponential", 0)
    with pytest.raises(
        ValueError, match=r"expected resample \(distance, layer, resample\), got none"
    ):
        decay_laws(measured.drop_vars("resample"))
    with pytest.raises(ValueError, match="expected correlation"):
        decay_laws(measured.isel(layer=0))
    with pytest.raises(ValueError, match="expected the attribute n_sequences"):
        decay_laws(measured.drop_attrs())
    assert isinstance(decay_laws(measured), xr.Dataset)
