"""Counting tokens in blocks of positions, in random order: ours beside numpy's."""

import numpy as np
import pytest

import isingmoe as im
from isingmoe._kernels import blocks
from isingmoe._seeds import generators
from isingmoe.position_blocks import partition_of

S, LENGTH, E, K, SHUFFLES = 142, 512, 32, 4, 20


@pytest.fixture(scope="module")
def traces():
    rng = np.random.default_rng(0)
    index = rng.random((1, S, LENGTH, E), np.float32).argpartition(K, -1)[..., :K]
    return im.traces_from_arrays(index, num_experts=E, ranked=False)


@pytest.mark.benchmark(group="tokens in random order, counted in blocks")
def test_shuffles_isingmoe(run, traces):
    part = partition_of(traces)
    index, length, first, block_length, n_blocks, n_experts = part.arguments(traces, 0)
    tokens, _ = blocks.block_counts(index, length, first, block_length, n_blocks, n_experts)
    words = generators(0, SHUFFLES)
    counts = run(
        lambda: blocks.shuffled_counts(index, length, tokens, E, words), S * LENGTH * SHUFFLES, 5
    )
    assert (counts.sum((1, 2)) == S * LENGTH * K).all()


@pytest.mark.benchmark(group="tokens in random order, counted in blocks")
def test_shuffles_numpy(run, traces):
    index = traces["expert_index"].values[0]
    part = partition_of(traces)
    block = np.arange(LENGTH) // part.block_length
    key = E * block[:, None]
    n = len(part.start) * E

    def shuffle():
        rng = np.random.default_rng(0)
        counts = []
        for _ in range(SHUFFLES):
            order = rng.permuted(np.broadcast_to(np.arange(LENGTH), (S, LENGTH)), axis=1)
            moved = np.take_along_axis(index, order[..., None], 1)
            counts.append(np.bincount((moved + key).ravel(), minlength=n))
        return np.array(counts)

    counts = run(shuffle, S * LENGTH * SHUFFLES, 5)
    assert (counts.sum(1) == S * LENGTH * K).all()
