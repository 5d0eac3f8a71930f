"""Fitting a chain to every layer of a router trace."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import xlogy

from isingmoe import _provenance
from isingmoe._text import about
from isingmoe.errors import ConvergenceError, ShortTraceWarning
from isingmoe.fitted import CONVENTIONS, Fit
from isingmoe.likelihood import (
    Counts,
    Family,
    MaximumLikelihood,
    check_counts,
    family_of,
    log_likelihood,
    pair_counts,
    token_pairs,
)
from isingmoe.stationary import length_of_gap, markov_chain, second_modulus
from isingmoe.traces import Track, each_layer, trace_name

__all__ = ["cross_validate", "fit", "score"]

# Fewer pairs than this for a parameter, and standard errors are no longer Gaussian.
_PAIRS_PER_PARAMETER = 5

Array = NDArray[np.floating]


def fit(
    traces: xr.Dataset,
    *,
    chain: str | None = None,
    coupling: str | None = None,
    field: str = "expert",
    estimator: MaximumLikelihood | None = None,
    track: Track | None = None,
) -> Fit:
    """Fit a chain to every layer of a trace.

    Parameters
    ----------
    traces : Dataset
        From `open_traces`; `traces.sel(layer=[7])` for some layers.
    chain : {"potts", "ising"}, optional
        potts: the primary expert, one chain of q = E states for a layer. ising: each
        expert on or off, E chains of spins. By default potts where the trace is ranked.
    coupling : {"none", "uniform", "diagonal", "symmetric", "full"}, optional
        Of neighbouring states: J delta_ab; J_a delta_ab; any symmetric J; any J. The
        default is full for potts, and diagonal (each expert its own J) for ising, which
        has no more.
    field : {"none", "expert"}
        Whether experts differ in their field.
    estimator : MaximumLikelihood, optional
    track : callable, optional
        Wraps the iteration over layers, for a progress bar.

    Returns
    -------
    Fit

    Raises
    ------
    TraceSchemaError
        If the Dataset is not a trace.
    ValueError
        If an argument is unknown, there is no pair of tokens, or all tokens of a layer go
        to one expert.
    ConvergenceError
        If a fit without a closed form did not converge; the error carries it.

    Warns
    -----
    ShortTraceWarning
        If there are fewer than 5 pairs of tokens for a parameter.

    References
    ----------
    T. W. Anderson and L. A. Goodman, Ann. Math. Stat. 28, 89 (1957); H. C. Nguyen,
    R. Zecchina and J. Berg, Adv. Phys. 66, 197 (2017).

    Examples
    --------
    >>> import isingmoe as im
    >>> fit = im.fit(im.example_traces(), coupling="uniform")
    >>> bool(fit.data.converged.all())
    True
    """
    family = family_of(traces, chain, coupling, field, estimator)
    rows, seen = [], hashlib.sha256()
    for place in each_layer(traces, track):
        counts = pair_counts(traces, place, family.chain)
        check_counts(traces, place, counts, family.chain)
        seen.update(counts.tobytes())
        rows.append(_layer_results(counts, family))
    padding = family.estimator.pseudocount
    arguments = {
        "chain": family.chain,
        "coupling": family.coupling,
        "field": family.field,
        "pseudocount": "default" if padding is None else float(padding),
        "max_iterations": family.estimator.max_iterations,
    }
    variables: dict[str, Any] = {
        name: (dims, np.array([row[name] for row in rows]), attributes)
        for name, (dims, attributes) in _results_of(family.chain).items()
    }
    free = about("free parameters of a layer")
    data = xr.Dataset(
        variables | {"n_parameters": ((), family.n_parameters, free)},
        coords={"layer": traces["layer"], "expert": np.arange(family.n_experts)},
        attrs={
            "conventions": CONVENTIONS,
            **arguments,
            **{name: traces.attrs[name] for name in ("model", "num_experts", "top_k")},
            "pair_counts_sha256": seen.hexdigest(),
            "provenance": _provenance.record("fit", arguments, inputs=_provenance.describe(traces)),
        },
    )
    result = Fit(data)
    _judge(result, trace_name(traces))
    return result


def _layer_results(counts: Counts, family: Family) -> dict[str, Any]:
    known = family.estimate(counts)
    n_pairs = token_pairs(counts)
    bits = n_pairs * np.log(2)
    stationary, length = _stationary(known.transition)
    if family.chain == "potts":
        marginal, uniform = stationary, np.log2(family.n_experts)
    else:
        marginal, uniform = stationary[:, 1], _uniform_on_off(counts)
    value = log_likelihood(counts, known.transition)
    return {
        "J": known.J,
        "J_error": known.J_error,
        "h": known.h,
        "h_error": known.h_error,
        "self_coupling": known.self_coupling,
        "self_coupling_error": known.self_coupling_error,
        "J_spread": known.J.std(),
        "correlation_length": length,
        "marginal": marginal,
        "log_likelihood": value,
        "bits_per_token": -value / bits,
        "bits_load": -log_likelihood(counts, family.load_only().estimate(counts).transition) / bits,
        "bits_uniform": uniform,
        "n_pairs": n_pairs,
        "pseudocount": known.pseudocount,
        "converged": np.int8(known.converged),
    }


def _uniform_on_off(counts: Counts) -> float:
    """Bits per token of experts that are all on with the same rate, each for itself."""
    entering = counts.sum((0, 1))
    rate = entering / entering.sum()
    return float(-len(counts) * xlogy(rate, rate).sum() / np.log(2))


def _stationary(transition: Array) -> tuple[Array, Array]:
    """Stationary law and correlation length of transition matrices (..., q, q)."""
    q = transition.shape[-1]
    stationary = markov_chain(np.log(transition))[2]
    return stationary, length_of_gap(1 - second_modulus(transition, stationary), q)


def _results_of(chain: str) -> dict[str, tuple[tuple[str, ...], dict[str, str]]]:
    """Dims, long name and units of every variable of a fit."""
    layer, expert = ("layer",), ("layer", "expert")
    matrix = (*expert, "next_expert") if chain == "potts" else expert
    length = layer if chain == "potts" else expert
    declared = {
        "J": (matrix, "coupling at T = 1, zero-sum gauge", "1"),
        "J_error": (matrix, "standard error of the coupling", "1"),
        "h": (expert, "field at T = 1, zero-sum gauge", "1"),
        "h_error": (expert, "standard error of the field", "1"),
        "self_coupling": (layer, "load-weighted mean coupling of an expert to itself", "1"),
        "self_coupling_error": (layer, "standard error of the self-coupling", "1"),
        "J_spread": (layer, "standard deviation of the elements of J", "1"),
        "correlation_length": (length, "correlation length of the chain", "token"),
        "marginal": (expert, "probability of the expert in the chain", "1"),
        "log_likelihood": (layer, "log-likelihood given the first tokens", "nat"),
        "bits_per_token": (layer, "bits per token of the chain, in sample", "bit/token"),
        "bits_load": (layer, "bits per token of the load alone, in sample", "bit/token"),
        "bits_uniform": (layer, "bits per token of a uniform router", "bit/token"),
        "n_pairs": (layer, "pairs of neighbouring tokens", "1"),
        "pseudocount": (layer, "pseudocount, on average over the pairs", "1"),
        "converged": (layer, "1 where the gradient vanished", "1"),
    }
    return {
        name: (dims, about(long_name, units)) for name, (dims, long_name, units) in declared.items()
    }


def _judge(result: Fit, name: str) -> None:
    """Complain of layers that did not converge or have too few tokens."""
    data = result.data
    free, fewest = int(data["n_parameters"]), int(data["n_pairs"].values.min())
    if data.attrs["chain"] == "ising":
        # Every expert's chain is fitted to all pairs.
        free = -(-free // data.sizes["expert"])
    if fewest < _PAIRS_PER_PARAMETER * free:
        warnings.warn(
            f"{name}: {fewest} pairs of tokens for {free} parameters: the standard errors are "
            "rough; use coupling='diagonal' or 'uniform', or a longer trace",
            ShortTraceWarning,
            stacklevel=3,
        )
    if not data["converged"].values.all():
        layers = data["layer"].values[data["converged"].values == 0].tolist()
        raise ConvergenceError(
            f"{name}: no convergence in layers {layers} after "
            f"{data.attrs['max_iterations']} iterations; raise max_iterations or pseudocount",
            result,
        )


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
        Whether these are the pairs that the chains were fitted to.
    """
    data, chain = fit.data, fit.data.attrs["chain"]
    log_weight = fit.log_weight()
    _, transition, stationary = markov_chain(log_weight)
    seen, rows = hashlib.sha256(), []
    for place in range(traces.sizes["layer"]):
        counts = pair_counts(traces, place, chain)
        check_counts(traces, place, counts, chain)
        seen.update(counts.tobytes())
        n_pairs = token_pairs(counts)
        bits = n_pairs * np.log(2)
        chained = log_likelihood(counts, transition[place])
        alone = log_likelihood(counts, stationary[place][..., None, :])
        rows.append((-chained / bits, -alone / bits, n_pairs))
    names = ("bits_per_token", "bits_load", "n_pairs")
    attributes = (
        about("bits per token of the chain on these traces", "bit/token"),
        about("bits per token of the chain's load alone on these traces", "bit/token"),
        about("pairs of neighbouring tokens"),
    )
    scored = xr.Dataset(
        {
            name: ("layer", np.array(column), attribute)
            for name, column, attribute in zip(
                names, zip(*rows, strict=True), attributes, strict=True
            )
        },
        coords={"layer": data["layer"]},
    )
    return scored, seen.hexdigest() == data.attrs["pair_counts_sha256"]


