"""Monte Carlo: samples of a chain, and what is measured on them while they are drawn."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import xarray as xr

from isingmoe import _provenance
from isingmoe._kernels.multispin import unpacked
from isingmoe._numbers import check_integer
from isingmoe._seeds import Seed, generators
from isingmoe._text import about
from isingmoe.algorithms._sampler import Algorithm, Sampler
from isingmoe.algorithms.exact import Exact
from isingmoe.chains import AnyChain, Chain
from isingmoe.errors import ShortRunWarning
from isingmoe.measurement import Measurement, Record, bin_edges
from isingmoe.quantities import analyse

__all__ = ["simulate"]

Track = Callable[[Iterable[Any]], Iterable[Any]]

_DEFAULT_DISTANCE = 64
_LANES = 64

# A run has to be so many autocorrelation times long for its errors to be trusted.
_ENOUGH = 50

# Discarded at least, and the drift of the energy, in errors, that is hardly ever chance.
_LEAST_DISCARDED = 10
_DRIFT = 4.5

# Places of sites are halves of words.
_LONGEST = 1 << 31

# States held between the sampler and the measurement, to stay in the cache.
_BUFFER_BYTES = 1 << 20


def simulate(
    chain: AnyChain,
    algorithm: Algorithm,
    *,
    n_samples: int = 1000,
    n_replicas: int = 8,
    n_sweeps: int = 1,
    n_equilibration: int | None = None,
    max_distance: int | None = None,
    keep_states: bool = False,
    seed: Seed = 0,
    n_threads: int | None = None,
    track: Track | None = None,
) -> xr.Dataset:
    """Sample a chain and measure it.

    Parameters
    ----------
    chain : IsingChain, PottsChain or KineticChain
        Finite.
    algorithm : Exact, HeatBath, Metropolis, Wolff or SwendsenWang
        How it is sampled; a kinetic chain by Exact, each sample a sequence that starts with
        nothing before it.
    n_samples : int
        Samples that are measured, of each replica.
    n_replicas : int
        Independent Markov chains, each from a random start of its own.
    n_sweeps : int
        Sweeps from one sample to the next.
    n_equilibration : int, optional
        Samples discarded before: by default a fifth of `n_samples`, which is ten
        autocorrelation times of a run that is long enough, and at least ten; none of an
        algorithm whose samples are independent.
    max_distance : int, optional
        Largest distance of the correlations; by default 64, or less where the chain ends
        before. -1 measures none.
    keep_states : bool
        Whether to return the states themselves.
    seed : int, SeedSequence or Generator
        Each replica draws from a child of its own, and so do each 64 that share the bits of
        a word: the result depends neither on the number of threads nor on what else is
        drawn.
    n_threads : int, optional
        Replicas sampled at once; by default as many as numba has threads, one for a core.
    track : callable, optional
        Wraps the iteration over the run, for a progress bar.

    Returns
    -------
    Dataset
        `energy`, `specific_heat`, `magnetization`, `order_parameter`, `susceptibility`,
        `binder_cumulant`, `correlation_length` (second moment), `correlation` (distance)
        and `marginal`, each with `_error` and all but the last with
        `_autocorrelation_time`, in sweeps. `energy_series`, `order_parameter_series` and
        `label_share_series` (replica, sample), the energy of a cluster algorithm counted
        from the bonds it places, right on average; `energy_discarded` (replica,
        discarded_sample), to see what equilibration was like; `energy_drift`, the
        difference between the second and the first half of the run over its error.
        `state` (replica, sample, site[, rank]) if asked for. A kinetic chain has nothing of
        this that has to do with an energy, and no `susceptibility`.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range, or the algorithm cannot sample this chain.

    Warns
    -----
    ShortRunWarning
        If the run is shorter than 50 autocorrelation times, or its energy still changes.

    Notes
    -----
    Errors are those of a jackknife over bins of at least 10 autocorrelation times, or of
    a sixteenth of all samples where that is less. On a ring the second-moment correlation
    length is sqrt(S(0)/S(2 pi/n) - 1)/(2 sin(pi/n)) with the connected structure factor
    S; the same is done with open ends. Its error comes from that of its square, and stays
    finite where noise hides the length. The Binder cumulant of an order parameter with
    c = q - 1 components is 1 - c <m^4>/((c + 2) <m^2>^2): zero without order, 2/(c + 2)
    with it.

    References
    ----------
    M. E. J. Newman and G. T. Barkema, Monte Carlo Methods in Statistical Physics (1999).

    Examples
    --------
    >>> import isingmoe as im
    >>> chain = im.IsingChain(J=0.5, n_sites=64, boundary="periodic")
    >>> samples = im.simulate(chain, im.HeatBath(), n_samples=2000, seed=1)
    >>> bool(abs(samples.energy - im.solve(chain).energy) < 4 * samples.energy_error)
    True
    """
    if not isinstance(chain, AnyChain):
        raise TypeError(
            f"chain: expected IsingChain, PottsChain or KineticChain, got {type(chain).__name__}"
        )
    if not isinstance(algorithm, Algorithm) or isinstance(algorithm, type):
        raise TypeError(f"algorithm: expected one such as HeatBath(), got {algorithm!r:.80}")
    if not isinstance(chain, Chain) and not isinstance(algorithm, Exact):
        raise ValueError(f"algorithm: expected Exact() for a kinetic chain, got {algorithm!r}")
    if chain.n_sites is None:
        raise ValueError("n_sites: expected a finite chain to sample, got None; give n_sites")
    if chain.n_sites >= _LONGEST:
        raise ValueError(
            f"n_sites: expected below 2^31 to sample, got {chain.n_sites}; use a shorter chain"
        )
    for name, value, least in (
        ("n_samples", n_samples, 1),
        ("n_replicas", n_replicas, 1),
        ("n_sweeps", n_sweeps, 1),
        ("n_equilibration", 0 if n_equilibration is None else n_equilibration, 0),
        ("n_threads", 1 if n_threads is None else n_threads, 1),
        ("max_distance", -1 if max_distance is None else max_distance, -1),
    ):
        check_integer(name, value, least)
    measurement = Measurement(chain, _n_distances(chain, max_distance))
    many = getattr(algorithm, "prepare_many", algorithm.prepare)
    sampler = many(chain) if n_replicas >= _LANES else algorithm.prepare(chain)
    discarded = (
        max(n_samples // 5, _LEAST_DISCARDED) if n_equilibration is None else int(n_equilibration)
    )
    if sampler.is_independent and n_equilibration is None:
        discarded = 0
    run = _Run(sampler, measurement, n_samples, n_replicas, n_sweeps, discarded, keep_states, seed)
    run.go(n_threads or numba.get_num_threads(), track)
    result, longest = analyse(
        measurement, run.records, np.diff(run.edges), n_sweeps, sampler.is_independent
    )
    if n_samples < _ENOUGH * longest and not sampler.is_independent:
        warnings.warn(
            f"a run of {n_samples} samples is {n_samples / longest:.0f} autocorrelation times "
            f"long, and errors can be trusted from {_ENOUGH}; give n_samples of at least "
            f"{int(np.ceil(_ENOUGH * longest))}, or more n_sweeps",
            ShortRunWarning,
            stacklevel=2,
        )
    labelled = _labelled(result, run, chain, algorithm, seed)
    drift = 0.0 if sampler.is_independent else float(labelled["energy_drift"])
    if abs(drift) > _DRIFT:
        warnings.warn(
            f"the energy of the second half of the run differs from the first by {drift:.1f} "
            f"errors: it started too early; give n_equilibration above {discarded}",
            ShortRunWarning,
            stacklevel=2,
        )
    return labelled


def _n_distances(chain: AnyChain, max_distance: int | None) -> int:
    n = int(chain.n_sites)  # type: ignore[arg-type]
    longest = n // 2 if chain.boundary == "periodic" else n - 1
    if max_distance is None:
        return min(_DEFAULT_DISTANCE, longest) + 1
    if not -1 <= max_distance <= longest:
        raise ValueError(
            f"max_distance: expected 0 to {longest} on this chain, or -1 for none, "
            f"got {max_distance}"
        )
    return int(max_distance) + 1


class _Run:
    """The replicas, advanced bin by bin, so that a run can be watched and interrupted."""

    def __init__(
        self,
        sampler: Sampler,
        measurement: Measurement,
        n_samples: int,
        n_replicas: int,
        n_sweeps: int,
        n_discarded: int,
        keep_states: bool,
        seed: Seed,
    ) -> None:
        chain = measurement.chain
        self.sampler, self.measurement, self.n_sweeps = sampler, measurement, n_sweeps
        self.edges = bin_edges(
            n_samples, measurement.n_sites, chain.n_states, n_replicas, measurement.is_local
        )
        n_bins = len(self.edges) - 1
        self.records = [Record(measurement, n_samples, n_bins) for _ in range(n_replicas)]
        self.discarded = [Record(measurement, n_discarded, 1) for _ in range(n_replicas)]
        self.n_discarded = n_discarded
        self.words = generators(seed, -(-n_replicas // sampler.lanes))
        self.states = [sampler.start(words) for words in self.words]
        shape = self.states[0].shape
        self.kept = None
        if keep_states:
            dtype = np.uint8 if sampler.lanes > 1 else self.states[0].dtype
            self.kept = np.empty((n_replicas, n_samples, *shape), dtype)
        size = self.states[0].nbytes + 8 * chain.n_states
        self.piece = max(_BUFFER_BYTES // size, 1)

    def go(self, n_threads: int, track: Track | None) -> None:
        """Sample and measure everything."""
        steps = [(-1, 0, self.n_discarded)] if self.n_discarded else []
        steps += [(b, self.edges[b], self.edges[b + 1]) for b in range(len(self.edges) - 1)]
        units = range(len(self.states))
        n_threads = min(n_threads, len(units))
        if n_threads == 1:
            for step in steps if track is None else track(steps):
                self._compare_from(step[0])
                for unit in units:
                    self._advance(unit, *step)
            return
        with ThreadPoolExecutor(n_threads) as pool:
            for step in steps if track is None else track(steps):
                self._compare_from(step[0])
                # A list, so that what a thread raises is raised here.
                list(pool.map(lambda unit, step=step: self._advance(unit, *step), units))

    def _compare_from(self, place: int) -> None:
        """Before the first bin: the first state there is, for all replicas to be compared with."""
        if place == 0:
            state = self.states[0]
            first = unpacked(state[None])[0, 0] if self.sampler.lanes > 1 else state.copy()
            for record in self.records:
                record.reference = first

    def _advance(self, unit: int, place: int, start: int, stop: int) -> None:
        """Take one unit, a replica or the lanes of a word, through one bin."""
        sampler, state = self.sampler, self.states[unit]
        records = self.records if place >= 0 else self.discarded
        first = unit * sampler.lanes
        mine = range(first, min(first + sampler.lanes, len(records)))
        out = np.empty((min(self.piece, stop - start), *state.shape), state.dtype)
        for at in range(start, stop, len(out)):
            rows = out[: stop - at]
            bonds = sampler.advance(state, self.words[unit], rows, self.n_sweeps)
            lanes = unpacked(rows) if sampler.lanes > 1 else rows[None]
            for lane, replica in enumerate(mine):
                records[replica].add(lanes[lane], bonds, sampler.offset, at, max(place, 0))
                if self.kept is not None and place >= 0:
                    self.kept[replica, at : at + len(rows)] = lanes[lane]


def _labelled(
    result: xr.Dataset, run: _Run, chain: AnyChain, algorithm: Algorithm, seed: Any
) -> xr.Dataset:
    if run.measurement.has_energy:
        energy = np.stack([record.series[0] for record in run.discarded])
        energy = energy * -chain.temperature / run.measurement.n_sites
        result["energy_discarded"] = (
            ("replica", "discarded_sample"),
            energy,
            about("energy per site of each sample before equilibrium", "coupling"),
        )
        result["energy_drift"] = (
            (),
            _drift(result),
            about("change of the energy from the first to the second half over its error", "1"),
        )
    if run.kept is not None:
        dims = ("replica", "sample", "site", "rank")[: run.kept.ndim]
        result["state"] = (dims, run.kept, about("state of each site", "1"))
    n_replicas, n_samples = result["order_parameter_series"].shape
    arguments = {
        "chain": repr(chain),
        "algorithm": repr(algorithm),
        "n_samples": n_samples,
        "n_replicas": n_replicas,
        "n_sweeps": run.n_sweeps,
        "n_equilibration": run.n_discarded,
        "max_distance": run.measurement.n_distances - 1,
    }
    result.attrs = {
        "chain": repr(chain),
        "algorithm": repr(algorithm),
        "provenance": _provenance.record("simulate", arguments, seed=seed),
    }
    return result


def _drift(result: xr.Dataset) -> float:
    """Second half of the run less the first, in errors: within a few if in equilibrium."""
    series = result["energy_series"].values
    half = series.shape[1] // 2
    # Each half has twice the variance of the whole.
    error = 2 * float(result["energy_error"])
    if not half or not error > 0:
        return float("nan")
    return float(series[:, -half:].mean() - series[:, :half].mean()) / error
