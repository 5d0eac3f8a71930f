"""What is read off states, against reading it site by site."""

import numpy as np
import pytest

from isingmoe import IsingChain, PottsChain, power_law
from isingmoe._kernels.measuring import (
    equal_pairs,
    labels_and_waves,
    log_weights,
    shared_members,
    site_counts,
)


def random_sets(rng, n_samples, n_sites, q, k):
    return rng.random((n_samples, n_sites, q)).argsort(-1)[..., :k].astype(np.uint8)


def overlaps(sets, q, periodic, d):
    held = (sets[..., None] == np.arange(q)).any(2)
    right = np.roll(held, -d, 1) if periodic else held[:, d:]
    return (held[:, : right.shape[1]] & right).sum((1, 2))


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize(
    ("q", "k", "n_sites"),
    [(2, 1, 70), (5, 1, 64), (64, 1, 200), (256, 1, 9), (9, 3, 65), (70, 2, 66)],
)
def test_pairs_at_every_distance(q, k, n_sites, periodic):
    rng = np.random.default_rng(q)
    sets = random_sets(rng, 5, n_sites, q, k)
    n_distances = n_sites // 2 + 1 if periodic else n_sites
    expected = np.array([overlaps(sets, q, periodic, d) for d in range(n_distances)])
    found = np.zeros((2, n_distances))
    shared_members(sets, q, periodic, *found)
    np.testing.assert_array_equal(found, [expected.sum(1), (expected**2).sum(1)])
    if k == 1:
        found[:] = 0
        equal_pairs(sets[..., 0], (q - 1).bit_length(), periodic, *found)
        np.testing.assert_array_equal(found, [expected.sum(1), (expected**2).sum(1)])


@pytest.mark.parametrize(
    "chain",
    [
        IsingChain(J=0.7, h=0.2, n_sites=8, boundary="periodic", decay=power_law(1.5)),
        IsingChain(J=0.7, h=np.arange(7.0), n_sites=7, decay=[1, -0.5]),
        PottsChain(J=np.arange(9.0).reshape(3, 3), h=[1, 0, 2], n_sites=6, temperature=0.7),
        PottsChain(J=np.arange(32.0).reshape(2, 4, 4), n_sites=5, boundary="periodic", top_k=2),
    ],
    ids=repr,
)
def test_log_weight_is_minus_the_energy(chain):
    rng = np.random.default_rng(0)
    sets = random_sets(rng, 20, chain.n_sites, chain.n_states, chain.top_k)
    found = np.empty(20)
    log_weights(sets, chain.bond, chain.strength, chain.site, chain.boundary == "periodic", found)
    energy = chain.energy(sets if chain.top_k > 1 else sets[..., 0])
    np.testing.assert_allclose(found, -energy / chain.temperature, atol=1e-12)


@pytest.mark.parametrize("width", [1, 4, 10])
def test_counts_and_waves(width):
    rng = np.random.default_rng(1)
    sets = random_sets(rng, 6, 10, 5, 2)
    phase = 2 * np.pi * np.arange(10) / 10
    count, wave = np.empty((6, 5), np.int64), np.empty(6)
    whole = np.stack([np.cos(phase), np.sin(phase)])
    labels_and_waves(sets, whole[:, :width].copy(), whole[:, ::width].copy(), count, wave)
    held = (sets[..., None] == np.arange(5)).any(2)
    np.testing.assert_array_equal(count, held.sum(1))
    expected = np.abs(np.einsum("tie,i->te", held, np.exp(1j * phase))) ** 2
    np.testing.assert_allclose(wave, expected.sum(1))
    by_site = np.zeros((10, 5), np.int64)
    site_counts(sets, by_site)
    np.testing.assert_array_equal(by_site, held.sum(0))
