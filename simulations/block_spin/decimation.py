"""Every b-th site of a nearest-neighbour chain: again such a chain, solved beside the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import isingmoe as im

Array = NDArray[np.floating]


def transfer_matrix(chain: Any) -> Array:
    """Weight of a bond, with half of each site's field, (q, q)."""
    site = chain.site[0]
    return np.exp(chain.strength[0] * chain.bond[0] + (site[:, None] + site) / 2)


def decimated(chain: Any, b: int) -> im.PottsChain:
    """The chain of every b-th site: its transfer matrix is the b-th power."""
    weight = np.linalg.matrix_power(transfer_matrix(chain) / transfer_matrix(chain).max(), b)
    log_weight = np.log(weight)
    return im.PottsChain(J=log_weight - log_weight.max(), n_sites=None)


def examples(rng: np.random.Generator) -> dict[str, Any]:
    """Infinite chains that are decimated."""
    coupling = rng.normal(0, 1, (8, 8))
    np.fill_diagonal(coupling, 4.5)
    return {
        "Ising, J = 1.5, h = 0": im.IsingChain(J=1.5, n_sites=None),
        "Ising, J = 1.5, h = 0.02": im.IsingChain(J=1.5, h=0.02, n_sites=None),
        "Potts, q = 8, random J[a, b] ≠ J[b, a]": im.PottsChain(
            J=coupling, h=rng.normal(0, 0.02, 8), n_sites=None
        ),
    }


def decimation(chains: dict[str, Any], factors: Sequence[int], n_distances: int = 4) -> xr.Dataset:
    """Solve chains and what is left of them, over (chain, block).

    Returns
    -------
    Dataset
        `correlation_length`, in sites that are left; `length_deviation`, of b times it from
        the length of the whole chain; `correlation_deviation` and `marginal_deviation`, the
        largest difference of correlations at the same places and of the loads.
    """
    shape = (len(chains), len(factors))
    length, correlation, marginal = (np.empty(shape) for _ in range(3))
    whole = np.empty(len(chains))
    for i, chain in enumerate(chains.values()):
        first = decimated(chain, 1)
        before = im.solve(first, max_distance=n_distances * max(factors))
        whole[i] = im.solve(chain).correlation_length
        for j, b in enumerate(factors):
            after = im.solve(decimated(chain, b), max_distance=n_distances)
            length[i, j] = after.correlation_length
            there = before.correlation.values[: n_distances * b + 1 : b]
            correlation[i, j] = np.abs(after.correlation.values - there).max()
            marginal[i, j] = np.abs(after.marginal - before.marginal).max()
    dims = ("chain", "block")
    return xr.Dataset(
        {
            "correlation_length": (dims, length, about("correlation length", "sites left")),
            "length_deviation": (
                dims,
                np.abs(length * np.array(factors) / whole[:, None] - 1),
                about("b times the length over that of the whole chain, less 1", "1"),
            ),
            "correlation_deviation": (dims, correlation, about("difference of C(d)", "1")),
            "marginal_deviation": (dims, marginal, about("difference of the loads", "1")),
            "whole_length": (("chain",), whole, about("length of the whole chain", "site")),
        },
        coords={
            "chain": list(chains),
            "block": ("block", list(factors), about("every so many sites are kept", "site")),
        },
    )


def about(long_name: str, units: str) -> dict[str, str]:
    """Attributes of a variable."""
    return {"long_name": long_name, "units": units}


def zero_field_deviation(K: float, factors: Sequence[int]) -> float:
    """Largest deviation of the length at tanh K' = tanh^b K from a b-th of that at K."""
    whole = float(im.solve(im.IsingChain(J=K, n_sites=None)).correlation_length)
    left = [im.IsingChain(J=np.arctanh(np.tanh(K) ** b), n_sites=None) for b in factors]
    lengths = [float(im.solve(chain).correlation_length) for chain in left]
    return max(abs(b * xi / whole - 1) for b, xi in zip(factors, lengths, strict=True))


def flow(K: float, h: float, factors: Array) -> Array:
    """Coupling and field of an Ising chain when b times fewer sites are left, (2, b).

    For any real b from 1, as the transfer matrix is symmetric and positive.
    """
    value, vector = np.linalg.eigh(transfer_matrix(im.IsingChain(J=K, h=h, n_sites=None)))
    power = (value / value.max()) ** factors[:, None]
    log_weight = np.log(np.einsum("ai,bi,ci->bac", vector, power, vector))
    down, mixed, up = log_weight[:, 0, 0], log_weight[:, 0, 1], log_weight[:, 1, 1]
    return np.array([(up + down - 2 * mixed) / 4, (up - down) / 2])
