"""Facts measured elsewhere on real traces of pretrained models."""

import numpy as np
import pytest

import isingmoe as im
from isingmoe.baselines import baseline_correlation
from isingmoe.expert_correlations import expert_correlation

pytestmark = pytest.mark.shared

# Overlap at d = 1, shuffled and its spread; primary repeats, shuffled and its spread; excess
# overlap at d = 1, 2, 4, 8, 16.
FACTS = {
    ("gpt-oss-20b", 0): (
        (0.1956, 0.1911, 0.0006),
        (0.0676, 0.0906, 0.0011),
        (0.0046, 0.0018, 0.0022, 0.0084, 0.0082),
    ),
    ("gpt-oss-20b", 11): (
        (0.5889, 0.4344, 0.0009),
        (0.3577, 0.2146, 0.0011),
        (0.1545, 0.1029, 0.0718, 0.0470, 0.0330),
    ),
    ("gpt-oss-20b", 23): (
        (0.5649, 0.4316, 0.0008),
        (0.3531, 0.2655, 0.0009),
        (0.1333, 0.0856, 0.0662, 0.0455, 0.0279),
    ),
    ("deepseek-v2-lite", 1): (
        (0.1374, 0.1222, 0.0011),
        None,
        (0.0152, 0.0076, 0.0083, 0.0066, 0.0034),
    ),
    ("deepseek-v2-lite", 13): (
        (0.3588, 0.1907, 0.0011),
        None,
        (0.1680, 0.0912, 0.0483, 0.0258, 0.0086),
    ),
    ("deepseek-v2-lite", 26): (
        (0.2078, 0.1362, 0.0012),
        None,
        (0.0716, 0.0244, 0.0190, 0.0097, 0.0048),
    ),
    ("olmoe-1b-7b-layer0", 0): (
        (0.2995, 0.2168, 0.0020),
        (0.0916, 0.0545, 0.0018),
        (0.0827, 0.0274, 0.0174, 0.0352, 0.0232),
    ),
    ("flame-moe-290m", 5): (
        (0.2357, 0.1046, 0.0027),
        (0.0926, 0.0231, 0.0029),
        (0.1311, 0.0438, 0.0011, 0.0043, 0.0082),
    ),
    ("mixtral-8x7b", 0): (
        (0.2591, 0.2631, 0.0124),
        (0.1174, 0.1461, 0.0106),
        (-0.0041, 0.0186, -0.0224, -0.0154, 0.0105),
    ),
    ("mixtral-8x7b", 15): (
        (0.4344, 0.2776, 0.0190),
        (0.3109, 0.1591, 0.0111),
        (0.1567, 0.0676, 0.0231, 0.0445, 0.0297),
    ),
}

# Four texts say nothing of the spread between texts.
OF_FOUR_TEXTS = {"uncertainty": "information"}


@pytest.mark.parametrize(("model", "layer"), FACTS)
def test_overlaps_repeats_and_baselines(shared_traces, model, layer):
    overlap, repeat, excess = FACTS[model, layer]
    traces = im.open_traces(shared_traces / f"{model}.nc").sel(layer=[layer])
    data = im.info(traces).data.isel(layer=0)
    for kind, expected in (("overlap", overlap), ("repeat", repeat)):
        if expected is None:
            assert kind not in data
            continue
        value, shuffled, spread = expected
        assert round(data[kind][0].item(), 4) == value
        assert data[f"{kind}_shuffled"][0].item() == pytest.approx(shuffled, abs=3 * spread)
        assert 0.4 < data[f"{kind}_spread"][0].item() / spread < 2.6
    measured = (data["overlap"] - data["overlap_shuffled"]).values
    np.testing.assert_allclose(measured, excess, atol=3 * overlap[2])


def counted(traces, **options):
    """Overlap in experts by distance, of the integers that are counted for every expert."""
    found = expert_correlation(traces, max_distance=16, n_resamples=0, **options).isel(layer=0)
    return found["n_both"].sum("expert") / found["n_pairs"], found


