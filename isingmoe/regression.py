"""Kinds of chain that are fitted token by token, and the chain of largest likelihood."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._kernels.filtering import filtered_log_likelihood
from isingmoe.couplings import zero_sum
from isingmoe.curvature import mean_covariance
from isingmoe.decays import Decay
from isingmoe.histories import Grouping, Histories, by_sequence, by_token, histories, runs
from isingmoe.kinetic import Maximum, Prior, full_table, maximise, value_and_slope
from isingmoe.parameters import Parameters, contrasts
from isingmoe.positions import Cosines, Shape

__all__ = [
    "FIELD_PARTS",
    "Estimated",
    "Regression",
    "fold_fits",
    "followed_values",
    "held_out_values",
    "split",
]

Array = NDArray[Any]

FIELD_PARTS = ("expert", "position", "sequence")
# Couplings of few parameters, which the data need no help with, and their precision.
_FEW, _WEAK = ("uniform", "diagonal"), 1e-2
# Precisions that a cross-validation chooses from, and its folds.
_L2 = tuple(float(v) for v in np.geomspace(0.1, 1000, 9))
_N_FOLDS = 5


@dataclass(frozen=True)
class Regression:
    """A chain whose tokens are each predicted from what is near them.

    Attributes
    ----------
    chain : {"kinetic", "potts", "topk"}
        kinetic: of the sets before a token. The others: of those on both sides, the
        pseudolikelihood of an equilibrium chain of primary experts or of sets.
    coupling : str
    field : tuple of str
        Some of `FIELD_PARTS`; none of them is no field.
    reach : int
    decay : str or None
        One coupling for all distances, times r^-alpha or exp(-(r - 1)/length).
    shape : Blocks or Cosines
        How the field changes over the text, if it does.
    prior : float, "cv" or None
        Precision of the couplings; None for that of maximum evidence, or a weak one where
        they have few parameters, "cv" for that of the best held-out score.
    max_iterations : int
    n_experts, top_k : int
    by_token : bool
        Whether every token id has a field of its own.
    choices : tuple of int
        Numbers of cosines, one of which the held-out score is to choose.
    """

    chain: str
    coupling: str
    field: tuple[str, ...]
    reach: int
    decay: str | None
    shape: Shape
    prior: float | str | None
    max_iterations: int
    n_experts: int
    top_k: int
    by_token: bool = False
    choices: tuple[int, ...] = ()

    @cached_property
    def law(self) -> Decay | None:
        """How one coupling for all distances falls; None where each has its own."""
        return None if self.decay is None else Decay(self.decay, self.reach)

    @property
    def both_sides(self) -> bool:
        """Whether tokens after one act on it too."""
        return self.chain != "kinetic"

    @cached_property
    def parameters(self) -> Parameters:
        """Coordinates of its couplings and fields."""
        changes = "position" in self.field
        return Parameters(
            self.coupling,
            bool(self.field),
            self.n_experts,
            min(self.reach, 1) if self.decay else self.reach,
            self.shape.n_blocks if changes else 1,
            self.shape.shapes if changes else np.zeros((1, 0)),
            self.both_sides,
        )

    @property
    def n_parameters(self) -> int:
        """Free parameters of a layer, without random fields and their variances."""
        return self.parameters.n + (self.decay is not None)

    def problem(
        self,
        traces: xr.Dataset,
        place: int,
        *,
        n_before: int | None = None,
        reverse: bool = False,
        merge: bool = True,
        longest: int | None = None,
    ) -> Histories:
        """Tokens of a layer, with what they depend on.

        Parameters
        ----------
        traces : Dataset
        place : int
        n_before, reverse, longest
            As for `histories`; by default as many tokens before as couplings reach, and one
            at least.
        merge : bool
            Whether a decay's distances share their rows.
        """
        groupings: list[Grouping] = []
        if "sequence" in self.field:
            groupings.append(by_sequence(traces))
        if self.by_token:
            groupings.append(by_token(traces))
        if self.chain == "potts":
            traces = traces.isel(rank=[0])
        return histories(
            traces,
            place,
            self.reach,
            decay=self.law.strengths(1.0) if self.law is not None and merge else None,
            both_sides=self.both_sides,
            n_blocks=self.parameters.n_blocks,
            groupings=groupings,
            n_before=max(self.reach, 1) if n_before is None else n_before,
            reverse=reverse,
            longest=longest,
        )

    def estimate(self, problem: Histories, start: Estimated | None = None) -> Estimated:
        """The chain of largest penalised likelihood for some tokens of a layer.

        Parameters
        ----------
        problem : Histories
        start : Estimated, optional
            Of a similar problem.
        """
        if self.prior == "cv":
            kinds: list[Regression] = [replace(self, prior=l2) for l2 in _L2]
            return self._best(kinds, problem)
        if self.choices:
            kinds = [replace(self, shape=Cosines(n), choices=()) for n in self.choices]
            return self._best(kinds, problem)
        given = _WEAK if self.prior is None and self.coupling in _FEW else self.prior
        prior = Prior(given, groups=(None,) * len(problem.groups))  # type: ignore[arg-type]
        before = None if start is None else start.maximum
        options = {"max_iterations": self.max_iterations, "start": before}
        if self.law is None:
            return Estimated(self, problem, maximise(problem, self.parameters, prior, **options))
        maximum, strength = self.law.maximise(problem, self.parameters, prior, **options)
        return Estimated(self, self.law.at(problem, strength), maximum, strength)

    def _best(self, kinds: list[Regression], problem: Histories) -> Estimated:
        """The kind of the best held-out score over folds of the sequences, fitted to all."""
        known = np.unique(problem.sequence)
        if len(known) < 2:
            raise ValueError(
                "l2, position: 'cv' needs at least two sequences with tokens, got "
                f"{len(known)}; give a number"
            )
        folds = [
            known[fold::_N_FOLDS].astype(np.int64) for fold in range(min(_N_FOLDS, len(known)))
        ]
        scores = [held_out_values(kind, problem, folds, "")[0].sum() for kind in kinds]
        return kinds[int(np.argmax(scores))].estimate(problem)

    def arguments(self) -> dict[str, str | int | float]:
        """What it was asked for, as attributes of a file hold it."""
        shape = self.shape
        position = f"{type(shape).__name__.lower()}:{shape.n}" if not self.choices else "cv"
        return {
            "chain": self.chain,
            "coupling": self.coupling,
            "field": "+".join(self.field) or "none",
            "reach": max(self.reach, 1),
            "decay": self.decay or "none",
            "position": position if "position" in self.field else "none",
            "prior": "default" if self.prior is None else self.prior,
            "max_iterations": self.max_iterations,
        }

    def without_couplings(self) -> Regression:
        """Independent tokens with the same load."""
        return replace(
            self,
            coupling="none",
            field=("expert",),
            reach=0,
            decay=None,
            prior=None,
            by_token=False,
            choices=(),
        )


@dataclass(frozen=True)
class Estimated:
    """A chain fitted to some tokens of a layer.

    Attributes
    ----------
    kind : Regression
    problem : Histories
    maximum : Maximum
    strength : float or None
        Parameter of the decay.
    """

    kind: Regression
    problem: Histories
    maximum: Maximum
    strength: float | None = None

    @cached_property
    def table(self) -> Array:
        """Log-weights of all rows of the problem."""
        return full_table(self.kind.parameters, self.maximum.x, self.maximum.fields)

    @cached_property
    def _covariance(self) -> Array:
        """Of the experts of a token that was fitted, on average."""
        return mean_covariance(self.problem, self.table)

    @cached_property
    def _by_distance(self) -> Array:
        """Factors of the couplings, (distance, 1, 1): of the decay, or one."""
        law, strength = self.kind.law, self.strength
        if law is None or strength is None:
            return np.ones((self.kind.reach, 1, 1))
        return law.strengths(strength)[:, None, None]

    def couplings(self, x: Array) -> Array:
        """Zero-sum couplings (..., distance, expert, expert) of parameters."""
        p, law, strength = self.kind.parameters, self.kind.law, self.strength
        J, _ = zero_sum(p.couplings(x[..., : p.n]))
        scaled = self._by_distance * J
        if law is None or strength is None or x.shape[-1] == p.n:
            return scaled
        # A change of the decay's own parameter, to first order.
        base, _ = zero_sum(p.couplings(self.maximum.x))
        return scaled + x[..., -1, None, None, None] * (law.slopes(strength)[:, None, None] * base)

    def field(self, x: Array) -> Array:
        """Zero-sum field (..., expert), with what the gauge of the couplings gives to it."""
        p = self.kind.parameters
        own = x[..., : p.n]
        J = self._by_distance * p.couplings(own)
        mean = J.mean(-2).sum(-2)
        if p.both_sides:
            mean = mean + J.mean(-1).sum(-2)
        total = p.field(own) + self.kind.top_k * mean
        return total - total.mean(-1, keepdims=True)

    def changes(self) -> Array:
        """How the field changes over the text, (block, expert)."""
        p = self.kind.parameters
        return p.fields(self.maximum.x) - p.field(self.maximum.x)

    def token_values(self, problem: Histories) -> Array:
        """Log-likelihood of each of some tokens, in nats.

        The field of a sequence is learnt from its tokens as they come, and nothing else is.
        """
        if self.kind.law is not None and self.strength is not None:
            problem = self.kind.law.at(problem, self.strength)
        if "sequence" not in self.kind.field:
            return value_and_slope(problem, self.table)[0]
        tau = self.maximum.precision.groups[0]
        return followed_values(problem, self.table, tau, self._covariance)


def followed_values(problem: Histories, table: Array, tau: float, covariance: Array) -> Array:
    """Log-likelihood of each token, the field of its sequence learnt from those before it.

    Parameters
    ----------
    problem : Histories
        Whose first grouping is that of the sequences.
    table : ndarray (row, expert)
    tau : float
        Precision of the fields.
    covariance : ndarray (expert, expert)
        Of the experts of a token, on average.
    """
    C = contrasts(problem.n_experts)
    curvature, axes = np.linalg.eigh(C.T @ covariance @ C)
    column = len(problem.strength) - len(problem.groups)
    edges = [start for start, _ in runs(problem.sequence)] + [len(problem.sets)]
    return filtered_log_likelihood(
        problem.sets,
        np.ascontiguousarray(np.delete(problem.features, column, 1)),
        np.array(edges),
        np.delete(problem.strength, column),
        table,
        C @ axes,
        np.maximum(curvature, 0),
        tau,
    )


def fold_fits(
    kind: Regression,
    problem: Histories,
    folds: list[NDArray[np.int64]],
    name: str,
    start: Estimated | None = None,
) -> Iterator[tuple[NDArray[np.int64], Estimated]]:
    """Each fold of the sequences that has tokens, and the fit to the others.

    Parameters
    ----------
    kind : Regression
    problem : Histories
    folds : list of int ndarray
        Sequences of each.
    name : str
        Of the trace, for errors.
    start : Estimated, optional
        Of a similar problem.

    Raises
    ------
    ValueError
        If all tokens are in one fold.
    """
    found = start
    for fold in folds:
        train, test = split(problem, fold)
        if not len(test.sets):
            continue
        if not len(train.sets):
            raise ValueError(
                f"{name}: n_folds: expected tokens in more than one fold; use longer sequences"
            )
        found = kind.estimate(train, found)
        yield fold, found


def held_out_values(
    kind: Regression,
    problem: Histories,
    folds: list[NDArray[np.int64]],
    name: str,
    start: Estimated | None = None,
) -> tuple[Array, bool, Estimated | None]:
    """Log-likelihood of every token by a fit to the other folds.

    Parameters
    ----------
    kind, problem, folds, name, start
        As for `fold_fits`.

    Returns
    -------
    ndarray (token,)
    bool
        Whether every fit converged.
    Estimated or None
        The last fit.
    """
    values, converged, last = np.empty(len(problem.sets)), True, start
    for fold, found in fold_fits(kind, problem, folds, name, start):
        chosen = np.isin(problem.sequence, fold)
        values[chosen] = found.token_values(problem.of(chosen))
        converged, last = converged and found.maximum.converged, found
    return values, converged, last


def split(problem: Histories, held_out: NDArray[np.integer]) -> tuple[Histories, Histories]:
    """Tokens of the other sequences, and of the ones held out."""
    chosen = np.isin(problem.sequence, held_out)
    return problem.of(~chosen), problem.of(chosen)
