"""Finite chains whose ends are joined."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isingmoe._kernels.messages import averaged, gathered, meeting
from isingmoe.infinite import (
    Solution,
    StationaryChain,
    Track,
    by_letter,
    correlations,
    moments,
    next_windows,
    untracked,
)

__all__ = ["solve_ring"]

Array = NDArray[np.floating]

# Up to so many windows whole matrices are raised to powers.
_FEW_WINDOWS = 256
# Numbers held in the messages from a block of windows.
_BLOCK = 1 << 25
_WIDEST = 64
# Logarithm of what is lost in rounding, with a margin.
_LOST = 46


def solve_ring(
    infinite: StationaryChain, n_sites: int, longest: int, track: Track = untracked
) -> Solution:
    """Solve a chain with periodic ends.

    Parameters
    ----------
    infinite : StationaryChain
        The same chain without ends.
    n_sites : int
    longest : int
        Largest distance of the correlations.
    track : callable, optional
        Called with steps and what they do, for a progress bar.

    Returns
    -------
    Solution

    Notes
    -----
    Three ways: a ring much longer than the correlation length is the infinite chain, but
    that sites are correlated both ways round it; few windows allow powers of the transfer
    matrix; of many windows each is taken in turn for the start of the walk round the ring.
    """
    if n_sites > infinite.memory * (_LOST + math.log(infinite.windows.n_windows * n_sites**2)):
        return _long(infinite, n_sites, longest)
    if infinite.windows.n_windows <= _FEW_WINDOWS:
        return _by_power(infinite, n_sites, longest)
    return _by_start(infinite, n_sites, longest, track)


def _long(infinite: StationaryChain, n_sites: int, longest: int) -> Solution:
    stationary, windows = infinite.stationary, infinite.windows
    log_weight, log_variance, mean, variance = moments(infinite)
    # Distances the other way round that are not lost beside those this way.
    lasting = math.ceil(_LOST * infinite.memory)
    both = [d for d in range(longest + 1) if n_sites - 2 * d < lasting]
    covariance = correlations(infinite, n_sites - both[0] if both else longest)
    result = covariance[: longest + 1].copy()
    result[both] += covariance[n_sites - np.array(both, int)]
    marginal = np.bincount(windows.letter(1), stationary, windows.n_letters)
    return Solution(
        n_sites * infinite.log_eigenvalue,
        log_weight,
        log_variance,
        mean,
        variance,
        (windows.held @ marginal)[None],
        result,
    )


@dataclass(frozen=True)
class _Jet:
    """A matrix over a common scale with its first and second derivatives, (k, S, S)."""

    value: Array
    first: Array
    second: Array
    log_scale: float

    def __matmul__(self, other: _Jet) -> _Jet:
        value = self.value @ other.value
        first = self.first @ other.value + self.value @ other.first
        second = (
            self.second @ other.value + 2 * (self.first @ other.first) + self.value @ other.second
        )
        scale = value.max()
        log_scale = self.log_scale + other.log_scale + float(np.log(scale))
        return _Jet(value / scale, first / scale, second / scale, log_scale)

    def power(self, exponent: int) -> _Jet:
        """The product of so many, at least one."""
        result, square = None, self
        while True:
            if exponent & 1:
                result = square if result is None else result @ square
            exponent >>= 1
            if not exponent:
                break
            square = square @ square
        return self if result is None else result


def _by_power(infinite: StationaryChain, n_sites: int, longest: int) -> Solution:
    """Derivatives of log Z by differentiating the power of the transfer matrix itself.

    Every sum is taken about its mean in the infinite chain, so that the second cumulant is
    not the small difference of two numbers of order n^2.
    """
    windows = infinite.windows
    n_windows, observable = windows.n_windows, windows.observable
    log_weight, _, mean, _ = moments(infinite)
    place = np.arange(n_windows)[:, None], next_windows(windows)
    # Over its leading eigenvalue: no power of it overflows.
    scaled = np.zeros((n_windows, n_windows))
    scaled[place] = np.exp(infinite.log_weight - infinite.log_eigenvalue)
    apart = np.empty((1 + len(observable), n_windows, n_windows))
    apart[0][place] = infinite.log_weight - log_weight
    apart[1:] = (observable[:, windows.letter(1)] - mean[:, None])[:, None]
    apart[:, scaled == 0] = 0
    total = _Jet(scaled, apart * scaled, apart**2 * scaled, 0.0).power(n_sites)
    z, dz, ddz = (np.trace(m, axis1=-2, axis2=-1) for m in (total.value, total.first, total.second))
    log_z = float(np.log(z)) + total.log_scale + n_sites * infinite.log_eigenvalue
    cumulant = np.append(log_weight, mean) + dz / z / n_sites
    variance = np.maximum((ddz / z - (dz / z) ** 2) / n_sites, 0)

    backward = [np.linalg.matrix_power(scaled, n_sites - longest)]
    for _ in range(longest):
        backward.append(backward[-1] @ scaled)
    backward.reverse()
    law = np.diag(backward[0]) / np.trace(backward[0])
    value = observable[:, windows.letter(1)]
    forward = np.eye(n_windows)
    result = np.empty((longest + 1, len(observable)))
    for d in range(longest + 1):
        joint = forward * backward[d].T / np.trace(backward[0])
        result[d] = ((value @ (joint - np.outer(law, law))) * value).sum(1)
        forward = forward @ scaled
    marginal = np.bincount(windows.letter(1), law, windows.n_letters)
    return Solution(
        log_z,
        cumulant[0],
        variance[0],
        cumulant[1:],
        variance[1:],
        (windows.held @ marginal)[None],
        result,
    )


def _by_start(infinite: StationaryChain, n_sites: int, longest: int, track: Track) -> Solution:
    """Walks round the ring from each window back to it, many windows at a time.

    Walks that have gone up to half the way are kept, and met by those that come from the
    other side: all pairs of sites, whose covariances add up to the variances of the sums. So
    do those of the log-weights of two steps, of which one walk begins with one of them, and
    the other with the other.
    """
    windows, half = infinite.windows, n_sites // 2
    n_windows, n_letters = windows.n_windows, windows.n_letters
    log_mean, _, centre, _ = moments(infinite)
    chance, excess = _by_rest(infinite.transition), _by_rest(infinite.log_weight - log_mean)
    tilted, squared = chance * excess, chance * excess**2
    value = windows.observable - centre[:, None]
    law = np.empty(n_windows)
    log_shift, log_product = 0.0, np.zeros(half + 1)
    product = np.zeros((half + 1, len(value)))
    width = max(1, min(_WIDEST, n_windows, _BLOCK // (2 * (half + 1) * n_windows)))
    room, room_of_tilted = np.empty((2, half + 1, n_windows, width))
    for low in track(range(0, n_windows, width), "windows"):
        starts = np.arange(low, min(low + width, n_windows))
        n_starts, place = len(starts), (starts, np.arange(len(starts)))
        left = value[:, windows.letter(1)[starts]]
        back, next_back, other = np.zeros((3, n_windows, n_starts))
        back[place] = 1
        walks, tilted_walks = room[..., :n_starts], room_of_tilted[..., :n_starts]
        walks[0] = back
        for d in range(half):
            gathered(chance, walks[d], walks[d + 1])
            if d == 0:
                gathered(tilted, back, tilted_walks[1])
            else:
                gathered(chance, tilted_walks[d], tilted_walks[d + 1])
        for d in range(n_sites - 1, -1, -1):
            if d <= half:
                averaged(tilted, back, n_starts, other, 0)
                log_product[d] += meeting(tilted_walks[d], other, 1).sum() if d else 0.0
            if d == 0:
                log_shift += other[place].sum()
                averaged(squared, back, n_starts, other, 0)
                log_product[0] += other[place].sum()
            averaged(chance, back, n_starts, next_back, 0)
            back, next_back = next_back, back
            if d <= half:
                met = meeting(walks[d], back, n_letters)
                product[d] += ((value @ met) * left).sum(1)
        law[starts] = back[place]
    z = law.sum()
    law /= z
    marginal = np.bincount(windows.letter(1), law, n_letters)
    shift, log_shift = value @ marginal, log_shift / z
    covariance = product / z - shift**2
    # Every distance but none and half way round is there on both sides.
    sides = np.full(half + 1, 2.0)
    sides[0] = 1
    if n_sites % 2 == 0:
        sides[half] = 1
    return Solution(
        math.log(z) + n_sites * infinite.log_eigenvalue,
        log_mean + log_shift,
        max(float(sides @ (log_product / z - log_shift**2)), 0.0),
        centre + shift,
        np.maximum(sides @ covariance, 0),
        (windows.held @ marginal)[None],
        covariance[: longest + 1],
    )


def _by_rest(weight: Array) -> Array:
    """Numbers (S, Q) with the letter left behind after the rest of the window, (S/Q, Q, Q)."""
    return np.ascontiguousarray(by_letter(weight).transpose(1, 0, 2))
