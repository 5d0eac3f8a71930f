"""What a series of energies says of a transition: reweighting, peaks and errors.

The energy series of a cluster algorithm counts the events that the algorithm places on a
state: a Poisson number n whose mean is -E/T. The joint weight of states and events is a power
of the coupling, J**n, so that (J'/J)**n takes a run from J to J' without approximation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "Run", "jackknife", "peaks", "smoothed"]

Array = NDArray[np.floating]

# Of the energy over that of the ground state: noise can take it a little above one.
BINS = np.linspace(0.0, 1.2, 121)

# Reweighting ends where the effective sample is so small a part of the whole.
_LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Run:
    """Samples of one chain at one coupling.

    Attributes
    ----------
    n_sites, n_experts : int
    J : float
        Where it was sampled.
    total : float
        Sum of the decay over all distances: the ground state has the energy -J total per site.
    events : ndarray (replica, sample)
        Their mean, given the state, is minus its energy over the temperature.
    order : ndarray (replica, sample)
        Order parameter.
    """

    n_sites: int
    n_experts: int
    J: float
    total: float
    events: Array
    order: Array

    def energy(self, J: float) -> Array:
        """Energy at J of each sample over that of the ground state, (replica, sample).

        On average the share of equal pairs, each counted with its coupling. The events that
        a run is weighted for are those of the coupling it is taken to.
        """
        return self.events / (self.n_sites * J * self.total)

    def weights(self, J: float) -> Array:
        """Weight of each sample at another coupling, (replica, sample)."""
        log_weight = (self.events - self.events.mean()) * np.log(J / self.J)
        weight = np.exp(log_weight - log_weight.max())
        return weight / weight.sum()

    def couplings(self) -> Array:
        """Couplings that the run can be taken to, in fine steps."""
        step = 0.02 / self.events.std()
        shares = {}
        for direction in (-1, 1):
            for k in range(400):
                J = self.J * np.exp(direction * k * step)
                share = 1 / (self.weights(J) ** 2).sum() / self.events.size
                if share < _LEAST_SHARE:
                    break
                shares[J] = share
        return np.array(sorted(shares))

    def specific_heat(self, J: float) -> float:
        """Specific heat per site: the events have their own variance, equal to their mean."""
        weight = self.weights(J)
        mean = (weight * self.events).sum()
        return float(((weight * (self.events - mean) ** 2).sum() - mean) / self.n_sites)

    def energy_histogram(self, J: float) -> Array:
        """Density of the energy over that of the ground state at J, (bin,)."""
        step = 1 / (self.n_sites * J * self.total)
        return _density(self.events, step, 0.0, self.weights(J))

    def order_histogram(self, J: float) -> Array:
        """Density of the order parameter, (bin,)."""
        q = self.n_experts
        occupied = np.rint((self.order * (q - 1) + 1) * self.n_sites / q)
        step = q / (self.n_sites * (q - 1))
        return _density(occupied, step, -1 / (q - 1), self.weights(J))

    def without(self, replica: int) -> Run:
        """The run without one of its replicas."""
        rest = np.arange(len(self.events)) != replica
        return replace(self, events=self.events[rest], order=self.order[rest])

    def passages(self, low: float, high: float) -> int:
        """How often the energy went all the way from one side to the other."""
        count = 0
        for series in self.energy(self.J):
            side = np.sign((series > high).astype(int) - (series < low))
            count += int((np.diff(side[side != 0]) != 0).sum())
        return count


def _density(number: Array, step: float, first: float, weight: Array) -> Array:
    """Density of first + step * number, each spread over its step: no bin is missed by them."""
    share = np.bincount(number.astype(np.int64).ravel(), weight.ravel())
    ends = first + step * (np.arange(len(share) + 1) - 0.5)
    below = np.concatenate([[0.0], np.cumsum(share)])
    return np.diff(np.interp(BINS, ends, below)) / np.diff(BINS)


def smoothed(density: Array) -> Array:
    """Without the noise of single bins: averaged over about 3 of them."""
    for _ in range(4):
        padded = np.pad(density, 1, mode="edge")
        density = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    return density


def peaks(run: Run, couplings: Iterable[float]) -> dict[str, float]:
    """The two peaks of the energy histogram, at the coupling that makes them equally high.

    Parameters
    ----------
    run : Run
    couplings : iterable of float
        Those to choose from.

    Returns
    -------
    dict
        `barrier`, log of the lower peak over the lowest point between, at the coupling
        `equal_height_at` where it is largest; `disordered` and `ordered`, where the peaks
        are, and their `separation`. With one peak alone the barrier is what the noise
        makes it, mostly zero.

    References
    ----------
    J. Lee and J. M. Kosterlitz, Phys. Rev. Lett. 65, 137 (1990).
    """
    best = {"barrier": -np.inf}
    for J in couplings:
        density = smoothed(run.energy_histogram(J))
        left = np.maximum.accumulate(density)
        right = np.maximum.accumulate(density[::-1])[::-1]
        lower = np.minimum(left, right)
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = np.where(lower > 0, np.log(lower / density), -np.inf)
        # Peaks of equal height, not bumps of a tail; an empty bin says no more than they do.
        depth[~np.isfinite(depth) | (lower < 0.5 * density.max())] = -np.inf
        cut = int(depth.argmax())
        if depth[cut] > best["barrier"]:
            low = _summit(density, int(density[: cut + 1].argmax()))
            high = _summit(density, cut + int(density[cut:].argmax()))
            best = {
                "barrier": float(depth[cut]),
                "equal_height_at": float(J),
                "disordered": low,
                "ordered": high,
                "separation": high - low,
            }
    return best


def _summit(density: Array, top: int) -> float:
    """Where the parabola through the log density around a peak is highest."""
    centre = (BINS[1:] + BINS[:-1]) / 2
    near = np.arange(max(top - 3, 0), min(top + 4, len(density)))
    near = near[density[near] > 0.3 * density[top]]
    if len(near) < 3:
        return float(centre[top])
    a, b, _ = np.polyfit(centre[near] - centre[top], np.log(density[near]), 2)
    shift = -b / (2 * a) if a < 0 else 0.0
    return float(centre[top] + np.clip(shift, -0.02, 0.02))


def jackknife(run: Run, function: Callable[[Run], dict[str, float]]) -> dict[str, float]:
    """Quantities of a run, each with its error, from leaving out one replica at a time."""
    value = function(run)
    n = len(run.events)
    others = [function(run.without(replica)) for replica in range(n)]
    result = dict(value)
    for name in value:
        left = np.array([other[name] for other in others])
        result[f"{name}_error"] = float(np.sqrt((n - 1) * ((left - left.mean()) ** 2).mean()))
    return result
