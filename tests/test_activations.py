"""Rates against position, and their drift: against slow twins, simulation and closed forms."""

import naive_positions
import numpy as np
import pytest
import scipy.stats
import xarray as xr

import isingmoe as im
from isingmoe.activations import activation
from isingmoe.clustered import ratio_errors, scatter
from isingmoe.forward import draw


def started(traces, start):
    return traces.assign(start_position=("sequence", np.asarray(start, np.int32)))


@pytest.fixture(
    params=[
        {},
        {"ragged": True, "gaps": 0.2},
        {"ragged": True, "gaps": 0.2, "top_k": 1, "n_sequences": 9},
        {"num_experts": 3, "top_k": 3, "gaps": 0.1},
        {"n_sequences": 2, "ragged": True},
        {"start": [0, 3, 17, 5, 8]},
        {"start": [40, 41, 45, 60, 43], "ragged": True, "gaps": 0.3},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def traces(request, make_traces):
    options = dict(request.param)
    start = options.pop("start", None)
    made = make_traces(n_positions=23, seed=3, **options)
    return made if start is None else started(made, start)


@pytest.mark.parametrize("block_length", [1, 4, 50])
def test_rates_and_errors_against_loops(traces, block_length):
    data = activation(traces, block_length=block_length)
    for place in range(traces.sizes["layer"]):
        rate, error = naive_positions.rates(traces, place, block_length)
        np.testing.assert_allclose(data["rate"][place], rate, rtol=1e-12)
        np.testing.assert_allclose(data["rate_error"][place], error, rtol=1e-9, atol=1e-12)
        tokens, _, n_blocks, origin = naive_positions.counts(traces, place, block_length)
        assert data["block_tokens"][place].sum() == sum(tokens.values())
        np.testing.assert_array_equal(
            data["block_start"], origin + block_length * np.arange(n_blocks)
        )


def test_drift_against_loops(traces):
    data = activation(traces, block_length=4)
    for place in range(traces.sizes["layer"]):
        part, whole, compared = naive_positions.surplus(traces, place, 4)
        rate = np.array(
            [np.nansum(data["rate"][place, e] * whole) / whole.sum() for e in range(part.shape[1])]
        )
        seen = part[compared] / np.sqrt(np.maximum(whole, 1))
        n, seen_n = whole.sum(), len(compared)
        for e in range(len(rate)):
            within = np.clip(rate[e] + part[:, e].sum(0) / np.maximum(whole, 1), 0, 1)
            np.testing.assert_allclose(
                data["rate_within"][place, e].values[whole > 0], within[whole > 0], atol=1e-12
            )
            value, expected, freedom = naive_positions.scatter(seen[:, e])
            p_value = float(data["uniformity_p_value"][place, e])
            if rate[e] in (0, 1):
                assert p_value == 1
                continue
            ratio = value / expected
            wanted = scipy.stats.f.sf(ratio, freedom, freedom * (seen_n - 1))
            assert p_value == pytest.approx(wanted, rel=1e-6, abs=1e-12)
            scale = 1 / (2 * np.log(2) * n * rate[e] * (1 - rate[e]))
            plugin = naive_positions.information(within, whole / n)
            bits = float(data["drift_bits"][place, e])
            assert bits == pytest.approx(plugin - scale * expected, rel=1e-6, abs=1e-9)
            top = scipy.stats.f.ppf(0.95, freedom, freedom * (seen_n - 1))
            null = float(data["drift_bits_null"][place, e])
            assert null == pytest.approx(scale * expected * (top - 1), rel=1e-5, abs=1e-9)
        together = (seen / np.sqrt(np.where(rate > 0, rate, np.inf))[:, None]).reshape(seen_n, -1)
        value, expected, freedom = naive_positions.scatter(together)
        p_value = float(data["layer_drift_p_value"][place])
        if expected > 1e-20:
            wanted = scipy.stats.f.sf(value / expected, freedom, freedom * (seen_n - 1))
            assert p_value == pytest.approx(wanted, rel=1e-6, abs=1e-12)
        else:
            assert p_value == 1


def test_information_of_the_layer_is_that_of_the_joint_distribution(make_traces):
    traces = make_traces(n_sequences=30, n_positions=16, top_k=1)
    data = activation(traces, block_length=4).isel(layer=0)
    _, whole, _ = naive_positions.surplus(traces, 0, 4)
    joint = data["rate"].values * whole / whole.sum()
    block, expert = joint.sum(0), joint.sum(1)
    plugin = (joint * np.log2(joint / expert[:, None] / block)).sum()
    part, _, compared = naive_positions.surplus(traces, 0, 4)
    scaled = part / np.sqrt(whole) / np.sqrt(expert)[:, None]
    _, expected, _ = naive_positions.scatter(scaled[compared].reshape(30, -1))
    correction = expected / (2 * np.log(2) * whole.sum())
    assert float(data["layer_drift_bits"]) == pytest.approx(plugin - correction, rel=1e-9)


def test_false_discovery_rates_go_over_layers_and_experts(make_traces):
    data = activation(make_traces(n_layers=3, n_sequences=20), block_length=3)
    p = data["uniformity_p_value"].values.ravel()
    order = np.argsort(p)
    stepped = (p[order] * len(p) / np.arange(1, len(p) + 1))[::-1]
    wanted = np.empty_like(p)
    wanted[order] = np.minimum.accumulate(stepped)[::-1].clip(max=1)
    np.testing.assert_allclose(data["uniformity_q_value"].values.ravel(), wanted)


def test_scatter_takes_the_smaller_of_two_matrices_and_groups():
    rng = np.random.default_rng(0)
    for n, size in ((7, 3), (5, 12), (2, 4)):
        parts = rng.normal(size=(n, 2, size)) + 0.3
        found = scatter(parts, np.ones((n, 2), bool))
        for item in range(2):
            wanted = naive_positions.scatter(parts[:, item])
            got = found.value[item], found.expected[item], found.freedom[item]
            np.testing.assert_allclose(got, wanted, rtol=1e-10)
    parts = rng.normal(size=(1500, 1, 3))
    whole = scatter(parts, np.ones((1500, 1), bool))
    padded = np.concatenate([parts, np.zeros((36, 1, 3))]).reshape(3, 512, 3).sum(0)
    value, expected, _ = naive_positions.scatter(padded)
    assert whole.value[0] == pytest.approx(value)
    assert whole.expected[0] == pytest.approx(expected)
    assert whole.n_units[0] == 512


def test_a_sequence_without_a_part_does_not_count():
    rng = np.random.default_rng(1)
    parts = rng.normal(size=(6, 1, 3))
    present = np.array([True, True, False, True, True, False])[:, None]
    parts[~present[:, 0]] = 0
    some, all_of_them = scatter(parts, present), scatter(parts[present[:, 0]], present[:4] | True)
    for one, other in zip(some, all_of_them, strict=True):
        np.testing.assert_allclose(one, other)


def test_the_law_of_a_scatter_is_f_for_equal_gaussians():
    """Rao and Scott's F is exact for one component, and near it for several; few are careful."""
    rng = np.random.default_rng(2)
    for n in (6, 30):
        for scale in (np.ones(1), np.ones(4), np.array([3.0, 1.0, 1.0, 0.3])):
            parts = rng.normal(size=(n, 4000, len(scale))) * scale
            found = scatter(parts, np.ones((n, 4000), bool))
            p = found.p_value()
            assert 0.05 - (0.035 if n == 6 else 0.015) < (p < 0.05).mean() < 0.08
            assert (p < 0.002).mean() < 0.012
            assert (p < 0.5).mean() == pytest.approx(0.5, abs=0.1 if n == 6 else 0.03)
            np.testing.assert_allclose(p + found.p_value(lower=True), 1)
            above = found.value > found.quantile(0.9)
            np.testing.assert_allclose((p < 0.1).mean(), above.mean())


def test_ratio_errors_are_the_spread_of_ratios():
    rng = np.random.default_rng(3)
    n = rng.integers(5, 40, 30)
    own = rng.beta(4, 8, (3000, 30))
    sums = rng.binomial(n, own)
    found = [ratio_errors(s[:, None, None], n[:, None]) for s in sums]
    ratio = np.array([r[0, 0] for r, _, _ in found])
    error = np.array([e[0, 0] for _, e, _ in found])
    assert np.sqrt((error**2).mean()) == pytest.approx(ratio.std(), rel=0.05)
    assert found[0][2][0] == pytest.approx(scipy.stats.t.ppf(0.95, 29))


def replicates(chain, n, n_sequences, length, seed, spread=0.0, ragged=False):
    """Traces whose layers are independent draws of one chain, texts with loads of their own."""
    rng = np.random.default_rng(seed)
    texts = spread * rng.normal(size=(n * n_sequences, chain.n_states))
    index = draw(chain, n * n_sequences, length, by_sequence=texts, n_burn=100, seed=seed)
    index = index.reshape(n, n_sequences, length, chain.top_k)
    lengths, more = np.full(n_sequences, length), {}
    if ragged:
        lengths = rng.integers(length // 2, length + 1, n_sequences)
        index[:, np.arange(length) >= lengths[:, None]] = -1
        more["start_position"] = rng.integers(0, length // 2, n_sequences)
    return im.traces_from_arrays(
        index, num_experts=chain.n_states, length=lengths, ranked=False, **more
    )


UNEVEN = np.linspace(-1, 1, 8)
STICKY = im.KineticChain(J=1.6, h=UNEVEN, n_experts=8, top_k=2)
FREE = im.KineticChain(J=0.0, h=UNEVEN, n_experts=8, top_k=2)


@pytest.mark.parametrize("n_sequences", [4, 8, 142])
@pytest.mark.parametrize("kind", ["independent", "correlated", "texts differ"])
def test_no_drift_is_found_where_there_is_none(kind, n_sequences):
    n = 150 if n_sequences == 142 else 400
    differ = {"spread": 1.0, "ragged": True} if kind == "texts differ" else {}
    chain = FREE if kind == "independent" else STICKY
    data = activation(replicates(chain, n, n_sequences, 128, 4, **differ))
    p = data["uniformity_p_value"].values.ravel()
    # The experts of a layer are not independent: allow for half as many.
    noise = 3 * np.sqrt(0.05 * 0.95 / (p.size / 2))
    assert (p < 0.05).mean() < 0.05 + noise
    if n_sequences == 142:
        assert (p < 0.05).mean() > 0.05 - noise
    layers = data["layer_drift_p_value"].values
    assert (layers < 0.05).mean() < 0.05 + 3 * np.sqrt(0.05 / n) + 0.01
    above = data["drift_bits"] > data["drift_bits_null"]
    np.testing.assert_allclose(above.mean(), (p < 0.05).mean(), atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("n_sequences", "n"), [(8, 1500), (142, 1000)])
@pytest.mark.parametrize("kind", ["independent", "correlated", "slow", "texts differ"])
def test_size_within_its_binomial_error(kind, n_sequences, n):
    """Of 1000 data sets and more: nominal with many sequences, at most that with few."""
    chain = {"independent": FREE, "slow": im.KineticChain(J=4.0, h=UNEVEN, n_experts=8, top_k=2)}
    differ = {"spread": 1.0, "ragged": True} if kind == "texts differ" else {}
    traces = replicates(chain.get(kind, STICKY), n, n_sequences, 128, 12, **differ)
    data = activation(traces)
    for name, number in (("uniformity_p_value", 8 * n / 2), ("layer_drift_p_value", n)):
        p = data[name].values.ravel()
        for level in (0.05, 0.01):
            noise = 3 * np.sqrt(level / number)
            assert (p < level).mean() < level + noise, (name, level)
            if n_sequences == 142:
                assert (p < level).mean() > level - noise, (name, level)
    assert (data["uniformity_q_value"] < 0.05).sum() <= 2


def test_the_test_sees_a_chain_that_remembers_as_no_drift_where_chi_square_does_not():
    traces = replicates(STICKY, 40, 20, 128, 5)
    data = activation(traces, block_length=16)
    counts = (data["rate"] * data["block_tokens"]).values
    tokens = data["block_tokens"].values
    chi = [
        scipy.stats.chi2_contingency([counts[x, e], tokens[x] - counts[x, e]]).pvalue
        for x in range(40)
        for e in range(8)
    ]
    assert (np.array(chi) < 0.05).mean() > 0.2
    assert (data["uniformity_p_value"] < 0.05).mean() < 0.09


def test_bits_are_free_of_bias():
    data = activation(replicates(STICKY, 300, 20, 128, 6), block_length=16)
    plain = activation(replicates(FREE, 300, 20, 128, 6), block_length=16)
    for found in (data, plain):
        for name in ("drift_bits", "layer_drift_bits"):
            value = found[name].values.reshape(300, -1).mean(1)
            assert abs(value.mean()) < 4 * value.std() / np.sqrt(300)
    # And it was there to be taken off.
    assert data["layer_drift_bits_null"].mean() > 2 * np.abs(data["layer_drift_bits"].mean())


def drifting(strength, n_sequences=40, length=128, seed=0, spread=0.5):
    """Two experts drift along the text, one up and one down; texts have loads of their own."""
    field = np.zeros((length, 6))
    field[:, 0] = strength * np.linspace(-1, 1, length)
    field[:, 1] = -field[:, 0]
    chain = im.KineticChain(J=0.5, h=field, n_experts=6, n_sites=length)
    rng = np.random.default_rng(seed)
    texts = spread * rng.normal(size=(n_sequences, 6))
    index = draw(chain, n_sequences, length, by_sequence=texts, seed=seed)
    return im.traces_from_arrays(index[None], num_experts=6, ranked=False)


def test_drift_is_found_and_measured():
    data = activation(drifting(1.0), block_length=16).isel(layer=0)
    assert (data["uniformity_q_value"].values[:2] < 1e-6).all()
    assert float(data["layer_drift_p_value"]) < 1e-6
    assert (np.diff(data["rate_within"].values[0]) > -0.03).all()
    large = activation(drifting(1.0, n_sequences=4000), block_length=16).isel(layer=0)
    whole = naive_positions.information(
        large["rate"].values[0], large["block_tokens"].values / large["block_tokens"].sum().item()
    )
    assert float(large["drift_bits"][0]) == pytest.approx(whole, rel=0.02)
    assert float(data["drift_bits"][0]) == pytest.approx(whole, rel=0.5)


def test_texts_that_fill_different_blocks_are_no_drift():
    """Raw rates change, as long texts prefer other experts than short ones; each text does not."""
    rng = np.random.default_rng(7)
    index = np.full((1, 60, 128, 1), -1)
    length = np.where(np.arange(60) % 2, 128, 64)
    for s in range(60):
        load = [0.6, 0.2, 0.2] if s % 2 else [0.2, 0.2, 0.6]
        index[0, s, : length[s], 0] = rng.choice(3, length[s], p=load)
    traces = im.traces_from_arrays(index, num_experts=3, length=length)
    data = activation(traces, block_length=32).isel(layer=0)
    assert float(data["rate"][0, -1] - data["rate"][0, 0]) > 0.15
    np.testing.assert_allclose(data["rate_within"][0], data["rate_within"][0].mean(), atol=0.03)
    assert (data["uniformity_p_value"] > 0.01).all()


def test_positions_are_absolute():
    """The same drift, texts recorded from different places on."""
    rng = np.random.default_rng(8)
    start = rng.integers(0, 200, 80)
    late = (start[:, None] + np.arange(64) > 130).astype(float)
    index = (rng.random((80, 64)) < 0.2 + 0.6 * late).astype(int)[None, :, :, None]
    traces = started(im.traces_from_arrays(index, num_experts=2), start)
    data = activation(traces, block_length=10).isel(layer=0)
    middle = data["block_start"] + 5
    np.testing.assert_allclose(data["rate"][1][middle < 120], 0.2, atol=0.08)
    np.testing.assert_allclose(data["rate"][1][middle > 140], 0.8, atol=0.09)
    assert (data["uniformity_q_value"] < 1e-10).all()


def test_default_blocks(make_traces):
    for n_sequences, n_positions, expected in (
        (3, 100, 64),
        (8, 256, 32),
        (99, 512, 32),
        (2, 1, 1),
    ):
        traces = make_traces(n_sequences=n_sequences, n_positions=n_positions, n_layers=1)
        assert activation(traces).attrs["block_length"] == expected
    data = activation(make_traces(n_positions=10), n_blocks=4)
    assert data.attrs["block_length"] == 3
    assert data["block_start"].values.tolist() == [0, 3, 6, 9]


def test_few_sequences_and_experts_that_never_change(make_traces):
    one = activation(make_traces(n_sequences=1, n_positions=40))
    for name in ("uniformity_p_value", "uniformity_q_value", "drift_bits", "layer_drift_p_value"):
        assert one[name].isnull().all(), name
    assert one["rate_error"].isnull().all()
    assert one["rate"].notnull().all()
    token = activation(make_traces(n_positions=1))
    assert token["uniformity_p_value"].isnull().all()
    everything = activation(make_traces(num_experts=3, top_k=3))
    assert (everything["uniformity_p_value"] == 1).all()
    assert (everything["drift_bits"] == 0).all()
    same = im.traces_from_arrays(np.full((1, 5, 20, 1), 2), num_experts=4)
    assert (activation(same)["uniformity_p_value"] == 1).all()
    assert (activation(same)["layer_drift_p_value"] == 1).all()


def test_texts_that_are_all_alike_agree_by_chance():
    """Scatter nought: the p-value is that of so many equal signs."""
    text = np.repeat([0, 1], 16)
    for n in (2, 4, 9):
        traces = im.traces_from_arrays(np.tile(text, (1, n, 1))[..., None], num_experts=2)
        p = activation(traces, block_length=8)["uniformity_p_value"].values
        np.testing.assert_allclose(p, 0.5 ** (n - 1))


def test_dataset_is_labelled_and_layers_do_not_matter_to_each_other(make_traces):
    traces = make_traces(n_layers=3)
    data = activation(traces, block_length=4)
    assert set(data.variables) >= {"block_start", "rate_within"}
    for name, variable in data.data_vars.items():
        assert {"long_name", "units"} <= set(variable.attrs), name
    assert '"verb": "activation"' in data.attrs["provenance"]
    alone = activation(traces.isel(layer=[1]), block_length=4)
    xr.testing.assert_allclose(
        data.isel(layer=[1]).drop_vars("uniformity_q_value"),
        alone.drop_vars("uniformity_q_value"),
    )
    seen = []
    activation(traces, track=lambda places: seen.append(len(places)) or places)
    assert seen == [3]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"n_blocks": 2, "block_length": 3}, ValueError, "expected one of them, got 2 and 3"),
        ({"n_blocks": 0}, ValueError, "n_blocks: expected at least 1, got 0"),
        ({"block_length": 2.5}, TypeError, "block_length: expected an integer or None, got 2.5"),
        ({"n_blocks": True}, TypeError, "n_blocks: expected an integer"),
    ],
)
def test_bad_blocks_are_refused(make_traces, options, error, text):
    with pytest.raises(error, match=text):
        activation(make_traces(), **options)


