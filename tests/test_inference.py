"""Fits of traces: defaults, recovery, held-out score, and what is refused."""

import json
import warnings

import numpy as np
import pytest
import xarray as xr
from naive import pair_counts, simulate_markov

import isingmoe as im
from isingmoe.couplings import zero_sum
from isingmoe.inference import score
from isingmoe.prior import evidence_pseudocount
from isingmoe.stationary import markov_chain


def potts_traces(J, h, *, n_sequences=20, length=400, n_layers=1, seed=0):
    rng = np.random.default_rng(seed)
    transition = markov_chain(np.asarray(J) + np.asarray(h))[1]
    states = np.stack(
        [simulate_markov(transition, n_sequences, length, rng) for _ in range(n_layers)]
    )
    return im.traces_from_arrays(states[..., None], num_experts=len(h))


def top_k_traces(seed=0, *, n_experts=6, k=2, n_sequences=8, n_positions=60, ranked=True):
    rng = np.random.default_rng(seed)
    keys = rng.random((2, n_sequences, n_positions, n_experts))
    # Neighbours share keys, so that they share experts.
    keys[:, :, 1:] += 0.7 * keys[:, :, :-1]
    index = np.argsort(keys, -1)[..., :k].astype(np.int16)
    return im.traces_from_arrays(index, num_experts=n_experts, ranked=ranked, layer=[3, 7])


def test_defaults_follow_the_trace():
    """Whole sets where a token has several experts, in order or not; else the one there is."""
    several = im.fit(top_k_traces(n_sequences=12)).settings
    assert several == {
        "chain": "kinetic",
        "coupling": "full",
        "field": "expert",
        "reach": 1,
        "decay": None,
        "position": None,
        "estimator": im.MaximumLikelihood(),
    }
    assert im.fit(top_k_traces(n_sequences=12, ranked=False)).settings == several
    one = im.fit(top_k_traces(k=1, n_sequences=12)).settings
    assert (one["chain"], one["coupling"], one["field"]) == ("potts", "full", "expert")
    ising = im.fit(top_k_traces(n_sequences=12), chain="ising")
    assert ising.settings["coupling"] == "diagonal"
    assert im.fit(top_k_traces(n_sequences=12), chain="topk").settings["estimator"] == (
        im.Pseudolikelihood()
    )


def test_errors_compare_sequences_where_there_are_several():
    traces = top_k_traces(n_sequences=12)
    one = top_k_traces(n_sequences=1, n_positions=500)
    for chain in ("kinetic", "potts", "ising"):
        assert im.fit(traces, chain=chain).data.attrs["uncertainty"] == "sandwich"
        assert im.fit(one, chain=chain).data.attrs["uncertainty"] == "information"
    for chain in ("potts", "ising"):
        with pytest.raises(ValueError, match=f"the {chain} chain of largest likelihood couples"):
            im.fit(traces, chain=chain, reach=2)


def test_fitted_chain_is_the_one_that_made_the_data():
    rng = np.random.default_rng(1)
    J, h = zero_sum(rng.normal(size=(4, 4)), rng.normal(size=4) / 2)
    fit = im.fit(potts_traces(J, h, n_sequences=50, length=2000))
    z = (fit.data["J"].values[0] - J) / fit.data["J_error"].values[0]
    assert np.abs(z).max() < 4.5
    exact = im.solve(im.PottsChain(J=J, h=h))
    fitted = im.solve(fit.chain(layer=0))
    assert fitted["correlation_length"].item() == pytest.approx(
        exact["correlation_length"].item(), rel=0.05
    )
    assert fit.data["correlation_length"].item() == pytest.approx(
        fitted["correlation_length"].item(), rel=1e-9
    )
    np.testing.assert_allclose(fit.data["marginal"][0], fitted["marginal"], rtol=1e-9)


def test_log_likelihood_and_bits():
    rng = np.random.default_rng(2)
    traces = potts_traces(rng.normal(size=(3, 3)), np.zeros(3))
    fit = im.fit(traces, estimator=im.MaximumLikelihood(pseudocount=0))
    counts = pair_counts(traces["expert_index"].values[0, :, :, 0], 3)
    transition = counts / counts.sum(1, keepdims=True)
    value = (counts * np.log(transition)).sum()
    data = fit.data.isel(layer=0)
    assert data["log_likelihood"].item() == pytest.approx(value, rel=1e-12)
    assert data["bits_per_token"].item() == pytest.approx(-value / counts.sum() / np.log(2))
    assert data["bits_uniform"].item() == pytest.approx(np.log2(3))
    load = counts.sum(0) / counts.sum()
    assert data["bits_load"].item() == pytest.approx(-(load * np.log2(load)).sum())
    assert data["n_pairs"].item() == counts.sum()
    assert data["n_parameters"].item() == 4 + 2


