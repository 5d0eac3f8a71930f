"""Exact solution of a chain by its transfer matrix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe import _provenance
from isingmoe._text import about
from isingmoe._windows import Windows
from isingmoe.chains import AnyChain, Chain, IsingChain
from isingmoe.infinite import (
    Solution,
    StationaryChain,
    Track,
    correlations,
    moments,
    stationary_chain,
    untracked,
)
from isingmoe.markov import MarkovSolution, solve_markov
from isingmoe.rings import solve_ring
from isingmoe.segments import solve_open

__all__ = ["solve"]

Array = NDArray[np.floating]

_DEFAULT_DISTANCE = 128
# Seconds without a progress bar.
_PATIENCE = 2.0


def solve(
    chain: AnyChain, *, max_distance: int | None = None, track: Track | None = None
) -> xr.Dataset:
    """Exact thermodynamics, marginals and correlations of a chain.

    Parameters
    ----------
    chain : IsingChain, PottsChain or KineticChain
        Finite with open or periodic ends, or infinite (`n_sites=None`), of any reach for which
        the states of as many sites as the couplings reach over are at most 4096.
    max_distance : int, optional
        Largest distance of the correlations. By default 128, or less where the chain ends
        before: n_sites - 1 with open ends, n_sites // 2 on a ring.
    track : callable, optional
        Wraps what takes more than two seconds, for a progress bar: called with the steps and
        with what they do.

    Returns
    -------
    Dataset
        `log_z` (finite chains), `free_energy`, `energy` and `entropy` per site,
        `specific_heat`, `magnetization`, `susceptibility`, `marginal` ((site,) state),
        `correlation` (distance), `correlation_length`, `eigenvalue` (mode) and
        `log_eigenvalue`. A Potts chain has `expert` in place of `state`, a
        `susceptibility` for each expert and `expert_correlation` (distance, expert), of
        which `correlation` is the sum; its `magnetization` is (q m - 1)/(q - 1), m the
        largest share that an expert has of the load. Where a site holds several experts,
        `marginal` is the chance that it holds one, and sums to `top_k`. With open ends the
        correlations are averaged over all pairs of sites at a distance.

        The spectrum is that of the infinite chain, over its leading eigenvalue; of more
        than 256 transfer states the leading modes only. A chain with a field for each site
        has none, and no `correlation_length`.

        A kinetic chain has no energy and what follows from it, only `entropy`, `marginal`,
        `magnetization`, `correlation`, `expert_correlation` and the spectrum; the infinite
        one also `entropy_production`, in nats per site: the rate of the Kullback-Leibler
        divergence of the chain from itself read backwards.

    Raises
    ------
    TypeError
        If `chain` is not a chain.
    ValueError
        If `max_distance` does not fit on the chain, or the chain has too many transfer
        states; then it says which sampler to use.

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
    if not isinstance(chain, AnyChain):
        raise TypeError(
            f"chain: expected IsingChain, PottsChain or KineticChain, got {type(chain).__name__}"
        )
    longest = _checked_distance(chain, max_distance)
    windows = Windows.of(chain)
    track = untracked if track is None else _patient(track)
    if not isinstance(chain, Chain):
        found = solve_markov(windows, chain.n_sites, longest, track)
        return _labelled(chain, _of_markov(chain, found), found.infinite, found, longest)
    # A field that differs from site to site leaves no infinite chain to compare with.
    infinite = stationary_chain(windows, track) if len(windows.site) == 1 else None
    if chain.n_sites is None and infinite is not None:
        solution = _without_ends(infinite, longest)
    elif chain.boundary == "periodic" and infinite is not None:
        solution = solve_ring(infinite, int(chain.n_sites or 0), longest, track)
    else:
        solution = solve_open(windows, infinite, int(chain.n_sites or 0), longest, track)
    return _labelled(chain, _thermodynamics(chain, infinite, solution), infinite, solution, longest)


def _patient(track: Track) -> Track:
    """A progress bar that shows itself only where there is still something to do in a while."""
    begin = monotonic()

    def tracked(steps: Iterable[Any], what: str) -> Iterator[Any]:
        rest = list(steps)
        while rest:
            if monotonic() - begin > _PATIENCE:
                yield from track(rest, what)
                return
            yield rest.pop(0)

    return tracked


def _without_ends(infinite: StationaryChain, longest: int) -> Solution:
    windows = infinite.windows
    log_weight, log_variance, mean, variance = moments(infinite)
    marginal = np.bincount(windows.letter(1), infinite.stationary, windows.n_letters)
    covariance = correlations(infinite, longest)
    marginal = (windows.held @ marginal)[None]
    return Solution(None, log_weight, log_variance, mean, variance, marginal, covariance)


