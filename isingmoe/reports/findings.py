"""Everything that a report says, measured at a bounded cost."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from isingmoe._schema import alike
from isingmoe._text import plain
from isingmoe.block_lengths import block_sizes
from isingmoe.budgets import Budget
from isingmoe.comparison import Comparison, compare
from isingmoe.fitted import Fit
from isingmoe.inference import fit as fit_chains
from isingmoe.traces import trace_name

__all__ = ["PARTS", "Costs", "Findings", "gathered", "measure", "shares_of"]

Track = Callable[[Iterable[int], str], Iterable[int]]

# Parts of a comparison that the page shows.
PARTS = ("baselines", "laws", "goodness", "ck", "blocks", "activation", "mem")
# Of block sizes only what could make them grow, each drawn once.
_BLOCKS: dict[str, Any] = {
    "baselines": ("shuffled", "position-shuffled"),
    "n_simulations": 1,
    "n_resamples": 50,
}
# Draws behind the spread of each baseline.
_N_SHUFFLES = 10
# Tokens of all layers, times simulations, that kinetic chains are fitted to again for the
# goodness of fit: about half a minute of one core.
_MOST_REFITTED = 10_000_000


# Data sets simulated of chains fitted to pair counts, so that 24 layers take half a minute.
_N_COUNTED = 39


@dataclass(frozen=True)
class Costs:
    """How much is spent on each part.

    Attributes
    ----------
    max_distance : int
        Largest distance of C(d), in tokens.
    n_resamples : int
        Bootstrap resamples of the sequences.
    n_simulations : int, optional
        Data sets simulated for p-values, none of which is below 1 / (n + 1); by default what
        each test takes.
    n_folds : int
        Folds of the held-out score; 0 for none.
    """

    max_distance: int = 64
    n_resamples: int = 200
    n_simulations: int | None = None
    n_folds: int = 3

    def simulations_of(self, fit: Fit) -> int | None:
        """How many to simulate for a fit; None for what each test takes."""
        if self.n_simulations is None and not fit.is_regressed:
            return _N_COUNTED
        return self.n_simulations


@dataclass(frozen=True)
class Findings:
    """What was found on a trace.

    Attributes
    ----------
    traces : Dataset
    fit : Fit
    comparison : Comparison
    budget : Budget, optional
    parts : dict of str to Dataset
        Parts of the comparison that could be measured.
    absent : dict of str to str
        Why a part is not there, one sentence each.
    cautions : list of str
        What was warned of.
    """

    traces: xr.Dataset
    fit: Fit
    comparison: Comparison
    budget: Budget | None = None
    parts: dict[str, xr.Dataset] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    cautions: list[str] = field(default_factory=list)

    @property
    def n_texts(self) -> int:
        """Sequences that have tokens."""
        return int((self.traces["length"] > 0).sum())

    def simulations(self, name: str) -> int:
        """Data sets behind the p-values of "goodness" or "ck"; 0 where that is not known."""
        test = self.parts.get(name)
        if test is None:
            return 0
        if name == "ck":
            return int(test["ck_p_value"].attrs.get("n_simulations", 0))
        return test.sizes["simulation"]

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

    Raises
    ------
    ValueError, ConvergenceError
        If there is nothing to report on, no chain can be fitted, or the fit or the budget is
        of another model.
    """
    traces = alike(traces)
    if budget is not None:
        _check_budget(budget, traces)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if fit is None:
            named = None if track is None else lambda layers: track(layers, "fit")
            fit = fit_chains(traces, **_default_kind(traces), track=named)
        comparison = compare(
            fit,
            traces,
            centres=("global", "position", "sequence"),
            parts=[name for name in _affordable(fit, traces, costs) if name != "blocks"],
            max_distance=costs.max_distance,
            n_resamples=costs.n_resamples,
            n_shuffles=_N_SHUFFLES,
            n_simulations=costs.simulations_of(fit),
            n_folds=costs.n_folds,
            seed=seed,
            track=track,
        )
        blocks, why = _block_sizes(traces, fit, seed, track)
    # Stages come upon the same thing one after the other.
    for warning in {(w.category, str(w.message)): w for w in caught}.values():
        warnings.warn_explicit(
            message=warning.message,
            category=warning.category,
            filename=warning.filename,
            lineno=warning.lineno,
        )
    cautions = list(dict.fromkeys(plain(warning.message, 400) for warning in caught))
    found = gathered(traces, fit, comparison, budget, cautions)
    if blocks is not None:
        return replace(found, parts=found.parts | {"blocks": blocks})
    return replace(found, absent=found.absent | {"blocks": f"no block sizes: {why}."})


