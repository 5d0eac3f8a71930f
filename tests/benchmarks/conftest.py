"""Data for the benchmarks, and a summary in items per second and as ratios."""

import numpy as np
import pytest

import isingmoe as im

Q, N_SEQUENCES, LENGTH = 64, 16, 1_000_000


@pytest.fixture(scope="session")
def states():
    """16 x 10^6 tokens of a Markov chain on 64 states that is not reversible, int16."""
    rng = np.random.default_rng(0)
    cumulative = rng.dirichlet(np.full(Q, 0.3), size=Q).cumsum(1)
    grid = (np.arange(4096) + 0.5) / 4096
    # A table of 4096 equal steps for each state: one look-up draws the next state.
    table = np.stack([np.searchsorted(row[:-1], grid) for row in cumulative]).astype(np.int16)
    drawn = np.empty((LENGTH, N_SEQUENCES), np.int16)
    state = rng.integers(0, Q, N_SEQUENCES)
    step = rng.integers(0, 4096, (LENGTH, N_SEQUENCES), dtype=np.int16)
    for i in range(LENGTH):
        drawn[i] = state = table[state, step[i]]
    return np.ascontiguousarray(drawn.T)


@pytest.fixture(scope="session")
def counts(states):
    pairs = states[:, :-1].astype(np.int32) * Q + states[:, 1:]
    return np.bincount(pairs.ravel(), minlength=Q * Q).reshape(Q, Q)


@pytest.fixture(scope="session")
def traces(states):
    return im.traces_from_arrays(states[None, :, :, None], num_experts=Q)


@pytest.fixture
def run(benchmark):
    """Time a call after warm-up rounds, and note how many tokens or sites it went through."""

    def timed(function, n_tokens=N_SEQUENCES * LENGTH, rounds=25):
        benchmark.extra_info["n_tokens"] = n_tokens
        # Threads that have just been started take a while to get a core each.
        warmup = max(rounds // 2, 1)
        return benchmark.pedantic(function, rounds=rounds, iterations=1, warmup_rounds=warmup)

    return timed


def pytest_terminal_summary(terminalreporter, config):
    session = getattr(config, "_benchmarksession", None)
    groups = {}
    for bench in session.benchmarks if session else ():
        if not bench.has_error and "n_tokens" in bench.extra_info:
            rate = bench.extra_info["n_tokens"] / bench.stats.median / 1e6
            groups.setdefault(bench.group, []).append((bench.name, rate))
    for group, rows in groups.items():
        terminalreporter.section(f"{group}: millions per second, median")
        ours = max((rate for name, rate in rows if "isingmoe" in name), default=None)
        for name, rate in sorted(rows, key=lambda row: -row[1]):
            ratio = f"   isingmoe is {ours / rate:.1f} times this" if ours else ""
            terminalreporter.write_line(f"{rate:10.4g}  {name}{'' if rate == ours else ratio}")
