"""Counting and fitting, each beside the tools a user would otherwise take.

Run with `make bench`. 16 x 10^6 tokens, q = 64, int16.
"""

import numba
import numpy as np
import pytest
from scipy.sparse import coo_array

import isingmoe as im
from isingmoe._kernels.counting import pair_histogram
from isingmoe.stationary import markov_chain


@pytest.mark.benchmark(group="pair counts")
class TestPairCounts:
    def test_isingmoe_kernel(self, run, states, counts):
        found = run(lambda: pair_histogram(states, 64, 4 * numba.get_num_threads()))
        np.testing.assert_array_equal(found[1:-1, 1:-1], counts)

    def test_scipy_coo(self, run, states, counts):
        def count():
            ones = np.ones(states[:, 1:].size, np.int32)
            pairs = (states[:, :-1].ravel(), states[:, 1:].ravel())
            return coo_array((ones, pairs), shape=(64, 64)).toarray()

        np.testing.assert_array_equal(run(count, rounds=3), counts)

    def test_numpy_bincount(self, run, states, counts):
        def count():
            total = np.zeros(64 * 64, np.int64)
            for row in states:
                total += np.bincount(row[:-1] * np.int32(64) + row[1:], minlength=64 * 64)
            return total.reshape(64, 64)

        np.testing.assert_array_equal(run(count, rounds=3), counts)

    def test_deeptime_counts(self, run, states, counts):
        markov = pytest.importorskip("deeptime.markov")
        sequences = list(states.astype(np.int32))
        found = run(
            lambda: markov.TransitionCountEstimator.count("sliding", sequences, 1), rounds=3
        )
        np.testing.assert_array_equal(found, counts)


def deeptime_fit(sequences, *, reversible):
    markov = pytest.importorskip("deeptime.markov")
    from deeptime.markov.msm import MaximumLikelihoodMSM

    counted = markov.TransitionCountEstimator(lagtime=1, count_mode="sliding").fit(sequences)
    model = MaximumLikelihoodMSM(reversible=reversible).fit(counted.fetch_model()).fetch_model()
    return model.transition_matrix


@pytest.mark.benchmark(group="full coupling, whole fit")
class TestFullFit:
    def test_isingmoe_fit(self, run, traces, counts):
        fit = run(lambda: im.fit(traces, uncertainty="none"))
        found = markov_chain(fit.log_weight()[0])[1]
        # The pseudocounts are all that differs from the empirical matrix.
        np.testing.assert_allclose(found, counts / counts.sum(1, keepdims=True), atol=1e-3)

    def test_deeptime(self, run, states, counts):
        sequences = list(states.astype(np.int32))
        found = run(lambda: deeptime_fit(sequences, reversible=False), rounds=5)
        np.testing.assert_allclose(found, counts / counts.sum(1, keepdims=True), atol=1e-12)

    def test_msmtools(self, run, states):
        estimation = pytest.importorskip("msmtools.estimation")
        sequences = list(states.astype(np.int32))
        run(
            lambda: estimation.transition_matrix(
                estimation.count_matrix(sequences, 1, sparse_return=False, nstates=64)
            ),
            rounds=3,
        )

    def test_hmmlearn_one_iteration(self, run, states):
        """A hidden chain of 8 states; a fit takes tens of such iterations."""
        hmm = pytest.importorskip("hmmlearn.hmm")
        n_tokens = 1_000_000
        model = hmm.CategoricalHMM(
            n_components=8,
            n_features=64,
            n_iter=1,
            tol=0,
            random_state=0,
            implementation="scaling",
        )
        observed = states[0][:n_tokens, None]
        run(lambda: model.fit(observed), n_tokens=n_tokens, rounds=1)


@pytest.mark.benchmark(group="full coupling, the correlation length and its error")
class TestErrors:
    """Of 1,600 sequences: fits without each hundredth, and draws from a posterior."""

    def test_isingmoe_fit(self, run, states):
        traces = im.traces_from_arrays(states.reshape(1, 1600, -1, 1), num_experts=64)
        fit = run(lambda: im.fit(traces), rounds=5)
        assert fit.data["correlation_length_error"].item() > 0

    @pytest.mark.filterwarnings("ignore:Using eigenvalues with non-zero imaginary part")
    def test_deeptime_bayesian(self, run, states):
        markov = pytest.importorskip("deeptime.markov")
        sequences = list(states.astype(np.int32).reshape(1600, -1))

        def draws():
            counter = markov.TransitionCountEstimator(lagtime=1, count_mode="sliding")
            counted = counter.fit(sequences).fetch_model()
            known = markov.msm.MaximumLikelihoodMSM(reversible=False).fit(counted).fetch_model()
            model = markov.msm.BayesianMSM(n_samples=100, reversible=False)
            model.fit_from_msm(known, ignore_counting_mode=True)
            return model.fetch_model().gather_stats("timescales", k=1)

        assert run(draws, rounds=2).std > 0


@pytest.mark.benchmark(group="symmetric coupling, whole fit")
class TestSymmetricFit:
    def test_isingmoe_fit(self, run, traces):
        fit = run(lambda: im.fit(traces, coupling="symmetric", uncertainty="none"))
        assert fit.data["converged"].all()

    def test_deeptime_reversible(self, run, states, traces):
        sequences = list(states.astype(np.int32))
        found = run(lambda: deeptime_fit(sequences, reversible=True), rounds=5)
        ours = markov_chain(im.fit(traces, coupling="symmetric").log_weight()[0])[1]
        # The default pseudocount is all that differs.
        np.testing.assert_allclose(ours, found, atol=1e-3)

    def test_msmtools_reversible(self, run, states):
        estimation = pytest.importorskip("msmtools.estimation")
        sequences = list(states.astype(np.int32))
        run(
            lambda: estimation.transition_matrix(
                estimation.count_matrix(sequences, 1, sparse_return=False, nstates=64),
                reversible=True,
            ),
            rounds=3,
        )


@pytest.mark.shared
@pytest.mark.benchmark(group="gpt-oss-20b, 24 layers of 72,562 tokens, full coupling")
class TestRealTrace:
    def test_isingmoe_fit(self, run, shared_traces):
        opened = im.open_traces(shared_traces / "gpt-oss-20b.nc")
        run(lambda: im.fit(opened, chain="potts", uncertainty="none"), n_tokens=24 * 72_562)

    def test_deeptime(self, run, shared_traces):
        opened = im.open_traces(shared_traces / "gpt-oss-20b.nc")
        layers = opened["expert_index"].values[..., 0].astype(np.int32)
        run(
            lambda: [deeptime_fit(list(layer), reversible=False) for layer in layers],
            n_tokens=24 * 72_562,
            rounds=3,
        )
