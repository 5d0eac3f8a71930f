"""Sets of experts given what they depend on: chances, likelihood, gradient and information."""

import numba as nb
import numpy as np
import pytest
import xarray as xr
from naive import enumerate_sets, slow_inclusion

from isingmoe import traces_from_arrays
from isingmoe._kernels.inclusion import choices, inclusion, joint_inclusion
from isingmoe._kernels.information import information, row_information
from isingmoe._kernels.kinetic import log_likelihood, run_slopes
from isingmoe.couplings import zero_sum
from isingmoe.decays import Decay
from isingmoe.histories import Grouping, by_sequence, histories
from isingmoe.parameters import COUPLINGS, Parameters, free_couplings


def chances(log_weight, k):
    """Log e_k, and chances of labels and of pairs b <= c, of log-weights (token, q)."""
    n_tokens, q = log_weight.shape
    top = log_weight.max(1)
    weight = np.ascontiguousarray(np.exp(log_weight - top[:, None]).T)
    taken, left = np.empty((2, q, k + 1, n_tokens))
    ratio, chance, flow, after = np.empty((4, k + 1, n_tokens))
    choices(weight, taken, left, ratio)
    included, joint = np.empty((q, n_tokens)), np.zeros((q, q, n_tokens))
    inclusion(taken, left, chance, flow, included)
    chance[:] = 0
    chance[k] = 1
    for b in range(q):
        joint_inclusion(b, taken, left, chance, flow, after, joint[b])
    return np.log(ratio[1:]).sum(0) + k * top, included.T, np.moveaxis(joint, 2, 0)


@pytest.mark.parametrize(("q", "k"), [(2, 1), (5, 2), (6, 3), (4, 4), (8, 7)])
def test_chances_against_enumeration(q, k):
    log_weight = np.random.default_rng(q).normal(scale=4, size=(3, q))
    found = chances(log_weight, k)
    for t, row in enumerate(log_weight):
        member, log_z, p = enumerate_sets(row, k)
        both = (member * p[:, None]).T @ member
        np.testing.assert_allclose(found[0][t], log_z, rtol=1e-13)
        np.testing.assert_allclose(found[1][t], p @ member, rtol=1e-12)
        np.testing.assert_allclose(np.triu(found[2][t]), np.triu(both), rtol=1e-12)


@pytest.mark.parametrize(("q", "k"), [(256, 16), (64, 8), (128, 1), (40, 39)])
def test_weights_over_many_decades(q, k):
    """Leave-one-out symmetric polynomials, e_{k-1} without b over e_k, to 1e-10 each."""
    rng = np.random.default_rng(q)
    log_weight = np.stack([rng.uniform(-60, 60, q), np.linspace(-60, 60, q), rng.normal(size=q)])
    log_e, included, joint = chances(log_weight, k)
    for t, row in enumerate(log_weight):
        labels = np.arange(t, q, 3)
        slow_log_e, slow = slow_inclusion(row, k, labels)
        assert log_e[t] == pytest.approx(slow_log_e, rel=1e-12)
        np.testing.assert_allclose(included[t, labels], slow, rtol=1e-10)
        np.testing.assert_allclose(joint[t, labels, labels], slow, rtol=1e-10)


def random_problem(seed, q, k, reach, n=40, *, shared=False):
    """Tokens whose features are the experts before, a place and a text.

    `shared`: all distances have the same rows, so that a token may have one of them twice.
    """
    rng = np.random.default_rng(seed)
    sets = np.sort(rng.random((n, q)).argsort(1)[:, :k], 1).astype(np.int16)
    n_couplings = (1 if shared else reach) * q
    before = [sets[reach - r : n - r] + (0 if shared else (r - 1) * q) for r in range(1, reach + 1)]
    place = n_couplings + rng.integers(0, 2, (n - reach, 1))
    text = n_couplings + 2 + rng.integers(0, 3, (n - reach, 1))
    features = np.concatenate([*before, place, text], 1).astype(np.int32)
    strength = rng.uniform(0.3, 1.7, features.shape[1]) * rng.choice([-1, 1], features.shape[1])
    table = rng.normal(size=(n_couplings + 5, q))
    return sets[reach:], features, strength, table


