"""Local updates, each beside the tools a user would otherwise take.

Run with `make bench`. One replica, or one word of 64, for each of two threads; tokens in the
summary are site updates. All start from a chain in equilibrium and must leave it there.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import isingmoe as im
from isingmoe._kernels.local import alias_entries
from isingmoe._kernels.multispin import unpacked
from isingmoe.algorithms._conditionals import neighbour_fields
from isingmoe.algorithms.local import HeatBath, Metropolis

N_SITES, N_THREADS = 1 << 14, 2
ISING = im.IsingChain(J=0.5, n_sites=N_SITES, boundary="periodic")
POTTS = im.PottsChain(J=5.0, n_experts=64, n_sites=N_SITES, boundary="periodic")


@pytest.fixture
def swept(run):
    """Time sweeps of one sampler for each thread; returns its states."""

    def timed(sampler, n_sweeps, rounds=15):
        seeds = [np.random.default_rng(thread) for thread in range(N_THREADS)]
        words = [rng.integers(0, 2**64, 4, dtype=np.uint64) for rng in seeds]
        states = [sampler.start(own) for own in words]
        outs = [np.empty((1, *state.shape), state.dtype) for state in states]

        def advance():
            list(pool.map(sampler.advance, states, words, outs, [n_sweeps] * N_THREADS))

        with ThreadPoolExecutor(N_THREADS) as pool:
            n_updates = N_THREADS * n_sweeps * N_SITES * sampler.lanes
            run(advance, n_tokens=n_updates, rounds=rounds)
        return np.concatenate(outs)

    return timed


@pytest.fixture
def in_threads(run):
    """Time a function of the thread's number, called once in each."""

    def timed(function, n_sweeps, rounds=5):
        with ThreadPoolExecutor(N_THREADS) as pool:
            n_updates = N_THREADS * n_sweeps * N_SITES
            return run(lambda: list(pool.map(function, range(N_THREADS))), n_updates, rounds=rounds)

    return timed


def assert_equilibrated(chain, states):
    exact = im.solve(chain)
    error = np.sqrt(float(exact["specific_heat"]) / states.size)
    energy = chain.energy(states).mean() / chain.n_sites
    assert energy == pytest.approx(float(exact["energy"]), abs=5 * error)


def numpy_checkerboard(state, rng, n_sweeps, draw):
    """Even sites, then odd ones, each half at once."""
    for _ in range(n_sweeps):
        for parity in (0, 1):
            other = state[1 - parity :: 2]
            left = np.roll(other, 1) if parity == 0 else other
            right = other if parity == 0 else np.roll(other, -1)
            state[parity::2] = draw(rng, left, right)


@pytest.mark.benchmark(group="two labels, nearest neighbours")
class TestTwoLabels:
    def test_isingmoe_64_to_a_word_heat_bath(self, swept):
        words = swept(HeatBath().prepare_many(ISING), 100)
        assert_equilibrated(ISING, unpacked(words).reshape(-1, N_SITES))

    def test_isingmoe_64_to_a_word_metropolis(self, swept):
        words = swept(Metropolis("checkerboard").prepare_many(ISING), 100)
        assert_equilibrated(ISING, unpacked(words).reshape(-1, N_SITES))

    def test_isingmoe_heat_bath(self, swept):
        assert_equilibrated(ISING, swept(HeatBath().prepare(ISING), 1000))

    def test_isingmoe_metropolis(self, swept):
        assert_equilibrated(ISING, swept(Metropolis("checkerboard").prepare(ISING), 1000))

    def test_isingmoe_metropolis_random_order(self, swept):
        assert_equilibrated(ISING, swept(Metropolis().prepare(ISING), 500))

    def test_mcising_metropolis(self, in_threads):
        """Sequential order: at no field it does not come to equilibrium."""
        mcising = pytest.importorskip("mcising")
        chains = [
            mcising.IsingSimulation(N_SITES, 0.5, 0.0, 0.0, 0.0, seed, "metropolis", "chain")
            for seed in range(N_THREADS)
        ]
        in_threads(lambda thread: chains[thread].sweep(500, temperature=1.0), 500)

    def test_numpy_checkerboard_heat_bath(self, in_threads):
        gain = neighbour_fields(ISING)[:2, :2]
        up = (1 / (1 + np.exp(gain[..., 0] - gain[..., 1]))).astype(np.float32).ravel()
        rngs = [np.random.Generator(np.random.SFC64(seed)) for seed in range(N_THREADS)]
        states = [rng.integers(0, 2, N_SITES, dtype=np.uint8) for rng in rngs]

        def draw(rng, left, right):
            return rng.random(left.size, np.float32) < up[2 * left + right]

        in_threads(lambda t: numpy_checkerboard(states[t], rngs[t], 200, draw), 200)
        assert_equilibrated(ISING, np.stack(states))


@pytest.mark.benchmark(group="64 labels, nearest neighbours, heat bath")
class TestPotts:
    def test_isingmoe(self, swept):
        assert_equilibrated(POTTS, swept(HeatBath().prepare(POTTS), 400))

    def test_numpy_checkerboard(self, in_threads):
        field = neighbour_fields(POTTS)[:64, :64].reshape(-1, 64)
        entry = alias_entries(np.exp(field - field.max(1, keepdims=True))).ravel()
        kept = ((entry >> np.uint64(8)) / 2.0**56).astype(np.float32)
        alias = (entry & np.uint64(0xFF)).astype(np.uint8)
        rngs = [np.random.Generator(np.random.SFC64(seed)) for seed in range(N_THREADS)]
        states = [rng.integers(0, 64, N_SITES, dtype=np.uint8) for rng in rngs]

        def draw(rng, left, right):
            label = rng.integers(0, 64, left.size, dtype=np.uint8)
            place = (left.astype(np.int32) * 64 + right) * 64 + label
            stays = rng.random(left.size, np.float32) < kept[place]
            return np.where(stays, label, alias[place])

        in_threads(lambda t: numpy_checkerboard(states[t], rngs[t], 100, draw), 100)
        assert_equilibrated(POTTS, np.stack(states))


@pytest.mark.benchmark(group="64 labels and a field of each site, heat bath")
class TestSiteFields:
    def test_isingmoe(self, swept):
        h = np.random.default_rng(0).normal(size=(N_SITES, 64))
        chain = im.PottsChain(J=2.0, h=h, n_sites=N_SITES)
        swept(HeatBath().prepare(chain), 10)


@pytest.mark.benchmark(group="sets of 8 of 64 labels")
class TestSets:
    CHAIN = im.PottsChain(J=0.5, n_experts=64, n_sites=N_SITES, top_k=8)

    def test_isingmoe_heat_bath(self, swept):
        swept(HeatBath().prepare(self.CHAIN), 2)

    def test_isingmoe_metropolis(self, swept):
        swept(Metropolis("checkerboard").prepare(self.CHAIN), 50)
