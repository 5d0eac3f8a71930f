"""Goodness of fit: what it measures, that it draws from the fit, its size and its power."""

import json
import warnings

import naive_goodness as naive
import numpy as np
import pytest
import xarray as xr

import isingmoe as im
from isingmoe._kernels import on_off, returning
from isingmoe._seeds import generators
from isingmoe.bootstrap_fits import Request, redrawn
from isingmoe.forward import draw
from isingmoe.goodness import goodness_of_fit
from isingmoe.likelihood import pair_counts
from isingmoe.markov_draws import MarkovDraws
from isingmoe.observables import centred_correlation
from isingmoe.prediction import predicted_correlation
from isingmoe.simulated_tests import departures, p_values
from isingmoe.traces import pack_layer


def fitted(traces, **options):
    """A fit with no more errors than it must have, and without advice on short traces."""
    if options.get("chain", "potts") != "kinetic":
        options = {"uncertainty": "information", "n_resamples": 2, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", im.ShortTraceWarning)
        warnings.simplefilter("ignore", im.DegenerateTraceWarning)
        return im.fit(traces, **options)


def traces_of(states, q):
    return im.traces_from_arrays(np.asarray(states, np.int16)[None, :, :, None], num_experts=q)


def markov_traces(seed, q=4, n_sequences=20, length=60, stay=0.3):
    """Traces of a random Markov chain."""
    rng = np.random.default_rng(seed)
    P = (1 - stay) * rng.dirichlet(np.ones(q), q) + stay * np.eye(q)
    law = np.linalg.matrix_power(P, 4096)[0]
    shape = np.zeros((n_sequences, length), np.int16)
    return traces_of(MarkovDraws(P, law / law.sum()).like(shape, rng), q)


def kinetic_traces(seed, n_sequences=12, length=60, between=0.0, along=0.0, q=4):
    rng = np.random.default_rng(seed)
    h = 0.4 * rng.normal(size=q) + along * np.repeat(rng.normal(size=(3, q)), length // 3, 0)
    chain = im.KineticChain(J=0.6 * rng.normal(size=(q, q)), h=h, top_k=2, n_sites=length)
    by_sequence = between * rng.normal(size=(n_sequences, q))
    index = draw(chain, n_sequences, length, by_sequence=by_sequence, n_burn=30, seed=rng)
    return im.traces_from_arrays(index[None], num_experts=q, ranked=False)


def request(centre="global", n_distances=10, refit=True):
    return Request(centre, n_distances, refit, 0)


class TestDepartures:
    def test_against_loops(self):
        curves = np.random.default_rng(0).normal(size=(9, 5)) ** 3
        np.testing.assert_allclose(departures(curves, 1.0), naive.departures(curves), rtol=1e-10)

    def test_curves_that_are_all_equal(self):
        assert (departures(np.ones((4, 3)), 1.0) == 0).all()
        assert (departures(np.zeros((4, 3)), 0.0) == 0).all()

    def test_rounding_is_nothing(self):
        curves = np.array([[0.0], [1e-17], [-1e-17], [0.0]])
        assert np.abs(departures(curves, 1.0)).max() < 1e-4

    def test_one_that_differs_from_equal_ones_is_far(self):
        z = departures(np.array([[1.0], [0.0], [0.0], [0.0]]), 1.0)
        assert z[0, 0] > 1e6
        assert np.abs(z[1:]).max() < 1

    def test_p_values(self):
        assert p_values(np.array([3.0, 1.0, 2.0, 0.0])) == 0.25
        assert p_values(np.array([1.0, 1.0 - 1e-14, 2.0, 0.0])) == 0.75
        assert p_values(np.zeros(5)) == 1
        drawn = np.random.default_rng(1).normal(size=(20, 4))
        expected = [naive.p_value(column[0], column[1:]) for column in drawn.T]
        np.testing.assert_array_equal(p_values(drawn), expected)


class TestMeasured:
    """C(d) from bits, against pairs counted one by one."""

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("chain", ["potts", "ising", "kinetic"])
    def test_against_pairs(self, make_traces, seed, chain):
        traces = make_traces(
            n_sequences=6, n_positions=75, num_experts=5, ragged=True, gaps=0.1, seed=seed
        )
        fit = fitted(traces, chain=chain, uncertainty="none" if chain == "kinetic" else None)
        index = traces["expert_index"].values[1].copy()
        if chain == "potts":
            index = index[..., :1]
        elif chain == "kinetic":
            # A token that lacks an expert is none.
            index[(index < 0).any(-1)] = -1
        measured = redrawn(fit, traces, 1, request(n_distances=72)).observed().measured
        np.testing.assert_allclose(measured, naive.correlation(index, 5, 71), atol=1e-14)

    @pytest.mark.parametrize("centre", ["position", "sequence"])
    @pytest.mark.parametrize("chain", ["potts", "ising"])
    @pytest.mark.parametrize("n_experts", [6, 64])
    def test_other_centres(self, make_traces, centre, chain, n_experts):
        traces = make_traces(n_positions=30, num_experts=n_experts, ragged=True, gaps=0.05)
        options = {"primary": chain == "potts", "centre": centre, "max_distance": 9}
        expected = im.correlation(traces, n_resamples=2, **options)["correlation"][0]
        layer = redrawn(fitted(traces, chain=chain), traces, 0, request(centre))
        np.testing.assert_allclose(layer.observed().measured, expected, atol=1e-13)

    @pytest.mark.parametrize("chain", ["potts", "ising", "kinetic"])
    def test_the_curve_is_measured_less_predicted(self, chain):
        traces = im.example_traces().isel(layer=[1, 2])
        if chain == "kinetic":
            traces = traces.isel(sequence=slice(0, 8))
        fit = fitted(traces, chain=chain)
        found = goodness_of_fit(fit, traces, max_distance=20, n_simulations=2)
        options = {"primary": chain == "potts", "max_distance": 20, "n_resamples": 2}
        measured = im.correlation(traces, **options)["correlation"]
        predicted = predicted_correlation(fit, 20)
        # Of many sets two runs of the chain.
        error = 6 * np.sqrt(2) * predicted["predicted_error"].values.max()
        expected = (measured - predicted["predicted"]).values
        np.testing.assert_allclose(found["discrepancy_curve"], expected, atol=error + 1e-9)

    def test_equal_pairs_over_several_words(self):
        rng = np.random.default_rng(4)
        states = rng.integers(-1, 3, (2, 200)).astype(np.int16)
        pairs, equal = returning.equal_apart(states, 2, 210)
        for d in (0, 1, 63, 64, 65, 127, 128, 199, 205):
            begun = [naive.stays(states, d, 3)[j].sum() for j in range(2)]
            assert [pairs[d], equal[d]] == begun


class TestDrawn:
    def test_experts_go_on_and_off_as_they_should(self):
        to_on = np.array([[0.2, 0.1, 0.6], [0.5, 0.5, 0.5], [0.0, 0.0, 1.0], [1.0, 0.7, 1.0]])
        n, length = 301, 150
        known = np.full((n, 3), ~np.uint64(0))
        known[:, 2] >>= np.uint64(3 * 64 - length)
        thresholds = np.rint(to_on * 2.0**32).astype(np.uint64)
        rows = on_off.draw_on_off(generators(0, 4), thresholds, known)
        bits = np.unpackbits(rows.view(np.uint8), axis=-1, bitorder="little")
        assert not bits[..., length:].any()
        on = bits[..., :length].astype(bool)
        for expert, chances in enumerate(to_on):
            x = on[expert]
            events = (x[:, 0], x[:, 1:][~x[:, :-1]], x[:, 1:][x[:, :-1]])
            for event, chance in zip(events, chances, strict=True):
                if event.size:
                    error = np.sqrt(chance * (1 - chance) / event.size)
                    assert abs(event.mean() - chance) <= 4 * error
        # Sequences and experts have nothing to do with one another.
        for one, other in ((on[0, 0], on[0, 1]), (on[0, -1], on[0, -2]), (on[0, 0], on[1, 0])):
            assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(length) * 2

    def test_pairs_of_bits(self):
        rng = np.random.default_rng(0)
        known = rng.random((4, 150)) < 0.9
        on = (rng.random((3, 4, 150)) < 0.4) & known
        packed = [np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 42)]) for x in (on, known)]
        rows, words = (np.packbits(x, -1, "little").view(np.uint64) for x in packed)
        both, near = on_off.on_apart(rows, words, 160)
        for d in (0, 1, 2, 63, 64, 100, 149, 155):
            apart = on[..., d:] & on[..., : max(150 - d, 0)]
            np.testing.assert_array_equal(both[:, d], apart.sum((1, 2)))
        np.testing.assert_array_equal(near[:, 0], (on[..., :-1] & known[:, 1:]).sum((1, 2)))
        np.testing.assert_array_equal(near[:, 1], (on[..., 1:] & known[:, :-1]).sum((1, 2)))

    @pytest.mark.parametrize("chain", ["potts", "ising"])
    def test_a_fit_to_the_data_themselves_is_the_fit(self, make_traces, chain):
        traces = make_traces(n_sequences=8, n_positions=60, ragged=True, gaps=0.05)
        layer = redrawn(fitted(traces, chain=chain), traces, 0, request())
        counts = pair_counts(traces, 0, chain)
        if chain == "ising":
            both, near = layer._apart(layer._rows)
            np.testing.assert_array_equal(layer._counts(both, near), counts)
        curve = layer._refitted(counts)
        np.testing.assert_allclose(curve, layer.observed().predicted, atol=1e-12)

    @pytest.mark.parametrize("chain", ["potts", "ising", "kinetic"])
    def test_simulations_are_of_the_fit(self, chain):
        """Their mean curve is that of the chain, but for what means of short texts take off."""
        traces = kinetic_traces(1, n_sequences=60, length=201)
        if chain == "potts":
            traces = markov_traces(1, n_sequences=60, length=200)
        fit = fitted(traces, chain=chain)
        layer = redrawn(fit, traces, 0, request(refit=False))
        seeds = np.random.SeedSequence(0).spawn(40)
        curves = np.array([layer.simulated(seed).measured for seed in seeds])
        expected = predicted_correlation(fit, 9)["predicted"].values[0]
        z = (curves.mean(0) - expected) / (curves.std(0, ddof=1) / np.sqrt(40))
        assert np.abs(z[1:]).max() < 4

    def test_fields_along_the_text_begin_where_the_sequence_does(self):
        h = np.zeros((30, 3))
        h[np.arange(30), np.arange(30) % 3] = 60
        chain = im.KineticChain(J=0.0, h=h, top_k=1, n_sites=30)
        first = np.array([0, 1, 5, 20])
        drawn = draw(chain, 4, 10, first=first, n_burn=3)[..., 0]
        np.testing.assert_array_equal(drawn, (first[:, None] + np.arange(10)) % 3)
        with pytest.raises(ValueError, match="first: expected at most 20, got 21"):
            draw(chain, 4, 10, first=first + 1)
        with pytest.raises(ValueError, match="first: expected a site for each of 4 sequences"):
            draw(chain, 4, 10, first=first[:2])

    def test_seeds_and_layers(self, make_traces):
        traces = make_traces(n_positions=40)
        fit = fitted(traces, chain="potts")
        one = goodness_of_fit(fit, traces, n_simulations=5, seed=3)
        xr.testing.assert_equal(one, goodness_of_fit(fit, traces, n_simulations=5, seed=3))
        other = goodness_of_fit(fit, traces, n_simulations=5, seed=4)
        assert not np.allclose(one["discrepancy_null"], other["discrepancy_null"])
        assert not np.allclose(one["discrepancy_null"][0], one["discrepancy_null"][1])