def _checked_distance(chain: AnyChain, max_distance: int | None) -> int:
    if chain.n_sites is None:
        longest = None
    elif chain.boundary == "periodic":
        longest = chain.n_sites // 2
    else:
        longest = chain.n_sites - 1
    if max_distance is None:
        return _DEFAULT_DISTANCE if longest is None else min(_DEFAULT_DISTANCE, longest)
    if not isinstance(max_distance, int | np.integer) or isinstance(max_distance, bool):
        raise TypeError(f"max_distance: expected an integer or None, got {max_distance!r}")
    if max_distance < 0 or (longest is not None and max_distance > longest):
        upper = "" if longest is None else f" to {longest}"
        raise ValueError(f"max_distance: expected 0{upper} on this chain, got {max_distance}")
    return int(max_distance)


def _thermodynamics(
    chain: Chain, infinite: StationaryChain | None, solution: Solution
) -> dict[str, Any]:
    """What follows from the energy of an equilibrium chain."""
    temperature = chain.temperature
    is_ising = isinstance(chain, IsingChain)
    if infinite is not None and solution.log_z is None:
        per_site = infinite.log_eigenvalue
    else:
        per_site = (solution.log_z or 0.0) / int(chain.n_sites or 1)
    response = solution.variance / temperature
    variables: dict[str, Any] = {
        "free_energy": ((), -temperature * per_site, "free energy per site", "coupling"),
        "energy": ((), -temperature * solution.log_weight, "energy per site", "coupling"),
        "entropy": ((), per_site - solution.log_weight, "entropy per site", "nat"),
        "specific_heat": ((), solution.log_weight_variance, "specific heat per site", "k_B"),
        "magnetization": ((), _magnetization(chain, solution.mean), "magnetization", "1"),
        "susceptibility": (((), response[0]) if is_ising else (("expert",), response))
        + ("response of the magnetization to its field", "1/coupling"),
    }
    if infinite is not None:
        variables["log_eigenvalue"] = (
            (),
            infinite.log_eigenvalue,
            "logarithm of the leading eigenvalue of the transfer matrix",
            "1",
        )
    if solution.log_z is not None:
        variables["log_z"] = ((), solution.log_z, "logarithm of the partition function", "1")
    return variables


def _of_markov(chain: AnyChain, solution: MarkovSolution) -> dict[str, Any]:
    """What a kinetic chain has in place of an energy."""
    mean = solution.marginal.mean(0)
    variables: dict[str, Any] = {
        "entropy": ((), solution.entropy, "entropy per site", "nat"),
        "magnetization": ((), _magnetization(chain, mean), "magnetization", "1"),
    }
    if solution.entropy_production is not None:
        variables["entropy_production"] = (
            (),
            solution.entropy_production,
            "entropy production per site",
            "nat",
        )
    return variables


def _labelled(
    chain: AnyChain,
    variables: dict[str, Any],
    infinite: StationaryChain | None,
    solution: Solution | MarkovSolution,
    longest: int,
) -> xr.Dataset:
    is_ising = isinstance(chain, IsingChain)
    state = "state" if is_ising else "expert"
    place, marginal = (state,), solution.marginal[0]
    if chain.n_sites is not None and chain.boundary == "open":
        place, marginal = ("site", state), solution.marginal
    covariance = solution.covariance
    variables = {
        **variables,
        "marginal": (place, marginal, "probability of the state", "1"),
        "correlation": (("distance",), covariance.sum(1), "connected correlation", "1"),
    }
    if infinite is not None:
        variables |= _spectrum(infinite)
    if not is_ising:
        variables["expert_correlation"] = (
            ("distance", "expert"),
            covariance,
            "connected correlation of the occupancy of one expert",
            "1",
        )
    distance = np.arange(longest + 1)
    return xr.Dataset(
        {
            name: (dims, values, about(long_name, units))
            for name, (dims, values, long_name, units) in variables.items()
        },
        coords={"distance": ("distance", distance, about("distance", "site"))},
        attrs={
            "chain": repr(chain),
            "provenance": _provenance.record(
                "solve", {"chain": repr(chain), "max_distance": longest}
            ),
        },
    )


def _magnetization(chain: AnyChain, mean: Array) -> float:
    if isinstance(chain, IsingChain):
        return float(mean[0])
    q = chain.n_states
    return float((q * mean.max() / chain.top_k - 1) / (q - 1))


def _spectrum(infinite: StationaryChain) -> dict[str, Any]:
    name = "eigenvalue of the transfer matrix over the leading one"
    return {
        "correlation_length": (
            (),
            infinite.correlation_length,
            "correlation length from the two leading eigenvalues",
            "site",
        ),
        "eigenvalue": (("mode",), infinite.eigenvalue.real, f"{name}, real part", "1"),
        "eigenvalue_imag": (("mode",), infinite.eigenvalue.imag, f"{name}, imaginary part", "1"),
    }