def test_gaps_and_ends_make_no_pairs():
    states = np.array([[0, 1, -1, 1, 0], [1, 0, 1, -1, -1]], np.int16)
    traces = im.traces_from_arrays(states[None, :, :, None], num_experts=2, length=[5, 3])
    with pytest.warns(im.ShortTraceWarning):
        fit = im.fit(traces)
    assert fit.data["n_pairs"].item() == 4


def test_evidence_pseudocount_is_small_where_rows_differ_and_large_where_they_do_not():
    rng = np.random.default_rng(0)
    structured = pair_counts(simulate_markov(0.9 * np.eye(8) + 0.1 / 8, 20, 1000, rng), 8)
    noise = pair_counts(rng.integers(0, 8, (20, 1000)), 8)
    assert 8 * evidence_pseudocount(structured) < 0.01 * structured.sum() / 8
    assert 8 * evidence_pseudocount(noise) > 0.3 * noise.sum() / 8


def test_evidence_is_that_of_a_dirichlet_prior():
    """Against the probability of the pairs one after another, each given those before."""
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 4, (3, 3)) + 1
    load = (counts.sum(0) + 0.5) / (counts.sum() + 1.5)

    def log_evidence(m):
        total = 0.0
        for row in counts:
            seen = np.zeros(3)
            for b in np.repeat(np.arange(3), row):
                total += np.log((seen[b] + m * load[b]) / (seen.sum() + m))
                seen[b] += 1
        return total

    grid = np.exp(np.linspace(np.log(1e-2), np.log(counts.sum() / 3), 400))
    best = grid[np.argmax([log_evidence(m) for m in grid])]
    assert 3 * evidence_pseudocount(counts) == pytest.approx(best, rel=0.05)


def test_default_pseudocount_hardly_pulls_towards_independence():
    """64 experts and 25 000 tokens: six pairs for a parameter."""
    q, stay = 64, 0.8
    transition = stay * np.eye(q) + (1 - stay) / q
    states = simulate_markov(transition, 25, 1000, np.random.default_rng(0))
    fit = im.fit(im.traces_from_arrays(states[None, :, :, None], num_experts=q))
    predicted = im.solve(fit.chain(0), max_distance=5)["correlation"].values
    expected = (1 - 1 / q) * stay ** np.arange(6)
    np.testing.assert_allclose(predicted[:2], expected[:2], rtol=0.05)


def test_load_alone_is_the_entropy_of_the_load():
    rng = np.random.default_rng(1)
    load = 1 / np.arange(1, 129) ** 1.2
    load /= load.sum()
    drawn = rng.choice(128, size=(1, 10, 1000, 1), p=load)
    fit = im.fit(im.traces_from_arrays(drawn, num_experts=128), coupling="uniform")
    entropy = -(load * np.log2(load)).sum()
    assert fit.data["bits_load"].item() == pytest.approx(entropy, abs=0.05)


def test_score_on_other_traces_is_that_of_the_fit():
    fit = im.fit(potts_traces(2 * np.eye(4), np.zeros(4)))
    other = potts_traces(np.zeros((4, 4)), np.zeros(4), seed=9)
    scored, same = score(fit, other)
    assert not same
    transition = markov_chain(fit.log_weight())[1][0]
    counts = pair_counts(other["expert_index"].values[0, :, :, 0], 4)
    expected = -(counts * np.log2(transition)).sum() / counts.sum()
    assert scored["bits_per_token"].item() == pytest.approx(expected)
    assert expected > 2.1
    assert "was not fitted to" in str(im.compare(fit, other, max_distance=3))
    again, same = score(fit, potts_traces(2 * np.eye(4), np.zeros(4)))
    assert same
    assert again["bits_per_token"].item() == pytest.approx(fit.data["bits_per_token"].item())


def test_pseudocount_keeps_a_pair_that_never_occurs_finite():
    states = np.tile(np.array([0, 1, 2], np.int16), (5, 40))
    traces = im.traces_from_arrays(states[None, :, :, None], num_experts=4)
    fit = im.fit(traces, uncertainty="information")
    assert np.isfinite(fit.data["J"]).all()
    assert np.isfinite(fit.data["J_error"]).all()
    with pytest.raises(ValueError, match="pseudocount: expected a positive number"):
        im.fit(traces, estimator=im.MaximumLikelihood(pseudocount=0))


@pytest.mark.parametrize("chain", ["potts", "ising"])
def test_every_family_fits_and_prints(chain):
    traces = top_k_traces(n_sequences=20)
    couplings = (
        "none",
        "uniform",
        "diagonal",
        *(("symmetric", "full") if chain == "potts" else ()),
    )
    scores = []
    for coupling in couplings:
        for field in ("none", "expert"):
            fit = im.fit(traces, chain=chain, coupling=coupling, field=field)
            assert fit.data["converged"].all()
            for name, variable in fit.data.items():
                assert np.isfinite(variable).all(), name
            text = str(fit)
            assert f"{chain} chain, coupling {coupling}, field {field}" in text
            assert all(f"\n     {layer}  " in text for layer in (3, 7))
        scores.append(float(fit.data["log_likelihood"].sum()))
    assert (np.diff(scores) > -1).all()


