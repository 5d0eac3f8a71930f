"""The Chapman-Kolmogorov test: counts, errors, size and power."""

import json

import naive_goodness as naive
import numpy as np
import pytest
import xarray as xr

import isingmoe as im
from isingmoe._kernels import returning
from isingmoe.markov_draws import MarkovDraws
from isingmoe.markov_test import chapman_kolmogorov


def traces_of(states, q):
    return im.traces_from_arrays(np.asarray(states, np.int16)[None, :, :, None], num_experts=q)


def random_chain(rng, q, stay=0.3):
    """A transition matrix, and its stationary law."""
    P = (1 - stay) * rng.dirichlet(np.ones(q), q) + stay * np.eye(q)
    law = np.linalg.matrix_power(P, 4096)[0]
    return P, law / law.sum()


def drawn(rng, P, law, n_sequences, length):
    seed = np.random.SeedSequence(int(rng.integers(1 << 60)))
    return MarkovDraws(P, law).like(np.zeros((n_sequences, length), np.int16), seed)


@pytest.mark.parametrize("seed", range(6))
def test_persistence_is_that_of_counted_pairs(make_traces, seed):
    traces = make_traces(
        n_sequences=7, n_positions=70, num_experts=4, ragged=True, gaps=0.1, seed=seed
    )
    found = chapman_kolmogorov(traces, distances=[2, 3, 7], n_simulations=2, n_resamples=2)
    for place in range(traces.sizes["layer"]):
        states = traces["expert_index"].values[place, :, :, 0]
        measured, predicted = naive.persistence(states, [2, 3, 7], 4)
        np.testing.assert_allclose(found["persistence"][place], measured, rtol=1e-13)
        np.testing.assert_allclose(found["persistence_predicted"][place], predicted, rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_kernel_counts_pairs(seed):
    rng = np.random.default_rng(seed)
    states = rng.integers(-1, 5, (3, 90)).astype(np.int16)
    distances = np.array([1, 2, 64, 89, 95])
    begun, stayed = returning.stays(states, distances, 5)
    for j, d in enumerate(distances):
        expected = naive.stays(states, d, 5)
        np.testing.assert_array_equal(begun[:, j].sum(0), expected[0])
        np.testing.assert_array_equal(stayed[:, j].sum(0), expected[1])


def test_persistence_agrees_with_deeptime():
    from deeptime.markov import TransitionCountEstimator
    from deeptime.markov.msm import MaximumLikelihoodMSM
    from deeptime.util.validation import ck_test

    rng = np.random.default_rng(3)
    P, law = random_chain(rng, 4)
    states = drawn(rng, P, law, 12, 300)
    trajectories = [row.astype(np.int32) for row in states]
    models = []
    for lag in (1, 2, 4, 8):
        counts = TransitionCountEstimator(lag, "sliding").fit_fetch(trajectories)
        models.append(MaximumLikelihoodMSM(reversible=False).fit_fetch(counts))

    def persistence(model, mlag=1):
        matrix = np.linalg.matrix_power(model.transition_matrix, round(mlag))
        return np.diag(matrix)

    theirs = ck_test(models, persistence, include_lag0=False)
    ours = chapman_kolmogorov(traces_of(states, 4), distances=[2, 4, 8], n_simulations=2)
    np.testing.assert_allclose(ours["persistence"][0], theirs.estimates[1:], rtol=1e-10)
    np.testing.assert_allclose(ours["persistence_predicted"][0], theirs.predictions[1:], rtol=1e-10)


def test_errors_are_the_spread_of_data_sets():
    rng = np.random.default_rng(5)
    P, law = random_chain(rng, 3)
    many = np.array(
        [naive.persistence(drawn(rng, P, law, 40, 50), [2, 4], 3)[0] for _ in range(150)]
    )
    found = [
        chapman_kolmogorov(
            traces_of(drawn(rng, P, law, 40, 50), 3), distances=[2, 4], n_simulations=2
        )["persistence_error"][0]
        for _ in range(20)
    ]
    np.testing.assert_allclose(np.mean(found, 0), many.std(0), rtol=0.25)


def test_errors_of_one_sequence_are_those_of_pairs():
    rng = np.random.default_rng(1)
    states = drawn(rng, *random_chain(rng, 3), 1, 400)
    found = chapman_kolmogorov(traces_of(states, 3), distances=[2], n_simulations=2)
    begun, _ = naive.stays(states, 2, 3)
    share = found["persistence"].values[0, 0]
    expected = np.sqrt(share * (1 - share) / begun)
    np.testing.assert_allclose(found["persistence_error"].values[0, 0], expected)


def size_of(n_sets, seed, q=4, n_sequences=20, length=60):
    """Share of data sets of Markov chains that are rejected at 5 %, overall and by distance."""
    rng = np.random.default_rng(seed)
    rejected = []
    for _ in range(n_sets):
        states = drawn(rng, *random_chain(rng, q), n_sequences, length)
        found = chapman_kolmogorov(
            traces_of(states, q), n_simulations=39, n_resamples=2, seed=int(rng.integers(1 << 30))
        )
        values = np.r_[found["ck_p_value"].values, found["ck_p_value_distance"].values[0]]
        rejected.append(values <= 0.05)
    return np.mean(rejected, 0)


def test_size():
    sizes = size_of(200, 11)
    assert np.abs(sizes - 0.05).max() < 3.3 * np.sqrt(0.05 * 0.95 / 200), sizes


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 20, 60), (16, 20, 200), (3, 1, 500)])
def test_size_over_1000_data_sets(shape):
    sizes = size_of(1000, 12, *shape)
    assert np.abs(sizes - 0.05).max() < 3.2 * np.sqrt(0.05 * 0.95 / 1000), sizes


