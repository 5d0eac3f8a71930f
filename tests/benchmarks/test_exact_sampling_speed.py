"""Independent samples of a chain, beside the tool a user would otherwise take.

Run with `make bench`. Open chains of 16,384 sites, one replica for each of two threads; what is
counted are sites.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import isingmoe as im
from isingmoe.infinite import stationary_chain

N_SITES, N_ROWS, N_THREADS = 1 << 14, 64, 2


def chain(q):
    rng = np.random.default_rng(q)
    return im.PottsChain(J=rng.normal(size=(q, q)), h=rng.normal(size=q), n_sites=N_SITES)


def assert_follows(states, transition):
    """Pairs of neighbours come as the transition matrix has them."""
    q = len(transition)
    pairs = states[:, :-1].astype(np.int64) * q + states[:, 1:]
    counts = np.bincount(pairs.ravel(), minlength=q * q).reshape(q, q)
    rows = counts.sum(1, keepdims=True)
    z = (counts - rows * transition) / np.sqrt(rows * transition * (1 - transition))
    assert (z**2).mean() == pytest.approx(1, abs=0.5 if q > 2 else 3)


@pytest.mark.parametrize("q", [2, 8, 64])
@pytest.mark.benchmark(group="exact samples")
class TestExactSamples:
    def test_isingmoe_exact(self, run, q, benchmark):
        benchmark.group = f"exact samples, q = {q}"
        sampler = im.Exact().prepare(chain(q))
        seeds = [np.random.default_rng(thread) for thread in range(N_THREADS)]
        words = [rng.integers(0, 2**64, 4, dtype=np.uint64) for rng in seeds]
        states = [sampler.start(own) for own in words]
        outs = [np.empty((N_ROWS, N_SITES), np.uint8) for _ in range(N_THREADS)]

        def advance():
            list(pool.map(sampler.advance, states, words, outs, [1] * N_THREADS))

        with ThreadPoolExecutor(N_THREADS) as pool:
            run(advance, n_tokens=N_THREADS * N_ROWS * N_SITES)
        assert_follows(np.concatenate(outs), stationary_chain(sampler.windows).transition)

    def test_quantecon(self, run, q, benchmark):
        quantecon = pytest.importorskip("quantecon")
        benchmark.group = f"exact samples, q = {q}"
        transition = stationary_chain(im.Exact().prepare(chain(q)).windows).transition
        markov = quantecon.MarkovChain(transition)
        found = run(
            lambda: markov.simulate(N_SITES, num_reps=N_ROWS, random_state=1),
            n_tokens=N_ROWS * N_SITES,
            rounds=5,
        )
        assert_follows(found, transition)
