"""The maximum-entropy equilibrium: verdicts on planted loads, twins, nulls and free energies."""

import itertools

import naive_positions
import numpy as np
import pytest
import xarray as xr
from scipy.special import comb
from scipy.stats import f
from test_activations import FREE, STICKY, replicates

import isingmoe as im
from isingmoe._kernels import blocks
from isingmoe._seeds import generators
from isingmoe.forward import draw
from isingmoe.free_energies import free_energies
from isingmoe.mem_states import mem

EVEN = {"top_k": 2, "n_experts": 8}


def routed(choose, n_sequences=24, length=256, n_experts=8, n_layers=1, seed=0):
    """One expert to a token: `choose` gets a generator and positions (sequence, position)."""
    rng = np.random.default_rng(seed)
    position = np.broadcast_to(np.arange(length), (n_sequences, length))
    index = np.stack([choose(rng, position) for _ in range(n_layers)])[..., None]
    return im.traces_from_arrays(index, num_experts=n_experts)


def uniform(rng, position):
    return rng.integers(0, 8, position.shape)


def owned(rng, position, share=0.9):
    """Expert 5 serves most tokens at positions 64 to 127, and its part of the others."""
    own = (position >= 64) & (position < 128) & (rng.random(position.shape) < share)
    return np.where(own, 5, uniform(rng, position))


