"""The infinite chain, read as a Markov chain."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, eigs

from isingmoe._kernels.messages import ahead, leading_vector
from isingmoe._windows import Windows
from isingmoe.stationary import leading_vectors, length_of_gap

__all__ = [
    "Solution",
    "StationaryChain",
    "Track",
    "average",
    "by_letter",
    "correlations",
    "moments",
    "next_windows",
    "out_of_range",
    "poisson_solution",
    "spectrum",
    "stationary_chain",
    "transition_matrix",
    "untracked",
]

Array = NDArray[np.floating]
Track = Callable[[Iterable[Any], str], Iterable[Any]]


def untracked(steps: Iterable[Any], what: str) -> Iterable[Any]:
    """The steps as they are, without a progress bar."""
    return steps


# Up to so many windows whole matrices are squared and their whole spectrum is taken.
_FEW_WINDOWS = 256
# The work of a power iteration, about seconds of it, before matrices are squared instead.
_MOST_WORK = 4e9
# Steps of power iteration after the squaring.
_FINISH = 500
_N_MODES, _KRYLOV = 6, 64


@dataclass(frozen=True)
class Solution:
    """What is known of a chain, per site.

    Attributes
    ----------
    log_z : float or None
        None for the infinite chain.
    log_weight, log_weight_variance : float
        First two cumulants of the log-weight.
    mean, variance : ndarray (observable,)
        Of the sum of each observable.
    marginal : ndarray (1 or n_sites, Q)
        Chance of each letter.
    covariance : ndarray (distance, observable)
    """

    log_z: float | None
    log_weight: float
    log_weight_variance: float
    mean: Array
    variance: Array
    marginal: Array
    covariance: Array


@dataclass(frozen=True)
class StationaryChain:
    """The infinite chain, read as a Markov chain of windows.

    Attributes
    ----------
    windows : Windows
    log_eigenvalue : float
        Logarithm of the leading eigenvalue of the transfer matrix.
    right : ndarray (S,)
        Its right eigenvector.
    transition : ndarray (S, Q)
        Probability of the next letter given a window; rows sum to one.
    stationary : ndarray (S,)
        Probability of each window.
    eigenvalue : complex ndarray (mode,)
        Spectrum over the leading eigenvalue, by falling modulus; of many windows the
        leading modes only.
    correlation_length : float
        -1 / ln of the second modulus; 0 without correlation, inf where two eigenvalues
        agree to machine precision.
    """

    windows: Windows
    log_eigenvalue: float
    right: Array
    transition: Array
    stationary: Array
    eigenvalue: NDArray[np.complex128]
    correlation_length: float

    @property
    def log_weight(self) -> Array:
        """Log-weight of the bonds of a letter to a window before it, and of its site, (S, Q)."""
        return self.windows.step + self.windows.site[0]

    @property
    def memory(self) -> float:
        """Sites after which two windows forget each other by a factor e, at most.

        The correlation length, but never less than rounding lets it be known.
        """
        return max(self.correlation_length, -1 / np.log(_lost(self.windows)))


def stationary_chain(windows: Windows, track: Track = untracked) -> StationaryChain:
    """Solve the infinite chain.

    Parameters
    ----------
    windows : Windows
        With the same site term everywhere.
    track : callable, optional
        Called with steps and what they do, for a progress bar.

    Returns
    -------
    StationaryChain

    Raises
    ------
    ValueError
        If the weights span more than the range of a double.

    References
    ----------
    R. J. Baxter, Exactly Solved Models in Statistical Mechanics (1982), chapter 2.
    """
    log_weight = windows.step + windows.site[0]
    with np.errstate(all="ignore"):
        log_eigenvalue, right, left = _leading(windows, log_weight, track)
    transition = np.exp(log_weight - log_weight.max())
    by_letter(transition)[...] *= right.reshape(-1, windows.n_letters)
    stationary = left * right
    total = transition.sum(1, keepdims=True)
    # Of numbers that are none, every comparison is false.
    if not (
        np.isfinite(log_eigenvalue)
        and right.min() > np.finfo(float).tiny
        and total.min() > 0
        and stationary.sum() > 0
    ):
        raise out_of_range(windows)
    transition /= total
    stationary /= stationary.sum()
    modes, length = spectrum(windows, transition, log_weight - log_eigenvalue)
    return StationaryChain(windows, log_eigenvalue, right, transition, stationary, modes, length)


def out_of_range(windows: Windows) -> ValueError:
    """What to say of weights beyond the range of a double."""
    step, site = windows.step, windows.site
    low, high = step.min() + site.min(), step.max() + site.max()
    return ValueError(
        "chain: expected weights within the range of a double, got log-weights of one site "
        f"from {low:.4g} to {high:.4g}; raise the temperature"
    )


def next_windows(windows: Windows) -> NDArray[np.int64]:
    """The window after each window and letter, (S, Q)."""
    return windows.after(np.arange(windows.n_windows)[:, None], np.arange(windows.n_letters))


def by_letter(weight: Array) -> Array:
    """Numbers (S, Q) as (Q, S/Q, Q): the letter left behind, the rest, and the next letter.

    The last two are the window that follows.
    """
    n_letters = weight.shape[1]
    return weight.reshape(n_letters, -1, n_letters)


def _matrix(windows: Windows, value: Array, nothing: float = 0.0) -> Array:
    """Values (S, Q) as a matrix (S, S) between windows, `nothing` where none can follow."""
    if windows.reach == 1:
        return value
    matrix = np.full((windows.n_windows, windows.n_windows), nothing)
    np.put_along_axis(matrix, next_windows(windows), value, 1)
    return matrix


def transition_matrix(infinite: StationaryChain) -> Array:
    """Probability of the next window given a window, (S, S)."""
    return _matrix(infinite.windows, infinite.transition)


def _leading(windows: Windows, log_weight: Array, track: Track) -> tuple[float, Array, Array]:
    """Logarithm of the leading eigenvalue, right and left eigenvector."""
    shift = log_weight.max()
    weight = np.exp(log_weight - shift)
    right = left = np.ones(len(weight))
    is_settled = False
    if windows.n_windows > _FEW_WINDOWS:
        n_steps = max(1000, int(_MOST_WORK / weight.size))
        right, is_settled = leading_vector(weight, right, False, n_steps)
        if is_settled:
            left, is_settled = leading_vector(weight, left, True, n_steps)
    if not is_settled:
        matrix = _matrix(windows, log_weight, -np.inf)
        _, right, left = leading_vectors(matrix, lambda steps: track(steps, "leading eigenvector"))
        # Squares forget the sign of eigenvalues, and take nearly opposite ones for nearly equal.
        right, _ = leading_vector(weight, right, False, _FINISH)
        left, _ = leading_vector(weight, left, True, _FINISH)
    following = np.empty_like(right)
    ahead(weight, right, following)
    return float(shift + np.log((left @ following) / (left @ right))), right, left


def spectrum(
    windows: Windows, transition: Array, log_weight: Array
) -> tuple[NDArray[np.complex128], float]:
    """Eigenvalues over the largest, by falling modulus, and the correlation length.

    Parameters
    ----------
    windows : Windows
    transition : ndarray (S, Q)
        Probability of the next letter given a window.
    log_weight : ndarray (S, Q)
        Logarithm of the transfer matrix over its leading eigenvalue, or of `transition`.
    """
    n_windows = windows.n_windows
    transfer = None
    if n_windows == 1:
        return np.ones(1, complex), 0.0
    if n_windows > _FEW_WINDOWS:
        modes = _leading_modes(windows, transition)
    elif windows.reach > 1:
        modes = np.linalg.eigvals(_matrix(windows, transition)).astype(complex)
    else:
        transfer = np.exp(log_weight)
        if np.array_equal(windows.step, windows.step.T):
            # The similar symmetric matrix has the same spectrum, and it is real.
            symmetric = np.exp((log_weight + log_weight.T) / 2)
            modes = np.linalg.eigvalsh(symmetric).astype(complex)
        else:
            modes = np.linalg.eigvals(transfer).astype(complex)
    modes = modes[np.argsort(-np.abs(modes), kind="stable")]
    gap = 1 - np.abs(modes[1])
    if n_windows == 2 and transfer is not None:
        # 1 - |second| without subtracting two nearly equal numbers.
        diagonal, cross = np.diag(transfer), transfer[0, 1] * transfer[1, 0]
        root = np.sqrt((diagonal[0] - diagonal[1]) ** 2 + 4 * cross)
        gap = min(root, diagonal.sum())
    return modes, float(length_of_gap(np.asarray(gap), n_windows, windows.reach))


def _leading_modes(windows: Windows, transition: Array) -> NDArray[np.complex128]:
    """The largest eigenvalues of many windows, by Arnoldi's method."""
    result = np.empty(windows.n_windows)

    def apply(vector: Array) -> Array:
        ahead(transition, np.ascontiguousarray(vector).ravel(), result)
        return result.copy()

    shape = (windows.n_windows, windows.n_windows)
    start = 0.5 + np.random.default_rng(0).random(windows.n_windows)
    try:
        return eigs(
            LinearOperator(shape, matvec=apply, dtype=float),  # type: ignore[call-arg]
            k=_N_MODES,
            ncv=_KRYLOV,
            v0=start,
            return_eigenvectors=False,
        )
    except ArpackError:
        return np.linalg.eigvals(_matrix(windows, transition)).astype(complex)