@pytest.mark.slow
def test_size_where_pairs_of_states_are_rare():
    """One pair of tokens for two pairs of states: the estimated chain is rougher than the true."""
    sizes = size_of(1000, 12, 64, 8, 256)
    assert sizes[0] < 0.05 + 3.2 * np.sqrt(0.05 * 0.95 / 1000), sizes
    assert sizes.max() < 0.1, sizes


def test_power_against_a_power_law_tail():
    states = naive.power_law_states(np.random.default_rng(0), 20, 150, 4, 1.2)
    found = chapman_kolmogorov(traces_of(states, 4), seed=1)
    assert found["ck_p_value"].item() == 0.01
    assert (found["ck_p_value_distance"].values[0, :3] == 0.01).all()
    assert found["ck_discrepancy"].item() > 3


def test_power_against_texts_of_different_load():
    rng = np.random.default_rng(2)
    law = rng.dirichlet(np.ones(4), 20)
    states = np.array([rng.choice(4, 100, p=row) for row in law])
    found = chapman_kolmogorov(traces_of(states, 4), seed=1)
    assert found["ck_p_value"].item() == 0.01


@pytest.mark.shared
def test_real_traces_are_not_markov(shared_traces):
    traces = im.open_traces(shared_traces / "gpt-oss-20b.nc").sel(layer=[11])
    found = chapman_kolmogorov(traces)
    assert found["ck_p_value"].item() == 0.01
    excess = (found["persistence"] - found["persistence_predicted"]).values[0]
    primary = traces["expert_index"].values[0, :, :, 0]
    load = np.bincount(primary.ravel(), minlength=32) / primary.size
    # At all distances up to 32 an average token returns more often than the chain says.
    assert (np.nansum(excess * load, 1) > 0.05).all()


def test_idle_experts_and_those_that_only_end_a_text():
    states = np.array([[0, 1, 0, 1, 1, 0, 2], [1, 0, 0, 1, 0, 1, 2]])
    found = chapman_kolmogorov(traces_of(states, 5), n_simulations=19)
    persistence = found["persistence"].values[0, 0]
    assert np.isfinite(persistence[:2]).all()
    assert np.isnan(persistence[2:]).all()
    assert np.isnan(found["persistence_predicted"].values[0, 0, 2:]).all()
    assert np.isfinite(found["ck_p_value"]).all()


def test_tokens_that_are_all_equal():
    found = chapman_kolmogorov(traces_of(np.zeros((3, 9)), 4), n_simulations=5)
    assert found["ck_p_value"].item() == 1
    assert (found["persistence"].values[0, :, 0] == 1).all()
    assert found["ck_discrepancy"].item() == 0


