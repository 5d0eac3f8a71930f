"""Cluster updates of long-range chains, each beside the tools a user would otherwise take.

Run with `make bench`. Ising rings with couplings K r**-1.5 near their transition, one replica
for each of two threads. Tokens in the summary are sites swept, or effective samples.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

import isingmoe as im
from isingmoe.algorithms.cluster import SwendsenWang, Wolff

# The Binder crossings of 4,096 to 65,536 sites are at 0.231 to 0.232.
K, N_THREADS = 0.231, 2

# Of the dense chains.
N_SWEEPS = 4


def ring(n_sites):
    return im.IsingChain(J=K, n_sites=n_sites, boundary="periodic", decay=im.power_law(1.5))


class Replicas:
    """A sampler and a state for each thread, in equilibrium."""

    def __init__(self, algorithm, n_sites, warm_up):
        self.sampler = algorithm.prepare(ring(n_sites))
        seeds = [np.random.default_rng(thread) for thread in range(N_THREADS)]
        self.words = [rng.integers(0, 2**64, 4, dtype=np.uint64) for rng in seeds]
        self.states = [self.sampler.start(own) for own in self.words]
        self.advance(1, warm_up)

    def advance(self, n_samples, n_sweeps):
        """Samples (thread, sample, site)."""
        outs = np.empty((N_THREADS, n_samples, self.sampler.n_sites), np.uint8)
        arguments = self.states, self.words, outs, [n_sweeps] * N_THREADS
        with ThreadPoolExecutor(N_THREADS) as pool:
            list(pool.map(self.sampler.advance, *arguments))
        return outs


def autocorrelation_time(values):
    """Integrated over six times itself, of series (thread, sample)."""
    centred = values - values.mean()
    n = values.shape[1]
    spectrum = np.abs(np.fft.rfft(centred, 2 * n)) ** 2
    rho = np.fft.irfft(spectrum).sum(0)[:n] / np.arange(n, 0, -1)
    tau = 0.5 + np.cumsum(rho[1:] / rho[0])
    return tau[np.argmax(np.arange(1, n) >= 6 * tau)]


def squared_magnetization(states):
    return (2 * states.mean(-1) - 1) ** 2


@pytest.mark.parametrize("size", [12, 14, 16, 18, 20])
@pytest.mark.benchmark(group="Swendsen-Wang, power law 1.5")
def test_isingmoe_swendsen_wang(run, size):
    n_sites, n_sweeps = 1 << size, 1 << (22 - size)
    replicas = Replicas(SwendsenWang(), n_sites, 50)
    run(lambda: replicas.advance(1, n_sweeps), N_THREADS * n_sweeps * n_sites, rounds=5)


@pytest.mark.benchmark(group="Swendsen-Wang, power law 1.5")
def test_numpy_and_scipy(run):
    """The same events from numpy, the clusters from scipy."""
    n_sites = 1 << 16
    rate = np.cumsum(2 * K * ring(n_sites).strength)
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, n_sites, dtype=np.uint8)

    def sweep():
        nonlocal label
        n_events = rng.poisson(rate[-1] * n_sites)
        left = rng.integers(0, n_sites, n_events)
        right = (left + 1 + np.searchsorted(rate, rng.random(n_events) * rate[-1])) % n_sites
        equal = label[left] == label[right]
        bonds = coo_array((np.ones(equal.sum(), bool), (left[equal], right[equal])), [n_sites] * 2)
        n_clusters, of_site = connected_components(bonds, directed=False)
        label = rng.integers(0, 2, n_clusters, dtype=np.uint8)[of_site]

    run(sweep, n_sites, rounds=5)


@pytest.fixture
def dense():
    """Every pair of 4,096 sites coupled, in `peapods`; the antipodes from both sides."""
    peapods = pytest.importorskip("peapods")
    strength = ring(1 << 12).strength
    couplings = np.broadcast_to(strength, (1 << 12, len(strength)))
    offsets = [[r] for r in range(1, len(strength) + 1)]
    chain = peapods.Ising(
        (1 << 12,), couplings, np.array([1 / K]), N_THREADS, neighbor_offsets=offsets
    )

    def sweep(cluster_mode):
        # A sweep of single spins comes before each cluster update and cannot be left out.
        chain.sample(N_SWEEPS, "gibbs", 1, cluster_mode, warmup_ratio=0.0)

    return sweep


@pytest.mark.benchmark(group="Swendsen-Wang, power law 1.5")
def test_peapods(run, dense):
    run(lambda: dense("sw"), N_THREADS * N_SWEEPS << 12, rounds=2)


@pytest.mark.parametrize(("size", "n_clusters"), [(12, 30), (14, 60), (16, 120)])
@pytest.mark.benchmark(group="effective samples of m^2, each counted as a million")
def test_isingmoe_wolff(run, size, n_clusters):
    replicas = Replicas(Wolff(n_clusters), 1 << size, 400)
    n_samples = 8000 >> (size - 12)
    tau = autocorrelation_time(squared_magnetization(replicas.advance(2 * n_samples, 1)))
    n_effective = N_THREADS * n_samples / (2 * tau)
    run(lambda: replicas.advance(n_samples, 1), n_effective * 1e6, rounds=5)


@pytest.mark.benchmark(group="effective samples of m^2, each counted as a million")
def test_peapods_wolff(run, dense):
    """An upper bound: as if every sweep and cluster gave an effective sample."""
    run(lambda: dense("wolff"), N_THREADS * N_SWEEPS * 1e6, rounds=2)
