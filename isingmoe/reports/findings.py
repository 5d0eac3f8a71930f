"""Everything that a report says, measured at a bounded cost."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from isingmoe._schema import validate_structure
from isingmoe._text import plain
from isingmoe.activations import activation
from isingmoe.block_sizes import block_sizes
from isingmoe.budgets import Budget
from isingmoe.chapman_kolmogorov import chapman_kolmogorov
from isingmoe.comparison import Comparison, compare
from isingmoe.errors import ConvergenceError
from isingmoe.fitted import Fit
from isingmoe.goodness import goodness_of_fit
from isingmoe.inference import fit as fit_chains
from isingmoe.mem import mem

__all__ = ["Costs", "Findings", "measure"]

Track = Callable[[Iterable[int], str], Iterable[int]]

# What a measurement may raise where a trace does not have what it needs.
_EXPECTED = (ValueError, ConvergenceError, np.linalg.LinAlgError)


@dataclass(frozen=True)
class Costs:
    """How much is spent on each part.

    Attributes
    ----------
    max_distance : int
        Largest distance of C(d), in tokens.
    n_resamples : int
        Bootstrap resamples of the sequences.
    n_simulations : int
        Data sets simulated for the p-values of the chain; the smallest is 1 / (n + 1).
    n_folds : int
        Folds of the held-out score; 0 for none.
    """

    max_distance: int = 64
    n_resamples: int = 200
    n_simulations: int = 99
    n_folds: int = 3


@dataclass(frozen=True)
class Findings:
    """What was found on a trace.

    Attributes
    ----------
    traces : Dataset
    fit : Fit
    comparison : Comparison
    parts : dict of str to Dataset
        What could be measured: "goodness", "ck", "blocks", "activation", "mem".
    budget : Budget, optional
    absent : dict of str to str
        Why a part is not there, one sentence each.
    cautions : list of str
        What was warned of.
    """

    traces: xr.Dataset
    fit: Fit
    comparison: Comparison
    parts: dict[str, xr.Dataset] = field(default_factory=dict)
    budget: Budget | None = None
    absent: dict[str, str] = field(default_factory=dict)
    cautions: list[str] = field(default_factory=list)

    def part(self, name: str, layer: int) -> xr.Dataset | None:
        """A part of one layer, if it is there."""
        found = self.parts.get(name)
        return None if found is None else found.sel(layer=layer)


def measure(
    traces: xr.Dataset,
    fit: Fit | None,
    budget: Budget | None,
    costs: Costs,
    seed: int,
    track: Track | None,
) -> Findings:
    """Measure a trace and put a fit beside it.

    Parameters
    ----------
    traces : Dataset
    fit : Fit, optional
        By default Potts chains of the primary expert, where there is one: they are exact, and
        fitted in no time. Kinetic chains with diagonal couplings otherwise.
    budget : Budget, optional
    costs : Costs
    seed : int
    track : callable, optional
        Wraps an iteration over layers, given what it is for.

    Returns
    -------
    Findings
        Whoever measured a part could not be measured by is in `absent`.

    Raises
    ------
    ValueError, ConvergenceError
        If there is nothing to report on: no fit, or nothing to compare.
    """
    validate_structure(traces)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if fit is None:
            fit = fit_chains(traces, **_default_kind(traces), track=_named(track, "fit"))
        traces = traces.sel(layer=fit.data["layer"].values)
        comparison = compare(
            fit,
            traces,
            centres=("global", "sequence"),
            max_distance=costs.max_distance,
            n_resamples=costs.n_resamples,
            n_shuffles=0,
            n_folds=costs.n_folds,
            seed=seed,
            track=track,
        )
        parts, absent = _parts(traces, fit, comparison, costs, seed, track)
    for warning in caught:
        warnings.warn_explicit(
            message=warning.message,
            category=warning.category,
            filename=warning.filename,
            lineno=warning.lineno,
        )
    if budget is None:
        absent["budget"] = (
            "The bit budget takes minutes; run `isingmoe budget` and give its file as --budget."
        )
    cautions = list(dict.fromkeys(plain(warning.message, 400) for warning in caught))
    return Findings(traces, fit, comparison, parts, budget, absent, cautions)


def _default_kind(traces: xr.Dataset) -> dict[str, Any]:
    if traces.attrs["ranked"] or traces.attrs["top_k"] == 1:
        return {"chain": "potts"}
    return {"chain": "kinetic", "coupling": "diagonal"}


def _parts(
    traces: xr.Dataset,
    fit: Fit,
    comparison: Comparison,
    costs: Costs,
    seed: int,
    track: Track | None,
) -> tuple[dict[str, xr.Dataset], dict[str, str]]:
    """What can be measured, and why the rest cannot."""
    n = costs.n_simulations
    wanted: dict[str, tuple[str, Callable[[], xr.Dataset]]] = {
        "goodness": (
            "goodness of fit",
            lambda: goodness_of_fit(
                fit,
                traces,
                n_simulations=n,
                max_distance=costs.max_distance,
                seed=seed,
                track=_named(track, "goodness of fit"),
            ),
        ),
        "ck": (
            "Chapman-Kolmogorov test",
            lambda: chapman_kolmogorov(
                traces, n_simulations=n, seed=seed, track=_named(track, "Chapman-Kolmogorov")
            ),
        ),
        "blocks": (
            "block sizes",
            lambda: block_sizes(traces, fit, seed=seed, track=_named(track, "block sizes")),
        ),
        "activation": (
            "rates over position",
            lambda: activation(traces, track=_named(track, "rates over position")),
        ),
        "mem": (
            "MEM equilibrium",
            lambda: mem(traces, fit, seed=seed, track=_named(track, "MEM equilibrium")),
        ),
    }
    parts, absent = {}, {}
    for name, (words, found) in wanted.items():
        try:
            parts[name] = found()
        except _EXPECTED as error:
            absent[name] = f"No {words}: {plain(error, 300)}."
    return parts, absent


def _named(track: Track | None, what: str) -> Callable[[Iterable[int]], Iterable[int]] | None:
    return None if track is None else lambda layers: track(layers, what)
