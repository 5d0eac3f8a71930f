"""Exact solution of a chain by its transfer matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe import _provenance
from isingmoe._kernels.messages import forward_messages
from isingmoe._text import about
from isingmoe.chains import Chain, IsingChain
from isingmoe.stationary import StationaryChain, poisson_solution, stationary_chain

__all__ = ["solve"]

Array = NDArray[np.floating]

_DEFAULT_DISTANCE = 128


def solve(chain: Chain, *, max_distance: int | None = None) -> xr.Dataset:
    """Exact thermodynamics, marginals and correlations of a chain.

    Parameters
    ----------
    chain : IsingChain or PottsChain
        Finite with open or periodic ends, or infinite (`n_sites=None`).
    max_distance : int, optional
        Largest distance of the correlations. By default 128, or less where the chain ends
        before: n_sites - 1 with open ends, n_sites // 2 on a ring.

    Returns
    -------
    Dataset
        `log_z` (finite chains), `free_energy`, `energy` and `entropy` per site,
        `specific_heat`, `magnetization`, `susceptibility`, `marginal` ((site,) state),
        `correlation` (distance), `correlation_length`, `eigenvalue` (mode) and
        `log_eigenvalue`. A Potts chain has `expert` in place of `state`, a
        `susceptibility` for each expert and `expert_correlation` (distance, expert), of
        which `correlation` is the sum. With open ends the correlations are averaged over
        all pairs of sites at a distance.

    Raises
    ------
    TypeError
        If `chain` is not a chain.
    ValueError
        If `max_distance` does not fit on the chain.

    References
    ----------
    R. J. Baxter, Exactly Solved Models in Statistical Mechanics (1982), chapter 2;
    docs/theory.md derives each quantity.

    Examples
    --------
    >>> import isingmoe as im
    >>> exact = im.solve(im.IsingChain(J=1.0, n_sites=None))
    >>> round(float(exact.correlation_length), 3)
    3.672
    """
    if not isinstance(chain, Chain):
        raise TypeError(f"chain: expected IsingChain or PottsChain, got {type(chain).__name__}")
    distance = np.arange(_checked_distance(chain, max_distance) + 1)
    infinite = stationary_chain(chain.bond[0], chain.site[0])
    if chain.n_sites is None:
        moments = _infinite_moments(chain, infinite)
        marginal = infinite.stationary
        covariance = _infinite_covariance(chain, infinite, distance)
    else:
        moments = _finite_moments(chain, infinite)
        if chain.boundary == "periodic":
            marginal, covariance = _periodic_correlations(chain, infinite, distance)
        else:
            marginal, covariance = _open_correlations(chain, infinite, distance)
    return _label(chain, infinite, moments, marginal, covariance, distance)


def _checked_distance(chain: Chain, max_distance: int | None) -> int:
    if chain.n_sites is None:
        longest = None
    elif chain.boundary == "periodic":
        longest = chain.n_sites // 2
    else:
        longest = chain.n_sites - 1
    if max_distance is None:
        return _DEFAULT_DISTANCE if longest is None else min(_DEFAULT_DISTANCE, longest)
    if max_distance < 0 or (longest is not None and max_distance > longest):
        upper = "" if longest is None else f" to {longest}"
        raise ValueError(f"max_distance: expected 0{upper} on this chain, got {max_distance}")
    return int(max_distance)


@dataclass(frozen=True)
class _Moments:
    """First two cumulants per site of the log-weight and of the observables."""

    log_z: float | None
    log_weight: float
    log_weight_variance: float
    mean: Array
    variance: Array


def _site_functions(chain: Chain) -> tuple[Array, Array]:
    """What each bond (with its right site) and each first site adds to every sum.

    The sums are the log-weight and the observables: (1 + k, q, q) and (1 + k, q).
    """
    bond, site, observable = chain.bond[0], chain.site[0], chain.observable
    q = chain.n_states
    first = np.vstack([site, observable])
    step = np.empty((first.shape[0], q, q))
    step[0] = bond + site
    step[1:] = observable[:, None, :]
    return step, first


def _stationary_mean(chain: Chain, infinite: StationaryChain) -> Array:
    """Mean of every sum per site in the infinite chain."""
    step, _ = _site_functions(chain)
    return (step * infinite.stationary[:, None] * infinite.transition).sum((1, 2))


def _infinite_moments(chain: Chain, infinite: StationaryChain) -> _Moments:
    step, _ = _site_functions(chain)
    mean = _stationary_mean(chain, infinite)
    pair = infinite.stationary[:, None] * infinite.transition
    residual = step - mean[:, None, None]
    ahead = (infinite.transition * residual).sum(2)
    response = poisson_solution(infinite, ahead.T).T
    variance = ((residual**2 + 2 * residual * response[:, None, :]) * pair).sum((1, 2))
    # Rounding can take a variance that is zero below it.
    variance = np.maximum(variance, 0)
    return _Moments(None, mean[0], variance[0], mean[1:], variance[1:])


@dataclass(frozen=True)
class _Jet:
    """A matrix over a common scale with its first and second derivatives, (k, q, q)."""

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
        result, square = None, self
        while exponent:
            if exponent & 1:
                result = square if result is None else result @ square
            exponent >>= 1
            if exponent:
                square = square @ square
        if result is None:
            identity = np.eye(self.value.shape[0])
            nothing = np.zeros_like(self.first)
            return _Jet(identity, nothing, nothing, 0.0)
        return result


def _finite_moments(chain: Chain, infinite: StationaryChain) -> _Moments:
    """Derivatives of log Z by differentiating the power of the transfer matrix itself.

    Every sum is taken about its mean in the infinite chain, so that the second cumulant is
    not the small difference of two numbers of order n^2.
    """
    n = int(chain.n_sites)  # type: ignore[arg-type]
    step, first = _site_functions(chain)
    mean = _stationary_mean(chain, infinite)
    residual = step - mean[:, None, None]
    value = np.exp(step[0] - infinite.log_eigenvalue)
    jet = _Jet(value, residual * value, residual**2 * value, 0.0)
    if chain.boundary == "periodic":
        total = jet.power(n)
        z, dz, ddz = (
            np.trace(m, axis1=-2, axis2=-1) for m in (total.value, total.first, total.second)
        )
        log_first = 0.0
    else:
        total = jet.power(n - 1)
        log_first = float(first[0].max())
        start = np.exp(first[0] - log_first)
        about = first - mean[:, None]
        z = start @ total.value.sum(1)
        dz = (about * start) @ total.value.sum(1) + total.first.sum(2) @ start
        ddz = (
            (about**2 * start) @ total.value.sum(1)
            + 2 * ((about * start) * total.first.sum(2)).sum(1)
            + total.second.sum(2) @ start
        )
    n_steps = n if chain.boundary == "periodic" else n - 1
    log_z = float(np.log(z)) + total.log_scale + log_first + n_steps * infinite.log_eigenvalue
    cumulant = mean + dz / z / n
    variance = np.maximum((ddz / z - (dz / z) ** 2) / n, 0)
    return _Moments(log_z, cumulant[0], variance[0], cumulant[1:], variance[1:])


def _infinite_covariance(
    chain: Chain, infinite: StationaryChain, distance: NDArray[np.int64]
) -> Array:
    stationary = infinite.stationary
    # Powers of P - 1 pi, not of P less a constant: the tail keeps its relative precision.
    connected = np.eye(len(stationary)) - stationary
    decaying = infinite.transition - stationary
    result = np.empty((len(distance), len(chain.observable)))
    for d in distance:
        result[d] = _observed(chain, stationary[:, None] * connected)
        connected = connected @ decaying
    return result


def _observed(chain: Chain, covariance: Array) -> Array:
    """Covariance of each observable with itself, from that of the states."""
    return ((chain.observable @ covariance) * chain.observable).sum(1)


def _periodic_correlations(
    chain: Chain, infinite: StationaryChain, distance: NDArray[np.int64]
) -> tuple[Array, Array]:
    n = int(chain.n_sites)  # type: ignore[arg-type]
    # Over its leading eigenvalue: no power of it overflows.
    scaled = np.exp(chain.bond[0] + chain.site[0] - infinite.log_eigenvalue)
    backward = [np.linalg.matrix_power(scaled, n - int(distance[-1]))]
    for _ in distance[1:]:
        backward.append(backward[-1] @ scaled)
    backward.reverse()
    trace = np.trace(backward[0])
    marginal = np.diag(backward[0]) / trace
    forward = np.eye(chain.n_states)
    result = np.empty((len(distance), len(chain.observable)))
    for d in distance:
        joint = forward * backward[d].T / trace
        result[d] = _observed(chain, joint - np.outer(marginal, marginal))
        forward = forward @ scaled
    return marginal, result


def _open_correlations(
    chain: Chain, infinite: StationaryChain, distance: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Marginal of every site, and covariances averaged over all pairs at a distance.

    Away from the ends the messages no longer change. The pairs there are all alike, and
    one of them stands for `repeats` others.
    """
    n = int(chain.n_sites)  # type: ignore[arg-type]
    bond, site = chain.bond[0], chain.site[0]
    scaled = np.exp(bond + site - infinite.log_eigenvalue)
    start = np.exp(site - site.max())
    mirrored = np.exp(bond.T - infinite.log_eigenvalue) * np.exp(site)
    left, log_scale = forward_messages(scaled, start, n)
    right, _ = forward_messages(mirrored, start, n)
    # The backward message carries no weight of its own site.
    right = right / start
    bulk = len(left) - 1
    short = min(n, len(left) + len(right) + int(distance[-1]))
    repeats = n - short
    left, log_scale = (_extended(array, short) for array in (left, log_scale))
    right = _extended(right, short)[::-1]
    right = right / (left * right).sum(1, keepdims=True)
    marginal = left * right
    log_weight = np.cumsum(log_scale)
    power = np.eye(chain.n_states)
    result = np.empty((len(distance), len(chain.observable)))
    for d in distance:
        i = np.arange(short - d)
        if repeats:
            i = np.append(i, bulk)
        copies = np.ones(len(i))
        copies[short - d :] = repeats
        weight = copies * np.exp(log_weight[i] - log_weight[i + d])
        joint = power * ((left[i] * weight[:, None]).T @ right[i + d])
        product = (marginal[i] * copies[:, None]).T @ marginal[i + d]
        result[d] = _observed(chain, joint - product) / (n - d)
        power = power @ scaled
    full = np.concatenate(
        [marginal[:bulk], np.repeat(marginal[bulk : bulk + 1], repeats, 0), marginal[bulk:]]
    )
    return full, result


