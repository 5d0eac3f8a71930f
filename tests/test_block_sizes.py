"""Correlation lengths of blocks: against slow loops, closed forms, and texts of known kind."""

import matplotlib.pyplot as plt
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import simulate_markov
from naive_blocks import coarse_curve, eigenvalue_curve, rate_curve, window_curve

import isingmoe as im
from isingmoe.block_lengths import block_sizes
from isingmoe.block_sources import Sources
from isingmoe.block_sums import N_LAGS, BlockGrid, block_correlation
from isingmoe.plotting.blocks import plot_block_sizes
from isingmoe.stationary import markov_correlation

LENGTHS = ("coarse_length", "window_length")


def potts_transition(q, keep):
    """Stay with some chance, else go to any other state: one eigenvalue beside 1."""
    return np.full((q, q), (1 - keep) / (q - 1)) + np.eye(q) * (keep - (1 - keep) / (q - 1))


def traces_of(states, q):
    return im.traces_from_arrays(states[None, :, :, None], num_experts=q)


@given(
    seed=st.integers(0, 2**32),
    k=st.integers(1, 3),
    gaps=st.sampled_from([0.0, 0.2]),
    n_experts=st.sampled_from([5, 70]),
    b=st.integers(1, 5),
)
@settings(max_examples=25, deadline=None)
def test_curves_against_slow_loops(make_traces, seed, k, gaps, n_experts, b):
    traces = make_traces(
        n_layers=1,
        n_sequences=4,
        n_positions=21,
        num_experts=n_experts,
        top_k=k,
        ranked=False,
        ragged=True,
        gaps=gaps,
        seed=seed,
    )
    found = block_sizes(traces, baselines=(), block_lengths=[b], n_resamples=2)
    index, length = traces["expert_index"].values[0], traces["length"].values
    row = found.isel(layer=0, source=0, block_length=0)
    expected = coarse_curve(index, length, n_experts, b, N_LAGS)
    np.testing.assert_allclose(row["coarse_correlation"], expected, atol=1e-12)
    reach = b // 4
    if reach:
        expected = window_curve(index, length, n_experts, b, reach)
        np.testing.assert_allclose(row["window_correlation"], expected, atol=1e-12)
    else:
        assert np.isnan(row["window_length"])


def test_without_gaps_it_is_the_covariance_of_rates(make_traces):
    traces = make_traces(n_layers=1, n_positions=30, top_k=2, seed=3)
    found = block_sizes(traces, baselines=(), block_lengths=[3, 4], primary=False)
    index, length = traces["expert_index"].values[0], traces["length"].values
    for b, n_lags in ((3, 8), (4, 6)):
        curve = found["coarse_correlation"].sel(source="measured", block_length=b)[0]
        np.testing.assert_allclose(
            curve[: n_lags + 1], rate_curve(index, length, 6, b, n_lags), atol=1e-12
        )
        assert np.isnan(curve[n_lags + 1 :]).all()