def rejected(traces, seed, n_simulations=39, max_distance=32, centre="global", **options):
    fit = fitted(traces, **options)
    found = goodness_of_fit(
        fit,
        traces,
        n_simulations=n_simulations,
        max_distance=max_distance,
        centre=centre,
        seed=seed,
    )
    assert not found["n_unfinished"].any()
    return found["discrepancy_p_value"].item() <= 0.05


def within(share, n, least=0.0):
    """Whether a share of rejections is that of 5 %, by the binomial law."""
    error = np.sqrt(0.05 * 0.95 / n)
    return max(least, 0.05 - 3.3 * error) <= share <= 0.05 + 3.3 * error


class TestSize:
    """At 5 % no more than 5 % of data sets of the model are rejected."""

    def test_potts(self):
        share = np.mean([rejected(markov_traces(seed), seed, chain="potts") for seed in range(100)])
        assert within(share, 100), share

    def test_kinetic(self):
        share = np.mean(
            [rejected(kinetic_traces(seed), seed, 19, chain="kinetic") for seed in range(15)]
        )
        assert within(share, 15), share

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("shape", "centre"),
        [
            ((4, 20, 60, 0.3), "global"),
            ((4, 20, 60, 0.3), "sequence"),
            ((4, 20, 60, 0.3), "position"),
            ((32, 8, 256, 0.0), "global"),
            ((3, 1, 500, 0.8), "global"),
        ],
    )
    def test_potts_over_1000_data_sets(self, shape, centre):
        share = np.mean(
            [
                rejected(markov_traces(seed, *shape), seed, chain="potts", centre=centre)
                for seed in range(1000)
            ]
        )
        assert within(share, 1000), share

    @pytest.mark.slow
    @pytest.mark.parametrize("coupling", ["none", "uniform", "symmetric"])
    def test_couplings_of_potts_chains(self, coupling):
        rng = np.random.default_rng(0)
        found = []
        for seed in range(100):
            J = rng.normal(size=(3, 3)) * (coupling == "symmetric")
            J = 0.3 * (J + J.T) + np.eye(3) * (coupling == "uniform")
            fit = fitted(markov_traces(0, 3), chain="potts")
            fit.data["J"].values[:] = J
            traces = im.generate(fit, n_sequences=20, length=60, seed=seed)
            found.append(rejected(traces, seed, 19, chain="potts", coupling=coupling))
        assert within(np.mean(found), 100), np.mean(found)

    @pytest.mark.slow
    def test_ising_over_1000_data_sets(self):
        """Of experts each for itself, which sets of exactly k are not: on the rows of bits."""
        rng = np.random.default_rng(0)
        traces = kinetic_traces(0, n_sequences=15, length=60, q=8)
        found = []
        for seed in range(1000):
            fit = fitted(traces, chain="ising")
            fit.data["J"].values[:] = 0.3 * rng.normal(size=(1, 8))
            fit.data["h"].values[:] = 0.3 * rng.normal(size=(1, 8))
            layer = redrawn(fit, traces, 0, request(n_distances=33))
            rows = on_off.draw_on_off(generators(rng, 8), layer._to_on, layer._known)
            # What was drawn is the data now, and its fit the chain.
            both, near = layer._apart(rows)
            fit = _ising_fit(fit, layer, layer._counts(both, near))
            again = redrawn(fit, traces, 0, request(n_distances=33))
            curves = [(again._measured(rows, both), again.observed().predicted)]
            curves += [again.simulated(s) for s in np.random.SeedSequence(seed).spawn(39)]
            z = departures(np.array([m - p for m, p in curves])[:, 1:], 1.0)
            found.append(p_values((z**2).mean(1)) <= 0.05)
        assert within(np.mean(found), 1000), np.mean(found)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("options", "drawn"),
        [
            ({}, {}),
            ({"field": "sequence"}, {"between": 0.6}),
            ({"field": "position", "position": im.Blocks(3)}, {"along": 0.8}),
        ],
    )
    def test_kinetic_over_more_data_sets(self, options, drawn):
        share = np.mean(
            [
                rejected(kinetic_traces(seed, **drawn), seed, 19, chain="kinetic", **options)
                for seed in range(100)
            ]
        )
        # A prior draws the chains that are simulated together, and random fields are those of
        # other texts: it may reject less.
        assert within(max(share, 0.05), 100), share


