"""Kinetic chains: one evaluation, a whole fit, and the problem that other tools can do too.

Run with `make bench`. `extra_info` of each has tokens per second and microseconds per token.
Tools that are not among the dependencies are left out where they are not installed.
"""

import ctypes
import gc
import time
from typing import NamedTuple

import numba
import numpy as np
import pytest
from naive import pair_counts, simulate_markov
from scipy.sparse import csr_array
from scipy.special import log_softmax, softmax, xlogy

import isingmoe as im
from isingmoe.histories import histories
from isingmoe.kinetic import value_and_slope
from isingmoe.stationary import markov_chain

Q, TOP_K, LENGTH = 64, 8, 512
N_EVALUATED, N_FITTED = 98, 196
N_PAIRS = N_FITTED * (LENGTH - 1)
BY_COUNTS, BY_STEPS = (
    pytest.mark.benchmark(group=f"one of 64 experts, 100,156 tokens, full coupling, {how}")
    for how in ("from pair counts", "by regression")
)


@pytest.fixture
def timed(benchmark):
    """Time a call, and note what it takes for a token."""

    def call(function, n_tokens, rounds=5, warmup=1):
        result = benchmark.pedantic(function, rounds=rounds, warmup_rounds=warmup)
        if benchmark.enabled:
            seconds = benchmark.stats.stats.median
            benchmark.extra_info["n_tokens"] = n_tokens
            benchmark.extra_info["tokens_per_second"] = n_tokens / seconds
            benchmark.extra_info["microseconds_per_token"] = 1e6 * seconds / n_tokens
        return result

    return call


@numba.njit
def plain_value_and_slope(sets, features, table):
    """Log-likelihood of each token and the gradient of their sum, one token after another."""
    q, k = table.shape[1], sets.shape[1]
    values, slope = np.zeros(len(sets)), np.zeros_like(table)
    log_weight, weight, rate = np.empty(q), np.empty(q), np.empty(q)
    # Symmetric polynomials of the labels before one, and of those from it on.
    before, after = np.zeros((q + 1, k + 1)), np.zeros((q + 1, k + 1))
    before[0, 0] = after[q, 0] = 1
    for t in range(len(sets)):
        log_weight[:] = 0
        for row in features[t]:
            log_weight += table[row]
        top = log_weight.max()
        for b in range(q):
            weight[b] = np.exp(log_weight[b] - top)
        for b in range(q):
            before[b + 1, 0] = 1
            for j in range(1, k + 1):
                before[b + 1, j] = before[b, j] + weight[b] * before[b, j - 1]
        for b in range(q - 1, -1, -1):
            after[b, 0] = 1
            for j in range(1, k + 1):
                after[b, j] = after[b + 1, j] + weight[b] * after[b + 1, j - 1]
        whole = before[q, k]
        for b in range(q):
            without = 0.0
            for j in range(k):
                without += before[b, j] * after[b + 1, k - 1 - j]
            rate[b] = weight[b] * without / whole
        values[t] = -np.log(whole) - k * top
        for label in sets[t]:
            values[t] += log_weight[label]
        for row in features[t]:
            slope[row] -= rate
            for label in sets[t]:
                slope[row, label] += 1
    return values, slope


@pytest.fixture(scope="module")
def evaluated():
    """About 50,000 tokens, a table of log-weights, and what the plain loop finds."""
    rng = np.random.default_rng(0)
    index = rng.random((1, N_EVALUATED, LENGTH, Q)).argsort(-1)[..., :TOP_K]
    traces = im.traces_from_arrays(index, num_experts=Q, ranked=False)
    problem = histories(traces, 0, 1)
    table = rng.normal(scale=0.3, size=(problem.n_rows + 1, Q))
    table[-1] = 0
    return problem, table, plain_value_and_slope(problem.sets, problem.features, table)


@pytest.mark.benchmark(group="likelihood and gradient, sets of 8 of 64 experts")
class TestEvaluation:
    @pytest.fixture
    def one_thread(self):
        """One thread for as long as a test takes."""
        before = numba.get_num_threads()
        numba.set_num_threads(1)
        yield
        numba.set_num_threads(before)

    def test_isingmoe_all_cores(self, timed, evaluated):
        self.check(timed, evaluated)

    @pytest.mark.usefixtures("one_thread")
    def test_isingmoe_one_thread(self, timed, evaluated):
        self.check(timed, evaluated)

    def test_plain_numba_loop(self, timed, evaluated):
        problem, table, _ = evaluated
        timed(
            lambda: plain_value_and_slope(problem.sets, problem.features, table),
            len(problem.sets),
        )

    def check(self, timed, evaluated):
        problem, table, (values, slope) = evaluated
        found = timed(lambda: value_and_slope(problem, table), len(problem.sets), rounds=15)
        np.testing.assert_allclose(found[0], values, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found[1], slope, rtol=1e-9, atol=1e-9)


