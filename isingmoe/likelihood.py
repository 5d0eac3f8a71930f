"""One layer of a trace: its pair counts, and the chain of largest likelihood for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numba
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import xlogy

from isingmoe._kernels import counting, overlaps
from isingmoe.estimation import (
    FIELDS,
    Estimate,
    estimate,
    estimate_ising,
    n_parameters,
)
from isingmoe.estimators import MaximumLikelihood
from isingmoe.prior import pseudocounts_by_load
from isingmoe.traces import pack_layer, primary_expert, trace_name

__all__ = ["Family", "family_of", "pair_counts"]

# Elements of the basis of an iterative fit, eight bytes each and held a few times over.
_LARGEST_BASIS = 10**8
# Beyond this many parameters the information matrix of an iterative fit is too large.
_MAX_ITERATED = 4096

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Family:
    """A kind of chain with its estimator.

    Attributes
    ----------
    chain : {"potts", "ising"}
    coupling, field : str
        See `fit`.
    estimator : MaximumLikelihood
    n_experts : int
    """

    chain: str
    coupling: str
    field: str
    estimator: MaximumLikelihood
    n_experts: int

    @property
    def n_parameters(self) -> int:
        """Free parameters of a layer."""
        if self.chain == "potts":
            return n_parameters(self.coupling, self.field, self.n_experts)
        shared = 1 if self.coupling == "uniform" else 0
        own = n_parameters(self.coupling, self.field, 2) - shared
        return shared + self.n_experts * own

    def estimate(self, counts: Counts, added: NDArray[np.floating] | None = None) -> Estimate:
        """The chain of largest likelihood for pair counts.

        Parameters
        ----------
        counts : int ndarray (q, q) or (expert, 2, 2)
        added : ndarray like counts, optional
            What is added to them; by default `pseudocounts`.

        Raises
        ------
        ValueError
            If a pair that must occur does not, and there is no pseudocount.
        """
        added = self.pseudocounts(counts) if added is None else added
        padded = counts + added
        needed = padded.sum(-2) if self.coupling == "none" else padded
        if (needed <= 0).any():
            raise ValueError(
                "pseudocount: expected a positive number where a pair of states never occurs, got "
                f"{self.estimator.pseudocount} with {int((padded <= 0).sum())} such pairs"
            )
        solve = estimate if self.chain == "potts" else estimate_ising
        known = solve(padded, self.coupling, self.field, self.estimator.max_iterations)
        return replace(known, pseudocount=float(added.mean()))

    def pseudocounts(self, counts: Counts) -> NDArray[np.floating]:
        """What the estimator adds to pair counts, of their shape."""
        given = self.estimator.pseudocount
        if self.coupling != "none" and self.chain == "potts":
            return pseudocounts_by_load(counts, given)
        # Half of one takes the first-order bias off the logarithm of a small count. A load has
        # q counts: half to each, spread over the pairs it ends.
        half = 0.5 if given is None else given
        return np.full(counts.shape, half / (counts.shape[-1] if self.coupling == "none" else 1))

    def load_only(self) -> Family:
        """Independent tokens with the observed load."""
        return Family(self.chain, "none", "expert", self.estimator, self.n_experts)


def log_likelihood(counts: Counts, transition: NDArray[np.floating]) -> float:
    """Log-likelihood of pair counts given transition probabilities, in nats."""
    return float(xlogy(counts, transition).sum())


def token_pairs(counts: Counts) -> int:
    """Pairs of tokens; every Ising chain of a layer, (expert, 2, 2), counts the same ones."""
    return int(counts.sum() if counts.ndim == 2 else counts[0].sum())


def family_of(
    traces: xr.Dataset,
    chain: str,
    coupling: str,
    field: str,
    estimator: MaximumLikelihood,
) -> Family:
    """A kind of chain of pair counts, checked against the trace.

    Raises
    ------
    ValueError
        If a name does not go with the others.
    """
    if field not in FIELDS:
        raise ValueError(
            f"field: expected one of {', '.join(FIELDS)} of a {chain} chain, got {field!r}; "
            "chain='kinetic' has position and sequence too"
        )
    if chain == "ising" and coupling in ("symmetric", "full"):
        raise ValueError(
            "coupling: the Ising chain of an expert is coupled to itself alone; expected none, "
            f"uniform or diagonal, got {coupling!r}"
        )
    n_experts = int(traces.attrs["num_experts"])
    family = Family(chain, coupling, field, estimator, n_experts)
    iterated = field == "none" and coupling in ("symmetric", "full")
    if iterated and family.n_parameters > _MAX_ITERATED:
        raise ValueError(
            f"field: 'none' with {coupling} coupling of {n_experts} experts has "
            f"{family.n_parameters} parameters and no closed form (at most {_MAX_ITERATED}); "
            "use field='expert'"
        )
    closed = coupling == "none" or (field == "expert" and coupling in ("symmetric", "full"))
    if chain == "potts" and not closed and family.n_parameters * n_experts**2 > _LARGEST_BASIS:
        raise ValueError(
            f"coupling: {coupling!r} of {n_experts} experts is too large for an iterative fit; use "
            "'symmetric' or 'full' with field='expert', which have a closed form"
        )
    return family


def pair_counts(
    traces: xr.Dataset,
    place: int,
    chain: str,
    sequences: NDArray[np.int64] | slice | None = None,
) -> Counts:
    """Pairs of neighbouring states of a layer by its place.

    Parameters
    ----------
    traces : Dataset
    place : int
    chain : {"potts", "ising"}
    sequences : int ndarray or slice, optional
        Those to count; all of them by default.

    Returns
    -------
    int64 ndarray (q, q) or (expert, 2, 2)
        For Ising, state 1 is an expert that is on.

    Raises
    ------
    ValueError
        If an id is out of range or there is no primary expert.
    """
    chosen = slice(None) if sequences is None else sequences
    n_experts = int(traces.attrs["num_experts"])
    if chain == "potts":
        # A view where top_k is 1; one memory layout means one compiled kernel.
        states = np.ascontiguousarray(primary_expert(traces).values[place, chosen])
        # Each part has its own histogram: no more of them than the tokens pay for.
        affordable = max(1, states.size // (n_experts + 2) ** 2)
        n_parts = min(4 * numba.get_num_threads(), affordable)
        counts = counting.pair_histogram(states, n_experts, n_parts)
        if counts[-1].any() or counts[:, -1].any():
            raise ValueError(
                f"{trace_name(traces)}: expert_index: expected ids of -1 to {n_experts - 1}, got "
                f"others in layer {layer_number(traces, place)}; isingmoe.validate names the first"
            )
        return counts[1:-1, 1:-1]
    sets = pack_layer(traces, place, primary=False, sequences=sequences)
    counted = overlaps.expert_pairs(sets, np.array([1]), n_experts, 4 * numba.get_num_threads())
    n_pairs, both, left, right = (array[0] for array in counted)
    off = np.stack([n_pairs - left - right + both, right - both], 1)
    on = np.stack([left - both, both], 1)
    return np.stack([off, on], 1)


def check_counts(traces: xr.Dataset, place: int, counts: Counts, chain: str) -> None:
    """Raise a ValueError where a layer has no pairs or never changes its state."""
    layer = layer_number(traces, place)
    if not counts.any():
        raise ValueError(
            f"{trace_name(traces)}: expert_index: expected two neighbouring tokens in some "
            f"sequence of layer {layer}, got none; a chain needs longer sequences"
        )
    if chain == "potts":
        used = np.flatnonzero(counts.sum(0) + counts.sum(1))
        if len(used) == 1:
            raise ValueError(
                f"{trace_name(traces)}: expert_index: expected at least two experts in layer "
                f"{layer}, got every token in expert {used[0]}; leave the layer out"
            )
    elif not (counts[:, 0, 1].any() or counts[:, 1, 0].any()):
        raise ValueError(
            f"{trace_name(traces)}: expert_index: expected sets of experts that differ in layer "
            f"{layer}, got the same for every token; leave the layer out"
        )


def layer_number(traces: xr.Dataset, place: int) -> int:
    """The model's own number of a layer."""
    return int(traces["layer"].values[place])