def _ising_fit(fit, layer, counts):
    known = layer._family.estimate(counts)
    data = fit.data.copy(deep=True)
    data["J"].values[:], data["h"].values[:] = known.J, known.h
    return im.Fit(data)


class TestPower:
    @pytest.mark.parametrize("chain", ["potts", "ising"])
    def test_a_power_law_tail(self, chain):
        states = naive.power_law_states(np.random.default_rng(0), 20, 150, 4, 1.2)
        traces = traces_of(states, 4)
        found = goodness_of_fit(fitted(traces, chain=chain), traces, seed=1)
        assert found["discrepancy_p_value"].item() == 0.01
        assert found["discrepancy"].item() > 3 * found["discrepancy_null"].max()

    def test_a_power_law_tail_and_a_kinetic_chain(self):
        states = naive.power_law_states(np.random.default_rng(3), 20, 150, 4, 1.2)
        traces = traces_of(states, 4)
        found = goodness_of_fit(fitted(traces, chain="kinetic"), traces)
        assert found.sizes["simulation"] == 19
        assert found["discrepancy_p_value"].item() == 0.05

    @pytest.mark.parametrize("chain", ["potts", "kinetic"])
    def test_a_difference_between_texts(self, chain):
        """Seen about the global mean, and no fault of a chain with a field for each text."""
        traces = kinetic_traces(5, n_sequences=30, between=1.0)
        if chain == "potts":
            traces = traces.isel(rank=[0]).assign_attrs(top_k=1)
        assert rejected(traces, 0, 19, chain=chain)
        if chain == "kinetic":
            assert not rejected(traces, 0, 19, chain=chain, field="sequence")

    def test_a_drift_along_the_text(self):
        traces = kinetic_traces(6, n_sequences=40, along=1.2)
        assert rejected(traces, 0, 19, chain="kinetic")
        options = {"field": "position", "position": im.Blocks(3)}
        assert not rejected(traces, 0, 19, chain="kinetic", **options)

    def test_a_longer_reach(self):
        rng = np.random.default_rng(2)
        J = np.stack([np.zeros((4, 4)), 1.5 * np.eye(4)])
        chain = im.KineticChain(J=J, h=0.3 * rng.normal(size=4), top_k=2)
        index = draw(chain, 20, 80, n_burn=30, seed=1)
        traces = im.traces_from_arrays(index[None], num_experts=4, ranked=False)
        assert rejected(traces, 0, 19, chain="kinetic")
        assert not rejected(traces, 0, 19, chain="kinetic", reach=2)

    @pytest.mark.shared
    @pytest.mark.parametrize("chain", ["potts", "ising"])
    def test_real_traces_have_slow_tails(self, shared_traces, chain):
        traces = im.open_traces(shared_traces / "gpt-oss-20b.nc").sel(layer=[11])
        found = goodness_of_fit(fitted(traces, chain=chain), traces)
        assert found["discrepancy_p_value"].item() == 0.01
        # At every distance beyond the neighbours more than the chain says.
        assert (found["discrepancy_curve_z"].values[0, 2:] > 10).all()

    @pytest.mark.slow
    @pytest.mark.shared
    @pytest.mark.parametrize("field", ["expert", "position+sequence"])
    def test_real_traces_against_kinetic_chains(self, shared_traces, field):
        traces = im.open_traces(shared_traces / "gpt-oss-20b.nc").sel(layer=[11])
        fit = im.fit(traces, chain="kinetic", field=field, uncertainty="none")
        found = goodness_of_fit(fit, traces)
        assert found["discrepancy_p_value"].item() == 0.05
        assert found["discrepancy"].item() > 3 * found["discrepancy_null"].max()


