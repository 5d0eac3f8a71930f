"""Maximum likelihood of a nearest-neighbour chain from its pair counts.

The log-likelihood of a stationary chain conditional on the first token of every sequence
is sum_ab N[a, b] ln P[a, b]: the pair counts N are all it needs. docs/theory.md derives
what is used here: the closed forms, the concave dual of the symmetric coupling, and the
exact gradient and curvature of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isingmoe import _newton, reversible
from isingmoe.couplings import zero_sum
from isingmoe.parameters import free_couplings
from isingmoe.reversible import diagonal_projector

__all__ = [
    "FIELDS",
    "Estimate",
    "estimate",
    "estimate_ising",
    "full",
    "n_parameters",
]

Array = NDArray[np.floating]

FIELDS = ("none", "expert")


@dataclass(frozen=True)
class Estimate:
    """Couplings and fields of one or more chains, in the zero-sum gauge at T = 1.

    Attributes
    ----------
    J, J_error : ndarray (..., q, q)
    h, h_error : ndarray (..., q)
    self_coupling, self_coupling_error : ndarray (...)
        q / (q - 1) times the mean of the diagonal of J, weighted with the load: the J of a
        uniform coupling, as an average token has it.
    transition : ndarray (..., q, q)
    converged : bool
        Whether the gradient of the log-likelihood vanished.
    pseudocount : float
        Average over the pairs of what was added to their counts.
    """

    J: Array
    J_error: Array
    h: Array
    h_error: Array
    self_coupling: Array
    self_coupling_error: Array
    transition: Array
    converged: bool = True
    pseudocount: float = 0.0


def n_parameters(coupling: str, field: str, n_states: int) -> int:
    """Number of free parameters of a chain of q states."""
    fields = n_states - 1 if field == "expert" else 0
    return free_couplings(coupling, n_states) + fields


def estimate(counts: Array, coupling: str, field: str, max_iterations: int) -> Estimate:
    """Fit one chain to its pair counts.

    Parameters
    ----------
    counts : float ndarray (q, q)
        Number of pairs (a, b), positive everywhere (pseudocounts added), unless the
        coupling is "none".
    coupling : str
        One of `parameters.COUPLINGS`.
    field : str
        One of `FIELDS`.
    max_iterations : int
        Limit of an iterative fit.

    Returns
    -------
    Estimate
        Standard errors from the observed information.
    """
    if coupling == "none":
        return _independent(counts, field)
    if field == "expert":
        if coupling == "full" or counts.shape[-1] == 2:
            return full(counts)
        if coupling == "symmetric":
            return _symmetric(counts, max_iterations)
    return _iterative(counts, coupling, field, max_iterations)


def _independent(counts: Array, field: str) -> Estimate:
    q = counts.shape[-1]
    load = counts.sum(-2) if field == "expert" else np.ones(q)
    load = load / load.sum()
    log_load = np.log(load)
    if field == "expert":
        inverse = 1 / counts.sum(-2)
        variance = (1 - 2 / q) * inverse + inverse.sum() / q**2
    else:
        variance = np.zeros(q)
    return Estimate(
        J=np.zeros((q, q)),
        J_error=np.zeros((q, q)),
        h=log_load - log_load.mean(),
        h_error=np.sqrt(variance),
        self_coupling=np.zeros(()),
        self_coupling_error=np.zeros(()),
        transition=np.broadcast_to(load, (q, q)).copy(),
    )


def full(counts: Array) -> Estimate:
    """Full coupling and field: the empirical transition matrix, in closed form.

    Parameters
    ----------
    counts : float ndarray (..., q, q)
        Positive; any number of chains at once.

    Returns
    -------
    Estimate

    Notes
    -----
    J is the transition matrix's logarithm, centred along rows and columns; the errors
    follow from the rows being independent multinomials. T. W. Anderson and L. A. Goodman,
    Ann. Math. Stat. 28, 89 (1957).
    """
    q = counts.shape[-1]
    leaving = counts.sum(-1, keepdims=True)
    transition = counts / leaving
    J, h = zero_sum(np.log(transition))
    # zero_sum moves row and column means of ln P into h: exactly the field of the chain.
    inverse = 1 / counts
    squares = (np.eye(q) - 1 / q) ** 2
    row, column = inverse.sum(-1), inverse.sum(-2)
    total = row.sum(-1, keepdims=True)
    own = np.diagonal(inverse, axis1=-2, axis2=-1)
    out = 1 / leaving[..., 0]
    share = leaving[..., 0] / leaving.sum((-2, -1))[..., None]
    projector = diagonal_projector(share)
    h_variance = (
        (row + column + 2 * own) / q**2
        - 4 * (row + column) / q**3
        + 4 * total / q**4
        - (1 - 2 / q) * out
        - out.sum(-1, keepdims=True) / q**2
    )
    return Estimate(
        J=J,
        J_error=np.sqrt(squares @ inverse @ squares),
        h=h,
        h_error=np.sqrt(h_variance),
        self_coupling=_weighted_diagonal(J, share),
        self_coupling_error=np.sqrt((projector**2 * inverse).sum((-2, -1))),
        transition=transition,
    )


def _symmetric(counts: Array, max_iterations: int) -> Estimate:
    found = reversible.maximise(counts, max_iterations)
    J, h = zero_sum(np.log(found.transition))
    return Estimate(
        J=(J + J.T) / 2,
        J_error=np.sqrt(found.J_variance),
        h=h,
        h_error=np.sqrt(found.h_variance),
        self_coupling=_weighted_diagonal(J, counts.sum(1) / counts.sum()),
        self_coupling_error=np.sqrt(found.self_coupling_variance),
        transition=found.transition,
        converged=found.converged,
    )


def _iterative(counts: Array, coupling: str, field: str, max_iterations: int) -> Estimate:
    """Any coupling and field by Newton steps on the exact gradient and curvature."""
    family = _newton.LogLinear(coupling, field, counts.shape[-1])
    parameters, converged = family.maximise(counts, max_iterations)
    log_weight = family.log_weight(parameters)
    J, h = zero_sum(log_weight)
    covariance = np.linalg.inv(family.information(parameters, counts))
    J_basis, h_basis = zero_sum(family.basis())
    share = counts.sum(1) / counts.sum()
    along = _weighted_diagonal(J_basis, share)
    return Estimate(
        J=J,
        J_error=np.sqrt(_quadratic(J_basis, covariance)),
        h=h,
        h_error=np.sqrt(_quadratic(h_basis, covariance)),
        self_coupling=_weighted_diagonal(J, share),
        self_coupling_error=np.sqrt(along @ covariance @ along),
        transition=family.transition(parameters),
        converged=converged,
    )


def estimate_ising(counts: Array, coupling: str, field: str, max_iterations: int) -> Estimate:
    """Fit one Ising chain for each expert, on or off.

    Parameters
    ----------
    counts : float ndarray (expert, 2, 2)
        Pairs of neighbouring tokens with the expert off or on; positive everywhere.
    coupling : {"none", "uniform", "diagonal"}
        Uniform: the same J for all experts.
    field : str
        One of `FIELDS`.
    max_iterations : int
        Limit of an iterative fit.

    Returns
    -------
    Estimate
        J and h are (expert,), of spins -1 and +1.

    Notes
    -----
    The chains of the experts of one layer are fitted as if independent: a token has
    exactly k experts, which these chains do not know. This error of a shared coupling is
    therefore too small; that of the mean self-coupling is the mean error of one.
    """
    n = len(counts)
    if coupling == "none":
        J, J_error = np.zeros(n), np.zeros(n)
        load = counts.sum(1) if field == "expert" else np.ones((n, 2))
        h = np.log(load[:, 1] / load[:, 0]) / 2
        h_error = np.sqrt((1 / load).sum(1)) / 2 if field == "expert" else np.zeros(n)
        share = load / load.sum(1, keepdims=True)
        transition = np.repeat(share[:, None, :], 2, axis=1)
        return _per_expert(J, J_error, h, h_error, transition)
    if field == "none":
        same = counts[:, 0, 0] + counts[:, 1, 1]
        other = counts[:, 0, 1] + counts[:, 1, 0]
        if coupling == "uniform":
            same, other = (np.full(n, x.sum()) for x in (same, other))
        stay = same / (same + other)
        transition = np.stack([np.stack([stay, 1 - stay], 1), np.stack([1 - stay, stay], 1)], 1)
        J, J_error = np.log(same / other) / 2, np.sqrt(1 / same + 1 / other) / 2
        return _per_expert(J, J_error, np.zeros(n), np.zeros(n), transition)
    if coupling == "diagonal":
        pair = full(counts)
        return _per_expert(
            pair.J[:, 1, 1],
            pair.J_error[:, 1, 1],
            pair.h[:, 1],
            pair.h_error[:, 1],
            pair.transition,
        )
    family = _newton.LogLinear("uniform", "expert", 2)
    parameters, covariance, converged = family.maximise_shared(counts, max_iterations)
    # The Potts coupling of two states is twice the Ising one.
    sign = family.basis()[1, 0, 1]
    error = np.sqrt(np.diag(covariance))
    return _per_expert(
        parameters[:, 0] / 2,
        np.full(n, error[0] / 2),
        parameters[:, 1] * sign,
        error[1:] * abs(sign),
        family.transition(parameters),
        converged=converged,
    )


def _per_expert(
    J: Array,
    J_error: Array,
    h: Array,
    h_error: Array,
    transition: Array,
    *,
    converged: bool = True,
) -> Estimate:
    # The experts of a layer depend on one another, and their mean may be no better known
    # than each of them.
    return Estimate(J, J_error, h, h_error, J.mean(), J_error.mean(), transition, converged)


def _quadratic(basis: Array, covariance: Array) -> Array:
    """Diagonal of B^T C B for a basis with the parameters in front."""
    flat = basis.reshape(len(covariance), -1)
    variance = ((covariance @ flat) * flat).sum(0).reshape(basis.shape[1:])
    return np.maximum(variance, 0)


def _weighted_diagonal(J: Array, share: Array) -> Array:
    """The mean self-coupling of zero-sum couplings (..., q, q), with weights (..., q)."""
    q = J.shape[-1]
    return (np.diagonal(J, axis1=-2, axis2=-1) * share).sum(-1) * q / (q - 1)