def test_gaps_at_the_start_keep_the_first_token():
    rng = np.random.default_rng(0)
    states = np.full((6, 30), -1, np.int16)
    for s, begin in enumerate([0, 3, 7, 0, 12, 29]):
        states[s, begin:] = rng.integers(0, 3, 30 - begin)
    states[4, 20] = -1
    again = MarkovDraws(*random_chain(rng, 3)).like(states, 0, keep_first=True)
    np.testing.assert_array_equal(again < 0, states < 0)
    for row, own in zip(states, again, strict=True):
        begin = np.flatnonzero(row >= 0)[0]
        assert own[begin] == row[begin]


def test_a_sequence_without_tokens_stays_without():
    states = np.full((2, 8), -1, np.int16)
    states[1] = [0, 1, 1, 0, 1, 0, 0, 1]
    again = MarkovDraws(np.full((2, 2), 0.5)).like(states, 3, keep_first=True)
    assert (again[0] == -1).all()
    assert (again[1] >= 0).all()


def test_draws_have_the_transitions_of_the_chain():
    rng = np.random.default_rng(8)
    P, law = random_chain(rng, 5)
    states = drawn(rng, P, law, 400, 100)
    counts = naive.pair_matrix(states, 5)
    leaving = counts.sum(1, keepdims=True)
    z = (counts - leaving * P) / np.sqrt(leaving * P * (1 - P))
    assert np.abs(z).max() < 4
    first = np.bincount(states[:, 0], minlength=5)
    assert np.abs((first - 400 * law) / np.sqrt(400 * law * (1 - law))).max() < 4


def test_layers_do_not_depend_on_one_another(make_traces):
    traces = make_traces(n_sequences=4, n_positions=40, num_experts=3)
    both = chapman_kolmogorov(traces, n_simulations=9, seed=4)
    first = chapman_kolmogorov(traces.isel(layer=[0]), n_simulations=9, seed=4)
    xr.testing.assert_equal(both.isel(layer=[0]), first)


def test_what_is_returned(make_traces):
    traces = make_traces(n_sequences=4, n_positions=20, num_experts=3)
    steps = []

    def track(places):
        for place in places:
            steps.append(place)
            yield place

    found = chapman_kolmogorov(traces, n_simulations=3, seed=7, track=track)
    assert steps == [0, 1]
    assert found["ck_distance"].values.tolist() == [2, 4, 8, 16]
    assert found["persistence"].dims == ("layer", "ck_distance", "expert")
    assert all(found[name].attrs["long_name"] for name in found.data_vars)
    provenance = json.loads(found.attrs["provenance"])
    assert provenance["verb"] == "chapman_kolmogorov"
    assert provenance["seed"] == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distances": [1, 2]}, "distances: expected integers of 2 to 11"),
        ({"distances": [2, 12]}, "distances: expected integers of 2 to 11"),
        ({"distances": []}, "distances: expected"),
        ({"distances": [2.5]}, "distances: expected"),
        ({"n_simulations": 1}, "n_simulations: expected an integer of at least 2, got 1"),
        ({"n_simulations": 2.5}, "n_simulations: expected"),
        ({"n_resamples": 1}, "n_resamples: expected"),
        ({"seed": -1}, "seed: expected"),
    ],
)
def test_bad_arguments(make_traces, options, message):
    with pytest.raises(ValueError, match=message):
        chapman_kolmogorov(make_traces(), **options)


def test_ranks_in_no_order(make_traces):
    with pytest.raises(ValueError, match=r"ranked: expected 1 .* use goodness_of_fit of a kinetic"):
        chapman_kolmogorov(make_traces(ranked=False))


def test_short_sequences(make_traces):
    with pytest.raises(ValueError, match="length: expected a sequence of at least three tokens"):
        chapman_kolmogorov(make_traces(n_positions=2))
    found = chapman_kolmogorov(make_traces(n_positions=3, num_experts=2, top_k=1), n_simulations=3)
    assert found["ck_distance"].values.tolist() == [2]


def test_ids_out_of_range(make_traces):
    traces = make_traces(num_experts=6)
    with pytest.raises(ValueError, match="expected ids of -1 to 3, got others in layer 3"):
        chapman_kolmogorov(traces.assign_attrs(num_experts=4))
