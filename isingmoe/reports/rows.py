"""The table over layers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import xarray as xr

from isingmoe._text import p_text, with_errors
from isingmoe.reports.findings import Findings
from isingmoe.reports.law_words import read_law
from isingmoe.reports.words import amount, span

__all__ = ["Cell", "Column", "columns"]


@dataclass(frozen=True)
class Cell:
    """What is shown, and what it is sorted by; nothing, where it is not known."""

    text: str
    value: str
    is_words: bool = False


@dataclass(frozen=True)
class Column:
    """A column: its head, what it means, and a cell for each layer."""

    name: str
    meaning: str
    cells: list[Cell]


def columns(found: Findings) -> list[Column]:
    """The columns that there is something to put in."""
    data = found.comparison.data
    layers = [int(layer) for layer in data["layer"].values]
    table = [
        Column("layer", "", [Cell(str(layer), str(layer)) for layer in layers]),
        _with_errors(data, "self_coupling", "J", "self-coupling ± standard error, T = 1"),
        _numbers(data, "predicted_length", "ξ chain", "correlation length of the chain, tokens", 2),
        _lengths(data, "global", "ξ measured", "by the decay of C(d), with its 95 % interval"),
    ]
    if "sequence" in data["centre"]:
        means = "the same with the load of each text taken off"
        table.append(_lengths(data, "sequence", "ξ within texts", means))
    if "law_weight" in data:
        table.append(_law(data))
    goodness, ck = found.parts.get("goodness"), found.parts.get("ck")
    if goodness is not None:
        means = "of the decay under the fitted chain, by data sets simulated from it"
        smallest = _smallest(found, "goodness")
        table.append(_p(goodness, "discrepancy_p_value", "p chain", means, smallest))
    if ck is not None:
        means = "of the Chapman-Kolmogorov test: P(d) against P(1) to the power d"
        table.append(_p(ck, "ck_p_value", "p Markov", means, _smallest(found, "ck")))
    table.append(_experts(found, data))
    mem, rates = found.parts.get("mem"), found.parts.get("activation")
    if mem is not None:
        cells = [Cell(str(s), str(s), True) for s in mem["mem_state"].values]
        means = (
            "equilibrium: the load of a uniform router; collapsed: few experts serve nearly all "
            "tokens, or experts own ranges of positions; undecided: too few texts to tell"
        )
        table.append(Column("load", means, cells))
    if rates is not None:
        means = "of rates that do not change along the text"
        table.append(_p(rates, "layer_drift_p_value", "p drift", means))
    return [*table, _gain(data)]


def _smallest(found: Findings, name: str) -> float:
    """The least p-value that so many simulations can give."""
    n = found.simulations(name)
    return 1 / (n + 1) if n else 0.0


def _value(value: float) -> str:
    """For sorting: infinity is a number to the script, a missing one is last."""
    if math.isnan(value):
        return ""
    return "Infinity" if value == math.inf else f"{value:.10g}"


def _numbers(data: xr.Dataset, name: str, head: str, means: str, digits: int) -> Column:
    values = data[name].values
    return Column(head, means, [Cell(amount(v, digits), _value(v)) for v in values])


def _with_errors(data: xr.Dataset, name: str, head: str, means: str) -> Column:
    values = data[name].values
    texts = with_errors(values, data[f"{name}_error"].values)
    cells = [Cell(text, _value(v)) for text, v in zip(texts, values, strict=True)]
    return Column(head, means, cells)


def _lengths(data: xr.Dataset, centre: str, head: str, means: str) -> Column:
    row = data.sel(centre=centre)
    ends = [row[f"correlation_length{end}"].values for end in ("", "_low", "_high")]
    cells = [
        Cell(span(*three, decimals=0 if three[0] >= 100 else 1), _value(three[0]))
        for three in zip(*ends, strict=True)
    ]
    return Column(head, means, cells)


def _law(data: xr.Dataset) -> Column:
    means = "the likeliest of five, with its Akaike weight"
    cells = []
    for place in range(data.sizes["layer"]):
        law = read_law(data.isel(layer=place))
        if law is None:
            cells.append(Cell("–", "", True))
            continue
        mark = " †" if law.fails else ""
        cells.append(Cell(f"{law.short} ({law.weight:.2f}){mark}", law.short, True))
    if any("†" in cell.text for cell in cells):
        means += "; † it does not describe the decay (p ≤ 0.05), or is none with two lengths"
    return Column("decay law", means, cells)


def _p(part: xr.Dataset, name: str, head: str, means: str, smallest: float = 0.0) -> Column:
    return Column(head, means, [Cell(p_text(p, smallest), _value(p)) for p in part[name].values])


def _experts(found: Findings, data: xr.Dataset) -> Column:
    means = f"experts in effect: exp of the load's entropy, of {found.traces.attrs['num_experts']}"
    return _numbers(data, "effective_experts", "experts", means, 1)


def _gain(data: xr.Dataset) -> Column:
    held_out = "held_out_bits" in data
    score = data["held_out_bits" if held_out else "bits_per_token"]
    load = data["held_out_bits_load" if held_out else "bits_load"]
    where = "on held-out texts" if held_out else "in sample"
    means = f"bits per token of the chain beyond the load, {where}"
    return _numbers(data.assign(gain=load - score), "gain", "bits gained", means, 3)
