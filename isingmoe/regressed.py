"""Fits of chains whose tokens are each predicted from what is near them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from math import comb
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.linalg import LinAlgError

from isingmoe._text import about
from isingmoe.chain_lengths import (
    CURVES,
    MAX_DISTANCE,
    ChainDecay,
    chain_decay,
    curve_distance,
)
from isingmoe.chains import KineticChain, PottsChain
from isingmoe.curvature import effective_fields
from isingmoe.forward import Decay
from isingmoe.histories import Histories, runs
from isingmoe.kinetic import value_and_slope
from isingmoe.loads import load_values
from isingmoe.regression import Estimated, Regression, held_out_values
from isingmoe.traces import idle_experts, trace_name
from isingmoe.uncertainty import (
    MOST_PARAMETERS,
    Spread,
    bootstrap_spread,
    curvature_of,
    information_spread,
    sandwich_spread,
)

__all__ = ["Regressed", "hash_of"]

Array = NDArray[Any]

_FEWEST_SEQUENCES = 2
# A log-weight, or its error, that only a likelihood without a maximum gets to.
_LARGEST = 100.0


@dataclass(frozen=True)
class Regressed:
    """A kind of chain, and how its errors are found.

    Attributes
    ----------
    kind : Regression
    uncertainty : {"sandwich", "information", "bootstrap", "none"}
    n_resamples, seed : int
        Of the bootstrap, and of what is simulated.
    """

    kind: Regression
    uncertainty: str = "sandwich"
    n_resamples: int = 100
    seed: int = 0

    @property
    def n_parameters(self) -> int:
        """Free parameters of a layer, without random fields."""
        return self.kind.n_parameters

    @property
    def n_fitted_apart(self) -> int:
        """Chains of a layer that are each fitted to all tokens."""
        return 1

    def arguments(self) -> dict[str, Any]:
        """What it was asked for, as attributes of a file hold it."""
        return {**self.kind.arguments(), "uncertainty": self.uncertainty}

    def idle(self, traces: xr.Dataset) -> list[tuple[str, str]]:
        """Experts that are never chosen, or always, and what to say of them."""
        return idle_experts(traces)

    def coordinates(self, traces: xr.Dataset) -> dict[str, Any]:
        """Coordinates of the dims that only these fits have."""
        coords: dict[str, Any] = {
            "distance": (
                "distance",
                np.arange(1, max(self.kind.reach, 1) + 1),
                about("distance", "token"),
            ),
            "correlation_distance": curve_distance(),
        }
        if "position" in self.kind.field:
            n = self.kind.parameters.n_blocks
            start = traces["start_position"].values if "start_position" in traces else 0
            end = int((traces["length"].values + start).max())
            coords["block"] = (
                "block",
                np.arange(n) * end / n,
                about("start of the block", "token"),
            )
        return coords

    def declared(self) -> dict[str, tuple[tuple[str, ...], dict[str, str]]]:
        """Dims, long name and units of every variable."""
        layer, expert = ("layer",), ("layer", "expert")
        matrix = ("layer", "distance", "expert", "next_expert")
        result = {
            "J": (matrix, "coupling at T = 1, zero-sum gauge", "1"),
            "J_error": (matrix, "standard error of the coupling", "1"),
            "h": (expert, "field at T = 1, zero-sum gauge", "1"),
            "h_error": (expert, "standard error of the field", "1"),
            "self_coupling": (layer, "load-weighted mean coupling of an expert to itself", "1"),
            "self_coupling_error": (layer, "standard error of the self-coupling", "1"),
            "self_coupling_at": (("layer", "distance"), "self-coupling at each distance", "1"),
            "self_coupling_at_error": (
                ("layer", "distance"),
                "standard error of the self-coupling at each distance",
                "1",
            ),
            "J_spread": (layer, "standard deviation of the elements of J", "1"),
            "J_spread_error": (layer, "standard error of that standard deviation", "1"),
            "correlation_length": (layer, "correlation length of the chain", "token"),
            "correlation_length_error": (layer, "standard error of that length", "token"),
            **CURVES,
            "marginal": (expert, "probability that a token has the expert", "1"),
            "marginal_error": (expert, "standard error of that probability", "1"),
            "log_likelihood": (layer, "log-likelihood of the predicted tokens", "nat"),
            "bits_per_token": (layer, "bits per token of the chain, in sample", "bit/token"),
            "bits_load": (layer, "bits per token of the load alone, in sample", "bit/token"),
            "bits_uniform": (layer, "bits per token of a uniform router", "bit/token"),
            "n_pairs": (layer, "tokens that are predicted", "1"),
            "l2": (("layer", "distance"), "precision of the couplings' prior", "1"),
            "n_effective": (layer, "effective number of parameters", "1"),
            "converged": (layer, "1 where the gradient vanished", "1"),
        }
        if "position" in self.kind.field:
            result["h_position"] = (
                ("layer", "block", "expert"),
                "change of the field over the text",
                "1",
            )
        if self.kind.choices:
            result["n_cosines"] = (layer, "cosines that the held-out score chose", "1")
        if "sequence" in self.kind.field:
            result["h_sequence"] = (
                ("layer", "sequence", "expert"),
                "random field of the sequence",
                "1",
            )
            result["sequence_spread"] = (
                layer,
                "standard deviation of the random field between sequences",
                "1",
            )
            result["sequence_spread_error"] = (layer, "standard error of that deviation", "1")
        if self.kind.decay is not None:
            result["decay_parameter"] = (layer, f"parameter of the {self.kind.decay} decay", "1")
            result["decay_parameter_error"] = (layer, "standard error of that parameter", "1")
        return {name: (dims, about(text, units)) for name, (dims, text, units) in result.items()}

    def layer(self, traces: xr.Dataset, place: int) -> tuple[dict[str, Any], bytes]:
        """Everything that is reported of a layer by its place, and a hash of its tokens."""
        problem = self.kind.problem(traces, place)
        _check(traces, place, problem)
        found = self.kind.estimate(problem)
        problem, own = found.problem, found.maximum.x
        spread = self._known_spread(found, traces, place)
        nats = found.maximum.log_likelihood
        if "sequence" in self.kind.field:
            nats = float(found.token_values(problem).sum())
        n = len(problem.sets)
        bits = n * np.log(2)
        result = {
            **_couplings(found, spread),
            "h": found.field(own),
            "h_error": spread.of(found.field),
            "marginal": _marginal(problem, found.table),
            "marginal_error": _load_error(problem),
            "log_likelihood": nats,
            "bits_per_token": -nats / bits,
            "bits_load": -load_values(problem, _load_of(problem)) / bits,
            "bits_uniform": np.log2(comb(problem.n_experts, problem.top_k)),
            "n_pairs": n,
            "l2": np.resize(found.maximum.precision.coupling, max(self.kind.reach, 1)),
            "n_effective": found.maximum.determined,
            "converged": np.int8(found.maximum.converged),
        }
        result |= self._decay(found, spread).variables()
        if "position" in self.kind.field:
            result["h_position"] = found.changes()
        if self.kind.choices:
            result["n_cosines"] = found.kind.shape.n
        if "sequence" in self.kind.field:
            tau = found.maximum.precision.groups[0]
            error = effective_fields(problem, found.table, 0, tau)[1]
            result["h_sequence"] = found.maximum.fields[0]
            result["sequence_spread"] = tau**-0.5
            result["sequence_spread_error"] = tau**-0.5 * error / 2
        if found.strength is not None:
            result["decay_parameter"] = found.strength
            error = float(spread.of(lambda y: y[..., -1]))
            is_known = self.kind.law is not None and self.kind.law.is_inside(found.strength)
            result["decay_parameter_error"] = error if is_known else np.nan
        return result, hash_of(problem)

    def _decay(self, found: Estimated, spread: Spread) -> ChainDecay:
        """How the correlations of the fitted chain decay; of none at once."""
        if not self.kind.reach:
            rate = _marginal(found.problem, found.table)
            curve = np.zeros((len(rate), MAX_DISTANCE + 1))
            curve[:, 0] = rate * (1 - rate)
            return ChainDecay(0.0, 0.0, Decay.exact(curve))
        own = found.maximum.x
        base = own if found.strength is None else np.r_[own, 0.0]

        kind = KineticChain if self.kind.chain == "kinetic" else PottsChain

        def chain(y: Array) -> KineticChain | PottsChain:
            moved = y - base
            return kind(
                J=found.couplings(own) + found.couplings(moved),
                h=found.field(own) + found.field(moved),
                top_k=self.kind.top_k,
            )

        return chain_decay(chain, base, spread.columns, seed=self.seed)

    def held_out(
        self, traces: xr.Dataset, place: int, folds: list[NDArray[np.int64]]
    ) -> tuple[Array, Array, Array, bool]:
        """Log-likelihood of every sequence by a fit to the other folds.

        Parameters
        ----------
        traces : Dataset
        place : int
        folds : list of int ndarray
            Sequences of each.

        Returns
        -------
        chain, load : ndarray (sequence,)
            Of the chain, and of independent tokens with the same load, in nats.
        n_tokens : ndarray (sequence,)
            Tokens that are predicted.
        bool
            Whether every fit converged.
        """
        problem = self.kind.problem(traces, place)
        _check(traces, place, problem)
        n = traces.sizes["sequence"]
        plain = self.kind.without_couplings()
        chained, known, _ = held_out_values(self.kind, problem, folds, trace_name(traces))
        alone, load_known, _ = held_out_values(plain, plain_problem(problem), folds, "")
        sums = [np.bincount(problem.sequence, w, minlength=n) for w in (chained, alone)]
        n_tokens = np.bincount(problem.sequence, minlength=n)
        return sums[0], sums[1], n_tokens, known and load_known

    def _known_spread(self, found: Estimated, traces: xr.Dataset, place: int) -> Spread:
        """Spread of the parameters; a ValueError where the likelihood has no maximum."""
        if np.abs(found.table).max() < _LARGEST:
            try:
                spread = self._spread(found)
            except LinAlgError:
                spread = None
            n = found.kind.parameters.n
            if spread and (spread.columns[:, :n] ** 2).sum(0).max(initial=0) < _LARGEST**2:
                return spread
        raise ValueError(
            f"{trace_name(traces)}: l2: the tokens of layer {int(traces['layer'].values[place])} "
            "do not bound every coupling and field, and there is no largest likelihood; use the "
            "default prior, a larger l2 or fewer parameters"
        )

    def _spread(self, found: Estimated) -> Spread:
        kind = found.kind
        n = len(found.maximum.x) + (found.strength is not None)
        if self.uncertainty == "none" or not n:
            return Spread(np.zeros((0, n)), known=self.uncertainty != "none")
        if self.uncertainty == "bootstrap":
            return bootstrap_spread(found, self.n_resamples, self.seed)
        if kind.parameters.n > MOST_PARAMETERS:
            raise ValueError(
                f"uncertainty: {kind.parameters.n} parameters have no standard errors (at most "
                f"{MOST_PARAMETERS}); use uncertainty='none', a smaller reach or a decay"
            )
        curvature = curvature_of(found)
        if self.uncertainty == "information":
            return information_spread(curvature)
        return sandwich_spread(curvature, found)


def _couplings(found: Estimated, spread: Spread) -> dict[str, Any]:
    """Couplings and what is said of them, with errors."""
    q, reach = found.problem.n_experts, found.kind.reach
    if not reach:
        nothing = {"J": np.zeros((1, q, q)), "self_coupling_at": np.zeros(1)}
        nothing |= {"self_coupling": 0.0, "J_spread": 0.0}
        return nothing | {f"{name}_error": value * 1.0 for name, value in nothing.items()}
    own = found.maximum.x
    share = _load_of(found.problem) / found.problem.top_k
    J = found.couplings(own)
    centred, deviation = J - J.mean(), float(J.std())

    def self_couplings(y: Array) -> Array:
        diagonal = np.diagonal(found.couplings(y), axis1=-2, axis2=-1)
        return (diagonal * share).sum(-1) * q / (q - 1)

    def along_spread(y: Array) -> Array:
        change = (found.couplings(y) * centred).sum((-3, -2, -1))
        return change / max(J.size * deviation, 1e-300)

    at, at_error = self_couplings(own), spread.of(self_couplings)
    return {
        "J": J,
        "J_error": spread.of(found.couplings),
        "self_coupling": at[0],
        "self_coupling_error": at_error[0],
        "self_coupling_at": at,
        "self_coupling_at_error": at_error,
        "J_spread": deviation,
        "J_spread_error": spread.of(along_spread),
    }


def hash_of(problem: Histories) -> bytes:
    """What tells the tokens of one trace from those of another."""
    return hashlib.sha256(problem.sets.tobytes() + problem.sequence.tobytes()).digest()


def plain_problem(problem: Histories) -> Histories:
    """The same tokens without anything that they depend on."""
    return replace(
        problem,
        features=np.zeros((len(problem.sets), 1), np.int32),
        strength=np.ones(1),
        n_distances=0,
        both_sides=False,
        n_blocks=1,
        groups=(),
    )


def _load_of(problem: Histories) -> Array:
    return np.bincount(problem.sets.ravel(), minlength=problem.n_experts) / len(problem.sets)


def _marginal(problem: Histories, table: Array) -> Array:
    """Chance of each expert, on average over the tokens."""
    _, slope = value_and_slope(problem.merged(), table)
    blocks = slice(problem.n_couplings, problem.n_fixed)
    return _load_of(problem) - slope[blocks].sum(0) / len(problem.sets)


def _load_error(problem: Histories) -> Array:
    """Standard error of the load, by the spread of the sequences; of one, as if tokens were new."""
    load = _load_of(problem)
    surplus = np.stack(
        [
            np.bincount(problem.sets[start:stop].ravel(), minlength=len(load))
            - (stop - start) * load
            for start, stop in runs(problem.sequence)
        ]
    )
    n = len(surplus)
    if n < _FEWEST_SEQUENCES:
        return np.sqrt(load * (1 - load) / len(problem.sets))
    return np.sqrt((surplus**2).sum(0) * n / (n - 1)) / len(problem.sets)


def _check(traces: xr.Dataset, place: int, problem: Histories) -> None:
    """Raise a ValueError where there is nothing to fit."""
    layer = int(traces["layer"].values[place])
    if problem.top_k == problem.n_experts:
        raise ValueError(
            f"{trace_name(traces)}: top_k: expected fewer experts for a token than the "
            f"{problem.n_experts} there are, got all of them in layer {layer}; there is no choice "
            "to fit"
        )
    if (problem.sets == problem.sets[0]).all():
        raise ValueError(
            f"{trace_name(traces)}: expert_index: expected sets of experts that differ in layer "
            f"{layer}, got the same for every token; leave the layer out"
        )