class TestLimits:
    @pytest.mark.parametrize("chain", ["potts", "ising", "kinetic"])
    def test_one_sequence_and_idle_experts(self, chain):
        rng = np.random.default_rng(0)
        traces = traces_of(rng.integers(0, 3, (1, 120)), 6)
        found = goodness_of_fit(fitted(traces, chain=chain), traces, n_simulations=9)
        assert found.sizes["distance"] == 65
        assert np.isfinite(found["discrepancy_curve_z"].values[0, 1:]).all()
        assert found["discrepancy_p_value"].item() >= 0.1

    @pytest.mark.parametrize("chain", ["potts", "ising", "kinetic"])
    def test_two_tokens(self, chain):
        # The first token of all is not predicted, and a kinetic chain needs two that are.
        traces = traces_of([[0, 1, 2] if chain == "kinetic" else [0, 1]], 3)
        found = goodness_of_fit(fitted(traces, chain=chain), traces, n_simulations=9)
        assert found["distance"].values.tolist() == [0, 1, 2][: traces.sizes["position"]]
        assert np.isfinite(found["discrepancy_p_value"]).all()

    def test_sequences_shorter_than_the_largest_distance(self, make_traces):
        traces = make_traces(n_sequences=6, n_positions=9, ragged=True)
        for chain in ("potts", "ising", "kinetic"):
            found = goodness_of_fit(fitted(traces, chain=chain), traces, n_simulations=3)
            assert found["distance"].values.tolist() == list(range(9))

    def test_a_distance_without_pairs(self):
        states = np.full((3, 9), -1)
        states[:, :4], states[0, 8] = [[0, 1, 1, 0]] * 3, 1
        traces = traces_of(states, 2)
        found = goodness_of_fit(fitted(traces, chain="potts"), traces, n_simulations=9)
        z = found["discrepancy_curve_z"].values[0]
        # 4 is between what the last token is from the others and what these are from each other.
        assert np.flatnonzero(np.isnan(z)).tolist() == [0, 4]
        assert np.isfinite(found["discrepancy"]).all()

    @pytest.mark.parametrize("chain", ["potts", "ising"])
    def test_without_couplings(self, chain):
        rng = np.random.default_rng(1)
        traces = traces_of(rng.integers(0, 4, (20, 60)), 4)
        for coupling in ("none", "uniform"):
            fit = fitted(traces, chain=chain, coupling=coupling)
            found = goodness_of_fit(fit, traces, n_simulations=19)
            # Two states of an expert that exclude each other are twice as many as independent.
            assert found["discrepancy_p_value"].item() > 0.05
        fit = fitted(traces, chain="kinetic", coupling="none")
        assert goodness_of_fit(fit, traces)["discrepancy_p_value"].item() > 0.05

    def test_without_a_pseudocount(self):
        traces = traces_of(np.array([[0, 1, 1, 0, 0, 2, 0, 1, 2, 2, 1, 0]] * 4), 3)
        options = {"chain": "potts", "estimator": im.MaximumLikelihood(pseudocount=0)}
        fit = fitted(traces, **options)
        found = goodness_of_fit(fit, traces, n_simulations=19)
        assert np.isfinite(found["discrepancy_null"]).all()

    def test_what_was_cross_validated_stays(self):
        traces = kinetic_traces(0, n_sequences=6, length=30)
        options = {"chain": "kinetic", "estimator": im.MaximumLikelihood(l2="cv")}
        found = goodness_of_fit(fitted(traces, **options), traces, n_simulations=2)
        assert np.isfinite(found["discrepancy"]).all()
        options = {"chain": "kinetic", "field": "position", "position": "cv"}
        found = goodness_of_fit(fitted(traces, **options), traces, n_simulations=2)
        assert np.isfinite(found["discrepancy"]).all()

    def test_decays_and_starts(self):
        traces = kinetic_traces(0, n_sequences=6, length=42)
        start = np.array([0, 7, 0, 100, 3, 11], np.int32)
        traces = traces.assign(start_position=("sequence", start))
        options = {"reach": 3, "decay": "power-law", "field": "position+sequence"}
        found = goodness_of_fit(fitted(traces, chain="kinetic", **options), traces, n_simulations=2)
        assert np.isfinite(found["discrepancy"]).all()


