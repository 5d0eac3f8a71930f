"""Where the bits of routing go: load, position, topic, memory, token, and what is left."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import comb
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from isingmoe import _provenance
from isingmoe._schema import alike
from isingmoe._storage import Saved, read_content
from isingmoe._text import about, number, plain, render, report, with_errors
from isingmoe.errors import ConvergenceError
from isingmoe.folds import folds_of, ratio_error
from isingmoe.kinds import Settings
from isingmoe.positions import Shape
from isingmoe.regressed import Regressed
from isingmoe.regression import Estimated, Regression, held_out_values
from isingmoe.traces import each_layer, trace_name

__all__ = ["SHARES", "Budget", "budget", "open_budget"]

CONVENTIONS = "isingmoe-budget-1"
_VARIABLES = ("layer", "model", "held_out_bits", "share", "bits", "bits_error")

# Gains of the models in the order in which they are nested, and what none of them tells.
SHARES = ("load", "position", "topic", "neighbour", "memory", "token", "left")
# Gains beside the nesting: of one model over another.
_ASIDE = {"token_alone": ("token", "load"), "beyond_token": ("all", "token")}

Array = NDArray[Any]
Track = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True)
class Budget(Saved):
    """How many of the bits of a token's experts are explained, and by what.

    Attributes
    ----------
    data : Dataset
        `held_out_bits` (layer, model), bits per token on held-out sequences, and `aic_bits`,
        `bic_bits` and `n_effective` of the same models fitted to all; `bits` and
        `bits_error` (layer, share): what each step of the nesting gains, with a standard
        error paired over sequences, and what is left; the shares sum to `bits_uniform`
        (layer). `bits_token_alone` and its error: what the token's id tells beyond the load
        if nothing else is known; `bits_beyond_token`: what all the others then add to it.
    """

    data: xr.Dataset

    def __str__(self) -> str:
        data, a = self.data, self.data.attrs
        columns: dict[str, Any] = {
            "layer": data["layer"].values,
            "uniform": [number(v) for v in data["bits_uniform"].values],
        }
        for share in data["share"].values.tolist():
            row = data.sel(share=share)
            columns[share] = with_errors(row["bits"].values, row["bits_error"].values)
        for name in _ASIDE:
            if f"bits_{name}" in data:
                columns[name.replace("_", " ")] = with_errors(
                    data[f"bits_{name}"].values, data[f"bits_{name}_error"].values
                )
        title = (
            f"{plain(a['model'])}: bits per token on held-out sequences ({a['n_folds']} folds), "
            f"coupling {a['coupling']}, memory up to {a['reach']} tokens"
        )
        notes = [
            "uniform = log2 of the number of sets, all of it open to a router in maximum-entropy "
            "equilibrium. Each column is what its step gains over those to its left, ± standard "
            "error over sequences; left: what is still open.",
        ]
        if "bits_token_alone" in data:
            notes.append(
                "token alone: what the token's id gains over the load by itself; beyond token: "
                "what position, topic and memory then gain."
            )
        return render(*report(title, columns, notes))


def budget(
    traces: xr.Dataset,
    *,
    reach: int = 4,
    coupling: str = "full",
    position: Shape | None = None,
    n_folds: int = 5,
    seed: int = 0,
    track: Track | None = None,
) -> Budget:
    """Nested models of every layer, each scored on sequences it was not fitted to.

    Parameters
    ----------
    traces : Dataset
        With `token_id`, if the share of the token is wanted.
    reach : int
        Distances of the longest memory; 1 for neighbours alone.
    coupling : {"uniform", "diagonal", "symmetric", "full"}
    position : Blocks or Cosines, optional
        How fields may change along the text; `Cosines(4)` by default.
    n_folds : int
        Folds of the sequences.
    seed : int
        Of the folds.
    track : callable, optional
        Wraps the iteration over layers, for a progress bar.

    Returns
    -------
    Budget

    Raises
    ------
    TraceSchemaError
        If the Dataset is not a trace.
    ValueError
        If an argument is out of range, or there are fewer than two sequences.
    ConvergenceError
        If a fit did not converge.

    Notes
    -----
    All models predict the same tokens, those with `reach` tokens before them. The field of a
    held-out sequence is learnt from its tokens as they come, by their surprise. Every token
    id has a random field about the common one, whose variance is fitted: an id that is rare
    is drawn to the load, and an id that was never seen has it. AIC and BIC count the
    effective number of parameters (F. Vaida and S. Blanchard, Biometrika 92, 351 (2005)).

    References
    ----------
    D. Bershatsky and I. Oseledets, arXiv:2504.04444 (2025).
    """
    traces = alike(traces)
    if coupling == "none":
        raise ValueError("coupling: expected one that is not 'none'; memory is what it scores")
    kinds = _kinds(traces, reach, coupling, position)
    folds = folds_of(traces, n_folds, seed)
    with threadpool_limits(1, user_api="blas"):
        rows = [_layer(traces, place, kinds, reach, folds) for place in each_layer(traces, track)]
    late = [
        int(layer)
        for layer, row in zip(traces["layer"].values, rows, strict=True)
        if not row.pop("converged")
    ]
    if late:
        raise ConvergenceError(f"{trace_name(traces)}: no convergence in layers {late}", None)
    n_experts, k = int(traces.attrs["num_experts"]), int(traces.attrs["top_k"])
    arguments = {
        "reach": reach,
        "coupling": coupling,
        "position": kinds["position"].arguments()["position"],
        "n_folds": len(folds),
    }
    uniform = np.full(traces.sizes["layer"], np.log2(comb(n_experts, k)))
    declared = _declared("token" in kinds)
    data = xr.Dataset(
        {
            "bits_uniform": ("layer", uniform, about("bits of a uniform router", "bit/token")),
            **{
                name: (dims, np.array([row[name] for row in rows]), about(text, units))
                for name, (dims, text, units) in declared.items()
            },
        },
        coords={
            "layer": traces["layer"],
            "model": list(kinds),
            "share": _shares(kinds),
        },
        attrs={
            "conventions": CONVENTIONS,
            **arguments,
            **{name: traces.attrs[name] for name in ("model", "num_experts", "top_k")},
            "provenance": _provenance.record(
                "budget", arguments, inputs=_provenance.describe(traces), seed=seed
            ),
        },
    )
    return Budget(data)


def open_budget(path: str | os.PathLike[str]) -> Budget:
    """Read a budget that `Budget.save` wrote.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, ValueError
        If the file cannot be read or holds something else.
    """
    data = read_content(
        path,
        conventions=CONVENTIONS,
        variables=_VARIABLES,
        attributes=("model", "reach", "coupling", "n_folds"),
        remedy="make one with `isingmoe budget`",
    )
    return Budget(data)


def _kinds(
    traces: xr.Dataset, reach: int, coupling: str, position: Shape | None
) -> dict[str, Regression]:
    """The models, each with what those before it have and more; then those with token ids."""
    settings = Settings(
        chain="kinetic",
        coupling=coupling,
        field="position+sequence",
        reach=reach,
        position=position,
        uncertainty="none",
    )
    known: Regressed = settings.kind(traces)
    memory = known.kind
    still = replace(memory, coupling="none", reach=0)
    kinds = {
        "load": replace(still, field=("expert",)),
        "position": replace(still, field=("expert", "position")),
        "topic": still,
        "neighbour": replace(memory, reach=1),
    }
    if reach > 1:
        kinds["memory"] = memory
    if "token_id" in traces and (traces["token_id"].values >= 0).any():
        kinds["token"] = replace(kinds["load"], by_token=True)
        kinds["all"] = replace(memory, by_token=True)
    return kinds


def _shares(kinds: dict[str, Regression]) -> list[str]:
    """Steps of the nesting, and what is left."""
    absent = set() if "memory" in kinds else {"memory"}
    absent |= set() if "token" in kinds else {"token"}
    return [share for share in SHARES if share not in absent]


def _layer(
    traces: xr.Dataset,
    place: int,
    kinds: dict[str, Regression],
    reach: int,
    folds: list[NDArray[np.int64]],
) -> dict[str, Any]:
    name, n = trace_name(traces), traces.sizes["sequence"]
    values: dict[str, Array] = {}
    last: dict[str, Estimated] = {}
    n_tokens, criteria, converged = np.zeros(0), [], True
    for model, kind in kinds.items():
        problem = kind.problem(traces, place, n_before=reach)
        start = _joined(kind, last) if model == "all" else None
        token_values, known, found = held_out_values(kind, problem, folds, name, start)
        values[model] = np.bincount(problem.sequence, token_values, minlength=n)
        n_tokens = np.bincount(problem.sequence, minlength=n)
        found = last[model] = kind.estimate(problem, found)
        criteria.append(_criteria(found))
        converged = converged and known and found.maximum.converged
    total = n_tokens.sum() * np.log(2)
    uniform = np.log(comb(kinds["load"].n_experts, kinds["load"].top_k)) * n_tokens
    nested = [model for model in kinds if model not in ("token", "all")]
    nested += ["all"] if "all" in kinds else []
    before, bits, errors = -uniform, [], []
    for model in nested:
        gain = values[model] - before
        bits.append(gain.sum() / total)
        errors.append(ratio_error(gain, n_tokens) / np.log(2))
        before = values[model]
    bits.append(-before.sum() / total)
    errors.append(ratio_error(before, n_tokens) / np.log(2))
    result = {
        "held_out_bits": [-values[model].sum() / total for model in kinds],
        "aic_bits": [aic for aic, _, _ in criteria],
        "bic_bits": [bic for _, bic, _ in criteria],
        "n_effective": [effective for _, _, effective in criteria],
        "bits": bits,
        "bits_error": errors,
        "converged": converged,
    }
    if "token" in kinds:
        for name, (more, fewer) in _ASIDE.items():
            gain = values[more] - values[fewer]
            result[f"bits_{name}"] = gain.sum() / total
            result[f"bits_{name}_error"] = ratio_error(gain, n_tokens) / np.log(2)
    return result


def _joined(kind: Regression, last: dict[str, Estimated]) -> Estimated:
    """Where to begin with everything: the longest memory, and the fields of the token ids."""
    memory, token = last["memory" if "memory" in last else "neighbour"], last["token"].maximum
    one = memory.maximum
    groups = (*one.precision.groups, *token.precision.groups)
    joined = replace(
        one, fields=[*one.fields, *token.fields], precision=replace(one.precision, groups=groups)
    )
    return replace(memory, kind=kind, maximum=joined)


def _criteria(found: Estimated) -> tuple[float, float, float]:
    """AIC and BIC in bits per token, and the effective number of parameters."""
    n, effective = len(found.problem.sets), found.maximum.determined
    bits = n * np.log(2)
    nats = -found.maximum.log_likelihood
    return (nats + effective) / bits, (nats + effective * np.log(n) / 2) / bits, effective


def _declared(has_tokens: bool) -> dict[str, tuple[tuple[str, ...], str, str]]:
    model, share, layer = ("layer", "model"), ("layer", "share"), ("layer",)
    declared: dict[str, tuple[tuple[str, ...], str, str]] = {
        "held_out_bits": (model, "bits per token on held-out sequences", "bit/token"),
        "aic_bits": (model, "Akaike's criterion over twice the tokens", "bit/token"),
        "bic_bits": (model, "Bayesian criterion over twice the tokens", "bit/token"),
        "n_effective": (model, "effective number of parameters", "1"),
        "bits": (share, "bits gained over the steps before, and left", "bit/token"),
        "bits_error": (share, "standard error of these bits, over sequences", "bit/token"),
    }
    if has_tokens:
        for name, (more, fewer) in _ASIDE.items():
            meaning = f"bits of the model '{more}' over '{fewer}'"
            declared[f"bits_{name}"] = (layer, meaning, "bit/token")
            error = f"standard error of bits_{name}, over sequences"
            declared[f"bits_{name}_error"] = (layer, error, "bit/token")
    return declared