def memory(key):
    """Bytes that the process holds (VmRSS), or held at its height (VmHWM)."""
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


class Height:
    """Bytes held at the height of a block beyond those held before it; None off Linux."""

    def __enter__(self):
        self.beyond = None
        gc.collect()
        try:
            # What has been freed goes back first, and the height is counted anew.
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            with open("/proc/self/clear_refs", "w") as refs:
                refs.write("5")
            self._before = memory("VmRSS")
        except OSError:
            self._before = None
        return self

    def __exit__(self, *_):
        if self._before is not None:
            self.beyond = memory("VmHWM") - self._before


@pytest.fixture(scope="module")
def opened(shared_traces):
    file = shared_traces / "gpt-oss-20b.nc"
    if not file.exists():
        pytest.skip("no trace of gpt-oss-20b beside the checkout")
    loaded = im.open_traces(file).load()
    # Kernels are compiled.
    im.fit(loaded.isel(layer=[0], sequence=slice(40)), chain="kinetic")
    return loaded


@pytest.fixture(scope="module")
def a_pass(opened):
    """One evaluation for every layer, and their number of tokens."""
    rng = np.random.default_rng(0)
    problems = [histories(opened, place, 1) for place in range(opened.sizes["layer"])]
    table = rng.normal(scale=0.3, size=(problems[0].n_rows + 1, problems[0].n_experts))
    table[-1] = 0

    def evaluate():
        for problem in problems:
            value_and_slope(problem, table)

    return evaluate, sum(len(problem.sets) for problem in problems)


@pytest.mark.shared
@pytest.mark.benchmark(group="gpt-oss-20b, 24 layers of 72,420 tokens, kinetic chain")
class TestRealTrace:
    def test_isingmoe_one_pass(self, timed, a_pass):
        evaluate, n_tokens = a_pass
        timed(evaluate, n_tokens)

    def test_isingmoe_fit_without_errors(self, benchmark, timed, opened, a_pass):
        self.check(benchmark, timed, opened, a_pass, uncertainty="none")

    def test_isingmoe_fit(self, benchmark, timed, opened, a_pass):
        self.check(benchmark, timed, opened, a_pass)

    def check(self, benchmark, timed, opened, a_pass, **options):
        evaluate, n_tokens = a_pass
        passes = [seconds_of(evaluate) for _ in range(3)]
        with Height() as height:
            fit = timed(
                lambda: im.fit(opened, chain="kinetic", **options), n_tokens, rounds=1, warmup=0
            )
        passes += [seconds_of(evaluate) for _ in range(3)]
        assert fit.data["converged"].all()
        if benchmark.enabled:
            benchmark.extra_info["passes"] = benchmark.stats.stats.median / np.median(passes)
        if height.beyond is not None:
            benchmark.extra_info["peak_bytes_over_trace"] = height.beyond / opened.nbytes
            assert height.beyond <= 2 * opened.nbytes


