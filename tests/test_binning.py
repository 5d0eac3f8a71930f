"""Autocorrelation times and errors, on processes for which both are known."""

import numpy as np
import pytest
from scipy.signal import lfilter

from isingmoe.binning import autocorrelation_time, jackknife, merged, missing_share


def autoregressive(rho, n_replicas, n_samples, seed):
    """x_t = rho x_{t-1} + noise, of variance one."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(scale=np.sqrt(1 - rho**2), size=(n_replicas, n_samples))
    noise[:, 0] = rng.normal(size=n_replicas)
    return lfilter([1], [1, -rho], noise, axis=1)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, 0.98])
def test_autocorrelation_time_of_an_autoregressive_process(rho):
    """1/2 + sum of rho^t = (1 + rho)/(2 (1 - rho))."""
    expected = (1 + rho) / (2 * (1 - rho))
    found = autocorrelation_time(autoregressive(rho, 8, 40_000, seed=1))
    assert found == pytest.approx(expected, rel=0.05 + expected / 500)


def test_what_never_changes_has_no_memory():
    assert autocorrelation_time(np.full((3, 100), 1e9)) == 0.5
    assert autocorrelation_time(np.zeros((1, 1))) == 0.5


def test_replicas_that_have_not_met_are_slow():
    series = np.random.default_rng(0).normal(size=(2, 1000)) + np.array([[0.0], [10.0]])
    assert autocorrelation_time(series) > 100


def fine_bins(series, n_bins):
    edges = np.linspace(0, series.shape[1], n_bins + 1).astype(int)
    sums = np.add.reduceat(series, edges[:-1], axis=1).ravel()
    return {"x": sums}, np.tile(np.diff(edges), len(series))


@pytest.mark.parametrize("n_samples", [1000, 1037])
@pytest.mark.parametrize("time", [0.5, 3.0, 50.0])
def test_merging_loses_nothing(n_samples, time):
    series = autoregressive(0.5, 3, n_samples, seed=2)
    sums, size = fine_bins(series, 128)
    joined, sizes = merged(sums, size, time, 3)
    assert sizes.sum() == 3 * n_samples
    assert joined["x"].sum() == pytest.approx(series.sum())
    assert len(sizes) >= 15
    if time == 3.0:
        assert (sizes >= 10 * time).all()


def test_error_of_a_mean_without_correlation_is_the_textbook_one():
    series = autoregressive(0.0, 1, 128, seed=3)
    sums, size = fine_bins(series, 128)
    value, error = jackknife(sums, size, lambda mean: {"x": mean["x"]})
    assert value["x"] == pytest.approx(series.mean())
    assert error["x"] == pytest.approx(series.std(ddof=1) / np.sqrt(128))


def test_error_of_a_mean_with_correlation():
    """Over many runs the spread of the mean is the error that each states."""
    rho, n_samples, means, errors = 0.9, 4000, [], []
    for seed in range(200):
        series = autoregressive(rho, 2, n_samples, seed)
        joined, sizes = merged(*fine_bins(series, 128), autocorrelation_time(series), 2)
        value, error = jackknife(joined, sizes, lambda mean: {"x": mean["x"]})
        means.append(value["x"])
        errors.append(error["x"])
    exact = np.sqrt((1 + rho) / (1 - rho) / (2 * n_samples))
    assert np.std(means) == pytest.approx(exact, rel=0.12)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(exact, rel=0.06)


def test_one_bin_has_no_error():
    value, error = jackknife({"x": np.ones(1)}, np.ones(1), lambda mean: {"x": mean["x"]})
    assert value["x"] == 1
    assert np.isnan(error["x"])


@pytest.mark.parametrize("time", [0.5, 1.0, 5.0])
def test_share_that_bins_miss(time):
    """Of exponential autocorrelations: the variance of a bin's mean, summed pair by pair."""
    ratio = (time - 0.5) / (time + 0.5)
    for length in (20, 50):
        t = np.arange(1, length)
        of_bin = 1 + 2 * ((1 - t / length) * ratio**t).sum()
        expected = 1 - of_bin / (2 * time)
        assert missing_share(time, length) == pytest.approx(expected, abs=0.01 * (time > 0.5))
