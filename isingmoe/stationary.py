"""The infinite chain, read as a Markov chain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "StationaryChain",
    "length_of_gap",
    "markov_chain",
    "poisson_solution",
    "second_modulus",
    "stationary_chain",
]

Array = NDArray[np.floating]

# Each squaring doubles the length of the chain: enough for a correlation length of 10^70.
_MAX_SQUARINGS = 240


@dataclass(frozen=True)
class StationaryChain:
    """The infinite chain, read as a Markov chain.

    Attributes
    ----------
    log_eigenvalue : float
        Logarithm of the leading eigenvalue of the transfer matrix.
    transition : ndarray (q, q)
        Probability of the next state given a state; rows sum to one.
    stationary : ndarray (q,)
        Probability of each state.
    eigenvalue : complex ndarray (q,)
        Spectrum over the leading eigenvalue, by falling modulus.
    correlation_length : float
        -1 / ln of the second modulus; 0 without correlation, inf where two eigenvalues
        agree to machine precision.
    """

    log_eigenvalue: float
    transition: Array
    stationary: Array
    eigenvalue: NDArray[np.complex128]
    correlation_length: float


def stationary_chain(bond: Array, site: Array) -> StationaryChain:
    """Solve the infinite chain.

    Parameters
    ----------
    bond : ndarray (q, q)
        Negative energy of a bond over the temperature.
    site : ndarray (q,)
        Negative energy of a site over the temperature.

    Returns
    -------
    StationaryChain

    References
    ----------
    R. J. Baxter, Exactly Solved Models in Statistical Mechanics (1982), chapter 2.
    """
    log_eigenvalue, transition, stationary = markov_chain(bond + site)
    spectrum, length = _spectrum(bond, site, float(log_eigenvalue))
    return StationaryChain(float(log_eigenvalue), transition, stationary, spectrum, length)


def markov_chain(log_weight: Array) -> tuple[Array, Array, Array]:
    """Leading eigenvalue and Markov chain of a transfer matrix, or of a stack of them.

    Parameters
    ----------
    log_weight : ndarray (..., q, q)
        Logarithm of the transfer matrix.

    Returns
    -------
    log_eigenvalue : ndarray (...)
    transition : ndarray (..., q, q)
        P[a, b] = T[a, b] r[b] / (lambda r[a]) with the right eigenvector r.
    stationary : ndarray (..., q)

    Notes
    -----
    The eigenvectors come from repeated squaring. Products of non-negative numbers lose
    nothing to cancellation, so that they are right to the last digits even where an
    eigenvalue solver would return an arbitrary vector of a nearly degenerate pair.
    """
    shift = log_weight.max((-2, -1), keepdims=True)
    transfer = np.exp(log_weight - shift)
    power = transfer
    for _ in range(_MAX_SQUARINGS):
        power = power @ power
        power /= power.max((-2, -1), keepdims=True)
        right, left = power.sum(-1), power.sum(-2)
        outer = right[..., :, None] * left[..., None, :]
        total = right.sum(-1)[..., None, None]
        if (np.abs(power * total - outer) <= 1e-14 * outer).all():
            break
    right /= right.max(-1, keepdims=True)
    scaled = (transfer @ right[..., None])[..., 0]
    largest = scaled.sum(-1) / right.sum(-1)
    transition = transfer * right[..., None, :]
    transition /= transition.sum(-1, keepdims=True)
    stationary = left * right
    stationary /= stationary.sum(-1, keepdims=True)
    return shift[..., 0, 0] + np.log(largest), transition, stationary


def _spectrum(
    bond: Array, site: Array, log_eigenvalue: float
) -> tuple[NDArray[np.complex128], float]:
    """Eigenvalues over the largest, by falling modulus, and the correlation length."""
    transfer = np.exp(bond + site - log_eigenvalue)
    if np.array_equal(bond, bond.T):
        # The similar symmetric matrix has the same spectrum, and it is real.
        symmetric = np.exp(bond + (site[:, None] + site) / 2 - log_eigenvalue)
        spectrum = np.linalg.eigvalsh(symmetric).astype(complex)
    else:
        spectrum = np.linalg.eigvals(transfer).astype(complex)
    spectrum = spectrum[np.argsort(-np.abs(spectrum), kind="stable")]
    gap = 1 - np.abs(spectrum[1])
    if len(site) == 2:
        # 1 - |second| without subtracting two nearly equal numbers.
        diagonal, cross = np.diag(transfer), transfer[0, 1] * transfer[1, 0]
        root = np.sqrt((diagonal[0] - diagonal[1]) ** 2 + 4 * cross)
        gap = min(root, diagonal.sum())
    return spectrum, float(length_of_gap(np.asarray(gap), len(site)))


def length_of_gap(gap: Array, n_states: int) -> Array:
    """Correlation length of the gap 1 - |lambda_2 / lambda_1| of q states.

    Zero where the second eigenvalue is lost in rounding, infinite where the first is.
    """
    lost = 1 - gap < n_states * np.finfo(float).eps
    safe = np.where(lost | (gap <= 0), 0.5, gap)
    return np.where(gap <= 0, np.inf, np.where(lost, 0.0, -1 / np.log1p(-safe)))


def second_modulus(transition: Array, stationary: Array) -> Array:
    """Modulus of the second eigenvalue of Markov chains (..., q, q).

    The norm of a power of the matrix, its leading part taken off, goes as the power of the
    modulus; after so many squarings what stands before it is raised to 2^-44.
    """
    power = transition - stationary[..., None, :]
    log_modulus = np.zeros(stationary.shape[:-1])
    for k in range(44):
        scale = np.abs(power).max((-2, -1))
        alive = scale > 0
        log_modulus += np.where(alive, np.log(np.where(alive, scale, 1)), -np.inf) / 2.0**k
        power = power / np.where(alive, scale, 1)[..., None, None]
        power = power @ power
    return np.exp(log_modulus)


def poisson_solution(infinite: StationaryChain, source: Array) -> Array:
    """Sum over t >= 0 of P^t f for functions f of zero stationary mean.

    Parameters
    ----------
    infinite : StationaryChain
    source : ndarray (q, k)
        The functions, one in each column.

    Returns
    -------
    ndarray (q, k)
        u with (1 - P) u = f and zero stationary mean.

    Notes
    -----
    One state is held at zero, and 1 - P_aa is taken as the sum of the other elements of
    its row (Grassmann, Taksar and Heyman, Oper. Res. 33, 1107 (1985)), so that a chain
    that hardly ever leaves a state is solved to full precision.
    """
    transition, stationary = infinite.transition, infinite.stationary
    leaving = transition.copy()
    np.fill_diagonal(leaving, 0)
    generator = np.diag(leaving.sum(1)) - leaving
    others = np.arange(len(stationary)) != stationary.argmax()
    solution = np.zeros_like(source)
    solution[others] = np.linalg.solve(generator[np.ix_(others, others)], source[others])
    return solution - stationary @ solution
