"""Fitting a chain to every layer of a router trace."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from isingmoe import _provenance
from isingmoe._schema import alike
from isingmoe._text import about
from isingmoe.errors import ConvergenceError, DegenerateTraceWarning, ShortTraceWarning
from isingmoe.estimators import MaximumLikelihood, Pseudolikelihood
from isingmoe.fitted import CONVENTIONS, Fit
from isingmoe.folds import folds_of, ratio_error
from isingmoe.histories import last_position
from isingmoe.kinds import Settings
from isingmoe.positions import Shape
from isingmoe.scoring import score
from isingmoe.traces import Track, each_layer, trace_name

__all__ = ["cross_validate", "fit", "score"]

# Fewer tokens than this for a parameter, and standard errors are no longer Gaussian.
_PAIRS_PER_PARAMETER = 5
# Fewer sequences than this, and the spread between them is not known.
_FEW_SEQUENCES = 10

Estimator = MaximumLikelihood | Pseudolikelihood


def fit(
    traces: xr.Dataset,
    *,
    chain: str | None = None,
    coupling: str | None = None,
    field: str = "expert",
    reach: int = 1,
    decay: str | None = None,
    position: Shape | str | None = None,
    estimator: Estimator | None = None,
    uncertainty: str | None = None,
    n_resamples: int = 100,
    seed: int = 0,
    track: Track | None = None,
) -> Fit:
    """Fit a chain to every layer of a trace.

    Parameters
    ----------
    traces : Dataset
        From `open_traces`; `traces.sel(layer=[7])` for some layers.
    chain : {"kinetic", "potts", "ising", "topk"}, optional
        kinetic: the set of experts of a token given the sets before it. potts: the primary
        expert, one chain of q = E states for a layer. ising: each expert on or off, E chains
        of spins. topk: the equilibrium chain of sets, by `Pseudolikelihood`. By default
        kinetic where a token has several experts, and potts where it has one.
    coupling : {"none", "uniform", "diagonal", "symmetric", "full"}, optional
        Of the states at each distance: J delta_ab; J_a delta_ab; any symmetric J; any J. The
        default is full, and diagonal (each expert its own J) for ising, which has no more.
    field : str
        "none"; "expert": experts differ in their field; "position": it changes along the
        text too; "sequence": and each sequence adds a random field of its own, the variance
        of which is fitted. "position+sequence" is the sum. Potts and Ising chains have the
        first two.
    reach : int
        Largest distance with a coupling; more than 1 for kinetic chains, and by
        `Pseudolikelihood`.
    decay : {"power-law", "exponential"}, optional
        One coupling for all distances, times r^-alpha or exp(-(r - 1) / length), the
        parameter of which is fitted. By default each distance has a coupling of its own.
    position : Blocks, Cosines or "cv", optional
        How a field changes along the text: `Cosines(4)` by default; "cv" takes the number of
        cosines (0 to 16) of the best held-out score.
    estimator : MaximumLikelihood or Pseudolikelihood, optional
    uncertainty : {"sandwich", "information", "bootstrap", "none"}, optional
        What standard errors are taken from. sandwich: the scores of whole sequences between
        two inverses of the information, right whatever the model leaves out of a text; of
        chains fitted to pair counts, fits that leave out one sequence after another, which
        come to the same. information: the observed information, as if the model were right.
        bootstrap: fits to sequences drawn with replacement. The first is the default; of a
        single sequence the second.
    n_resamples : int
        Resamples of the bootstrap, and draws of the pair counts of a chain that information
        gives the errors of lengths and marginals by.
    seed : int
        Of these, of the folds, and of the run that a correlation length is taken from.
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
        If an argument is unknown or does not go with the others, no tokens are neighbours,
        or all tokens of a layer go to the same experts.
    ConvergenceError
        If a fit without a closed form did not converge; the error carries it.

    Warns
    -----
    ShortTraceWarning
        If there are fewer than 5 tokens for a parameter, or too few sequences for a sandwich.
    DegenerateTraceWarning
        If an expert is never chosen, or always.

    References
    ----------
    T. W. Anderson and L. A. Goodman, Ann. Math. Stat. 28, 89 (1957); H. C. Nguyen,
    R. Zecchina and J. Berg, Adv. Phys. 66, 197 (2017); Y. Roudi and J. Hertz, Phys. Rev.
    Lett. 106, 048702 (2011).

    Examples
    --------
    >>> import isingmoe as im
    >>> fit = im.fit(im.example_traces(), chain="potts", coupling="uniform")
    >>> bool(fit.data.converged.all())
    True
    """
    traces = alike(traces)
    settings = Settings(
        chain=chain,
        coupling=coupling,
        field=field,
        reach=reach,
        decay=decay,
        position=position,
        estimator=estimator,
        uncertainty=uncertainty,
    )
    kind = settings.kind(traces, n_resamples=n_resamples, seed=seed)
    rows, seen = [], hashlib.sha256()
    # The matrices are small: threads of the linear algebra would be in each other's way.
    with threadpool_limits(1, user_api="blas"):
        for place in each_layer(traces, track):
            row, data = kind.layer(traces, place)
            seen.update(data)
            rows.append(row)
    arguments = kind.arguments()
    variables: dict[str, Any] = {
        name: (dims, np.array([row[name] for row in rows]), attributes)
        for name, (dims, attributes) in kind.declared().items()
    }
    free = about("free parameters of a layer")
    n_experts = int(traces.attrs["num_experts"])
    data = xr.Dataset(
        variables | {"n_parameters": ((), kind.n_parameters, free)},
        coords={
            "layer": traces["layer"],
            "expert": np.arange(n_experts),
            **kind.coordinates(traces),
        },
        attrs={
            "conventions": CONVENTIONS,
            **arguments,
            **{name: traces.attrs[name] for name in ("model", "num_experts", "top_k")},
            "last_position": last_position(traces),
            "data_sha256": seen.hexdigest(),
            "provenance": _provenance.record(
                "fit",
                arguments | {"n_resamples": n_resamples},
                inputs=_provenance.describe(traces),
                seed=seed,
            ),
        },
    )
    result = Fit(data)
    _judge(result, kind, traces)
    return result


def _judge(result: Fit, kind: Any, traces: xr.Dataset) -> None:
    """Complain of layers that did not converge, have too few tokens or idle experts."""
    data, name = result.data, trace_name(traces)
    fewest = int(data["n_pairs"].values.min())
    # Every Ising expert's chain is fitted to all pairs.
    free = -(-kind.n_parameters // kind.n_fitted_apart)
    if fewest < _PAIRS_PER_PARAMETER * free:
        warnings.warn(
            f"{name}: {fewest} pairs of tokens for {free} parameters: the standard errors are "
            "rough; use coupling='diagonal' or 'uniform', or a longer trace",
            ShortTraceWarning,
            stacklevel=3,
        )
    n_sequences = traces.sizes["sequence"]
    if data.attrs["uncertainty"] in ("sandwich", "bootstrap") and n_sequences < _FEW_SEQUENCES:
        warnings.warn(
            f"{name}: {data.attrs['uncertainty']} errors compare sequences, and there "
            f"are {n_sequences}: they are rough; use uncertainty='information', or more sequences",
            ShortTraceWarning,
            stacklevel=3,
        )
    for what, experts in kind.idle(traces):
        warnings.warn(
            f"{name}: {what}: {experts}; their couplings and fields are those of the prior",
            DegenerateTraceWarning,
            stacklevel=3,
        )
    if not data["converged"].values.all():
        layers = data["layer"].values[data["converged"].values == 0].tolist()
        raise ConvergenceError(
            f"{name}: no convergence in layers {layers} after "
            f"{data.attrs['max_iterations']} iterations; raise max_iterations, pseudocount or l2",
            result,
        )


def cross_validate(
    traces: xr.Dataset,
    *,
    chain: str | None = None,
    coupling: str | None = None,
    field: str = "expert",
    reach: int = 1,
    decay: str | None = None,
    position: Shape | str | None = None,
    estimator: Estimator | None = None,
    n_folds: int = 5,
    seed: int = 0,
    track: Track | None = None,
) -> xr.Dataset:
    """Held-out score of a chain: sequences are split into folds, and each is predicted.

    Parameters
    ----------
    traces : Dataset
    chain, coupling, field, reach, decay, position, estimator
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
        tokens with the same load, in bits per predicted token, and
        `held_out_gain_error`, the standard error of their difference: by the spread of the
        sequences, or of the folds for chains that are fitted to pair counts. The field of a
        held-out sequence is learnt from its own tokens as they come.

    Raises
    ------
    ValueError
        As `fit` does, and with fewer than two sequences or folds.
    ConvergenceError
        If the fit to the other folds did not converge; it carries none.
    """
    traces = alike(traces)
    settings = Settings(
        chain=chain,
        coupling=coupling,
        field=field,
        reach=reach,
        decay=decay,
        position=position,
        estimator=estimator,
    )
    kind = settings.kind(traces, seed=seed)
    folds = folds_of(traces, n_folds, seed)
    scores, converged = np.zeros((traces.sizes["layer"], 3)), True
    with threadpool_limits(1, user_api="blas"):
        for place in each_layer(traces, track):
            chained, alone, n_tokens, known = kind.held_out(traces, place, folds)
            converged = converged and known
            scores[place, 0] = -chained.sum() / n_tokens.sum()
            scores[place, 1] = -alone.sum() / n_tokens.sum()
            scores[place, 2] = ratio_error(chained - alone, n_tokens)
    scores /= np.log(2)
    arguments = kind.arguments()
    if not converged:
        raise ConvergenceError(
            f"{trace_name(traces)}: no convergence of a fold after "
            f"{arguments['max_iterations']} iterations; raise max_iterations, pseudocount or l2",
            None,
        )
    names = {
        "held_out_bits": "bits per token of the chain on held-out sequences",
        "held_out_bits_load": "bits per token of the load on held-out sequences",
        "held_out_gain_error": "standard error of the difference between the two",
    }
    return xr.Dataset(
        {
            name: ("layer", scores[:, column], about(meaning, "bit/token"))
            for column, (name, meaning) in enumerate(names.items())
        },
        coords={"layer": traces["layer"]},
        attrs={
            "provenance": _provenance.record(
                "cross_validate",
                {**arguments, "n_folds": len(folds)},
                inputs=_provenance.describe(traces),
                seed=seed,
            )
        },
    )