@pytest.mark.parametrize("gaps", [0.0, 0.15])
def test_windows_are_those_of_the_public_functions(make_traces, gaps):
    traces = make_traces(n_positions=70, ragged=True, gaps=gaps, seed=5)
    found = block_sizes(traces, baselines=(), block_lengths=[8, 12, 32], primary=False)
    for b in (8, 12, 32):
        cut = im.windows(traces, b)
        expected = im.correlation(cut, centre="sequence", primary=False, max_distance=b // 4)
        row = found.sel(source="measured", block_length=b)
        np.testing.assert_allclose(
            row["window_correlation"][:, : b // 4 + 1], expected["correlation"], atol=1e-12
        )


def test_blocks_of_one_token_are_tokens(make_traces):
    traces = make_traces(n_sequences=12, n_positions=40, gaps=0.1, seed=1)
    found = block_sizes(traces, baselines=(), block_lengths=[1], n_resamples=50, seed=4)
    expected = im.correlation(traces, max_distance=N_LAGS, n_resamples=50, seed=4)
    row = found.sel(source="measured", block_length=1)
    for name, other in (
        ("coarse_correlation", "correlation"),
        ("coarse_error", "correlation_error"),
        ("coarse_length", "correlation_length"),
        ("coarse_length_low", "correlation_length_low"),
        ("coarse_length_high", "correlation_length_high"),
        ("coarse_n_fitted", "n_fitted"),
    ):
        np.testing.assert_allclose(row[name], expected[other], atol=1e-12, err_msg=name)


@pytest.mark.parametrize("b", [1, 2, 7, 16])
def test_closed_form_of_a_markov_chain(b):
    rng = np.random.default_rng(b)
    transition = rng.dirichlet(np.full(6, 0.4), size=6)
    stationary = np.linalg.matrix_power(transition, 1 << 12)[0]
    curve = markov_correlation(transition, stationary, 9 * b)
    tokens = curve.sum(-2) if curve.ndim > 1 else curve
    blocks = block_correlation(tokens, b)
    np.testing.assert_allclose(blocks[1:], eigenvalue_curve(transition, b, N_LAGS), atol=1e-14)
    within = [tokens[abs(i - j)] for i in range(b) for j in range(b)]
    assert blocks[0] == pytest.approx(np.mean(within), abs=1e-14)
    with pytest.raises(ValueError, match="expected distances up to"):
        block_correlation(tokens[: 9 * b - 1], b)


def test_a_markov_chain_gives_its_closed_form():
    """Measured block rates lie on the exact curve, within their errors."""
    rng = np.random.default_rng(11)
    transition = rng.dirichlet(np.full(5, 0.3), size=5)
    states = simulate_markov(transition, 300, 600, rng)
    found = block_sizes(traces_of(states, 5), baselines=(), block_lengths=[1, 4, 16])
    for b in (1, 4, 16):
        row = found.sel(source="measured", block_length=b).isel(layer=0)
        exact = eigenvalue_curve(transition, b, N_LAGS)
        z = (row["coarse_correlation"][1:] - exact) / row["coarse_error"][1:]
        assert np.abs(z).max() < 4.5, b


@pytest.fixture(scope="module")
def stationary():
    """Texts of a Potts chain with one eigenvalue, 0.8, the fit to them, and what is found."""
    rng = np.random.default_rng(2)
    transition = potts_transition(4, 0.85)
    traces = traces_of(simulate_markov(transition, 150, 512, rng), 4)
    fit = im.fit(traces, chain="potts", coupling="uniform", field="none")
    return traces, fit, block_sizes(traces, fit, n_simulations=4)


def test_a_stationary_chain_has_one_length_until_its_blocks_outgrow_it(stationary):
    _, fit, found = stationary
    xi = float(fit.layer_length()[0])
    assert xi == pytest.approx(-1 / np.log(0.8), rel=0.05)
    exact = found["coarse_length_exact"][0]
    chain = found.sel(source="chain").isel(layer=0)
    # Two lags and more: the closed form of one eigenvalue is the exponential itself.
    for b in (1, 2):
        assert chain["coarse_n_fitted"].sel(block_length=b) > 1
        assert exact.sel(block_length=b) == pytest.approx(xi, rel=1e-6)
        assert chain["coarse_length"].sel(block_length=b) == pytest.approx(xi, rel=0.1)
    # One lag: the second point is C_b(0), and the length is that of the block.
    curve = np.exp(-np.arange(9 * 32) / xi)
    for b in (16, 32):
        blocks = block_correlation(curve, b)
        if chain["coarse_n_fitted"].sel(block_length=b) == 1:
            length = b / np.log(blocks[0] / blocks[1])
            assert exact.sel(block_length=b) == pytest.approx(length, rel=1e-6)
            assert length > 1.3 * xi
    one_lag = (chain["coarse_n_fitted"] == 1).values
    assert one_lag.any()
    seen = chain["coarse_length"].values[one_lag]
    np.testing.assert_allclose(seen, exact.values[one_lag], rtol=0.15)


def test_the_chain_reproduces_its_own_texts(stationary):
    """Of the stationary chain the data lie where draws do; without neighbours nothing is left."""
    _, _, found = stationary
    for kind in LENGTHS:
        known = found[kind].sel(source="chain").notnull()
        measured = found[kind].sel(source="measured")
        low, high = (found[kind + end].sel(source="chain") for end in ("_low", "_high"))
        inside = ((measured >= low) & (measured <= high)).where(known)
        # Of about nine lengths of 95 % intervals, correlated among each other.
        assert inside.mean() >= 0.7, kind
    assert (found["coarse_length"].sel(source="random", block_length=[1, 2, 4]) == 0).all()
    curve = found["coarse_correlation"].sel(block_length=[1, 2, 4], lag=1)
    measured = curve.sel(source="measured")
    for source in ("random", "position-shuffled"):
        assert (np.abs(curve.sel(source=source)) < 0.03 * measured).all(), source


def drawn_with(rates, rng, keep=0.0):
    """Tokens that copy the one before with some chance, else have rates (sequence, position)."""
    u = rng.random(rates.shape[:2])[..., None]
    states = (u > rates.cumsum(-1)[..., :-1]).sum(-1)
    copies = rng.random(states.shape) < keep
    for i in range(1, states.shape[1]):
        states[:, i] = np.where(copies[:, i], states[:, i - 1], states[:, i])
    return states


def rates_of_kind(kind, rng, n_sequences=80, length=1024, q=6):
    """Rates that drift alike in all texts, differ between texts, or follow topics in them."""
    if kind == "drift":
        along = np.linspace(0, 1, length)[None, :, None]
        first = np.array([0.4, 0.2, 0.1, 0.1, 0.1, 0.1])
        rates = first * (1 - along) + first[::-1] * along
    elif kind == "texts":
        rates = rng.dirichlet(np.full(q, 20.0), size=n_sequences)[:, None]
    else:
        # Topics of about 20 tokens: stationary, alike in all texts.
        topics = simulate_markov(potts_transition(8, 1 - 1 / 20), n_sequences, length, rng)
        rates = rng.dirichlet(np.full(q, 2.0), size=8)[topics]
    return np.broadcast_to(rates, (n_sequences, length, q))


@pytest.mark.parametrize(
    ("kind", "cause"), [("drift", "position-shuffled"), ("texts", "shuffled"), ("memory", None)]
)
def test_each_kind_of_text_shows_in_its_source(kind, cause):
    """A chain of nearest neighbours under rates that change: which source has the growth."""
    rng = np.random.default_rng(7)
    traces = traces_of(drawn_with(rates_of_kind(kind, rng), rng, keep=0.5), 6)
    fit = im.fit(traces, chain="potts", coupling="full")
    found = block_sizes(traces, fit).isel(layer=0)
    length = found["coarse_length"].sel(source="measured")
    assert 0.5 < length.sel(block_length=1) < 10
    assert length.sel(block_length=32) > 14
    chain = found["coarse_length_high"].sel(source="chain", block_length=[8, 16, 32])
    low = found["coarse_length_low"].sel(source="measured", block_length=[8, 16, 32])
    assert (low > chain).any()
    curve = found["coarse_correlation"].sel(block_length=32, lag=1)
    share = curve / curve.sel(source="measured")
    for source in ("chain", "random", "shuffled", "position-shuffled"):
        long = found["coarse_length"].sel(source=source, block_length=32)
        if source == cause:
            assert share.sel(source=source) == pytest.approx(1, abs=0.3), source
            assert long > 14
        else:
            assert abs(share.sel(source=source)) < 0.3, source
    inside = found["window_length"].sel(block_length=128)
    beyond = inside.sel(source="measured") / inside.sel(source="chain")
    if kind == "memory":
        low, high = (found[f"window_length_{end}"].sel(block_length=128) for end in ("low", "high"))
        assert beyond > 1.25
        assert low.sel(source="measured") > high.sel(source="chain")
    else:
        # Without a memory the windows show the chain alone.
        assert beyond == pytest.approx(1, abs=0.2)


@pytest.mark.filterwarnings("ignore::isingmoe.ShortTraceWarning")
def test_gaps_and_lengths_are_those_of_the_traces(make_traces):
    """Draws of a chain, and random routers, have gaps where the traces have them."""
    traces = make_traces(
        n_layers=2, n_sequences=6, n_positions=40, top_k=2, ragged=True, gaps=0.3, seed=8
    )
    fit = im.fit(traces, chain="kinetic", coupling="diagonal", uncertainty="information")
    grid = BlockGrid(np.array([1, 2], np.int64), 6, 2)
    sources = Sources(traces, fit, ("random",), 3, False)
    for place in range(2):
        measured, chain, random = sources.measured(grid, place, np.random.SeedSequence(1))
        for drawn in (chain, random):
            assert drawn.n_sequences == measured.n_sequences == 6
            np.testing.assert_array_equal(drawn.tokens, np.tile(measured.tokens, (3, 1)))
            np.testing.assert_array_equal(drawn.weight, np.tile(measured.weight, (3, 1, 1)))
            np.testing.assert_array_equal(
                drawn.occupied.sum(-1), np.tile(measured.occupied.sum(-1), (3, 1))
            )


def test_a_drifting_chain_begins_where_its_texts_do():
    rng = np.random.default_rng(5)
    along = np.linspace(0, 1, 256)[None, :, None]
    ends = np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])
    rates = np.broadcast_to(ends[0] * (1 - along) + ends[1] * along, (120, 256, 3))
    cut = im.windows(traces_of(drawn_with(rates, rng), 3), 128)
    fit = im.fit(cut, chain="kinetic", coupling="diagonal", field="position", position=im.Blocks(8))
    found = block_sizes(cut, fit, baselines=(), block_lengths=[8], n_simulations=4)
    curve = found["coarse_correlation"].isel(layer=0, block_length=0, lag=slice(1, 5))
    np.testing.assert_allclose(curve.sel(source="chain"), curve.sel(source="measured"), rtol=0.15)
    assert "coarse_length_exact" not in found


