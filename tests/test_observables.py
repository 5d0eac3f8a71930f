"""Overlaps and correlations against slow loops, and correlation lengths against the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import corrected_for_own_mean, load, overlap_sums, simulate_markov
from naive import correlation as naive_correlation

from isingmoe import (
    baseline,
    correlation,
    load_balance,
    neighbour_overlap,
    traces_from_arrays,
)
from isingmoe._kernels import overlaps
from isingmoe.decay import decay_fit, second_moment_length
from isingmoe.neighbours import shuffled_sets


def random_traces(seed, *, n_experts=6, k=2, n_sequences=4, n_positions=12, gaps=0.1, n_layers=1):
    rng = np.random.default_rng(seed)
    shape = (n_layers, n_sequences, n_positions)
    keys = rng.random((*shape, n_experts))
    index = np.argsort(keys, -1)[..., :k].astype(np.int16)
    length = rng.integers(2, n_positions + 1, n_sequences)
    length[0] = n_positions
    index[:, np.arange(n_positions) >= length[:, None]] = -1
    index[rng.random(shape) < gaps] = -1
    return traces_from_arrays(index, num_experts=n_experts, length=length)


@given(seed=st.integers(0, 2**32), k=st.integers(1, 4), d=st.integers(0, 11))
@settings(max_examples=60, deadline=None)
def test_pair_overlaps_are_integers_of_a_triple_loop(seed, k, d):
    traces = random_traces(seed, k=k)
    index = traces["expert_index"].values[0]
    sets, lowest, highest = overlaps.pack_sets(index, 1)
    pairs, shared = overlaps.pair_overlaps(sets, np.array([d]))
    expected_pairs, expected_shared = overlap_sums(index, d)
    np.testing.assert_array_equal(pairs[:, 0], expected_pairs)
    np.testing.assert_array_equal(shared[:, 0], expected_shared)
    assert (lowest, highest) == (index.min(initial=0), index.max())


@pytest.mark.parametrize("n_experts", [3, 63, 64, 65, 200, 256])
def test_sets_of_any_number_of_words(n_experts):
    traces = random_traces(n_experts, n_experts=n_experts, k=3)
    index = traces["expert_index"].values[0]
    n_words = -(-n_experts // 64)
    sets, _, _ = overlaps.pack_sets(index, n_words)
    pairs, shared = overlaps.pair_overlaps(sets, np.array([2]))
    expected = overlap_sums(index, 2)
    np.testing.assert_array_equal(pairs[:, 0], expected[0])
    np.testing.assert_array_equal(shared[:, 0], expected[1])
    n_pairs, both, left, right = overlaps.expert_pairs(sets, np.array([2]), n_experts, 3)
    assert both.sum() == expected[1].sum()
    assert n_pairs[0] == expected[0].sum()
    assert left.sum() == right.sum() == 3 * n_pairs[0]
    _, occupied = overlaps.occupancy_counts(sets, n_experts)
    np.testing.assert_allclose(occupied.sum(0) / occupied.sum(), load(index, n_experts))


@given(
    seed=st.integers(0, 2**32),
    centre=st.sampled_from(["global", "position", "sequence"]),
    k=st.integers(1, 3),
)
@settings(max_examples=45, deadline=None)
def test_correlation_against_a_slow_loop(seed, centre, k):
    traces = random_traces(seed, k=k)
    measured = correlation(traces, primary=False, centre=centre, max_distance=4, n_resamples=2)
    index = traces["expert_index"].values[0]
    expected = [
        naive_correlation(index, d, 6, centre) if overlap_sums(index, d)[0].any() else np.nan
        for d in range(5)
    ]
    if centre == "sequence":
        expected = corrected_for_own_mean(index, expected)
    np.testing.assert_allclose(measured["correlation"][0], expected, atol=1e-12)


def test_primary_correlation_is_that_of_the_first_rank():
    traces = random_traces(1, k=3)
    alone = traces.isel(rank=[0]).assign_attrs(top_k=1)
    np.testing.assert_array_equal(
        correlation(traces, primary=True)["correlation"],
        correlation(alone, primary=False)["correlation"],
    )


def test_shuffled_expectation_is_the_mean_of_shuffles():
    traces = random_traces(5, n_sequences=6, n_positions=40, gaps=0)
    expected = correlation(traces, primary=False, max_distance=6)["shuffled"].values[0]
    drawn = np.array(
        [
            correlation(
                baseline(traces, "shuffled", seed=s), primary=False, max_distance=6, n_resamples=2
            )["correlation"].values[0]
            for s in range(100)
        ]
    )
    spread = drawn.std(0) / np.sqrt(len(drawn))
    assert (np.abs(drawn.mean(0) - expected)[1:] < 4 * spread[1:]).all()
    np.testing.assert_allclose(drawn[0, 0], expected[0], rtol=1e-12)


def test_sequence_centre_has_no_bias_for_uncorrelated_tokens():
    """Texts that differ in load look correlated about the global mean, not about their own."""
    rng = np.random.default_rng(2)
    n_sequences, length, q = 400, 30, 8
    load_of_text = rng.dirichlet(np.full(q, 0.5), size=n_sequences)
    states = np.array([rng.choice(q, size=length, p=p) for p in load_of_text])
    traces = traces_from_arrays(states[None, :, :, None], num_experts=q)
    about_global = correlation(traces, centre="global", max_distance=5)
    about_text = correlation(traces, centre="sequence", max_distance=5)
    z_global = about_global["correlation"] / about_global["correlation_error"]
    z_text = about_text["correlation"] / about_text["correlation_error"]
    assert (z_global.values[0, 1:] > 20).all()
    assert (np.abs(z_text.values[0, 1:]) < 4).all()


def test_position_centre_takes_off_a_drift():
    rng = np.random.default_rng(3)
    n_sequences, length = 200, 40
    rate = np.linspace(0.05, 0.95, length)
    states = (rng.random((n_sequences, length)) < rate).astype(np.int16)
    traces = traces_from_arrays(states[None, :, :, None], num_experts=2)
    drifting = correlation(traces, centre="global", max_distance=5)
    steady = correlation(traces, centre="position", max_distance=5)
    assert (drifting["correlation"] / drifting["correlation_error"]).values[0, 1] > 20
    z = (steady["correlation"] / steady["correlation_error"]).values[0, 1:]
    assert (np.abs(z) < 4).all()
    variance = 2 * (rate * (1 - rate)).mean()
    np.testing.assert_allclose(steady["correlation"][0, 0], variance, rtol=0.02)


def two_state_traces(stay, n_sequences, length, seed):
    transition = np.array([[stay, 1 - stay], [1 - stay, stay]])
    states = simulate_markov(transition, n_sequences, length, np.random.default_rng(seed))
    return traces_from_arrays(states[None, :, :, None], num_experts=2)


@pytest.mark.parametrize("centre", ["global", "position", "sequence"])
@pytest.mark.parametrize("xi", [1.0, 5.0, 20.0])
def test_correlation_length_of_a_markov_chain(xi, centre):
    """Every centring finds it: the corrections leave no bias on a stationary chain."""
    stay = (1 + np.exp(-1 / xi)) / 2
    measured = correlation(two_state_traces(stay, 100, 500, 0), centre=centre, max_distance=64)
    low, high = (measured[f"correlation_length_{end}"].item() for end in ("low", "high"))
    standard_error = (high - low) / 4
    assert abs(measured["correlation_length"].item() - xi) < 3.5 * standard_error
    assert standard_error < 0.12 * xi


@pytest.mark.parametrize("xi", [0.5, 2.0, 10.0])
def test_both_lengths_are_exact_on_an_exponential(xi):
    curve = 0.7 * np.exp(-np.arange(1000) / xi)
    length, n_fitted = decay_fit(curve, np.full(1000, 1e-12))
    assert length == pytest.approx(xi, rel=1e-9)
    assert second_moment_length(curve, n_fitted) == pytest.approx(xi, rel=1e-6)


def test_no_correlation_has_length_zero_and_no_decay_is_infinite():
    error = np.full(5, 0.1)
    assert decay_fit(np.array([1, 0.0, 0, 0, 0]), error) == (0.0, 0)
    assert decay_fit(np.array([1, 0.5, 0.5, 0.5, 0.5]), error)[0] == np.inf
    length, n_fitted = decay_fit(np.array([1, 0.5, 0.15, 0, 0]), error)
    assert n_fitted == 1
    assert length == pytest.approx(1 / np.log(2))


def test_curves_are_fitted_one_by_one():
    rng = np.random.default_rng(0)
    curves = np.exp(-np.arange(12) / 3) + 0.03 * rng.normal(size=(40, 12))
    error = np.full(12, 0.03)
    together = decay_fit(curves, error)
    for i, curve in enumerate(curves):
        assert decay_fit(curve, error) == (together[0][i], together[1][i])


def test_length_of_an_alternating_correlation():
    """The sign does not matter, as it does not to -1 / ln |lambda_2|."""
    flip = np.array([[0.1, 0.9], [0.9, 0.1]])
    states = simulate_markov(flip, 100, 300, np.random.default_rng(0))
    traces = traces_from_arrays(states[None, :, :, None], num_experts=2)
    length = correlation(traces, max_distance=40)["correlation_length"].item()
    assert length == pytest.approx(-1 / np.log(0.8), rel=0.1)


def test_one_sequence_has_errors_of_uncorrelated_tokens_and_no_interval():
    traces = two_state_traces(0.8, 1, 2000, 0)
    for centre in ("global", "sequence"):
        measured = correlation(traces, centre=centre, max_distance=10)
        expected = 0.5 / np.sqrt(2000 - np.arange(11))
        np.testing.assert_allclose(measured["correlation_error"][0], expected, rtol=0.02)
        assert measured["correlation_length"].item() == pytest.approx(-1 / np.log(0.6), rel=0.3)
        assert np.isnan(measured["correlation_length_low"])


def test_distances_without_pairs_have_no_value():
    index = np.full((1, 5, 40, 1), -1, np.int16)
    index[:, :, ::4] = np.random.default_rng(0).integers(0, 3, (1, 5, 10, 1))
    traces = traces_from_arrays(index, num_experts=3)
    for centre in ("global", "sequence", "position"):
        measured = correlation(traces, centre=centre, max_distance=8)
        known = np.isfinite(measured["correlation"].values[0])
        np.testing.assert_array_equal(known, np.arange(9) % 4 == 0)


def test_resamples_without_a_long_text_do_not_widen_the_error():
    rng = np.random.default_rng(1)
    index = rng.integers(0, 4, (1, 10, 200, 1))
    length = np.array([200] + [20] * 9)
    index[0, 1:, 20:] = -1
    traces = traces_from_arrays(index, num_experts=4, length=length)
    measured = correlation(traces, max_distance=30, n_resamples=400)
    # Only one text reaches d = 30; its resamples differ by nothing but the load.
    assert measured["correlation_error"].sel(distance=30).item() < 0.02


def test_shuffled_overlap_is_exact_with_gaps():
    index = np.full((1, 2, 60, 1), -1, np.int16)
    index[0, 0, ::2] = 1
    index[0, 1] = np.random.default_rng(0).integers(0, 4, (60, 1))
    traces = traces_from_arrays(index, num_experts=4)
    measured = neighbour_overlap(traces, distances=(1, 2), n_shuffles=50)
    sets, _, _ = overlaps.pack_sets(index[0], 1)
    recorded, rng = sets.any(1), np.random.default_rng(5)
    drawn = []
    for _ in range(400):
        moved = shuffled_sets(sets, recorded, rng.random(recorded.shape))
        pairs, shared = overlaps.pair_overlaps(moved, np.array([1, 2]))
        drawn.append(shared.sum(0) / pairs.sum(0))
    spread = np.std(drawn, axis=0) / np.sqrt(len(drawn))
    expected = measured["overlap_shuffled"].values[0]
    assert (np.abs(np.mean(drawn, axis=0) - expected) < 4 * spread + 1e-12).all()


@pytest.mark.slow
@pytest.mark.parametrize("centre", ["global", "sequence"])
@pytest.mark.parametrize(
    ("xi", "n_sequences", "length"), [(0.3, 10, 100), (1, 100, 500), (5, 100, 500), (20, 100, 500)]
)
def test_interval_of_the_length_covers(xi, n_sequences, length, centre):
    stay = (1 + np.exp(-1 / xi)) / 2
    covered = []
    for seed in range(300):
        measured = correlation(
            two_state_traces(stay, n_sequences, length, seed), centre=centre, seed=seed
        )
        low, high = (measured[f"correlation_length_{end}"].item() for end in ("low", "high"))
        covered.append(low <= xi <= high)
    assert 0.87 < np.mean(covered) < 0.99


def test_bootstrap_error_is_the_spread_over_data_sets():
    curves = [
        correlation(two_state_traces(0.8, 60, 80, seed), max_distance=3, n_resamples=2)
        for seed in range(80)
    ]
    spread = np.std([c["correlation"].values[0] for c in curves], axis=0, ddof=1)
    errors = [
        correlation(two_state_traces(0.8, 60, 80, seed), max_distance=3)["correlation_error"]
        for seed in range(10)
    ]
    np.testing.assert_allclose(np.mean(errors, axis=0)[0, 1:], spread[1:], rtol=0.2)


def test_neighbour_overlap_against_slow_loops_and_shuffles():
    traces = random_traces(9, n_sequences=6, n_positions=40, gaps=0.05)
    measured = neighbour_overlap(traces, distances=(1, 3), n_shuffles=200)
    pairs, shared = overlap_sums(traces["expert_index"].values[0], 3)
    np.testing.assert_allclose(
        measured["overlap"].sel(distance=3)[0], shared.sum() / pairs.sum() / 2
    )
    drawn = [
        neighbour_overlap(baseline(traces, "shuffled", seed=s), n_shuffles=2)["overlap"].item()
        for s in range(200)
    ]
    spread = float(measured["overlap_spread"][0, 0])
    assert np.mean(drawn) == pytest.approx(
        float(measured["overlap_shuffled"][0, 0]), abs=4 * spread / np.sqrt(200)
    )
    assert np.std(drawn) == pytest.approx(spread, rel=0.25)


def test_load_and_its_entropy():
    traces = random_traces(4, n_positions=30, k=2)
    balance = load_balance(traces)
    expected = load(traces["expert_index"].values[0], 6)
    np.testing.assert_allclose(balance["load"][0], expected)
    entropy = -(expected * np.log(expected)).sum()
    np.testing.assert_allclose(balance["kl_plugin"][0], np.log(6) - entropy)
    assert float(balance["load_entropy"][0]) > entropy


@pytest.mark.parametrize("k", [1, 2, 7])
def test_kl_of_a_uniform_router_is_unbiased_and_its_null_is_right(k):
    blank = random_traces(0, n_experts=8, k=k, n_sequences=10, n_positions=50, gaps=0, n_layers=200)
    balance = load_balance(baseline(blank, "random", seed=1))
    kl = balance["kl"].values
    assert abs(kl.mean()) < 4 * kl.std() / np.sqrt(len(kl))
    assert (kl > balance["kl_null"].values).mean() == pytest.approx(0.05, abs=0.035)
    assert balance["kl_p_value"].values.mean() == pytest.approx(0.5, abs=0.06)


def test_bad_arguments_are_named():
    traces = random_traces(0)
    with pytest.raises(ValueError, match="centre: expected one of global, position, sequence"):
        correlation(traces, centre="mean")
    with pytest.raises(ValueError, match="max_distance, n_resamples"):
        correlation(traces, max_distance=0)
    with pytest.raises(ValueError, match="distances: expected 1 to 11"):
        neighbour_overlap(traces, distances=(12,))
    with pytest.raises(ValueError, match="at least two sequences"):
        correlation(traces.isel(sequence=[0]), centre="position")