class TestOtherTraces:
    def test_they_are_compared_with_the_chain_as_it_is(self):
        fit = fitted(markov_traces(0, n_sequences=200), chain="potts")
        same, other = markov_traces(0, n_sequences=30), markov_traces(0, stay=0.8)
        found = goodness_of_fit(fit, same, n_simulations=39)
        assert found.attrs["refit"] == 0
        assert found["discrepancy_p_value"].item() > 0.05
        assert goodness_of_fit(fit, other, n_simulations=39)["discrepancy_p_value"].item() < 0.05

    def test_kinetic_chains_too(self):
        fit = fitted(kinetic_traces(0, n_sequences=200), chain="kinetic")
        found = goodness_of_fit(fit, kinetic_traces(0, n_sequences=20), n_simulations=19)
        assert found.attrs["refit"] == 0
        assert found["discrepancy_p_value"].item() > 0.05
        found = goodness_of_fit(fit, kinetic_traces(0, between=1.5), n_simulations=19)
        assert found["discrepancy_p_value"].item() == 0.05

    def test_the_own_are_known(self):
        traces = markov_traces(0)
        fit = fitted(traces, chain="potts")
        assert goodness_of_fit(fit, traces, n_simulations=2).attrs["refit"] == 1
        assert goodness_of_fit(fit, traces, n_simulations=2, refit=False).attrs["refit"] == 0


