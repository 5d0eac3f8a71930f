"""A chain as the kernels of the local updates read it: fields, probabilities and tables."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from isingmoe._kernels.local import alias_entries
from isingmoe._kernels.multispin import threshold_terms
from isingmoe.chains import Chain

__all__ = [
    "accepted",
    "couplings",
    "drawn",
    "field_model",
    "heat_bath_entries",
    "lane_terms",
    "neighbour_fields",
    "thresholds",
]

Array = NDArray[np.float64]


def couplings(chain: Chain) -> tuple[Array, Array]:
    """Bond matrices (1 or reach, q, q) and strengths (reach,), without distances of none."""
    bond, strength = chain.bond, chain.strength
    if len(bond) > 1:
        bond = bond[: max(len(strength), 1)]
    coupled = (strength != 0) & bond.any((1, 2))
    reach = int(np.flatnonzero(coupled)[-1]) + 1 if coupled.any() else 0
    # One matrix stays even where nothing is coupled.
    return bond[: max(reach, 1)], strength[:reach]


def field_model(chain: Chain) -> tuple[Array, Array, Array, Array, bool]:
    """The tuple that `_kernels.fields` describes."""
    forward, strength = couplings(chain)
    backward = np.ascontiguousarray(forward.swapaxes(1, 2))
    return (
        np.ascontiguousarray(chain.site),
        np.ascontiguousarray(forward),
        backward,
        np.ascontiguousarray(strength),
        chain.boundary == "periodic",
    )


def neighbour_fields(chain: Chain) -> Array:
    """Log-weight of each label of a site between two others, (q + 1, q + 1, q).

    For nearest neighbours and one field: left, right, label; a left or right of q is past
    an open end.
    """
    bond, strength = couplings(chain)
    q = chain.n_states
    coupling = np.zeros((q + 1, q + 1))
    if len(strength):
        coupling[:q, :q] = strength[0] * bond[0]
    return coupling[:, None, :q] + coupling[:q].T[None] + chain.site[0]


def heat_bath_entries(chain: Chain) -> NDArray[np.uint64]:
    """Alias tables of all the conditional distributions, as `alias_sweeps` reads them."""
    field = neighbour_fields(chain)
    weight = np.exp(field - field.max(-1, keepdims=True))
    return alias_entries(weight.reshape(-1, chain.n_states)).ravel()


def drawn(gain: Array) -> Array:
    """Chances of labels 0 and 1 by the heat bath, (..., own, label).

    `gain` (...) is the log-weight of 1 less that of 0.
    """
    chance = np.stack([expit(-gain), expit(gain)], -1)
    return np.stack([chance, chance], -2)


def accepted(gain: Array) -> Array:
    """Chances of labels 0 and 1 by Metropolis's rule, one of the two proposed at random."""
    up, down = np.exp(np.minimum(gain, 0)) / 2, np.exp(np.minimum(-gain, 0)) / 2
    return np.stack([np.stack([1 - up, up], -1), np.stack([down, 1 - down], -1)], -2)


def thresholds(chance: Array) -> NDArray[np.uint64]:
    """The chance of label 1 times 2^64, from those of labels 0 and 1 in the last dim.

    The smaller of the two is counted, so that one near 1 is as exact as one near 0.
    """
    smaller = (chance.min(-1) * 2.0**64).astype(np.uint64)
    return np.where(chance[..., 1] <= chance[..., 0], smaller, ~smaller)


def lane_terms(threshold: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """What `multi_spin_sweeps` reads, from thresholds at (left, right, own), (3, 3, 2)."""
    # Past an open end the label is read as 0.
    kinds = [([2, 2], [2, 2]), ([2, 2], [0, 1]), ([0, 1], [2, 2]), ([0, 1], [0, 1])]
    terms = []
    for left, right in kinds:
        block = threshold[np.ix_(left, right)]
        terms.append(threshold_terms(np.ascontiguousarray(block.transpose(2, 1, 0)).ravel()))
    return np.concatenate(terms).ravel()
