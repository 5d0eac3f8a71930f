"""Exact solution of a kinetic chain, read as a Markov chain of its windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from isingmoe._kernels.messages import forward_messages, leading_vector, onward
from isingmoe._windows import Windows
from isingmoe.infinite import (
    StationaryChain,
    Track,
    average,
    correlations,
    next_windows,
    out_of_range,
    spectrum,
    untracked,
)

__all__ = ["MarkovSolution", "solve_markov"]

Array = NDArray[np.floating]

# Up to so many windows the stationary law is found by elimination.
_FEW_WINDOWS = 256
# The work of a power iteration, about seconds of it, before windows are eliminated after all.
_MOST_WORK = 4e9
# Numbers held in the laws of a stretch, and in the columns of a group of experts.
_STRETCH, _COLUMNS = 1 << 22, 1 << 24
# Of a law, for each site that it remembers.
_ROUNDING = 128 * float(np.finfo(float).eps)
# Farther from the stationary law than this nothing has settled.
_COARSEST = 1e-9


@dataclass(frozen=True)
class MarkovSolution:
    """What is known of a kinetic chain.

    Attributes
    ----------
    infinite : StationaryChain or None
        The infinite chain; None where the field differs from site to site.
    entropy : float
        Per site.
    entropy_production : float or None
        Per site of the infinite chain; None for a finite one.
    marginal : ndarray (1 or n_sites, expert)
    covariance : ndarray (distance, expert)
        Of a finite chain averaged over all pairs of sites at a distance.
    """

    infinite: StationaryChain | None
    entropy: float
    entropy_production: float | None
    marginal: Array
    covariance: Array


def solve_markov(
    windows: Windows, n_sites: int | None, longest: int, track: Track = untracked
) -> MarkovSolution:
    """Solve a kinetic chain.

    Parameters
    ----------
    windows : Windows
    n_sites : int or None
        Length of a sequence that starts with nothing before it; None for the infinite chain.
    longest : int
        Largest distance of the correlations.
    track : callable, optional
        Called with steps and what they do, for a progress bar.

    Returns
    -------
    MarkovSolution

    Raises
    ------
    ValueError
        If the weights span more than the range of a double.
    """
    infinite = _stationary_chain(windows, track) if len(windows.site) == 1 else None
    if n_sites is not None or infinite is None:
        return _solve_finite(windows, infinite, int(n_sites or 0), longest, track)
    log_chance = _normalised(windows.step + windows.site[0])
    entropy = float(infinite.stationary @ _entropies(infinite.transition, log_chance))
    marginal = _of_experts(windows, infinite.stationary[None])
    produced = _entropy_production(infinite)
    return MarkovSolution(infinite, entropy, produced, marginal, correlations(infinite, longest))


def _normalised(log_weight: Array) -> Array:
    """Log-probability of each letter given a window."""
    return log_weight - logsumexp(log_weight, axis=1, keepdims=True)


def _entropies(chance: Array, log_chance: Array) -> Array:
    """Entropy of the next letter given each window."""
    return -np.einsum("xb,xb->x", chance, log_chance)


def _of_experts(windows: Windows, laws: Array) -> Array:
    """Chance of each expert at the last site of the windows, from laws (..., S)."""
    q = windows.n_letters
    letters = laws.reshape(len(laws), windows.n_windows // q, q).sum(1)
    return letters @ windows.held.T


def _stationary_chain(windows: Windows, track: Track) -> StationaryChain:
    """The infinite chain; its rows sum to one, which makes one the right eigenvector."""
    log_chance = _normalised(windows.step + windows.site[0])
    transition = np.exp(log_chance)
    stationary = _stationary_law(windows, transition, track)
    modes, length = spectrum(windows, transition, log_chance)
    right = np.ones(windows.n_windows)
    return StationaryChain(windows, 0.0, right, transition, stationary, modes, length)


def _stationary_law(windows: Windows, transition: Array, track: Track) -> Array:
    """The law of the windows that a step leaves as it is."""
    start = np.ones(windows.n_windows)
    if windows.n_windows > _FEW_WINDOWS:
        n_steps = max(1000, int(_MOST_WORK / transition.size))
        law, is_settled = leading_vector(transition, start, True, n_steps)
        if is_settled:
            return law / law.sum()
    matrix = np.zeros((windows.n_windows, windows.n_windows))
    np.put_along_axis(matrix, next_windows(windows), transition, 1)
    law = _eliminated(matrix, track)
    if not np.isfinite(law).all():
        raise out_of_range(windows)
    return law


def _eliminated(matrix: Array, track: Track) -> Array:
    """Stationary law of a Markov chain, state after state taken out of it.

    Sums of positive numbers only, and never the chance to stay: no digit is lost where a
    chain hardly ever leaves a state (W. K. Grassmann, M. I. Taksar and D. P. Heyman,
    Oper. Res. 33, 1107 (1985)). The matrix is overwritten.
    """
    n = len(matrix)
    with np.errstate(all="ignore"):
        for x in track(range(n - 1, 0, -1), "stationary law"):
            matrix[:x, x] /= matrix[x, :x].sum()
            matrix[:x, :x] += matrix[:x, x, None] * matrix[x, :x]
        law = np.ones(n)
        for x in range(1, n):
            law[x] = law[:x] @ matrix[:x, x]
            # Another scale before the numbers leave the range of a double.
            law[: x + 1] /= law[: x + 1].max()
        return law / law.sum()


def _entropy_production(infinite: StationaryChain) -> float:
    """Rate at which a path differs from its reversal, in nats per site.

    What bonds gain by the direction, and, where windows hold several sites, the norm of a
    window read backwards over its own.
    """
    windows, q = infinite.windows, infinite.windows.n_letters
    flow = infinite.stationary[:, None] * infinite.transition
    produced = 0.0
    for r in range(1, len(windows.bonds) + 1):
        bond = windows.bonds[r - 1]
        pairs = flow.reshape(-1, q, q ** (r - 1), q).sum((0, 2))
        produced += float(((bond - bond.T) * pairs).sum())
    backwards = np.zeros(windows.n_windows, np.int64)
    for r in range(1, windows.reach + 1):
        backwards = backwards * q + windows.letter(r)
    log_norm = np.asarray(logsumexp(infinite.log_weight, axis=1))
    produced += float(infinite.stationary @ (log_norm[backwards] - log_norm))
    # Rounding can take a rate that is zero below it.
    return max(produced, 0.0)


@dataclass(frozen=True)
class _Start:
    """A chain that starts with nothing before it.

    The first sites, as far as windows reach, have fewer before them and transitions of their
    own; with a field for each site all sites have.
    """

    windows: Windows
    n_sites: int

    @property
    def n_own(self) -> int:
        is_alike = len(self.windows.site) == 1
        return min(self.windows.reach, self.n_sites) if is_alike else self.n_sites

    def log_chance(self, site: int) -> Array:
        """Log-probability of the letters of a site given the window before it."""
        windows = self.windows
        step = windows.step if site >= windows.reach else windows.step_after(site)
        return _normalised(step + windows.site[site % len(windows.site)])


def _solve_finite(
    windows: Windows, infinite: StationaryChain | None, n_sites: int, longest: int, track: Track
) -> MarkovSolution:
    start = _Start(windows, n_sites)
    laws = np.empty((start.n_own, windows.n_windows))
    law = np.zeros(windows.n_windows)
    law[0] = 1
    entropy = 0.0
    for site in track(range(start.n_own), "sites"):
        log_chance = start.log_chance(site)
        chance = np.exp(log_chance)
        entropy += float(law @ _entropies(chance, log_chance))
        onward(chance, law, laws[site])
        law = laws[site]
    alike = _Alike.of(windows, infinite, law, n_sites - start.n_own, longest, track)
    if infinite is not None and n_sites > start.n_own:
        rows = _entropies(infinite.transition, start.log_chance(windows.reach))
        entropy += float(rows @ (alike.law - alike.last[-1]))
    marginal = np.concatenate([_of_experts(windows, laws[:-1]), alike.marginal])
    covariance = np.empty((longest + 1, len(windows.observable)))
    group = max(1, _COLUMNS // (windows.n_windows * (longest + 1)))
    for first in range(0, len(windows.observable), group):
        chosen = slice(first, first + group)
        covariance[:, chosen] = _pairs(start, infinite, laws, alike, longest, chosen, track)
    covariance /= (n_sites - np.arange(longest + 1))[:, None]
    return MarkovSolution(infinite, entropy / n_sites, None, marginal, covariance)


@dataclass(frozen=True)
class _Alike:
    """The last site with a transition of its own, and all sites after it, which share one.

    Attributes
    ----------
    n : int
        How many sites.
    law : ndarray (S,)
        Sum of their laws.
    weighted : ndarray (S, expert)
        The same, each with the marginal of its site.
    last : ndarray (at most longest + 1, S)
        Laws of the last of them.
    marginal : ndarray (n, expert)
    """

    n: int
    law: Array
    weighted: Array
    last: Array
    marginal: Array

    @classmethod
    def of(
        cls,
        windows: Windows,
        infinite: StationaryChain | None,
        law: Array,
        n_more: int,
        longest: int,
        track: Track,
    ) -> _Alike:
        """All sites from the law of the first and the number of the others."""
        last = law[None]
        total, marginals = law.copy(), [_of_experts(windows, last)]
        weighted = law[:, None] * marginals[0]
        if infinite is None or not n_more:
            return cls(1, total, weighted, last, marginals[0])
        tolerance = _ROUNDING * (1 + infinite.memory)
        tolerance = tolerance if tolerance < _COARSEST else 0.0
        limit, none = infinite.stationary, np.ones((1, windows.n_letters))
        stretch = max(1, _STRETCH // windows.n_windows)
        for first in track(range(0, n_more, stretch), "sites"):
            count = min(stretch, n_more - first)
            messages, _ = forward_messages(
                infinite.transition, none, 0, last[-1], count, limit, tolerance
            )
            marginals.append(_of_experts(windows, messages))
            total += messages.sum(0)
            weighted += messages.T @ marginals[-1]
            last = np.concatenate([last, messages])[-longest - 1 :]
            if len(messages) < count:
                n_settled = n_more - first - len(messages)
                marginal = _of_experts(windows, limit[None])
                marginals.append(np.repeat(marginal, n_settled, 0))
                total += n_settled * limit
                weighted += n_settled * limit[:, None] * marginal
                settled = np.repeat(limit[None], min(n_settled, longest + 1), 0)
                last = np.concatenate([last, settled])[-longest - 1 :]
                break
        return cls(1 + n_more, total, weighted, last, np.concatenate(marginals))


def _pairs(
    start: _Start,
    infinite: StationaryChain | None,
    laws: Array,
    alike: _Alike,
    longest: int,
    chosen: slice,
    track: Track,
) -> Array:
    """Covariances of some experts, summed over the pairs of sites at each distance.

    The future weighs on nothing, so that the mean of an expert d sites on, given a window, is
    the same for all sites that are alike: one power of the transition serves all of them.
    """
    windows = start.windows
    observable = windows.observable[chosen].T[windows.letter(1)]
    n_windows, width = observable.shape
    result = np.zeros((longest + 1, width))
    ahead = np.empty((n_windows, min(longest, alike.n - 1) + 1, width))
    value = observable
    law, weighted = alike.law.copy(), alike.weighted[:, chosen].copy()
    for d in range(ahead.shape[1]):
        if d and infinite is not None:
            value = average(infinite.transition, value)
            before = alike.last[-d]
            law -= before
            weighted -= before[:, None] * alike.marginal[-d, chosen]
        # Any constant may be taken off; this one leaves the tail its relative precision.
        value = value - (laws[-1] if infinite is None else infinite.stationary) @ value
        result[d] = (value * (observable * law[:, None] - weighted)).sum(0)
        ahead[:, d] = value
    for site in track(range(len(laws) - 2, -1, -1), "correlations"):
        n_known = min(longest, ahead.shape[1])
        further = ahead[:, :n_known].reshape(n_windows, -1)
        further = average(np.exp(start.log_chance(site + 1)), further)
        further = further.reshape(n_windows, n_known, width)
        ahead = np.concatenate([observable[:, None], further], 1)
        ahead -= np.tensordot(laws[site], ahead, 1)
        centred = laws[site][:, None] * (observable - laws[site] @ observable)
        result[: n_known + 1] += np.einsum("xe,xde->de", centred, ahead)
    return result
