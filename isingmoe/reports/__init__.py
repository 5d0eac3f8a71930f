"""The report: everything that is found on a trace, on one page that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from isingmoe._storage import check_output, replace_whole
from isingmoe.budgets import Budget
from isingmoe.fitted import Fit
from isingmoe.reports.findings import Costs, measure
from isingmoe.reports.page import render_page

__all__ = ["Report", "check_page", "report"]

Track = Callable[[Iterable[int], str], Iterable[int]]


@dataclass(frozen=True)
class Report:
    """A page.

    Attributes
    ----------
    html : str
        All of it: style, script and figures are inside, and nothing is loaded.
    """

    html: str

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the page.

        Raises
        ------
        OSError
            If the file exists and `overwrite` is false, or it cannot be written.
        ValueError
            If the name does not end in .html.
        """
        path = check_page(path, overwrite)
        return replace_whole(path, lambda part: part.write_text(self.html, encoding="utf-8"))

    def _repr_html_(self) -> str:
        """In a notebook, the page in a frame of its own."""
        from html import escape

        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts" width="100%" '
            'height="800" style="border: 0"></iframe>'
        )


def check_page(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """A path that a page can be written to.

    Raises
    ------
    OSError
        As `check_output` does.
    ValueError
        If the name does not end in .html.
    """
    path = check_output(path, overwrite)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{path}: expected a name that ends in .html")
    return path


def report(
    traces: xr.Dataset,
    fit: Fit | None = None,
    *,
    budget: Budget | None = None,
    max_distance: int = 64,
    n_resamples: int = 200,
    n_simulations: int | None = None,
    n_folds: int = 3,
    seed: int = 0,
    command: str | None = None,
    track: Track | None = None,
) -> Report:
    """Measure a trace, put a chain beside it, and say what that means on one page.

    Parameters
    ----------
    traces : Dataset
    fit : Fit, optional
        Of these traces, or of others of the same model. By default Potts chains of the primary
        expert, which are exact; where the trace has none, kinetic chains with a coupling of each
        expert to itself.
    budget : Budget, optional
        Of the same traces; to compute it takes longer than all the rest.
    max_distance : int
        Largest distance of the correlations, in tokens.
    n_resamples : int
        Bootstrap resamples of the sequences.
    n_simulations : int, optional
        Data sets simulated for p-values; by default 39, and 19 of kinetic chains.
    n_folds : int
        Folds of the held-out score; 0 for none.
    seed : int
    command : str, optional
        What was typed, to be shown.
    track : callable, optional
        Wraps an iteration over layers, given what it is for: a progress bar for each stage.

    Returns
    -------
    Report

    Raises
    ------
    TraceSchemaError
        If the Dataset is not a trace.
    ValueError
        If nothing can be fitted or compared, or the fit or the budget is of another model.
    ConvergenceError
        If the fit did not converge.

    Notes
    -----
    What cannot be measured on a trace is left out, and the page says why. Text that comes out
    of the file is escaped, cut, and freed of control characters.
    """
    costs = Costs(max_distance, n_resamples, n_simulations, n_folds)
    found = measure(traces, fit, budget, costs, seed, track)
    return Report(render_page(found, costs, seed, command, track))
