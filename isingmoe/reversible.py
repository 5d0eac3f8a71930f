"""Symmetric coupling and field: the reversible chain of largest likelihood.

With S = N + N^T and the row sums R of the pair counts N, the joint probabilities of pairs
are S[a, b] / (m[a] + m[b]), where u = ln m maximises the concave
sum_a R[a] u[a] - sum_ab S[a, b] ln(e^u[a] + e^u[b]) / 2. It is the log-likelihood of the
Bradley-Terry model in which a pair is a match, and has q variables instead of q (q + 1) / 2.
docs/theory.md derives it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isingmoe import _newton

__all__ = ["ReversibleChain", "diagonal_projector", "maximise"]

Array = NDArray[np.floating]


@dataclass(frozen=True)
class ReversibleChain:
    """A reversible Markov chain, and the variances of its zero-sum couplings and fields."""

    transition: Array
    J_variance: Array
    h_variance: Array
    self_coupling_variance: float
    converged: bool


def maximise(counts: Array, max_iterations: int) -> ReversibleChain:
    """The reversible chain of largest likelihood for pair counts.

    Parameters
    ----------
    counts : float ndarray (q, q)
        Positive.
    max_iterations : int

    Returns
    -------
    ReversibleChain

    References
    ----------
    G. R. Bowman et al., J. Chem. Phys. 131, 124101 (2009), for the likelihood; R. A.
    Bradley and M. E. Terry, Biometrika 39, 324 (1952).
    """
    n = counts.sum()
    both = (counts + counts.T) / n
    leaving, entering = counts.sum(1) / n, counts.sum(0) / n

    def shares(u: Array) -> Array:
        return both / (1 + np.exp(u - u[:, None]))

    def objective(u: Array) -> tuple[float, Array]:
        value = leaving @ u - (both * np.logaddexp(u[:, None], u)).sum() / 2
        return -value, shares(u).sum(1) - leaving

    def curvature(u: Array) -> Array:
        share = shares(u)
        cross = share * (1 - np.divide(share, both))
        # A common factor of all m changes nothing: 1/q makes the matrix regular along it.
        return np.diag(cross.sum(1)) - cross + 1 / len(u)

    start = np.log(2 * leaving / (leaving + entering))
    u, converged = _newton.minimise(objective, curvature, start, max_iterations)
    m = np.exp(u)
    joint = both / (m[:, None] + m)
    stationary = joint.sum(1)
    transition = joint / stationary[:, None]
    J_variance, h_variance, mean = _variances(n * both, n * leaving, transition)
    return ReversibleChain(transition, J_variance, h_variance, float(mean), converged)


def _variances(both: Array, leaving: Array, transition: Array) -> tuple[Array, Array, Array]:
    """Variances of J, h and the mean self-coupling from the observed information.

    In the logarithms z of the joint probabilities of unordered pairs the information is
    D - sum_a R[a] p_a p_a^T, with D the pair counts, R their row sums and p_a the
    transition probabilities out of a: a diagonal matrix and one of rank q, inverted by
    Woodbury's identity. Its null vector, a common factor of all joint probabilities,
    changes nothing reported.
    """
    q = len(leaving)
    pairs = both - np.diag(np.diag(both)) / 2
    weight = 1 / pairs
    spread = transition * weight
    between = spread * transition.T
    np.fill_diagonal(between, 0)
    inner = np.diag(1 / leaving - (transition * spread).sum(1)) - between
    # The row sums are its null vector, and nothing reported lies along them.
    null = leaving / np.linalg.norm(leaving)
    inverse = np.linalg.inv(inner + np.diag(inner).max() * np.outer(null, null))

    centring = np.eye(q) - 1 / q
    J_variance = (
        centring**2 @ weight @ centring**2
        + _crossed(weight)
        + _rank_q_part(inverse, spread @ centring, np.diag(spread))
    )

    def variance(functional: Array) -> Array:
        """Of linear functionals of z, given as symmetric matrices (k, q, q)."""
        # Each unordered pair stands twice in the matrix, a diagonal element once.
        own = np.diagonal(functional, axis1=1, axis2=2)
        direct = 2 * np.einsum("kcd,kcd,cd->k", functional, functional, weight)
        direct -= (own**2) @ np.diag(weight)
        along = 2 * np.einsum("kcd,cd->kc", functional, spread) - own * np.diag(spread)
        return direct + ((along @ inverse) * along).sum(1)

    # h = 2 (row mean of z) - ln(stationary), centred.
    state = np.arange(q)
    rows = np.zeros((q, q, q))
    rows[state, state, :] += 1 / q
    rows[state, :, state] += 1 / q
    rows[state, state, :] -= transition / 2
    rows[state, :, state] -= transition / 2
    rows -= rows.mean(0)
    mean = variance(diagonal_projector(leaving / leaving.sum())[None])[0]
    return J_variance, variance(rows), mean


def diagonal_projector(share: Array) -> Array:
    """Weights of ln P[a, b] in the mean self-coupling, (..., q, q); rows sum to zero.

    It is q / (q - 1) times the sum over a of share[a] J[a, a], J the centred ln P.
    """
    q = share.shape[-1]
    centring = np.eye(q) - 1 / q
    return q / (q - 1) * (centring * share[..., None, :]) @ centring


def _crossed(weight: Array) -> Array:
    """Sum over c != d of A_ac A_bd A_ad A_bc weight_cd with the centring A = 1 - 1/q.

    A_ac A_bc has the elements 1/q^2 - (delta_ac + delta_bc) / q + delta_ab delta_ac, so
    that all that is needed are sums of the weights.
    """
    q = len(weight)
    off = weight - np.diag(np.diag(weight))
    sums = off.sum(1)
    total = sums.sum()
    crossed = 2 * off / q**2 - 2 * (sums[:, None] + sums) / q**3 + total / q**4
    np.fill_diagonal(crossed, 2 * (1 - 2 / q) * sums / q**2 + total / q**4)
    return crossed


def _rank_q_part(inverse: Array, smeared: Array, own: Array) -> Array:
    """What the rank-q part of the information adds to the variance of each J[a, b].

    J[a, b] responds along alpha_ab e_a + alpha_ba e_b - (s_a + s_b) / q - own / q^2, with
    s_a the columns of `smeared`; the quadratic form of that vector is written out, so that
    q^2 variances cost two products of q x q matrices.
    """
    q = len(own)
    alpha = smeared + own[:, None] / q - np.diag(own) / 2
    beta = alpha.T
    along = inverse @ smeared
    between = smeared.T @ along
    lifted = inverse @ own
    diagonal = np.diag(inverse)
    # Element [c, a] of `along` is component c of the inverse times s_a.
    linear = alpha * (np.diag(along)[:, None] + along) / q + alpha * lifted[:, None] / q**2
    single = np.diag(between) / (2 * q**2) + smeared.T @ lifted / q**3
    quadratic = alpha**2 * diagonal[:, None]
    return (
        quadratic
        + quadratic.T
        + 2 * alpha * beta * inverse
        - 2 * (linear + linear.T)
        + 2 * (single[:, None] + single)
        + 2 * between / q**2
        + own @ lifted / q**4
    )
