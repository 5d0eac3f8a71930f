"""Exact gradient and curvature of the conditional log-likelihood, and their use.

For log-weights W[a, b] = ln T[a, b] linear in the parameters, the log-likelihood is
sum N ln P with P[a, b] = T[a, b] r[b] / (lambda r[a]). Its derivative by W[a, b] is
N[a, b] - R[a] P[a, b], where R are the expected numbers of visits given the ends of the
observed sequences: R (1 - P) = (row sums - column sums of N), sum R = sum N.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from isingmoe.parameters import contrasts
from isingmoe.stationary import markov_chain

__all__ = ["LogLinear", "minimise"]

Array = NDArray[np.floating]

# Of the objective per pair. Newton's last step squares the distance to the maximum, so
# that what is left at this gradient is rounding.
GRADIENT_TOLERANCE = 1e-9


def minimise(
    objective: Callable[[Array], tuple[float, Array]],
    curvature: Callable[[Array], Array],
    start: Array,
    max_iterations: int,
) -> tuple[Array, bool]:
    """Minimise a convex, or nearly convex, function with known derivatives.

    Parameters
    ----------
    objective : callable
        Value and gradient, of order one.
    curvature : callable
        Hessian matrix.
    start : ndarray
    max_iterations : int

    Returns
    -------
    ndarray
        The minimum.
    bool
        Whether the gradient is below 1e-9 there.
    """
    found = minimize(
        objective,
        start,
        jac=True,
        hess=curvature,
        method="trust-exact",
        options={"gtol": GRADIENT_TOLERANCE, "maxiter": max_iterations},
    ).x
    # The trust region judges a step by the change of the objective, which rounding hides
    # near the minimum; one bare Newton step takes the gradient down to rounding.
    gradient = objective(found)[1]
    polished = found - np.linalg.solve(curvature(found), gradient)
    if np.abs(objective(polished)[1]).max() < np.abs(gradient).max():
        found = polished
    return found, bool(np.abs(objective(found)[1]).max() <= GRADIENT_TOLERANCE)


class LogLinear:
    """Log-weights of a chain as linear functions of its free parameters.

    Parameters
    ----------
    coupling : {"uniform", "diagonal", "symmetric", "full"}
    field : {"none", "expert"}
    n_states : int
    """

    def __init__(self, coupling: str, field: str, n_states: int) -> None:
        q = n_states
        # Orthonormal vectors that sum to zero: the gauge is fixed by construction.
        contrast = contrasts(q)
        self._field, self._contrast = field, contrast
        identity = np.eye(q)
        if coupling == "uniform" or (coupling == "diagonal" and q == 2):
            blocks = [identity[None]]
        elif coupling == "diagonal":
            blocks = [identity[:, :, None] * identity[:, None, :]]
        else:
            products = np.einsum("ai,bj->ijab", contrast, contrast)
            if coupling == "symmetric":
                i, j = np.triu_indices(q - 1)
                blocks = [products[i, j] + products[j, i]]
            else:
                blocks = [products.reshape(-1, q, q)]
        if field == "expert":
            blocks.append(np.repeat(contrast.T[:, None, :], q, axis=1))
        self._basis = np.concatenate(blocks)

    def basis(self) -> Array:
        """Derivative of the log-weights by each parameter, (parameter, q, q)."""
        return self._basis

    def log_weight(self, parameters: Array) -> Array:
        """Logarithm of the transfer matrix, (..., q, q)."""
        return np.tensordot(parameters, self._basis, 1)

    def transition(self, parameters: Array) -> Array:
        """Transition probabilities, (..., q, q)."""
        return markov_chain(self.log_weight(parameters))[1]

    def start(self, counts: Array) -> Array:
        """Parameters of independent sites with the observed load, (..., parameter)."""
        parameters = np.zeros((*counts.shape[:-2], len(self._basis)))
        if self._field == "expert":
            q = counts.shape[-1]
            parameters[..., 1 - q :] = np.log(counts.sum(-2)) @ self._contrast
        return parameters

    def likelihood(self, parameters: Array, counts: Array) -> tuple[Array, Array]:
        """Log-likelihood (...) and its gradient (..., parameter)."""
        transition = self.transition(parameters)
        visits, _ = _visits(transition, counts)
        slope = counts - visits[..., :, None] * transition
        value = (counts * np.log(transition)).sum((-2, -1))
        return value, np.tensordot(slope, self._basis, ((-2, -1), (1, 2)))

    def information(self, parameters: Array, counts: Array) -> Array:
        """Observed information: minus the second derivatives of the log-likelihood.

        Parameters
        ----------
        parameters : ndarray (..., parameter)
        counts : ndarray (..., q, q)

        Returns
        -------
        ndarray (..., parameter, parameter)
        """
        transition = self.transition(parameters)
        visits, resolvent = _visits(transition, counts)
        transition = transition[..., None, :, :]
        # Change of ln P along each parameter: W[a, b] + u[b] - u[a], each row on average 0.
        mean = (self._basis * transition).sum(-1)
        drift = mean @ resolvent.swapaxes(-2, -1)
        change = self._basis + drift[..., None, :]
        change -= (change * transition).sum(-1, keepdims=True)
        change *= transition
        flow = (visits[..., None, None, :] @ change)[..., 0, :]
        flow -= flow.mean(-1, keepdims=True)
        visits_change = flow @ resolvent
        slope = visits_change[..., None] * transition + visits[..., None, :, None] * change
        k = len(self._basis)
        flat = slope.reshape(*slope.shape[:-2], -1)
        matrix = flat @ self._basis.reshape(k, -1).T
        return (matrix + matrix.swapaxes(-2, -1)) / 2

    def maximise(self, counts: Array, max_iterations: int) -> tuple[Array, bool]:
        """Parameters of largest likelihood of one chain, and whether they were reached."""
        n = counts.sum()

        def objective(parameters: Array) -> tuple[float, Array]:
            value, gradient = self.likelihood(parameters, counts)
            return -float(value) / n, -gradient / n

        def curvature(parameters: Array) -> Array:
            return self.information(parameters, counts) / n

        return minimise(objective, curvature, self.start(counts), max_iterations)

    def maximise_shared(self, counts: Array, max_iterations: int) -> tuple[Array, Array, bool]:
        """The same for several chains whose first parameter is one and the same.

        Parameters
        ----------
        counts : ndarray (chain, q, q)
        max_iterations : int

        Returns
        -------
        parameters : ndarray (chain, parameter)
        covariance : ndarray (1 + chain * (parameter - 1), same)
            Of the shared parameter and then the others, chain by chain.
        converged : bool
        """
        n = counts.sum()
        m, k = len(counts), len(self._basis)
        own = 1 + np.arange(m * (k - 1)).reshape(m, k - 1)

        def spread(shared: Array) -> Array:
            return np.concatenate([np.full((m, 1), shared[0]), shared[own]], axis=1)

        def objective(shared: Array) -> tuple[float, Array]:
            value, gradient = self.likelihood(spread(shared), counts)
            joint = np.concatenate([[gradient[:, 0].sum()], gradient[:, 1:].ravel()])
            return -float(value.sum()) / n, -joint / n

        def curvature(shared: Array) -> Array:
            information = self.information(spread(shared), counts)
            joint = np.zeros((len(shared), len(shared)))
            joint[0, 0] = information[:, 0, 0].sum()
            joint[0, own] = joint[own, 0] = information[:, 0, 1:]
            joint[own[:, :, None], own[:, None, :]] = information[:, 1:, 1:]
            return joint / n

        start = np.concatenate([[0.0], self.start(counts)[:, 1:].ravel()])
        found, converged = minimise(objective, curvature, start, max_iterations)
        return spread(found), np.linalg.inv(n * curvature(found)), converged


def _visits(transition: Array, counts: Array) -> tuple[Array, Array]:
    """Expected visits R, and (1 - P + 1 1^T / q)^-1, which inverts 1 - P for both."""
    q = counts.shape[-1]
    resolvent = np.linalg.inv(np.eye(q) - transition + 1 / q)
    surplus = counts.sum(-1) - counts.sum(-2)
    visits = (surplus[..., None, :] @ resolvent)[..., 0, :]
    # The left null vector of 1 - P is the stationary law; add what the total asks for.
    stationary = resolvent.sum(-2)
    missing = counts.sum((-2, -1)) - visits.sum(-1)
    visits += (missing / stationary.sum(-1))[..., None] * stationary
    return visits, resolvent
