"""What a fitted chain predicts, beside what was measured."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe import _provenance
from isingmoe._storage import Saved, read_content
from isingmoe._text import about, render
from isingmoe.comparison_parts import PARTS, Subject, checked_parts, measured_parts
from isingmoe.comparison_tables import tables
from isingmoe.decay import decay_fit
from isingmoe.equilibrium import load_balance
from isingmoe.fitted import Fit, matching
from isingmoe.inference import cross_validate, score
from isingmoe.length_estimates import correlation_lengths
from isingmoe.observables import CENTRES, correlation
from isingmoe.prediction import predicted_correlation
from isingmoe.simulated_tests import checked_simulations

__all__ = ["PARTS", "Comparison", "compare", "open_comparison"]

CONVENTIONS = "isingmoe-comparison-1"

# What the figures read.
_VARIABLES = (
    "layer",
    "centre",
    "distance",
    "measured",
    "measured_error",
    "predicted",
    "predicted_length",
    "shuffled",
    "correlation_length",
    "correlation_length_low",
    "correlation_length_high",
    "kl",
    "kl_null",
    "self_coupling",
    "self_coupling_error",
    "bits_per_token",
    "bits_load",
    "bits_uniform",
)

Array = NDArray[np.floating]
Track = Callable[[Iterable[int], str], Iterable[int]]


@dataclass(frozen=True)
class Comparison(Saved):
    """Prediction and measurement of every layer.

    Attributes
    ----------
    data : Dataset
        `measured` and `measured_error` (layer, centre, distance); `predicted` and
        `predicted_spread`, its standard error (layer, distance); `z` (layer, centre,
        distance), measured less predicted over the error of both; `shuffled` (layer,
        distance); correlation lengths, among them `length` and `length_ratio` (layer,
        estimator); load entropy and KL; bits per token in sample and held out. And what the
        parts measured, under the names that `expert_correlation`, `baseline_correlation`,
        `decay_laws`, `goodness_of_fit`, `chapman_kolmogorov`, `block_sizes`, `activation` and
        `mem` give it; of experts `expert_measured`, `expert_predicted` and `expert_z` (layer,
        expert, distance).
    """

    data: xr.Dataset

    @property
    def absent(self) -> dict[str, str]:
        """Why parts could not be measured."""
        return json.loads(self.data.attrs.get("absent", "{}"))

    def part(self, name: str) -> xr.Dataset | None:
        """What one part measured; None where it was not asked for or could not be.

        Parameters
        ----------
        name : str
            One of `PARTS`: "overlap", "experts", "baselines", "laws", "goodness", "ck",
            "blocks", "activation", "mem".

        Raises
        ------
        ValueError
            If there is no such part.
        """
        checked_parts((name,))
        found = self.data.filter_by_attrs(part=name)
        return found if found.data_vars else None

    def __str__(self) -> str:
        notes = [f"Left out: {why}." for why in self.absent.values()]
        return render(*tables(self.data), *(["", *notes] if notes else []))


def compare(
    fit: Fit,
    traces: xr.Dataset,
    *,
    centres: Iterable[str] = CENTRES,
    parts: Iterable[str] = PARTS,
    max_distance: int = 64,
    n_resamples: int = 200,
    n_shuffles: int = 20,
    n_simulations: int | None = None,
    n_folds: int = 5,
    seed: int = 0,
    track: Track | None = None,
) -> Comparison:
    """Put a fit's predictions beside what is measured on traces.

    Parameters
    ----------
    fit : Fit
    traces : Dataset
        Those it was fitted to, or others of the same model.
    centres : iterable of {"global", "position", "sequence"}
        The means that measured correlations are taken about, "global" among them;
        "position" is left out where there is one sequence.
    parts : iterable of str
        What else to measure: "overlap" of neighbours; "experts", C(d) of each; "baselines";
        decay "laws"; "goodness" of fit; "ck", the Chapman-Kolmogorov test; "blocks", lengths
        against the size of blocks; "activation" over position; "mem", the maximum-entropy
        equilibrium. One that a trace does not allow is left out, and `absent` says why.
    max_distance : int
        Largest distance of the correlations.
    n_resamples : int
        Bootstrap resamples of the sequences.
    n_shuffles : int
        Traces drawn for the spread of each baseline, at least 2.
    n_simulations : int, optional
        Data sets simulated for the p-values; see `goodness_of_fit` and
        `chapman_kolmogorov` for how many by default.
    n_folds : int
        Folds for the held-out score of the same kind of chain, if these are the traces it
        was fitted to; others score the fit as it is. 0 for none.
    seed : int
    track : callable, optional
        Wraps an iteration over layers, given what it is for.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If the traces do not have the fit's layers or number of experts.

    Notes
    -----
    `predicted_length` of a Potts chain is -1 / ln of the second eigenvalue's modulus. The
    Ising chains of a layer each have their own; for them it is the decay of the summed
    C(d), fitted over the distances at which it is above twice the error of the measured one.
    """
    traces = matching(fit, traces)
    centres, chosen = _checked_centres(centres), checked_parts(parts)
    if n_shuffles < 2:
        raise ValueError(f"n_shuffles: expected at least 2 for a spread, got {n_shuffles}")
    if n_simulations is not None:
        checked_simulations(n_simulations)
    chain = fit.data.attrs["chain"]
    curves = [
        correlation(
            traces,
            primary=chain == "potts",
            centre=centre,
            max_distance=max_distance,
            n_resamples=n_resamples,
            seed=seed,
            track=_tracked(track, f"C(d) about the {centre} mean"),
        )
        for centre in centres
        if centre != "position" or traces.sizes["sequence"] > 1
    ]
    measured = xr.concat(
        [curve.drop_vars(["resample", "overlap", "n_pairs", "shuffled"]) for curve in curves],
        xr.Variable("centre", [curve.attrs["centre"] for curve in curves]),
        combine_attrs="override",
    ).transpose("layer", "centre", "distance")
    predicted = predicted_correlation(fit, measured.sizes["distance"] - 1, seed)
    fitted = fit.data[
        [
            "self_coupling",
            "self_coupling_error",
            "J_spread",
            "bits_uniform",
            "n_parameters",
        ]
    ]
    subject = Subject(
        fit=fit,
        traces=traces,
        measured=curves[0],
        predicted=predicted,
        is_primary=chain == "potts",
        n_resamples=n_resamples,
        n_shuffles=n_shuffles,
        n_simulations=n_simulations,
        seed=seed,
        track=track,
    )
    absent: dict[str, str] = {}
    of_chain = _predicted_length(fit, predicted["predicted"], measured)
    data = xr.merge(
        [
            measured.rename(correlation="measured", correlation_error="measured_error"),
            predicted[["predicted", "predicted_error", "predicted_spread"]],
            _deviation(measured, predicted),
            of_chain,
            correlation_lengths(curves[0], *(of_chain[name] for name in of_chain)),
            curves[0]["shuffled"],
            load_balance(traces),
            fitted,
            *measured_parts(subject, chosen, absent),
        ],
        combine_attrs="override",
        join="exact",
        compat="no_conflicts",
    )
    scored, is_known = score(fit, traces)
    data = data.assign(scored.data_vars)
    folds = min(n_folds, traces.sizes["sequence"]) if is_known else 0
    if folds > 1:
        held_out = cross_validate(
            traces,
            **fit.settings,
            n_folds=folds,
            seed=seed,
            track=_tracked(track, "held-out score"),
        )
        data = data.assign(held_out.data_vars)
    arguments = {
        "max_distance": max_distance,
        "n_resamples": n_resamples,
        "n_shuffles": n_shuffles,
        "n_folds": folds,
        "parts": ",".join(chosen),
    }
    names = ("chain", "coupling", "field", "uncertainty", "model", "num_experts", "top_k")
    data.attrs = {
        "conventions": CONVENTIONS,
        **{name: fit.data.attrs[name] for name in names},
        **arguments,
        "same_data": int(is_known),
        "absent": json.dumps(absent),
        "n_sequences": traces.sizes["sequence"],
        "n_tokens": int(traces["length"].sum()),
        "provenance": _provenance.record(
            "compare",
            arguments,
            inputs={
                "traces": _provenance.describe(traces),
                "fit": _provenance.describe(fit.data),
            },
            seed=seed,
        ),
    }
    return Comparison(data)


def open_comparison(path: str | os.PathLike[str]) -> Comparison:
    """Read a comparison that `Comparison.save` wrote.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, ValueError
        If the file cannot be read or holds something else.
    """
    data = read_content(
        path,
        conventions=CONVENTIONS,
        variables=_VARIABLES,
        attributes=("chain", "coupling", "field", "uncertainty", "model"),
        remedy="make one with `isingmoe compare`",
    )
    return Comparison(data)


def _checked_centres(centres: Iterable[str]) -> tuple[str, ...]:
    chosen = (centres,) if isinstance(centres, str) else tuple(centres)
    if "global" not in chosen or not set(chosen) <= set(CENTRES):
        raise ValueError(
            f"centres: expected 'global' and any of {', '.join(CENTRES[1:])}, "
            f"got {', '.join(chosen) or 'none'}"
        )
    return chosen


def _tracked(track: Track | None, what: str) -> Callable[[Iterable[int]], Iterable[int]] | None:
    return None if track is None else lambda layers: track(layers, what)


def _deviation(measured: xr.Dataset, predicted: xr.Dataset) -> xr.Dataset:
    """Measured less predicted C(d), over the error of both; as if they were independent."""
    error = np.hypot(measured["correlation_error"], predicted["predicted_spread"].fillna(0))
    z = ((measured["correlation"] - predicted["predicted"]) / error).where(error > 0)
    z = z.transpose("layer", "centre", "distance")
    z.attrs = about("measured less predicted correlation over the error of both")
    return z.to_dataset(name="z")


def _predicted_length(fit: Fit, predicted: xr.DataArray, measured: xr.Dataset) -> xr.Dataset:
    """Correlation length of each layer's chain, and its standard error."""
    known = fit.data["correlation_length"]
    if fit.data.attrs["chain"] in ("potts", "kinetic") and not known.isnull().all():
        length: Any = fit.layer_length()
        length_error = fit.data["correlation_length_error"].values
    else:
        error = measured["correlation_error"].sel(centre="global").values
        length = [decay_fit(curve, e)[0] for curve, e in zip(predicted.values, error, strict=True)]
        length_error = np.full(len(length), np.nan)
    return xr.Dataset(
        {
            "predicted_length": (
                "layer",
                np.asarray(length),
                about("correlation length of the chain", "token"),
            ),
            "predicted_length_error": (
                "layer",
                np.asarray(length_error),
                about("standard error of that length", "token"),
            ),
        },
        coords={"layer": fit.data["layer"]},
    )
