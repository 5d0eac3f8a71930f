"""What the load of a layer says, and its change with position."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from isingmoe._text import number
from isingmoe.reports.calls import LEVEL, controlled
from isingmoe.reports.findings import Findings
from isingmoe.reports.words import digits, p_words

__all__ = ["load_sentences", "position_sentences"]

# A load this near to uniform, in nats, is at equilibrium whatever its p-value; see `mem`.
_NEAR = 0.01


def load_sentences(found: Findings, data: xr.Dataset, layer: int) -> list[str]:
    """The maximum-entropy equilibrium of a layer.

    Parameters
    ----------
    found : Findings
    data : Dataset
        Of the comparison, of this layer.
    layer : int
    """
    n_experts = int(found.traces.attrs["num_experts"])
    effective = math.exp(float(data["load_entropy"]))
    size = (
        f"{effective:.1f} of {n_experts} experts in effect, {number(float(data['kl']), 3)} nat "
        "from the uniform load"
    )
    balance = found.part("mem", layer)
    if balance is None or "mem_state" not in balance:
        return [f"{size}."]
    state = str(balance["mem_state"].item())
    owners = int(balance["n_owners"]) if "n_owners" in balance else 0
    few = "experts own ranges of positions" if owners else "few experts serve nearly all tokens"
    opening = {
        "equilibrium": "The load is that of a maximum-entropy equilibrium",
        "imbalanced": "The load is imbalanced",
        "collapsed": f"The router has collapsed: {few}",
        "undecided": (
            f"Texts are too few ({found.n_texts}) to tell whether the load is at equilibrium"
        ),
    }.get(state, f"The load is {state}")
    why = _decided(data, balance, state)
    lines = [f"{opening}: {size} ({why})."]
    if owners:
        lines.append(f"{owners} expert{'s own' if owners > 1 else ' owns'} a range of positions.")
    return [*lines, *_energies(balance)]


def _decided(data: xr.Dataset, balance: xr.Dataset, state: str) -> str:
    """By what the state of the load was decided."""
    p, of = float(balance["mem_p_value"]), "of a uniform load"
    if math.isnan(p):
        p, of = float(data["kl_p_value"]), f"{of}, tokens taken as independent"
    if state in ("equilibrium", "undecided") and p < LEVEL and float(data["kl"]) <= _NEAR:
        return f"within {_NEAR} nat of uniform, though {p_words(p)} {of}"
    passed = float(balance["mem_kl_null"]) if "mem_kl_null" in balance else math.nan
    if state == "undecided" and not math.isnan(passed):
        return f"{p_words(p)} {of}; {digits(passed, 2)} nat would still pass for one"
    return f"{p_words(p)} {of}"


def _energies(balance: xr.Dataset) -> list[str]:
    """The thermodynamic reading of the chain, where a fit was given."""
    names = ("energy", "entropy", "free_energy")
    if not all(name in balance for name in names):
        return []
    values = [float(balance[name]) for name in names]
    if np.isnan(values).all():
        return []
    u, s, f = (number(value, 2) for value in values)
    return [f"By the chain U = {u}, S = {s} and F = U - S = {f} nat per token, at T = 1."]


def position_sentences(found: Findings, layer: int) -> list[str]:
    """Rates along the text: whether they change, and whether they are steadier than by chance."""
    return [*_drift(found, layer), *_stability(found, layer)]


def _drift(found: Findings, layer: int) -> list[str]:
    rates = found.part("activation", layer)
    if rates is None:
        return []
    p, bits = float(rates["layer_drift_p_value"]), float(rates["layer_drift_bits"])
    if math.isnan(p):
        return []
    q = controlled(found.parts["activation"], "layer_drift_p_value")[layer]
    n = found.n_texts
    if q >= LEVEL:
        texts = "one text" if n == 1 else f"{n} texts"
        return [f"No change of the rates along the text is seen ({p_words(p)}, {texts})."]
    drifting = int((rates["uniformity_q_value"] < LEVEL).sum())
    null, k = float(rates["layer_drift_bits_null"]), int(found.traces.attrs["top_k"])
    of = f"an assignment, of which a token has {k}" if k > 1 else "an assignment, one to a token"
    return [
        f"Rates change along the text ({p_words(p)}): position tells {digits(bits, 2)} bits of "
        f"{of}; without drift it would be below {digits(null, 2)} in 95 % of cases. {drifting} of "
        f"{rates.sizes['expert']} experts take part (false discovery rate {LEVEL:.0%})."
    ]


def _stability(found: Findings, layer: int) -> list[str]:
    balance = found.part("mem", layer)
    if balance is None or "stability_p_value" not in balance:
        return []
    p = float(balance["stability_p_value"])
    if not p < LEVEL:
        return []
    q = controlled(found.parts["mem"], "stability_p_value")[layer]
    alone = "" if q < LEVEL else ", for this layer alone"
    return [
        "Rates are steadier over the text than chance allows: stability "
        f"{digits(float(balance['stability']), 2)} ({p_words(p)}{alone})."
    ]
