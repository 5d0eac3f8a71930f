"""Exact observed information of couplings and fields, random fields eliminated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular

from isingmoe._kernels.information import information, row_information
from isingmoe.conditioning import Precision, block_of, expert_pairs, flattened
from isingmoe.histories import Histories, by_value
from isingmoe.parameters import Parameters, contrasts

__all__ = [
    "Curvature",
    "effective_fields",
    "exact_curvature",
    "mean_covariance",
    "value_curvatures",
]

Array = NDArray[Any]

# Elements of the mixed derivatives of some values of a grouping.
_HELD = 2 * 10**6
# Tokens that the mean covariance is taken of.
_SAMPLE = 2048


@dataclass(frozen=True)
class Curvature:
    """Minus the second derivatives of a penalised log-likelihood, as a factor of them.

    Attributes
    ----------
    factor : ndarray (parameter, parameter)
        Lower Cholesky factor of the curvature by the parameters, the random fields
        following.
    """

    factor: Array

    def solve(self, right: Array) -> Array:
        """Product of the inverse curvature with vectors, (parameter, ...)."""
        return cho_solve((self.factor, True), right)

    def extended(self, mixed: Array, own: float) -> Curvature:
        """With one more parameter, its second derivatives with the others and by itself."""
        row = solve_triangular(self.factor, mixed, lower=True)
        rest = own - float(row @ row)
        if not rest > 0:
            raise LinAlgError("the likelihood has no maximum along the last parameter")
        n = len(row)
        factor = np.zeros((n + 1, n + 1))
        factor[:n, :n], factor[n, :n], factor[n, n] = self.factor, row, np.sqrt(rest)
        return Curvature(factor)


def exact_curvature(
    problem: Histories,
    parameters: Parameters,
    table: Array,
    precision: Precision,
) -> Curvature:
    """Second derivatives at a table of log-weights.

    Parameters
    ----------
    problem : Histories
        Fields of a second grouping are held where they are.
    parameters : Parameters
    table : ndarray (row, expert)
    precision : Precision

    Returns
    -------
    Curvature

    Raises
    ------
    LinAlgError
        If some direction of the parameters is not determined.
    """
    n_fixed = problem.n_fixed
    few = problem.merged()
    packed = information(few.features, few.strength, few.weight, table, few.top_k, n_fixed, True)
    pairs = problem.n_experts * (problem.n_experts + 1) // 2
    block = block_of(flattened(packed, pairs), n_fixed, problem.n_experts)
    total = parameters.pulled_curvature(block) + precision.matrix(parameters)
    if problem.groups:
        for own, mixed in _of_values(problem, parameters, table, precision.groups[0]):
            turned = np.linalg.inv(np.linalg.cholesky(own)) @ mixed
            flat = turned.reshape(-1, parameters.n)
            total -= flat.T @ flat
    return Curvature(cholesky(total, lower=True, overwrite_a=True))


def value_curvatures(
    problem: Histories, table: Array, which: int, n_rows: int = 0
) -> Iterator[Array]:
    """Information that the tokens of each value of a grouping have of its field.

    Parameters
    ----------
    problem : Histories
    table : ndarray (row, expert)
    which : int
        The grouping.
    n_rows : int
        Rows of the table whose mixed derivatives are wanted too.

    Yields
    ------
    ndarray (value, n_rows + 1, expert, expert)
        Of some values, one after the other; the last row is that of the field itself.
    """
    q, n_values = problem.n_experts, problem.groups[which]
    features, edges = by_value(problem, which)
    pair = expert_pairs(q)
    at_once = max(_HELD // ((n_rows + 1) * q * q), 1)
    for first in range(0, n_values, at_once):
        some = edges[first : first + at_once + 1]
        yield row_information(
            features[some[0] : some[-1]],
            some - some[0],
            problem.strength,
            table,
            problem.top_k,
            n_rows,
            True,
        )[..., pair]


def effective_fields(
    problem: Histories, table: Array, which: int, tau: float
) -> tuple[float, float]:
    """Effective number of random fields of a grouping that the data determine.

    Parameters
    ----------
    problem : Histories
    table : ndarray (row, expert)
    which : int
        The grouping.
    tau : float
        Precision of their prior.

    Returns
    -------
    float
        Their number less tau times the trace of their posterior covariance, which is that of
        Laplace's approximation with the couplings held, and the field that all have in common
        free: it takes one of them, where there are more.
    float
        Standard error of ln tau.

    Notes
    -----
    The evidence of a direction in which the data have the information i is that of a variance
    1/tau + 1/i: its Fisher information of ln tau is the square of i / (i + tau), over two.
    Both are of what is left when the common field is fitted, as by restricted maximum
    likelihood (H. D. Patterson and R. Thompson, Biometrika 58, 545 (1971)).
    """
    C = contrasts(problem.n_experts)
    # Sums of powers of i / (i + tau), matrices (contrast, contrast).
    first, second, third = np.zeros((3, C.shape[1], C.shape[1]))
    n_known = 0
    for rows in value_curvatures(problem, table, which):
        own = C.T @ rows[:, 0] @ C
        share = np.linalg.solve(own + tau * np.eye(len(first)), own)
        n_known += np.count_nonzero(share.any((1, 2)))
        square = share @ share
        first += share.sum(0)
        second += square.sum(0)
        third += (square @ share).sum(0)
    number, squares = np.trace(first), np.trace(second)
    if n_known > 1:
        common = np.linalg.lstsq(first, second, rcond=None)[0]
        cubes = np.linalg.lstsq(first, third, rcond=None)[0]
        number -= np.trace(common)
        squares += np.trace(common @ common) - 2 * np.trace(cubes)
    return float(number), float(np.sqrt(2 / squares)) if squares > 0 else np.inf


def mean_covariance(problem: Histories, table: Array) -> Array:
    """Covariance of the experts of a token, on average over some of the tokens."""
    every = max(len(problem.sets) // _SAMPLE, 1)
    features = np.ascontiguousarray(problem.features[::every])
    parts = np.linspace(0, len(features), 9).astype(np.int64)
    total = row_information(features, parts, problem.strength, table, problem.top_k, 0, True)
    return total.sum((0, 1))[expert_pairs(problem.n_experts)] / len(features)


def _of_values(
    problem: Histories, parameters: Parameters, table: Array, tau: float
) -> Iterator[tuple[Array, Array]]:
    """For some values at once, curvature by their fields and mixed derivatives."""
    C = parameters.contrast
    n = problem.n_experts - 1
    for rows in value_curvatures(problem, table, 0, problem.n_fixed):
        own = C.T @ rows[:, -1] @ C + tau * np.eye(n)
        mixed = np.ascontiguousarray(np.moveaxis(rows[:, :-1], 3, 1))
        yield own, C.T @ parameters.pulled(mixed)