def test_ising_fit_of_each_expert():
    traces = top_k_traces(n_sequences=30)
    fit = im.fit(traces, chain="ising", estimator=im.MaximumLikelihood(pseudocount=0))
    on = im.occupancy(traces).values[1, :, :, 4]
    counts = pair_counts(on, 2)
    chain = fit.chain(layer=7, expert=4)
    exact = im.solve(chain)
    transition = counts / counts.sum(1, keepdims=True)
    second = transition[1, 1] - transition[0, 1]
    assert exact["correlation"][1].item() / exact["correlation"][0].item() == pytest.approx(second)
    np.testing.assert_allclose(exact["marginal"][1], fit.data["marginal"].sel(layer=7, expert=4))


@pytest.mark.parametrize(
    "kind",
    [
        {"chain": "potts"},
        {"chain": "ising", "coupling": "uniform", "field": "none"},
        {"chain": "topk", "coupling": "full", "uncertainty": "information"},
        {"chain": "kinetic", "coupling": "full", "uncertainty": "information"},
        {
            "chain": "kinetic",
            "coupling": "full",
            "reach": 3,
            "decay": "exponential",
            "field": "position+sequence",
            "position": im.Blocks(3),
            "uncertainty": "information",
        },
    ],
    ids=lambda kind: "-".join(map(str, kind.values())),
)
def test_a_fit_is_a_file_and_back(tmp_path, kind):
    fit = im.fit(top_k_traces(n_sequences=12), **kind)
    fit.save(tmp_path / "fit.nc")
    again = im.open_fit(tmp_path / "fit.nc")
    xr.testing.assert_identical(fit.data, again.data)
    assert again.settings == fit.settings
    assert str(again) == str(fit)
    provenance = json.loads(again.data.attrs["provenance"])
    assert provenance["verb"] == "fit"
    for name in ("chain", "coupling", "uncertainty"):
        assert provenance["arguments"][name] == fit.data.attrs[name]


def test_a_fit_says_which_file_it_is_of(tmp_path):
    traces_file = tmp_path / "traces.nc"
    im.save_traces(top_k_traces(n_sequences=12), traces_file)
    fit = im.fit(im.open_traces(traces_file), chain="potts")
    provenance = json.loads(fit.data.attrs["provenance"])
    assert provenance["input"]["file"] == "traces.nc"
    assert len(provenance["input"]["sha256"]) == 64


@pytest.mark.parametrize("chain", ["potts", "ising", "kinetic"])
def test_layers_are_the_models_own_numbers(chain):
    traces = top_k_traces(n_sequences=12)
    fit = im.fit(traces, chain=chain)
    assert fit.data["layer"].values.tolist() == [3, 7]
    alone = im.fit(traces.sel(layer=[7]), chain=chain)
    np.testing.assert_array_equal(alone.data["J"][0], fit.data["J"].sel(layer=7))


def test_held_out_score_is_that_of_the_other_folds():
    traces = top_k_traces(n_sequences=2)
    scores = im.cross_validate(traces, chain="potts", n_folds=2)
    states = traces["expert_index"].values[0, :, :, 0]
    first, second = (pair_counts(states[[s]], 6) for s in (0, 1))
    lost = 0.0
    for known, held_out in ((first, second), (second, first)):
        load = (known.sum(0) + 0.5) / (known.sum() + 3)
        floor = min(0.5, 0.01 * known.sum() / 36)
        padded = known + np.maximum(6 * evidence_pseudocount(known) * load, floor)
        lost -= (held_out * np.log2(padded / padded.sum(1, keepdims=True))).sum()
    assert scores["held_out_bits"][0].item() == pytest.approx(lost / (first + second).sum())


def test_held_out_score_of_kinetic_chains_is_that_of_the_other_folds():
    traces = top_k_traces(n_sequences=12).sel(layer=[7])
    known = {"estimator": im.MaximumLikelihood(l2=3.0), "coupling": "diagonal"}
    scores = im.cross_validate(traces, n_folds=2, **known)
    order = np.random.default_rng(0).permutation(12)
    halves = [traces.isel(sequence=np.sort(part)) for part in np.array_split(order, 2)]
    lost = 0.0
    for train, test in (halves, halves[::-1]):
        fit = im.fit(train, uncertainty="information", **known)
        lost += im.inference.score(fit, test)[0]["bits_per_token"].item() / 2
    assert scores["held_out_bits"].item() == pytest.approx(lost, rel=1e-6)


