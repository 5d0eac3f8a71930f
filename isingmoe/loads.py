"""Independent tokens: the field that a load has, and the likelihood of a load alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isingmoe._kernels.kinetic import covariances, log_likelihood, scratch_of
from isingmoe.histories import Histories

__all__ = ["conditional_field", "load_values"]

Array = NDArray[Any]

# Newton steps for the field of a load, and how near its rates come.
_LOAD_STEPS, _RATE_TOLERANCE = 100, 1e-12


def conditional_field(rate: Array, k: int) -> Array:
    """Zero-sum field of independent tokens whose experts are chosen at given rates.

    Parameters
    ----------
    rate : ndarray (expert,)
        Between nought and one, with the sum k.
    k : int

    Returns
    -------
    ndarray (expert,)
    """
    q = len(rate)
    edge = 1e-9
    goal = np.clip(rate, edge, 1 - edge)
    goal = goal * (k / goal.sum())
    field_ = np.log(goal) - np.log1p(-np.minimum(goal, 1 - edge))
    features, strength = np.zeros((1, 1), np.int32), np.ones(1)
    covariance, included = np.empty((1, 1, q * (q + 1) // 2)), np.empty((1, q))
    upper, scratch = np.triu_indices(q), scratch_of(q, k)
    for _ in range(_LOAD_STEPS):
        covariances(features, strength, field_[None], k, scratch, included, covariance)
        if np.abs(goal - included[0]).max() < _RATE_TOLERANCE:
            break
        matrix = np.full((q, q), 1 / q)
        matrix[upper] += covariance[0, 0]
        matrix.T[upper] = matrix[upper]
        field_ = field_ + np.clip(np.linalg.solve(matrix, goal - included[0]), -2, 2)
    return field_ - field_.mean()


def load_values(problem: Histories, marginal: Array) -> float:
    """Log-likelihood of independent tokens with given chances of the experts, in nats."""
    q, k = problem.n_experts, problem.top_k
    field = conditional_field(marginal, k)
    one, first = np.ones(1), np.arange(k, dtype=np.int16)[None]
    row = np.zeros((1, 1), np.int32)
    value, _ = log_likelihood(first, row, one, np.empty(0), field[None], 1)
    log_z = field[:k].sum() - float(value[0])
    counts = np.bincount(problem.sets.ravel(), minlength=q)
    return float(counts @ field) - len(problem.sets) * log_z