def slow_derivatives(sets, features, strength, table):
    """Log-likelihood of tokens, its gradient and minus its second derivatives, set by set."""
    k, q = sets.shape[1], table.shape[1]
    value, slope = np.zeros(len(sets)), np.zeros_like(table)
    curvature = np.zeros((len(table), len(table), q, q))
    for t, (members, rows) in enumerate(zip(sets, features, strict=True)):
        log_weight = strength @ table[rows]
        member, log_z, p = enumerate_sets(log_weight, k)
        rate = p @ member
        value[t] = log_weight[members].sum() - log_z
        covariance = (member * p[:, None]).T @ member - np.outer(rate, rate)
        for f, s in zip(rows, strength, strict=True):
            slope[f] -= s * rate
            slope[f, members] += s
            for g, w in zip(rows, strength, strict=True):
                curvature[f, g] += s * w * covariance
    return value, slope, curvature


def flat(tiles, n_columns):
    """Columns of all tiles one after the other; what fills up the last one is zero."""
    columns = np.moveaxis(tiles, 0, 1).reshape(tiles.shape[1], -1)
    assert not columns[:, n_columns:].any()
    return columns[:, :n_columns]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("reach", [1, 2])
@pytest.mark.parametrize(("q", "k"), [(3, 1), (3, 2), (4, 1), (5, 3), (6, 2), (6, 3), (3, 3)])
def test_likelihood_gradient_and_information_against_enumeration(q, k, reach, shared):
    sets, features, strength, table = random_problem(10 * q + k, q, k, reach, shared=shared)
    value, slope, curvature = slow_derivatives(sets, features, strength, table)
    found = log_likelihood(sets, features, strength, np.empty(0), table, 3)
    np.testing.assert_allclose(found[0], value, atol=1e-10)
    np.testing.assert_allclose(found[1], slope, atol=1e-10)
    n_rows = len(table) - 3
    high, low = np.tril_indices(n_rows)
    upper = np.triu_indices(q)
    whole = information(features, strength, np.empty(0), table, k, n_rows, True)
    expected = curvature[low, high][:, *upper]
    np.testing.assert_allclose(flat(whole, len(upper[0])), expected, atol=1e-10)
    alone = information(features, strength, np.empty(0), table, k, n_rows, False)
    expected = np.diagonal(curvature[low, high], axis1=1, axis2=2)
    np.testing.assert_allclose(flat(alone, q), expected, atol=1e-10)


def test_a_row_may_come_twice():
    """Of the same expert at two distances that share their rows."""
    _, features, _, _ = random_problem(63, 6, 3, 2, shared=True)
    assert max(np.bincount(row).max() for row in features) == 2


@pytest.mark.parametrize("whole", [True, False])
def test_runs_against_enumeration(whole):
    """Slopes and information of some runs of tokens, one of them empty."""
    sets, features, strength, table = random_problem(3, 5, 2, 2)
    edges, n_rows = np.array([0, 13, 13, len(sets)]), len(table) - 3
    pairs = np.triu_indices(5) if whole else (np.arange(5), np.arange(5))
    slopes = run_slopes(sets, features, edges, strength, table, n_rows)
    rows = row_information(features, edges, strength, table, 2, n_rows, whole)
    for run in range(3):
        some = slice(edges[run], edges[run + 1])
        # The runs' own field is one more row, which all of their tokens have.
        own = np.full((edges[run + 1] - edges[run], 1), len(table))
        _, slope, curvature = slow_derivatives(
            sets[some],
            np.concatenate([features[some], own], 1),
            np.append(strength, 1.0),
            np.append(table, np.zeros((1, 5)), 0),
        )
        np.testing.assert_allclose(slopes[run], slope[:n_rows], atol=1e-10)
        np.testing.assert_allclose(rows[run, :-1], curvature[:n_rows, -1][:, *pairs], atol=1e-10)
        np.testing.assert_allclose(rows[run, -1], curvature[-1, -1][pairs], atol=1e-10)


