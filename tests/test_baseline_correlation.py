"""Correlations of baselines: closed forms against the mean of many draws."""

import numpy as np
import pytest
from naive_correlations import exchanged

import isingmoe as im
from isingmoe._kernels import shuffles
from isingmoe.baselines import baseline_correlation
from isingmoe.centrings import Layer, centred_curves
from isingmoe.derived import BASELINES
from isingmoe.expected_baselines import expected_correlation

CENTRES = ("global", "position", "sequence")


@pytest.fixture(scope="module")
def uneven():
    """Ragged sequences with gaps, whose load differs between texts and drifts along them."""
    rng = np.random.default_rng(0)
    n_sequences, n_positions, n_experts = 6, 20, 5
    drift = np.linspace(-1, 1, n_positions)[:, None] * np.linspace(-1, 1, n_experts)
    taste = rng.normal(size=(n_sequences, 1, n_experts))
    index = (rng.random((n_sequences, n_positions, n_experts)) + drift + 0.4 * taste).argsort(-1)
    index = index[..., :2].astype(np.int16)
    length = rng.integers(6, n_positions + 1, n_sequences)
    length[0] = n_positions
    index[rng.random(index.shape[:2]) < 0.15] = -1
    index[rng.random(index.shape[:2]) < 0.15, 1] = -1
    index[np.arange(n_positions) >= length[:, None]] = -1
    return im.traces_from_arrays(index[None], num_experts=n_experts, length=length)


def measured(layer, index, centre):
    """C(d) of a draw."""
    moved = Layer(index, layer.n_experts, layer.max_distance)
    none = np.empty((0, layer.n_sequences))
    return centred_curves(moved, centre, none, summed=True).value[0]


@pytest.mark.parametrize("primary", [False, True])
@pytest.mark.parametrize("kind", BASELINES)
def test_expectation_is_the_mean_of_many_draws(uneven, kind, primary):
    layer = Layer.of(uneven, 0, 6, primary=primary)
    rng = np.random.default_rng(1)
    draws = [exchanged(layer.index, kind, 5, rng) for _ in range(1000)]
    for centre in CENTRES:
        drawn = np.array([measured(layer, index, centre) for index in draws])
        expected = expected_correlation(layer, kind, centre)
        error = drawn.std(0) / np.sqrt(len(drawn))
        assert (np.abs(drawn.mean(0) - expected) < 4 * error + 1e-12).all(), centre


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("kind", BASELINES)
def test_our_draws_are_those_of_the_slow_twin(uneven, kind, centre):
    """The same expectation and the same spread."""
    options = {"primary": False, "centre": centre, "max_distance": 6}
    found = baseline_correlation(uneven, kinds=[kind], n_draws=400, **options).isel(layer=0, kind=0)
    layer = Layer.of(uneven, 0, 6, primary=False)
    rng = np.random.default_rng(2)
    drawn = [measured(layer, exchanged(layer.index, kind, 5, rng), centre) for _ in range(400)]
    np.testing.assert_allclose(
        found["baseline_spread"], np.std(drawn, axis=0, ddof=1), rtol=0.25, atol=1e-12
    )
    expected = expected_correlation(layer, kind, centre)
    np.testing.assert_array_equal(found["baseline"], expected)


@pytest.mark.parametrize("kind", BASELINES)
def test_they_are_the_baselines_of_the_traces(make_traces, kind):
    """Without gaps the draws are those of `baseline`."""
    traces = make_traces(n_layers=1, n_sequences=8, n_positions=30, ragged=True, seed=3)
    options = {"primary": False, "max_distance": 4}
    found = baseline_correlation(traces, kinds=[kind], n_draws=200, **options).isel(kind=0, layer=0)
    drawn = np.array(
        [
            im.correlation(im.baseline(traces, kind, seed=seed), n_resamples=2, **options)[
                "correlation"
            ].values[0]
            for seed in range(200)
        ]
    )
    spread = found["baseline_spread"].values
    assert (np.abs(drawn.mean(0) - found["baseline"]) < 4 * spread / np.sqrt(200) + 1e-12).all()
    np.testing.assert_allclose(drawn.std(0, ddof=1), spread, rtol=0.25, atol=1e-12)


def test_a_uniform_router_by_hand(make_traces):
    """(k - k^2/E) (1 - 1/N) at 0, and less than nought by what the own load takes off."""
    traces = make_traces(n_layers=1, num_experts=6, top_k=2)
    found = baseline_correlation(traces, kinds="random", primary=False, n_draws=2)
    n, alike = 5 * 12, 2 - 2 * 2 / 6
    np.testing.assert_allclose(found["baseline"].sel(distance=0).item(), alike * (1 - 1 / n))
    np.testing.assert_allclose(found["baseline"][0, 0, 1:], -alike / n)


@pytest.mark.parametrize("kind", ["random", "position-shuffled"])
def test_nothing_is_left_about_the_mean_at_a_position(make_traces, kind):
    found = baseline_correlation(make_traces(), kinds=[kind], centre="position", n_draws=2)
    np.testing.assert_allclose(found["baseline"].isel(distance=slice(1, None)), 0, atol=1e-15)


