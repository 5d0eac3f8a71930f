"""Correlation of block rates, beside what one would write with numpy or scipy.

Run with `make bench`. 64 experts, 256 texts of 4,096 tokens, ten lengths of block, 8 lags.
Tokens in the summary are tokens of one block length.
"""

import numpy as np
import pytest
from scipy.signal import fftconvolve

import isingmoe as im
from isingmoe.block_sums import N_LAGS, BlockGrid
from isingmoe.traces import pack_layer

Q, N_TEXTS, LENGTH = 64, 256, 4096
BLOCKS = 2 ** np.arange(10)
N_TOKENS = N_TEXTS * LENGTH * len(BLOCKS)
GROUP = "correlation of block rates"


@pytest.fixture(scope="module")
def texts(states):
    return states[:, : N_TEXTS * LENGTH // len(states)].reshape(N_TEXTS, LENGTH)


@pytest.fixture(scope="module")
def occupied(texts):
    return np.eye(Q, dtype=np.float32)[texts]


def kernel(traces, windows):
    grid = BlockGrid(BLOCKS, Q, 1)
    length = traces["length"].values.astype(np.int64)
    if not windows:
        # The windows aside, which the others do not measure.
        grid = type("Rates", (BlockGrid,), {"reach": property(lambda g: 0 * g.block_length)})(*grid)
    return grid.sums(pack_layer(traces, 0, primary=False), length)


def with_numpy(occupied):
    products = []
    for b in BLOCKS:
        x = occupied.reshape(N_TEXTS, LENGTH // b, b, Q).sum(2)
        n = min(N_LAGS, LENGTH // b - 1)
        products.append(
            [np.einsum("ste,ste->s", x[:, : x.shape[1] - m], x[:, m:]) for m in range(n + 1)]
        )
    return products


def with_scipy(occupied):
    products = []
    for b in BLOCKS:
        x = occupied.reshape(N_TEXTS, LENGTH // b, b, Q).sum(2)
        full = fftconvolve(x, x[:, ::-1], axes=1)[:, LENGTH // b - 1 :].sum(-1)
        products.append(full[:, : N_LAGS + 1].T)
    return products


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("windows", [False, True], ids=["isingmoe", "with windows"])
def test_ours(run, texts, occupied, windows):
    traces = im.traces_from_arrays(texts[None, :, :, None], num_experts=Q)
    sums = run(lambda: kernel(traces, windows), N_TOKENS, rounds=5)
    for j, expected in enumerate(with_numpy(occupied)):
        np.testing.assert_allclose(sums.product[:, j, : len(expected)].T, expected, rtol=1e-6)


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("other", [with_numpy, with_scipy], ids=["numpy", "scipy"])
def test_others(run, occupied, other):
    run(lambda: other(occupied), N_TOKENS, rounds=3)
