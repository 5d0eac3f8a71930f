"""What the numbers of a layer say, in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import xarray as xr
from numpy.typing import NDArray

from isingmoe._text import number
from isingmoe.reports.chain_tests import chain_sentences, chain_summary
from isingmoe.reports.findings import Findings
from isingmoe.reports.law_words import law_sentences
from isingmoe.reports.loads import load_sentences, position_sentences
from isingmoe.reports.origins import origin_sentences
from isingmoe.reports.words import amount, digits, span

__all__ = ["Verdict", "verdict"]


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
        ("Chain", chain_sentences(found, data, layer)),
        ("Texts, drift or coupling", origin_sentences(found, data)),
        ("Memory", _memory(data)),
        ("Load", load_sentences(found, data, layer)),
        ("Position", position_sentences(found, layer)),
        ("Bits", _bits(found, data, layer)),
    ]
    sentences = [(heading, " ".join(lines)) for heading, lines in parts if lines]
    return Verdict(short=_short(found, data, layer), sentences=sentences)


def _short(found: Findings, data: xr.Dataset, layer: int) -> str:
    chain = chain_summary(found, layer)
    words = [] if chain is None else [chain]
    words.append(f"ξ {amount(float(data['predicted_length']), 2)} tokens")
    balance = found.part("mem", layer)
    if balance is not None and "mem_state" in balance:
        state = str(balance["mem_state"].item())
        words.append("load undecided" if state == "undecided" else state)
    return ", ".join(words)


def _memory(data: xr.Dataset) -> list[str]:
    chain = float(data["predicted_length"])
    row = data.sel(centre="global")
    length, low, high = (float(row[f"correlation_length{end}"]) for end in ("", "_low", "_high"))
    ratio = length / max(chain, 1e-9)
    longer = f", {digits(ratio, 2)} times as long." if 1.5 < ratio < 1000 else "."
    line = (
        f"Correlation length {amount(chain, 2)} tokens by the chain, {span(length, low, high)} by "
        f"the measured decay{longer}"
    )
    return [line, *law_sentences(data)]


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
