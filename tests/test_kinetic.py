"""Sets of experts given the sets before: chances, likelihood, gradient and curvature."""

import numpy as np
import pytest
import xarray as xr
from naive import enumerate_sets, slow_inclusion

from isingmoe import MaximumLikelihood, fit, kinetic, traces_from_arrays
from isingmoe._kernels.inclusion import choices, inclusion, joint_inclusion
from isingmoe._kernels.kinetic import information, log_likelihood
from isingmoe.couplings import zero_sum
from isingmoe.histories import histories
from isingmoe.parameters import COUPLINGS, Parameters


def chances(log_weight, k):
    """Log e_k, and chances of labels and of pairs, of log-weights (token, q)."""
    n_tokens, q = log_weight.shape
    top = log_weight.max(1)
    weight = np.ascontiguousarray(np.exp(log_weight - top[:, None]).T)
    taken, left = np.empty((2, q, k + 1, n_tokens))
    ratio, chance, after = np.empty((3, k + 1, n_tokens))
    choices(weight, taken, left, ratio)
    included, joint = np.empty((q, n_tokens)), np.empty((q, q, n_tokens))
    inclusion(taken, left, chance, included)
    joint_inclusion(taken, left, chance, after, joint)
    return np.log(ratio[1:]).sum(0) + k * top, included.T, np.moveaxis(joint, 2, 0)


@pytest.mark.parametrize(("q", "k"), [(2, 1), (5, 2), (6, 3), (4, 4), (8, 7)])
def test_chances_against_enumeration(q, k):
    log_weight = np.random.default_rng(q).normal(scale=4, size=(3, q))
    found = chances(log_weight, k)
    for t, row in enumerate(log_weight):
        member, log_z, p = enumerate_sets(row, k)
        np.testing.assert_allclose(found[0][t], log_z, rtol=1e-13)
        np.testing.assert_allclose(found[1][t], p @ member, rtol=1e-12)
        np.testing.assert_allclose(found[2][t], (member * p[:, None]).T @ member, rtol=1e-12)


@pytest.mark.parametrize(("q", "k"), [(256, 16), (64, 8), (128, 1), (40, 39)])
def test_weights_over_many_decades(q, k):
    """Leave-one-out symmetric polynomials, e_{k-1} without b over e_k, to 1e-10 each."""
    rng = np.random.default_rng(q)
    log_weight = np.stack([rng.uniform(-60, 60, q), np.linspace(-60, 60, q), rng.normal(size=q)])
    log_e, included, _ = chances(log_weight, k)
    for t, row in enumerate(log_weight):
        slow_log_e, slow = slow_inclusion(row, k)
        assert log_e[t] == pytest.approx(slow_log_e, rel=1e-12)
        np.testing.assert_allclose(included[t], slow, rtol=1e-10)


def random_problem(seed, q, k, reach, n=40):
    """Tokens whose features are the experts before, a place and a text."""
    rng = np.random.default_rng(seed)
    sets = np.sort(rng.random((n, q)).argsort(1)[:, :k], 1).astype(np.int16)
    before = [sets[reach - r : n - r] + (r - 1) * q for r in range(1, reach + 1)]
    first = reach * q + rng.integers(0, 2, (n - reach, 1))
    second = reach * q + 2 + rng.integers(0, 3, (n - reach, 1))
    features = np.concatenate([*before, first, second], 1).astype(np.int32)
    table = rng.normal(size=(reach * q + 5, q))
    return sets[reach:], features, table


