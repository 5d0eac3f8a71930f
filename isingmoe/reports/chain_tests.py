"""What the tests of a chain say of a layer, and what else could make them speak."""

from __future__ import annotations

import numpy as np
import xarray as xr

from isingmoe.reports.calls import LEVEL, called
from isingmoe.reports.findings import Findings
from isingmoe.reports.words import p_words

__all__ = ["chain_sentences", "chain_summary"]

# A departure is pointed out above so many of its errors.
_CLEAR = 3


def chain_sentences(found: Findings, data: xr.Dataset, layer: int) -> list[str]:
    """Goodness of fit and Chapman-Kolmogorov test of a layer.

    Parameters
    ----------
    found : Findings
    data : Dataset
        Of the comparison, of this layer.
    layer : int
    """
    return [*_goodness(found, data, layer), *_kolmogorov(found, layer)]


def chain_summary(found: Findings, layer: int) -> str | None:
    """The same of the goodness of fit in a few words; none, where there is no test."""
    n = found.simulations("goodness")
    call = called(found.parts.get("goodness"), "discrepancy_p_value", n).get(layer)
    if call is None:
        return None
    return {
        "rejected": "short-range chain rejected",
        "too few": "chain undecided by so few simulations",
        "open": "does not contradict a short-range chain",
    }[call]


def _goodness(found: Findings, data: xr.Dataset, layer: int) -> list[str]:
    n = found.simulations("goodness")
    call = called(found.parts.get("goodness"), "discrepancy_p_value", n).get(layer)
    test = found.part("goodness", layer)
    if call is None or test is None:
        return []
    reach = int(found.fit.data.attrs.get("reach", 1))
    memory = "its neighbour" if reach == 1 else f"{reach} tokens before it"
    chain = f"a chain in which a token knows no more than {memory}"
    p = float(test["discrepancy_p_value"])
    shown = f"{p_words(p, 1 / (n + 1))} by simulated data sets"
    if call == "open":
        return [f"The decay does not contradict {chain} ({shown}{_controlled(p)})."]
    if call == "too few":
        n_layers = found.traces.sizes["layer"]
        return [
            f"Whether {chain} gives this decay is not decided: {_too_few(p, n, n_layers)}",
            *_where(test),
        ]
    return [
        f"{chain[0].upper()}{chain[1:]} does not give this decay ({shown}).",
        *_where(test),
        *_otherwise(found, data),
    ]


def _too_few(p: float, n: int, n_layers: int) -> str:
    """Why simulations do not decide, and the remedy."""
    control = " after control over the layers" if n_layers > 1 else ""
    few = f"too few to call it{control}; more --simulations would tell."
    if p <= (1 + 1e-9) / (n + 1):
        return (
            f"the data lie as far out as any of {n} simulated data sets ({p_words(p, p)}), which "
            f"are {few}"
        )
    return f"{p_words(p)}, and {n} simulated data sets are {few}"


def _where(test: xr.Dataset) -> list[str]:
    """At which distances a decay leaves its prediction, and on which side."""
    if "discrepancy_curve_z" not in test:
        return []
    z = test["discrepancy_curve_z"].values
    distance = test["distance"].values
    far = np.flatnonzero((np.abs(z) > _CLEAR) & (distance > 0))
    if not far.size:
        return []
    largest = far[np.argmax(np.abs(z[far]))]
    side = "more" if z[largest] > 0 else "less"
    return [
        f"Measured correlation is {side} than predicted, first at d = {distance[far[0]]} and "
        f"most clearly at d = {distance[largest]} (z = {z[largest]:.0f})."
    ]


def _otherwise(found: Findings, data: xr.Dataset) -> list[str]:
    """What looks like a memory about the global mean, and what is left inside the texts."""
    field = str(found.fit.data.attrs.get("field", "expert")).split("+")
    causes = []
    if found.n_texts > 1 and "sequence" not in field:
        causes.append("texts that differ in load")
    if "position" not in field:
        causes.append("changes of the load along the text")
    said = []
    if causes:
        said.append(
            f"about the global mean, {' and '.join(causes)} count against the chain as a longer "
            "memory does"
        )
    inside = _inside(found, data)
    if inside:
        said.append(inside)
    if not said:
        return []
    line = "; ".join(said)
    return [f"{line[0].upper()}{line[1:]}."]


def _inside(found: Findings, data: xr.Dataset) -> str:
    if found.n_texts < 2 or "z" not in data or "sequence" not in data["centre"]:
        return ""
    row = data["z"].sel(centre="sequence")
    row = row.where(row["distance"] > 0)
    if not np.isfinite(row).any():
        return ""
    largest = int(np.nanargmax(np.abs(row.values)))
    z = float(row[largest])
    shown = f"{z:.1f}" if abs(z) < 10 else f"{z:.0f}"
    return (
        f"with the load of each text taken off, the largest departure is z = {shown} at "
        f"d = {int(row['distance'][largest])}"
    )


def _kolmogorov(found: Findings, layer: int) -> list[str]:
    n = found.simulations("ck")
    call = called(found.parts.get("ck"), "ck_p_value", n).get(layer)
    test = found.part("ck", layer)
    if call is None or test is None:
        return []
    p = float(test["ck_p_value"])
    shown = p_words(p, 1 / (n + 1) if n else 0.0)
    if call == "too few":
        why = _too_few(p, n, found.traces.sizes["layer"])
        return [f"The Chapman-Kolmogorov test of a memory of one token is not decided: {why}"]
    if call == "rejected":
        others = (
            "texts that differ in load, and a drift, do" if found.n_texts > 1 else "a drift does"
        )
        return [
            f"The Chapman-Kolmogorov test rejects a memory of one token ({shown}): experts return "
            f"at larger distances other than step by step, as {others} too."
        ]
    return [
        "The Chapman-Kolmogorov test does not contradict a memory of one token "
        f"({shown}{_controlled(p)})."
    ]


def _controlled(p: float) -> str:
    """Why a small p-value was let pass."""
    return ", which is not rare among so many layers" if p <= LEVEL else ""
