"""Windows of a chain against its energy, pair by pair."""

import numpy as np
import pytest
from naive import configurations, slow_energy

from isingmoe import IsingChain, PottsChain
from isingmoe._windows import Windows
from isingmoe.couplings import power_law


def random_chain(q, reach, n_sites, boundary="open", top_k=1, seed=0, field_per_site=False):
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(n_sites, q) if field_per_site else q)
    J = rng.normal(size=(reach, q, q))
    return PottsChain(J=J, h=h, n_sites=n_sites, boundary=boundary, temperature=0.9, top_k=top_k)


def letters_of(windows, states):
    """States (..., site, rank) as letters."""
    known = {tuple(m): i for i, m in enumerate(windows.members.tolist())}
    flat = [known[tuple(s)] for s in states.reshape(-1, states.shape[-1]).tolist()]
    return np.reshape(flat, states.shape[:-1])


@pytest.mark.parametrize("boundary", ["open", "periodic"])
@pytest.mark.parametrize(("q", "reach", "top_k", "n"), [(3, 1, 1, 4), (2, 3, 1, 8), (4, 2, 2, 5)])
@pytest.mark.parametrize("field_per_site", [False, True])
def test_steps_add_up_to_the_energy(boundary, q, reach, top_k, n, field_per_site):
    if boundary == "periodic" and field_per_site:
        return
    chain = random_chain(q, reach, n, boundary, top_k, field_per_site=field_per_site)
    windows = Windows.of(chain)
    states = configurations(chain)
    letters = letters_of(windows, states)
    i = np.arange(n)
    site = windows.site[i % len(windows.site), letters].sum(-1)
    if boundary == "open":
        x = np.zeros(len(letters), int)
        bonds = 0.0
        for j in range(n):
            bonds = bonds + windows.step_after(j)[x, letters[:, j]]
            x = windows.after(x, letters[:, j])
    else:
        x = np.zeros(len(letters), int)
        for j in range(n - reach, n):
            x = windows.after(x, letters[:, j])
        first, bonds = x, 0.0
        for j in range(n):
            bonds = bonds + windows.step[x, letters[:, j]]
            x = windows.after(x, letters[:, j])
        np.testing.assert_array_equal(x, first)
    expected = -slow_energy(chain, states) / chain.temperature
    np.testing.assert_allclose(bonds + site, expected, atol=1e-12)


def test_the_first_window_and_the_steps_after_it():
    chain = random_chain(3, 3, 6)
    windows = Windows.of(chain)
    letters = configurations(chain)[..., 0]
    powers = 3 ** np.arange(3)[::-1]
    x = letters[:, :3] @ powers
    bonds = windows.first[x]
    for j in range(3, 6):
        bonds = bonds + windows.step[x, letters[:, j]]
        x = windows.after(x, letters[:, j])
    np.testing.assert_array_equal(x, letters[:, 3:] @ powers)
    expected = -slow_energy(chain, letters[..., None]) / chain.temperature
    site = windows.site[0, letters].sum(-1)
    np.testing.assert_allclose(bonds + site, expected, atol=1e-12)


def test_sets_are_the_letters_of_a_chain_with_several_labels():
    windows = Windows.of(random_chain(4, 1, 3, top_k=2))
    assert windows.members.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert windows.held[:, 4].tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(windows.observable, windows.held)


def test_one_site_has_no_bond():
    windows = Windows.of(IsingChain(J=1.0, n_sites=1))
    assert windows.reach == 1
    np.testing.assert_array_equal(windows.step, np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (IsingChain(J=1, decay=np.ones(24)), "16777216 transfer states.*SwendsenWang()"),
        (IsingChain(J=-1, decay=np.ones(24)), "HeatBath()"),
        (IsingChain(J=1, decay=[1.0, -1.0] + [0.0] * 22), "HeatBath()"),
        (
            IsingChain(J=1, n_sites=10**5, boundary="periodic", decay=power_law(2.0)),
            r"2\^50000 transfer states, more than the 4096 that can be solved; sample it with",
        ),
        (PottsChain(J=np.eye(128)[None].repeat(2, 0)), "16384 transfer states.*SwendsenWang()"),
        (PottsChain(J=np.arange(128.0), decay=[1.0, 0.5]), "HeatBath()"),
        (PottsChain(J=1.0, n_experts=400, top_k=9), r"C\(400,9\)\^1 transfer states"),
        (PottsChain(J=1.0, n_experts=64, top_k=8), "4426165368 transfer states.*HeatBath()"),
    ],
)
def test_too_many_windows_name_a_sampler(chain, message):
    with pytest.raises(ValueError, match=message.replace("()", r"\(\)")):
        Windows.of(chain)
