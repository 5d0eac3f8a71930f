"""Where the bits of routing go, on traces that were made to know."""

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from naive import enumerate_sets

import isingmoe as im
from isingmoe.forward import draw
from isingmoe.loads import conditional_field

NESTED = ["load", "position", "topic", "neighbour", "memory"]


def of_chain(chain, n_sequences=40, length=150, seed=0, **options):
    index = draw(chain, n_sequences, length, n_burn=50, seed=seed, **options)
    return im.traces_from_arrays(
        index[None], num_experts=chain.n_states, ranked=False, layer=[7], model="drawn"
    )


def bits_of_load(marginal, k):
    """Entropy of sets that are drawn with given chances of the experts, and no more."""
    member, _, p = enumerate_sets(conditional_field(np.asarray(marginal), k), k)
    np.testing.assert_allclose(p @ member, marginal, rtol=1e-6)
    return -(p * np.log2(p)).sum()


def shares(budget):
    row = budget.data.isel(layer=0)
    return {
        s: (float(row["bits"].sel(share=s)), float(row["bits_error"].sel(share=s)))
        for s in row["share"].values.tolist()
    }


@pytest.fixture(scope="module", params=[1, 2], ids=["one expert", "two experts"])
def known(request):
    """A chain of neighbours, and the budget of a trace of it."""
    rng = np.random.default_rng(request.param)
    J = 1.5 * np.eye(5) + 0.7 * rng.normal(size=(5, 5))
    chain = im.KineticChain(J=J, h=rng.normal(size=5) / 2, top_k=request.param)
    return chain, im.budget(of_chain(chain), reach=2)


def test_shares_sum_to_what_a_uniform_router_has(known):
    chain, budget = known
    data = budget.data
    assert data["share"].values.tolist() == [*NESTED, "left"]
    assert data["model"].values.tolist() == NESTED
    np.testing.assert_allclose(data["bits"].sum("share"), data["bits_uniform"], rtol=1e-12)
    assert float(data["bits_uniform"][0]) == pytest.approx(np.log2({1: 5, 2: 10}[chain.top_k]))
    left = data["held_out_bits"].isel(model=-1).values
    np.testing.assert_allclose(data["bits"].sel(share="left"), left, rtol=1e-12)


def test_the_neighbour_tells_what_the_exact_entropies_say(known):
    chain, budget = known
    exact, found = im.solve(chain), shares(budget)
    alone = bits_of_load(exact["marginal"].values, chain.top_k)
    left = float(exact["entropy"]) / np.log(2)
    expected = {
        "load": float(budget.data["bits_uniform"][0]) - alone,
        "position": 0,
        "topic": 0,
        "neighbour": alone - left,
        "memory": 0,
        "left": left,
    }
    for share, (bits, error) in found.items():
        assert 0 <= error < 0.04, share
        # What fitting costs on texts that were not seen: far below a hundredth of a bit.
        assert abs(bits - expected[share]) < 3 * error + 0.005, share
    assert found["neighbour"][0] > 0.1


def test_topics_and_drifts_are_told_from_memory():
    """No couplings: loads that differ between texts, and one that changes along all of them."""
    rng = np.random.default_rng(3)
    texts = 0.8 * rng.normal(size=(40, 5))
    topics = shares(
        im.budget(
            of_chain(im.KineticChain(J=np.zeros((5, 5)), top_k=2), by_sequence=texts),
            coupling="diagonal",
            reach=2,
            n_folds=3,
        )
    )
    bits, error = topics["topic"]
    assert bits > 5 * error > 0
    drift = np.outer(np.cos(np.pi * np.arange(150) / 150), rng.normal(size=5))
    along = im.KineticChain(J=np.zeros((5, 5)), h=drift, top_k=2, n_sites=150)
    drifts = shares(im.budget(of_chain(along), coupling="diagonal", reach=1, n_folds=3))
    bits, error = drifts["position"]
    assert bits > 5 * error > 0
    for found, others in (
        (topics, ("load", "position", "neighbour", "memory")),
        (drifts, ("topic", "neighbour")),
    ):
        for share in others:
            assert abs(found[share][0]) < 3 * found[share][1] + 0.01, share
    assert "memory" not in drifts


@pytest.fixture(scope="module")
def by_token():
    """Every token id has its own set of experts, and ids come in no order."""
    rng = np.random.default_rng(4)
    ids = rng.integers(0, 8, (12, 60))
    sets = np.sort(rng.random((8, 6)).argsort(1)[:, :2], 1)
    return im.traces_from_arrays(
        sets[ids][None], num_experts=6, ranked=False, token_id=ids, layer=[3]
    )


def test_ids_that_determine_the_experts(by_token):
    budget = im.budget(by_token, reach=1, n_folds=3)
    data, found = budget.data, shares(budget)
    assert data["model"].values.tolist() == [
        "load",
        "position",
        "topic",
        "neighbour",
        "token",
        "all",
    ]
    assert data["share"].values.tolist() == [
        "load",
        "position",
        "topic",
        "neighbour",
        "token",
        "left",
    ]
    uniform = float(data["bits_uniform"][0])
    assert sum(bits for bits, _ in found.values()) == pytest.approx(uniform)
    assert abs(found["neighbour"][0]) < 3 * found["neighbour"][1] + 0.02
    # Ids have a field drawn from a normal law: nothing is ever quite certain.
    open_to_ids = uniform - found["load"][0]
    assert found["token"][0] > 0.9 * open_to_ids
    assert found["left"][0] < 0.1 * open_to_ids
    alone = float(data["bits_token_alone"][0])
    load, token = data["held_out_bits"].sel(model=["load", "token"]).values[0]
    assert alone == pytest.approx(load - token)
    assert alone == pytest.approx(found["token"][0], abs=0.05)
    everything = float(data["held_out_bits"].sel(model="all")[0])
    beyond = float(data["bits_beyond_token"][0])
    assert beyond == pytest.approx(token - everything)
    assert abs(beyond) < 3 * float(data["bits_beyond_token_error"][0]) + 0.02
    assert "token alone" in str(budget)
    assert "beyond token" in str(budget)


