"""Which kind of chain a fit is of: its settings, their defaults and what goes together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import xarray as xr

from isingmoe._schema import validate_structure
from isingmoe.counted import Counted
from isingmoe.decays import DECAYS
from isingmoe.estimators import MaximumLikelihood, Pseudolikelihood
from isingmoe.likelihood import family_of
from isingmoe.parameters import COUPLINGS
from isingmoe.positions import Blocks, Cosines, Shape
from isingmoe.regressed import Regressed
from isingmoe.regression import FIELD_PARTS, Regression
from isingmoe.traces import trace_name
from isingmoe.uncertainty import UNCERTAINTIES

__all__ = ["CHAINS", "Settings", "default_chain"]

CHAINS = ("kinetic", "potts", "ising", "topk")
_COUNTED = ("potts", "ising")
# Smoothness of a field along the text, unless asked for.
_SHAPE = Cosines(4)
# Numbers of cosines that the held-out score chooses from.
_CHOICES = (0, 1, 2, 4, 8, 16)


def default_chain(traces: xr.Dataset) -> str:
    """Kinetic where a token has several experts, potts where it has one."""
    return "kinetic" if int(traces.attrs["top_k"]) > 1 else "potts"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a fit was asked for.

    Attributes
    ----------
    chain, coupling : str or None
        None for the default of the trace, or of the chain.
    field : str
    reach : int
    decay : str or None
    position : Blocks, Cosines, "cv" or None
    estimator : MaximumLikelihood, Pseudolikelihood or None
    uncertainty : str or None
    """

    chain: str | None = None
    coupling: str | None = None
    field: str = "expert"
    reach: int = 1
    decay: str | None = None
    position: Shape | str | None = None
    estimator: MaximumLikelihood | Pseudolikelihood | None = None
    uncertainty: str | None = None

    def kind(self, traces: xr.Dataset, *, n_resamples: int = 100, seed: int = 0) -> Any:
        """The kind of chain, checked against the trace.

        Returns
        -------
        Counted or Regressed

        Raises
        ------
        TraceSchemaError
            If the Dataset is not a trace.
        ValueError
            If a name is unknown or does not go with the others.
        """
        validate_structure(traces)
        n_experts = int(traces.attrs["num_experts"])
        if n_experts < 2:
            raise ValueError(
                f"{trace_name(traces)}: num_experts: expected at least 2, got {n_experts}"
            )
        chain = self.chain or default_chain(traces)
        _one_of("chain", chain, CHAINS)
        coupling = self.coupling or ("diagonal" if chain == "ising" else "full")
        _one_of("coupling", coupling, COUPLINGS)
        estimator = self.estimator
        if estimator is None:
            estimator = Pseudolikelihood() if chain == "topk" else MaximumLikelihood()
        if chain in _COUNTED and isinstance(estimator, MaximumLikelihood):
            self._check_counted(chain, estimator)
            family = family_of(traces, chain, coupling, self.field, estimator)
            return Counted(family, self._errors_of(traces), n_resamples, seed)
        return self._regressed(traces, chain, coupling, estimator, n_resamples, seed)

    def _check_counted(self, chain: str, estimator: MaximumLikelihood) -> None:
        if estimator.l2 is not None:
            raise ValueError(f"l2: {chain} chains have none, got {estimator.l2!r}; use pseudocount")
        if self.reach != 1 or self.decay is not None or self.position is not None:
            raise ValueError(
                f"reach, decay, position: the {chain} chain of largest likelihood couples "
                "neighbours alone; use chain='kinetic' or estimator=Pseudolikelihood()"
            )

    def _errors_of(self, traces: xr.Dataset) -> str:
        """Which errors, by default those that compare sequences if there are several."""
        n_sequences = int((traces["length"].values > 0).sum())
        uncertainty = self.uncertainty or ("sandwich" if n_sequences > 1 else "information")
        _one_of("uncertainty", uncertainty, UNCERTAINTIES)
        if uncertainty in ("sandwich", "bootstrap") and n_sequences < 2:
            raise ValueError(
                f"{trace_name(traces)}: uncertainty: {uncertainty!r} compares sequences, and there "
                f"{'is one' if n_sequences else 'is none'}; use 'information'"
            )
        return uncertainty

    def _regressed(
        self,
        traces: xr.Dataset,
        chain: str,
        coupling: str,
        estimator: MaximumLikelihood | Pseudolikelihood,
        n_resamples: int,
        seed: int,
    ) -> Regressed:
        is_pseudo = isinstance(estimator, Pseudolikelihood)
        if is_pseudo != (chain in ("potts", "topk")):
            raise ValueError(
                f"estimator: expected {'MaximumLikelihood' if is_pseudo else 'Pseudolikelihood'} "
                f"of a {chain} chain, got {type(estimator).__name__}"
            )
        if isinstance(estimator, MaximumLikelihood) and estimator.pseudocount is not None:
            raise ValueError(
                f"pseudocount: {chain} chains have none, got {estimator.pseudocount!r}; use l2"
            )
        if self.decay is not None:
            _one_of("decay", self.decay, DECAYS)
        if self.decay is not None and (is_pseudo or coupling == "none" or self.reach < 2):
            raise ValueError(
                f"decay: {self.decay!r} needs chain='kinetic', a coupling and a reach of at least 2"
            )
        if self.reach < 1:
            raise ValueError(f"reach: expected at least 1, got {self.reach}")
        uncertainty = self._errors_of(traces)
        parts = _parts(self.field)
        if is_pseudo and "sequence" in parts:
            raise ValueError("field: 'sequence' needs chain='kinetic'")
        if self.position is not None and "position" not in parts:
            raise ValueError("position: expected field='position' beside it")
        shape = _SHAPE if self.position is None else self.position
        if not (isinstance(shape, Blocks | Cosines) or shape == "cv"):
            raise ValueError(f"position: expected Blocks(n), Cosines(n) or 'cv', got {shape!r}")
        regression = Regression(
            chain,
            coupling,
            parts,
            self.reach if coupling != "none" else 0,
            self.decay,
            Cosines(_CHOICES[-1]) if shape == "cv" else shape,
            estimator.l2,
            estimator.max_iterations,
            int(traces.attrs["num_experts"]),
            1 if chain == "potts" else int(traces.attrs["top_k"]),
            choices=_CHOICES if shape == "cv" else (),
        )
        return Regressed(regression, uncertainty, n_resamples, seed)


def _parts(field: str) -> tuple[str, ...]:
    """What a field is the sum of; every field has one for all tokens."""
    if field == "none":
        return ()
    given = [part.strip() for part in field.split("+")]
    for part in given:
        _one_of("field", part, ("none", *FIELD_PARTS), "or a sum such as position+sequence")
    if "none" in given or len(set(given)) < len(given):
        raise ValueError(f"field: expected 'none' alone, or different parts, got {field!r}")
    return tuple(part for part in FIELD_PARTS if part == "expert" or part in given)


def _one_of(name: str, value: Any, known: Iterable[str], more: str = "") -> None:
    if value not in known:
        raise ValueError(
            f"{name}: expected one of {', '.join(known)}{' ' + more if more else ''}, got {value!r}"
        )