def test_what_is_returned(make_traces):
    traces = make_traces(n_positions=30)
    steps = []

    def track(items):
        for item in items:
            steps.append(item)
            yield item

    found = goodness_of_fit(
        fitted(traces, chain="potts"), traces, n_simulations=4, max_distance=5, seed=8, track=track
    )
    assert steps == list(range(8))
    assert found.sizes == {"layer": 2, "distance": 6, "simulation": 4}
    assert all(found[name].attrs["long_name"] for name in found.data_vars)
    z = found["discrepancy_curve_z"].values[:, 1:]
    np.testing.assert_allclose((z**2).mean(1), found["discrepancy"], rtol=1e-12)
    for place in range(2):
        expected = naive.p_value(found["discrepancy"][place], found["discrepancy_null"][place])
        assert found["discrepancy_p_value"].values[place] == expected
    provenance = json.loads(found.attrs["provenance"])
    assert provenance["verb"] == "goodness_of_fit"
    assert provenance["seed"] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"centre": "text"}, "centre: expected one of global, position, sequence, got 'text'"),
        ({"max_distance": 0}, "max_distance: expected at least 1, got 0"),
        ({"n_simulations": 1}, "n_simulations: expected an integer of at least 2, got 1"),
        ({"n_simulations": True}, "n_simulations: expected"),
        ({"seed": -2}, "seed: expected"),
    ],
)
def test_bad_arguments(make_traces, options, message):
    traces = make_traces()
    with pytest.raises(ValueError, match=message):
        goodness_of_fit(fitted(traces, chain="potts"), traces, **options)