def test_bad_traces_are_refused(make_traces):
    traces = make_traces()
    bad = traces["expert_index"].values.copy()
    bad[1, 0, 0, 0] = 6
    with pytest.raises(ValueError, match=r"expected ids of -1 to 5, got others in layer 7"):
        activation(traces.assign(expert_index=traces["expert_index"].copy(data=bad)))
    none = traces["expert_index"].copy(data=np.full_like(bad, -1))
    with pytest.raises(ValueError, match="expected a token in layer 3, got none"):
        activation(traces.assign(expert_index=none))
    with pytest.raises(ValueError, match="length: expected a token in some sequence"):
        activation(traces.assign(expert_index=none, length=traces["length"] * 0))
    with pytest.raises(im.TraceSchemaError):
        activation(traces.drop_vars("length"))


@pytest.mark.shared
def test_real_traces(shared_traces):
    """What decoding and prefill show: drift everywhere that there are sequences to see it."""
    deepseek = activation(im.open_traces(shared_traces / "deepseek-v2-lite.nc"))
    assert (deepseek["layer_drift_p_value"] < 1e-50).all()
    assert float(deepseek["rate"].sel(layer=1)[8, 0]) == pytest.approx(0.647, abs=0.001)
    mixtral = activation(im.open_traces(shared_traces / "mixtral-8x7b.nc"))
    assert mixtral.sizes["block"] == 4
    assert (mixtral["uniformity_q_value"] > 0.05).all()
