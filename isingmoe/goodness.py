"""Whether a fitted chain can be what was measured: a p-value for the whole decay of C(d)."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from isingmoe import _provenance
from isingmoe._seeds import Seed, seed_sequence
from isingmoe._text import about
from isingmoe.bootstrap_fits import Redrawn, Request, redrawn
from isingmoe.centrings import check_centre, distances
from isingmoe.fitted import Fit, matching
from isingmoe.kinds import Settings
from isingmoe.likelihood import check_counts, pair_counts
from isingmoe.regressed import hash_of
from isingmoe.simulated_tests import checked_simulations, departures, p_values
from isingmoe.traces import Track

__all__ = ["goodness_of_fit"]

Array = NDArray[Any]

# By default of chains fitted to pair counts, and of kinetic ones, whose fits take seconds.
_N_COUNTED, _N_KINETIC = 99, 19


def goodness_of_fit(
    fit: Fit,
    traces: xr.Dataset,
    *,
    centre: str = "global",
    max_distance: int = 64,
    n_simulations: int | None = None,
    refit: bool | None = None,
    seed: Seed = 0,
    track: Track | None = None,
) -> xr.Dataset:
    """Test whether fitted chains give the measured decay of C(d): a parametric bootstrap.

    Parameters
    ----------
    fit : Fit
        Of potts or ising chains of largest likelihood, or of kinetic chains.
    traces : Dataset
        Those it was fitted to, or others of the same model.
    centre : {"global", "position", "sequence"}
        The mean that measured correlations are taken about, see `correlation`. About the global
        mean a difference of load between texts, or a drift along them, counts against a chain
        that has none; about that of the sequence or the position it does not.
    max_distance : int
        Largest distance; less where the sequences are shorter.
    n_simulations : int, optional
        At least 2. 99 by default, and 19 of kinetic chains: the least p-value is
        1 / (n_simulations + 1).
    refit : bool, optional
        Whether a chain is fitted to every simulation, as it was to the traces. By default if
        these are the traces of the fit; for others the chain is taken as it is.
    seed : int, SeedSequence or Generator
        Every simulation of every layer draws from a child of its own.
    track : callable, optional
        Wraps the iteration over the simulations of all layers, for a progress bar.

    Returns
    -------
    Dataset
        `discrepancy` and `discrepancy_p_value` (layer), `discrepancy_null` (layer,
        simulation); `discrepancy_curve`, measured less predicted C(d), and
        `discrepancy_curve_z`, how far it lies from that of the simulations in units of their
        spread (layer, distance), NaN at distance 0 and where there are no pairs;
        `n_unfinished` (layer), the simulations whose fit did not converge.

    Raises
    ------
    ValueError
        If no tokens can be drawn from such chains (topk chains, and potts chains by
        pseudolikelihood), the traces have other layers, experts or no neighbours, or an
        argument is out of range.

    Notes
    -----
    Traces of the same lengths with the same gaps are drawn from the chain of a layer, with the
    changes of its field along the text and random fields between sequences where it has them.
    A chain of the same kind is fitted to each, and its predicted C(d) taken from the measured
    one. Every such difference, that of the traces among them, is standardised by the mean and
    the spread of all others; the discrepancy is the mean square over the distances from 1 on,
    about 1 where the chain is right. A tail that is too slow adds to it at every distance. The
    p-value is (1 + simulations with as large a one) / (1 + simulations).

    Ising chains are drawn each for itself, k of them on by chance only. Where exactly k are on
    the variance of the summed C(d) is larger, by E / (E - 1) for independent tokens, so that few
    experts alone can speak against them.

    Of a kinetic chain tokens with fewer than k experts count as gaps. Its curve is predicted by
    a run of 524,288 tokens where the chain cannot be solved, and where its field changes along
    the text or between sequences by the same measurement on at least four copies of the traces.
    A penalty or number of cosines that was cross-validated stays as it was chosen.

    References
    ----------
    A. C. Davison and D. V. Hinkley, Bootstrap Methods and their Application (Cambridge
    University Press, 1997), chapter 4.
    """
    traces = matching(fit, traces)
    n = _checked(fit, traces, centre, max_distance, n_simulations)
    n_layers = traces.sizes["layer"]
    with threadpool_limits(1, user_api="blas"):
        if refit is None:
            refit = _is_fitted_to(fit, traces)
        longest = int(traces["length"].max())
        *by_layer, predictions = seed_sequence(seed).spawn(n_layers + 1)
        seeds = [child.spawn(n) for child in by_layer]
        run = int(predictions.generate_state(1)[0])
        request = Request(centre, min(max_distance, longest - 1) + 1, refit, run)
        steps = range(n_layers * n)
        rows: list[dict[str, Any]] = []
        layer: Redrawn | None = None
        curves: list[Any] = []
        for step in steps if track is None else track(steps):
            place, simulation = divmod(step, n)
            if layer is None or simulation == 0:
                layer = redrawn(fit, traces, place, request)
                curves = [layer.observed()]
            curves.append(layer.simulated(seeds[place][simulation]))
            if simulation == n - 1:
                rows.append(_judged(curves) | {"n_unfinished": layer.n_unfinished})
    return _labelled(rows, fit, traces, request, seed)


def _judged(curves: list[Any]) -> dict[str, Any]:
    """What is reported of a layer, from its curves and those of the simulations."""
    difference = np.array([c.measured - c.predicted for c in curves])
    scale = float(np.abs(curves[0].measured[0]))
    z = np.full_like(difference, np.nan)
    known = np.asarray(np.isfinite(difference).all(0))
    known[0] = False
    z[:, known] = departures(difference[:, known], scale)
    discrepancy = (z[:, known] ** 2).mean(1) if known.any() else np.full(len(z), np.nan)
    return {
        "discrepancy": discrepancy[0],
        "discrepancy_p_value": p_values(discrepancy) if known.any() else np.nan,
        "discrepancy_null": discrepancy[1:],
        "discrepancy_curve": difference[0],
        "discrepancy_curve_z": z[0],
    }


def _labelled(
    rows: list[dict[str, Any]], fit: Fit, traces: xr.Dataset, request: Request, seed: Seed
) -> xr.Dataset:
    by_distance = ("layer", "distance")
    declared = {
        "discrepancy": (("layer",), "mean square z of measured less predicted C(d)"),
        "discrepancy_p_value": (("layer",), "chance of as large a discrepancy if the chain holds"),
        "discrepancy_null": (("layer", "simulation"), "discrepancy of simulated traces"),
        "discrepancy_curve": (by_distance, "measured less predicted correlation"),
        "discrepancy_curve_z": (by_distance, "the same in units of the spread of simulations"),
        "n_unfinished": (("layer",), "simulations whose fit did not converge"),
    }
    arguments = {
        "centre": request.centre,
        "max_distance": request.n_distances - 1,
        "n_simulations": len(rows[0]["discrepancy_null"]),
        "refit": int(request.refit),
    }
    provenance = _provenance.record(
        "goodness_of_fit",
        arguments,
        inputs={"traces": _provenance.describe(traces), "fit": _provenance.describe(fit.data)},
        seed=seed,
    )
    return xr.Dataset(
        {
            name: (dims, np.array([row[name] for row in rows]), about(text))
            for name, (dims, text) in declared.items()
        },
        coords={
            "layer": traces["layer"],
            "distance": ("distance", np.arange(request.n_distances), about("distance", "token")),
        },
        attrs={**arguments, "provenance": provenance},
    )


def _is_fitted_to(fit: Fit, traces: xr.Dataset) -> bool:
    """Whether these are the tokens that the chains were fitted to."""
    seen = hashlib.sha256()
    kind = Settings(**fit.settings).kind(traces)
    for place in range(traces.sizes["layer"]):
        if fit.is_regressed:
            seen.update(hash_of(kind.kind.problem(traces, place)))
        else:
            chain = fit.data.attrs["chain"]
            counts = pair_counts(traces, place, chain)
            check_counts(traces, place, counts, chain)
            seen.update(counts.tobytes())
    return seen.hexdigest() == fit.data.attrs["data_sha256"]


def _checked(
    fit: Fit, traces: xr.Dataset, centre: str, max_distance: int, n_simulations: int | None
) -> int:
    """The number of simulations; a ValueError where an argument is out of range."""
    check_centre(traces, centre)
    if max_distance < 1:
        raise ValueError(f"max_distance: expected at least 1, got {max_distance}")
    # Raises where no sequence has two tokens.
    distances(traces, max_distance)
    if n_simulations is None:
        return _N_KINETIC if fit.is_regressed else _N_COUNTED
    return checked_simulations(n_simulations)