@pytest.mark.parametrize("reach", [1, 2])
@pytest.mark.parametrize(("q", "k"), [(3, 1), (3, 2), (4, 1), (5, 3), (6, 2), (6, 3), (3, 3)])
def test_likelihood_gradient_and_curvature_against_enumeration(q, k, reach):
    sets, features, table = random_problem(10 * q + k, q, k, reach)
    value, slope = np.zeros(len(sets)), np.zeros_like(table)
    curvature = np.zeros((len(table), len(table), q, q))
    for t, (members, rows) in enumerate(zip(sets, features, strict=True)):
        log_weight = table[rows].sum(0)
        member, log_z, p = enumerate_sets(log_weight, k)
        rate = p @ member
        value[t] = log_weight[members].sum() - log_z
        covariance = (member * p[:, None]).T @ member - np.outer(rate, rate)
        for f in rows:
            slope[f] -= rate
            slope[f, members] += 1
            for g in rows:
                curvature[f, g] += covariance
    found = log_likelihood(sets, features, table, 3)
    np.testing.assert_allclose(found[0], value, atol=1e-12)
    np.testing.assert_allclose(found[1], slope, atol=1e-12)
    n_rows = len(table) - 3
    np.testing.assert_allclose(
        information(features, table, k, n_rows), curvature[:n_rows, :n_rows], atol=1e-12
    )


def test_parts_do_not_matter():
    sets, features, table = random_problem(1, 6, 2, 1, n=500)
    one, many = (log_likelihood(sets, features, table, n) for n in (1, 7))
    np.testing.assert_array_equal(one[0], many[0])
    np.testing.assert_allclose(one[1], many[1], atol=1e-12)


def random_traces(seed, q, k, lengths, gaps=()):
    rng = np.random.default_rng(seed)
    n = max(lengths)
    index = rng.random((1, len(lengths), n, q)).argsort(-1)[..., :k].astype(np.int16)
    # An expert of the token before is chosen more often.
    for i in range(1, n):
        stay = rng.random(len(lengths)) < 0.3
        index[0, stay, i] = index[0, stay, i - 1]
    for s, length in enumerate(lengths):
        index[0, s, length:] = -1
    for s, i in gaps:
        index[0, s, i] = -1
    return traces_from_arrays(index, num_experts=q, length=lengths, ranked=False)