def _extended(array: Array, length: int) -> Array:
    """The array, its last entry repeated up to a length."""
    if len(array) >= length:
        return array[:length]
    tail = np.repeat(array[-1:], length - len(array), 0)
    return np.concatenate([array, tail])


def _label(
    chain: Chain,
    infinite: StationaryChain,
    moments: _Moments,
    marginal: Array,
    covariance: Array,
    distance: NDArray[np.int64],
) -> xr.Dataset:
    temperature = chain.temperature
    is_ising = isinstance(chain, IsingChain)
    energy = -temperature * moments.log_weight
    per_site = infinite.log_eigenvalue
    if moments.log_z is not None and chain.n_sites is not None:
        per_site = moments.log_z / chain.n_sites
    q = chain.n_states
    if is_ising:
        state, magnetization = "state", moments.mean[0]
    else:
        state, magnetization = "expert", (q * moments.mean.max() - 1) / (q - 1)
    response = moments.variance / temperature
    variables: dict[str, Any] = {
        "free_energy": ((), -temperature * per_site, "free energy per site", "coupling"),
        "energy": ((), energy, "energy per site", "coupling"),
        "entropy": ((), per_site - moments.log_weight, "entropy per site", "nat"),
        "specific_heat": ((), moments.log_weight_variance, "specific heat per site", "k_B"),
        "magnetization": ((), magnetization, "magnetization", "1"),
        "susceptibility": (((), response[0]) if is_ising else (("expert",), response))
        + ("response of the magnetization to its field", "1/coupling"),
        "marginal": (
            ("site", state) if marginal.ndim == 2 else (state,),
            marginal,
            "probability of the state",
            "1",
        ),
        "correlation": (("distance",), covariance.sum(1), "connected correlation", "1"),
        "correlation_length": (
            (),
            infinite.correlation_length,
            "correlation length from the two leading eigenvalues",
            "site",
        ),
        "eigenvalue": (
            ("mode",),
            infinite.eigenvalue.real,
            "eigenvalue of the transfer matrix over the leading one, real part",
            "1",
        ),
        "eigenvalue_imag": (
            ("mode",),
            infinite.eigenvalue.imag,
            "eigenvalue of the transfer matrix over the leading one, imaginary part",
            "1",
        ),
        "log_eigenvalue": (
            (),
            infinite.log_eigenvalue,
            "logarithm of the leading eigenvalue of the transfer matrix",
            "1",
        ),
    }
    if moments.log_z is not None:
        variables["log_z"] = ((), moments.log_z, "logarithm of the partition function", "1")
    if not is_ising:
        variables["expert_correlation"] = (
            ("distance", "expert"),
            covariance,
            "connected correlation of the occupancy of one expert",
            "1",
        )
    return xr.Dataset(
        {
            name: (dims, values, about(long_name, units))
            for name, (dims, values, long_name, units) in variables.items()
        },
        coords={"distance": ("distance", distance, about("distance", "site"))},
        attrs={
            "chain": repr(chain),
            "provenance": _provenance.record(
                "solve", {"chain": repr(chain), "max_distance": int(distance[-1])}
            ),
        },
    )
