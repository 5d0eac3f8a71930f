"""Correlations of single experts: counts of a triple loop, and sums over experts."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_correlations import expert_correlation as naive_expert_correlation
from naive_correlations import pair_counts

import isingmoe as im
from isingmoe._kernels import adders, overlaps, planes
from isingmoe.centrings import Layer, own_mean_correction, resampling_weights
from isingmoe.expert_correlations import expert_correlation

CENTRES = ("global", "position", "sequence")


def random_index(rng, shape, n_experts, k, gaps):
    index = rng.random((*shape, n_experts)).argsort(-1)[..., :k].astype(np.int16)
    index[rng.random(shape) < gaps] = -1
    index[rng.random(index.shape) < gaps / 2] = -1
    return index


def counts_of(index, n_experts, max_distance):
    layer = Layer(np.ascontiguousarray(index, np.int16), n_experts, max_distance)
    return layer.pair_totals(summed=False)


@given(
    seed=st.integers(0, 2**32),
    n_experts=st.sampled_from([1, 2, 7, 64, 65, 130]),
    k=st.integers(1, 4),
    n_sequences=st.integers(1, 4),
    n_positions=st.integers(2, 150),
    max_distance=st.integers(1, 149),
    gaps=st.sampled_from([0, 0.1, 0.6, 1]),
)
@settings(max_examples=80, deadline=None)
def test_counts_are_the_integers_of_a_triple_loop(
    seed, n_experts, k, n_sequences, n_positions, max_distance, gaps
):
    rng = np.random.default_rng(seed)
    k = min(k, n_experts)
    index = random_index(rng, (n_sequences, n_positions), n_experts, k, gaps)
    index[np.arange(n_positions) >= rng.integers(0, n_positions + 1, n_sequences)[:, None]] = -1
    both, pairs = counts_of(index, n_experts, max_distance)
    expected_both, expected_pairs = pair_counts(index, n_experts, max_distance)
    np.testing.assert_array_equal(both, expected_both)
    np.testing.assert_array_equal(pairs, expected_pairs)
    layer = Layer(index, n_experts, max_distance)
    summed, _ = layer.pair_totals(summed=True)
    np.testing.assert_array_equal(summed, expected_both.sum(0, keepdims=True))
    per_sequence = [
        (both[s], pairs[s])
        for _, both, pairs in layer.pair_sums(summed=False)
        for s in range(len(both))
    ]
    for s, (both_of, pairs_of) in enumerate(per_sequence):
        expected = pair_counts(index[s : s + 1], n_experts, max_distance)
        np.testing.assert_array_equal(both_of, expected[0])
        np.testing.assert_array_equal(pairs_of, expected[1])
    assert len(per_sequence) == n_sequences


def by_shifts(index, n_experts, distances):
    """Counts of one long sequence, distance by distance."""
    on = (index[..., None] == np.arange(n_experts)).any(-2)
    known = (index >= 0).any(-1)
    n = len(index)
    both = [(on[: n - d] & on[d:]).sum(0) for d in distances]
    return np.array(both).T, np.array([(known[: n - d] & known[d:]).sum() for d in distances])


@pytest.mark.parametrize("max_distance", [1, 63, 64, 65, 256, 257, 512, 1000])
def test_windows_that_reach_over_words_rows_and_stretches(max_distance):
    rng = np.random.default_rng(max_distance)
    n = 2 * planes.STRETCH + 777
    index = random_index(rng, (n,), 5, 2, 0.05)
    near = {0, 1, 7, 8, 63, 64, 65, 255, 256, 257, 511, 512, 513, max_distance - 1, max_distance}
    distances = sorted(d for d in near if d <= max_distance)
    both, pairs = counts_of(index[None], 5, max_distance)
    expected_both, expected_pairs = by_shifts(index, 5, distances)
    np.testing.assert_array_equal(both[:, distances], expected_both)
    np.testing.assert_array_equal(pairs[distances], expected_pairs)
    if max_distance == 257:
        # The sums of two sequences, each in more stretches than one.
        layer = Layer(np.stack([index, index[::-1]]), 5, max_distance)
        [(block, both, pairs)] = layer.pair_sums(summed=False)
        assert block == slice(0, 2)
        np.testing.assert_array_equal(both[0][:, distances], expected_both)
        np.testing.assert_array_equal(both[0], both[1])
        np.testing.assert_array_equal(pairs[0], pairs[1])


@pytest.mark.parametrize("n_experts", [64, 256])
def test_every_expert_of_every_token(n_experts):
    """Counters that overflow into all rows: k = E, nothing but ones."""
    n = planes.STRETCH + 70
    index = np.broadcast_to(np.arange(n_experts, dtype=np.int16), (1, n, n_experts))
    both, pairs = counts_of(index, n_experts, 70)
    expected = n - np.arange(71)
    np.testing.assert_array_equal(both, np.broadcast_to(expected, both.shape))
    np.testing.assert_array_equal(pairs, expected)


def test_an_expert_named_twice_serves_a_token_once():
    index = np.array([[[2, 2], [2, 1], [1, 1]]], np.int16)
    both, pairs = counts_of(index, 3, 2)
    np.testing.assert_array_equal(both, [[0, 0, 0], [2, 1, 0], [2, 1, 0]])
    np.testing.assert_array_equal(pairs, [3, 2, 1])


def test_counts_do_not_depend_on_the_threads(many_threads):
    index = random_index(np.random.default_rng(0), (5, 300), 9, 3, 0.1)
    found = []
    for n_threads in {1, many_threads}:
        numba.set_num_threads(n_threads)
        found.append(counts_of(index, 9, 40))
    for both, pairs in found[1:]:
        np.testing.assert_array_equal(both, found[0][0])
        np.testing.assert_array_equal(pairs, found[0][1])


@given(seed=st.integers(0, 2**32), n=st.integers(0, 40))
@settings(max_examples=30, deadline=None)
def test_rows_are_added_in_columns(seed, n):
    """Sixteen at a time, with the carries out of four levels."""
    rng = np.random.default_rng(seed)
    row = adders.ROW
    source = rng.integers(0, 2**64, 16 * row, dtype=np.uint64)
    offset = (8 * row * np.arange(16)).astype(np.int32)
    start = rng.integers(0, 16, 64 * row)
    bits = (start >> np.arange(4)[:, None]) & 1
    state = np.zeros(5 * row, np.uint64)
    state[: 4 * row] = np.packbits(bits.astype(np.uint8), bitorder="little").view(np.uint64)
    added = np.zeros(16 * row, np.uint64)
    added[: n * row] = source[: n * row]
    _add(added, offset, state)
    counts = np.zeros(64 * row, np.int64)
    for level in range(5):
        adders.add_counters(state, level * row, 1 << level, counts, 64 * row)
    columns = np.unpackbits(added.view(np.uint8), bitorder="little").reshape(16, -1)
    np.testing.assert_array_equal(counts, start + columns.sum(0))


@numba.njit
def _add(source, offset, state):
    adders.add_rows(source, offset, 0, 0, state, 0, 4 * adders.ROW)


def test_sets_unpacked_are_those_packed():
    index = random_index(np.random.default_rng(3), (4, 30), 130, 5, 0.2)
    sets, _, _ = overlaps.pack_sets(index, 3)
    unpacked = overlaps.unpack_sets(sets, 5)
    np.testing.assert_array_equal(np.sort(unpacked), np.sort(index))


@given(seed=st.integers(0, 2**32), centre=st.sampled_from(CENTRES), k=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_correlation_against_a_slow_loop(make_traces, seed, centre, k):
    traces = make_traces(
        n_layers=1, n_sequences=4, top_k=k, num_experts=4, ragged=True, gaps=0.15, seed=seed
    )
    measured = expert_correlation(
        traces, primary=False, centre=centre, max_distance=4, n_resamples=0
    )
    index = traces["expert_index"].values[0]
    expected = naive_expert_correlation(index, 4, 4, centre)
    np.testing.assert_allclose(measured["correlation"][0], expected, atol=1e-12)


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("primary", [False, True])
def test_experts_add_up_to_the_correlation(make_traces, centre, primary):
    traces = make_traces(n_sequences=7, n_positions=40, ragged=True, gaps=0.1, top_k=3, seed=4)
    options = {"centre": centre, "primary": primary, "max_distance": 9, "seed": 5}
    of_experts = expert_correlation(traces, **options)
    total = im.correlation(traces, **options)
    np.testing.assert_allclose(
        of_experts["correlation"].sum("expert"), total["correlation"], atol=1e-12
    )
    np.testing.assert_array_equal(of_experts["n_pairs"], total["n_pairs"])
    shared = of_experts["n_both"].sum("expert") / of_experts["n_pairs"]
    np.testing.assert_allclose(shared, total["overlap"])
    np.testing.assert_array_equal(of_experts["n_served"], of_experts["n_both"].sel(distance=0))
    np.testing.assert_array_equal(of_experts["n_tokens"], of_experts["n_pairs"].sel(distance=0))


@pytest.mark.parametrize("centre", CENTRES)
def test_errors_are_the_spread_over_resamples(make_traces, centre):
    """Of traces whose sequences stand there as often as each resample has them."""
    traces = make_traces(n_layers=1, n_sequences=12, num_experts=3, top_k=1, ragged=True, seed=1)
    measured = expert_correlation(traces, centre=centre, max_distance=3, n_resamples=6, seed=2)
    if centre == "position":
        # The rates are those of the whole trace: a sum over sequences with fixed means.
        layer = Layer.of(traces, 0, 3, primary=True)
        [(_, products, weight)] = layer.residual_sums(summed=False)
        drawn = resampling_weights(12, 6, 2)
        curves = [(w @ products.reshape(12, -1)).reshape(3, 4) / (w @ weight) for w in drawn]
    elif centre == "global":
        curves = []
        for w in resampling_weights(12, 6, 2).astype(int):
            resample = traces.isel(sequence=np.repeat(np.arange(12), w))
            found = expert_correlation(resample, centre=centre, max_distance=3, n_resamples=0)
            curves.append(found["correlation"].values[0])
    else:
        # The correction is that of the whole trace.
        layer = Layer.of(traces, 0, 3, primary=True)
        [(_, both, pairs)] = layer.pair_sums(summed=False)
        tokens, served = pairs[:, 0], both[..., 0]
        chance = served * (served - 1) / np.maximum(tokens * (tokens - 1), 1)[:, None]
        excess = both - chance[..., None] * pairs[:, None]
        correction = own_mean_correction(pairs, tokens)
        curves = [
            (w @ excess.reshape(12, -1)).reshape(3, 4) / (w @ pairs) @ correction.T
            for w in resampling_weights(12, 6, 2)
        ]
    spread = np.std(curves, axis=0, ddof=1)
    np.testing.assert_allclose(measured["correlation_error"][0], spread, atol=1e-12)


def test_sums_of_many_sequences_are_taken_in_blocks(make_traces, monkeypatch):
    traces = make_traces(n_layers=1, n_sequences=9, gaps=0.1, ragged=True)
    whole = {c: expert_correlation(traces, centre=c, n_resamples=5) for c in CENTRES}
    monkeypatch.setattr("isingmoe.centrings._BLOCK", 200)
    for centre, expected in whole.items():
        found = expert_correlation(traces, centre=centre, n_resamples=5)
        np.testing.assert_allclose(found["correlation"], expected["correlation"], atol=1e-14)
        np.testing.assert_allclose(
            found["correlation_error"], expected["correlation_error"], atol=1e-14
        )


def test_without_resamples_there_are_no_errors(make_traces):
    traces = make_traces()
    assert "correlation_error" not in expert_correlation(traces, n_resamples=0)
    for centre in CENTRES:
        bare = expert_correlation(traces, centre=centre, n_resamples=0)
        full = expert_correlation(traces, centre=centre, n_resamples=3)
        np.testing.assert_allclose(bare["correlation"], full["correlation"], atol=1e-14)


def test_one_sequence_has_errors_of_uncorrelated_tokens(make_traces):
    traces = make_traces(n_layers=1, n_sequences=1, n_positions=500)
    for centre in ("global", "sequence"):
        measured = expert_correlation(traces, centre=centre, max_distance=3).isel(layer=0)
        expected = measured["correlation"].sel(distance=0) / np.sqrt(measured["n_pairs"])
        np.testing.assert_allclose(measured["correlation_error"], expected)


class TestEdges:
    """Little, or nothing but the same: numbers or NaN, never a warning."""

    @pytest.mark.parametrize("centre", CENTRES)
    def test_all_tokens_equal(self, centre):
        traces = im.traces_from_arrays(np.full((1, 3, 9, 1), 2), num_experts=4)
        measured = expert_correlation(traces, centre=centre)
        np.testing.assert_allclose(measured["correlation"], 0, atol=1e-15)
        np.testing.assert_allclose(measured["correlation_error"], 0, atol=1e-15)

    @pytest.mark.parametrize("centre", CENTRES)
    def test_every_expert_of_every_token(self, centre):
        index = np.broadcast_to(np.arange(3), (1, 4, 9, 3))
        traces = im.traces_from_arrays(index, num_experts=3, ranked=False)
        measured = expert_correlation(traces, centre=centre)
        np.testing.assert_allclose(measured["correlation"], 0, atol=1e-15)

    @pytest.mark.parametrize("centre", CENTRES)
    def test_nothing_recorded(self, centre):
        traces = im.traces_from_arrays(np.full((1, 3, 9, 2), -1), num_experts=4)
        measured = expert_correlation(traces, centre=centre)
        assert np.isnan(measured["correlation"]).all()
        assert not measured["n_both"].any()
        assert measured["n_tokens"].item() == 0

    def test_two_tokens(self):
        traces = im.traces_from_arrays([[[[0], [1]]]], num_experts=2)
        measured = expert_correlation(traces)
        np.testing.assert_allclose(measured["correlation"][0], [[0.25, -0.25]] * 2)

    def test_unranked_traces_have_sets(self, make_traces):
        traces = make_traces(ranked=False)
        assert expert_correlation(traces).attrs["states"] == "expert set"
        with pytest.raises(ValueError, match="ranked: expected 1 for a primary expert"):
            expert_correlation(traces, primary=True)

    def test_bad_arguments_are_named(self, make_traces):
        traces = make_traces()
        for options, message in (
            ({"centre": "mean"}, "centre: expected one of global, position, sequence"),
            ({"max_distance": 0}, "max_distance: expected at least 1, got 0"),
            ({"n_resamples": 1}, "n_resamples: expected 0 or at least 2 for a spread, got 1"),
        ):
            with pytest.raises(ValueError, match=message):
                expert_correlation(traces, **options)
        with pytest.raises(ValueError, match="at least two sequences"):
            expert_correlation(traces.isel(sequence=[0]), centre="position")
        alone = make_traces(n_positions=1)
        with pytest.raises(ValueError, match="length: expected a sequence of at least two tokens"):
            expert_correlation(alone)
        traces["expert_index"][0, 0, 0, 0] = 6
        with pytest.raises(ValueError, match="expert_index: expected ids of -1 to 5, got 6"):
            expert_correlation(traces)