class TestHistories:
    def test_tokens_with_enough_before_them(self):
        traces = random_traces(1, 5, 2, [9, 4, 1, 2], gaps=[(0, 3)])
        index = traces["expert_index"].values[0]
        found = histories(traces, 0, 2, n_blocks=3, by_sequence=True)
        expected = [(0, 2), (0, 6), (0, 7), (0, 8), (1, 2), (1, 3)]
        assert len(found.sets) == len(expected)
        for row, (s, i) in enumerate(expected):
            assert list(found.sets[row]) == sorted(index[s, i])
            near, far = sorted(index[s, i - 1]), sorted(5 + index[s, i - 2])
            assert list(found.features[row]) == [*near, *far, 10 + i * 3 // 9, 13 + s]
        assert list(found.sequence) == [s for s, _ in expected]
        assert found.n_rows == 10 + 3 + 4

    def test_models_of_different_reach_predict_the_same_tokens(self):
        traces = random_traces(2, 4, 1, [12, 7, 3])
        found = [histories(traces, 0, reach, n_before=3) for reach in (0, 1, 3)]
        assert len({problem.sets.tobytes() for problem in found}) == 1

    def test_positions_are_those_of_the_text(self):
        traces = random_traces(3, 4, 1, [10, 10])
        start = xr.DataArray(np.array([0, 90], np.int32), dims="sequence")
        found = histories(traces.assign(start_position=start), 0, 0, n_blocks=10)
        assert list(found.features[:, 0]) == [0] * 10 + [9] * 10

    def test_bad_traces_are_named(self):
        with pytest.raises(ValueError, match="expected 4 neighbouring tokens in some sequence"):
            histories(random_traces(1, 4, 1, [3, 2]), 0, 3)
        traces = random_traces(1, 4, 1, [5, 5])
        traces["expert_index"].values[0, 0, 0] = 4
        with pytest.raises(ValueError, match=r"expected ids of -1 to 3, got others in layer 0"):
            histories(traces, 0, 1)


class TestParameters:
    @pytest.mark.parametrize("n_blocks", [1, 3])
    @pytest.mark.parametrize("coupling", COUPLINGS)
    @pytest.mark.parametrize(("q", "reach"), [(2, 1), (5, 2)])
    def test_derivatives(self, coupling, n_blocks, q, reach):
        """Of the likelihood and the penalty, against differences; no direction is flat."""
        traces = random_traces(4, q, 1 if q == 2 else 2, [40, 30, 40, 5])
        problem = histories(traces, 0, reach, n_blocks=n_blocks)
        parameters = Parameters(coupling, True, q, reach, n_blocks)
        x = np.random.default_rng(5).normal(size=parameters.n)

        def value(x):
            values, slope = log_likelihood(problem.sets, problem.features, parameters.table(x), 2)
            cost, pull = kinetic._penalty(parameters, x, 0.7)
            return values.sum() - cost, parameters.pulled(slope) - pull

        step = 1e-5 * np.eye(parameters.n)
        slope = [(value(x + s)[0] - value(x - s)[0]) / 2e-5 for s in step]
        np.testing.assert_allclose(value(x)[1], slope, atol=1e-6)
        curvature = [(value(x - s)[1] - value(x + s)[1]) / 2e-5 for s in step]
        found = kinetic.observed_information(problem, parameters, x, 0.7)
        np.testing.assert_allclose(found, curvature, atol=1e-6)
        assert np.linalg.eigvalsh(found).min() > 1e-3

    def test_shapes_of_fields_over_the_text(self):
        slope = np.linspace(-1, 1, 4)[:, None] / np.sqrt(20 / 9)
        parameters = Parameters("none", True, 3, 0, 4, slope)
        assert parameters.n == 4
        fields = parameters.fields(np.arange(4.0))
        np.testing.assert_allclose(np.diff(fields, 2, axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(fields.sum(1), 0, atol=1e-12)

    def test_without_fields(self):
        parameters = Parameters("uniform", False, 4, 2)
        assert parameters.n == 2
        table = parameters.table(np.array([1.0, 2.0]))
        np.testing.assert_array_equal(table[:8], np.concatenate([np.eye(4), 2 * np.eye(4)]))
        np.testing.assert_array_equal(table[8:], 0)


class TestMaximum:
    def test_one_expert_is_the_potts_chain(self):
        """Reach 1 and k = 1: the couplings of the equilibrium chain, to 1e-6."""
        traces = random_traces(6, 5, 1, [400, 300])
        potts = fit(
            traces.assign_attrs(ranked=1),
            chain="potts",
            estimator=MaximumLikelihood(pseudocount=0),
        )
        problem = histories(traces, 0, 1)
        parameters = Parameters("full", True, 5, 1)
        found = kinetic.maximise(problem, parameters)
        assert found.converged
        J, _ = zero_sum(parameters.couplings(found.x)[0])
        np.testing.assert_allclose(J, potts.data["J"].values[0], atol=1e-6)
        assert found.log_likelihood == pytest.approx(float(potts.data["log_likelihood"][0]))

    @pytest.mark.parametrize("l2", [0.0, 3.0])
    @pytest.mark.parametrize("coupling", COUPLINGS)
    def test_no_gradient_is_left(self, coupling, l2):
        traces = random_traces(7, 6, 2, [200, 150, 90])
        problem = histories(traces, 0, 2, n_blocks=2)
        parameters = Parameters(coupling, True, 6, 2, 2)
        found = kinetic.maximise(problem, parameters, l2=l2)
        assert found.converged
        values, slope = log_likelihood(problem.sets, problem.features, parameters.table(found.x), 1)
        gradient = parameters.pulled(slope) - kinetic._penalty(parameters, found.x, l2)[1]
        np.testing.assert_allclose(gradient, 0, atol=1e-4)
        assert found.log_likelihood == pytest.approx(values.sum())
        scores = kinetic.sequence_scores(problem, parameters, found.x)
        np.testing.assert_allclose(scores.sum(0), parameters.pulled(slope), atol=1e-9)

    def test_an_expert_that_never_fires_and_one_that_always_does(self):
        index = np.random.default_rng(8).integers(1, 4, (1, 3, 60, 1)).astype(np.int16)
        both = np.concatenate([np.full_like(index, 5), index], -1)
        traces = traces_from_arrays(both, num_experts=6, ranked=False)
        problem, parameters = histories(traces, 0, 1), Parameters("full", True, 6, 1)
        found = kinetic.maximise(problem, parameters, l2=1.0)
        assert np.isfinite(found.x).all()
        assert np.isfinite(found.log_likelihood)
