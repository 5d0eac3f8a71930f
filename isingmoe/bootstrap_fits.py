"""Fitted chains redrawn: what is measured and predicted on traces, and on traces drawn like them.

One object for each layer. It holds the tokens that were recorded, draws others of the same
lengths and with the same gaps from the fitted chain, and fits those in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._kernels import counting, on_off, overlaps, returning
from isingmoe._seeds import Seed, generators
from isingmoe.chain_lengths import chain_correlation
from isingmoe.chains import KineticChain
from isingmoe.fitted import Fit
from isingmoe.generation import Law, check_drawable, draw_sets, law_of
from isingmoe.kinds import Settings
from isingmoe.likelihood import Family
from isingmoe.markov_draws import MarkovDraws
from isingmoe.neighbours import ratio
from isingmoe.observables import centred_correlation
from isingmoe.regression import Estimated, Regression
from isingmoe.stationary import markov_chain, markov_correlation
from isingmoe.traces import primary_expert

__all__ = ["Curves", "Redrawn", "Request", "redrawn"]

Array = NDArray[Any]

# Tokens of the run that predicts the curve of a kinetic chain of too many windows.
_N_TOKENS = 1 << 19
# Copies of the traces that predict it where the field changes: of short ones more.
_FEWEST_COPIES, _MOST_COPIES, _N_TOKENS_COPIED = 4, 16, 1 << 18
_HALF = 0.5
_TO_THRESHOLD = 2.0**32


class Curves(NamedTuple):
    """C(d) of tokens, and what the chain fitted to them predicts, both (distance,)."""

    measured: Array
    predicted: Array


@dataclass(frozen=True)
class Request:
    """What is to be measured.

    Attributes
    ----------
    centre : {"global", "position", "sequence"}
    n_distances : int
        Distances 0 to n_distances - 1.
    refit : bool
        Whether chains are fitted to the tokens that are drawn, as the one that they are drawn
        from was to those measured; else that one predicts all curves.
    seed : int
        Of the runs that predict curves.
    """

    centre: str
    n_distances: int
    refit: bool
    seed: int


class Redrawn(Protocol):
    """A layer of traces under the hypothesis that its fitted chain is right."""

    n_unfinished: int

    def observed(self) -> Curves:
        """Of the tokens that were recorded."""
        ...

    def simulated(self, seed: Seed) -> Curves:
        """Of tokens drawn from the fitted chain."""
        ...


def redrawn(fit: Fit, traces: xr.Dataset, place: int, request: Request) -> Redrawn:
    """A layer by its place under the hypothesis that its fitted chain is right.

    Raises
    ------
    ValueError
        If no tokens can be drawn from such a chain.
    """
    if fit.is_regressed:
        check_drawable(fit)
        return _Kinetic(fit, traces, place, request)
    kind = _Potts if fit.data.attrs["chain"] == "potts" else _Ising
    return kind(fit, traces, place, request)


def _bit_length(n: int) -> int:
    return max((n - 1).bit_length(), 1)


class _Counted:
    """What is common to chains whose pair counts are all that they are fitted to."""

    def __init__(self, fit: Fit, traces: xr.Dataset, place: int, request: Request) -> None:
        self._request = request
        self._family: Family = Settings(**fit.settings).kind(traces).family
        _, self._transition, self._stationary = markov_chain(fit.log_weight()[place])
        self._predicted = self._curve_of(self._transition, self._stationary)
        self.n_unfinished = 0

    def _curve_of(self, transition: Array, stationary: Array) -> Array:
        by_state = markov_correlation(transition, stationary, self._request.n_distances - 1)
        if self._family.chain == "ising":
            # Of each spin the second state is the occupancy.
            by_state = by_state[:, 1]
        return by_state.sum(0)

    def _refitted(self, counts: Array) -> Array:
        """Curve that the chain fitted to pair counts predicts."""
        if not self._request.refit:
            return self._predicted
        added = self._family.pseudocounts(counts)
        # Without a pseudocount a pair that was not drawn stays possible.
        added = np.where(counts + added > 0, added, _HALF)
        known = self._family.estimate(counts, added)
        self.n_unfinished += not known.converged
        with np.errstate(divide="ignore"):
            stationary = markov_chain(np.log(known.transition))[2]
        return self._curve_of(known.transition, stationary)


class _Potts(_Counted):
    """The primary expert."""

    def __init__(self, fit: Fit, traces: xr.Dataset, place: int, request: Request) -> None:
        super().__init__(fit, traces, place, request)
        self._states = np.ascontiguousarray(primary_expert(traces).values[place])
        self._draws = MarkovDraws(self._transition, self._stationary)

    def observed(self) -> Curves:
        return Curves(self._measured(self._states), self._predicted)

    def simulated(self, seed: Seed) -> Curves:
        states = self._draws.like(self._states, seed)
        q = self._family.n_experts
        counts = counting.pair_histogram(states, q, 1)[1:-1, 1:-1]
        return Curves(self._measured(states), self._refitted(counts))

    def _measured(self, states: NDArray[np.int16]) -> Array:
        q, n = self._family.n_experts, self._request.n_distances
        if self._request.centre == "global":
            pairs, equal = returning.equal_apart(states, _bit_length(q), n)
            load = np.bincount(states[states >= 0], minlength=q) / pairs[0]
            return ratio(equal, pairs) - (load**2).sum()
        sets, _, _ = overlaps.pack_sets(states[..., None], -(-q // 64))
        return centred_correlation(sets, q, np.arange(n), self._request.centre)


class _Ising(_Counted):
    """Each expert on or off, for itself: a row of bits for each of its sequences."""

    def __init__(self, fit: Fit, traces: xr.Dataset, place: int, request: Request) -> None:
        super().__init__(fit, traces, place, request)
        index = traces["expert_index"].values[place]
        self._is_known = (index >= 0).any(-1)
        self._known = _packed(self._is_known)
        self._rows = np.stack(
            [_packed((index == expert).any(-1)) for expert in range(self._family.n_experts)]
        )
        both = self._apart(self._known[None])[0][0]
        self._pairs = both
        chances = np.stack(
            [self._stationary[:, 1], self._transition[:, 0, 1], self._transition[:, 1, 1]], 1
        )
        self._to_on = np.ascontiguousarray(np.rint(chances * _TO_THRESHOLD).astype(np.uint64))

    def observed(self) -> Curves:
        return Curves(self._measured(self._rows, self._apart(self._rows)[0]), self._predicted)

    def simulated(self, seed: Seed) -> Curves:
        words = generators(seed, self._family.n_experts)
        rows = on_off.draw_on_off(words, self._to_on, self._known)
        both, near = self._apart(rows)
        return Curves(self._measured(rows, both), self._refitted(self._counts(both, near)))

    def _counts(self, both: Array, near: Array) -> Array:
        """Pairs of neighbours with each expert off or on, (expert, 2, 2)."""
        on, left, right = both[:, 1], near[:, 0], near[:, 1]
        off = self._pairs[1] - left - right + on
        return np.stack([off, right - on, left - on, on], 1).reshape(-1, 2, 2)

    def _apart(self, rows: NDArray[np.uint64]) -> tuple[Array, Array]:
        return on_off.on_apart(rows, self._known, self._request.n_distances)

    def _measured(self, rows: NDArray[np.uint64], both: Array) -> Array:
        if self._request.centre == "global":
            rate = both[:, 0] / self._pairs[0]
            return ratio(both.sum(0), self._pairs) - (rate**2).sum()
        n = len(rows) + 1
        sets = np.zeros((len(self._is_known), -(-n // 64), self._is_known.shape[1]), np.uint64)
        # One more expert, of every token: it has no correlation, and a set without any other
        # is a token all the same.
        for expert, on in enumerate((*rows, self._known)):
            bit = _unpacked(on, sets.shape[2]).astype(np.uint64) << np.uint64(expert % 64)
            sets[:, expert // 64] |= bit
        distance = np.arange(self._request.n_distances)
        return centred_correlation(sets, n, distance, self._request.centre)


class _Kinetic:
    """Sets of experts, each given those before it; tokens that lack some count as gaps."""

    def __init__(self, fit: Fit, traces: xr.Dataset, place: int, request: Request) -> None:
        self._request, self._law = request, law_of(fit, place)
        kept = [name for name in ("expert_index", "length", "start_position") if name in traces]
        self._traces = traces[kept].isel(layer=[place])
        self._index = self._traces["expert_index"].values[0].copy()
        inside = np.arange(self._index.shape[1]) < traces["length"].values[:, None]
        self._is_known = (self._index >= 0).all(-1) & inside
        self._index[~self._is_known] = -1
        self._first = np.zeros(len(self._index), np.int64)
        if "start_position" in traces:
            self._first = traces["start_position"].values.astype(np.int64)
        self.n_unfinished = 0
        kind: Regression = Settings(**fit.settings).kind(traces).kind
        self._found: Estimated | None = None
        if request.refit:
            self._found = kind.estimate(kind.problem(self._traces, 0))
            self._predicted = self._curve_of(self._law_of(self._found))
        else:
            self._predicted = self._curve_of(self._law)

    def observed(self) -> Curves:
        return Curves(self._measured(self._index), self._predicted)

    def simulated(self, seed: Seed) -> Curves:
        index = self._drawn(self._law, 1, seed)
        measured = self._measured(index)
        if self._found is None:
            return Curves(measured, self._predicted)
        # What was chosen by held-out scores stays as it was chosen.
        kind = self._found.kind
        drawn = self._traces.assign(
            expert_index=self._traces["expert_index"].copy(data=index[None])
        )
        again = kind.estimate(kind.problem(drawn, 0), self._found)
        self.n_unfinished += not again.maximum.converged
        return Curves(measured, self._curve_of(self._law_of(again)))

    def _drawn(self, law: Law, n_copies: int, seed: Seed) -> NDArray[np.int16]:
        """So many copies of the traces, drawn anew."""
        n, length, _ = self._index.shape
        first = np.tile(self._first, n_copies)
        index = draw_sets(law, n * n_copies, length, first=first, seed=seed)
        index[~np.tile(self._is_known, (n_copies, 1))] = -1
        return index

    def _law_of(self, found: Estimated) -> Law:
        x, q = found.maximum.x, found.problem.n_experts
        coupling = found.couplings(x) if found.kind.reach else np.zeros((1, q, q))
        changes = found.changes() if "position" in found.kind.field else np.zeros((1, q))
        spread = found.maximum.precision.groups[0] ** -0.5 if found.problem.groups else 0.0
        return Law(coupling, found.field(x) + changes, found.kind.top_k, spread, self._law.end)

    def _curve_of(self, law: Law) -> Array:
        """Curve that a law predicts; the same seed for all, so that what it adds cancels."""
        n = self._request.n_distances
        if law.spread or len(law.field) > 1:
            # A field that changes is part of what is measured.
            n_wanted = _N_TOKENS_COPIED // max(int(self._is_known.sum()), 1)
            n_copies = min(max(n_wanted, _FEWEST_COPIES), _MOST_COPIES)
            return self._measured(self._drawn(law, n_copies, self._request.seed))
        if not law.coupling.any():
            return np.zeros(n)
        chain = KineticChain(J=law.coupling, h=law.field[0], top_k=law.top_k)
        return chain_correlation(chain, n - 1, n_tokens=_N_TOKENS, seed=self._request.seed)[0]

    def _measured(self, index: NDArray[np.int16]) -> Array:
        q = self._law.field.shape[1]
        sets, _, _ = overlaps.pack_sets(index, -(-q // 64))
        return centred_correlation(
            sets, q, np.arange(self._request.n_distances), self._request.centre
        )


def _packed(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Rows of bits (..., position) in words, (..., word)."""
    n_words = -(-bits.shape[-1] // 64)
    padded = np.zeros((*bits.shape[:-1], 64 * n_words), np.bool_)
    padded[..., : bits.shape[-1]] = bits
    return np.packbits(padded, -1, "little").view(np.uint64)


def _unpacked(words: NDArray[np.uint64], n: int) -> NDArray[np.uint8]:
    """The first n bits of rows of words."""
    return np.unpackbits(words.view(np.uint8), axis=-1, count=n, bitorder="little")