@pytest.mark.filterwarnings("ignore::isingmoe.ShortTraceWarning")
def test_chains_that_cannot_be_drawn_from_have_an_exact_length_alone(make_traces):
    traces = make_traces(n_layers=1, n_sequences=8, n_positions=64, top_k=2, seed=2)
    fit = im.fit(traces, chain="ising", coupling="diagonal", uncertainty="information")
    found = block_sizes(traces, fit, baselines=(), n_resamples=10)
    assert found["source"].values.tolist() == ["measured"]
    assert found.attrs["states"] == "expert set"
    assert found["coarse_length_exact"].dims == ("layer", "block_length")


@pytest.mark.parametrize(
    "states",
    [
        pytest.param(np.zeros((3, 40), int), id="all tokens equal"),
        pytest.param(np.tile([0, 1, 2], (3, 14))[:, :40], id="period of three"),
    ],
)
def test_degenerate_texts(states):
    traces = traces_of(states, 3)
    found = block_sizes(traces, n_resamples=5)
    equal = found.sel(source="measured", block_length=[1, 2, 4, 8])
    if states.max() == 0:
        assert (equal["coarse_length"] == 0).all()
        assert (equal["window_length"].sel(block_length=[4, 8]) == 0).all()
    else:
        period = block_sizes(traces, baselines=(), block_lengths=[3, 6], n_resamples=5)
        assert (period["coarse_correlation"].isel(lag=slice(0, 4)) == 0).all()
        assert (period["coarse_length"] == 0).all()
    # Longer than a quarter of the texts there are no rates, and none longer than a text.
    assert found["coarse_length"].sel(block_length=[16, 32]).isnull().all()
    assert (found["coarse_sequences"].sel(block_length=[8, 16]) == [3, 0]).all()