def test_nothing_is_left_of_a_shuffle_about_the_mean_of_its_sequence(make_traces):
    traces = make_traces(ragged=True, gaps=0.1)
    found = baseline_correlation(traces, kinds=["shuffled"], centre="sequence", n_draws=2)
    np.testing.assert_allclose(found["baseline"].isel(distance=slice(1, None)), 0, atol=1e-12)


@pytest.mark.parametrize("centre", ["global", "sequence"])
def test_shuffled_is_what_correlation_calls_so(make_traces, centre):
    traces = make_traces(n_positions=30, ragged=True, gaps=0.1)
    found = baseline_correlation(traces, kinds=["shuffled"], n_draws=2, max_distance=8)
    expected = im.correlation(traces, centre=centre, max_distance=8, n_resamples=2)["shuffled"]
    np.testing.assert_allclose(found["baseline"].isel(kind=0), expected, atol=1e-14)


@pytest.mark.parametrize("across", [False, True])
def test_tokens_are_exchanged_where_they_may_be(uneven, across):
    index = uneven["expert_index"].values[0]
    recorded = (index >= 0).any(-1)
    if across:
        index, recorded = (
            np.ascontiguousarray(index.swapaxes(0, 1)),
            np.ascontiguousarray(recorded.T),
        )
    rng = np.random.default_rng(0)
    rows, places = recorded.shape
    order = rng.permuted(np.tile(np.arange(places, dtype=np.int32), (rows, 1)), axis=1)
    moved = shuffles.reordered(index, recorded, order)
    assert not np.array_equal(moved, index)
    np.testing.assert_array_equal((moved >= 0).any(-1), recorded)
    for before, after in zip(index, moved, strict=True):
        np.testing.assert_array_equal(sorted(before.tolist()), sorted(after.tolist()))


def test_random_sets_are_equally_likely():
    index = np.broadcast_to(np.array([4, -1, 0], np.int16), (50, 400, 3)).copy()
    words = np.random.SeedSequence(0).generate_state(200, np.uint64).reshape(50, 4)
    drawn = shuffles.random_experts(index, 5, words)
    assert (drawn[..., 1] == -1).all()
    pairs = np.sort(drawn[..., [0, 2]].reshape(-1, 2)) @ [5, 1]
    counts = np.bincount(pairs)
    counts = counts[counts > 0]
    assert len(counts) == 10
    # Chi-square of 9 degrees of freedom.
    assert ((counts - 2000) ** 2 / 2000).sum() < 33
    again = np.random.SeedSequence(0).generate_state(200, np.uint64).reshape(50, 4)
    np.testing.assert_array_equal(shuffles.random_experts(index, 5, again), drawn)


def test_draws_of_a_kind_do_not_depend_on_the_others(make_traces):
    traces = make_traces(gaps=0.1)
    together = baseline_correlation(traces, n_draws=3, seed=4)
    assert together["kind"].values.tolist() == list(BASELINES)
    for kind in BASELINES:
        alone = baseline_correlation(traces, kinds=[kind], n_draws=3, seed=4)
        np.testing.assert_array_equal(
            alone["baseline_spread"].sel(kind=kind), together["baseline_spread"].sel(kind=kind)
        )
    other = baseline_correlation(traces, n_draws=3, seed=5)
    assert (other["baseline_spread"] != together["baseline_spread"]).any()


@pytest.mark.parametrize("centre", CENTRES)
def test_little_or_nothing_recorded(centre):
    nothing = im.traces_from_arrays(np.full((1, 3, 9, 2), -1), num_experts=4)
    found = baseline_correlation(nothing, centre=centre, n_draws=2)
    assert np.isnan(found["baseline"]).all()
    equal = im.traces_from_arrays(np.full((1, 3, 9, 1), 2), num_experts=4)
    found = baseline_correlation(equal, centre=centre, n_draws=2)
    for kind in ("shuffled", "position-shuffled"):
        np.testing.assert_allclose(found["baseline"].sel(kind=kind), 0, atol=1e-14)
        np.testing.assert_allclose(found["baseline_spread"].sel(kind=kind), 0, atol=1e-14)
    apart = np.full((1, 3, 9, 1), -1)
    apart[0, :, ::4, 0] = np.arange(3)
    found = baseline_correlation(
        im.traces_from_arrays(apart, num_experts=3), centre=centre, n_draws=2
    )
    known = np.isfinite(found["baseline"]).all(("kind", "layer"))
    np.testing.assert_array_equal(known, np.arange(9) % 4 == 0)


def test_bad_arguments_are_named(make_traces):
    traces = make_traces()
    for options, message in (
        ({"kinds": ["sorted"]}, r"kinds: expected some of random, shuffled, .* got \['sorted'\]"),
        ({"kinds": []}, "kinds: expected some of random"),
        ({"n_draws": 1}, "max_distance, n_draws: expected at least 1, and 2 for a spread"),
        ({"centre": "mean"}, "centre: expected one of"),
    ):
        with pytest.raises(ValueError, match=message):
            baseline_correlation(traces, **options)