def gathered(
    traces: xr.Dataset,
    fit: Fit,
    comparison: Comparison,
    budget: Budget | None = None,
    cautions: Iterable[str] = (),
) -> Findings:
    """What is known of a trace, and why the rest is not.

    Parameters
    ----------
    traces : Dataset
    fit : Fit
    comparison : Comparison
        Of that fit with these traces.
    budget : Budget, optional
    cautions : iterable of str
    """
    source = trace_name(traces)
    # Folders are nobody's business but the writer's.
    short = Path(source).name or source
    traces = traces.sel(layer=fit.data["layer"].values)
    known = {name: comparison.part(name) for name in PARTS}
    parts = {name: part for name, part in known.items() if part is not None}
    absent = {
        name: f"{plain(why, 400).removesuffix('.')}.".replace(source, short)
        for name, why in comparison.absent.items()
        if name in PARTS
    }
    if fit.data.attrs["chain"] == "kinetic" and not {"goodness"} & {*parts, *absent}:
        absent["goodness"] = (
            "no goodness of fit: to fit so many kinetic chains to simulated traces takes long; "
            "isingmoe compare does it."
        )
    if budget is None:
        absent["budget"] = (
            "no position, topic and token's id among the bits: they take minutes; run isingmoe "
            "budget, and give its file as --budget."
        )
    if traces.sizes["layer"] == 1:
        absent["depth"] = "nothing over depth: there is one layer."
    said = [line.replace(source, short) for line in [*cautions, *_unfinished(parts)]]
    return Findings(traces, fit, comparison, budget, parts, absent, said)


def _unfinished(parts: dict[str, xr.Dataset]) -> Iterator[str]:
    """Which p-values rest on fits to simulated data that did not converge."""
    test = parts.get("goodness")
    if test is None or "n_unfinished" not in test:
        return
    n = test["n_unfinished"]
    layers = n["layer"].values[n.values > 0].tolist()
    if layers:
        yield (
            f"goodness of fit: {int(n.sum())} of {n.size * test.sizes['simulation']} fits to "
            f"simulated data did not converge (layer {', '.join(map(str, layers))}); p chain is "
            "less sure there"
        )


def shares_of(comparison: Comparison) -> Budget | None:
    """The bits that a comparison knows of: load, chain and what is left; held out, or none."""
    data = comparison.data
    if "held_out_bits" not in data:
        return None
    load = data["bits_uniform"] - data["held_out_bits_load"]
    chain = data["held_out_bits_load"] - data["held_out_bits"]
    unknown = xr.full_like(load, np.nan)
    share = xr.Variable("share", ["load", "chain", "left"])
    return Budget(
        xr.Dataset(
            {
                "bits": xr.concat([load, chain, data["held_out_bits"]], share),
                "bits_error": xr.concat([unknown, data["held_out_gain_error"], unknown], share),
                "bits_uniform": data["bits_uniform"],
            },
            attrs={"model": data.attrs["model"]},
        )
    )


def _block_sizes(
    traces: xr.Dataset, fit: Fit, seed: int, track: Track | None
) -> tuple[xr.Dataset | None, str]:
    """Lengths against the size of blocks; or none, and why."""
    named = None if track is None else lambda layers: track(layers, "block sizes")
    try:
        return block_sizes(traces, fit, **_BLOCKS, seed=seed, track=named), ""
    except ValueError as error:
        text = str(error).replace(trace_name(traces), Path(trace_name(traces)).name)
        return None, plain(text, 400).removesuffix(".")


def _default_kind(traces: xr.Dataset) -> dict[str, Any]:
    if traces.attrs["ranked"] or traces.attrs["top_k"] == 1:
        return {"chain": "potts"}
    return {"chain": "kinetic", "coupling": "diagonal"}


def _affordable(fit: Fit, traces: xr.Dataset, costs: Costs) -> tuple[str, ...]:
    """Parts that are measured in less than a minute together."""
    if fit.data.attrs["chain"] != "kinetic":
        return PARTS
    n_tokens = int(traces["length"].sum()) * fit.data.sizes["layer"]
    if n_tokens * (costs.n_simulations or 19) <= _MOST_REFITTED:
        return PARTS
    return tuple(name for name in PARTS if name != "goodness")


def _check_budget(budget: Budget, traces: xr.Dataset) -> None:
    for name in ("model", "num_experts", "top_k"):
        got, expected = budget.data.attrs.get(name), traces.attrs[name]
        if got != expected:
            raise ValueError(
                f"budget: {name}: expected {plain(expected)!r} as in {trace_name(traces)}, got "
                f"{plain(got)!r}; it is of another trace"
            )
