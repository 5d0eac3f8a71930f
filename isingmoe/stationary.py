"""Markov chains of transfer matrices, in stacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "leading_vectors",
    "length_of_gap",
    "markov_chain",
    "markov_correlation",
    "second_modulus",
]

Array = NDArray[np.floating]

# Each squaring doubles the length of the chain: enough for a correlation length of 10^70.
_MAX_SQUARINGS = 240


def leading_vectors(
    log_weight: Array, track: Callable[[Iterable[int]], Iterable[int]] | None = None
) -> tuple[Array, Array, Array]:
    """Leading eigenvalue and eigenvectors of a transfer matrix, or of a stack of them.

    Parameters
    ----------
    log_weight : ndarray (..., q, q)
        Logarithm of the transfer matrix.
    track : callable, optional
        Wraps the squarings, for a progress bar.

    Returns
    -------
    log_eigenvalue : ndarray (...)
    right, left : ndarray (..., q)
        The largest element of `right` is one.

    Notes
    -----
    The eigenvectors come from repeated squaring. Products of non-negative numbers lose
    nothing to cancellation, so that they are right to the last digits even where an
    eigenvalue solver would return an arbitrary vector of a nearly degenerate pair.
    """
    shift = log_weight.max((-2, -1), keepdims=True)
    transfer = np.exp(log_weight - shift)
    power = transfer
    steps = range(_MAX_SQUARINGS)
    for _ in steps if track is None else track(steps):
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
    return shift[..., 0, 0] + np.log(largest), right, left


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
    """
    log_eigenvalue, right, left = leading_vectors(log_weight)
    shift = log_weight.max((-2, -1), keepdims=True)
    transition = np.exp(log_weight - shift) * right[..., None, :]
    transition /= transition.sum(-1, keepdims=True)
    stationary = left * right
    stationary /= stationary.sum(-1, keepdims=True)
    return log_eigenvalue, transition, stationary


def markov_correlation(transition: Array, stationary: Array, max_distance: int) -> Array:
    """Connected correlation of the occupancy of each state of Markov chains.

    Parameters
    ----------
    transition : ndarray (..., q, q)
    stationary : ndarray (..., q)
    max_distance : int

    Returns
    -------
    ndarray (..., q, distance)
        pi_a ((P^d)_aa - pi_a) at the distances 0 to `max_distance`.

    Notes
    -----
    Powers of P - 1 pi, so that the tail keeps its precision. Those of every distance are
    products of about 2 sqrt(max_distance) of them, and of a product only the diagonal is taken.
    """
    decaying = transition - stationary[..., None, :]
    step = int(np.ceil(np.sqrt(max_distance + 1)))
    small = [np.broadcast_to(np.eye(stationary.shape[-1]), transition.shape)]
    for _ in range(step):
        small.append(small[-1] @ decaying)
    large = [small[0]]
    for _ in range(step - 1):
        large.append(large[-1] @ small[-1])
    # An element of the diagonal of a product is a row of one with a column of the other.
    rows = np.stack(large, -2)
    columns = np.stack(small[:-1], -2).swapaxes(-1, -3)
    curve = (rows @ columns.swapaxes(-1, -2)).reshape(*stationary.shape, step * step)
    curve[..., 0] -= stationary
    return stationary[..., None] * curve[..., : max_distance + 1]


def length_of_gap(gap: Array, n_states: int, reach: int = 1) -> Array:
    """Correlation length of the gap 1 - |lambda_2 / lambda_1| of q states, or windows.

    Zero where the second eigenvalue is lost in rounding, infinite where the first is.
    """
    lost = 1 - gap < (n_states * np.finfo(float).eps) ** (1 / reach)
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