def test_ids_that_say_nothing(by_token):
    rng = np.random.default_rng(5)
    index = rng.random((12, 60, 6)).argsort(-1)[None, ..., :2]
    traces = by_token.assign(
        expert_index=by_token["expert_index"].copy(data=index.astype(np.int16))
    )
    budget = im.budget(traces, reach=1, n_folds=2)
    bits, error = shares(budget)["token"]
    assert abs(bits) < 3 * error + 0.005
    alone = budget.data.isel(layer=0)
    assert abs(alone["bits_token_alone"]) < 3 * alone["bits_token_alone_error"] + 0.005


@pytest.mark.parametrize("unknown", ["absent", "all -1"])
def test_without_ids_there_is_no_share_of_the_token(by_token, unknown):
    if unknown == "absent":
        traces = by_token.drop_vars("token_id")
    else:
        traces = by_token.assign(token_id=by_token["token_id"] * 0 - 1)
    budget = im.budget(traces, reach=1, n_folds=2)
    assert "token" not in budget.data["share"]
    assert "bits_token_alone" not in budget.data
    assert "token" not in str(budget).split("\n")[2]


def test_an_id_that_is_seen_once_has_the_load(by_token):
    """Ids of a held-out text that no other text has predict what the load does."""
    ids = np.arange(by_token["token_id"].size, dtype=np.int32).reshape(by_token["token_id"].shape)
    budget = im.budget(
        by_token.assign(token_id=by_token["token_id"].copy(data=ids)), reach=1, n_folds=2
    )
    bits, error = shares(budget)["token"]
    assert abs(bits) < 3 * error + 0.02


def test_a_budget_is_a_file_and_back(known, tmp_path):
    _, budget = known
    budget.save(tmp_path / "budget.nc")
    again = im.open_budget(tmp_path / "budget.nc")
    xr.testing.assert_identical(again.data, budget.data)
    assert str(again) == str(budget)
    with pytest.raises(OSError, match="exists and is kept"):
        budget.save(tmp_path / "budget.nc")
    im.fit(of_chain(im.KineticChain(J=np.eye(3)), 12, 50)).save(tmp_path / "fit.nc")
    with pytest.raises(ValueError, match="make one with `isingmoe budget`"):
        im.open_budget(tmp_path / "fit.nc")


def test_report_has_a_column_for_each_share(known):
    _, budget = known
    text = str(budget)
    assert (
        "drawn: bits per token on held-out sequences (5 folds), coupling full, memory up to 2"
        in text
    )
    assert all(share in text for share in [*NESTED, "left"])
    assert "\n     7  " in text


def test_same_seed_same_numbers():
    traces = of_chain(im.KineticChain(J=0.5 * np.eye(4), top_k=2), 8, 40)
    options = {"reach": 1, "coupling": "uniform", "n_folds": 2}
    first, second, other = (im.budget(traces, seed=s, **options) for s in (1, 1, 2))
    xr.testing.assert_identical(first.data, second.data)
    assert not first.data["bits"].equals(other.data["bits"])


def test_criteria_and_parameters(known):
    """AIC and BIC are those of the fits to all texts, and near what is held out."""
    _, budget = known
    row = budget.data.isel(layer=0)
    n = 40 * 148
    np.testing.assert_allclose(
        row["bic_bits"] - row["aic_bits"],
        row["n_effective"] * (np.log(n) / 2 - 1) / n / np.log(2),
        rtol=1e-9,
    )
    np.testing.assert_allclose(row["aic_bits"], row["held_out_bits"], atol=0.01)
    assert 3.9 < row["n_effective"].sel(model="load") < 4.1


def test_what_cannot_be_scored_is_refused():
    traces = of_chain(im.KineticChain(J=np.eye(4)), 6, 30)
    with pytest.raises(ValueError, match="at least two sequences and two folds, got 1 and 5"):
        im.budget(traces.isel(sequence=[0]))
    with pytest.raises(ValueError, match="at least two sequences and two folds, got 6 and 1"):
        im.budget(traces, n_folds=1)
    with pytest.raises(ValueError, match="coupling: expected one that is not 'none'"):
        im.budget(traces, coupling="none")
    with pytest.raises(ValueError, match="reach: expected at least 1, got 0"):
        im.budget(traces, reach=0)
    with pytest.raises(ValueError, match="expected 41 neighbouring tokens"):
        im.budget(traces, reach=40)


def test_bars_are_stacked(known, by_token):
    mpl.use("Agg")
    _, budget = known
    ax = im.plot_budget(budget)
    bars = [container for container in ax.containers if hasattr(container, "patches")]
    heights = [bar.patches[0].get_height() for bar in bars]
    np.testing.assert_allclose(heights, budget.data["bits"].isel(layer=0))
    assert "drawn" in ax.get_title()
    assert len(ax.get_legend().get_texts()) == len(heights)
    mpl.pyplot.close("all")
