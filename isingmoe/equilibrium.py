"""Equilibrium: how far a load is from maximum entropy, and routing from detailed balance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.linalg import LinAlgError
from scipy.special import xlogy
from scipy.stats import chi2
from threadpoolctl import threadpool_limits

from isingmoe import _provenance
from isingmoe._kernels import overlaps
from isingmoe._schema import alike
from isingmoe._text import about
from isingmoe.errors import ConvergenceError
from isingmoe.estimators import MaximumLikelihood
from isingmoe.folds import folds_of, ratio_error
from isingmoe.histories import Histories
from isingmoe.kinds import Settings
from isingmoe.positions import Shape
from isingmoe.regression import Estimated, fold_fits, split
from isingmoe.traces import Track, each_layer, pack_layer, trace_name
from isingmoe.uncertainty import MOST_PARAMETERS, curvature_of, sandwich_spread, sequence_scores

__all__ = ["irreversibility", "load_balance", "load_entropy"]

Array = NDArray[Any]


def load_entropy(load: Array) -> Array:
    """Entropy of a load, in nats.

    Parameters
    ----------
    load : array_like (..., expert)
        Shares that sum to one.

    Returns
    -------
    ndarray (...)
    """
    return -xlogy(load, load).sum(-1)


def load_balance(traces: xr.Dataset) -> xr.Dataset:
    """Load of every expert, its entropy and its distance from the uniform load.

    Parameters
    ----------
    traces : Dataset

    Returns
    -------
    Dataset
        Per layer: `load` (layer, expert), the share of all assignments; `load_entropy` and
        `kl` = ln E - entropy, both corrected for the finite number of tokens, in nats;
        `kl_plugin`, not corrected; `kl_null`, the 95 % quantile of `kl` for a uniform
        router, and `kl_p_value`; `effective_experts` = exp(entropy).

    Raises
    ------
    TraceSchemaError
        If the Dataset is not a trace.
    ValueError
        If a layer has no token, or an id is out of range.

    Notes
    -----
    N tokens with k different experts each bias the plug-in entropy by -(m - k) / (2 k N),
    m the number of experts in use; for k = 1 this is the correction of Miller (1955). For
    a uniform router 2 k N (E - 1) / (E - k) times the plug-in distance is chi-square with
    E - 1 degrees of freedom. Both take tokens as independent; neighbours that share
    experts make the true spread wider.

    References
    ----------
    G. Miller, Note on the bias of information estimates, in Information Theory in
    Psychology (1955); D. Bershatsky and I. Oseledets, arXiv:2504.04444 (2025).
    """
    traces = alike(traces)
    n_experts, k = int(traces.attrs["num_experts"]), int(traces.attrs["top_k"])
    tokens, served = [], []
    for place in range(traces.sizes["layer"]):
        sets = pack_layer(traces, place, primary=False)
        n, occupied = overlaps.occupancy_counts(sets, n_experts)
        if not n.sum():
            raise ValueError(
                f"{trace_name(traces)}: expert_index: expected a token in layer "
                f"{int(traces['layer'][place])}, got none; leave the layer out"
            )
        tokens.append(n.sum())
        served.append(occupied.sum(0))
    n_tokens, assignments = np.array(tokens), np.array(served, float)
    load = assignments / assignments.sum(1, keepdims=True)
    bias = ((load > 0).sum(1) - k) / (2 * k * n_tokens)
    plugin = load_entropy(load)
    entropy = plugin + bias
    kl_plugin = np.log(n_experts) - plugin
    freedom = n_experts - 1
    # One choice alone (k = E) leaves no freedom: the load is uniform by construction.
    scale = (n_experts - k) / (2 * k * n_tokens * max(freedom, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        p_value = np.where(scale > 0, chi2.sf(kl_plugin / scale, freedom), 1.0)
    quantile = scale * chi2.ppf(0.95, freedom) - (n_experts - k) / (2 * k * n_tokens)
    expert = np.arange(n_experts)
    declared = {
        "load": (load, "share of the assignments", "1"),
        "load_entropy": (entropy, "entropy of the load, bias corrected", "nat"),
        "kl": (kl_plugin - bias, "distance from the uniform load, bias corrected", "nat"),
        "kl_plugin": (kl_plugin, "distance from the uniform load, plug-in", "nat"),
        "kl_null": (quantile, "95 % quantile of kl for a uniform router", "nat"),
        "kl_p_value": (p_value, "p-value of the distance for a uniform router", "1"),
        "effective_experts": (np.exp(entropy), "effective number of experts", "1"),
    }
    return xr.Dataset(
        {
            name: (
                ("layer", "expert")[: values.ndim],
                values,
                about(long_name, units),
            )
            for name, (values, long_name, units) in declared.items()
        },
        coords={"layer": traces["layer"], "expert": expert},
        attrs={
            "provenance": _provenance.record(
                "load_balance", {}, inputs=_provenance.describe(traces)
            )
        },
    )


def irreversibility(
    traces: xr.Dataset,
    *,
    coupling: str | None = None,
    field: str = "expert",
    reach: int = 1,
    decay: str | None = None,
    position: Shape | str | None = None,
    estimator: MaximumLikelihood | None = None,
    n_folds: int = 5,
    seed: int = 0,
    track: Track | None = None,
) -> xr.Dataset:
    """Entropy production of the routing along the text, nought at equilibrium.

    Parameters
    ----------
    traces : Dataset
    coupling, field, reach, decay, position, estimator
        Of the kinetic chain, as for `fit`. A symmetric coupling of one expert to a token is
        reversible by construction.
    n_folds : int
        Folds of the sequences.
    seed : int
        Of the folds.
    track : callable, optional
        Wraps the iteration over layers, for a progress bar.

    Returns
    -------
    Dataset
        Per layer, in nats per token: `entropy_production`, free of the bias of the fit, and
        its `entropy_production_error` over sequences; `entropy_production_in_sample`, what
        the chain fitted to all sequences shows on them, too large by at most about twice the
        number of its antisymmetric couplings over the number of tokens.

    Raises
    ------
    TraceSchemaError
        If the Dataset is not a trace.
    ValueError
        As `fit` does, and with fewer than two sequences or folds.
    ConvergenceError
        If a fit did not converge.

    Notes
    -----
    The rate is the mean of ln P(text) - ln P(text read backwards) for a token, P the fitted
    chain. For one distance it is the sum over a, b of (J_ab - J_ba) <n_a,i n_b,i+1>, up to
    the ends of the sequences. On sequences that the chain was not fitted to it is zero on
    average where text and its reversal are alike, whatever the chain; it may come out
    negative by noise. It is at most that of the process that was fitted, as a chain of
    finite reach sees it.

    The error counts a sequence twice: by its own part, and by what it does to the chain that
    others are read with. Of driven chains that is the spread of the estimate; at equilibrium,
    where both are noise times noise, it is too large, by a factor of about the root of two.
    It is NaN where the couplings have no standard errors: with more than 20,000 parameters, or
    where the tokens do not bound them.

    References
    ----------
    P. Gaspard, J. Stat. Phys. 117, 599 (2004); E. Roldan and J. M. R. Parrondo, Phys. Rev.
    Lett. 105, 150607 (2010).
    """
    traces = alike(traces)
    settings = Settings(
        chain="kinetic",
        coupling=coupling,
        field=field,
        reach=reach,
        decay=decay,
        position=position,
        estimator=estimator,
    )
    known = settings.kind(traces)
    kind, folds = known.kind, folds_of(traces, n_folds, seed)
    rows, late = [], []
    with threadpool_limits(1, user_api="blas"):
        for place in each_layer(traces, track):
            forward = kind.problem(traces, place)
            backward = kind.problem(traces, place, reverse=True)
            n = traces.sizes["sequence"]
            gain, found, converged = np.zeros(n), None, True
            for fold, found in fold_fits(kind, forward, folds, trace_name(traces)):
                converged = converged and found.maximum.converged
                ahead, back = split(forward, fold)[1], split(backward, fold)[1]
                gain += _surplus(found, ahead, back, n)
            whole = kind.estimate(forward, found)
            n_tokens = np.bincount(forward.sequence, minlength=n)
            in_sample = _surplus(whole, forward, backward, n).sum() / n_tokens.sum()
            error = _error(whole, backward, gain, n_tokens)
            rows.append((gain.sum() / n_tokens.sum(), error, in_sample))
            if not (converged and whole.maximum.converged):
                late.append(int(traces["layer"].values[place]))
    arguments = {**kind.arguments(), "n_folds": len(folds)}
    if late:
        raise ConvergenceError(
            f"{trace_name(traces)}: no convergence in layers {late} after "
            f"{arguments['max_iterations']} iterations; raise max_iterations or l2",
            None,
        )
    names = {
        "entropy_production": "entropy production, on held-out sequences",
        "entropy_production_error": "standard error of the entropy production",
        "entropy_production_in_sample": "entropy production, biased by the fit",
    }
    return xr.Dataset(
        {
            name: ("layer", np.array(column), about(text, "nat/token"))
            for (name, text), column in zip(names.items(), zip(*rows, strict=True), strict=True)
        },
        coords={"layer": traces["layer"]},
        attrs={
            **arguments,
            "provenance": _provenance.record(
                "irreversibility", arguments, inputs=_provenance.describe(traces), seed=seed
            ),
        },
    )


def _surplus(found: Estimated, ahead: Histories, back: Histories, n: int) -> Array:
    """Log-likelihood of sequences less that of the same read backwards, (sequence,)."""
    sums = [
        np.bincount(tokens.sequence, found.token_values(tokens), minlength=n)
        if len(tokens.sets)
        else np.zeros(n)
        for tokens in (ahead, back)
    ]
    return sums[0] - sums[1]


def _error(whole: Estimated, backward: Histories, gain: Array, n_tokens: Array) -> float:
    """Standard error of a gain by chains that were fitted to other sequences of the same traces.

    Parameters
    ----------
    whole : Estimated
        The chain fitted to all.
    backward : Histories
    gain, n_tokens : ndarray (sequence,)
    """
    kind = whole.kind
    if not kind.parameters.n:
        return ratio_error(gain, n_tokens)
    if kind.parameters.n > MOST_PARAMETERS:
        return np.nan
    try:
        curvature = curvature_of(whole)
    except LinAlgError:
        return np.nan
    if kind.law is not None and whole.strength is not None:
        backward = kind.law.at(backward, whole.strength)
    slope = sequence_scores(whole).sum(0) - sequence_scores(replace(whole, problem=backward)).sum(0)
    own = (gain - n_tokens * gain.sum() / n_tokens.sum())[n_tokens > 0]
    n = len(own)
    if n < 2:
        return np.nan
    through_chain = sandwich_spread(curvature, whole).columns @ slope
    return float(np.linalg.norm(own * np.sqrt(n / (n - 1)) + through_chain) / n_tokens.sum())