def test_chains_that_cannot_be_drawn(make_traces):
    traces = make_traces(n_positions=40)
    fits = [
        fitted(traces, chain="topk", uncertainty="none"),
        fitted(traces, chain="potts", estimator=im.Pseudolikelihood(), uncertainty="none"),
    ]
    for fit, name in zip(fits, ("topk", "potts"), strict=True):
        with pytest.raises(ValueError, match=f"fit: expected kinetic or potts .* got {name}; "):
            goodness_of_fit(fit, traces)


def test_traces_that_do_not_go_with_the_fit(make_traces):
    traces = make_traces()
    fit = fitted(traces, chain="potts")
    with pytest.raises(ValueError, match="num_experts: expected 6 as in the fit, got 7"):
        goodness_of_fit(fit, make_traces(num_experts=7))
    with pytest.raises(ValueError, match=r"layer: the fit has \[3\], the traces do not"):
        goodness_of_fit(fit, traces.isel(layer=[1]))
    with pytest.raises(ValueError, match="'position' needs at least two sequences"):
        goodness_of_fit(fit, traces.isel(sequence=[0]), centre="position")
    with pytest.raises(ValueError, match="length: expected a sequence of at least two tokens"):
        goodness_of_fit(fit, make_traces(n_positions=1))
    with pytest.raises(ValueError, match="top_k: expected 2 as in the fit, got 1"):
        goodness_of_fit(fitted(traces, chain="kinetic"), make_traces(top_k=1))
    with pytest.raises(ValueError, match="ranked: expected 1 for a primary expert"):
        goodness_of_fit(fit, make_traces(ranked=False))


def test_centred_correlation_is_that_of_correlation(make_traces):
    traces = make_traces(n_positions=30, ragged=True)
    for centre in ("global", "position", "sequence"):
        expected = im.correlation(traces, primary=False, centre=centre, max_distance=8)
        found = centred_correlation(pack_layer(traces, 0, primary=False), 6, np.arange(9), centre)
        np.testing.assert_allclose(found, expected["correlation"][0], atol=1e-14)
