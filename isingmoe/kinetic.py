"""Exact maximum likelihood of a kinetic chain: sets of experts given the sets before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.sparse import csr_array

from isingmoe._kernels.inclusion import choices, joint_inclusion
from isingmoe._kernels.kinetic import information, log_likelihood
from isingmoe.couplings import zero_sum
from isingmoe.histories import Histories
from isingmoe.parameters import Parameters

__all__ = ["Maximum", "maximise", "observed_information", "sequence_scores"]

Array = NDArray[np.floating]

# Iterations between two evaluations of the curvature.
_ROUND = 12
# Twice what is left to gain, in nats, where one Newton step will do, and after it.
_CLOSE = 1e-3
_CONVERGED = 1e-9
_LOAD_STEPS = 100
# Added to every expert's count: the field of one that never fires stays finite.
_LEAST_COUNT = 0.5


@dataclass(frozen=True)
class Maximum:
    """Where the penalised likelihood of a layer is largest.

    Attributes
    ----------
    x : ndarray (parameter,)
    log_likelihood : float
        Without the penalty, in nats.
    information : ndarray (parameter, parameter)
        Minus the second derivatives of the penalised log-likelihood.
    converged : bool
    n_passes : int
        Evaluations of the likelihood and its gradient.
    """

    x: Array
    log_likelihood: float
    information: Array
    converged: bool
    n_passes: int


def maximise(
    problem: Histories, parameters: Parameters, *, l2: float = 0.0, max_iterations: int = 200
) -> Maximum:
    """Fit a kinetic chain to a layer.

    Parameters
    ----------
    problem : Histories
        Without rows for sequences.
    parameters : Parameters
    l2 : float
        Of a penalty of l2 / 2 times the squares of all couplings in the zero-sum gauge, in
        nats.
    max_iterations : int

    Returns
    -------
    Maximum

    Notes
    -----
    The log-likelihood is concave. L-BFGS goes up in coordinates in which its curvature is
    one: that at independent tokens at first, where all tokens have the same covariance of
    experts, and then the exact one at the point reached. It ends with a Newton step.
    """
    n_parts = 4 * numba.get_num_threads()
    field, covariance = _load(problem)
    x = _start(parameters, field)
    curvature = _curvature_at_load(problem, parameters, covariance, l2)
    n_passes = 0

    def cost(x: Array) -> tuple[float, Array]:
        nonlocal n_passes
        n_passes += 1
        values, slope = log_likelihood(problem.sets, problem.features, parameters.table(x), n_parts)
        penalty, pull = _penalty(parameters, x, l2)
        return penalty - values.sum(), pull - parameters.pulled(slope)

    for _ in range(0, max_iterations, _ROUND):
        x, value, gradient = _descended(cost, x, cholesky(curvature, lower=True))
        curvature = observed_information(problem, parameters, x, l2)
        step = np.linalg.solve(curvature, gradient)
        if gradient @ step < _CLOSE:
            x = x - step
            break
    value, gradient = cost(x)
    converged = bool(gradient @ np.linalg.solve(curvature, gradient) < _CONVERGED)
    log_likelihood_ = _penalty(parameters, x, l2)[0] - value
    return Maximum(x, float(log_likelihood_), curvature, converged, n_passes)


def _descended(
    cost: Callable[[Array], tuple[float, Array]], x: Array, factor: Array
) -> tuple[Array, float, Array]:
    """Some steps of L-BFGS in coordinates given by a Cholesky factor; value and gradient."""
    best: tuple[Array, float, Array] = (x, np.inf, x)

    def whitened(z: Array) -> tuple[float, Array]:
        nonlocal best
        at = x + solve_triangular(factor, z, lower=True, trans=1)
        value, gradient = cost(at)
        if value < best[1]:
            best = at, value, gradient
        return value, solve_triangular(factor, gradient, lower=True)

    options = {"maxcor": _ROUND, "maxiter": _ROUND, "gtol": np.sqrt(_CLOSE) / 10, "ftol": 0.0}
    minimize(whitened, np.zeros(len(x)), jac=True, method="L-BFGS-B", options=options)
    return best


def observed_information(
    problem: Histories, parameters: Parameters, x: Array, l2: float = 0.0
) -> Array:
    """Minus the second derivatives of the penalised log-likelihood, (parameter, parameter)."""
    n_rows = parameters.reach * parameters.n_experts + parameters.n_blocks
    curvature = information(problem.features, parameters.table(x), problem.top_k, n_rows)
    _add_penalty(curvature, parameters, l2)
    return parameters.pulled_curvature(curvature)


def sequence_scores(problem: Histories, parameters: Parameters, x: Array) -> Array:
    """Gradient of the log-likelihood of each sequence, (sequence, parameter)."""
    table = parameters.table(x)
    edges = np.flatnonzero(np.diff(problem.sequence)) + 1
    rows = []
    for start, stop in zip(np.r_[0, edges], np.r_[edges, len(problem.sequence)], strict=True):
        _, slope = log_likelihood(problem.sets[start:stop], problem.features[start:stop], table, 1)
        rows.append(parameters.pulled(slope))
    return np.stack(rows)


def _load(problem: Histories) -> tuple[Array, Array]:
    """Field of independent tokens with the observed load, and the covariance of experts."""
    q, k = problem.n_experts, problem.top_k
    counts = np.bincount(problem.sets.ravel(), minlength=q) + _LEAST_COUNT
    rate = k * counts / counts.sum()
    if k == q:
        return np.zeros(q), np.zeros((q, q))
    # Where an expert fires at nearly every token its rate is pulled below one.
    rate = np.minimum(rate, 1 - _LEAST_COUNT / len(problem.sets))
    rate *= k / rate.sum()
    field = np.log(rate) - np.log1p(-np.minimum(rate, 1 - 1e-9))
    weight, taken, left = np.empty((q, 1)), np.empty((q, k + 1, 1)), np.empty((q, k + 1, 1))
    ratio, chance, after = np.empty((3, k + 1, 1))
    joint = np.empty((q, q, 1))
    covariance = np.zeros((q, q))
    for _ in range(_LOAD_STEPS):
        weight[:, 0] = np.exp(np.clip(field - field.max(), -300, 0))
        choices(weight, taken, left, ratio)
        joint_inclusion(taken, left, chance, after, joint)
        included = np.diag(joint[..., 0])
        covariance = joint[..., 0] - np.outer(included, included)
        step = np.linalg.solve(covariance + 1 / q, rate - included)
        field = field + np.clip(step - step.mean(), -2, 2)
        if np.abs(rate - included).max() < 1e-12:
            break
    return field - field.mean(), covariance


def _start(parameters: Parameters, field: Array) -> Array:
    """Independent tokens with a field."""
    x = np.zeros(parameters.n)
    if parameters.has_field:
        slope = np.zeros((parameters.reach * len(field) + parameters.n_blocks, len(field)))
        slope[parameters.reach * len(field)] = field
        n = len(field) - 1
        x[parameters.n_couplings : parameters.n_couplings + n] = parameters.pulled(slope)[
            parameters.n_couplings : parameters.n_couplings + n
        ]
    return x


def _curvature_at_load(
    problem: Histories, parameters: Parameters, covariance: Array, l2: float
) -> Array:
    """Second derivatives at independent tokens, and a little to make them positive."""
    n_tokens, width = problem.features.shape
    features = csr_array(
        (
            np.ones(problem.features.size),
            problem.features.ravel(),
            np.arange(0, n_tokens * width + 1, width),
        ),
        shape=(n_tokens, problem.n_rows),
    )
    together = (features.T @ features).toarray()
    together[np.diag_indices_from(together)] += _LEAST_COUNT
    q = len(covariance)
    spread = covariance + np.eye(q) * (_LEAST_COUNT / n_tokens)
    curvature = together[:, :, None, None] * spread
    _add_penalty(curvature, parameters, l2)
    return parameters.pulled_curvature(curvature)


def _penalty(parameters: Parameters, x: Array, l2: float) -> tuple[float, Array]:
    """Of the couplings in the zero-sum gauge, with its gradient."""
    if l2 == 0 or parameters.reach == 0:
        return 0.0, np.zeros(parameters.n)
    J, _ = zero_sum(parameters.couplings(x))
    q = parameters.n_experts
    slope = np.concatenate([J.reshape(-1, q), np.zeros((parameters.n_blocks, q))])
    return 0.5 * l2 * float((J**2).sum()), l2 * parameters.pulled(slope)


def _add_penalty(curvature: Array, parameters: Parameters, l2: float) -> None:
    if l2 == 0:
        return
    q = parameters.n_experts
    centred = np.eye(q) - 1 / q
    for r in range(parameters.reach):
        rows = slice(r * q, (r + 1) * q)
        curvature[rows, rows] += l2 * centred[:, :, None, None] * centred