def round_robin(rng, position):
    """Every expert once in each turn of eight tokens, in random order."""
    turns = rng.random((len(position), position.shape[1] // 8, 8)).argsort(-1)
    return turns.reshape(len(position), -1)


def test_blocks_against_loops(make_traces):
    traces = make_traces(n_sequences=9, n_positions=40, ragged=True, gaps=0.2, seed=2)
    data = mem(traces, n_blocks=4)
    tokens, served, n_blocks, _ = naive_positions.counts(traces, 0, 10)
    for b in range(n_blocks):
        n = sum(t for (_, block), t in tokens.items() if block == b)
        load = [sum(c for (_, o, f), c in served.items() if (o, f) == (b, e)) for e in range(6)]
        entropy, kl = naive_positions.load_numbers(load, n, 2)
        row = data.isel(layer=0, block=b)
        assert int(row["block_tokens"]) == n
        assert float(row["block_entropy"]) == pytest.approx(entropy)
        assert float(row["block_kl"]) == pytest.approx(kl)
        assert float(row["block_effective_experts"]) == pytest.approx(np.exp(entropy))
        beyond = np.array(
            [
                [
                    served.get((s, b, e), 0) - sum(served.get((s, b, f), 0) for f in range(6)) / 6
                    for e in range(6)
                ]
                for s in range(9)
                if (s, b) in tokens
            ]
        )
        value, expected, freedom = naive_positions.scatter(beyond)
        wanted = f.sf(value / expected, freedom, freedom * (len(beyond) - 1))
        assert float(row["block_p_value"]) == pytest.approx(wanted, rel=1e-6)


def test_all_of_load_balance_is_there(make_traces):
    traces = make_traces(n_positions=60)
    data, balance = mem(traces), im.load_balance(traces)
    for name in balance:
        xr.testing.assert_identical(data[name].reset_coords(drop=True), balance[name])


def test_one_block_is_the_whole_layer(make_traces):
    traces = make_traces(n_sequences=30, n_positions=60)
    data = mem(traces, n_blocks=1)
    for block, whole in {
        "block_entropy": "load_entropy",
        "block_kl": "kl",
        "block_kl_null": "kl_null",
        "block_kl_p_value": "kl_p_value",
        "block_p_value": "mem_p_value",
        "block_effective_experts": "effective_experts",
    }.items():
        np.testing.assert_allclose(data[block].values[:, 0], data[whole].values, err_msg=block)
    assert data["stability"].isnull().all()
    assert (data["stability_p_value"] == 1).all()


def test_bias_of_block_entropies_against_simulation():
    data = mem(replicates(im.KineticChain(J=0.0, **EVEN), 200, 8, 64, 1), n_blocks=8)
    # 64 tokens in a block: the correction is of the second order in 1 / N.
    assert float(data["block_kl"].mean()) == pytest.approx(0, abs=1.2e-3)
    plugin = (8 - 2) / (2 * 2 * 64)
    assert data["block_kl"].mean() + plugin > 0.022
    sparse = mem(replicates(im.KineticChain(J=0.0, **EVEN), 100, 8, 64, 1), n_blocks=32)
    for found in (data, sparse):
        level = (found["block_kl_p_value"] < 0.05).values.mean()
        assert level == pytest.approx(0.05, abs=0.02)
        above = (found["block_kl"] > found["block_kl_null"]).values.mean()
        assert above == pytest.approx(0.05, abs=0.025)


def test_few_tokens_of_a_uniform_router_are_drawn_as_chance_has_them():
    """Three tokens, two of four experts: every load by enumeration."""
    words = generators(0, 40_000)
    counts = blocks.uniform_counts(3, 4, 2, words)
    assert (counts.sum(1) == 6).all()
    rows, times = np.unique(counts, axis=0, return_counts=True)
    found = {tuple(row): n / 40_000 for row, n in zip(rows.tolist(), times, strict=True)}
    pairs = list(itertools.combinations(range(4), 2))
    wanted = {}
    for three in itertools.product(pairs, repeat=3):
        load = tuple(sum(e in pair for pair in three) for e in range(4))
        wanted[load] = wanted.get(load, 0) + 1 / len(pairs) ** 3
    assert set(found) == set(wanted)
    for load, chance in wanted.items():
        assert found[load] == pytest.approx(chance, abs=5 * np.sqrt(chance / 40_000))


def test_shuffles_keep_what_they_should(make_traces):
    traces = make_traces(n_sequences=6, n_positions=12, ragged=True, gaps=0.3, n_layers=1)
    index = traces["expert_index"].values[0]
    length = traces["length"].values.astype(np.int64)
    tokens, served = blocks.block_counts(index, length, np.zeros(6, np.int64), 4, 3, 6)
    drawn = blocks.shuffled_counts(index, length, tokens, 6, generators(1, 20_000))
    np.testing.assert_array_equal(drawn.sum(1), np.tile(served.sum((0, 1)), (20_000, 1)))
    own = served.sum(1) / np.maximum(tokens.sum(1), 1)[:, None]
    mean = np.einsum("sb,se->be", tokens, own)
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.06)
    n = tokens.sum(1)
    part = tokens * (1 - tokens / np.maximum(n, 1)[:, None])
    variance = part.T @ (own * (1 - own) * (n / np.maximum(n - 1, 1))[:, None])
    np.testing.assert_allclose(drawn.var(0), variance, rtol=0.06, atol=0.02)


def test_mean_dispersion_is_that_over_every_order():
    rng = np.random.default_rng(3)
    index = rng.random((1, 3, 4, 4)).argsort(-1)[..., :2]
    index[0, 1, 2] = -1
    traces = im.traces_from_arrays(
        np.where(np.arange(4)[:, None] < np.array([4, 4, 3])[:, None, None], index, -1),
        num_experts=4,
        length=[4, 4, 3],
    )
    measured = naive_positions.dispersion(traces, 0, 2)
    # The gap would move with its place: all orders of the tokens alone.
    gapless = traces.isel(sequence=[0, 2])
    measured = naive_positions.dispersion(gapless, 0, 2)
    mean = naive_positions.mean_shuffled_dispersion(gapless, 2)
    data = mem(gapless, n_blocks=2)
    assert data.attrs["block_length"] == 2
    assert float(data["stability"][0]) == pytest.approx(measured / mean)
    assert np.isfinite(mem(traces, n_blocks=2)["stability"]).all()


def test_a_uniform_router_is_at_equilibrium():
    """At the nominal rate at least: a load that is near uniform is at equilibrium all the same."""
    data = mem(replicates(im.KineticChain(J=0.0, **EVEN), 200, 24, 64, 5), n_simulations=19)
    assert (data["mem_p_value"] < 0.05).mean() == pytest.approx(0.05, abs=0.045)
    assert (data["kl_p_value"] < 0.05).mean() == pytest.approx(0.05, abs=0.045)
    assert (data["mem_state"] == "equilibrium").mean() > 0.95
    assert (data["stability_p_value"] <= 0.05).mean() == pytest.approx(0.05, abs=0.045)
    assert float(data["stability"].mean()) == pytest.approx(1, abs=0.02)
    assert (data["n_owners"] == 0).all()


@pytest.mark.parametrize("n_sequences", [4, 8, 40])
def test_a_balanced_chain_that_remembers_is_not_called_imbalanced(n_sequences):
    chain = im.KineticChain(J=2.2, **EVEN)
    for spread, ragged in ((0.0, False), (1.0, True)):
        traces = replicates(chain, 200, n_sequences, 64, 6, spread=spread, ragged=ragged)
        data = mem(traces, n_simulations=19)
        # Tokens taken as independent see imbalance everywhere.
        assert (data["kl_p_value"] < 0.05).mean() > 0.6
        assert (data["mem_p_value"] < 0.05).mean() < 0.05 + 3 * np.sqrt(0.0475 / 200)
        assert (~data["mem_state"].isin(["equilibrium", "undecided"])).mean() < 0.1
        if n_sequences == 40:
            assert (data["mem_state"] == "equilibrium").mean() > 0.9
        blocks_wrong = (data["block_p_value"] < 0.05).values.mean()
        assert blocks_wrong < 0.07
        assert (data["stability_p_value"] > 0.5).mean() > 0.9
        lower = (data["stability_clustered_p_value"] < 0.05).mean()
        assert lower < 0.05 + 3 * np.sqrt(0.0475 / 200)


@pytest.mark.parametrize("n_sequences", [8, 142])
def test_a_uniform_router_is_at_equilibrium_at_the_nominal_rate(n_sequences):
    """Eight texts suffice, and none is undecided; beyond 0.05, what is near to uniform counts."""
    chain = im.KineticChain(J=0.0, **EVEN)
    data = mem(replicates(chain, 300, n_sequences, 64, 21), n_simulations=1)
    slack = 3 * np.sqrt(0.05 * 0.95 / 300)
    assert (data["mem_p_value"] < 0.05).mean() < 0.05 + slack
    assert (data["mem_state"] == "equilibrium").mean() > 0.95 - slack
    assert (data["mem_state"] != "undecided").all()
    assert (data["mem_kl_null"] < 0.03).all()
    above = float((data["kl"] > data["mem_kl_null"]).mean())
    assert above == pytest.approx(float((data["mem_p_value"] < 0.05).mean()), abs=0.02)


def few_texts(n_texts, n_layers, seed):
    """Texts of 200 tokens, each with preferences of its own beside that of all."""
    rng = np.random.default_rng(seed)
    shared = 0.8 * rng.normal(size=(n_layers, 1, 8))
    weight = np.exp(shared + 0.8 * rng.normal(size=(n_layers, n_texts, 8)))
    edges = (weight / weight.sum(-1, keepdims=True)).cumsum(-1)
    drawn = rng.random((n_layers, n_texts, 200))
    index = (drawn[..., None] > edges[..., None, :]).sum(-1).clip(max=7)
    return im.traces_from_arrays(index[..., None], num_experts=8)


def test_two_texts_of_a_strong_imbalance_decide_nothing():
    """F(1, 1) is hardly ever significant; that is no equilibrium."""
    data = mem(few_texts(2, 40, 0), n_simulations=1)
    assert (data["kl"] > 0.05).all()
    assert float(data["kl"].median()) > 0.2
    assert not (data["mem_state"] == "equilibrium").any()
    unseen = data["mem_p_value"] >= 0.05
    assert unseen.mean() > 0.7
    assert (data["mem_state"].values[unseen] == "undecided").all()
    assert (data["mem_kl_null"].values[unseen] > 0.05).all()
    # More texts of the same router tell.
    many = mem(few_texts(60, 10, 0), n_simulations=1)
    assert (many["mem_state"] == "imbalanced").all()


def test_the_quantile_of_a_balanced_load_is_that_of_the_test():
    """KL of its own critical value has the p-value 0.05, up to the third order in the load."""
    rng = np.random.default_rng(4)
    found = []
    for tilt in np.linspace(0, 0.4, 30):
        weight = np.exp(tilt * np.linspace(-1, 1, 8))
        index = rng.choice(8, (1, 10, 200, 1), p=weight / weight.sum())
        data = mem(im.traces_from_arrays(index, num_experts=8), n_simulations=1).isel(layer=0)
        found.append([float(data[name]) for name in ("kl", "mem_kl_null", "mem_p_value")])
    kl, null, p_value = np.array(found).T
    clear = np.abs(kl - null) > 0.1 * null
    assert clear.sum() > 20
    np.testing.assert_array_equal((kl > null)[clear], (p_value < 0.05)[clear])
    assert 0 < (p_value < 0.05).mean() < 1


def test_too_few_tokens_decide_nothing(make_traces):
    token = mem(make_traces(n_positions=1, n_sequences=3), n_simulations=1)
    assert (token["kl_null"] > 0.05).all()
    assert (token["mem_state"] == "undecided").all()


@pytest.mark.slow
@pytest.mark.parametrize(("n_sequences", "n"), [(8, 1500), (142, 1000)])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_size_within_its_binomial_error(n_sequences, n, spread):
    """Of 1000 data sets and more: nominal with many sequences, at most that with few."""
    chain = im.KineticChain(J=2.2, **EVEN)
    traces = replicates(chain, n, n_sequences, 64, 13, spread=spread, ragged=spread > 0)
    data = mem(traces, n_simulations=1)
    for name in ("mem_p_value", "block_p_value"):
        p = data[name].values
        for level in (0.05, 0.01):
            noise = 3 * np.sqrt(level / n)
            assert (p < level).mean() < level + noise, (name, level)
            if n_sequences == 142:
                assert (p < level).mean() > level - noise, (name, level)


def test_an_uneven_load_is_imbalanced():
    for chain in (FREE, STICKY):
        data = mem(replicates(chain, 5, 24, 128, 7), n_simulations=19)
        assert (data["mem_state"] == "imbalanced").all()
        assert (data["mem_p_value"] < 1e-4).all()


def test_near_uniform_is_at_equilibrium_however_sure():
    """0.13 against 0.124: told apart from uniform by enough tokens, and of no consequence."""
    load = np.array([0.13, 0.13, 0.13, 0.13, 0.12, 0.12, 0.12, 0.12])
    traces = routed(
        lambda rng, position: rng.choice(8, position.shape, p=load), n_sequences=400, length=512
    )
    data = mem(traces, n_simulations=19)
    assert float(data["mem_p_value"][0]) < 1e-6
    assert 0.0005 < float(data["kl"][0]) < 0.005
    assert data["mem_state"].item() == "equilibrium"


def test_dead_experts():
    few, many = (
        mem(routed(lambda rng, position, n=n: rng.integers(0, n, position.shape), n_experts=16))
        for n in (2, 9)
    )
    assert few["mem_state"].item() == "collapsed"
    assert float(few["effective_experts"][0]) == pytest.approx(2, abs=0.01)
    assert many["mem_state"].item() == "imbalanced"
    assert float(many["effective_experts"][0]) == pytest.approx(9, abs=0.03)


def test_an_expert_that_owns_positions_is_a_collapse():
    traces = routed(owned)
    data = mem(traces, n_blocks=16).isel(layer=0)
    start = data["block_start"].values
    np.testing.assert_array_equal(data["owned"].values[5], (start >= 64) & (start < 128))
    assert data["owned_blocks"].values.tolist() == [0, 0, 0, 0, 0, 4, 0, 0]
    assert int(data["n_owners"]) == 1
    assert data["mem_state"].item() == "collapsed"
    # Also where texts begin elsewhere, and are of several lengths.
    rng = np.random.default_rng(1)
    begin = rng.integers(0, 40, 24)
    length = rng.integers(150, 217, 24)
    index = traces["expert_index"].values[:, :, :216].copy()
    for s in range(24):
        index[0, s] = traces["expert_index"].values[0, s, begin[s] : begin[s] + 216]
        index[0, s, length[s] :] = -1
    moved = im.traces_from_arrays(index, num_experts=8, length=length, start_position=begin)
    data = mem(moved, n_blocks=16).isel(layer=0)
    inside = data["block_start"].values[data["owned"].values[5]]
    assert inside.min() >= 64 - data.attrs["block_length"]
    assert inside.max() < 128
    assert len(inside) >= 3
    assert data["mem_state"].item() == "collapsed"


def test_loads_that_balance_as_a_whole_are_collapsed_where_everything_is_owned():
    """Eight experts, each with an eighth of the positions to itself: uniform as a whole."""
    traces = routed(
        lambda rng, position: np.where(
            rng.random(position.shape) < 0.8, position // 32, uniform(rng, position)
        )
    )
    data = mem(traces, n_blocks=8).isel(layer=0)
    assert float(data["kl"]) < 0.01
    assert int(data["n_owners"]) == 8
    assert data["mem_state"].item() == "collapsed"
    assert (data["block_kl"] > 0.5).all()


def test_who_does_not_own():
    # An expert of nearly every token everywhere, and one that has half of them in a range.
    always = mem(routed(lambda rng, x: np.where(rng.random(x.shape) < 0.9, 3, uniform(rng, x))))
    half = mem(routed(lambda rng, x: owned(rng, x, share=0.4)), n_blocks=16)
    # One text alone, and four of which one shows it.
    one = mem(routed(owned, n_sequences=1), n_blocks=16)
    index = routed(uniform, n_sequences=4)["expert_index"].values
    index[:, :1] = routed(owned, n_sequences=1)["expert_index"].values
    single = mem(im.traces_from_arrays(index, num_experts=8), n_blocks=16)
    for data in (always, half, one, single):
        assert (data["n_owners"] == 0).all()
    assert half["mem_state"].item() != "collapsed"
    # What every text begins with: listed, and no collapse.
    first = mem(routed(lambda rng, x: np.where(x < 8, 2, uniform(rng, x)), length=256), n_blocks=32)
    assert first["owned"].values[0, 2].nonzero()[0].tolist() == [0]
    assert int(first["n_owners"][0]) == 1
    assert first["mem_state"].item() != "collapsed"


def test_rates_that_are_too_stable():
    stable = mem(routed(round_robin, n_layers=3), n_blocks=12)
    assert (stable["stability"] < 0.5).all()
    assert (stable["stability_p_value"] <= 1 / 200).all()
    free = mem(routed(uniform, n_layers=3), n_blocks=12)
    assert (free["stability_p_value"] > 0.01).all()
    assert (free["stability"] > 0.7).all()


def test_texts_that_make_up_for_each_other_are_stable_over_their_scatter():
    """Every two texts use complementary experts at each position; each alone remembers."""
    rng = np.random.default_rng(9)
    one = np.repeat(rng.integers(0, 8, (20, 32)), 8, axis=1)
    index = np.stack([one, (one + 4) % 8], 1).reshape(40, 256) // 4
    traces = im.traces_from_arrays(index[None, :, :, None], num_experts=2)
    data = mem(traces, n_blocks=8)
    assert float(data["stability_clustered"][0]) == 0
    assert float(data["stability_clustered_p_value"][0]) < 1e-6


@pytest.mark.parametrize("k", [1, 3])
def test_every_expert_for_every_token(make_traces, k):
    traces = make_traces(num_experts=k, top_k=k, n_positions=20)
    data = mem(traces)
    assert (data["mem_state"] == "equilibrium").all()
    assert (data["mem_p_value"] == 1).all()
    assert (data["block_kl_p_value"] == 1).all()
    np.testing.assert_allclose(data["block_kl"], 0, atol=1e-12)
    assert (data["n_owners"] == 0).all()


def test_one_sequence_takes_tokens_as_independent():
    uneven = mem(routed(lambda rng, x: rng.integers(0, 5, x.shape), n_sequences=1))
    assert uneven["mem_p_value"].isnull().all()
    assert uneven["mem_kl_null"].isnull().all()
    assert uneven["block_p_value"].isnull().all()
    assert uneven["mem_state"].item() == "imbalanced"
    assert np.isfinite(uneven["stability"]).all()
    even = mem(routed(uniform, n_sequences=1))
    assert even["mem_state"].item() == "equilibrium"


def test_edges(make_traces):
    token = mem(make_traces(n_positions=1, n_sequences=3))
    assert token.sizes["block"] == 1
    same = mem(im.traces_from_arrays(np.full((1, 5, 20, 1), 2), num_experts=4))
    assert same["mem_state"].item() == "collapsed"
    # Texts that are all alike have no scatter: what is left is the null of independent tokens.
    assert float(same["mem_p_value"][0]) == float(same["kl_p_value"][0]) < 1e-20
    np.testing.assert_array_equal(same["block_p_value"], same["block_kl_p_value"])
    # A gap in all sequences leaves a block without tokens.
    index = np.random.default_rng(0).integers(0, 4, (1, 5, 30, 1))
    index[:, :, 10:20] = -1
    empty = mem(im.traces_from_arrays(index, num_experts=4), n_blocks=3).isel(layer=0)
    for name in ("block_entropy", "block_kl", "block_kl_null", "block_p_value"):
        assert np.isnan(empty[name].values).tolist() == [False, True, False], name
    unranked = mem(make_traces(ranked=False, ragged=True, gaps=0.3))
    assert unranked["mem_p_value"].notnull().all()


def test_labels_seeds_and_layers(make_traces):
    traces = make_traces(n_layers=3, n_positions=30)
    data, again = mem(traces, seed=1), mem(traces, seed=1)
    xr.testing.assert_identical(data, again)
    for name, variable in data.data_vars.items():
        assert {"long_name", "units"} <= set(variable.attrs), name
    assert '"verb": "mem"' in data.attrs["provenance"]
    alone = mem(traces.isel(layer=[2]), seed=1)
    xr.testing.assert_allclose(data.isel(layer=[2]), alone)
    assert not data["block_kl_p_value"].equals(mem(traces, seed=2)["block_kl_p_value"])
    seen = []
    mem(traces, track=lambda places: seen.append(len(places)) or places)
    assert seen == [3]


def test_bad_arguments_are_refused(make_traces):
    traces = make_traces(n_positions=30, n_sequences=24)
    with pytest.raises(ValueError, match="n_simulations: expected at least 1, got 0"):
        mem(traces, n_simulations=0)
    with pytest.raises(TypeError, match=r"n_simulations: expected an integer, got 1\.5"):
        mem(traces, n_simulations=1.5)
    with pytest.raises(ValueError, match="n_blocks: expected at least 1"):
        mem(traces, n_blocks=0)
    fit = im.fit(traces.isel(layer=[0]), coupling="none")
    with pytest.raises(ValueError, match=r"layer: expected layers of the fit, got \[7\]"):
        mem(traces, fit)
    with pytest.raises(ValueError, match="top_k: expected 2 as in the fit, got 3"):
        mem(make_traces(top_k=3), fit)


@pytest.fixture(scope="module")
def chained():
    """A kinetic chain of two of five experts, and a long trace of it."""
    rng = np.random.default_rng(1)
    chain = im.KineticChain(J=rng.normal(size=(5, 5)), h=rng.normal(size=5) / 2, top_k=2)
    index = draw(chain, 40, 500, n_burn=100, seed=2)
    return chain, im.traces_from_arrays(index[None], num_experts=5, ranked=False)


def test_free_energy_of_a_kinetic_chain(chained):
    chain, traces = chained
    fit = im.fit(traces, estimator=im.MaximumLikelihood(l2=0))
    data = mem(traces, fit, n_simulations=1).isel(layer=0)
    exact = im.solve(chain)
    assert float(data["entropy"]) == pytest.approx(float(exact["entropy"]), rel=0.01)
    assert float(data["entropy"]) == pytest.approx(
        float(fit.data["bits_per_token"][0]) * np.log(2), rel=1e-9
    )
    part = traces.isel(sequence=slice(3))
    few = free_energies(fit, part).isel(layer=0)
    fitted = fit.chain(0)
    energy, free_energy = naive_positions.kinetic_reading(fitted, part["expert_index"].values[0])
    assert float(few["energy"]) == pytest.approx(energy, rel=1e-9)
    assert float(few["free_energy"]) == pytest.approx(free_energy, rel=1e-9)
    assert float(few["entropy"]) == pytest.approx(energy - free_energy, rel=1e-9)
    assert float(data["free_energy_uniform"]) == pytest.approx(-np.log(comb(5, 2)))
    assert data["free_energy"] < data["free_energy_uniform"]


@pytest.mark.parametrize("options", [{}, {"chain": "topk"}, {"reach": 2, "chain": "potts"}])
def test_free_energy_of_an_equilibrium_chain(options, make_traces):
    """F is that of the chain itself; U and S where its load and pairs are the data's."""
    rng = np.random.default_rng(5)
    top_k = 2 if options.get("chain") == "topk" else 1
    chain = im.KineticChain(J=rng.normal(size=(5, 5)), h=rng.normal(size=5) / 2, top_k=top_k)
    index = draw(chain, 30, 400, n_burn=50, seed=6)
    traces = im.traces_from_arrays(index[None], num_experts=5, ranked=top_k == 1)
    if options:
        options = {**options, "estimator": im.Pseudolikelihood(l2=0.1)}
    fit = im.fit(traces, **{"chain": "potts", **options})
    data = free_energies(fit, traces).isel(layer=0)
    exact = im.solve(fit.chain(0), max_distance=0)
    for name, tolerance in {"free_energy": 1e-9, "energy": 0.02, "entropy": 0.02}.items():
        assert float(data[name]) == pytest.approx(float(exact[name]), abs=tolerance), name
    assert float(data["free_energy_uniform"]) == pytest.approx(-np.log(comb(5, top_k)))


def test_free_energy_of_ising_chains(chained):
    _, traces = chained
    fit = im.fit(traces, chain="ising")
    data = free_energies(fit, traces).isel(layer=0)
    exact = [im.solve(fit.chain(0, e), max_distance=0) for e in range(5)]
    for name in ("energy", "entropy", "free_energy"):
        wanted = sum(float(one[name]) for one in exact)
        tolerance = 1e-9 if name == "free_energy" else 0.01
        assert float(data[name]) == pytest.approx(wanted, abs=tolerance), name
    # Five independent spins, each on with the chance 2/5.
    field = np.arctanh(2 * 0.4 - 1)
    single = im.solve(im.IsingChain(J=0.0, h=float(field)), max_distance=0)
    assert float(data["free_energy_uniform"]) == pytest.approx(5 * float(single["free_energy"]))


@pytest.mark.parametrize(
    "options",
    [
        {"coupling": "none", "field": "none"},
        {"chain": "topk", "coupling": "none", "field": "none"},
    ],
    ids=["kinetic", "topk"],
)
def test_without_couplings_and_fields_it_is_the_uniform_router(make_traces, options):
    traces = make_traces(n_positions=30, n_sequences=24)
    data = free_energies(im.fit(traces, **options), traces)
    uniform_value = -np.log(comb(6, 2))
    np.testing.assert_allclose(data["energy"], 0, atol=1e-9)
    np.testing.assert_allclose(data["free_energy"], uniform_value)
    np.testing.assert_allclose(data["free_energy_uniform"], uniform_value)
    np.testing.assert_allclose(data["entropy"], -uniform_value)


def test_fields_of_position_count_and_those_of_texts_do_not(chained):
    _, traces = chained
    fit = im.fit(traces, field="position+sequence", position=im.Blocks(3))
    plain = im.fit(traces)
    one, other = (free_energies(found, traces).isel(layer=0) for found in (fit, plain))
    assert float(one["entropy"]) == pytest.approx(float(other["entropy"]), rel=0.01)
    assert one["entropy"] != other["entropy"]


def test_free_energies_where_the_chain_is_too_large():
    rng = np.random.default_rng(0)
    index = rng.integers(0, 17, (1, 40, 250, 1))
    traces = im.traces_from_arrays(index, num_experts=17)
    fit = im.fit(traces, chain="potts", reach=3, estimator=im.Pseudolikelihood(l2=5.0))
    data = free_energies(fit, traces)
    assert np.isfinite(data["energy"]).all()
    assert data["free_energy"].isnull().all()
    assert data["entropy"].isnull().all()


@pytest.mark.shared
def test_real_traces(shared_traces):
    deepseek = mem(im.open_traces(shared_traces / "deepseek-v2-lite.nc"), n_simulations=19)
    assert (deepseek["mem_state"] == "imbalanced").all()
    assert (deepseek["effective_experts"] > 58).all()
    assert deepseek["owned"].sel(layer=1).values.nonzero()[0].tolist() == [8]
    mixtral = mem(im.open_traces(shared_traces / "mixtral-8x7b.nc"), n_simulations=19)
    # Four texts: of half the layers no more can be said than that nothing is seen.
    assert (mixtral["mem_state"] == "imbalanced").sum() < 6
    undecided = mixtral["mem_state"].values == "undecided"
    assert 5 < undecided.sum() < 25
    assert (mixtral["mem_kl_null"].values[undecided] > 0.05).all()
    flame = mem(im.open_traces(shared_traces / "flame-moe-290m.nc"), n_simulations=1)
    assert (flame["mem_state"] != "undecided").all()
    assert (mixtral["kl_p_value"] < 0.05).sum() > 25
