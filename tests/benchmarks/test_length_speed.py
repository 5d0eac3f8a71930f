"""Bootstrap of a correlation length, beside the bootstraps that a user would otherwise take.

Run with `make bench`. 100 sequences of 500 tokens, 64 experts, distances up to 64. All draw
sequences, make C(d) of the same per-sequence sums and fit the same length to it, by the same
kernel; what the summary counts are resamples. `isingmoe` is the public function, which counts
the pairs too.
"""

import numpy as np
import pytest
from naive import simulate_markov

import isingmoe as im
from isingmoe._kernels import overlaps
from isingmoe.decay import decay_fit, percentiles

Q, N_SEQUENCES, LENGTH, MAX_DISTANCE, XI = 64, 100, 500, 64, 5.0


@pytest.fixture(scope="module")
def texts():
    kept = np.exp(-1 / XI)
    transition = kept * np.eye(Q) + (1 - kept) / Q
    states = simulate_markov(transition, N_SEQUENCES, LENGTH, np.random.default_rng(0))
    return im.traces_from_arrays(states[None, :, :, None], num_experts=Q)


@pytest.fixture(scope="module")
def sums(texts):
    """Pairs, shared experts and occupancies of each sequence, in one row (sequence, sum)."""
    sets, _, _ = overlaps.pack_sets(texts["expert_index"].values[0], 1)
    pairs, shared = overlaps.pair_overlaps(sets, np.arange(MAX_DISTANCE + 1))
    _, occupied = overlaps.occupancy_counts(sets, Q)
    return np.concatenate([pairs, shared, occupied], 1).astype(float)


@pytest.fixture(scope="module")
def measured(texts):
    return im.correlation(texts, max_distance=MAX_DISTANCE, n_resamples=10_000)


@pytest.fixture(scope="module")
def length(measured):
    """Correlation length from sums over the drawn sequences (..., sum)."""
    error = measured["correlation_error"].values[0]
    like = measured["correlation"].values[0]

    def of_totals(total):
        n = MAX_DISTANCE + 1
        pairs, shared, occupied = np.split(total, [n, 2 * n], -1)
        rate = occupied / pairs[..., :1]
        curve = shared / pairs - (rate**2).sum(-1, keepdims=True)
        return decay_fit(curve, error, like)[0]

    return of_totals


@pytest.fixture(scope="module")
def check(measured):
    """Assert that an interval is ours, up to the noise of its resamples."""
    error, like = measured["correlation_error"].values[0], measured["correlation"].values[0]
    low, high = percentiles(decay_fit(measured["resample"].values[0], error, like)[0])

    def compare(found):
        np.testing.assert_allclose(found, (low, high), atol=0.08 * (high - low))

    assert low < XI < high
    return compare


@pytest.mark.benchmark(group="bootstrap of a correlation length, q = 64")
class TestBootstrap:
    def test_isingmoe_correlation(self, run, texts, measured):
        def draw():
            return im.correlation(texts, max_distance=MAX_DISTANCE, n_resamples=10_000)

        found = run(draw, n_tokens=10_000, rounds=7)
        assert found["correlation_length"].identical(measured["correlation_length"])

    def test_scipy_bootstrap_vectorized(self, run, sums, length, check):
        from scipy.stats import bootstrap

        def statistic(index, axis):
            assert axis == -1
            return length(sums[index].sum(-2))

        def draw():
            return bootstrap(
                (np.arange(N_SEQUENCES),),
                statistic,
                n_resamples=2000,
                batch=200,
                vectorized=True,
                method="percentile",
                rng=np.random.default_rng(1),
            )

        found = run(draw, n_tokens=2000, rounds=3).confidence_interval
        check((found.low, found.high))

    def test_arch_bootstrap(self, run, sums, length, check):
        arch = pytest.importorskip("arch.bootstrap")

        def draw():
            scheme = arch.IIDBootstrap(sums, seed=1)
            return scheme.apply(lambda drawn: np.atleast_1d(length(drawn.sum(0))), 1000)

        check(percentiles(run(draw, n_tokens=1000, rounds=3).ravel()))
