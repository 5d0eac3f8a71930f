"""What the numbers of a layer say, in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from isingmoe._text import interval, number, p_text
from isingmoe.reports.findings import Findings

__all__ = ["LEVEL", "Verdict", "controlled", "p_words", "verdict"]

# Share of false alarms among the layers that are called out.
LEVEL = 0.05
# A correlation is seen above so many of its errors.
_SEEN = 2
# A law whose weight is above has the others behind it.
_AHEAD = 0.9


@dataclass(frozen=True)
class Verdict:
    """Sentences about one layer.

    Attributes
    ----------
    short : str
        A line for the list of layers.
    sentences : list of (str, str)
        A heading and what is said under it.
    """

    short: str
    sentences: list[tuple[str, str]]


def p_words(p: float, smallest: float = 0.0) -> str:
    """A p-value in a sentence; as a bound, where so few simulations could give no smaller one."""
    if math.isnan(p):
        return "p not known"
    text = p_text(p, smallest)
    return f"p {text}" if text[0] in "≤<" else f"p = {text}"


def controlled(part: xr.Dataset | None, name: str) -> dict[int, float]:
    """p-values of the layers with the rate of false discoveries controlled over them.

    Returns
    -------
    dict of int to float
        By layer; those without a p-value are left out.

    References
    ----------
    Y. Benjamini and Y. Hochberg, J. R. Stat. Soc. B 57, 289 (1995).
    """
    if part is None or name not in part:
        return {}
    p = part[name].values.astype(float)
    known = ~np.isnan(p)
    if not known.any():
        return {}
    q = false_discovery_control(p[known])
    return dict(zip(part["layer"].values[known].tolist(), q.tolist(), strict=True))


def verdict(found: Findings, layer: int) -> Verdict:
    """What was found on a layer.

    Parameters
    ----------
    found : Findings
    layer : int

    Returns
    -------
    Verdict
    """
    data = found.comparison.data.sel(layer=layer)
    parts = [
        ("Chain", _chain(found, data, layer)),
        ("Texts or coupling", _texts(data)),
        ("Memory", _memory(data)),
        ("Load", _load(found, data, layer)),
        ("Position", _position(found, layer)),
        ("Bits", _bits(found, data, layer)),
    ]
    sentences = [(heading, " ".join(lines)) for heading, lines in parts if lines]
    return Verdict(short=_short(found, data, layer), sentences=sentences)


def _short(found: Findings, data: xr.Dataset, layer: int) -> str:
    words = []
    q = controlled(found.parts.get("goodness"), "discrepancy_p_value").get(layer)
    if q is not None:
        words.append("no short-range chain" if q <= LEVEL else "a short-range chain will do")
    length = float(data["predicted_length"])
    words.append(f"ξ {number(length, 2)} tokens")
    balance = found.part("mem", layer)
    if balance is not None and "mem_state" in balance:
        words.append(str(balance["mem_state"].item()))
    return ", ".join(words)


def _chain(found: Findings, data: xr.Dataset, layer: int) -> list[str]:
    lines = []
    test = found.part("goodness", layer)
    if test is not None and not math.isnan(float(test["discrepancy_p_value"])):
        p, smallest = float(test["discrepancy_p_value"]), 1 / (test.sizes["simulation"] + 1)
        q = controlled(found.parts["goodness"], "discrepancy_p_value")[layer]
        reach = int(found.fit.data.attrs.get("reach", 1))
        memory = "its neighbour" if reach == 1 else f"{reach} tokens before it"
        if q <= LEVEL:
            lines.append(
                f"A chain in which a token knows no more than {memory} does not give this decay "
                f"({p_words(p, smallest)} by simulated data sets)."
            )
            lines += _where(test)
        else:
            lines.append(
                f"A chain in which a token knows no more than {memory} is enough for this decay "
                f"({p_words(p, smallest)} by simulated data sets)."
            )
    test = found.part("ck", layer)
    if test is not None and not math.isnan(float(test["ck_p_value"])):
        p, smallest = float(test["ck_p_value"]), 1 / (found.n_simulations + 1)
        q = controlled(found.parts["ck"], "ck_p_value")[layer]
        says = "fails" if q <= LEVEL else "holds"
        meaning = (
            "experts return at larger distances other than step by step"
            if q <= LEVEL
            else "the steps of one token, repeated, give what is seen at larger distances"
        )
        lines.append(f"The Chapman-Kolmogorov test {says} ({p_words(p, smallest)}): {meaning}.")
    return lines


def _where(test: xr.Dataset) -> list[str]:
    """At which distances a decay leaves its prediction, and on which side."""
    if "discrepancy_curve_z" not in test:
        return []
    z = test["discrepancy_curve_z"].values
    distance = test["distance"].values
    far = np.flatnonzero((np.abs(z) > 3) & (distance > 0))
    if not far.size:
        return []
    largest = far[np.argmax(np.abs(z[far]))]
    side = "more" if z[largest] > 0 else "less"
    return [
        f"Measured correlation is {side} than predicted, first at d = {distance[far[0]]} and "
        f"most clearly at d = {distance[largest]} (z = {z[largest]:.0f})."
    ]


def _texts(data: xr.Dataset) -> list[str]:
    if "sequence" not in data["centre"]:
        return []
    whole, within = data.sel(centre="global"), data.sel(centre="sequence")
    near = _kept(whole, within, 1)
    if near is None:
        return ["No correlation of neighbouring tokens is seen above its error."]
    far = [d for d in (32, 16, 8) if d < data.sizes["distance"]]
    lines = [
        f"With the load of each text taken off, {_share(near)} of the correlation of neighbours "
        "is left."
    ]
    for d in far:
        kept = _kept(whole, within, d)
        if kept is not None:
            lines.append(
                f"At d = {d} it is {_share(kept)}: "
                + ("mostly coupling." if kept > 0.5 else "mostly a difference between texts.")
            )
            break
    return lines


def _kept(whole: xr.Dataset, within: xr.Dataset, distance: int) -> float | None:
    """Share of C(d) that is left within texts, where C(d) is seen."""
    at = whole["distance"].values.tolist().index(distance)
    value, error = float(whole["measured"][at]), float(whole["measured_error"][at])
    if not abs(value) > _SEEN * error:
        return None
    return float(within["measured"][at]) / value


def _share(kept: float) -> str:
    if kept < 0:
        return "none (it changes its sign)"
    return f"{100 * kept:.0f} %"


def _memory(data: xr.Dataset) -> list[str]:
    lines = []
    chain = number(float(data["predicted_length"]), 2)
    row = data.sel(centre="global")
    length, low, high = (float(row[f"correlation_length{end}"]) for end in ("", "_low", "_high"))
    ratio = length / max(float(data["predicted_length"]), 1e-9)
    lines.append(
        f"Correlation length {chain} tokens by the chain, {interval(length, low, high)} by the "
        "measured decay" + (f", {_digits(ratio, 2)} times as long." if 1.5 < ratio < 1000 else ".")
    )
    if "law_weight" in data and not data["law_weight"].isnull().all():
        lines += _law(data)
    return lines


def _law(data: xr.Dataset) -> Iterator[str]:
    weight = np.nan_to_num(data["law_weight"].values)
    best = int(weight.argmax())
    row = data.isel(law=best)
    first, last = int(data["law_first"]), int(data["law_last"])
    says = "is ahead of the others" if weight[best] > _AHEAD else "is the likeliest"
    values = {
        str(name): float(row["law_parameter"].sel(parameter=name))
        for name in data["parameter"].values
    }
    errors = {
        str(name): float(row["law_parameter_error"].sel(parameter=name))
        for name in data["parameter"].values
    }
    shape = _SHAPES.get(str(row["law"].item()), [])
    shown = [
        f"{symbol} = {_digits(values[name], 3)}"
        + ("" if math.isnan(errors[name]) else f" ± {_digits(errors[name], 2)}")
        for name, symbol in shape
    ]
    yield (
        f"Of the decay laws, {_LAWS.get(str(row['law'].item()), row['law'].item())} {says} from "
        f"d = {first} to {last} (weight {weight[best]:.2f}"
        + (f"; {', '.join(shown)}" if shown else "")
        + ")."
    )
    p = float(row["law_p_value"])
    if p <= LEVEL:
        yield f"It does not describe it fully either ({p_words(p)})."


def _digits(value: float, digits: int) -> str:
    """A number to so many digits, without a power of ten."""
    return np.format_float_positional(float(f"{value:.{digits}g}"), trim="-")


_LAWS = {
    "exponential": "an exponential",
    "power-law": "a power law",
    "stretched": "a stretched exponential",
    "exponential+constant": "an exponential and a constant",
    "two-exponentials": "the sum of two exponentials",
}
_SHAPES: dict[str, list[tuple[str, str]]] = {
    "exponential": [("length", "ξ")],
    "power-law": [("exponent", "α")],
    "stretched": [("length", "ξ"), ("exponent", "β")],
    "exponential+constant": [("length", "ξ")],
    "two-exponentials": [("length", "ξ"), ("length_2", "ξ₂")],
}


def _load(found: Findings, data: xr.Dataset, layer: int) -> list[str]:
    n_experts = int(found.traces.attrs["num_experts"])
    effective = math.exp(float(data["load_entropy"]))
    size = (
        f"{effective:.1f} of {n_experts} experts in effect, {number(float(data['kl']), 3)} nat "
        "from the uniform load"
    )
    balance = found.part("mem", layer)
    if balance is None or "mem_state" not in balance:
        return [f"{size}."]
    state, p = str(balance["mem_state"].item()), float(balance["mem_p_value"])
    opening = {
        "equilibrium": "The load is that of a maximum-entropy equilibrium",
        "imbalanced": "The load is imbalanced",
        "collapsed": "The router has collapsed: experts own ranges of positions",
    }.get(state, f"The load is {state}")
    lines = [f"{opening}: {size} ({p_words(p)})."]
    owners = int(balance["n_owners"]) if "n_owners" in balance else 0
    if owners:
        lines.append(f"{owners} expert{'s own' if owners > 1 else ' owns'} a range of positions.")
    return lines


def _position(found: Findings, layer: int) -> list[str]:
    rates = found.part("activation", layer)
    if rates is None:
        return []
    p, bits = float(rates["layer_drift_p_value"]), float(rates["layer_drift_bits"])
    if math.isnan(p):
        return []
    q = controlled(found.parts["activation"], "layer_drift_p_value")[layer]
    drifting = int((rates["uniformity_q_value"] <= LEVEL).sum())
    if q > LEVEL:
        return [f"Rates do not change along the text ({p_words(p)})."]
    null = float(rates["layer_drift_bits_null"])
    return [
        f"Rates change along the text ({p_words(p)}): position tells {_digits(bits, 2)} bits per "
        f"token, where chance alone gives {_digits(null, 2)}; {drifting} of "
        f"{rates.sizes['expert']} experts take part (false discovery rate {LEVEL:.0%})."
    ]


def _bits(found: Findings, data: xr.Dataset, layer: int) -> list[str]:
    held_out = "held_out_bits" in data
    score = float(data["held_out_bits" if held_out else "bits_per_token"])
    load = float(data["held_out_bits_load" if held_out else "bits_load"])
    uniform = float(data["bits_uniform"])
    where = "on texts that the fit has not seen" if held_out else "in sample"
    gain = load - score
    tells = f"tells {gain:.2f}" if gain > 0 else f"costs {-gain:.2f}"
    lines = [
        f"Of {uniform:.2f} bits per token the load tells {uniform - load:.2f}; the chain "
        f"{tells} more, {where}."
    ]
    budget: Any = found.budget
    if budget is not None and layer in budget.data["layer"].values:
        row = budget.data.sel(layer=layer)
        shares: NDArray[Any] = row["share"].values
        told = [
            f"{share} {number(float(row['bits'].sel(share=share)), 2)}"
            for share in shares.tolist()
            if share != "left"
        ]
        lines.append(f"Step by step: {', '.join(told)}.")
    return lines
