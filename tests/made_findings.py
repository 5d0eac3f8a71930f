"""Findings made by hand, for the figures and the page: every part, at no cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import xarray as xr

import isingmoe as im
from isingmoe.reports.findings import Findings, gathered

DISTANCES = (1, 2, 3, 4, 8)
LAWS = ("exponential", "power-law", "stretched", "exponential+constant", "two-exponentials")
PARAMETERS = ("amplitude", "length", "exponent", "constant", "amplitude_2", "length_2")
CK_SIMULATIONS = 99
SOURCES = ("measured", "chain", "random", "shuffled", "position-shuffled")


def kolmogorov(layers: np.ndarray, n_experts: int, seed: int = 0) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    dims = ("layer", "ck_distance", "expert")
    one = rng.uniform(0.1, 0.6, (len(layers), 1, n_experts))
    predicted = one ** np.sqrt(DISTANCES)[:, None]
    estimated = predicted + 0.02 * rng.standard_normal(predicted.shape)
    return xr.Dataset(
        {
            "persistence": (dims, estimated),
            "persistence_error": (dims, np.full(predicted.shape, 0.02)),
            "persistence_predicted": (dims, predicted),
            "ck_discrepancy": ("layer", rng.random(len(layers))),
            "ck_p_value": (
                "layer",
                np.linspace(1 / (CK_SIMULATIONS + 1), 0.8, len(layers)),
                {"n_simulations": CK_SIMULATIONS},
            ),
            "ck_p_value_distance": (dims[:2], rng.random((len(layers), len(DISTANCES)))),
        },
        coords={"layer": layers, "ck_distance": list(DISTANCES), "expert": np.arange(n_experts)},
    )


def goodness(layers: np.ndarray, distance: np.ndarray, n_simulations: int = 19) -> xr.Dataset:
    rng = np.random.default_rng(1)
    z = np.zeros((len(layers), len(distance)))
    z[0, 3:] = 8.0
    return xr.Dataset(
        {
            "discrepancy": ("layer", rng.random(len(layers))),
            "discrepancy_p_value": (
                "layer",
                np.linspace(1 / (n_simulations + 1), 0.7, len(layers)),
            ),
            "discrepancy_null": (
                ("layer", "simulation"),
                rng.random((len(layers), n_simulations)),
            ),
            "discrepancy_curve_z": (("layer", "distance"), z),
            "n_unfinished": ("layer", np.zeros(len(layers), int)),
        },
        coords={"layer": layers, "distance": distance},
    )


def with_laws(comparison: im.Comparison) -> im.Comparison:
    """A comparison with decay laws, baselines and the spread of its prediction."""
    data = comparison.data
    n, d = data.sizes["layer"], data["distance"].values
    by_law = (n, len(LAWS))
    weight = np.random.default_rng(2).dirichlet(np.ones(len(LAWS)), n)
    scale = data["measured"].sel(centre="global").values[:, :1]
    curve = 0.3 * np.maximum(d, 1.0) ** -0.5
    parameter = np.full((*by_law, len(PARAMETERS)), np.nan)
    parameter[..., :3] = 0.5
    kinds = np.array([0.0, 0.01, 0.002])[:, None, None] * np.ones((3, n, len(d)))
    dims = ("layer", "law")
    return im.Comparison(
        data.assign_coords(
            law=list(LAWS),
            parameter=list(PARAMETERS),
            kind=["random", "shuffled", "position-shuffled"],
        ).assign(
            law_weight=(dims, weight),
            law_aic=(dims, -np.log(weight)),
            law_p_value=(dims, np.full(by_law, 0.001)),
            law_parameter=((*dims, "parameter"), parameter),
            law_parameter_error=((*dims, "parameter"), 0.1 * parameter),
            law_curve=(
                (*dims, "distance"),
                np.broadcast_to(scale[:, None] * curve, (*by_law, len(d))),
            ),
            law_first=("layer", np.ones(n, int)),
            law_last=("layer", np.full(n, d[-1])),
            baseline=(("kind", "layer", "distance"), kinds),
            baseline_spread=(("kind", "layer", "distance"), np.full(kinds.shape, 1e-3)),
            predicted_spread=(("layer", "distance"), np.full((n, len(d)), 1e-3)),
        )
    )


def findings(make_traces: Callable[..., xr.Dataset], **changes: object) -> Findings:
    """All parts of a report on a small trace, those that cost time made by hand."""
    traces = make_traces(n_sequences=12, n_positions=48, num_experts=6, **changes)
    fit = im.fit(traces, chain="potts", uncertainty="none")
    comparison = with_laws(
        im.compare(
            fit,
            traces,
            centres=("global", "position", "sequence"),
            max_distance=12,
            n_resamples=10,
            parts=("blocks", "activation", "mem"),
            n_folds=0,
        )
    )
    layers = traces["layer"].values
    known = gathered(traces, fit, comparison)
    made = {
        "goodness": goodness(layers, comparison.data["distance"].values),
        "ck": kolmogorov(layers, 6),
    }
    return replace(known, parts=known.parts | made)
