"""Fits of chains whose pair counts are all that their likelihood needs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import xlogy

from isingmoe._text import about
from isingmoe.chain_lengths import CURVES, MAX_DISTANCE, curve_distance
from isingmoe.estimation import Estimate
from isingmoe.likelihood import (
    Counts,
    Family,
    check_counts,
    layer_number,
    log_likelihood,
    pair_counts,
    token_pairs,
)
from isingmoe.stationary import length_of_gap, markov_chain, markov_correlation, second_modulus
from isingmoe.traces import trace_name

__all__ = ["Counted"]

Array = NDArray[np.floating]

# Each is left out once: S. R. Lipsitz, K. B. G. Dear and L. Zhao, Biometrics 50, 842 (1994).
_MOST_GROUPS = 100
_HALF = 0.5


@dataclass(frozen=True)
class Counted:
    """A kind of chain, fitted to the pair counts of a layer.

    Attributes
    ----------
    family : Family
    uncertainty : str
        One of `uncertainty.UNCERTAINTIES`.
    n_resamples, seed : int
        Of the fits to other counts that give errors.
    """

    family: Family
    uncertainty: str
    n_resamples: int
    seed: int

    @property
    def n_parameters(self) -> int:
        """Free parameters of a layer."""
        return self.family.n_parameters

    def arguments(self) -> dict[str, Any]:
        """What it was asked for, as attributes of a file hold it."""
        estimator = self.family.estimator
        padding = estimator.pseudocount
        return {
            "chain": self.family.chain,
            "coupling": self.family.coupling,
            "field": self.family.field,
            "pseudocount": "default" if padding is None else float(padding),
            "max_iterations": estimator.max_iterations,
            "uncertainty": self.uncertainty,
        }

    def idle(self, traces: xr.Dataset) -> list[tuple[str, str]]:
        """Nothing is said of idle experts: pseudocounts keep them finite."""
        return []

    @property
    def n_fitted_apart(self) -> int:
        """Chains of a layer that are each fitted to all pairs."""
        return self.family.n_experts if self.family.chain == "ising" else 1

    def coordinates(self, traces: xr.Dataset) -> dict[str, Any]:
        """Coordinates of the dims that only fits have."""
        return {"correlation_distance": curve_distance()}

    def declared(self) -> dict[str, tuple[tuple[str, ...], dict[str, str]]]:
        """Dims, long name and units of every variable."""
        return _results_of(self.family.chain)

    def layer(self, traces: xr.Dataset, place: int) -> tuple[dict[str, Any], bytes]:
        """Everything that is reported of a layer by its place, and its pair counts."""
        counts = pair_counts(traces, place, self.family.chain)
        check_counts(traces, place, counts, self.family.chain)
        added = self.family.pseudocounts(counts)
        known = self.family.estimate(counts, added)
        again = []
        for other in self._others(traces, place, counts, known.transition):
            # A pair that only a few sequences have stays possible without them.
            is_gone = (other + added <= 0) & (counts + added > 0)
            again.append(self.family.estimate(other, np.where(is_gone, _HALF, added)))
        results = _scores(counts, self.family, known)
        results["converged"] = np.int8(all(one.converged for one in (known, *again)))
        reported = [_reported(one) for one in again]
        for name, value in _reported(known).items():
            results[name] = value
            results[f"{name}_error"] = self._error(value, [row[name] for row in reported])
        if self.uncertainty == "information":
            for name in ("J", "h", "self_coupling"):
                results[f"{name}_error"] = getattr(known, f"{name}_error")
        return results, counts.tobytes()

    def _others(
        self, traces: xr.Dataset, place: int, counts: Counts, transition: Array
    ) -> Iterator[Counts]:
        """Pair counts as they might have been: of fewer or other sequences, or of the chain."""
        chain, rng = self.family.chain, np.random.default_rng(self.seed)
        n = traces.sizes["sequence"]
        if self.uncertainty == "sandwich":
            edges = np.linspace(0, n, min(n, _MOST_GROUPS) + 1).astype(int)
            groups = itertools.starmap(slice, itertools.pairwise(edges))
            parts = [pair_counts(traces, place, chain, group) for group in groups]
            parts = [part for part in parts if part.any()]
            if len(parts) < 2:
                raise ValueError(
                    f"{trace_name(traces)}: uncertainty: 'sandwich' compares sequences, and one "
                    f"alone has pairs in layer {layer_number(traces, place)}; use 'information'"
                )
            for part in parts:
                yield counts - part
        elif self.uncertainty == "bootstrap":
            used = np.flatnonzero(traces["length"].values > 1)
            for _ in range(self.n_resamples):
                yield pair_counts(traces, place, chain, rng.choice(used, len(used)))
        elif self.uncertainty == "information":
            for _ in range(self.n_resamples):
                yield rng.multinomial(counts.sum(-1), transition)

    def _error(self, value: Array, again: list[Array]) -> Array:
        """Standard error of a number, from what it is of the other counts."""
        n = len(again)
        if n < 2:
            return np.full(np.shape(value), np.nan)
        deviation = np.std(again, axis=0)
        if self.uncertainty == "sandwich":
            return np.sqrt(n - 1) * deviation
        return np.sqrt(n / (n - 1)) * deviation

    def held_out(
        self, traces: xr.Dataset, place: int, folds: list[NDArray[np.int64]]
    ) -> tuple[Array, Array, Array, bool]:
        """Log-likelihood of every fold by a fit to the others.

        Parameters
        ----------
        traces : Dataset
        place : int
        folds : list of int ndarray
            Sequences of each.

        Returns
        -------
        chain, load : ndarray (fold,)
            Of the chain, and of independent tokens with the same load, in nats.
        n_tokens : ndarray (fold,)
            Tokens that are predicted.
        bool
            Whether every fit converged.
        """
        counts = [pair_counts(traces, place, self.family.chain, fold) for fold in folds]
        total = np.sum(counts, axis=0)
        check_counts(traces, place, total, self.family.chain)
        scores, converged = np.zeros((2, len(folds))), True
        for fold, held_out in enumerate(counts):
            for column, model in enumerate((self.family, self.family.load_only())):
                known = model.estimate(total - held_out)
                converged = converged and known.converged
                scores[column, fold] = log_likelihood(held_out, known.transition)
        n_tokens = np.array([token_pairs(held_out) for held_out in counts])
        return scores[0], scores[1], n_tokens, converged


def _reported(known: Estimate) -> dict[str, Array]:
    """All that is said of a chain."""
    stationary, length = _stationary(known.transition)
    is_potts = known.J.ndim == 2
    curve = markov_correlation(known.transition, stationary, MAX_DISTANCE)
    if not is_potts:
        # Of each spin the second state is the occupancy.
        curve = curve[:, 1]
    return {
        "correlation": curve.sum(0),
        "expert_correlation": curve,
        "J": known.J,
        "h": known.h,
        "self_coupling": known.self_coupling,
        "J_spread": known.J.std(),
        "correlation_length": length,
        "marginal": stationary if is_potts else stationary[:, 1],
    }


def _scores(counts: Counts, family: Family, known: Estimate) -> dict[str, Any]:
    """How well a chain predicts the tokens that it was fitted to."""
    n_pairs = token_pairs(counts)
    bits = n_pairs * np.log(2)
    is_potts = family.chain == "potts"
    value = log_likelihood(counts, known.transition)
    return {
        "log_likelihood": value,
        "bits_per_token": -value / bits,
        "bits_load": -log_likelihood(counts, family.load_only().estimate(counts).transition) / bits,
        "bits_uniform": np.log2(family.n_experts) if is_potts else _uniform_on_off(counts),
        "n_pairs": n_pairs,
        "pseudocount": known.pseudocount,
    }


def _uniform_on_off(counts: Counts) -> float:
    """Bits per token of experts that are all on with the same rate, each for itself."""
    entering = counts.sum((0, 1))
    rate = entering / entering.sum()
    return float(-len(counts) * xlogy(rate, rate).sum() / np.log(2))


def _stationary(transition: Array) -> tuple[Array, Array]:
    """Stationary law and correlation length of transition matrices (..., q, q)."""
    q = transition.shape[-1]
    stationary = markov_chain(np.log(transition))[2]
    return stationary, length_of_gap(1 - second_modulus(transition, stationary), q)


def _results_of(chain: str) -> dict[str, tuple[tuple[str, ...], dict[str, str]]]:
    """Dims, long name and units of every variable of a fit."""
    layer, expert = ("layer",), ("layer", "expert")
    matrix = (*expert, "next_expert") if chain == "potts" else expert
    length = layer if chain == "potts" else expert
    declared = {
        "J": (matrix, "coupling at T = 1, zero-sum gauge", "1"),
        "J_error": (matrix, "standard error of the coupling", "1"),
        "h": (expert, "field at T = 1, zero-sum gauge", "1"),
        "h_error": (expert, "standard error of the field", "1"),
        "self_coupling": (layer, "load-weighted mean coupling of an expert to itself", "1"),
        "self_coupling_error": (layer, "standard error of the self-coupling", "1"),
        "J_spread": (layer, "standard deviation of the elements of J", "1"),
        "J_spread_error": (layer, "standard error of that standard deviation", "1"),
        "correlation_length": (length, "correlation length of the chain", "token"),
        "correlation_length_error": (length, "standard error of that length", "token"),
        **CURVES,
        "marginal": (expert, "probability of the expert in the chain", "1"),
        "marginal_error": (expert, "standard error of that probability", "1"),
        "log_likelihood": (layer, "log-likelihood given the first tokens", "nat"),
        "bits_per_token": (layer, "bits per token of the chain, in sample", "bit/token"),
        "bits_load": (layer, "bits per token of the load alone, in sample", "bit/token"),
        "bits_uniform": (layer, "bits per token of a uniform router", "bit/token"),
        "n_pairs": (layer, "pairs of neighbouring tokens", "1"),
        "pseudocount": (layer, "pseudocount, on average over the pairs", "1"),
        "converged": (layer, "1 where the gradient vanished", "1"),
    }
    return {
        name: (dims, about(long_name, units)) for name, (dims, long_name, units) in declared.items()
    }