def test_every_expert_serves_every_token(make_traces):
    traces = make_traces(num_experts=3, top_k=3, n_positions=32)
    found = block_sizes(traces, primary=False, n_resamples=5)
    short = found.sel(block_length=[1, 2, 4, 8])
    assert (short["coarse_length"] == 0).all()
    assert (short["window_length"].sel(block_length=[4, 8]) == 0).all()


def test_one_sequence_has_no_intervals(make_traces):
    found = block_sizes(make_traces(n_sequences=1, n_positions=64), n_resamples=5)
    for kind in LENGTHS:
        assert found[f"{kind}_low"].isnull().all()
        assert found[f"{kind}_high"].isnull().all()
    known = found.sel(block_length=[1, 2, 4, 8, 16])["coarse_length"]
    assert known.notnull().all()


def test_one_long_sequence_among_short_ones_has_no_interval(make_traces):
    traces = make_traces(n_layers=1, n_sequences=5, n_positions=64, seed=3)
    length = np.array([64, 12, 12, 12, 12], np.int32)
    index = traces["expert_index"].values.copy()
    index[:, np.arange(64) >= length[:, None]] = -1
    cut = im.traces_from_arrays(index, num_experts=6, length=length)
    found = block_sizes(cut, baselines=(), block_lengths=[2, 8])
    assert found["coarse_sequences"].values.tolist() == [5, 1]
    low = found["coarse_length_low"].sel(source="measured")[0]
    assert np.isfinite(low.sel(block_length=2))
    assert np.isnan(low.sel(block_length=8))


