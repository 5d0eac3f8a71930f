"""Maximum of the penalised likelihood: curvature, convergence, and the prior of most evidence."""

from dataclasses import replace

import numba as nb
import numpy as np
import pytest
from naive import simulate_markov

import isingmoe as im
from isingmoe._kernels.information import information
from isingmoe.chains import KineticChain
from isingmoe.conditioning import Landscape, Precision
from isingmoe.couplings import zero_sum
from isingmoe.curvature import effective_fields, exact_curvature, value_curvatures
from isingmoe.decays import Decay
from isingmoe.forward import draw
from isingmoe.histories import Grouping, by_sequence, histories, runs
from isingmoe.kinds import Settings
from isingmoe.kinetic import Prior, full_table, maximise, value_and_slope
from isingmoe.parameters import COUPLINGS, Parameters
from isingmoe.stationary import markov_chain
from isingmoe.uncertainty import sequence_scores

LENGTHS = [120, 90, 90, 60, 5]


def random_traces(seed, q, k, lengths=LENGTHS):
    """Tokens that keep the experts of the one before more often than by chance."""
    rng = np.random.default_rng(seed)
    index = rng.random((len(lengths), max(lengths), q))
    index[:, :, 0] += 0.2
    index = index.argsort(-1)[..., -k:].astype(np.int16)
    for i in range(1, max(lengths)):
        stay = rng.random(len(lengths)) < 0.3
        index[stay, i] = index[stay, i - 1]
    for s, length in enumerate(lengths):
        index[s, length:] = -1
    return im.traces_from_arrays(index[None], num_experts=q, length=lengths, ranked=False)


def simulated(chain, n_sequences, length, seed, by_sequence=None):
    index = draw(chain, n_sequences, length, by_sequence=by_sequence, n_burn=50, seed=seed)
    return im.traces_from_arrays(index[None], num_experts=chain.n_states, ranked=False)


def layer(coupling, q=4, k=2, *, groups=0, both_sides=False, n_blocks=2, seed=0):
    """Tokens at two distances from those before, their parameters and a precision of them.

    `groups`: none, one for every sequence, or besides one of three values of some tokens.
    """
    traces = random_traces(seed, q, k)
    kept = [by_sequence(traces)]
    kept.append(Grouping(np.random.default_rng(1).integers(0, 4, kept[0].index.shape), 3))
    problem = histories(
        traces, 0, 2, n_blocks=n_blocks, groupings=kept[:groups], both_sides=both_sides
    )
    parameters = Parameters(coupling, True, q, 2, n_blocks, both_sides=both_sides)
    return problem, parameters, Precision(np.array([0.7, 2.0]), 0.1, 1.5, (3.0, 5.0)[:groups])


def random_point(parameters, problem, seed=2):
    """Parameters, and zero-sum random fields of each grouping."""
    rng = np.random.default_rng(seed)
    fields = [rng.normal(size=(n, problem.n_experts)) for n in problem.groups]
    return rng.normal(size=parameters.n), [u - u.mean(1, keepdims=True) for u in fields]


def penalised(problem, parameters, precision, x, fields):
    """Log-likelihood less the penalty as it is defined, in the couplings and fields."""
    values, _ = value_and_slope(problem, full_table(parameters, x, fields))
    h = parameters.field(x)
    squares = (zero_sum(parameters.couplings(x))[0] ** 2).sum((1, 2))
    cost = precision.coupling @ squares + precision.field * (h**2).sum()
    cost += precision.position * ((parameters.fields(x) - h) ** 2).sum()
    cost += sum(tau * (u**2).sum() for tau, u in zip(precision.groups, fields, strict=True))
    return values.sum() - cost / 2


def gradient(problem, parameters, precision, x, fields):
    """Of the penalised likelihood by the parameters, and by each grouping's fields."""
    _, slope = value_and_slope(problem, full_table(parameters, x, fields))
    by_x = parameters.pulled(slope[: parameters.n_rows]) - precision.pull(parameters, x)
    by_fields, row = [], parameters.n_rows
    for tau, u in zip(precision.groups, fields, strict=True):
        by_fields.append(slope[row : row + len(u)] - slope[row : row + len(u)].mean(1)[:, None])
        by_fields[-1] -= tau * u
        row += len(u)
    return by_x, by_fields


