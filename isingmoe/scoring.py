"""Fitted chains on traces, as they are."""

from __future__ import annotations

import hashlib

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._text import about
from isingmoe.curvature import mean_covariance
from isingmoe.fitted import Fit
from isingmoe.histories import Histories
from isingmoe.kinds import Settings
from isingmoe.kinetic import value_and_slope
from isingmoe.likelihood import check_counts, log_likelihood, pair_counts, token_pairs
from isingmoe.loads import load_values
from isingmoe.regressed import hash_of
from isingmoe.regression import followed_values
from isingmoe.stationary import markov_chain

__all__ = ["fitted_layer", "score"]

Array = NDArray[np.floating]


def score(fit: Fit, traces: xr.Dataset) -> tuple[xr.Dataset, bool]:
    """Bits per token of fitted chains on traces, as they are.

    Parameters
    ----------
    fit : Fit
    traces : Dataset
        With the layers of the fit, in their order.

    Returns
    -------
    Dataset
        Per layer `bits_per_token` of the chain, `bits_load` of independent tokens with the
        chain's own load, and `n_pairs`.
    bool
        Whether these are the tokens that the chains were fitted to.
    """
    of_layer = _regressed_layer if fit.is_regressed else _counted_layer
    seen, rows = hashlib.sha256(), []
    for place in range(traces.sizes["layer"]):
        chained, alone, n_tokens, data = of_layer(fit, traces, place)
        seen.update(data)
        bits = n_tokens * np.log(2)
        rows.append((-chained / bits, -alone / bits, n_tokens))
    names = ("bits_per_token", "bits_load", "n_pairs")
    attributes = (
        about("bits per token of the chain on these traces", "bit/token"),
        about("bits per token of the chain's load alone on these traces", "bit/token"),
        about("tokens that are predicted"),
    )
    scored = xr.Dataset(
        {
            name: ("layer", np.array(column), attribute)
            for name, column, attribute in zip(
                names, zip(*rows, strict=True), attributes, strict=True
            )
        },
        coords={"layer": fit.data["layer"]},
    )
    return scored, seen.hexdigest() == fit.data.attrs["data_sha256"]


def _counted_layer(fit: Fit, traces: xr.Dataset, place: int) -> tuple[float, float, int, bytes]:
    chain = fit.data.attrs["chain"]
    _, transition, stationary = markov_chain(fit.log_weight()[place])
    counts = pair_counts(traces, place, chain)
    check_counts(traces, place, counts, chain)
    chained = log_likelihood(counts, transition)
    alone = log_likelihood(counts, stationary[..., None, :])
    return chained, alone, token_pairs(counts), counts.tobytes()


def _regressed_layer(fit: Fit, traces: xr.Dataset, place: int) -> tuple[float, float, int, bytes]:
    problem, table = fitted_layer(fit, traces, place)
    if "sequence" in fit.data.attrs["field"]:
        tau = float(fit.data["sequence_spread"][place]) ** -2
        values = followed_values(problem, table, tau, mean_covariance(problem, table))
    else:
        values, _ = value_and_slope(problem, table)
    alone = load_values(problem, fit.data["marginal"].values[place])
    return float(values.sum()), alone, len(problem.sets), hash_of(problem)


def fitted_layer(fit: Fit, traces: xr.Dataset, place: int) -> tuple[Histories, Array]:
    """Tokens of a layer, and the table of log-weights that a fit has for them.

    Parameters
    ----------
    fit : Fit
        Fitted token by token.
    traces : Dataset
        With the layers of the fit, in their order.
    place : int

    Returns
    -------
    Histories
    ndarray (row, expert)
        Random fields are nought.
    """
    row = fit.data.isel(layer=place)
    kind = Settings(**fit.settings).kind(traces).kind
    problem = kind.problem(traces, place, merge=False, longest=int(fit.data.attrs["last_position"]))
    q = problem.n_experts
    sides = [row["J"].values, row["J"].values.swapaxes(1, 2)][: 1 + problem.both_sides]
    couplings = [J.reshape(-1, q) for J in sides if kind.reach]
    change = row["h_position"].values if "h_position" in row else np.zeros((1, q))
    zeros = np.zeros((sum(problem.groups) + 1, q))
    return problem, np.concatenate([*couplings, row["h"].values + change, zeros])