def seconds_of(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class Potts(NamedTuple):
    """A Markov chain's tokens, as many fresh ones, and what is best for the first."""

    states: np.ndarray
    counts: np.ndarray
    fresh: np.ndarray
    traces: object

    @property
    def pairs(self):
        """Each token (pair, 2) after the one before it."""
        return np.stack([self.states[:, :-1].ravel(), self.states[:, 1:].ravel()], 1)

    def nats(self, transition):
        """Log-likelihood of a token, of those fitted to."""
        return xlogy(self.counts, transition).sum() / self.counts.sum()

    def fresh_nats(self, transition):
        """Log-likelihood of a token, of the fresh ones."""
        return xlogy(self.fresh, transition).sum() / self.fresh.sum()

    def ridge_nats(self, couplings, log_transition):
        """What a ridge of one is to make largest, for a token."""
        total = (self.counts * log_transition).sum() - (couplings**2).sum() / 2
        return total / self.counts.sum()


def kinetic_fit(potts, l2=None, **options):
    """Couplings, and logarithms of the chances of the next state."""
    estimator = im.MaximumLikelihood(l2=l2)
    fit = im.fit(potts.traces, chain="kinetic", estimator=estimator, **options)
    J, h = fit.data["J"].values[0, 0], fit.data["h"].values[0]
    return J, log_softmax(J + h, axis=1)


def one_hot(states):
    """Sparse rows with a one each."""
    n = len(states)
    return csr_array((np.ones(n), states, np.arange(n + 1)), shape=(n, Q))


@pytest.fixture(scope="module")
def potts():
    rng = np.random.default_rng(0)
    log_weight = rng.normal(scale=0.35, size=(Q, Q)) + rng.normal(scale=0.25, size=Q)
    transition = softmax(log_weight, axis=1)
    states, fresh = (simulate_markov(transition, N_FITTED, LENGTH, rng) for _ in range(2))
    traces = im.traces_from_arrays(states[None, :, :, None], num_experts=Q)
    return Potts(states, pair_counts(states, Q), pair_counts(fresh, Q), traces)


@pytest.fixture(scope="module")
def ours(potts):
    """The kinetic chain of each prior, without errors."""
    return {l2: kinetic_fit(potts, l2, uncertainty="none") for l2 in (None, 1.0)}


@pytest.mark.filterwarnings("ignore")
class TestOneExpert:
    """A token has one expert: a Potts chain, and a multinomial regression on the last state.

    Tools that stop early or draw at random reach less; the likelihood that each comes to is
    in `extra_info`, of the tokens it was fitted to and of as many fresh ones.
    """

    @pytest.fixture
    def note(self, benchmark, potts, ours):
        """Note what a tool reached; nothing is better than ours."""

        def noted(transition, tolerance=0.0):
            rows = np.asarray(transition, float)
            rows = rows / rows.sum(1, keepdims=True)
            found, fresh = potts.nats(rows), potts.fresh_nats(rows)
            benchmark.extra_info |= {"nats_per_token": found, "fresh_nats_per_token": fresh}
            # The largest likelihood, which the closed form has, and the best prediction.
            largest = potts.nats(potts.counts / potts.counts.sum(1, keepdims=True))
            assert found <= largest + 1e-12
            assert fresh <= potts.fresh_nats(np.exp(ours[None][1])) + tolerance

        return noted

    @pytest.fixture
    def note_ridge(self, benchmark, potts, ours):
        """Note what a tool reached of the same penalised likelihood; ours is not beaten."""

        def noted(couplings, log_transition):
            found = potts.ridge_nats(couplings, log_transition)
            benchmark.extra_info["ridge_nats_per_token"] = found
            # Ours has a weak prior on the fields too.
            assert found <= potts.ridge_nats(*ours[1.0]) + 1e-6

        return noted

    @BY_COUNTS
    def test_isingmoe_potts(self, timed, potts, note):
        estimator = im.MaximumLikelihood(pseudocount=0)
        options = {"chain": "potts", "estimator": estimator, "uncertainty": "none"}
        fit = timed(lambda: im.fit(potts.traces, **options), N_PAIRS)
        chain = fit.chain(layer=0)
        transition = markov_chain(chain.J + chain.h)[1]
        note(transition)
        empirical = potts.counts / potts.counts.sum(1, keepdims=True)
        np.testing.assert_allclose(transition, empirical, atol=1e-12)

    @BY_STEPS
    def test_isingmoe_kinetic(self, timed, potts, note):
        note(np.exp(timed(lambda: kinetic_fit(potts), N_PAIRS, rounds=1)[1]), 1e-9)

    @BY_STEPS
    def test_isingmoe_kinetic_without_errors(self, timed, potts, note):
        found = timed(lambda: kinetic_fit(potts, uncertainty="none"), N_PAIRS, rounds=3)
        note(np.exp(found[1]), 1e-9)

    @BY_STEPS
    def test_isingmoe_kinetic_ridge_without_errors(self, timed, potts, note, note_ridge):
        found = timed(lambda: kinetic_fit(potts, 1.0, uncertainty="none"), N_PAIRS, rounds=3)
        note(np.exp(found[1]))
        note_ridge(*found)

    @BY_STEPS
    def test_scikit_learn_ridge(self, timed, potts, note, note_ridge):
        """The same prior; its default tolerance."""
        linear_model = pytest.importorskip("sklearn.linear_model")
        before, after = potts.pairs.T
        regression = linear_model.LogisticRegression(C=1.0, max_iter=1000)
        found = timed(lambda: regression.fit(one_hot(before), after), N_PAIRS, rounds=1)
        log_chance = found.predict_log_proba(np.eye(Q))
        note(np.exp(log_chance))
        note_ridge(found.coef_.T, log_chance)

    @BY_STEPS
    def test_plgpm_ridge(self, timed, potts, note, note_ridge):
        """Regressions of both tokens of a pair on each other.

        With the tolerance that it has by default it stops far below the maximum.
        """
        plgpm = pytest.importorskip("plgpm")
        from plgpm.core import PLGPMConfig

        ridge = {"C": 1.0, "penalty": "l2", "solver": "lbfgs", "l1_ratio": 0.0, "tol": 1e-5}
        config = PLGPMConfig(**ridge, n_jobs=1, verbose=False)
        pairs = potts.pairs.astype(np.int64)
        found = timed(lambda: plgpm.PLGPM([Q, Q], config).fit(pairs), N_PAIRS, rounds=1)
        chance = np.stack([found.conditional_probs(1, [state, 0]) for state in range(Q)])
        note(chance)
        note_ridge(found.models[1][0].coef_.T, np.log(chance))

    @BY_COUNTS
    def test_deeptime(self, timed, potts, note):
        markov = pytest.importorskip("deeptime.markov")
        from deeptime.markov.msm import MaximumLikelihoodMSM

        sequences = list(potts.states.astype(np.int32))

        def fit():
            counted = markov.TransitionCountEstimator(lagtime=1, count_mode="sliding")
            model = MaximumLikelihoodMSM(reversible=False)
            return model.fit(counted.fit(sequences).fetch_model()).fetch_model()

        note(timed(fit, N_PAIRS).transition_matrix)

    @BY_COUNTS
    def test_dynamax(self, timed, potts, note):
        """A hidden chain whose states are seen: one step of expectation maximisation."""
        hidden = pytest.importorskip("dynamax.hidden_markov_model")
        random, jnp = pytest.importorskip("jax.random"), pytest.importorskip("jax.numpy")
        model = hidden.CategoricalHMM(Q, 1, Q)
        start, properties = model.initialize(
            random.PRNGKey(0),
            transition_matrix=jnp.full((Q, Q), 1 / Q),
            emission_probs=jnp.eye(Q)[:, None],
        )
        properties.emissions.probs.trainable = False
        seen = jnp.asarray(potts.states[..., None].astype(np.int32))

        def fit():
            found, _ = model.fit_em(start, properties, seen, num_iters=1, verbose=False)
            return np.asarray(found.transitions.transition_matrix)

        note(timed(fit, N_PAIRS, rounds=1))

    @BY_STEPS
    def test_adabm_dca(self, timed, potts, note):
        """Boltzmann learning of two sites, 100 epochs of 10,000 chains.

        At its own rate, 0.01, an epoch changes a coupling by less than 0.00001.
        """
        torch, training = pytest.importorskip("torch"), pytest.importorskip("adabmDCA.training")
        from adabmDCA.sampling import get_sampler
        from adabmDCA.stats import get_freq_single_point, get_freq_two_points
        from adabmDCA.utils import init_chains, init_parameters

        pairs = torch.tensor(potts.pairs.astype(np.int64))
        mask = torch.ones(2, Q, 2, Q)
        mask[[0, 1], :, [0, 1], :] = 0

        def fit():
            torch.manual_seed(0)
            data = torch.nn.functional.one_hot(pairs, Q).float()
            single, double = get_freq_single_point(data=data), get_freq_two_points(data=data)
            chains = init_chains(
                num_chains=10_000,
                L=2,
                q=Q,
                fi=single,
                device=torch.device("cpu"),
                dtype=torch.float32,
            )
            _, found, _, _ = training.train_graph(
                sampler=get_sampler("gibbs"),
                chains=chains,
                mask=mask,
                fi_target=single,
                fij_target=double,
                params=init_parameters(fi=single),
                nsweeps=1,
                lr=50.0,
                max_epochs=100,
                target_pearson=0.95,
            )
            return (found["coupling_matrix"][0, :, 1] + found["bias"][1]).numpy()

        note(softmax(timed(fit, N_PAIRS, 1, 0), axis=1))