def whole_hessian(problem, parameters, precision, x, fields):
    """Minus the second derivatives by the parameters and all random fields together."""
    q, n_rows = problem.n_experts, problem.n_rows
    table = full_table(parameters, x, fields)
    tiles = information(
        problem.features, problem.strength, problem.weight, table, problem.top_k, n_rows, True
    )
    packed = np.moveaxis(tiles, 0, 1).reshape(tiles.shape[1], -1)
    by_table = np.zeros((n_rows, q, n_rows, q))
    pair = np.zeros((q, q), int)
    pair[np.triu_indices(q)] = np.arange(q * (q + 1) // 2)
    pair = np.maximum(pair, pair.T)
    for g in range(n_rows):
        for f in range(g + 1):
            by_table[f, :, g] = by_table[g, :, f] = packed[g * (g + 1) // 2 + f][pair]
    # Every row of the table by the parameters, and by contrasts of the fields.
    of_x = np.array([parameters.table(e) for e in np.eye(parameters.n)])
    n_free = sum(problem.groups) * (q - 1)
    columns = np.zeros((parameters.n + n_free, n_rows, q))
    columns[: parameters.n, : problem.n_fixed] = of_x
    own = np.einsum("vw,bj->vjwb", np.eye(sum(problem.groups)), parameters.contrast)
    columns[parameters.n :, problem.n_fixed :] = own.reshape(n_free, sum(problem.groups), q)
    result = np.einsum("xfb,fbgc,ygc->xy", columns, by_table, columns, optimize=True)
    taus = np.repeat(precision.groups, np.array(problem.groups, int) * (q - 1))
    result[parameters.n :, parameters.n :] += np.diag(taus)
    result[: parameters.n, : parameters.n] += precision.matrix(parameters)
    return result


class TestCurvature:
    @pytest.mark.parametrize("both_sides", [False, True])
    @pytest.mark.parametrize("k", [1, 2])
    @pytest.mark.parametrize("coupling", COUPLINGS)
    def test_against_differences_of_the_likelihood(self, coupling, k, both_sides):
        """Gradient and second derivatives, with the penalty."""
        problem, parameters, precision = layer(coupling, k=k, both_sides=both_sides)
        x, _ = random_point(parameters, problem)
        step = 1e-5 * np.eye(parameters.n)

        def value(x):
            return penalised(problem, parameters, precision, x, [])

        def slope(x):
            return gradient(problem, parameters, precision, x, [])[0]

        by_differences = [(value(x + s) - value(x - s)) / 2e-5 for s in step]
        np.testing.assert_allclose(slope(x), by_differences, atol=1e-5)
        found = exact_curvature(problem, parameters, full_table(parameters, x, []), precision)
        by_differences = [(slope(x - s) - slope(x + s)) / 2e-5 for s in step]
        np.testing.assert_allclose(found.factor @ found.factor.T, by_differences, atol=1e-5)

    @pytest.mark.parametrize("coupling", COUPLINGS)
    def test_random_fields_are_eliminated(self, coupling):
        """What is left of all second derivatives is the Schur complement."""
        problem, parameters, precision = layer(coupling, groups=1)
        x, fields = random_point(parameters, problem)
        whole = whole_hessian(problem, parameters, precision, x, fields)
        n = parameters.n
        mixed = whole[:n, n:]
        schur = whole[:n, :n] - mixed @ np.linalg.solve(whole[n:, n:], mixed.T)
        table = full_table(parameters, x, fields)
        found = exact_curvature(problem, parameters, table, precision)
        np.testing.assert_allclose(found.factor @ found.factor.T, schur, atol=1e-8)

    def test_a_decay_is_one_more_parameter(self):
        """With its own rows the second derivatives by the decay are those by differences."""
        decay = Decay("power-law", 4)
        traces = random_traces(3, 4, 2)
        problem = histories(traces, 0, 4, decay=decay.strengths(1.3))
        parameters = Parameters("full", True, 4, 1)
        precision = Precision(np.array([0.5]), 0.1, 1.0)
        found = maximise(problem, parameters, Prior(0.5))
        table = full_table(parameters, found.x, [])
        bare = exact_curvature(problem, parameters, table, precision)
        more = decay.extended(bare, problem, parameters, found, 1.3)

        def value(y):
            return penalised(decay.at(problem, y[-1]), parameters, precision, y[:-1], [])

        n, at = parameters.n, np.append(found.x, 1.3)
        step = 1e-3 * np.eye(n + 1)
        last = [
            value(at + s + step[n]) - value(at + s - step[n])
            - value(at - s + step[n]) + value(at - s - step[n])
            for s in step
        ]  # fmt: skip
        whole = more.factor @ more.factor.T
        np.testing.assert_allclose(whole[n], -np.array(last) / 4e-6, atol=2e-3)
        np.testing.assert_allclose(whole[:n, :n], bare.factor @ bare.factor.T, atol=1e-9)
        slope = decay.slope(problem, parameters, found, 1.3).sum()
        assert slope == pytest.approx((value(at + step[n]) - value(at - step[n])) / 2e-3, abs=1e-4)

    def test_posterior_of_random_fields(self):
        """Their number and the Fisher information of ln tau, with a common field that is free."""
        problem, parameters, precision = layer("full", groups=1)
        x, fields = random_point(parameters, problem)
        tau, n, q = precision.groups[0], parameters.n, problem.n_experts
        whole = whole_hessian(problem, parameters, precision, x, fields)
        own = whole[n:, n:]
        data = own - tau * np.eye(len(own))
        # A common field moves those of all values alike.
        common = np.tile(np.eye(q - 1), (problem.groups[0], 1))
        both = np.block([[common.T @ data @ common, common.T @ data], [data @ common, own]])
        posterior = np.linalg.inv(both)[q - 1 :, q - 1 :]
        spread = np.linalg.inv(data) + np.eye(len(own)) / tau
        inverse = np.linalg.inv(spread)
        mean = np.linalg.solve(common.T @ inverse @ common, common.T @ inverse)
        left = (inverse - inverse @ common @ mean) / tau
        found, error = effective_fields(problem, full_table(parameters, x, fields), 0, tau)
        assert found == pytest.approx(len(own) - tau * np.trace(posterior), rel=1e-9)
        assert error == pytest.approx(np.sqrt(2 / np.trace(left @ left)), rel=1e-9)

    def test_one_random_field(self):
        """It is that of all: nothing is left to tell how far such fields are spread."""
        problem, parameters, precision = layer("full", groups=1)
        alone = problem.of(problem.sequence == 0)
        x, fields = random_point(parameters, problem)
        table = full_table(parameters, x, fields)
        some, error = effective_fields(alone, table, 0, precision.groups[0])
        assert 0 < some < problem.n_experts
        assert np.isfinite(error)
        shapes = [rows.shape for rows in value_curvatures(problem, table, 0, 3)]
        assert shapes == [(problem.groups[0], 4, problem.n_experts, problem.n_experts)]


class TestLandscape:
    @pytest.mark.parametrize("groups", [0, 1, 2])
    @pytest.mark.parametrize("both_sides", [False, True])
    @pytest.mark.parametrize("coupling", COUPLINGS)
    def test_gradient_is_that_along_a_step(self, coupling, both_sides, groups):
        problem, parameters, precision = layer(coupling, groups=groups, both_sides=both_sides)
        x, fields = random_point(parameters, problem)
        table = full_table(parameters, x, fields)
        landscape = Landscape(problem, parameters, table, precision)
        by_x, by_fields = gradient(problem, parameters, precision, x, fields)
        found = landscape.gradient(by_x, [g @ parameters.contrast for g in by_fields])
        z = np.random.default_rng(4).normal(size=landscape.size)
        dx, du = landscape.step(z)
        along = by_x @ dx + sum(
            (g * (u @ parameters.contrast.T)).sum() for g, u in zip(by_fields, du, strict=True)
        )
        assert found @ z == pytest.approx(along, rel=1e-9)

    @pytest.mark.parametrize("coupling", COUPLINGS)
    def test_curvature_is_about_one(self, coupling):
        problem, parameters, precision = layer(coupling, q=6, groups=1)
        x, fields = 0.3 * np.ones(parameters.n), [np.zeros((n, 6)) for n in problem.groups]
        landscape = Landscape(problem, parameters, full_table(parameters, x, fields), precision)
        steps = []
        for z in np.eye(landscape.size):
            dx, (du,) = landscape.step(z)
            steps.append(np.append(dx, du.ravel()))
        whole = whole_hessian(problem, parameters, precision, x, fields)
        values = np.linalg.eigvalsh(np.array(steps) @ whole @ np.array(steps).T)
        # Directions in which all experts move together change no probability.
        curved = values[values > 1e-9]
        assert len(curved) == parameters.n + problem.groups[0] * 5
        assert curved.max() < 3
        assert curved.min() > 0.2


class TestMaximum:
    @pytest.mark.parametrize("coupling", COUPLINGS[1:])
    def test_one_expert_is_the_potts_chain(self, coupling):
        """Reach 1 and k = 1: the couplings of the equilibrium chain, and their errors."""
        rng = np.random.default_rng(6)
        J, h = zero_sum(rng.normal(size=(4, 4)) / 2 + np.eye(4), rng.normal(size=4) / 2)
        states = simulate_markov(markov_chain(J + h)[1], 20, 150, rng)
        traces = im.traces_from_arrays(states[None, :, :, None], num_experts=4)
        kinds = (
            {"chain": "potts", "estimator": im.MaximumLikelihood(pseudocount=0)},
            {"chain": "kinetic", "estimator": im.MaximumLikelihood(l2=0)},
        )
        found = [
            im.fit(traces, coupling=coupling, uncertainty="information", **kind).data.isel(layer=0)
            for kind in kinds
        ]
        potts, kinetic = found
        np.testing.assert_allclose(kinetic["J"][0], potts["J"], atol=1e-6)
        np.testing.assert_allclose(kinetic["J_error"][0], potts["J_error"], rtol=1e-4)
        for name in ("log_likelihood", "bits_per_token", "correlation_length"):
            assert kinetic[name].item() == pytest.approx(potts[name].item(), rel=1e-4), name

    @pytest.mark.parametrize("groups", [0, 1, 2])
    @pytest.mark.parametrize("both_sides", [False, True])
    @pytest.mark.parametrize("coupling", COUPLINGS)
    def test_no_gradient_is_left(self, coupling, both_sides, groups):
        problem, parameters, precision = layer(coupling, groups=groups, both_sides=both_sides)
        prior = Prior(3.0, 1.5, precision.groups)
        found = maximise(problem, parameters, prior)
        assert found.converged
        precision = replace(prior.start(parameters), groups=precision.groups)
        by_x, by_fields = gradient(problem, parameters, precision, found.x, found.fields)
        np.testing.assert_allclose(found.gradient, by_x, atol=1e-9)
        slope = np.concatenate([by_x, *((g @ parameters.contrast).ravel() for g in by_fields)])
        whole = whole_hessian(problem, parameters, precision, found.x, found.fields)
        # Twice what Newton's step would gain.
        assert slope @ np.linalg.solve(whole, slope) < 1e-8
        values, _ = value_and_slope(problem, full_table(parameters, found.x, found.fields))
        assert found.log_likelihood == pytest.approx(values.sum(), abs=1e-9)
        for u in found.fields:
            np.testing.assert_allclose(u.sum(1), 0, atol=1e-12)

    def test_where_it_starts_does_not_matter(self):
        problem, parameters, precision = layer("full", groups=1)
        prior = Prior(1.0, 1.0, precision.groups)
        found = maximise(problem, parameters, prior)
        x, fields = random_point(parameters, problem)
        far = replace(found, x=x, fields=fields)
        again = maximise(problem, parameters, prior, start=far)
        np.testing.assert_allclose(again.x, found.x, atol=1e-5)
        np.testing.assert_allclose(again.fields[0], found.fields[0], atol=1e-5)

    def test_a_limit_is_kept_and_told(self):
        problem, parameters, _ = layer("full", q=6)
        found = maximise(problem, parameters, Prior(0.0), max_iterations=2)
        assert not found.converged
        assert found.n_passes < 10

    def test_threads_do_not_matter(self, many_threads):
        problem, parameters, _ = layer("full", groups=1)
        many = maximise(problem, parameters)
        nb.set_num_threads(1)
        one = maximise(problem, parameters)
        np.testing.assert_allclose(one.x, many.x, atol=1e-5)
        assert one.precision.groups[0] == pytest.approx(many.precision.groups[0], rel=1e-4)

    def test_scores_of_sequences(self):
        """Each that of its own tokens; of all of them the gradient, the decay's too."""
        traces = random_traces(5, 4, 2)
        kind = Settings(chain="kinetic", reach=3, decay="exponential").kind(traces).kind
        found = kind.estimate(kind.problem(traces, 0))
        scores = sequence_scores(found)
        problem, p = found.problem, kind.parameters
        decay = Decay("exponential", 3)
        for row, (start, stop) in zip(scores, runs(problem.sequence), strict=True):
            some = decay.at(problem.of(np.arange(start, stop)), found.strength)
            _, slope = value_and_slope(some, found.table)
            np.testing.assert_allclose(row[:-1], p.pulled(slope[: p.n_rows]), atol=1e-9)
            along = decay.slope(some, p, found.maximum, found.strength).sum()
            assert row[-1] == pytest.approx(along, abs=1e-9)


class TestEvidence:
    """The prior that is chosen, against Laplace's evidence at many others."""

    def log_evidence(self, problem, parameters, prior):
        """Laplace's evidence of the couplings, or of the fields where the couplings are best."""
        found = maximise(problem, parameters, prior)
        precision = found.precision
        own = whole_hessian(problem, parameters, precision, found.x, found.fields)
        value = penalised(problem, parameters, precision, found.x, found.fields)
        if problem.groups:
            # With the common field, the last of the parameters, and the couplings held.
            own = own[parameters.n - parameters.n_field :, parameters.n - parameters.n_field :]
            size = problem.groups[0] * parameters.n_field
            value += 0.5 * size * np.log(precision.groups[0])
        else:
            value += 0.5 * parameters.of_distance * np.log(precision.coupling[0])
        return value - 0.5 * np.linalg.slogdet(own)[1]

    @pytest.mark.parametrize("coupling", ["diagonal", "symmetric", "full"])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_of_couplings(self, coupling, seed):
        rng = np.random.default_rng(seed)
        J = rng.normal(size=(6, 6)) / 2
        J = {"diagonal": np.diag(np.diag(2 * J)), "symmetric": (J + J.T) / 2, "full": J}[coupling]
        traces = simulated(KineticChain(J=J, h=rng.normal(size=6) / 2, top_k=2), 8, 60, seed)
        problem, parameters = histories(traces, 0, 1), Parameters(coupling, True, 6, 1)
        chosen = maximise(problem, parameters).precision.coupling[0]
        assert self.missed(problem, parameters, chosen, Prior) < 0.1

    @pytest.mark.parametrize("seed", [0, 1])
    @pytest.mark.parametrize("spread", [0.3, 1.0])
    def test_of_random_fields(self, spread, seed):
        more = spread * np.random.default_rng(seed).normal(size=(20, 5))
        chain = KineticChain(J=np.zeros((5, 5)), top_k=2)
        traces = simulated(chain, 20, 60, seed, more)
        problem = histories(traces, 0, 1, groupings=[by_sequence(traces)])
        parameters = Parameters("uniform", True, 5, 1)
        free = Prior(0.0, groups=(None,))
        chosen = maximise(problem, parameters, free).precision.groups[0]
        lost = self.missed(problem, parameters, chosen, lambda tau: Prior(0.0, groups=(tau,)))
        assert lost < 0.1

    def missed(self, problem, parameters, chosen, prior):
        """Evidence of the best precision over the chosen one, which is not far, in nats."""
        coarse = [
            self.log_evidence(problem, parameters, prior(tau))
            for tau in np.geomspace(chosen / 16, 16 * chosen, 9)
        ]
        best = int(np.argmax(coarse))
        assert best in (3, 4, 5)
        assert coarse[best] > max(coarse[0], coarse[-1]) + 0.5
        fine = [
            self.log_evidence(problem, parameters, prior(tau))
            for tau in np.geomspace(chosen / 2, 2 * chosen, 9)
        ]
        return max(fine) - fine[4]

    def test_couplings_that_the_data_do_not_have_are_drawn_to_zero(self):
        traces = simulated(KineticChain(J=np.zeros((6, 6)), top_k=2), 10, 100, 0)
        found = maximise(histories(traces, 0, 2), Parameters("full", True, 6, 2))
        assert found.converged
        assert found.determined < 5 + 0.3 * 50
        assert (found.precision.coupling > 30).all()


@pytest.mark.parametrize("coupling", ["uniform", "diagonal", "symmetric", "full"])
@pytest.mark.parametrize(
    ("chain", "reach"), [("kinetic", 1), ("potts", 1), ("potts", 2), ("topk", 1), ("topk", 2)]
)
def test_real_traces_are_fitted_in_few_passes(chain, reach, coupling):
    """Experts that fire together, or one that has most tokens, bend the likelihood for all."""
    traces = im.example_traces().isel(layer=[1, 3], sequence=slice(0, 80))
    settings = Settings(
        chain=chain,
        coupling=coupling,
        reach=reach,
        estimator=im.MaximumLikelihood() if chain == "kinetic" else im.Pseudolikelihood(),
    )
    kind = settings.kind(traces).kind
    for place in (0, 1):
        found = kind.estimate(kind.problem(traces, place)).maximum
        assert found.converged
        assert found.n_passes < 100