def test_nothing_recorded(make_traces):
    found = block_sizes(make_traces(gaps=1.0, n_positions=16), n_resamples=5)
    for kind in LENGTHS:
        assert found[kind].isnull().all()


def test_same_seed_same_lengths_and_draws_are_new(make_traces):
    traces = make_traces(n_sequences=8, n_positions=32, seed=1)
    first, again, other = (block_sizes(traces, n_resamples=10, seed=s) for s in (3, 3, 4))
    assert first.identical(again)
    name = "coarse_correlation"
    drawn = {"source": ["random", "shuffled", "position-shuffled"], "lag": 1}
    drawn["block_length"] = [1, 2, 4, 8]
    assert (first[name].sel(drawn) != other[name].sel(drawn)).mean() > 0.9
    np.testing.assert_array_equal(
        first[name].sel(source="measured"), other[name].sel(source="measured")
    )
    # Both layers recorded the same tokens: of a random router they see the same.
    random = first["coarse_length"].sel(source="random")
    np.testing.assert_array_equal(random[0], random[1])


def test_default_lengths_follow_the_sequences(make_traces):
    traces = make_traces(n_positions=100)
    found = block_sizes(traces, baselines=(), n_resamples=5)
    assert found["block_length"].values.tolist() == [1, 2, 4, 8, 16, 32, 64]
    for name, variable in {**found.data_vars, **found.coords}.items():
        assert {"long_name", "units"} <= set(variable.attrs), name
    assert found["coarse_length"].attrs["units"] == "token"


def test_primary_and_whole_sets(make_traces):
    traces = make_traces(n_positions=40, top_k=3, seed=6)
    kept = {"baselines": (), "n_resamples": 5}
    first = im.traces_from_arrays(
        traces["expert_index"].values[..., :1], num_experts=6, layer=traces["layer"].values
    )
    name = "coarse_correlation"
    np.testing.assert_array_equal(
        block_sizes(traces, **kept)[name], block_sizes(first, **kept)[name]
    )
    whole = block_sizes(traces, primary=False, **kept)
    unranked = traces.assign_attrs(ranked=0)
    np.testing.assert_array_equal(whole[name], block_sizes(unranked, **kept)[name])


def test_figure(stationary, make_traces):
    _, _, found = stationary
    for kind, labels in (
        ("coarse", {"measured", "drawn from the fitted chain", "the chain, exactly"}),
        ("window", {"measured", "drawn from the fitted chain"}),
        ("share", {"measured", "random router"}),
    ):
        ax = plot_block_sizes(found, 0, kind=kind)
        assert labels <= set(ax.get_legend_handles_labels()[1])
        assert ax.get_xlabel() == "block length b (tokens)"
        ax.figure.draw_without_rendering()
        plt.close(ax.figure)
    _, ax = plt.subplots()
    nothing = block_sizes(make_traces(gaps=1.0, n_positions=16), n_resamples=5)
    for kind in ("coarse", "window", "share"):
        assert plot_block_sizes(nothing, 3, kind=kind, ax=ax) is ax
    ax.figure.draw_without_rendering()
    plt.close(ax.figure)
    with pytest.raises(ValueError, match=r"layer: expected one of \[0\], got 5"):
        plot_block_sizes(found, 5)
    with pytest.raises(ValueError, match="kind: expected one of coarse, window, share"):
        plot_block_sizes(found, 0, kind="lengths")