@pytest.mark.parametrize(("model", "layer"), FACTS)
def test_excess_at_five_distances_to_the_digits_given(shared_traces, model, layer):
    """The table takes the same mean of several shuffles off at every distance.

    Differences between distances are therefore free of it, and each number is rounded once.
    """
    overlap, repeat, excess = FACTS[model, layer]
    traces = im.open_traces(shared_traces / f"{model}.nc").sel(layer=[layer])
    value, _ = counted(traces, primary=False)
    value = value.sel(distance=[1, 2, 4, 8, 16]).values / traces.attrs["top_k"]
    assert round(value[0], 4) == overlap[0]
    np.testing.assert_allclose(value - value[0], np.array(excess) - excess[0], atol=1.01e-4)
    options = {"kinds": ["shuffled"], "max_distance": 1}
    kinds = [(False, overlap, traces.attrs["top_k"])]
    kinds += [(True, repeat, 1)] if repeat else []
    for primary, (measured, shuffled, spread), k in kinds:
        value, found = counted(traces, primary=primary)
        assert round(value.sel(distance=1).item() / k, 4) == measured
        chance = baseline_correlation(traces, primary=primary, **options)
        by_load = ((found["n_served"] / found["n_tokens"]) ** 2).sum().item()
        at_one = chance.isel(kind=0, layer=0).sel(distance=1)
        expected = (at_one["baseline"].item() + by_load) / k
        assert expected == pytest.approx(shuffled, abs=1.5 * spread)
        assert 0.4 < at_one["baseline_spread"].item() / k / spread < 2.6


def test_load_alone_repeats_less_than_the_primary_expert(shared_traces):
    """gpt-oss layer 0: .0676 of pairs, .060 by the load of all texts, .0906 shuffled."""
    traces = im.open_traces(shared_traces / "gpt-oss-20b.nc").sel(layer=[0])
    value, found = counted(traces, primary=True)
    by_load = ((found["n_served"] / found["n_tokens"]) ** 2).sum().item()
    assert round(by_load, 3) == 0.060
    assert by_load < value.sel(distance=1).item() < 0.0906


# What has no value somewhere: of the chain over itself, of a law without the parameter, at
# distance 0, of an expert that begins no pair, of blocks too few to fit.
PARTIAL = (
    *("length_ratio", "law_", "discrepancy_curve", "persistence", "coarse_", "window_"),
    *("rate_error", "block_p_value"),
)
# Ising chains have no error of the length of their sum.
OF_ISING = ("predicted_length_error", "length_low", "length_high")


def without_a_gap(fit, traces, **options):
    comparison = im.compare(fit, traces, max_distance=32, n_simulations=3, **options)
    expected = (*PARTIAL, *OF_ISING) if fit.data.attrs["chain"] == "ising" else PARTIAL
    assert set(comparison.absent) == (set() if traces.attrs["ranked"] else {"ck"})
    for dataset in (fit.data, comparison.data):
        for name, variable in dataset.items():
            assert name.startswith(expected) or not variable.isnull().any(), name
    return comparison.data


@pytest.mark.parametrize(
    ("model", "chain", "options"),
    [
        ("gpt-oss-20b", "potts", {}),
        ("deepseek-v2-lite", "ising", {}),
        ("mixtral-8x7b", "potts", OF_FOUR_TEXTS),
    ],
)
def test_fit_and_compare_without_a_warning_or_a_gap(shared_traces, model, chain, options):
    traces = im.open_traces(shared_traces / f"{model}.nc")
    first_and_last = traces.isel(layer=[0, traces.sizes["layer"] // 2, -1])
    without_a_gap(im.fit(first_and_last, chain=chain, **options), first_and_last)


def test_four_texts_say_little_of_the_spread_between_texts(shared_traces):
    traces = im.open_traces(shared_traces / "mixtral-8x7b.nc").isel(layer=[0])
    with pytest.warns(im.ShortTraceWarning, match="compare sequences, and there are 4: they are"):
        im.fit(traces, chain="potts")


@pytest.mark.parametrize(
    ("model", "layer", "gain", "options"),
    [
        ("gpt-oss-20b", 11, 1.5, {}),
        ("mixtral-8x7b", 15, 0.1, OF_FOUR_TEXTS),
    ],
)
def test_whole_sets_by_default_without_a_warning_or_a_gap(
    shared_traces, model, layer, gain, options
):
    traces = im.open_traces(shared_traces / f"{model}.nc").sel(layer=[layer])
    fit = im.fit(traces, coupling="diagonal", **options)
    assert fit.settings["chain"] == "kinetic"
    data = without_a_gap(fit, traces, n_folds=2, n_shuffles=2).isel(layer=0)
    assert data["self_coupling"] > 10 * data["self_coupling_error"]
    assert data["held_out_bits"] < data["held_out_bits_load"] - gain


def test_heterogeneity_is_told_from_coupling(shared_traces):
    """gpt-oss layer 0: positive about the global mean, negative within its texts."""
    traces = im.open_traces(shared_traces / "gpt-oss-20b.nc").sel(layer=[0])
    about = {c: im.correlation(traces, centre=c, max_distance=2) for c in ("global", "sequence")}
    z = {
        c: (m["correlation"] / m["correlation_error"]).sel(distance=1).item()
        for c, m in about.items()
    }
    assert z["global"] > 1
    assert z["sequence"] < -5