def cross_validate(
    traces: xr.Dataset,
    *,
    chain: str | None = None,
    coupling: str | None = None,
    field: str = "expert",
    estimator: MaximumLikelihood | None = None,
    n_folds: int = 5,
    seed: int = 0,
    track: Track | None = None,
) -> xr.Dataset:
    """Held-out score of a chain: sequences are split into folds, and each is predicted.

    Parameters
    ----------
    traces : Dataset
    chain, coupling, field, estimator
        As for `fit`.
    n_folds : int
        Folds of the sequences; at most as many as there are sequences.
    seed : int
        Of the split.
    track : callable, optional
        Wraps the iteration over layers, for a progress bar.

    Returns
    -------
    Dataset
        Per layer `held_out_bits` of the chain and `held_out_bits_load` of independent
        tokens with the same load, in bits per predicted token.

    Raises
    ------
    ValueError
        As `fit` does, and with fewer than two sequences or folds.
    ConvergenceError
        If the fit to the other folds did not converge; it carries none.
    """
    family = family_of(traces, chain, coupling, field, estimator)
    n_sequences = traces.sizes["sequence"]
    if n_sequences < 2 or n_folds < 2:
        raise ValueError(
            f"{trace_name(traces)}: n_folds: expected at least two sequences and two folds, got "
            f"{n_sequences} and {n_folds}; a sequence must be held out"
        )
    order = np.random.default_rng(seed).permutation(n_sequences)
    folds = [np.sort(part) for part in np.array_split(order, min(n_folds, n_sequences))]
    scores, converged = np.zeros((traces.sizes["layer"], 2)), True
    for place in each_layer(traces, track):
        counts = [pair_counts(traces, place, family.chain, fold) for fold in folds]
        total = np.sum(counts, axis=0)
        check_counts(traces, place, total, family.chain)
        for held_out in counts:
            for column, model in enumerate((family, family.load_only())):
                known = model.estimate(total - held_out)
                converged = converged and known.converged
                scores[place, column] -= log_likelihood(held_out, known.transition)
        scores[place] /= token_pairs(total) * np.log(2)
    if not converged:
        raise ConvergenceError(
            f"{trace_name(traces)}: no convergence of a fold after "
            f"{family.estimator.max_iterations} iterations; raise max_iterations or pseudocount",
            None,
        )
    names = {"held_out_bits": "the chain", "held_out_bits_load": "the load"}
    return xr.Dataset(
        {
            name: (
                "layer",
                scores[:, column],
                about(f"bits per token of {what} on held-out sequences", "bit/token"),
            )
            for column, (name, what) in enumerate(names.items())
        },
        coords={"layer": traces["layer"]},
        attrs={
            "provenance": _provenance.record(
                "cross_validate",
                {
                    "chain": family.chain,
                    "coupling": family.coupling,
                    "field": family.field,
                    "n_folds": len(folds),
                },
                inputs=_provenance.describe(traces),
                seed=seed,
            )
        },
    )