def _lost(windows: Windows) -> float:
    """Modulus below which an eigenvalue is lost in rounding.

    Without correlation the transfer matrix of windows is nilpotent but for its leading
    part, and rounding takes its eigenvalues from zero to the root of an epsilon.
    """
    return (windows.n_windows * np.finfo(float).eps) ** (1 / windows.reach)


def poisson_solution(infinite: StationaryChain, source: Array) -> Array:
    """Sum over t >= 0 of P^t f for functions f of zero stationary mean.

    Parameters
    ----------
    infinite : StationaryChain
    source : ndarray (S, k)
        The functions, one in each column.

    Returns
    -------
    ndarray (S, k)
        u with (1 - P) u = f and zero stationary mean.

    Notes
    -----
    One window is held at zero, and 1 - P_aa is taken as the sum of the other elements of
    its row (Grassmann, Taksar and Heyman, Oper. Res. 33, 1107 (1985)), so that a chain
    that hardly ever leaves a state is solved to full precision.
    """
    stationary = infinite.stationary
    generator = -transition_matrix(infinite)
    np.fill_diagonal(generator, 0)
    np.fill_diagonal(generator, -generator.sum(1))
    held = stationary.argmax()
    generator[held] = generator[:, held] = 0
    generator[held, held] = 1
    held_source = source.copy()
    held_source[held] = 0
    try:
        solution = np.linalg.solve(generator, held_source)
    except np.linalg.LinAlgError:
        raise out_of_range(infinite.windows) from None
    return solution - stationary @ solution