def test_held_out_score_tells_structure_from_noise():
    rng = np.random.default_rng(3)
    structured = potts_traces(2 * np.eye(5), np.zeros(5))
    score = im.cross_validate(structured)
    assert score["held_out_bits"].item() < score["held_out_bits_load"].item() - 0.2
    noise = im.traces_from_arrays(rng.integers(0, 30, (1, 10, 60, 1)), num_experts=30)
    score = im.cross_validate(noise)
    assert score["held_out_bits"].item() > score["held_out_bits_load"].item()


@pytest.mark.parametrize("chain", ["potts", "kinetic"])
def test_no_convergence_raises_with_the_fit(chain):
    traces, once = top_k_traces(n_sequences=20), im.MaximumLikelihood(max_iterations=1)
    with pytest.raises(im.ConvergenceError, match="raise max_iterations") as caught:
        im.fit(traces, chain=chain, coupling="diagonal", estimator=once)
    assert not caught.value.fit.data["converged"].all()


def test_short_traces_warn_and_long_ones_do_not():
    short = top_k_traces(n_sequences=1, n_positions=21)
    for kind in ({"chain": "potts"}, {"chain": "kinetic", "uncertainty": "information"}):
        with pytest.warns(im.ShortTraceWarning, match="20 pairs of tokens for 30 parameters"):
            im.fit(short, **kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        im.fit(top_k_traces(n_sequences=10), chain="potts")
        im.fit(top_k_traces(n_sequences=10))


def test_errors_by_the_spread_of_few_sequences_warn():
    traces = top_k_traces(n_sequences=8)
    with pytest.warns(im.ShortTraceWarning, match="sandwich errors compare .* are 8: they are rou"):
        im.fit(traces)
    one = top_k_traces(n_sequences=1, n_positions=500)
    assert im.fit(one).data.attrs["uncertainty"] == "information"
    for uncertainty in ("sandwich", "bootstrap"):
        with pytest.raises(ValueError, match="compares sequences, and there is one"):
            im.fit(one, uncertainty=uncertainty)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"chain": "heisenberg"}, "chain: expected one of kinetic, potts, ising, topk, got"),
        ({"coupling": "weak"}, "coupling: expected one of none, uniform, diagonal"),
        ({"field": "site"}, "field: expected one of none, expert, position, sequence or a sum"),
        ({"chain": "potts", "field": "site"}, "field: expected one of none, expert of a potts"),
        ({"chain": "ising", "coupling": "full"}, "coupled to itself alone"),
    ],
)
def test_unknown_families_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        im.fit(top_k_traces(), **arguments)


def test_an_unranked_trace_has_no_primary_expert():
    with pytest.raises(ValueError, match="use chain='ising'"):
        im.fit(top_k_traces(ranked=False), chain="potts")


def test_ids_out_of_range_are_caught_without_validation():
    traces = top_k_traces()
    traces["expert_index"][0, 0, 0, 0] = 9
    for chain in ("potts", "ising", "kinetic"):
        with pytest.raises(ValueError, match="expert_index: expected ids"):
            im.fit(traces, chain=chain)


def test_bad_estimators_and_chains_of_a_fit_are_named():
    with pytest.raises(ValueError, match="pseudocount: expected a number from 0 up, got -1"):
        im.MaximumLikelihood(pseudocount=-1)
    for estimator in (im.MaximumLikelihood, im.Pseudolikelihood):
        with pytest.raises(ValueError, match="max_iterations"):
            estimator(max_iterations=0)
        for l2 in (-1, "cross", True, float("nan")):
            with pytest.raises(ValueError, match="l2: expected a number from 0 up or 'cv', got"):
                estimator(l2=l2)
    padded, drawn = im.MaximumLikelihood(pseudocount=1), im.MaximumLikelihood(l2=1)
    with pytest.raises(ValueError, match="pseudocount: kinetic chains have none, got 1; use l2"):
        im.fit(top_k_traces(), estimator=padded)
    for chain in ("potts", "ising"):
        with pytest.raises(ValueError, match=f"l2: {chain} chains have none, got 1; use pseudo"):
            im.fit(top_k_traces(), chain=chain, estimator=drawn)
    for chain in ("potts", "kinetic"):
        fit = im.fit(top_k_traces(n_sequences=12), chain=chain)
        with pytest.raises(ValueError, match=r"layer: expected one of \[3, 7\], got 0"):
            fit.chain(layer=0)
        with pytest.raises(ValueError, match=f"a {chain} chain holds all experts"):
            fit.chain(layer=3, expert=1)
    ising = im.fit(top_k_traces(n_sequences=12), chain="ising")
    with pytest.raises(ValueError, match=r"expected 0\.\.5, got None"):
        ising.chain(layer=3)
