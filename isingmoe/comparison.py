"""What a fitted chain predicts, beside what was measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe import _provenance
from isingmoe._storage import Saved, check_content, read_dataset
from isingmoe._text import about, interval, number, plain, render, report, with_errors
from isingmoe.decay import decay_fit
from isingmoe.equilibrium import load_balance
from isingmoe.fitted import Fit
from isingmoe.inference import cross_validate, score
from isingmoe.neighbours import near_distances, neighbour_overlap, overlap_columns
from isingmoe.observables import CENTRES, correlation
from isingmoe.prediction import predicted_correlation
from isingmoe.traces import trace_name

__all__ = ["Comparison", "compare", "open_comparison"]

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
        `predicted` (layer, distance), `measured` and `measured_error` (layer, centre,
        distance), `shuffled` (layer, distance), correlation lengths, load entropy and KL,
        and bits per token in sample and held out.
    """

    data: xr.Dataset

    def __str__(self) -> str:
        data = self.data

        def lengths(centre: str) -> list[str]:
            row = data.sel(centre=centre)
            names = ("correlation_length", "correlation_length_low", "correlation_length_high")
            values = zip(*(row[name].values for name in names), strict=True)
            return [interval(*triple) for triple in values]

        def gain(name: str) -> list[str]:
            return [number(v) for v in (data[name] - data[self._score()]).values]

        held_out = "held_out_bits" in data
        columns: dict[str, Any] = {
            "layer": data["layer"].values,
            "self-coupling J": with_errors(
                data["self_coupling"].values, data["self_coupling_error"].values
            ),
            "spread": [number(v, 2) for v in data["J_spread"].values],
            "ξ chain": [number(v, 2) for v in data["predicted_length"].values],
            "ξ measured": lengths("global"),
            "ξ within texts": lengths("sequence") if "sequence" in data["centre"] else [],
            "KL": [number(v, 4) for v in data["kl"].values],
            "bits/token": [number(v) for v in data[self._score()].values],
            "vs load": gain("held_out_bits_load" if held_out else "bits_load"),
            "vs uniform": gain("bits_uniform"),
        }
        columns = {name: column for name, column in columns.items() if len(column)}
        a = data.attrs
        title = (
            f"{plain(a['model'])}: {a['chain']} chain, coupling {a['coupling']}, field "
            f"{a['field']}; {a['n_sequences']} sequences, {a['n_tokens']} tokens"
        )
        scored = "bits/token in sample"
        if held_out:
            scored = f"bits/token on held-out sequences ({a['n_folds']} folds)"
        elif not a["same_data"]:
            scored = "bits/token of this fit on these traces, which it was not fitted to"
        lines = [
            f"J at T = 1, zero-sum gauge, ± standard error ({a['uncertainty']}); ξ in tokens with "
            "a 95 % bootstrap interval, by the decay of C(d); KL of the load from uniform in nats;",
            f"{scored}; vs load, vs uniform: bits gained over independent tokens with the same "
            "load, and over a uniform router.",
        ]
        if a["chain"] == "ising":
            lines.append(
                "ising: ξ chain by the decay of the summed C(d); bits summed over on/off chains."
            )
        parts = report(title, columns, lines)
        if "overlap" in data:
            overlaps, note = overlap_columns(data, "overlap_distance")
            parts = (*parts, "", *report("Neighbouring tokens", overlaps, [note]))
        return render(*parts)

    def _score(self) -> str:
        return "held_out_bits" if "held_out_bits" in self.data else "bits_per_token"


def compare(
    fit: Fit,
    traces: xr.Dataset,
    *,
    centres: Iterable[str] = CENTRES,
    max_distance: int = 64,
    n_resamples: int = 200,
    n_shuffles: int = 20,
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
    max_distance : int
        Largest distance of the correlations.
    n_resamples : int
        Bootstrap resamples of the sequences.
    n_shuffles : int
        Random orders behind the spread of the shuffled overlaps; 0 leaves the overlaps
        out.
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
    traces = _matching(fit, traces)
    centres = _checked_centres(centres)
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
    balance = load_balance(traces)
    fitted = fit.data[
        [
            "self_coupling",
            "self_coupling_error",
            "J_spread",
            "bits_uniform",
            "n_parameters",
        ]
    ]
    data = xr.merge(
        [
            measured.rename(correlation="measured", correlation_error="measured_error"),
            predicted,
            _predicted_length(fit, predicted["predicted"], measured),
            curves[0]["shuffled"],
            balance,
            fitted,
        ],
        combine_attrs="override",
        join="exact",
        compat="no_conflicts",
    )
    if n_shuffles:
        near = neighbour_overlap(
            traces,
            distances=near_distances(traces),
            n_shuffles=n_shuffles,
            seed=seed,
            track=_tracked(track, "overlap of neighbours"),
        )
        data = data.assign(near.rename(distance="overlap_distance").data_vars)
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
    arguments = {"max_distance": max_distance, "n_resamples": n_resamples, "n_folds": folds}
    names = ("chain", "coupling", "field", "uncertainty", "model", "num_experts", "top_k")
    data.attrs = {
        "conventions": CONVENTIONS,
        **{name: fit.data.attrs[name] for name in names},
        **arguments,
        "same_data": int(is_known),
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
    data = read_dataset(path)
    check_content(
        data,
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


def _matching(fit: Fit, traces: xr.Dataset) -> xr.Dataset:
    """The fit's layers of the traces."""
    experts, expected = traces.attrs.get("num_experts"), fit.data.attrs["num_experts"]
    if experts != expected:
        raise ValueError(
            f"{trace_name(traces)}: num_experts: expected {expected} as in the fit, got "
            f"{experts}; these traces are of another model"
        )
    layers = fit.data["layer"].values
    missing = np.setdiff1d(layers, traces["layer"].values)
    if missing.size:
        raise ValueError(
            f"{trace_name(traces)}: layer: the fit has {missing.tolist()}, the traces do not; "
            "fit again"
        )
    return traces.sel(layer=layers)


def _predicted_length(fit: Fit, predicted: xr.DataArray, measured: xr.Dataset) -> xr.Dataset:
    if (
        fit.data.attrs["chain"] in ("potts", "kinetic")
        and not fit.data["correlation_length"].isnull().all()
    ):
        length: Any = fit.layer_length()
    else:
        error = measured["correlation_error"].sel(centre="global").values
        length = [decay_fit(curve, e)[0] for curve, e in zip(predicted.values, error, strict=True)]
    attributes = about("correlation length of the chain", "token")
    return xr.Dataset(
        {"predicted_length": ("layer", np.asarray(length), attributes)},
        coords={"layer": fit.data["layer"]},
    )