def moments(infinite: StationaryChain) -> tuple[float, float, Array, Array]:
    """Means and variances per site: of the log-weight, and of the sum of each observable.

    Returns
    -------
    log_weight, log_weight_variance : float
    mean, variance : ndarray (observable,)
    """
    windows, transition, stationary = infinite.windows, infinite.transition, infinite.stationary
    log_weight = infinite.log_weight
    expected = (transition * log_weight).sum(1)
    log_mean = float(stationary @ expected)
    value, mean = _centred_observables(infinite)
    response = poisson_solution(
        infinite, np.column_stack([expected - log_mean, average(transition, value)])
    )
    chance, excess = by_letter(transition), by_letter(log_weight - log_mean)
    later = response[:, 0].reshape(-1, windows.n_letters)
    spread = np.einsum("ayb,ayb,ayb->ay", chance, excess, excess)
    spread += 2 * np.einsum("ayb,ayb,yb->ay", chance, excess, later)
    log_variance = float(stationary @ spread.ravel())
    variance = stationary @ (value * (value + 2 * response[:, 1:]))
    # Rounding can take a variance that is zero below it.
    return log_mean, max(log_variance, 0.0), mean, np.maximum(variance, 0)


def correlations(infinite: StationaryChain, longest: int) -> Array:
    """Covariance of each observable with itself at the distances 0 to `longest`, (d, k)."""
    ahead_value, _ = _centred_observables(infinite)
    weighted = infinite.stationary[:, None] * ahead_value
    result = np.empty((longest + 1, ahead_value.shape[1]))
    for d in range(longest + 1):
        result[d] = (weighted * ahead_value).sum(0)
        ahead_value = average(infinite.transition, ahead_value)
        # Centred again and again: the tail keeps its relative precision.
        ahead_value -= infinite.stationary @ ahead_value
    return result


def _centred_observables(infinite: StationaryChain) -> tuple[Array, Array]:
    """The observables on the last site of each window about their means (S, k), and these."""
    windows = infinite.windows
    value = windows.observable.T[windows.letter(1)]
    mean = infinite.stationary @ value
    return value - mean, mean


def average(transition: Array, value: Array) -> Array:
    """Mean of functions (S, k) of the next window, given a window."""
    chance = by_letter(transition).transpose(1, 0, 2)
    mean = chance @ value.reshape(len(chance), transition.shape[1], -1)
    return mean.transpose(1, 0, 2).reshape(len(value), -1)