def test_bad_input(make_traces):
    traces = make_traces(n_positions=20)
    kept = {"chain": "potts", "coupling": "uniform", "field": "none"}
    fit = im.fit(traces, uncertainty="information", **kept)
    few = traces.isel(layer=[0])
    cases = [
        ({"block_lengths": [0, 2]}, "block_lengths: expected integers from 1 to 20"),
        ({"block_lengths": [21]}, "block_lengths: expected integers from 1 to 20"),
        ({"block_lengths": []}, "block_lengths: expected"),
        ({"block_lengths": [1.5]}, "block_lengths: expected"),
        ({"baselines": ("random", "chain")}, "baselines: expected any of random"),
        ({"n_resamples": 1}, "n_simulations, n_resamples: expected at least 1 and 2"),
        ({"n_simulations": 0}, "n_simulations, n_resamples"),
        ({"fit": fit, "primary": False}, "primary: expected True, as potts chains"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            block_sizes(traces, **arguments)
    with pytest.raises(ValueError, match=r"layer: the fit has \[7\]"):
        block_sizes(few, fit)
    with pytest.raises(ValueError, match="num_experts: expected 6 as in the fit, got 7"):
        block_sizes(make_traces(num_experts=7), fit)
    with pytest.raises(ValueError, match="at least 4 tokens, got 3"):
        block_sizes(make_traces(n_positions=3))
    with pytest.raises(ValueError, match="ranked: expected 1"):
        block_sizes(traces.assign_attrs(ranked=0), primary=True)
    with pytest.raises(im.TraceSchemaError):
        block_sizes(traces.drop_vars("length"))


def test_threads_do_not_matter(make_traces, many_threads):
    traces = make_traces(n_sequences=10, n_positions=64, top_k=2, gaps=0.1)
    found = block_sizes(traces, primary=False, n_resamples=10)
    numba.set_num_threads(1)
    assert found.identical(block_sizes(traces, primary=False, n_resamples=10))


@pytest.mark.shared
def test_lengths_of_a_real_trace(shared_traces):
    """gpt-oss-20b: within texts the length grows where the fitted chain's cannot."""
    traces = im.open_traces(shared_traces / "gpt-oss-20b.nc").sel(layer=[11])
    fit = im.fit(traces, chain="potts", coupling="full", uncertainty="information")
    found = block_sizes(traces, fit, block_lengths=[1, 8, 64]).isel(layer=0)
    measured = found.sel(source="measured")
    expected = [
        [0.90971834, 0.26739578, 0.22147296],
        [0.30256822, 0.17710005, 0.15767785],
        [0.17185275, 0.13771563, 0.12778954],
    ]
    np.testing.assert_allclose(
        measured["coarse_correlation"].isel(lag=slice(0, 3)), expected, rtol=1e-6
    )
    np.testing.assert_allclose(measured["coarse_length"], [17.2, 228, 623], rtol=0.02)
    np.testing.assert_allclose(measured["window_length"][1:], [1.14, 6.00], rtol=0.02)
    chain = found.sel(source="chain")
    # The chain ends at its own length, inside windows too.
    xi = float(fit.layer_length()[0])
    assert xi < 2.5
    assert chain["window_length"].sel(block_length=64) < 1.5
    assert measured["window_length_low"][2] > 3 * chain["window_length_high"][2]
    share = found["coarse_share"]
    # Half of the correlation of neighbours are texts that differ, at long range nine tenths.
    np.testing.assert_allclose(share.sel(source="shuffled"), [0.470, 0.705, 0.906], atol=0.01)
    assert (np.abs(share.sel(source=["random", "position-shuffled"])) < 0.04).all()


@pytest.mark.shared
def test_overlaps_of_a_real_trace_follow(shared_traces):
    """Blocks of one token give the overlap of neighbours that was measured elsewhere."""
    traces = im.open_traces(shared_traces / "gpt-oss-20b.nc").sel(layer=[0, 11, 23])
    found = block_sizes(traces, baselines=(), block_lengths=[1], primary=False, n_resamples=2)
    on = im.occupancy(traces)
    rate = on.where(on >= 0).mean(("sequence", "position"))
    curve = found["coarse_correlation"].isel(source=0, block_length=0, lag=1)
    overlap = (curve + (rate**2).sum("expert")) / 4
    np.testing.assert_allclose(overlap, [0.1956, 0.5889, 0.5649], atol=6e-5)


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["deepseek-v2-lite", "olmoe-1b-7b-layer0", "flame-moe-290m", "mixtral-8x7b"]
)
def test_every_real_trace_is_measured(shared_traces, name):
    traces = im.open_traces(shared_traces / f"{name}.nc")
    traces = traces.isel(layer=[0, -1]) if traces.sizes["layer"] > 1 else traces
    found = block_sizes(traces, n_simulations=1, n_resamples=20)
    longest = found["block_length"].values[-1]
    assert longest <= np.median(traces["length"].values) < 2 * longest
    seen = found["coarse_n_fitted"].sel(source="measured", block_length=[1, 2])
    assert (seen > 0).any()
    assert (found["coarse_n_fitted"].sel(source="random", block_length=[1, 2]) < 2).all()
