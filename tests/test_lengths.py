"""Correlation lengths against slow twins, and how often their intervals hold the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import simulate_markov
from naive_decay import decay_length, moment_length
from scipy.stats import binomtest, norm

import isingmoe as im
from isingmoe._kernels import lengths
from isingmoe.decay import (
    decay_fit,
    length_variables,
    percentiles,
    second_moment_length,
    seen_distances,
)
from isingmoe.length_estimates import correlation_lengths

NAMES = ("correlation_length", "second_moment_length")


def chain_traces(xi, seed, *, q=2, n_sequences=100, length=500):
    """A Potts chain with one coupling for all labels: C(d) = (1 - 1/q) exp(-d / xi)."""
    kept = np.exp(-1 / xi)
    transition = kept * np.eye(q) + (1 - kept) / q
    states = simulate_markov(transition, n_sequences, length, np.random.default_rng(seed))
    return im.traces_from_arrays(states[None, :, :, None], num_experts=q)


@given(
    seed=st.integers(0, 2**32),
    xi=st.floats(0.4, 60),
    noise=st.sampled_from([0.0, 1e-3, 0.02]),
    n_distances=st.integers(2, 70),
    flips=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_fit_of_the_decay_against_direct_minimisation(seed, xi, noise, n_distances, flips):
    rng = np.random.default_rng(seed)
    d = np.arange(n_distances)
    sign = (-1.0) ** d if flips else np.ones(n_distances)
    error = rng.uniform(0.005, 0.02, n_distances)
    curve = sign * rng.uniform(0.3, 1) * np.exp(-d / xi) + noise * rng.normal(size=n_distances)
    curve[0] = 1.1
    found, last = decay_fit(curve, error)
    assert last == seen_distances(curve, error)
    if last == 0:
        assert found == 0
        return
    expected = decay_length(curve, error, int(last), np.sign(curve))
    if not 0 < expected < 1e4:
        assert not np.isfinite(found) or found > 1e3
    else:
        assert found == pytest.approx(expected, rel=1e-5)


@given(
    seed=st.integers(0, 2**32), xi=st.floats(0.5, 40), last=st.integers(1, 40), flips=st.booleans()
)
@settings(max_examples=40, deadline=None)
def test_second_moment_against_bisection(seed, xi, last, flips):
    rng = np.random.default_rng(seed)
    d = np.arange(last + 3)
    sign = (-1.0) ** d if flips else np.ones(len(d))
    curve = sign * np.exp(-d / xi) * rng.uniform(0.9, 1.1, len(d))
    highest = (np.arange(-last, last + 1) ** 2).mean()
    weight = np.concatenate([np.abs(curve[last:0:-1]), np.abs(curve[: last + 1])])
    found = second_moment_length(curve, last)
    if (weight * np.arange(-last, last + 1) ** 2).sum() >= highest * weight.sum() * (1 - 1e-9):
        assert found > 1e5
    else:
        assert found == pytest.approx(moment_length(curve, last, np.sign(curve)), rel=1e-7)


@pytest.mark.parametrize("last", [1, 3, 20])
@pytest.mark.parametrize("xi", [0.5, 5.0, 100.0])
def test_second_moment_of_an_exponential_is_exact_over_any_range(xi, last):
    curve = 0.3 * np.exp(-np.arange(30) / xi)
    assert second_moment_length(curve, last) == pytest.approx(xi, rel=1e-9)


def test_second_moment_over_all_distances_is_the_textbooks():
    xi = 3.0
    curve = np.exp(-np.arange(2000) / xi)
    d = np.arange(-1999, 2000)
    mean_square = (d**2 * curve[np.abs(d)]).sum() / curve[np.abs(d)].sum()
    assert mean_square == pytest.approx(1 / (2 * np.sinh(1 / (2 * xi)) ** 2))
    assert second_moment_length(curve, 1999) == pytest.approx(xi)


def test_resamples_share_the_range_and_the_signs_of_the_curve():
    rng = np.random.default_rng(0)
    d = np.arange(20)
    error = np.full(20, 0.05)
    curve = (-0.8) ** d + 0.03 * rng.normal(size=20)
    resample = curve + 0.05 * rng.normal(size=(50, 20))
    found, last = decay_fit(resample, error, like=curve)
    n = int(seen_distances(curve, error))
    np.testing.assert_array_equal(last, n)
    expected = [decay_length(row, error, n, np.sign(curve)) for row in resample]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    variables = length_variables(curve[None], error[None], resample[None])
    ends = [variables[f"correlation_length_{end}"][1][0] for end in ("low", "high")]
    assert ends == pytest.approx(percentiles(np.array(expected)), rel=1e-5)


def test_limits_of_lengths():
    error = np.full(6, 0.1)
    flat = np.array([1, 0.5, 0.5, 0.5, 0.5, 0.5])
    rising = np.array([1, 0.3, 0.4, 0.5, 0.6, 0.7])
    at_once = np.array([[1, 0.5, -0.3, -0.2, -0.1, 0]])
    assert decay_fit(flat, error)[0] == np.inf
    assert decay_fit(rising, error)[0] == np.inf
    assert decay_fit(at_once, error, like=np.abs(at_once[0]))[0] == 0
    nothing = np.zeros(6)
    assert decay_fit(nothing, nothing) == (0, 0)
    assert second_moment_length(nothing, 0) == 0
    assert second_moment_length(flat * 0 + 1, 5) == np.inf
    unknown = np.array([1, np.nan, 0.5, 0.2, 0, 0])
    assert np.isnan(decay_fit(unknown, error)[0])


def test_resamples_without_pairs_at_some_distance_are_fitted_to_the_others():
    error = np.full(8, 0.01)
    curve = np.exp(-np.arange(8) / 4)
    resample = np.tile(curve, (3, 1))
    resample[0, 3], resample[1, 1] = np.nan, np.nan
    found, _ = decay_fit(resample, error, like=curve)
    np.testing.assert_allclose(found, [4, np.nan, 4], rtol=1e-7)
    variables = length_variables(curve[None], error[None], resample[None], 5)
    for name in NAMES:
        for end in ("low", "high"):
            assert variables[f"{name}_{end}"][1] == pytest.approx([4])


def test_percentiles_reach_farther_for_few_sequences():
    values = np.random.default_rng(0).permutation(np.arange(1.0, 10_000))
    low, high = percentiles(values)
    assert (low, high) == (250, 9750)
    for n, tail in ((100, 0.023064), (10, 0.008551)):
        assert percentiles(values, n) == (int(tail * 1e4), 10_000 - int(tail * 1e4))
    assert percentiles(values[:30], 4) == (values[:30].min(), values[:30].max())
    assert percentiles(np.array([1.0, np.inf, np.inf])) == (1.0, np.inf)


def test_lengths_do_not_depend_on_the_number_of_threads(many_threads):
    import numba

    traces = chain_traces(3, 0, n_sequences=12, length=60)
    found = []
    for n in (1, many_threads):
        numba.set_num_threads(n)
        found.append(im.correlation(traces, max_distance=20, n_resamples=300))
    assert found[0].identical(found[1])


def coverage(xi, n_sets, n_resamples, **more):
    """How many of the intervals of either length hold the truth."""
    covered = np.zeros(2, int)
    for seed in range(n_sets):
        measured = im.correlation(
            chain_traces(xi, seed, **more), seed=seed, n_resamples=n_resamples
        )
        for i, name in enumerate(NAMES):
            low, high = (measured[f"{name}_{end}"].item() for end in ("low", "high"))
            covered[i] += low <= xi <= high
    return covered


@pytest.mark.parametrize("xi", [1, 5, 20])
def test_intervals_hold_the_truth(xi):
    """Quick: misses of 60 are not too many for 90 %, and not too few for 99.9 %."""
    for n in coverage(xi, 60, 400):
        assert binomtest(n, 60, 0.95).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("xi", [1, 5, 20])
def test_coverage_is_90_to_97_per_cent(xi):
    """Of 95 % intervals, 100 sequences of 500 tokens, up to one binomial error."""
    n_sets = 500
    slack = np.sqrt(0.95 * 0.05 / n_sets)
    for n in coverage(xi, n_sets, 1000):
        assert 0.90 - slack < n / n_sets < 0.97 + slack


@pytest.mark.slow
@pytest.mark.parametrize(("q", "n_sequences"), [(8, 100), (2, 10)])
def test_coverage_of_other_chains(q, n_sequences):
    for n in coverage(5, 400, 400, q=q, n_sequences=n_sequences):
        assert 0.88 < n / 400 < 0.985


@pytest.mark.slow
def test_estimates_are_hardly_biased():
    for xi in (1, 5, 20):
        found = [im.correlation(chain_traces(xi, seed), n_resamples=100) for seed in range(200)]
        for name in NAMES:
            values = np.array([m[name].item() for m in found])
            assert abs(values.mean() - xi) < 0.25 * values.std()


def fit_of_a_chain(seed):
    return im.correlation(chain_traces(5, seed, n_sequences=30, length=200), n_resamples=200)


def test_three_estimators_and_their_ratios():
    measured = fit_of_a_chain(0)
    table = correlation_lengths(measured, [5.2], [0.3])
    assert table["estimator"].values.tolist() == ["transfer", "exponential", "second-moment"]
    chain = table.sel(estimator="transfer").isel(layer=0)
    reach = norm.ppf(0.975) * 0.3 / 5.2
    np.testing.assert_allclose(chain["length_low"], 5.2 * np.exp(-reach))
    np.testing.assert_allclose(chain["length_high"], 5.2 * np.exp(reach))
    assert chain["length_ratio"].item() == 1
    assert np.isnan(chain["length_ratio_low"])
    for estimator, name in zip(("exponential", "second-moment"), NAMES, strict=True):
        own = table.sel(estimator=estimator).isel(layer=0)
        value, low, high = (measured[name + end].item() for end in ("", "_low", "_high"))
        assert (own["length"], own["length_low"], own["length_high"]) == (value, low, high)
        assert own["length_ratio"].item() == pytest.approx(value / 5.2)
        down = np.hypot(np.log(value / low), reach)
        up = np.hypot(np.log(high / value), reach)
        assert own["length_ratio_low"].item() == pytest.approx(value / 5.2 * np.exp(-down))
        assert own["length_ratio_high"].item() == pytest.approx(value / 5.2 * np.exp(up))
    for name in table.data_vars:
        assert {"long_name", "units"} <= set(table[name].attrs)


def test_interval_of_a_ratio_covers():
    """Of two independent lengths, both with log-normal errors."""
    rng = np.random.default_rng(0)
    n = 2000
    wide, narrow = 0.2, 0.08
    chain = 4 * np.exp(narrow * rng.normal(size=n))
    own = 6 * np.exp(wide * rng.normal(size=n))
    reach = norm.ppf(0.975) * wide
    measured = {
        name + end: ("layer", own * np.exp(shift))
        for name in NAMES
        for end, shift in (("", 0), ("_low", -reach), ("_high", reach))
    }
    table = correlation_lengths(im.correlation(chain_traces(1, 0, length=20)).isel(
        layer=[0] * n).drop_vars([*measured, "layer"]).assign(measured).assign_coords(
        layer=np.arange(n)), chain, narrow * chain)  # fmt: skip
    low, high = (table[f"length_ratio_{end}"].values[:, 1] for end in ("low", "high"))
    covered = ((low < 1.5) & (high > 1.5)).sum()
    assert binomtest(int(covered), n, 0.95).pvalue > 1e-3


@pytest.mark.parametrize(
    ("value", "error", "low", "high"),
    [(0.0, 0.1, np.nan, np.nan), (5.0, np.nan, np.nan, np.nan), (5.0, 0.0, 5.0, 5.0),
     (5.0, np.inf, 0.0, np.inf), (np.inf, 1.0, np.nan, np.nan), (np.nan, 1.0, np.nan, np.nan)],
)  # fmt: skip
def test_limits_of_a_chains_length(value, error, low, high):
    table = correlation_lengths(fit_of_a_chain(1), [value], [error]).isel(layer=0)
    np.testing.assert_equal(table["length_low"].values[0], low)
    np.testing.assert_equal(table["length_high"].values[0], high)


def test_ratio_of_a_length_that_is_not_seen():
    flat = im.correlation(chain_traces(0.1, 3, n_sequences=10, length=30), max_distance=5)
    assert flat["correlation_length"].item() == 0
    table = correlation_lengths(flat, [2.0], [0.2]).sel(estimator="exponential").isel(layer=0)
    assert table["length_ratio"].item() == table["length_ratio_low"].item() == 0
    assert 0 < table["length_ratio_high"].item() < np.inf


def test_bad_arguments_are_named():
    measured = fit_of_a_chain(1)
    with pytest.raises(TypeError, match="measured: expected a Dataset"):
        correlation_lengths([1.0], [1.0], [1.0])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="expected correlation_length_low"):
        correlation_lengths(measured.drop_vars("correlation_length_low"), [1.0], [1.0])
    with pytest.raises(ValueError, match=r"length, length_error: expected shape \(1,\)"):
        correlation_lengths(measured, [1.0, 2.0], [1.0, 1.0])


def test_kernels_take_one_range_for_all_or_one_for_each():
    curves = np.exp(-np.arange(10) / np.array([[2.0], [4.0]]))
    sign = np.ones((1, 10))
    for last in (np.array([6]), np.array([6, 6])):
        found = lengths.decay_lengths(curves, sign, np.ones(10), last)
        np.testing.assert_allclose(found, [2, 4])