def test_parts_and_threads_do_not_matter(many_threads):
    """Bit for bit in the values, and by rounding in sums; 37 experts fill several tiles."""
    sets, features, strength, table = random_problem(1, 37, 2, 1, n=2500)
    one, many = (log_likelihood(sets, features, strength, np.empty(0), table, n) for n in (1, 7))
    np.testing.assert_array_equal(one[0], many[0])
    np.testing.assert_allclose(one[1], many[1], atol=1e-10)
    whole = flat(information(features, strength, np.empty(0), table, 2, 40, True), 37 * 38 // 2)
    halves = [
        flat(information(some, strength, np.empty(0), table, 2, 40, True), 37 * 38 // 2)
        for some in (features[:1100], features[1100:])
    ]
    np.testing.assert_allclose(whole, sum(halves), atol=1e-9)
    nb.set_num_threads(1)
    alone = log_likelihood(sets, features, strength, np.empty(0), table, 7)
    np.testing.assert_array_equal(alone[1], many[1])
    again = flat(information(features, strength, np.empty(0), table, 2, 40, True), 37 * 38 // 2)
    np.testing.assert_array_equal(again, whole)


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
        found = histories(traces, 0, 2, n_blocks=3, groupings=[by_sequence(traces)])
        expected = [(0, 2), (0, 6), (0, 7), (0, 8), (1, 2), (1, 3)]
        assert len(found.sets) == len(expected)
        for row, (s, i) in enumerate(expected):
            assert list(found.sets[row]) == sorted(index[s, i])
            near, far = sorted(index[s, i - 1]), sorted(5 + index[s, i - 2])
            assert list(found.features[row]) == [*near, *far, 10 + i * 3 // 9, 13 + s]
        assert list(found.sequence) == [s for s, _ in expected]
        assert list(found.group_of(0)) == [s for s, _ in expected]
        assert (found.n_fixed, found.n_rows) == (10 + 3, 10 + 3 + 4)

    def test_tokens_on_both_sides(self):
        traces = random_traces(1, 5, 2, [9, 4, 1, 2], gaps=[(0, 3)])
        index = traces["expert_index"].values[0]
        found = histories(traces, 0, 1, both_sides=True)
        expected = [(0, 1), (0, 5), (0, 6), (0, 7), (1, 1), (1, 2)]
        for row, (s, i) in zip(found.features, expected, strict=True):
            before, after = sorted(index[s, i - 1]), sorted(5 + index[s, i + 1])
            assert list(row) == [*before, *after, 10]

    def test_read_backwards(self):
        """The tokens after one take the place of those before; its block is that of the text."""
        traces = random_traces(1, 4, 1, [6, 3])
        index = traces["expert_index"].values[0, ..., 0]
        found = histories(traces, 0, 1, n_blocks=6, reverse=True)
        expected = [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 1)]
        assert [list(row) for row in found.features] == [
            [index[s, i + 1], 4 + i] for s, i in expected
        ]

    def test_a_decay_shares_its_rows(self):
        traces = random_traces(2, 5, 2, [9])
        decay = Decay("power-law", 3).strengths(2.0)
        found = histories(traces, 0, 3, decay=decay)
        np.testing.assert_array_equal(found.strength, [1, 1, 1 / 4, 1 / 4, 1 / 9, 1 / 9, 1])
        assert found.n_rows == 5 + 1
        index = traces["expert_index"].values[0, 0]
        before = [sorted(index[3 - r]) for r in (1, 2, 3)]
        assert list(found.features[0]) == [*np.ravel(before), 5]

    def test_tokens_without_a_value_have_the_last_row(self):
        traces = random_traces(2, 4, 1, [5, 4])
        index = np.array([[0, 1, 2, 0, 1], [2, 2, 1, 0, 0]], np.int32)
        found = histories(traces, 0, 1, groupings=[by_sequence(traces), Grouping(index, 2)])
        assert found.n_rows == 4 + 1 + 2 + 2
        assert list(found.group_of(1)) == [1, 2, 0, 1, 2, 1, 0]
        assert list(found.features[:, -1]) == [8, 9, 7, 8, 9, 8, 7]

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
    @pytest.mark.parametrize("both_sides", [False, True])
    @pytest.mark.parametrize("n_blocks", [1, 3])
    @pytest.mark.parametrize("coupling", COUPLINGS)
    @pytest.mark.parametrize(("q", "reach"), [(2, 1), (5, 2)])
    def test_derivatives(self, coupling, n_blocks, q, reach, both_sides):
        """Of the likelihood, against differences; `weighed` is that of the zero-sum squares."""
        traces = random_traces(4, q, 1 if q == 2 else 2, [40, 30, 40, 5])
        problem = histories(traces, 0, reach, n_blocks=n_blocks, both_sides=both_sides)
        parameters = Parameters(coupling, True, q, reach, n_blocks, both_sides=both_sides)
        x = np.random.default_rng(5).normal(size=parameters.n)

        def value(x):
            values, slope = log_likelihood(
                problem.sets,
                problem.features,
                problem.strength,
                np.empty(0),
                parameters.table(x),
                2,
            )
            return values.sum(), slope

        step = 1e-5 * np.eye(parameters.n)
        slope = [(value(x + s)[0] - value(x - s)[0]) / 2e-5 for s in step]
        np.testing.assert_allclose(parameters.pulled(value(x)[1]), slope, atol=1e-6)
        own = x[: parameters.n_couplings].reshape(reach, -1)
        squares = [(J**2).sum() for J in zero_sum(parameters.couplings(x))[0]]
        np.testing.assert_allclose((parameters.weighed(own) * own).sum(1), squares, atol=1e-10)

    @pytest.mark.parametrize("both_sides", [False, True])
    @pytest.mark.parametrize("coupling", COUPLINGS)
    def test_curvature_is_that_of_the_table(self, coupling, both_sides):
        parameters = Parameters(coupling, True, 4, 2, 3, both_sides=both_sides)
        columns = np.array([parameters.table(x) for x in np.eye(parameters.n)])
        rows, q = parameters.n_rows, 4
        half = np.random.default_rng(6).normal(size=(rows * q, rows * q))
        whole = (half + half.T).reshape(rows, q, rows, q)
        found = parameters.pulled_curvature(
            lambda left, right: whole[left][:, :, right].swapaxes(1, 2)
        )
        expected = np.einsum("xfb,fbgc,ygc->xy", columns, whole, columns)
        np.testing.assert_allclose(found, expected, atol=1e-10)

    @pytest.mark.parametrize("q", [2, 5])
    @pytest.mark.parametrize("coupling", COUPLINGS)
    def test_no_direction_is_flat(self, coupling, q):
        parameters = Parameters(coupling, True, q, 1)
        shift = np.random.default_rng(7).normal(size=(parameters.n, parameters.n))
        J, _ = zero_sum(parameters.couplings(shift))
        moved = np.concatenate([J.reshape(parameters.n, -1), parameters.field(shift)], 1)
        assert np.linalg.matrix_rank(moved) == parameters.n
        assert parameters.n == free_couplings(coupling, q) + q - 1

    def test_shapes_of_fields_over_the_text(self):
        slope = np.linspace(-1, 1, 4)[:, None] / np.sqrt(20 / 9)
        parameters = Parameters("none", True, 3, 0, 4, slope)
        assert parameters.n == 4
        fields = parameters.fields(np.arange(4.0))
        np.testing.assert_allclose(np.diff(fields, 2, axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(fields.sum(1), 0, atol=1e-12)
        np.testing.assert_allclose(fields.mean(0), parameters.field(np.arange(4.0)), atol=1e-12)

    def test_without_fields(self):
        parameters = Parameters("uniform", False, 4, 2)
        assert parameters.n == 2
        table = parameters.table(np.array([1.0, 2.0]))
        np.testing.assert_array_equal(table[:8], np.concatenate([np.eye(4), 2 * np.eye(4)]))
        np.testing.assert_array_equal(table[8:], 0)
