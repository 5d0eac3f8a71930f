"""Whether single experts follow each other as a Markov chain: the Chapman-Kolmogorov test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from isingmoe import _provenance
from isingmoe._kernels import counting, returning
from isingmoe._schema import alike
from isingmoe._seeds import Seed, seed_sequence
from isingmoe._text import about
from isingmoe.markov_draws import MarkovDraws
from isingmoe.neighbours import ratio
from isingmoe.simulated_tests import checked_simulations, p_values
from isingmoe.traces import Track, each_layer, primary_expert, trace_name

__all__ = ["chapman_kolmogorov"]

Array = NDArray[Any]
States = NDArray[np.int16]

_DISTANCES = (2, 4, 8, 16, 32)


def chapman_kolmogorov(
    traces: xr.Dataset,
    *,
    distances: Iterable[int] | None = None,
    n_simulations: int = 99,
    n_resamples: int = 200,
    seed: Seed = 0,
    track: Track | None = None,
) -> xr.Dataset:
    """Test whether primary experts follow each other as a Markov chain.

    Parameters
    ----------
    traces : Dataset
        With a primary expert: ranked, or with one expert to a token.
    distances : iterable of int, optional
        From 2 on; 2, 4, 8, 16 and 32 by default, as far as the sequences have them.
    n_simulations : int
        At least 2; the least p-value is 1 / (n_simulations + 1).
    n_resamples : int
        Bootstrap resamples of the sequences, at least 2.
    seed : int, SeedSequence or Generator
        Every layer draws from a child of its own, and so does every simulation.
    track : callable, optional
        Wraps the iteration over layers, for a progress bar.

    Returns
    -------
    Dataset
        `persistence` and `persistence_error` (layer, ck_distance, expert), the chance P(d)[a, a]
        that the token d on has the same primary expert, from the pairs at that distance, with
        a bootstrap error over sequences; `persistence_predicted`, the diagonal of P(1)^d;
        `ck_discrepancy` and `ck_p_value` (layer); `ck_p_value_distance` (layer, ck_distance).
        NaN for an expert that begins no pair.

    Raises
    ------
    ValueError
        If the ranks are in no order, no sequence is longer than the shortest distance, or an
        argument is out of range.

    Notes
    -----
    At each distance the squares of P(d)[a, a] - P(1)^d[a, a] are summed over the experts, each
    with the pairs that it begins. Sequences of the same lengths, with the same gaps and first
    tokens are drawn from the chain P(1), and both matrices estimated again from each. The
    discrepancy is the sum over the mean of the simulations, averaged over the distances: about
    1 for a Markov chain. For the p-values, the share of simulations with as large a discrepancy,
    every one is compared with all others, that of the traces among them.

    With fewer pairs of tokens than pairs of states the estimated chain is rougher than the true
    one: of 1000 Markov chains of 64 states, 2048 tokens each, 2.3 % were rejected at 5 %, by
    distance 2 alone 8.5 %.

    One sequence cannot be resampled: the errors are then those of independent pairs.

    References
    ----------
    J.-H. Prinz et al., J. Chem. Phys. 134, 174105 (2011).
    """
    traces = alike(traces)
    _check_ranked(traces)
    lags = _checked_distances(traces, distances)
    n_simulations = checked_simulations(n_simulations)
    if not isinstance(n_resamples, int | np.integer) or n_resamples < 2:
        raise ValueError(f"n_resamples: expected an integer of at least 2, got {n_resamples!r}")
    q = int(traces.attrs["num_experts"])
    states = primary_expert(traces).values
    rows = []
    seeds = seed_sequence(seed).spawn(traces.sizes["layer"])
    with threadpool_limits(1, user_api="blas"):
        for place in each_layer(traces, track):
            layer = np.ascontiguousarray(states[place])
            if layer.max() >= q or layer.min() < -1:
                raise ValueError(
                    f"{trace_name(traces)}: expert_index: expected ids of -1 to {q - 1}, got "
                    f"others in layer {int(traces['layer'].values[place])}; isingmoe.validate "
                    "names the first"
                )
            rows.append(_tested(layer, lags, q, n_simulations, int(n_resamples), seeds[place]))
    return _labelled(rows, traces, lags, n_simulations, int(n_resamples), seed)


@dataclass(frozen=True)
class _Persistence:
    """Whether single states stay, at some distances.

    Attributes
    ----------
    counts : ndarray (q, q)
        Neighbours.
    begun, stayed : int64 ndarray (sequence, distance, state)
        Pairs at a distance by their first state, and those of equal states.
    predicted : ndarray (distance, state)
        Of the powers of the matrix of neighbours; NaN of a state that begins no neighbours.
    """

    counts: Array
    begun: Array
    stayed: Array
    predicted: Array

    @classmethod
    def of(cls, states: States, lags: NDArray[np.int64], q: int) -> _Persistence:
        counts = counting.pair_histogram(states, q, 1)[1:-1, 1:-1]
        begun, stayed = returning.stays(states, lags, q)
        return cls(counts, begun, stayed, _powers(counts, lags))

    def measured(self) -> Array:
        """Chance to stay at each distance, (distance, state)."""
        return ratio(self.stayed.sum(0), self.begun.sum(0))

    def discrepancy(self) -> Array:
        """Squared differences, each with the pairs it is of, (distance,)."""
        difference = np.nan_to_num(self.measured() - self.predicted)
        return (self.begun.sum(0) * difference**2).sum(1)

    def errors(self, n_resamples: int, rng: np.random.Generator) -> Array:
        """Spread of the measured chance over resamples of the sequences."""
        used = self.begun.any((1, 2))
        begun, stayed = self.begun[used], self.stayed[used]
        n = len(begun)
        if n < 2:
            share = self.measured()
            return np.sqrt(share * (1 - share) / np.maximum(self.begun.sum(0), 1))
        weight = rng.multinomial(n, np.full(n, 1 / n), size=n_resamples).astype(float)
        shape = (n_resamples, *begun.shape[1:])
        shares = ratio(
            (weight @ stayed.reshape(n, -1)).reshape(shape),
            (weight @ begun.reshape(n, -1)).reshape(shape),
        )
        known = np.isfinite(shares)
        size = known.sum(0)
        about_mean = np.where(known, shares - np.nansum(shares, 0) / np.maximum(size, 1), 0)
        spread = np.sqrt((about_mean**2).sum(0) / np.maximum(size - 1, 1))
        return np.where(size > 1, spread, np.nan)


def _transition(counts: Array) -> Array:
    """Chances of the next state, from counts of neighbours."""
    leaving, entering = counts.sum(1, keepdims=True), counts.sum(0)
    load = (entering + 1) / (entering + 1).sum()
    # What follows a state that begins no neighbours is not known: it may be any.
    return np.where(leaving > 0, counts / np.maximum(leaving, 1), load)


def _powers(counts: Array, lags: NDArray[np.int64]) -> Array:
    """Diagonals of the powers of a matrix of chances, (distance, state)."""
    transition = _transition(counts)
    result = np.empty((len(lags), len(counts)))
    power, reached = np.eye(len(counts)), 0
    for j, lag in enumerate(lags.tolist()):
        power = power @ np.linalg.matrix_power(transition, lag - reached)
        reached = lag
        result[j] = np.diagonal(power)
    result[:, counts.sum(1) == 0] = np.nan
    return result


def _tested(
    states: States,
    lags: NDArray[np.int64],
    q: int,
    n_simulations: int,
    n_resamples: int,
    seed: np.random.SeedSequence,
) -> dict[str, Array]:
    """Everything that is reported of a layer."""
    resampling, *children = seed.spawn(1 + n_simulations)
    known = _Persistence.of(states, lags, q)
    draws = MarkovDraws(_transition(known.counts))
    drawn = [
        _Persistence.of(draws.like(states, child, keep_first=True), lags, q).discrepancy()
        for child in children
    ]
    squares = np.array([known.discrepancy(), *drawn])
    others = (squares.sum(0) - squares) / n_simulations
    relative = np.divide(squares, others, out=np.zeros_like(squares), where=others > 0)
    total = relative.mean(1)
    return {
        "persistence": known.measured(),
        "persistence_error": known.errors(n_resamples, np.random.default_rng(resampling)),
        "persistence_predicted": known.predicted,
        "ck_discrepancy": total[0],
        "ck_p_value": p_values(total),
        "ck_p_value_distance": p_values(squares),
    }


def _labelled(
    rows: list[dict[str, Array]],
    traces: xr.Dataset,
    lags: NDArray[np.int64],
    n_simulations: int,
    n_resamples: int,
    seed: Seed,
) -> xr.Dataset:
    every, by_distance = ("layer", "ck_distance", "expert"), ("layer", "ck_distance")
    declared = {
        "persistence": (every, "chance that the token at a distance has the same primary expert"),
        "persistence_error": (every, "standard error of that chance"),
        "persistence_predicted": (every, "the same by powers of the matrix of neighbours"),
        "ck_discrepancy": (("layer",), "squared differences over those of a Markov chain"),
        "ck_p_value": (("layer",), "chance of as large a discrepancy of a Markov chain"),
        "ck_p_value_distance": (by_distance, "the same for a distance by itself"),
    }
    arguments = {
        "distances": lags.tolist(),
        "n_simulations": n_simulations,
        "n_resamples": n_resamples,
    }
    provenance = _provenance.record(
        "chapman_kolmogorov",
        arguments,
        inputs=_provenance.describe(traces),
        seed=seed,
    )
    return xr.Dataset(
        {
            name: (dims, np.array([row[name] for row in rows]), about(text))
            for name, (dims, text) in declared.items()
        },
        coords={
            "layer": traces["layer"],
            "ck_distance": ("ck_distance", lags, about("distance", "token")),
            "expert": np.arange(int(traces.attrs["num_experts"])),
        },
        attrs={
            "n_simulations": n_simulations,
            "n_resamples": n_resamples,
            "provenance": provenance,
        },
    )


def _check_ranked(traces: xr.Dataset) -> None:
    if not traces.attrs["ranked"] and traces.attrs["top_k"] > 1:
        raise ValueError(
            f"{trace_name(traces)}: ranked: expected 1 for a primary expert, got 0 (the order of "
            "the ranks means nothing); use goodness_of_fit of a kinetic or an ising fit"
        )


def _checked_distances(traces: xr.Dataset, distances: Iterable[int] | None) -> NDArray[np.int64]:
    """Distances in rising order, each once."""
    longest = int(traces["length"].max())
    if longest < 3:
        raise ValueError(
            f"{trace_name(traces)}: length: expected a sequence of at least three tokens, got "
            f"{longest}; pairs at distance 2 are what is tested"
        )
    if distances is None:
        return np.array([d for d in _DISTANCES if d < longest], np.int64)
    given = np.unique(np.array(list(distances)))
    if not given.size or given.dtype.kind not in "iu" or given[0] < 2 or given[-1] >= longest:
        raise ValueError(
            f"{trace_name(traces)}: distances: expected integers of 2 to {longest - 1} in "
            f"sequences of at most {longest} tokens, got {given.tolist()}"
        )
    return given.astype(np.int64)
